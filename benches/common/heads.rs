//! Heads as clients and origins send them, and a body in chunks.

use std::hint::black_box;

use ringlane::http::{ForwardRules, Method, Mode, Peer, PeerText, Request, Response};
use ringlane::http1::{FieldStorage, RequestParser, ResponseParser};

/// As load generators send it.
pub const SMALL_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:4140\r\n\r\n";

/// As a browser sends it.
pub const BROWSER_REQUEST: &[u8] =
    b"GET /articles/2024/05/index.html?page=3&sort=date HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Referer: https://www.example.com/articles/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
    Cache-Control: max-age=0\r\n\r\n";

pub const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: origin/1.0\r\n\
    Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 128\r\n\
    Connection: keep-alive\r\n\
    ETag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\n\
    Cache-Control: public, max-age=3600\r\n\
    Vary: Accept-Encoding\r\n\r\n";

/// One read of a body that streams.
pub const CHUNKED_BYTES: usize = 64 << 10;

/// What requests bring of their traces, by the form that it has.
pub const FORMS: [(&str, &str); 6] = [
    ("nothing", ""),
    ("b3", "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0\r\n"),
    (
        "x-b3",
        "x-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7\r\nx-b3-spanid: e457b5a2e4d86bd1\r\n\
        x-b3-parentspanid: 05e3ac9a4f6e3b90\r\nx-b3-sampled: 0\r\n",
    ),
    ("w3c", "traceparent: 00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-00\r\n"),
    (
        "l5d-ctx-trace",
        "l5d-ctx-trace: 5Fe1ouTYa9EF46yaT247kGT+iypX0+/3AAAAAAAAAAKA8ZjuVjQ7qA==\r\n",
    ),
    (
        "x-b3 and w3c",
        "x-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7\r\nx-b3-spanid: e457b5a2e4d86bd1\r\n\
        x-b3-parentspanid: 05e3ac9a4f6e3b90\r\nx-b3-sampled: 0\r\n\
        traceparent: 00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-00\r\n\
        tracestate: ringlane=1\r\n",
    ),
];

/// A request that brings a trace's context.
pub fn with_context(context: &str) -> String {
    format!("GET /articles HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n{context}\r\n")
}

/// A head that stays, since what is parsed points into it.
pub fn request(bytes: &[u8]) -> Request<'static, 'static> {
    let parsed = RequestParser::default().parse(bytes.to_vec().leak(), storage());
    parsed.expect("valid").expect("whole").0
}

pub fn response(bytes: &[u8]) -> Response<'static, 'static> {
    let mut parser = ResponseParser::default();
    let parsed = parser.parse(bytes.to_vec().leak(), storage(), Method::Get);
    parsed.expect("valid").expect("whole").0
}

fn storage() -> &'static mut FieldStorage<'static> {
    Box::leak(Box::new(FieldStorage::new()))
}

pub fn rules() -> ForwardRules {
    ForwardRules { via: Some("ringlane".into()), x_forwarded: Mode::Append, forwarded: Mode::Off }
}

pub fn peer() -> PeerText {
    PeerText::new(Peer { ip: "192.0.2.7".parse().ok(), port: 50_123 })
}

/// Bytes of the head.
pub fn parse_request(bytes: &[u8]) -> usize {
    let mut storage = FieldStorage::new();
    let parsed = RequestParser::default().parse(black_box(bytes), &mut storage);
    black_box(parsed.expect("valid").expect("whole")).1
}

/// The same.
pub fn parse_response(bytes: &[u8]) -> usize {
    let mut storage = FieldStorage::new();
    let parsed = ResponseParser::default().parse(black_box(bytes), &mut storage, Method::Get);
    black_box(parsed.expect("valid").expect("whole")).1
}

pub fn chunked(chunk_bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..CHUNKED_BYTES / chunk_bytes {
        body.extend_from_slice(format!("{chunk_bytes:x}\r\n").as_bytes());
        body.resize(body.len() + chunk_bytes, b'a');
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}
