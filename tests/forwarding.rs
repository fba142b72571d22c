//! What a request and its answer look like on the other side, over real sockets: framing, fields,
//! interim answers, pipelining, reuse of connections, routes.

mod common;

use std::time::{Duration, Instant};

use common::{Origin, Proxy, Request, both, config, ok};

/// Answers with the request's body, and says what else came.
fn mirror(request: &Request) -> Vec<u8> {
    let mut answer = ok(&request.body);
    if request.head.method() == "HEAD" {
        answer.truncate(answer.len() - request.body.len());
    }
    answer
}

fn plain(origin: &Origin, cores: &str) -> Proxy {
    Proxy::start(&config(&[origin.address], "", ""), cores)
}

#[test]
fn bodies_arrive_whole_in_every_framing() {
    both(|cores| {
        let origin = Origin::answering(mirror);
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("GET /a?b=c%20d HTTP/1.1\r\nHost: one.test\r\n\r\n");
        assert_eq!(client.answer().status(), 200);
        let seen = origin.last_request();
        assert_eq!(seen.head.start, "GET /a?b=c%20d HTTP/1.1");
        assert_eq!(seen.head.get("host"), Some("one.test"));

        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.answer().text(), "hello");
        assert_eq!(origin.last_request().head.get("content-length"), Some("5"));

        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("3;ext=1\r\nfoo\r\n");
        client.send("00004\r\nbarz\r\n0\r\n\r\n");
        assert_eq!(client.answer().text(), "foobarz");
        let seen = origin.last_request();
        assert_eq!(seen.head.get("transfer-encoding"), Some("chunked"));
        assert_eq!(seen.head.get("content-length"), None);

        client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.try_answer_to("HEAD").expect("a head");
        assert_eq!((answer.status(), answer.head.get("content-length")), (200, Some("0")));
        assert_eq!(client.get("/").status(), 200, "HEAD leaves the connection in step");
        proxy.stop();
    });
}

#[test]
fn a_head_answer_announces_a_length_and_has_no_body() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.method() {
            "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n".to_vec(),
            _ => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n".to_vec(),
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
            let answer = client.try_answer_to("HEAD").expect("a head");
            assert_eq!(answer.head.get("content-length"), Some("12345"));
            let answer = client.get("/");
            assert_eq!((answer.status(), answer.head.get("etag")), (304, Some("\"x\"")));
        }
        assert_eq!(origin.accepted(), 1, "both leave the upstream connection in step");
    });
}

#[test]
fn trailers_are_passed_on_both_ways() {
    both(|cores| {
        let origin = Origin::answering(|_| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
            format!("{head}2\r\nhi\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n").into_bytes()
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}1\r\na\r\n0\r\nX-End: yes\r\nHost: evil\r\n\r\n"));
        let answer = client.answer();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(answer.text(), "hi");
        assert_eq!(answer.trailers, [pair("X-Sum", "7")], "framing fields never");
        let seen = origin.last_request();
        assert_eq!(seen.trailers, [pair("X-End", "yes")], "routing fields never");
        assert_eq!(seen.head.get("te"), Some("trailers"));
        assert_eq!(client.get("/").text(), "hi");
    });
}

#[test]
fn a_client_of_1_0_is_served_in_its_own_framing() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                            2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
                .to_vec(),
            _ => ok("12"),
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("GET /chunked HTTP/1.0\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.head.get("transfer-encoding"), None);
        assert_eq!(answer.head.get("content-length"), None);
        assert_eq!(answer.text(), "abcde", "and its end is the connection's");
        assert_eq!(origin.last_request().head.start, "GET /chunked HTTP/1.1");

        let mut client = proxy.connect();
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.head.get("connection"), Some("keep-alive"));
        client.send("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(client.answer().head.get("connection"), Some("close"));
        client.expect_end();
    });
}

#[test]
fn a_close_delimited_answer_becomes_chunked() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let _ = wire.request();
            let _ = wire.try_send("HTTP/1.0 200 OK\r\n\r\nsome");
            let _ = wire.try_send(" text");
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        for connection in 1..=2 {
            let answer = client.get("/");
            assert_eq!(answer.head.get("transfer-encoding"), Some("chunked"));
            assert_eq!(answer.text(), "some text");
            assert_eq!(origin.accepted(), connection, "a closed connection is not used again");
        }
    });
}

