//! Requests as they go over the wire: written once, before a run, and sent as they are.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::engine::Kind;

/// What an origin counts repeats by.
pub const NUMBER_HEADER: &str = "x-loadtest-id";
const NO_NUMBER: &str = "0000000000000000";
/// Of a number, in its place.
pub const NUMBER_DIGITS: usize = NO_NUMBER.len();
const MAX_WEIGHT: u32 = 10_000;
const DEFAULT_PORT: u16 = 80;
/// What a body by size is made of: like text, and a shift of it by a piece shows.
const PATTERN: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";

/// A URL and how often it is asked for: `http://host/a`, or `3@http://host/a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it was written.
    pub text: String,
    pub weight: u32,
    /// `host` or `host:port`.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// A field of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: HeaderName,
    pub value: HeaderValue,
}

/// What all requests of a run have in common.
#[derive(Debug, Clone)]
pub struct Shape {
    pub method: Method,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
    /// Bytes of each chunk. `None`: the body's length is in its head.
    pub chunked: Option<usize>,
    /// Each bears a number of its own.
    pub numbered: bool,
}

/// Why a host's name leads nowhere.
#[derive(Debug)]
pub struct ResolveError {
    host: String,
    why: String,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} has no address: {}", self.host, self.why)
    }
}

impl std::error::Error for ResolveError {}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let allowed = "allowed: http://HOST[:PORT][/PATH], with WEIGHT@ before it or without";
        let wrong = |why: &str| format!("`{text}`: {why}; {allowed}");
        let (weight, url) = match text.split_once("@http") {
            Some((weight, _)) => {
                let number = weight.parse().ok().filter(|it| (1..=MAX_WEIGHT).contains(it));
                let number =
                    number.ok_or_else(|| wrong("its weight is no number from 1 to 10000"))?;
                (number, &text[weight.len() + 1..])
            }
            None => (1, text),
        };
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("no URL ({error})")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("TLS is not spoken here")),
            _ => return Err(wrong("no http URL")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong("no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            text: url.to_owned(),
            weight,
            authority: authority.as_str().to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(DEFAULT_PORT),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Field, String> {
        let allowed = || format!("`{text}` is no header field; allowed: NAME: VALUE");
        let (name, value) = text.split_once(':').ok_or_else(allowed)?;
        let name = HeaderName::from_str(name.trim()).map_err(|_| allowed())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| allowed())?;
        if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) {
            return Err(format!(
                "`{name}` is written by the load generator; allowed: --body-size, --body-file, \
                 --chunked and --churn"
            ));
        }
        Ok(Field { name, value })
    }
}

impl Target {
    /// The first address of its host, as the system's resolver has it.
    pub fn resolve(&self) -> Result<SocketAddr, ResolveError> {
        let error = |why: String| ResolveError { host: self.host.clone(), why };
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let mut found = found.map_err(|failed| error(failed.to_string()))?;
        found.next().ok_or_else(|| error("the resolver knows none".into()))
    }

    /// This target's requests, to an address.
    pub fn kind(&self, address: SocketAddr, shape: &Shape) -> Kind {
        let (bytes, number_at) = self.write(shape, false);
        let (last, _) = self.write(shape, true);
        Kind {
            address,
            bytes,
            last,
            number_at,
            is_head: shape.method == Method::HEAD,
            weight: self.weight,
        }
    }

