//! Answers arrive whole, however slowly they are taken; where one cannot, its end never looks
//! clean. And what a client or an endpoint does in between is noticed.

mod common;
#[path = "common/narrow.rs"]
mod narrow;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Origin, Proxy, Rng, Wire, both, config, eventually, ok};
use narrow::narrow;
use socket2::SockRef;

/// Bodies of which a part is the proxy's to hold: from what the kernel takes to the largest lease.
const SIZES: [usize; 8] = [50_000, 100_000, 150_000, 200_000, 250_000, 300_000, 350_000, 450_000];

/// `/<n>` is answered by n bytes.
fn sized() -> Origin {
    Origin::answering(|request| {
        let size = request.head.target().trim_start_matches('/').parse().unwrap_or(2);
        ok(vec![b'x'; size])
    })
}

/// A client for each size that has asked and read nothing.
fn ask_for_all(proxy: &Proxy) -> Vec<Wire> {
    let clients = SIZES.iter().map(|size| {
        let mut client = narrow(proxy.address);
        client.send(format!("GET /{size} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client
    });
    let clients: Vec<Wire> = clients.collect();
    for client in &clients {
        client.stream.peek(&mut [0]).expect("the answer has begun");
    }
    clients
}

#[track_caller]
fn assert_whole(clients: Vec<Wire>) {
    for (mut client, size) in clients.into_iter().zip(SIZES) {
        let answer = client.try_answer_to("GET");
        let len = answer.unwrap_or_else(|error| panic!("of {size}: {error}")).body.len();
        assert_eq!(len, size);
    }
}

/// Waits until connections that rest have been closed.
fn outwait(witnesses: Vec<Wire>) {
    witnesses.into_iter().for_each(|mut witness| witness.expect_end());
}

/// Connections that rest after an answer.
fn resting(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let opened = (0..count).map(|_| {
        let mut client = proxy.connect();
        assert_eq!(client.get("/2").status(), 200);
        client
    });
    opened.collect()
}

/// Reads to the end; how much that was, and whether it was a clean end.
fn read_out(client: &mut Wire) -> (usize, bool) {
    let mut len = 0;
    loop {
        match client.some() {
            Ok(data) if data.is_empty() => return (len, true),
            Ok(data) => len += data.len(),
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::TimedOut, "neither more nor an end");
                return (len, false);
            }
        }
    }
}

#[test]
fn an_answer_on_its_way_outlives_the_idle_timeout() {
    both(|cores| {
        let origin = sized();
        let yaml = config(&[origin.address], "timeouts: {idle_timeout_ms: 400}", "");
        let proxy = Proxy::start(&yaml, cores);
        let clients = ask_for_all(&proxy);
        let half_closed = ask_for_all(&proxy);
        half_closed.iter().for_each(Wire::finish);
        // Each rests for the timeout: one after the other it is well over for the clients.
        outwait(resting(&proxy, 4));
        outwait(resting(&proxy, 4));
        assert_whole(clients);
        assert_whole(half_closed);
    });
}

#[test]
fn an_answer_on_its_way_outlives_the_closing_of_idle_connections_in_a_drain() {
    both(|cores| {
        let origin = sized();
        let yaml = config(&[origin.address], "", "");
        let mut proxy = Proxy::start_with("drain_ms: 4000", &yaml, cores);
        let witnesses = resting(&proxy, 16);
        let clients = ask_for_all(&proxy);
        proxy.signal("TERM");
        // They are closed spread over half of the drain.
        outwait(witnesses);
        assert_whole(clients);
        assert_eq!(proxy.wait().code(), Some(0));
    });
}

#[test]
fn a_client_that_half_closes_and_reads_slowly_gets_its_whole_answer() {
    both(|cores| {
        let origin = sized();
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        // Behind the request at once, and when the answer is stuck.
        let first = SIZES.map(|size| {
            let mut client = narrow(proxy.address);
            client.send(format!("GET /{size} HTTP/1.1\r\nHost: h\r\n\r\n"));
            client.finish();
            client
        });
        let second = ask_for_all(&proxy);
        second.iter().for_each(Wire::finish);
        assert_healthy(&proxy);
        assert_whole(first.into());
        assert_whole(second);
    });
}

#[track_caller]
fn assert_healthy(proxy: &Proxy) {
    assert_eq!(proxy.connect().get("/1000000").body.len(), 1_000_000);
}

