//! The connections to endpoints: made, refused, late, kept, stale, out of step.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Origin, Proxy, both, config, eventually, ok, silent};
use socket2::{Domain, SockAddr, Socket, Type};

/// An address that refuses connections for as long as the socket is kept: bound, not listening.
fn refusing() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    (address, socket)
}

#[test]
fn a_refused_connection_leads_to_the_next_endpoint() {
    both(|cores| {
        for kind in ["round_robin", "least_loaded", "ewma"] {
            let origin = Origin::answering(|request| ok(&request.body));
            let (dead, _kept) = refusing();
            let service = format!("balancer: {{kind: {kind}}}");
            let yaml = config(&[dead, origin.address], "", &service);
            let proxy = Proxy::start(&yaml, cores);
            let mut client = proxy.connect();
            for _ in 0..20 {
                assert_eq!(client.get("/").status(), 200, "{kind}");
                client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
                assert_eq!(client.answer().text(), "hi", "nothing had been sent: {kind}");
            }
            // Also with a body that is still on its way.
            for _ in 0..10 {
                client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n");
                client.send("abc");
                client.send("def");
                assert_eq!(client.answer().text(), "abcdef", "{kind}");
            }
        }
    });
}

#[test]
fn all_refusing_is_a_502() {
    both(|cores| {
        let ((one, _one), (two, _two)) = (refusing(), refusing());
        let proxy = Proxy::start(&config(&[one, two], "", ""), cores);
        let mut client = proxy.connect();
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!((answer.status(), answer.head.reason()), (502, Some("connect_refused")));
            assert_eq!(answer.head.get("connection"), None);
        }
        client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.try_answer_to("HEAD").expect("a head").status(), 502);
        assert_eq!(client.get("/").status(), 502, "still in step");
        // A body that nobody takes: the connection cannot go on behind it.
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        assert_eq!(client.answer().head.reason(), Some("connect_refused"));
        proxy.stop();
    });
}

#[test]
fn an_endpoint_that_does_not_accept_is_a_502_in_time() {
    both(|cores| {
        let (address, _listener, _clients) = silent();
        let service = "timeouts: {connect_ms: 200}";
        let proxy = Proxy::start(&config(&[address], "", service), cores);
        let started = Instant::now();
        let answer = proxy.connect().get("/");
        assert_eq!((answer.status(), answer.head.reason()), (502, Some("connect_timeout")));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    });
}

#[test]
fn late_answers_are_a_504() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            if let Ok(Some(request)) = wire.request()
                && request.head.target() == "/half"
            {
                let _ = wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            }
            let _ = wire.some();
        });
        for (service, reason) in [
            ("timeouts: {attempt_ms: 200}", "attempt_timeout"),
            ("timeouts: {request_ms: 200}", "request_timeout"),
        ] {
            let proxy = Proxy::start(&config(&[origin.address], "", service), cores);
            let mut client = proxy.connect();
            let started = Instant::now();
            let answer = client.get("/");
            assert_eq!((answer.status(), answer.head.reason()), (504, Some(reason)));
            assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
            assert_eq!(client.get("/").status(), 504, "the connection goes on");
            if reason == "request_timeout" {
                client.send("GET /half HTTP/1.1\r\nHost: h\r\n\r\n");
                assert_eq!(client.head().status(), 200);
                assert_eq!(client.take(4).expect("what came"), b"half");
                client.expect_gone();
            }
        }
    });
}

#[test]
fn an_idle_connection_that_the_origin_closes_is_not_used() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            if let Ok(Some(request)) = wire.request() {
                let _ = wire.try_send(ok(request.body));
            }
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        for number in 1..=50 {
            assert_eq!(client.get("/").status(), 200, "GET is tried again in any case");
            eventually("its own connection each", || origin.accepted() >= number);
        }
    });
}

/// Serves one request per connection, then takes a second one and closes instead of answering.
fn closes_on_reuse(resets: bool) -> Origin {
    Origin::start(move |mut wire, _| {
        let Ok(Some(_)) = wire.request() else { return };
        let _ = wire.try_send(ok("first"));
        let _ = wire.request();
        if resets {
            wire.reset();
        }
    })
}

