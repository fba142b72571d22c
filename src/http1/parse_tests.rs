//! The rows of DESIGN section 5 that a head alone decides: whole, byte by byte, at every split.

use super::*;
use crate::http::{Framing, RequestFacts, ResponseFacts};

/// What is asserted about a head, without its lifetimes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen<F> {
    start: String,
    host: String,
    fields: Vec<(String, String)>,
    facts: F,
    consumed: usize,
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn named(fields: &[Field<'_>]) -> Vec<(String, String)> {
    fields.iter().map(|it| (text(it.name), text(it.value))).collect()
}

fn request_in(pieces: &[&[u8]]) -> Result<Option<Seen<RequestFacts>>, Reason> {
    let mut parser = RequestParser::default();
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece);
        let mut storage = FieldStorage::new();
        if let Some((it, consumed)) = parser.parse(&bytes, &mut storage)? {
            let mut target = Vec::new();
            it.target.write_to(&mut target);
            let start = format!("{} {} {:?}", text(it.method_bytes), text(&target), it.version);
            let (host, fields) = (text(it.host), named(it.fields));
            return Ok(Some(Seen { start, host, fields, facts: it.facts, consumed }));
        }
    }
    Ok(None)
}

fn response_in(pieces: &[&[u8]], method: Method) -> Result<Option<Seen<ResponseFacts>>, Reason> {
    let mut parser = ResponseParser::default();
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece);
        let mut storage = FieldStorage::new();
        if let Some((it, consumed)) = parser.parse(&bytes, &mut storage, method)? {
            let start = format!("{:?} {} {}", it.version, it.status, text(it.phrase));
            let (host, fields) = (String::new(), named(it.fields));
            return Ok(Some(Seen { start, host, fields, facts: it.facts, consumed }));
        }
    }
    Ok(None)
}

/// Whole, byte by byte and at every split it is the same.
fn all_ways<T: PartialEq + std::fmt::Debug>(bytes: &[u8], parse: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = parse(&[bytes]);
    let singles: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(parse(&singles), whole, "byte by byte: {}", text(bytes));
    for at in 0..bytes.len() {
        let (a, b) = bytes.split_at(at);
        assert_eq!(parse(&[a, b]), whole, "split at {at}: {}", text(bytes));
    }
    whole
}

fn request(bytes: &str) -> Result<Seen<RequestFacts>, Reason> {
    all_ways(bytes.as_bytes(), request_in).map(|it| it.expect("complete"))
}

fn response(bytes: &str, method: Method) -> Result<Seen<ResponseFacts>, Reason> {
    let found = all_ways(bytes.as_bytes(), |pieces| response_in(pieces, method));
    found.map(|it| it.expect("complete"))
}

/// A POST to `/` with these fields.
fn with(fields: &str) -> Result<RequestFacts, Reason> {
    request(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).map(|it| it.facts)
}

#[test]
fn a_request_as_it_came() {
    let bytes = "\r\nGET /a?b HTTP/1.1\r\nHost:  h:1 \r\nX-Ab:\r\nx: \t1 2\t\r\n\r\nrest";
    let seen = request(bytes).unwrap();
    assert_eq!(seen.start, "GET /a?b Http11");
    assert_eq!(seen.host, "h:1");
    let fields = [("Host", "h:1"), ("X-Ab", ""), ("x", "1 2")];
    assert_eq!(seen.fields, fields.map(|(name, value)| (name.into(), value.into())));
    assert_eq!(seen.consumed, bytes.len() - 4);
    assert_eq!(seen.facts.framing, Framing::Empty);
    assert!(seen.facts.persistent);
}