/// Chunked, so that a client of 1.0 learns by the close where it ends.
fn chunked(bytes: usize) -> Origin {
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..bytes / 0x8000 {
        answer.extend_from_slice(b"8000\r\n");
        answer.resize(answer.len() + 0x8000, b'x');
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    Origin::answering(move |_| answer.clone())
}

#[test]
fn an_answer_that_ends_with_the_connection_is_whole_or_broken_off() {
    const BYTES: usize = 0x8000 * 40;
    both(|cores| {
        let origin = chunked(BYTES);
        let yaml = config(&[origin.address], "timeouts: {stall_timeout_ms: 700}", "");
        let proxy = Proxy::start(&yaml, cores);
        let before = proxy.descriptors();
        let mut slow = narrow(proxy.address);
        let mut stuck = narrow(proxy.address);
        slow.send("GET / HTTP/1.0\r\n\r\n");
        stuck.send("GET / HTTP/1.0\r\n\r\n");
        // Slowly and steadily, for longer than the timeout.
        slow.head();
        let (mut len, started) = (0, Instant::now());
        while started.elapsed() < Duration::from_millis(2500) {
            len += slow.take(2000).expect("it goes on").len();
            thread::sleep(Duration::from_millis(5));
        }
        let (rest, clean) = read_out(&mut slow);
        assert_eq!((len + rest, clean), (BYTES, true));
        // The one that took nothing is given up, and does not take its part for the whole.
        eventually("the stuck client is given up", || proxy.descriptors() <= before + 4);
        stuck.head();
        let (len, clean) = read_out(&mut stuck);
        assert!(!clean && len < BYTES, "{len} bytes, clean: {clean}");
    });
}

#[test]
fn the_end_of_a_drain_is_not_the_end_of_an_answer() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let _ = wire.request();
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            let _ = wire.some();
        });
        let proxy = Proxy::start_with("drain_ms: 500", &config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.0\r\n\r\n");
        client.head();
        assert_eq!(client.take(5).expect("a part"), b"hello");
        proxy.signal("TERM");
        let (len, clean) = read_out(&mut client);
        assert!(!clean && len == 0, "{len} bytes more, clean: {clean}");
    });
}

/// One round: a PUT whose pooled connection is reset about when its head goes out.
fn put_into_a_reset(proxy: &Proxy, pooled: &Mutex<Vec<Wire>>, spin: Duration) -> u16 {
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 200);
    let victims = std::mem::take(&mut *pooled.lock().unwrap());
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    let started = Instant::now();
    while started.elapsed() < spin {}
    for victim in victims {
        let _ = SockRef::from(&victim.stream).set_linger(Some(Duration::ZERO));
        let _ = victim.stream.shutdown(std::net::Shutdown::Both);
    }
    thread::sleep(Duration::from_millis(2));
    client.send("12345");
    let answer = client.try_answer_to("PUT").expect("an answer");
    if answer.status() == 200 {
        assert_eq!(answer.text(), "12345", "the body went with the request");
    }
    answer.status()
}

#[test]
fn a_request_that_is_tried_again_takes_its_body_along() {
    const ROUNDS: usize = 300;
    let mut rng = Rng::seeded();
    let spins: Vec<Duration> =
        (0..ROUNDS).map(|_| Duration::from_micros(rng.up_to(1200))).collect();
    both(|cores| {
        let pooled = Arc::new(Mutex::new(Vec::new()));
        let kept = pooled.clone();
        let origin = Origin::start(move |mut wire, _| {
            kept.lock().unwrap().push(wire.twin());
            while let Ok(Some(request)) = wire.request() {
                if wire.try_send(ok(&request.body)).is_err() {
                    return;
                }
            }
        });
        let service = "timeouts: {attempt_ms: 5000}";
        let proxy = Proxy::start(&config(&[origin.address], "", service), cores);
        for spin in &spins {
            let status = put_into_a_reset(&proxy, &pooled, *spin);
            assert!([200, 502].contains(&status), "{status}");
        }
    });
}

