//! Methods and versions, as small values.
//!
//! A method's name is case-sensitive (RFC 9110 section 9.1), so `get` is not GET but some other
//! method, which is forwarded as it came.

/// A request method; `Other` for every token that RFC 9110 and RFC 5789 do not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
    Connect,
    Other,
}

impl Method {
    /// The method that a token names.
    pub fn from_bytes(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }

    /// RFC 9110 section 9.2.1: asks for nothing to change.
    pub fn is_safe(self) -> bool {
        match self {
            Method::Get | Method::Head | Method::Options | Method::Trace => true,
            Method::Post
            | Method::Put
            | Method::Delete
            | Method::Patch
            | Method::Connect
            | Method::Other => false,
        }
    }

    /// RFC 9110 section 9.2.2: sending it twice means the same as once.
    pub fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Method::Put | Method::Delete)
    }
}

/// The versions that are served; anything else never becomes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Http10,
    Http11,
}

impl Version {
    /// How `Via` names the version that a message was received in (RFC 9110 section 7.6.3).
    pub fn via_text(self) -> &'static [u8] {
        match self {
            Version::Http10 => b"1.0",
            Version::Http11 => b"1.1",
        }
    }

    /// How a start line of HTTP/1 spells it.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Version::Http10 => b"HTTP/1.0",
            Version::Http11 => b"HTTP/1.1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(Method::from_bytes(b"GET"), Method::Get);
        assert_eq!(Method::from_bytes(b"get"), Method::Other);
        assert_eq!(Method::from_bytes(b"PROPFIND"), Method::Other);
    }

    #[test]
    fn what_may_be_repeated() {
        let all = [&b"GET"[..], b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"];
        assert!(all.iter().all(|name| Method::from_bytes(name).is_idempotent()));
        for name in [&b"POST"[..], b"PATCH", b"CONNECT", b"LOCK"] {
            assert!(!Method::from_bytes(name).is_idempotent());
        }
        assert!(!Method::Put.is_safe());
    }
}
