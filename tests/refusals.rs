//! What is refused, routed or answered by the proxy itself, over real sockets: the rows of DESIGN
//! section 5, with status, reason, and what becomes of the connection.

mod common;

use common::{Origin, Proxy, both, config, ok};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";

/// Requests that are answered with that status and reason, and whose connection closes.
fn refused() -> Vec<(String, u16, &'static str)> {
    let bad = |request: &str| (request.to_owned(), 400, "bad_request");
    let get = |field: &str| bad(&format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n"));
    let long = "a".repeat(9000);
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let fat = format!("X-Fat: {}\r\n", "f".repeat(6000)).repeat(12);
    vec![
        bad(&format!("{CHUNKED}Content-Length: 3\r\n\r\n")),
        get("Transfer-Encoding: chunked, gzip"),
        get("Transfer-Encoding: chunked, chunked"),
        get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        get("Transfer-Encoding: xchunked"),
        get("Transfer-Encoding: chunked;a=b"),
        bad("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        get("Content-Length: 1\r\nContent-Length: 2"),
        get("Content-Length: 1, 2"),
        get("Content-Length: +1"),
        get("Content-Length: 0x1"),
        get("Content-Length: "),
        get("Content-Length: 99999999999999999999999"),
        bad("GET / HTTP/1.1\nHost: h\n\n"),
        bad("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n"),
        get("A: b\0c"),
        get("A: b\u{1}c"),
        get("A: b\r\n folded"),
        get("A : b"),
        get(": b"),
        get("A(: b"),
        get("no colon"),
        bad("GET / HTTP/1.1\r\n\r\n"),
        bad("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"),
        bad("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        bad("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n"),
        bad("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n"),
        bad("GET /a\u{7f} HTTP/1.1\r\nHost: h\r\n\r\n"),
        bad("GET /a/../../b HTTP/1.1\r\nHost: h\r\n\r\n"),
        bad("GET /\r\n"),
        bad("G@T / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 431, "header_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{fat}\r\n"), 431, "header_too_large"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505, "version_not_supported"),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n".to_owned(), 505, "version_not_supported"),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n".to_owned(), 405, "method_not_allowed"),
        (format!("{CHUNKED}\r\nxyz\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n0x3\r\nabc\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n-3\r\nabc\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n00000000000000003\r\nabc\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n3\nabc\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n3\r\nabcd\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n3 \r\nabc\r\n"), 400, "bad_request"),
        (format!("{CHUNKED}\r\n3;{long}\r\nabc\r\n"), 400, "bad_request"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n".to_owned(),
            413,
            "body_too_large",
        ),
        (format!("{CHUNKED}\r\n7d0\r\n{}", "x".repeat(2000)), 413, "body_too_large"),
    ]
}

#[test]
fn ambiguous_and_oversized_requests_are_refused() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = Proxy::start(&config(&[origin.address], "max_body_bytes: 1000", ""), cores);
        for (request, status, reason) in refused() {
            let mut client = proxy.connect();
            client.send(&request);
            let shown: String = request.chars().take(120).collect();
            let answer =
                client.try_answer_to("GET").unwrap_or_else(|error| panic!("{error}: {shown:?}"));
            assert_eq!(
                (answer.status(), answer.head.reason()),
                (status, Some(reason)),
                "{shown:?}"
            );
            assert_eq!(answer.head.get("connection"), Some("close"), "{shown:?}");
            assert!(answer.body.len() > 10 && answer.body.ends_with(b"\n"), "{shown:?}");
            client.expect_end();
        }
        assert_eq!(proxy.connect().get("/").text(), "fine");
        let passed: Vec<String> =
            origin.requests().into_iter().map(|request| request.head.start).collect();
        assert_eq!(passed, ["GET / HTTP/1.1"], "none of them reached the origin whole");
        proxy.stop();
    });
}

/// RFC 9110 section 9.3.2, also where it was understood as far as the method alone.
#[test]
fn a_head_that_is_refused_is_answered_without_content() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let timeouts = "timeouts: {head_timeout_ms: 300}";
        let proxy = Proxy::start(&config(&[origin.address], timeouts, ""), cores);
        let long = "a".repeat(9000);
        for (request, status) in [
            ("HEAD / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("\r\nHEAD / HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n".to_owned(), 400),
            ("HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n".to_owned(), 400),
            (format!("HEAD /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
            ("HEAD / HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(), 505),
            ("HEAD / HTTP/1.1\r\nHost: h\r\n".to_owned(), 408),
        ] {
            let mut client = proxy.connect();
            client.send(&request);
            let answer = client.try_answer_to("HEAD").expect("a head");
            assert_eq!(answer.status(), status, "{request:.40}");
            assert!(answer.head.get("content-length").is_some(), "{request:.40}");
            client.expect_end();
        }
        assert_eq!(origin.requests().len(), 0);
    });
}

/// Odd, and passed on.
#[test]
fn odd_requests_that_are_clear_pass() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = Proxy::start(&config(&[origin.address], "max_body_bytes: 1000", ""), cores);
        let equal = "Content-Length: 2, 2\r\nContent-Length: 2";
        for request in [
            format!("POST / HTTP/1.1\r\nHost: h\r\n{equal}\r\n\r\nhi"),
            "GET /|{}^?\"<> HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "GET /a%2Fb/%7euser HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
            "PURGE / HTTP/1.1\r\nHost: h\r\nEmpty:\r\n\r\n".to_owned(),
            format!("{CHUNKED}\r\n3e8\r\n{}\r\n0\r\n\r\n", "x".repeat(1000)),
            "GET / HTTP/1.0\r\n\r\n".to_owned(),
        ] {
            let mut client = proxy.connect();
            client.send(&request);
            assert_eq!(client.answer().text(), "fine", "{request}");
        }
        let requests = origin.requests();
        assert_eq!(requests[0].head.get("content-length"), Some("2"), "a list becomes one");
        assert_eq!(requests[1].head.target(), "/|{}^?\"<>");
        assert_eq!(requests[2].head.target(), "/a%2Fb/%7euser");
    });
}

