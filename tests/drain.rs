//! Ending: after SIGTERM no request on its way is lost, and the process is gone as soon as nothing
//! is left, or after `drain_ms`.
//!
//! Requests are held at the origin by a gate, so that each test decides what is on its way when
//! the signal comes. That the shards have heard of a drain shows in that nobody listens any more.
//! What several instances and a client that fails over make of it is in `restarts.rs`.

mod common;

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::{DEADLINE, Framing, Origin, Proxy, Wire, both, config, eventually, ok};

/// The longest that can be configured: what ends within a test has not waited for it, and idle
/// connections, closed spread over half of it, stay open.
const A_WEEK: &str = "drain_ms: 604800000";
/// In which "at once" must have happened, on a busy machine and in a debug build.
const SOON: Duration = Duration::from_secs(10);

/// Holds answers back until it is opened; counts who came to it.
#[derive(Clone, Default)]
struct Gate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    open: Mutex<bool>,
    opened: Condvar,
    came: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        self.0.came.fetch_add(1, Ordering::SeqCst);
        let open = self.0.open.lock().unwrap();
        drop(self.0.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.open.lock().unwrap() = true;
        self.0.opened.notify_all();
    }

    fn await_came(&self, count: usize) {
        eventually("the requests are on their way", || self.0.came.load(Ordering::SeqCst) == count);
    }
}

/// Without it an origin's thread would wait for ever where a test fails.
impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.open();
        }
    }
}

/// `/held` is answered once the gate is open, anything else at once.
fn origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::answering(move |request| {
        if request.head.target() == "/held" {
            gate.pass();
        }
        ok(&request.body)
    })
}

fn start(origin: &Origin, runtime: &str, cores: &str) -> Proxy {
    Proxy::start_with(runtime, &config(&[origin.address], "", ""), cores)
}

/// The shards have begun to drain: their listening sockets are closed.
fn await_drain(proxy: &Proxy) {
    eventually("nobody listens", || TcpStream::connect(proxy.address).is_err());
}

fn is_ready(proxy: &Proxy) -> bool {
    Wire::connect(proxy.admin).get("/admin/ready").status() == 200
}

#[track_caller]
fn assert_last(answer: &common::Answer) {
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.head.get("connection"), Some("close"), "{answer:?}");
}

#[test]
fn what_is_on_its_way_is_answered_and_then_it_ends_at_once() {
    both(|cores| {
        let gate = Gate::default();
        let origin = origin(&gate);
        let mut proxy = start(&origin, A_WEEK, cores);
        let mut clients: Vec<Wire> = (0..24).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("POST /held HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
        }
        gate.await_came(clients.len());
        assert!(is_ready(&proxy));
        proxy.signal("TERM");
        await_drain(&proxy);
        assert!(!is_ready(&proxy));
        assert!(proxy.is_running());
        gate.open();
        for client in &mut clients {
            let answer = client.answer();
            assert_last(&answer);
            assert_eq!(answer.text(), "hello");
            client.expect_end();
        }
        drop(clients);
        assert_ends_soon(&mut proxy);
    });
}

#[track_caller]
fn assert_ends_soon(proxy: &mut Proxy) {
    let begun = Instant::now();
    assert_eq!(proxy.wait().code(), Some(0), "{:#?}", proxy.log());
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    let last = proxy.log().pop().unwrap_or_default();
    assert!(last.contains("ringlane has ended"), "{last}");
}

#[test]
fn an_open_connection_gets_one_more_answer() {
    both(|cores| {
        let origin = origin(&Gate::default());
        let mut proxy = start(&origin, A_WEEK, cores);
        let mut idle = proxy.connect();
        let mut begun = proxy.connect();
        let mut refused = proxy.connect();
        for client in [&mut idle, &mut begun, &mut refused] {
            assert_eq!(client.get("/").head.get("connection"), None);
        }
        begun.send("GET / HTTP/1.1\r\nHo");
        proxy.signal("TERM");
        await_drain(&proxy);
        assert_last(&idle.get("/"));
        idle.expect_end();
        begun.send("st: test\r\n\r\n");
        assert_last(&begun.answer());
        begun.expect_end();
        // What is answered by the proxy itself says it too.
        refused.send("OPTIONS * HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n");
        assert_last(&refused.answer());
        refused.expect_end();
        drop((idle, begun, refused));
        assert_ends_soon(&mut proxy);
    });
}