    /// The bytes, and where in them the number stands.
    fn write(&self, shape: &Shape, last: bool) -> (Vec<u8>, Option<usize>) {
        let mut out = Vec::with_capacity(256 + shape.body.len());
        let mut line = |parts: &[&[u8]]| {
            parts.iter().for_each(|part| out.extend_from_slice(part));
            out.extend_from_slice(b"\r\n");
            out.len()
        };
        line(&[shape.method.as_str().as_bytes(), b" ", self.path.as_bytes(), b" HTTP/1.1"]);
        if !shape.fields.iter().any(|field| field.name == HOST) {
            line(&[b"host: ", self.authority.as_bytes()]);
        }
        let mut number_at = None;
        if shape.numbered {
            let end = line(&[NUMBER_HEADER.as_bytes(), b": ", NO_NUMBER.as_bytes()]);
            number_at = Some(end - b"\r\n".len() - NUMBER_DIGITS);
        }
        for field in &shape.fields {
            line(&[field.name.as_str().as_bytes(), b": ", field.value.as_bytes()]);
        }
        let takes_body = [Method::POST, Method::PUT, Method::PATCH].contains(&shape.method);
        match shape.chunked {
            Some(_) => {
                line(&[b"transfer-encoding: chunked"]);
            }
            // A method that means something by a body has to say that there is none (RFC 9110
            // section 8.6).
            None if takes_body || !shape.body.is_empty() => {
                line(&[b"content-length: ", shape.body.len().to_string().as_bytes()]);
            }
            None => {}
        }
        if last {
            line(&[b"connection: close"]);
        }
        line(&[]);
        match shape.chunked {
            None => out.extend_from_slice(&shape.body),
            Some(bytes) => write_chunks(&mut out, &shape.body, bytes),
        }
        (out, number_at)
    }
}

/// A body of so many bytes.
pub fn made_body(bytes: usize) -> Vec<u8> {
    PATTERN.iter().copied().cycle().take(bytes).collect()
}

fn write_chunks(out: &mut Vec<u8>, body: &[u8], bytes: usize) {
    for chunk in body.chunks(bytes.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(method: Method) -> Shape {
        Shape { method, fields: Vec::new(), body: Vec::new(), chunked: None, numbered: false }
    }

    fn written(url: &str, shape: &Shape, last: bool) -> String {
        let target: Target = url.parse().expect("a right URL");
        String::from_utf8(target.write(shape, last).0).expect("text")
    }

    #[test]
    fn the_least_request() {
        let text = written("http://a.example:8080/x?y=1", &shape(Method::GET), false);
        assert_eq!(text, "GET /x?y=1 HTTP/1.1\r\nhost: a.example:8080\r\n\r\n");
        let text = written("http://[::1]", &shape(Method::POST), true);
        let expected =
            "POST / HTTP/1.1\r\nhost: [::1]\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn all_that_a_request_may_have() {
        let fields = ["Host: other", "x-a:  1 "].map(|text| text.parse().expect("a field"));
        let mut shape = Shape {
            method: Method::PUT,
            fields: fields.into(),
            body: made_body(10),
            chunked: Some(4),
            numbered: true,
        };
        let text = written("http://h/", &shape, false);
        let head = "PUT / HTTP/1.1\r\nx-loadtest-id: 0000000000000000\r\nhost: other\r\n\
                    x-a: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(text, format!("{head}4\r\n0123\r\n4\r\n4567\r\n2\r\n89\r\n0\r\n\r\n"));
        shape.chunked = None;
        let target: Target = "2@http://h/".parse().expect("a right URL");
        let kind = target.kind("127.0.0.1:80".parse().expect("an address"), &shape);
        let at = kind.number_at.expect("numbered");
        assert_eq!(&kind.bytes[at..at + 18], b"0000000000000000\r\n");
        assert_eq!(kind.weight, 2);
        assert!(kind.bytes.ends_with(b"content-length: 10\r\n\r\n0123456789"));
        assert!(kind.last.ends_with(b"connection: close\r\n\r\n0123456789"));
    }

    #[test]
    fn hosts_and_ports() {
        let address = |url: &str| {
            let target: Target = url.parse().expect("a right URL");
            target.resolve().map(|address| address.to_string())
        };
        assert_eq!(address("http://127.0.0.1").expect("resolved"), "127.0.0.1:80");
        assert_eq!(address("http://[::1]:81/").expect("resolved"), "[::1]:81");
        assert!(address("http://no.such.host.invalid/").is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for url in ["", "/x", "a.example", "ftp://a/", "https://a/", "0@http://a/", "x@http://a/"] {
            let parsed = url.parse::<Target>();
            assert!(parsed.is_err_and(|why| why.contains("allowed: ")), "{url}");
        }
        for field in ["", "a", "a b: 1", "a: \u{7f}", "Content-Length: 3"] {
            let parsed = field.parse::<Field>();
            assert!(parsed.is_err_and(|why| why.contains("allowed: ")), "{field}");
        }
    }
}