/// A refusal in the middle of a chunked body that is already on its way leaves the origin with a
/// body that does not end.
#[test]
fn a_bad_chunk_later_on_never_ends_the_body_at_the_origin() {
    both(|cores| {
        let (told, heard) = std::sync::mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let origin = Origin::start(move |mut wire, _| {
            let whole = matches!(wire.request(), Ok(Some(_)));
            let _ = told.lock().unwrap().send(whole);
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        client.send(format!("{CHUNKED}\r\n3\r\nabc\r\n"));
        common::eventually("the request is on its way", || origin.accepted() == 1);
        client.send("zz\r\n");
        let answer = client.answer();
        assert_eq!((answer.status(), answer.head.reason()), (400, Some("bad_request")));
        client.expect_end();
        assert!(!heard.recv_timeout(common::DEADLINE).expect("the origin has seen an end"));
    });
}

#[test]
fn routes_are_found_by_host_and_normalised_path() {
    both(|cores| {
        let origins = ["api", "v2", "web"].map(|name| Origin::answering(move |_| ok(name)));
        let [api, v2, web] = origins.each_ref().map(|origin| origin.address);
        let yaml = format!(
            "routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes:\n  \
             - {{host: api.example.com, path_prefix: /v2/, service: v2}}\n  \
             - {{host: api.example.com, service: api}}\n  \
             - {{path_prefix: /web, service: web}}\n\
             services:\n  api: {{endpoints: [\"{api}\"]}}\n  v2: {{endpoints: [\"{v2}\"]}}\n  \
             web: {{endpoints: [\"{web}\"]}}\n"
        );
        let proxy = Proxy::start(&yaml, cores);
        let mut client = proxy.connect();
        for (host, path, expected) in [
            ("api.example.com", "/", "api"),
            ("API.Example.COM:4140", "/v2", "v2"),
            ("api.example.com.", "/v2/x", "v2"),
            ("api.example.com", "/v20", "api"),
            ("api.example.com", "/x/../v2/y", "v2"),
            ("api.example.com", "/%76%32/y", "v2"),
            ("api.example.com", "/v2%2Fy", "api"),
            ("other.example.com", "/web", "web"),
            ("other.example.com", "/./web/?a", "web"),
        ] {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(client.answer().text(), expected, "{host} {path}");
        }
        client.send("OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        assert_eq!(client.answer().text(), "v2", "by host alone: the first of that host");
        assert_eq!(origins[1].last_request().head.start, "OPTIONS * HTTP/1.1");

        client.send("GET /webs HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status(), answer.head.reason()), (404, Some("no_route")));
        assert_eq!(answer.head.get("connection"), None);
        client.send("HEAD /webs HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.try_answer_to("HEAD").expect("a head");
        assert_eq!(answer.head.reason(), Some("no_route"));
        assert_eq!(client.get("/web").text(), "web", "the connection goes on");
    });
}

#[test]
fn the_last_recipient_answers() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("origin"));
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        client.send("OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n");
        let answer = client.answer();
        assert!(answer.head.get("allow").is_some_and(|allow| allow.contains("GET")));
        assert_eq!(answer.text(), "");
        client.send(
            "TRACE /t HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nCookie: secret\r\nX: y\r\n\r\n",
        );
        let answer = client.answer();
        assert_eq!(answer.head.get("content-type"), Some("message/http"));
        assert!(answer.text().starts_with("TRACE /t HTTP/1.1\r\nHost: h\r\n"));
        assert!(!answer.text().contains("secret"));
        assert!(origin.requests().is_empty());
        client.send("OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 3\r\n\r\n");
        assert_eq!(client.answer().text(), "origin");
        assert_eq!(origin.last_request().head.get("max-forwards"), Some("2"));
    });
}

/// Answers that are no HTTP, or whose end is not clear.
#[test]
fn bad_answers_become_502() {
    let bad = [
        "HELLO\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    both(|cores| {
        let origin = Origin::start(move |mut wire, number| {
            let _ = wire.request();
            let _ = wire.try_send(bad[number % bad.len()]);
            let _ = wire.some();
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        for answer_sent in bad {
            let answer = client.get("/");
            let seen = (answer.status(), answer.head.reason());
            assert_eq!(seen, (502, Some("bad_response")), "{answer_sent:?}");
            assert_eq!(answer.head.get("connection"), None, "the client is not to blame");
        }
        assert_eq!(origin.accepted(), bad.len());
    });
}

#[test]
fn an_answer_with_a_huge_head_is_refused() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let _ = wire.request();
            let field = format!("X-Fat: {}\r\n", "f".repeat(6000));
            let _ = wire.try_send(format!("HTTP/1.1 200 OK\r\n{}\r\n", field.repeat(12)));
            let _ = wire.some();
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let answer = proxy.connect().get("/");
        assert_eq!((answer.status(), answer.head.reason()), (502, Some("response_too_large")));
    });
}