#[test]
fn pipelined_requests_that_came_before_are_answered_or_can_be_sent_again() {
    both(|cores| {
        let gate = Gate::default();
        let origin = origin(&gate);
        let mut proxy = start(&origin, A_WEEK, cores);
        let mut client = proxy.connect();
        client.send(
            "GET /held HTTP/1.1\r\nHost: test\r\n\r\nGET /next HTTP/1.1\r\nHost: test\r\n\r\n",
        );
        gate.await_came(1);
        proxy.signal("TERM");
        await_drain(&proxy);
        gate.open();
        // RFC 9112 section 9.6: what follows an answer with `close` was not processed.
        assert_last(&client.answer());
        client.expect_end();
        let seen = origin.requests().iter().filter(|it| it.head.target() == "/next").count();
        assert_eq!(seen, 0, "it was carried out and not answered");
        drop(client);
        assert_ends_soon(&mut proxy);
    });
}

#[test]
fn idle_connections_are_closed_spread_over_half_the_drain() {
    const DRAIN: Duration = Duration::from_secs(8);
    const CLIENTS: usize = 24;
    both(|cores| {
        let origin = origin(&Gate::default());
        let mut proxy = start(&origin, "drain_ms: 8000", cores);
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").status(), 200);
        }
        proxy.signal("TERM");
        let signalled = Instant::now();
        let closed: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                std::thread::spawn(move || {
                    client.expect_end();
                    signalled.elapsed()
                })
            })
            .collect();
        let mut closed: Vec<Duration> =
            closed.into_iter().map(|thread| thread.join().expect("a clean end")).collect();
        closed.sort();
        let (first, last) = (closed[0], closed[CLIENTS - 1]);
        assert!(last < DRAIN * 3 / 4, "the last one after {last:?}");
        // All of 24 in one eighth of the time by chance: once in 10^20.
        assert!(last - first > DRAIN / 16, "not spread: {closed:?}");
        assert_ends_soon(&mut proxy);
        assert!(signalled.elapsed() < DRAIN, "it waited for nobody");
    });
}