#[test]
fn fields_keep_order_and_case_and_hop_by_hop_ones_stop() {
    both(|cores| {
        let origin = Origin::answering(|_| {
            b"HTTP/1.1 200 Fine\r\nServer: me\r\nX-b: 1\r\nKeep-Alive: timeout=5\r\n\
              Connection: X-Hop\r\nX-Hop: 1\r\nx-A: 2\r\nProxy-Authenticate: Basic\r\n\
              Set-Cookie: a\r\nSet-Cookie: b\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
                .to_vec()
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send(
            "GET / HTTP/1.1\r\nhOsT: h\r\nX-B: 1\r\nx-a: 2\r\nConnection: keep-alive, X-Gone\r\n\
             X-Gone: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: Basic x\r\nTE: gzip\r\n\
             Proxy-Connection: x\r\nX-B: 3\r\nHTTP2-Settings: x\r\nUpgrade: h2c\r\n\
             Via: 1.0 before\r\nX-Forwarded-For: 9.9.9.9\r\nAccept: */*\r\n\r\n",
        );
        let answer = client.answer();
        let seen = origin.last_request();
        let listed: Vec<String> =
            seen.head.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "hOsT: h",
            "X-B: 1",
            "x-a: 2",
            "X-B: 3",
            "Via: 1.0 before",
            "X-Forwarded-For: 9.9.9.9, 127.0.0.1",
            "Accept: */*",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: h",
            "Via: 1.1 ringlane",
        ];
        assert_eq!(listed, expected);
        assert_eq!(answer.head.start, "HTTP/1.1 200 Fine");
        let names: Vec<&str> = answer.head.fields.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["Server", "X-b", "x-A", "Set-Cookie", "Set-Cookie", "Content-Length", "Date", "Via"];
        assert_eq!(names, expected);
    });
}

#[test]
fn forwarding_fields_follow_the_configuration() {
    both(|cores| {
        let origin = Origin::answering(mirror);
        let router = "forwarding: {via: \"off\", x_forwarded: overwrite, forwarded: append}";
        let proxy = Proxy::start(&config(&[origin.address], router, ""), cores);
        let mut client = proxy.connect();
        client.send(
            "GET / HTTP/1.1\r\nHost: h:81\r\nX-Forwarded-For: 9.9.9.9\r\n\
             X-Forwarded-Proto: https\r\nForwarded: for=8.8.8.8\r\n\r\n",
        );
        assert_eq!(client.answer().head.get("via"), None);
        let seen = origin.last_request().head;
        assert_eq!(seen.get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.get("x-forwarded-proto"), Some("http"));
        assert_eq!(seen.get("x-forwarded-host"), Some("h:81"));
        let forwarded = "for=8.8.8.8, for=127.0.0.1;host=\"h:81\";proto=http";
        assert_eq!(seen.get("forwarded"), Some(forwarded));
        assert_eq!(seen.get("via"), None);
    });
}

#[test]
fn absolute_form_goes_on_in_origin_form() {
    both(|cores| {
        let origin = Origin::answering(mirror);
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("GET http://Real.test:8080/p?q HTTP/1.1\r\nHost: other.test\r\n\r\n");
        assert_eq!(client.answer().status(), 200);
        let seen = origin.last_request().head;
        assert_eq!(seen.start, "GET /p?q HTTP/1.1");
        assert_eq!(seen.get("host"), Some("Real.test:8080"));
        for bad in ["http://user@h/", "ftp://h/", "https://h/"] {
            let mut client = proxy.connect();
            client.send(format!("GET {bad} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!(client.answer().status(), 400, "{bad}");
        }
    });
}

#[test]
fn a_continue_of_the_origin_is_relayed() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let head = wire.head();
            assert_eq!(head.get("expect"), Some("100-continue"));
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
            wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = wire.take(5).expect("the body");
            wire.send(ok(body));
        });
        let proxy = Proxy::start(
            &config(&[origin.address], "", "timeouts: {expect_timeout_ms: 600000}"),
            cores,
        );
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n";
        client.send(format!("{head}\r\n"));
        let hints = client.head();
        assert_eq!((hints.status(), hints.get("link")), (103, Some("</x>")));
        assert_eq!(client.head().start, "HTTP/1.1 100 Continue");
        client.send("12345");
        assert_eq!(client.answer().text(), "12345");
    });
}

#[test]
fn we_ask_for_the_body_where_the_origin_does_not() {
    both(|cores| {
        let origin = Origin::answering(mirror);
        let service = "timeouts: {expect_timeout_ms: 100}";
        let proxy = Proxy::start(&config(&[origin.address], "", service), cores);
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n";
        let asked = Instant::now();
        client.send(format!("{head}\r\n"));
        assert_eq!(client.head().status(), 100);
        assert!(asked.elapsed() >= Duration::from_millis(90), "{:?}", asked.elapsed());
        client.send("ok");
        assert_eq!(client.answer().text(), "ok");

        // One that does not wait for it gets no 100 of ours behind its body.
        client.send(format!("{head}\r\nhi"));
        assert_eq!(client.answer().text(), "hi");
    });
}

