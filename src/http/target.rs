//! The request target (RFC 9112 section 3.2) and what of it is sent on.
//!
//! Origin-form is sent on byte for byte; absolute-form becomes origin-form, and its authority
//! takes the place of `Host`. Controls, bytes over 0x7E, spaces and `#` are refused; other
//! characters that the grammar does not allow but browsers send (`|{}^` and the like) pass as they
//! came. Authority-form belongs to CONNECT, which is refused before it comes here. Dot segments
//! and percent-encoding are the router's matter.

use super::{Method, Reason, host_is_valid};

/// How the target was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Origin,
    Absolute,
    /// `*`, or an absolute-form OPTIONS without path and query (RFC 9112 section 3.2.4).
    Asterisk,
}

/// A valid target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'b> {
    pub form: Form,
    /// Only of an absolute-form target.
    pub authority: Option<&'b [u8]>,
    /// What is sent on after a `/` if `prefix_slash`: path and query, or `*`.
    pub path: &'b [u8],
    /// `http://h?q` names the path `/?q`, whose slash is not among the bytes that came.
    pub prefix_slash: bool,
}

const SCHEME: &[u8] = b"http://";

impl<'b> Target<'b> {
    /// Checks a target and takes it apart; every error is [`Reason::BadRequest`].
    pub fn parse(bytes: &'b [u8], method: Method) -> Result<Target<'b>, Reason> {
        if bytes.iter().any(|&byte| !is_allowed(byte)) {
            return Err(Reason::BadRequest);
        }
        match bytes {
            [b'/', ..] => {
                Ok(Target { form: Form::Origin, authority: None, path: bytes, prefix_slash: false })
            }
            b"*" if method == Method::Options => Ok(Target {
                form: Form::Asterisk,
                authority: None,
                path: bytes,
                prefix_slash: false,
            }),
            _ => Target::absolute(bytes, method),
        }
    }

    fn absolute(bytes: &'b [u8], method: Method) -> Result<Target<'b>, Reason> {
        let (scheme, rest) = bytes.split_at_checked(SCHEME.len()).ok_or(Reason::BadRequest)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(Reason::BadRequest);
        }
        let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // An `@`, and so userinfo, is no part of a valid host (RFC 9110 section 4.2.4).
        if !host_is_valid(authority) {
            return Err(Reason::BadRequest);
        }
        let (form, path, prefix_slash): (Form, &[u8], bool) = match path {
            [] if method == Method::Options => (Form::Asterisk, b"*", false),
            [] => (Form::Absolute, b"/", false),
            [b'?', ..] => (Form::Absolute, path, true),
            _ => (Form::Absolute, path, false),
        };
        Ok(Target { form, authority: Some(authority), path, prefix_slash })
    }

    /// Appends what is sent on.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if self.prefix_slash {
            out.push(b'/');
        }
        out.extend_from_slice(self.path);
    }
}

fn is_allowed(byte: u8) -> bool {
    (0x21..=0x7E).contains(&byte) && byte != b'#'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(target: &str, method: Method) -> Option<(Form, Option<String>, String)> {
        let target = Target::parse(target.as_bytes(), method).ok()?;
        let mut out = Vec::new();
        target.write_to(&mut out);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some((target.form, target.authority.map(text), text(&out)))
    }

    #[test]
    fn what_is_sent_on() {
        let table = [
            ("/", Method::Get, Form::Origin, None, "/"),
            ("/a/../b?c=|{}^\"<>\\`", Method::Get, Form::Origin, None, "/a/../b?c=|{}^\"<>\\`"),
            ("//a//b", Method::Get, Form::Origin, None, "//a//b"),
            ("*", Method::Options, Form::Asterisk, None, "*"),
            ("http://h/p?q", Method::Get, Form::Absolute, Some("h"), "/p?q"),
            ("HTTP://H:80/p", Method::Get, Form::Absolute, Some("H:80"), "/p"),
            ("http://h", Method::Get, Form::Absolute, Some("h"), "/"),
            ("http://h?q", Method::Get, Form::Absolute, Some("h"), "/?q"),
            ("http://h", Method::Options, Form::Asterisk, Some("h"), "*"),
            ("http://h?q", Method::Options, Form::Absolute, Some("h"), "/?q"),
            ("http://h/", Method::Options, Form::Absolute, Some("h"), "/"),
            ("http://[::1]:8/x", Method::Get, Form::Absolute, Some("[::1]:8"), "/x"),
        ];
        for (target, method, form, authority, path) in table {
            let expected = Some((form, authority.map(String::from), path.to_string()));
            assert_eq!(sent(target, method), expected, "{target}");
        }
    }

    #[test]
    fn what_is_refused() {
        let bad = [
            "",
            "*",
            "a",
            "host:80",
            "/a#b",
            "/a\u{7f}",
            "/\u{e9}",
            "/a b",
            "/a\t",
            "/\0",
            "https://h/",
            "ftp://h/",
            "http:///p",
            "http://",
            "http://u@h/",
            "http://u:p@h/",
            "http://h:x/",
            "http:/h/",
            "http//h",
            "?q",
            "http://a,b/",
            "http://h\\x/",
        ];
        for target in bad {
            assert_eq!(sent(target, Method::Get), None, "{target:?}");
        }
    }
}
