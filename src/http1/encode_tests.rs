//! What the next hop reads, byte for byte.

use super::*;
use crate::http::{Method, Peer};
use crate::http1::{FieldStorage, RequestParser, ResponseParser};

const OFF: ForwardRules = ForwardRules { via: None, x_forwarded: Mode::Off, forwarded: Mode::Off };

fn rules(x_forwarded: Mode, forwarded: Mode) -> ForwardRules {
    ForwardRules { via: Some("ringlane".into()), x_forwarded, forwarded }
}

fn sent_by(bytes: &str, rules: &ForwardRules, ip: Option<&str>, upgrade: bool) -> String {
    let mut storage = FieldStorage::new();
    let parsed = RequestParser::default().parse(bytes.as_bytes(), &mut storage);
    let (parsed, _) = parsed.unwrap().unwrap();
    let peer = PeerText::new(Peer { ip: ip.map(|it| it.parse().unwrap()), port: 1 });
    let mut out = Vec::new();
    request(&mut out, &parsed, rules, &peer, upgrade);
    String::from_utf8(out).unwrap()
}

fn sent(bytes: &str) -> String {
    sent_by(bytes, &OFF, Some("10.0.0.1"), false)
}

fn answered(bytes: &str, method: Method, client_version: Version, close: bool) -> String {
    let mut storage = FieldStorage::new();
    let parsed = ResponseParser::default().parse(bytes.as_bytes(), &mut storage, method);
    let (parsed, _) = parsed.unwrap().unwrap();
    let (framing, must_close) = outgoing_framing(parsed.facts.framing, client_version);
    let context =
        ResponseContext { client_version, close: close || must_close, rules: &OFF, date: None };
    let mut out = Vec::new();
    response(&mut out, &parsed, framing, &context);
    String::from_utf8(out).unwrap()
}

fn answered_11(bytes: &str) -> String {
    answered(bytes, Method::Get, Version::Http11, false)
}

#[test]
fn a_plain_request_goes_on_as_it_came() {
    let bytes = "GET /a/../b?c=|%7C HTTP/1.1\r\nhOST: H:1\r\nX-b: 2\r\nDate: d\r\nx-A:\r\n\r\n";
    let expected = "GET /a/../b?c=|%7C HTTP/1.1\r\nhOST: H:1\r\nX-b: 2\r\nDate: d\r\nx-A: \r\n";
    assert_eq!(sent(bytes), expected);
}

#[test]
fn fields_that_are_written_anew_stay_behind() {
    let bytes = b"GET / HTTP/1.1\r\nHost: h\r\nb3: 0\r\nX-B3-Sampled: 1\r\nA: 1\r\n\
        tracestate: a=1\r\nB3: 1\r\n\r\n";
    let mut storage = FieldStorage::new();
    let parsed = RequestParser::default().parse(bytes, &mut storage);
    let (parsed, _) = parsed.unwrap().unwrap();
    let peer = PeerText::new(Peer { ip: None, port: 0 });
    let mut out = Vec::new();
    let kept = Seen::of(&[FieldName::TraceState]);
    request_without(&mut out, &parsed, &OFF, &peer, false, Seen::TRACING.without(kept));
    let expected = "GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\ntracestate: a=1\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    assert!(sent(std::str::from_utf8(bytes).unwrap()).contains("b3: 0\r\n"), "if nobody asks");
}

#[test]
fn fields_of_the_hop_stay_behind() {
    let bytes = "POST / HTTP/1.1\r\nHost: h\r\n\
        Connection: close, X-Hop, host, transfer-encoding\r\n\
        Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nTransfer-Encoding: chunked\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Authorization: x\r\nx-hop: 1\r\nTrailer: X\r\n\
        Authorization: a\r\nConnection: other\r\nOther: 1\r\nLast: 1\r\n\r\n";
    let expected = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\
        Authorization: a\r\nLast: 1\r\n";
    assert_eq!(sent(bytes), expected);
}