#[test]
fn a_connection_closed_just_as_it_is_used_again() {
    both(|cores| {
        for resets in [false, true] {
            let origin = closes_on_reuse(resets);
            let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
            let mut client = proxy.connect();
            assert_eq!(client.get("/").text(), "first");
            assert_eq!(origin.accepted(), 1);
            assert_eq!(client.get("/").text(), "first", "tried again, resets: {resets}");
            assert_eq!(origin.accepted(), 2);
            // Idempotent and whole at hand.
            client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(client.answer().text(), "first");
            assert_eq!(origin.accepted(), 3);
            // Nobody knows whether this was done.
            client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
            let answer = client.answer();
            assert_eq!((answer.status(), answer.head.reason()), (502, Some("reused_closed")));
            assert_eq!(origin.accepted(), 3);
            assert_eq!(client.get("/").text(), "first");
        }
    });
}

#[test]
fn a_byte_on_an_idle_connection_closes_it() {
    both(|cores| {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let (tell, heard) = mpsc::channel();
        let tell = Mutex::new(tell);
        let origin = Origin::start(move |mut wire, number| {
            let Ok(Some(_)) = wire.request() else { return };
            let mut answer = ok("fine");
            if number == 0 {
                // A surplus body, in one piece with the answer.
                answer.extend_from_slice(b"surplus");
            }
            wire.send(answer);
            if number == 1 {
                wait.lock().unwrap().recv_timeout(DEADLINE).expect("told to");
                wire.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
            }
            let next = wire.request();
            let _ = tell.lock().unwrap().send((number, matches!(next, Ok(Some(_)))));
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "fine");
        let ended = |number| {
            let seen = heard.recv_timeout(DEADLINE).expect("the connection has ended");
            assert_eq!(seen, (number, false), "no further request on it");
        };
        ended(0);
        assert_eq!(client.get("/").text(), "fine");
        go.send(()).expect("the origin waits");
        ended(1);
        assert_eq!(client.get("/").text(), "fine");
        assert_eq!(origin.accepted(), 3);
    });
}

#[test]
fn idle_connections_are_kept_for_so_long_and_so_many() {
    both(|cores| {
        let open = Arc::new(AtomicUsize::new(0));
        let together = Arc::new(Barrier::new(16));
        let (count, meet) = (open.clone(), together.clone());
        let origin = Origin::start(move |mut wire, _| {
            count.fetch_add(1, Ordering::SeqCst);
            while let Ok(Some(_)) = wire.request() {
                meet.wait();
                let _ = wire.try_send(ok("fine"));
            }
            count.fetch_sub(1, Ordering::SeqCst);
        });
        let service = "pool: {max_idle: 1, idle_ms: 1500}";
        let proxy = Proxy::start(&config(&[origin.address], "", service), cores);
        let clients: Vec<_> = (0..16)
            .map(|_| {
                let mut client = proxy.connect();
                thread::spawn(move || assert_eq!(client.get("/").text(), "fine"))
            })
            .collect();
        for client in clients {
            client.join().expect("answered");
        }
        assert_eq!(origin.accepted(), 16, "all at once, so each on its own connection");
        let shards = cores.split(',').count();
        eventually("one is kept per shard", || open.load(Ordering::SeqCst) <= shards);
        eventually("and none for ever", || open.load(Ordering::SeqCst) == 0);
        proxy.stop();
    });
}

/// Nothing that failed is left behind: descriptors return to what they were.
#[test]
fn failures_leave_no_descriptors_behind() {
    both(|cores| {
        let (dead, _kept) = refusing();
        let origin = Origin::start(|mut wire, number| {
            let _ = wire.request();
            match number % 3 {
                0 => {}
                1 => drop(wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")),
                _ => wire.reset(),
            }
        });
        let yaml = config(&[dead, origin.address], "", "balancer: {kind: round_robin}");
        let proxy = Proxy::start(&yaml, cores);
        drop(proxy.connect());
        eventually("it is at rest", || proxy.descriptors() > 0);
        let before = proxy.descriptors();
        for _ in 0..200 {
            let mut client = proxy.connect();
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            let _ = client.try_answer_to("GET");
            client.reset();
        }
        eventually("all are closed", || proxy.descriptors() <= before);
        proxy.stop();
    });
}