#[test]
fn what_is_not_done_after_drain_ms_is_left() {
    const DRAIN: Duration = Duration::from_millis(800);
    both(|cores| {
        let gate = Gate::default();
        let origin = origin(&gate);
        let mut proxy = start(&origin, "drain_ms: 800", cores);
        let mut client = proxy.connect();
        client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
        gate.await_came(1);
        proxy.signal("TERM");
        let signalled = Instant::now();
        assert_eq!(proxy.wait().code(), Some(0));
        let took = signalled.elapsed();
        assert!(took >= DRAIN * 9 / 10, "it did not wait: {took:?}");
        assert!(took < DRAIN + SOON, "it waited for too long: {took:?}");
        client.expect_gone();
        gate.open();
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    both(|cores| {
        for signals in [["TERM", "TERM"], ["INT", "INT"], ["INT", "TERM"]] {
            let gate = Gate::default();
            let origin = origin(&gate);
            let mut proxy = start(&origin, A_WEEK, cores);
            let mut client = proxy.connect();
            client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
            gate.await_came(1);
            proxy.signal(signals[0]);
            await_drain(&proxy);
            assert!(proxy.is_running());
            proxy.signal(signals[1]);
            let begun = Instant::now();
            assert_eq!(proxy.wait().code(), Some(0), "{signals:?}");
            assert!(begun.elapsed() < SOON, "{signals:?}: it took {:?}", begun.elapsed());
            client.expect_gone();
            gate.open();
        }
    });
}

#[test]
fn the_grace_is_for_those_who_have_not_heard() {
    both(|cores| {
        let origin = origin(&Gate::default());
        let mut proxy = start(&origin, "drain_grace_ms: 3000, drain_ms: 4000", cores);
        let mut before = proxy.connect();
        assert_eq!(before.get("/").status(), 200);
        proxy.signal("TERM");
        let signalled = Instant::now();
        eventually("it is not ready any more", || !is_ready(&proxy));
        // As before: neither the old connection nor a new one is told to go.
        let mut after = proxy.connect();
        for client in [&mut before, &mut after] {
            let answer = client.get("/");
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.head.get("connection"), None, "{answer:?}");
        }
        await_drain(&proxy);
        assert!(signalled.elapsed() >= Duration::from_millis(2700), "{:?}", signalled.elapsed());
        before.expect_end();
        after.expect_end();
        drop((before, after));
        assert_ends_soon(&mut proxy);
    });
}

#[test]
fn admin_can_ask_for_it() {
    both(|cores| {
        for path in ["/admin/shutdown", "/admin/drain"] {
            let gate = Gate::default();
            let origin = origin(&gate);
            let mut proxy = start(&origin, A_WEEK, cores);
            let mut client = proxy.connect();
            client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
            gate.await_came(1);
            let mut admin = Wire::connect(proxy.admin);
            let host = proxy.admin;
            // A browser on another site's page may not.
            admin.send(format!("POST {path} HTTP/1.1\r\nHost: admin.example\r\n\r\n"));
            assert_eq!(admin.answer().status(), 403);
            admin.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(admin.answer().status(), 200);
            await_drain(&proxy);
            assert!(!is_ready(&proxy));
            gate.open();
            assert_last(&client.answer());
            client.expect_end();
            drop(client);
            assert_ends_soon(&mut proxy);
        }
    });
}

#[test]
fn a_download_and_an_upload_in_the_middle_are_finished() {
    const HALF: usize = 2 << 20;
    both(|cores| {
        let gate = Gate::default();
        let origin = {
            let gate = gate.clone();
            Origin::start(move |wire, _| halves(wire, &gate, HALF))
        };
        let mut proxy = start(&origin, A_WEEK, cores);
        let mut download = proxy.connect();
        download.send("GET /download HTTP/1.1\r\nHost: test\r\n\r\n");
        let head = download.head();
        assert_eq!(head.status(), 200);
        assert_eq!(download.take(HALF).expect("the first half"), vec![b'1'; HALF]);
        let mut upload = proxy.connect();
        let head = "POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        upload.send(head);
        upload.send(format!("{HALF:x}\r\n"));
        upload.send(vec![b'1'; HALF]);
        gate.await_came(1);
        proxy.signal("TERM");
        await_drain(&proxy);
        gate.open();
        assert_eq!(download.take(HALF).expect("the second half"), vec![b'2'; HALF]);
        upload.send(format!("\r\n{HALF:x}\r\n"));
        upload.send(vec![b'2'; HALF]);
        upload.send("\r\n0\r\n\r\n");
        let answer = upload.answer();
        assert_last(&answer);
        assert_eq!(answer.text(), (2 * HALF).to_string());
        upload.expect_end();
        drop((download, upload));
        assert_ends_soon(&mut proxy);
    });
}

/// Answers a download with two halves and the gate between them, an upload with its length.
fn halves(mut wire: Wire, gate: &Gate, half: usize) {
    while let Ok(Some(head)) = wire.try_head() {
        if head.target() == "/download" {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * half));
            wire.send(vec![b'1'; half]);
            gate.pass();
            wire.send(vec![b'2'; half]);
            continue;
        }
        let mut bytes = 0;
        let body = wire.body(Framing::Chunked, &mut |data| bytes += data.len());
        if body.is_ok() {
            wire.send(ok(bytes.to_string()));
        }
    }
}

#[test]
fn a_tunnel_lives_until_drain_ms() {
    const DRAIN: Duration = Duration::from_millis(1500);
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            wire.head();
            let switching = "HTTP/1.1 101 Switching Protocols\r\n";
            wire.send(format!("{switching}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
            while let Ok(data) = wire.some() {
                if data.is_empty() || wire.try_send(data).is_err() {
                    return;
                }
            }
        });
        let mut proxy = start(&origin, "drain_ms: 1500", cores);
        let mut client = proxy.connect();
        let upgrade = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n";
        client.send(format!("{upgrade}Upgrade: websocket\r\n\r\n"));
        assert_eq!(client.head().status(), 101);
        let echo = |client: &mut Wire, text: &str| {
            client.send(text);
            assert_eq!(client.take(text.len()).expect("an echo"), text.as_bytes());
        };
        echo(&mut client, "before");
        proxy.signal("TERM");
        let signalled = Instant::now();
        await_drain(&proxy);
        echo(&mut client, "during");
        client.expect_gone();
        let took = signalled.elapsed();
        assert!(took >= DRAIN * 9 / 10 && took < DRAIN + DEADLINE, "it ended after {took:?}");
        assert_eq!(proxy.wait().code(), Some(0));
    });
}