#[test]
fn framing_is_in_one_form() {
    let post = |fields: &str| sent(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
    let start = "POST / HTTP/1.1\r\nHost: h\r\n";
    let fields = "content-length: 007\r\nA: b\r\nContent-Length: 7, 7\r\n";
    assert_eq!(post(fields), format!("{start}content-length: 7\r\nA: b\r\n"));
    let fields = "Connection: content-length\r\nContent-Length: 5\r\n";
    assert_eq!(post(fields), format!("{start}Content-Length: 5\r\n"));
    let fields = "Transfer-Encoding: CHUNKED\r\n";
    assert_eq!(post(fields), format!("{start}Transfer-Encoding: chunked\r\n"));
    let fields = "Transfer-Encoding: gzip, identity\r\nA: b\r\ntransfer-encoding: chunked\r\n";
    assert_eq!(post(fields), format!("{start}Transfer-Encoding: gzip, chunked\r\nA: b\r\n"));
}

#[test]
fn host_and_target() {
    let bytes = "GET http://a:1?q HTTP/1.1\r\nA: b\r\nHost: other\r\n\r\n";
    assert_eq!(sent(bytes), "GET /?q HTTP/1.1\r\nA: b\r\nHost: a:1\r\n");
    assert_eq!(sent("GET / HTTP/1.0\r\nA: b\r\n\r\n"), "GET / HTTP/1.1\r\nHost: \r\nA: b\r\n");
    let bytes = "GET http://a/ HTTP/1.0\r\n\r\n";
    assert_eq!(sent(bytes), "GET / HTTP/1.1\r\nHost: a\r\n");
    let bytes = "OPTIONS http://a HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n";
    assert_eq!(sent(bytes), "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n");
    let bytes = "GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n";
    assert_eq!(sent(bytes), "GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n");
}

#[test]
fn upgrades_and_trailers_are_asked_for_anew() {
    let bytes = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, TE, x\r\nTE: trailers, gzip\r\n\
        Upgrade: h2c, websocket\r\nx: 1\r\n\r\n";
    let start = "GET / HTTP/1.1\r\nHost: h\r\n";
    let refused = format!("{start}Connection: TE\r\nTE: trailers\r\n");
    assert_eq!(sent(bytes), refused);
    let allowed =
        format!("{start}Connection: Upgrade, TE\r\nUpgrade: websocket\r\nTE: trailers\r\n");
    assert_eq!(sent_by(bytes, &OFF, None, true), allowed);
}

#[test]
fn expectations_of_1_0_are_dropped() {
    let fields = "Host: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n";
    let kept = format!("POST / HTTP/1.1\r\n{fields}");
    assert_eq!(sent(&format!("POST / HTTP/1.1\r\n{fields}\r\n")), kept);
    let dropped = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n";
    assert_eq!(sent(&format!("POST / HTTP/1.0\r\n{fields}\r\n")), dropped);
}

const CAME: &str = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1\r\nX_Forwarded_For: evil\r\n\
    X-Forwarded-Proto: https\r\nForwarded: for=1\r\nx-forwarded-for: 2\r\nVia: 1.1 a\r\n\r\n";

#[test]
fn forwarding_fields_are_appended() {
    let expected = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1, 2, 10.0.0.1\r\n\
        X-Forwarded-Proto: https\r\nForwarded: for=1, for=10.0.0.1;host=\"h\";proto=http\r\n\
        Via: 1.1 a\r\nX-Forwarded-Host: h\r\nVia: 1.1 ringlane\r\n";
    let both = rules(Mode::Append, Mode::Append);
    assert_eq!(sent_by(CAME, &both, Some("10.0.0.1"), false), expected);
    let bare = "GET / HTTP/1.0\r\nHost: h\r\n\r\n";
    let expected = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: ::1\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n\
        Forwarded: for=\"[::1]\";host=\"h\";proto=http\r\nVia: 1.0 ringlane\r\n";
    assert_eq!(sent_by(bare, &both, Some("::1"), false), expected);
    // A Unix socket's peer has no address; what came stays.
    let expected = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nVia: 1.1 ringlane\r\n";
    let one = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1\r\n\r\n";
    assert_eq!(sent_by(one, &rules(Mode::Append, Mode::Off), None, false), expected);
}

#[test]
fn forwarding_fields_are_overwritten() {
    let expected = "GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 a\r\nX-Forwarded-For: 10.0.0.1\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n\
        Forwarded: for=10.0.0.1;host=\"h\";proto=http\r\nVia: 1.1 ringlane\r\n";
    let both = rules(Mode::Overwrite, Mode::Overwrite);
    assert_eq!(sent_by(CAME, &both, Some("10.0.0.1"), false), expected);
    // Naming it in Connection loses what came, never what we say.
    let named = CAME.replace("\r\n\r\n", "\r\nConnection: x-forwarded-for\r\n\r\n");
    let appended = sent_by(&named, &rules(Mode::Append, Mode::Off), Some("10.0.0.1"), false);
    assert!(appended.contains("\r\nX-Forwarded-For: 10.0.0.1\r\n"), "{appended}");
    assert!(!appended.contains("evil"));
}

#[test]
fn responses_by_framing_and_client() {
    let close = "HTTP/1.1 200 OK\r\nServer: s\r\nConnection: close\r\n\r\n";
    let start = "HTTP/1.1 200 OK\r\nServer: s\r\n";
    assert_eq!(answered_11(close), format!("{start}Transfer-Encoding: chunked\r\n"));
    let old = answered(close, Method::Get, Version::Http10, false);
    assert_eq!(old, format!("{start}Connection: close\r\n"));
    let chunked = "HTTP/1.1 200 OK\r\nServer: s\r\ntransfer-encoding: Chunked\r\nA: b\r\n\r\n";
    assert_eq!(answered_11(chunked), format!("{start}transfer-encoding: chunked\r\nA: b\r\n"));
    let twin = chunked.replace("A: b", "Content_Length: 1\r\nTRANSFER_ENCODING: x\r\nA: b");
    assert_eq!(answered_11(&twin), answered_11(chunked));
    let old = answered(chunked, Method::Get, Version::Http10, false);
    assert_eq!(old, format!("{start}A: b\r\nConnection: close\r\n"));
    let length = "HTTP/1.0 200 OK\r\nServer: s\r\nContent-Length: 05,5\r\nKeep-Alive: 1\r\n\r\n";
    assert_eq!(answered_11(length), format!("{start}Content-Length: 5\r\n"));
    let old = answered(length, Method::Get, Version::Http10, false);
    assert_eq!(old, format!("{start}Content-Length: 5\r\nConnection: keep-alive\r\n"));
    let closing = answered(length, Method::Get, Version::Http11, true);
    assert_eq!(closing, format!("{start}Content-Length: 5\r\nConnection: close\r\n"));
}

#[test]
fn responses_without_a_body() {
    let head = |status: &str, fields: &str, method: Method| {
        answered(&format!("HTTP/1.1 {status}\r\n{fields}\r\n"), method, Version::Http11, false)
    };
    let length = "Content-Length: 9\r\n";
    assert_eq!(head("200 OK", length, Method::Head), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n");
    assert_eq!(head("304 N", length, Method::Get), "HTTP/1.1 304 N\r\nContent-Length: 9\r\n");
    assert_eq!(head("204 N", length, Method::Get), "HTTP/1.1 204 N\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(head("200 OK", chunked, Method::Head), "HTTP/1.1 200 OK\r\n");
    assert_eq!(head("200", "", Method::Head), "HTTP/1.1 200 \r\n");
    let switch = "Upgrade: websocket\r\nConnection: Upgrade, x\r\nX: 1\r\nA: b\r\n";
    let expected = "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nA: b\r\nConnection: Upgrade\r\n";
    assert_eq!(head("101 S", switch, Method::Get), expected);
    assert_eq!(head("204 N", switch, Method::Get), "HTTP/1.1 204 N\r\nA: b\r\n");
}

#[test]
fn interim_responses() {
    let bytes = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: close\r\n\r\n";
    let mut storage = FieldStorage::new();
    let parsed = ResponseParser::default().parse(bytes, &mut storage, Method::Get);
    let mut out = Vec::new();
    interim(&mut out, &parsed.unwrap().unwrap().0);
    assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
}

#[test]
fn errors_are_whole_responses_of_our_own_parser() {
    for reason in Reason::ALL {
        for (close, head_only) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut out = Vec::new();
            error_response(&mut out, reason, close, head_only, None);
            let mut storage = FieldStorage::new();
            let method = if head_only { Method::Head } else { Method::Get };
            let parsed = ResponseParser::default().parse(&out, &mut storage, method);
            let (parsed, head_len) = parsed.unwrap().unwrap();
            assert_eq!(parsed.status, reason.status());
            assert!(!parsed.phrase.is_empty());
            assert_eq!(parsed.field("ringlane-error"), Some(reason.label().as_bytes()));
            assert_eq!(parsed.facts.persistent, !close);
            assert_eq!(parsed.field("retry-after").is_some(), reason.status() == 503);
            assert_eq!(parsed.field("allow").is_some(), reason.status() == 405);
            let body = (out.len() - head_len) as u64;
            assert_eq!(body, if head_only { 0 } else { parsed.facts.content_length.unwrap() });
        }
    }
}

#[test]
fn max_forwards_0_is_answered_here() {
    let answer = |bytes: &str| {
        let mut storage = FieldStorage::new();
        let parsed = RequestParser::default().parse(bytes.as_bytes(), &mut storage);
        let mut out = Vec::new();
        let answered = local_answer(&mut out, &parsed.unwrap().unwrap().0, true, None);
        answered.then(|| String::from_utf8(out).unwrap())
    };
    let trace =
        "TRACE /a HTTP/1.1\r\nHost: h\r\nCookie: c\r\nAuthorization: a\r\nMax-Forwards: 0\r\n\r\n";
    let echo = "TRACE /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n";
    let expected = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: message/http\r\n\
         Content-Length: {}\r\n\r\n{echo}",
        echo.len()
    );
    assert_eq!(answer(trace), Some(expected));
    let options = "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n";
    assert!(answer(options).unwrap().contains("\r\nAllow: GET, HEAD"));
    assert_eq!(answer("TRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 1\r\n\r\n"), None);
    assert_eq!(answer("GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n"), None);
}

#[test]
fn deadlines_go_on_as_one() {
    let sent_fields = |fields: &str| {
        let all = sent(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        all.strip_prefix("GET / HTTP/1.1\r\nHost: h\r\n").unwrap().to_owned()
    };
    let one = "X: 1\r\nL5d-Ctx-Deadline: 10 20\r\nY: 2\r\n";
    assert_eq!(sent_fields(one), one);
    let several = "l5d-ctx-deadline: no\r\nX: 1\r\nl5d-ctx-deadline: 10 30\r\n\
        L5D-CTX-DEADLINE: 20 40\r\n";
    assert_eq!(sent_fields(several), "l5d-ctx-deadline: 20 30\r\nX: 1\r\n");
    let unread = "l5d-ctx-deadline: no\r\nl5d-ctx-deadline: 1 2 3\r\n";
    assert_eq!(sent_fields(unread), unread, "it is not ours to judge");
    assert_eq!(sent_fields("Connection: l5d-ctx-deadline\r\nl5d-ctx-deadline: 1 2\r\n"), "");
}