#[test]
fn ambiguous_framing_is_refused() {
    let bad = [
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: , chunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: cow, chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Content_Length: 5\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 2\r\n",
        "Content-Length: 1,\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
    ];
    for fields in bad {
        assert_eq!(with(fields), Err(Reason::BadRequest), "{fields}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(request(old), Err(Reason::BadRequest));
}

#[test]
fn framing_that_is_clear() {
    let good = [
        ("", Framing::Empty),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("Content-Length: 007\r\n", Framing::Length(7)),
        ("content-length: 5, 5\r\n", Framing::Length(5)),
        ("Content-Length: 5\r\ncontent-length: 5\r\n", Framing::Length(5)),
        ("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: Chunked\r\n", Framing::Chunked),
        ("Transfer-Encoding: gzip, chunked\r\n", Framing::Chunked),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Framing::Chunked),
    ];
    for (fields, framing) in good {
        assert_eq!(with(fields).unwrap().framing, framing, "{fields}");
    }
}

#[test]
fn what_is_no_head_is_refused() {
    let bad = [
        "GET / HTTP/1.1\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "GET / HTTP/1.1\rHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\x7fc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\n A: b\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA\t: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA(: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\u{e4}: b\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / http/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1x\r\nHost: h\r\n\r\n",
        "GET / HTTP/01.1\r\nHost: h\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /\r\n\r\n",
        "GET\r\n\r\n",
        "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET http://h/ HTTP/1.1\r\n\r\n",
        "GET http://h/ HTTP/1.1\r\nHost:\r\n\r\n",
        "GET https://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /\u{e4} HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for bytes in bad {
        assert_eq!(request(bytes), Err(Reason::BadRequest), "{bytes:?}");
    }
}

#[test]
fn methods_and_versions_that_are_not_served() {
    let connect = "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n";
    assert_eq!(request(connect), Err(Reason::MethodNotAllowed));
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(request(preface), Err(Reason::VersionNotSupported));
    for version in ["1.2", "2.0", "3.0", "0.9", "9.9"] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n");
        assert_eq!(request(&bytes), Err(Reason::VersionNotSupported), "{version}");
    }
    // Said as soon as the line is there: who speaks 0.9 sends no more.
    let mut storage = FieldStorage::new();
    let found = RequestParser::default().parse(b"GET /\r\n", &mut storage);
    assert_eq!(found.err(), Some(Reason::BadRequest));
}

#[test]
fn limits() {
    let line = |len: usize| {
        let target = "a".repeat(len - "GET / HTTP/1.1".len());
        format!("GET /{target} HTTP/1.1\r\nHost: h\r\n\r\n")
    };
    let whole = |bytes: &str| request_in(&[bytes.as_bytes()]).map(|it| it.is_some());
    assert_eq!(whole(&line(8192)), Ok(true));
    assert_eq!(whole(&line(8193)), Err(Reason::UriTooLong));
    let fields =
        |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
    for count in [1, 32, 33, 127, 128] {
        let seen = request_in(&[fields(count).as_bytes()]).unwrap().unwrap();
        assert_eq!(seen.fields.len(), count);
    }
    assert_eq!(whole(&fields(129)), Err(Reason::HeaderTooLarge));
    let head = |len: usize| {
        let start = "GET / HTTP/1.1\r\nHost: h\r\na: ";
        format!("{start}{}\r\n\r\n", "b".repeat(len - start.len() - 4))
    };
    assert_eq!(whole(&head(65_536)), Ok(true));
    assert_eq!(whole(&head(65_537)), Err(Reason::HeaderTooLarge));
    // Refused before its end comes.
    assert_eq!(whole(&head(70_000)[..65_600]), Err(Reason::HeaderTooLarge));
    let options = "x,".repeat(64) + "y";
    assert_eq!(with(&format!("Connection: {options}\r\n")), Err(Reason::BadRequest));
}

#[test]
fn a_dribbled_head_is_scanned_once() {
    let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\na: ".to_vec();
    bytes.resize(60_000, b'b');
    bytes.extend_from_slice(b"\r\n\r\n");
    let mut parser = RequestParser::default();
    // 60,000 calls; scanning from the start each time would look at 1.8 GB.
    for end in 0..bytes.len() {
        let mut scan = parser.scan;
        assert_eq!(scan.advance(&bytes[..end], true, check_request_line), Ok(None));
        parser.scan = scan;
    }
    let mut storage = FieldStorage::new();
    assert!(matches!(parser.parse(&bytes, &mut storage), Ok(Some(_))));
}

#[test]
fn effective_host() {
    let of = |bytes: &str| request(bytes).map(|it| (it.start, it.host));
    let found = of("GET http://a:1/p HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(found, ("GET /p Http11".into(), "a:1".into()));
    let found = of("OPTIONS http://a HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(found, ("OPTIONS * Http11".into(), "a".into()));
    assert_eq!(of("GET / HTTP/1.0\r\n\r\n").unwrap().1, "");
    assert_eq!(of("GET / HTTP/1.1\r\nHost:\r\n\r\n").unwrap().1, "");
}

#[test]
fn persistence_expectation_and_upgrade() {
    let facts = |version: &str, fields: &str| {
        request(&format!("POST / HTTP/{version}\r\nHost: h\r\n{fields}\r\n")).unwrap().facts
    };
    assert!(facts("1.1", "").persistent);
    assert!(!facts("1.1", "Connection: Keep-Alive, CLOSE\r\n").persistent);
    assert!(!facts("1.0", "").persistent);
    assert!(facts("1.0", "Connection: keep-alive\r\n").persistent);
    assert!(!facts("1.0", "Proxy-Connection: keep-alive\r\n").persistent);
    let expects = "Expect: 100-Continue\r\nContent-Length: 5\r\n";
    assert!(facts("1.1", expects).expect_continue);
    assert!(!facts("1.0", expects).expect_continue);
    assert!(!facts("1.1", "Expect: 100-continue\r\n").expect_continue);
    assert!(facts("1.1", "TE: gzip, Trailers\r\n").te_trailers);
    let upgrade = |version: &str, fields: &str| {
        let bytes = format!("GET / HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
        let mut storage = FieldStorage::new();
        let found = RequestParser::default().parse(bytes.as_bytes(), &mut storage);
        found.unwrap().unwrap().0.upgrade_token().map(text)
    };
    let asks = |value: &str| format!("Connection: upgrade\r\nUpgrade: {value}\r\n");
    assert_eq!(upgrade("1.1", &asks("websocket")).as_deref(), Some("websocket"));
    assert_eq!(upgrade("1.1", &asks("h2c, a/1 ,\tWebSocket")).as_deref(), Some("WebSocket"));
    assert_eq!(upgrade("1.1", &asks(",  a/1, b")).as_deref(), Some("a/1"));
    assert_eq!(upgrade("1.1", &asks("a\r\nUpgrade: websocket")).as_deref(), Some("websocket"));
    assert_eq!(upgrade("1.1", &asks("h2c")), None);
    assert_eq!(upgrade("1.1", "Upgrade: websocket\r\n"), None);
    assert_eq!(upgrade("1.0", &asks("websocket")), None);
}

#[test]
fn max_forwards_of_trace_and_options_alone() {
    let hops = |method: &str, value: &str| {
        let bytes = format!("{method} / HTTP/1.1\r\nHost: h\r\nMax-Forwards: {value}\r\n\r\n");
        request(&bytes).unwrap().facts.max_forwards
    };
    assert_eq!(hops("TRACE", "0"), Some(0));
    assert_eq!(hops("OPTIONS", "10"), Some(10));
    assert_eq!(hops("OPTIONS", "99999999999999999999"), Some(u64::MAX));
    assert_eq!(hops("OPTIONS", "x"), None);
    assert_eq!(hops("GET", "0"), None);
}

#[test]
fn begun_is_more_than_empty_lines() {
    let mut parser = RequestParser::default();
    for (bytes, begun) in
        [("", false), ("\r", false), ("\r\n", false), ("\r\n\r", false), ("\r\n\r\nG", true)]
    {
        let mut storage = FieldStorage::new();
        assert!(matches!(parser.parse(bytes.as_bytes(), &mut storage), Ok(None)));
        assert_eq!(parser.begun(), begun, "{bytes:?}");
    }
    parser.reset();
    assert!(!parser.begun());
}

#[test]
fn responses_and_their_framing() {
    let of = |start: &str, fields: &str, method: Method| {
        let bytes = format!("HTTP/1.1 {start}\r\n{fields}\r\n");
        response(&bytes, method).map(|it| (it.facts.framing, it.facts.persistent))
    };
    let get = Method::Get;
    assert_eq!(of("200 OK", "", get), Ok((Framing::UntilClose, false)));
    assert_eq!(of("200 OK", "Content-Length: 5\r\n", get), Ok((Framing::Length(5), true)));
    let closes = "Content-Length: 0\r\nConnection: close\r\n";
    assert_eq!(of("200 OK", closes, get), Ok((Framing::Length(0), false)));
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(of("200 OK", chunked, get), Ok((Framing::Chunked, true)));
    assert_eq!(of("200 OK", chunked, Method::Head), Ok((Framing::Empty, true)));
    assert_eq!(of("304 Not Modified", "Content-Length: 5\r\n", get), Ok((Framing::Empty, true)));
    assert_eq!(of("204 No Content", "Content-Length: 0\r\n", get), Ok((Framing::Empty, true)));
    // The body that it announces may come, and must not become the next answer.
    assert_eq!(of("204 No Content", "Content-Length: 5\r\n", get), Ok((Framing::Empty, false)));
    assert_eq!(of("100 Continue", "", get), Ok((Framing::Empty, true)));
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: x\r\n",
        "A: b\r\n c\r\n",
        "A : b\r\n",
    ] {
        assert_eq!(of("200 OK", fields, get), Err(Reason::BadResponse), "{fields}");
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(response(old, get), Err(Reason::BadResponse));
}

#[test]
fn status_lines() {
    let start = |line: &str| {
        response(&format!("{line}\r\n\r\n"), Method::Get).map(|it| (it.start, it.facts.is_interim))
    };
    assert_eq!(start("HTTP/1.1 200 OK then"), Ok(("Http11 200 OK then".into(), false)));
    assert_eq!(start("HTTP/1.0 404 "), Ok(("Http10 404 ".into(), false)));
    assert_eq!(start("HTTP/1.1 204"), Ok(("Http11 204 ".into(), false)));
    assert_eq!(start("HTTP/1.1 103 Early Hints"), Ok(("Http11 103 Early Hints".into(), true)));
    assert_eq!(start("HTTP/1.1 101 S"), Ok(("Http11 101 S".into(), false)));
    assert_eq!(start("HTTP/1.1 200 \u{e4}"), Ok(("Http11 200 \\xc3\\xa4".into(), false)));
    for bad in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 a\0",
    ] {
        assert_eq!(start(bad), Err(Reason::BadResponse), "{bad}");
    }
    let long = format!("HTTP/1.1 200 {}\r\n\r\n", "a".repeat(9000));
    let found = response_in(&[long.as_bytes()], Method::Get);
    assert_eq!(found, Err(Reason::ResponseTooLarge));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129));
    assert_eq!(response_in(&[many.as_bytes()], Method::Get), Err(Reason::ResponseTooLarge));
}