#[test]
fn a_pooled_connection_reset_by_a_head_is_replaced_and_the_body_follows() {
    both(|cores| {
        let (tell, heard) = mpsc::channel();
        let tell = Mutex::new(tell);
        let resets = AtomicUsize::new(0);
        let origin = Origin::start(move |mut wire, _| {
            while let Ok(Some(head)) = wire.try_head() {
                if head.method() == "PUT" && resets.fetch_add(1, Ordering::SeqCst) == 0 {
                    wire.reset();
                    tell.lock().unwrap().send(()).unwrap();
                    return;
                }
                let mut body = Vec::new();
                let framing = head.request_framing();
                let _ = wire.body(framing, &mut |data| body.extend_from_slice(data));
                wire.send(ok(&body));
            }
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 200);
        client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        heard.recv_timeout(DEADLINE).expect("the head has come, and the connection is reset");
        client.send(vec![b'x'; 100_000]);
        let answer = client.try_answer_to("PUT").expect("an answer");
        assert_eq!((answer.status(), answer.body.len()), (200, 100_000));
    });
}

#[test]
fn the_end_of_a_client_is_noticed_after_a_large_upload() {
    const BYTES: usize = 300_000;
    both(|cores| {
        let (tell, heard) = mpsc::channel();
        let tell = Mutex::new(tell);
        let origin = Origin::start(move |mut wire, _| {
            let Ok(Some(request)) = wire.request() else { return };
            let tell = |what| tell.lock().unwrap().send(what).unwrap();
            tell(request.body.len());
            let ended = !matches!(wire.some(), Err(error) if error.kind() == ErrorKind::TimedOut);
            tell(usize::from(ended));
            let _ = wire.try_send(ok("late"));
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let chunked = format!("{BYTES:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(BYTES));
        let uploads = [
            format!("Content-Length: {BYTES}\r\n\r\n{}", "x".repeat(BYTES)),
            format!("Transfer-Encoding: chunked\r\n\r\n{chunked}"),
        ];
        for (upload, resets) in uploads.iter().flat_map(|it| [(it, true), (it, false)]) {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{upload}"));
            assert_eq!(heard.recv_timeout(DEADLINE), Ok(BYTES));
            if resets {
                client.reset();
                assert_eq!(heard.recv_timeout(DEADLINE), Ok(1), "a reset");
            } else {
                client.finish();
                assert_eq!(heard.recv_timeout(DEADLINE), Ok(1), "a half-close");
                assert_eq!(client.answer().text(), "late");
            }
        }
    });
}

#[test]
fn a_request_that_comes_with_the_idle_deadline_is_answered() {
    const IDLE: Duration = Duration::from_millis(300);
    both(|cores| {
        let origin = sized();
        let yaml = config(&[origin.address], "timeouts: {idle_timeout_ms: 300}", "");
        let proxy = Proxy::start(&yaml, cores);
        let opened = Instant::now();
        let mut clients = resting(&proxy, 8);
        // To a process that was held up both are there at once.
        proxy.signal("STOP");
        assert!(opened.elapsed() < IDLE, "the machine is too slow to say: {:?}", opened.elapsed());
        for client in &mut clients {
            client.send("GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        thread::sleep(IDLE * 2);
        proxy.signal("CONT");
        for client in &mut clients {
            assert_eq!(client.answer().status(), 200);
        }
    });
}

#[test]
fn a_client_of_1_0_knows_whether_its_connection_goes_on() {
    const KEEP: &str = "HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n";
    both(|cores| {
        let origin = sized();
        let yaml = config(&[origin.address], "", "");
        let yaml = yaml.replace("{service: web}", "{path_prefix: /2, service: web}");
        let proxy = Proxy::start(&yaml, cores);
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(format!("GET /2 {KEEP}"));
            let answer = client.answer();
            let says = answer.head.get("connection").map(str::to_ascii_lowercase);
            assert_eq!((answer.status(), says.as_deref()), (200, Some("keep-alive")));
        }
        // One that we make does not say so, and then the connection does not stay.
        client.send(format!("GET /nowhere {KEEP}"));
        let answer = client.answer();
        let says = answer.head.get("connection").map(str::to_ascii_lowercase);
        assert_eq!(answer.status(), 404);
        match says.as_deref() {
            Some("keep-alive") => {
                client.send(format!("GET /2 {KEEP}"));
                assert_eq!(client.answer().status(), 200);
            }
            _ => client.expect_end(),
        }
    });
}

#[test]
fn a_second_attempt_has_a_deadline_of_its_own() {
    const EACH: Duration = Duration::from_millis(1300);
    both(|cores| {
        let origin = Origin::start(|mut wire, number| {
            while let Ok(Some(request)) = wire.request() {
                if request.head.target() == "/slow" {
                    thread::sleep(EACH);
                    if number == 0 {
                        return;
                    }
                }
                wire.send(ok("served"));
            }
        });
        let service = "timeouts: {attempt_ms: 2000}";
        let proxy = Proxy::start(&config(&[origin.address], "", service), cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 200);
        let started = Instant::now();
        assert_eq!(client.get("/slow").text(), "served");
        assert!(started.elapsed() >= EACH * 2, "it was tried twice");
    });
}