#[test]
fn an_expectation_can_be_refused() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let _ = wire.try_head();
            wire.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n");
            let _ = wire.some();
        });
        let proxy = Proxy::start(
            &config(&[origin.address], "", "timeouts: {expect_timeout_ms: 600000}"),
            cores,
        );
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n";
        client.send(format!("{head}\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.head.get("connection")), (417, Some("close")));
        client.expect_end();
    });
}

#[test]
fn interim_answers_never_reach_a_client_of_1_0() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let request = wire.request().expect("a request").expect("a request");
            assert_eq!(request.head.get("expect"), None);
            wire.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n");
            wire.send(ok(request.body));
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (200, "hi".to_owned()));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    both(|cores| {
        let origin = Origin::answering(|request| {
            // The first takes longest.
            if request.head.target() == "/0" {
                std::thread::sleep(Duration::from_millis(50));
            }
            ok(format!("{} {}", request.head.target(), String::from_utf8_lossy(&request.body)))
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        let mut burst = String::new();
        for number in 0..200 {
            let body = "x".repeat(number * 7 % 50);
            burst += &match number % 3 {
                0 => format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"),
                1 => {
                    let length = body.len();
                    let head = format!("POST /{number} HTTP/1.1\r\nHost: h\r\n");
                    format!("{head}Content-Length: {length}\r\n\r\n{body}")
                }
                _ => format!(
                    "POST /{number} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                     1\r\na\r\n0\r\n\r\n\r\n"
                ),
            };
        }
        client.send(burst);
        for number in 0..200 {
            let body = match number % 3 {
                0 => String::new(),
                1 => "x".repeat(number * 7 % 50),
                _ => "a".to_owned(),
            };
            assert_eq!(client.answer().text(), format!("/{number} {body}"));
        }
    });
}

#[test]
fn connection_close_is_honoured_on_both_sides() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/close" => {
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx".to_vec()
            }
            _ => ok("y"),
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n");
        assert_eq!(client.answer().head.get("connection"), Some("close"));
        client.expect_end();
        assert_eq!(origin.last_request().head.get("connection"), None);

        // The origin's wish is its own: the client's connection goes on.
        let mut client = proxy.connect();
        let before = origin.accepted();
        for _ in 0..3 {
            let answer = client.get("/close");
            assert_eq!(answer.head.get("connection"), None);
        }
        assert!(origin.accepted() >= before + 2, "closed ones are not used again");
    });
}

#[test]
fn upstream_connections_are_used_again() {
    both(|cores| {
        let origin = Origin::answering(mirror);
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        for _ in 0..50 {
            assert_eq!(client.get("/").status(), 200);
        }
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.answer().text(), "hi");
        assert_eq!(origin.accepted(), 1);
    });
}

/// NTLM and Negotiate say once for a connection who is there: whoever came next would be that.
#[test]
fn a_connection_that_knows_its_client_is_nobody_elses() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/challenged" => b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM abc\r\n\
                Content-Length: 0\r\n\r\n"
                .to_vec(),
            _ => ok("fine"),
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        let mut says = |scheme: &str| {
            let field = format!("Authorization: {scheme}\r\n");
            client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n"));
            assert_eq!(client.answer().text(), "fine");
            assert_eq!(origin.last_request().head.get("authorization"), Some(scheme));
            assert_eq!(client.get("/").text(), "fine");
            origin.accepted()
        };
        assert_eq!(says("Basic eDp5"), 1);
        assert_eq!(says("Negotiate YII="), 2, "the first goes with who it knows");
        assert_eq!(says("ntlm TlRM"), 3);
        assert_eq!(says("Negotiated x"), 3);
        assert_eq!(client.get("/challenged").status(), 401);
        assert_eq!(client.get("/").text(), "fine");
        assert_eq!(origin.accepted(), 4);
    });
}

#[test]
fn byte_by_byte_is_as_good_as_whole() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            while let Ok(Some(request)) = wire.request() {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n";
                let body = String::from_utf8_lossy(&request.body);
                let size = body.len();
                let answer = format!("{head}{size:x}\r\n{body}\r\n0\r\nT: v\r\n\r\n");
                for byte in answer.bytes() {
                    if wire.try_send([byte]).is_err() {
                        return;
                    }
                }
            }
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: h\r\n";
        let length = format!("{head}Content-Length: 11\r\n\r\nhello world");
        let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let chunked = format!("{chunks}5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n");
        for request in [length, chunked] {
            for byte in request.bytes() {
                client.send([byte]);
            }
            let answer = client.answer();
            assert_eq!(answer.text(), "hello world");
            assert_eq!(answer.trailers, [("T".to_owned(), "v".to_owned())]);
        }
    });
}
