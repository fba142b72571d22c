//! How exchanges and connections end when somebody ends them early: clients that half-close, reset
//! or stop reading, origins that break off or answer before they have read, silence.

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Origin, Proxy, Wire, both, config, eventually, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// What an origin tells the test.
fn tellers<T: Send + 'static>() -> (impl Fn(T) + Send + Sync + 'static, Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    (move |value| drop(sender.lock().unwrap().send(value)), receiver)
}

fn plain(origin: &Origin, cores: &str) -> Proxy {
    Proxy::start(&config(&[origin.address], "", ""), cores)
}

#[test]
fn a_client_that_half_closes_is_answered_and_the_origin_learns_of_it() {
    both(|cores| {
        let (tell, heard) = tellers();
        let origin = Origin::start(move |mut wire, _| {
            while let Ok(Some(request)) = wire.request() {
                if request.head.target() == "/wait" {
                    // Only once the half-close has come.
                    tell(wire.some().map(|rest| rest.len()));
                }
                let _ = wire.try_send(ok(request.head.target()));
            }
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("POST /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
        client.finish();
        assert_eq!(client.answer().text(), "/wait");
        client.expect_end();
        let seen = heard.recv_timeout(DEADLINE).expect("the origin has heard");
        assert!(matches!(seen, Ok(0)), "a clean end: {seen:?}");

        // At once after the last byte, as `nc -N` does; pipelined ones before it count too.
        let mut client = proxy.connect();
        client.send(format!("{GET}{GET}{GET}"));
        client.finish();
        for _ in 0..3 {
            assert_eq!(client.answer().text(), "/");
        }
        client.expect_end();
        proxy.stop();
    });
}

#[test]
fn a_half_close_within_a_request_is_no_request() {
    both(|cores| {
        let (tell, heard) = tellers();
        let origin = Origin::start(move |mut wire, _| {
            tell(matches!(wire.request(), Ok(Some(_))));
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHo");
        client.finish();
        client.expect_gone();
        assert_eq!(origin.accepted(), 0);

        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
        client.finish();
        let whole = heard.recv_timeout(DEADLINE).expect("the origin has seen the end");
        assert!(!whole, "half a body is never a whole one");
        if let Ok(answer) = client.try_answer_to("POST") {
            assert_eq!(answer.status(), 400);
        }
    });
}

#[test]
fn a_reset_by_the_client_ends_the_exchange_at_the_origin() {
    both(|cores| {
        let (tell, heard) = tellers();
        let (begun, started) = tellers();
        let origin = Origin::start(move |mut wire, _| {
            let request = wire.request();
            if let Ok(Some(request)) = request
                && request.head.target() == "/endless"
            {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
                begun(());
                while wire.try_send([b'x'; 65536]).is_ok() {}
            } else {
                begun(());
                let _ = wire.some();
            }
            tell(());
        });
        let proxy = plain(&origin, cores);
        for path in ["/silent", "/endless"] {
            let mut client = proxy.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            started.recv_timeout(DEADLINE).expect("the origin has the request");
            client.reset();
            heard.recv_timeout(DEADLINE).expect("the origin learns of the reset");
        }
        // A client that closes without reading its answer resets with the next bytes.
        let mut client = proxy.connect();
        client.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        drop(client);
        heard.recv_timeout(DEADLINE).expect("the origin learns of the close");
        proxy.stop();
    });
}

/// An answer in one of three framings, of `size` bytes, that stops half way.
fn broken_answer(framing: &str, size: usize) -> Vec<u8> {
    let half = "x".repeat(size / 2);
    let head = "HTTP/1.1 200 OK\r\n";
    let text = match framing {
        "length" => format!("{head}Content-Length: {size}\r\n\r\n{half}"),
        "chunked" => {
            let size = size / 2;
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{half}\r\n")
        }
        _ => format!("{head}\r\n{half}"),
    };
    text.into_bytes()
}

/// RFC 9112 section 8: a part must not be taken for the whole, whoever the client is.
#[test]
fn an_answer_that_breaks_off_never_ends_cleanly() {
    let mut cases = Vec::new();
    for size in [20_usize, 600_000] {
        for version in ["1.1", "1.0"] {
            for framing in ["length", "chunked", "until close"] {
                for reset in [false, true] {
                    // The end of a close-delimited body is its only end.
                    if framing != "until close" || reset {
                        cases.push((size, version, framing, reset));
                    }
                }
            }
        }
    }
    both(|cores| {
        for &(size, version, framing, reset) in &cases {
            let (go, gone) = mpsc::channel::<()>();
            let gone = Mutex::new(gone);
            let origin = Origin::start(move |mut wire, _| {
                let _ = wire.request();
                let _ = wire.try_send(broken_answer(framing, size));
                // Everything has reached the client before a reset could overtake it.
                let _ = gone.lock().unwrap().recv_timeout(DEADLINE);
                if reset {
                    wire.reset();
                }
            });
            let proxy = plain(&origin, cores);
            let mut client = proxy.connect();
            client.send(format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n"));
            let head = client.head();
            let mut seen = 0;
            let outcome = client.body(head.answer_framing("GET"), &mut |data| {
                seen += data.len();
                if seen == size / 2 {
                    let _ = go.send(());
                }
            });
            let shown = format!("{size} bytes, {version}, {framing}, reset: {reset}");
            match outcome {
                Ok(_) => panic!("a clean end: {shown}"),
                Err(error) => assert_ne!(error.kind(), ErrorKind::TimedOut, "{shown}"),
            }
            assert_eq!(seen, size / 2, "what came before is passed on: {shown}");
        }
    });
}

/// The kernel tells of a reset once: here the upload may be what hears of it.
#[test]
fn an_answer_that_is_reset_during_an_upload_never_ends_cleanly() {
    both(|cores| {
        let (go, gone) = mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let origin = Origin::start(move |mut wire, _| {
            let _ = wire.try_head();
            let _ = wire.try_send("HTTP/1.1 200 OK\r\n\r\npart");
            let _ = gone.lock().unwrap().recv_timeout(DEADLINE);
            wire.reset();
        });
        let proxy = plain(&origin, cores);
        for _ in 0..20 {
            let mut client = proxy.connect();
            client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000000\r\n\r\n");
            let mut twin = client.twin();
            let upload = thread::spawn(move || while twin.try_send([b'u'; 65536]).is_ok() {});
            let head = client.head();
            let mut seen = 0;
            let outcome = client.body(head.answer_framing("POST"), &mut |data| {
                seen += data.len();
                if seen == "part".len() {
                    let _ = go.send(());
                }
            });
            let error = outcome.expect_err("a clean end");
            assert_ne!(error.kind(), ErrorKind::TimedOut);
            upload.join().expect("the upload ends");
        }
        proxy.stop();
    });
}

#[test]
fn an_origin_that_ends_before_its_answer_is_a_502() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let Ok(Some(request)) = wire.request() else { return };
            match request.head.target() {
                "/nothing" => {}
                "/half" => drop(wire.try_send("HTTP/1.1 200 OK\r\nContent-Le")),
                _ => wire.reset(),
            }
        });
        let proxy = plain(&origin, cores);
        let mut client = proxy.connect();
        for path in ["/nothing", "/half", "/reset"] {
            let answer = client.get(path);
            assert_eq!((answer.status(), answer.head.reason()), (502, Some("upstream_reset")));
        }
        assert_eq!(origin.accepted(), 3, "not tried again on fresh connections");
    });
}

/// A debug build would take minutes for the real size.
const UPLOAD_BYTES: usize = if cfg!(debug_assertions) { 10_000_000 } else { 100_000_000 };

/// Uploads until refused, while another thread reads the answer.
fn upload_and_read_status(address: SocketAddr, bytes: usize, chunked: bool) -> u16 {
    let mut client = Wire::connect(address);
    let mut reader = client.twin();
    let answered = thread::spawn(move || reader.try_answer_to("POST"));
    let piece = vec![b'u'; 64 << 10];
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {bytes}"),
    };
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
    let size = format!("{:x}\r\n", piece.len());
    for _ in 0..bytes / piece.len() {
        let sent = match chunked {
            true => client.try_send(&size).and_then(|()| client.try_send(&piece)),
            false => client.try_send(&piece),
        };
        if sent.is_err() || chunked && client.try_send("\r\n").is_err() {
            break;
        }
    }
    let answer = answered.join().expect("the reader ends");
    answer.map_or(0, |answer| answer.status())
}

#[test]
fn every_upload_that_is_refused_early_reads_why() {
    both(|cores| {
        for closes in [false, true] {
            let origin = Origin::start(move |mut wire, _| {
                let _ = wire.try_head();
                let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n";
                let _ = wire.try_send(refusal);
                if closes {
                    return;
                }
                // Reads nothing more, and waits for the proxy to give up on it.
                let has_error = || !wire.stream.take_error().is_ok_and(|error| error.is_none());
                eventually("the proxy gives up", || has_error() || is_gone(&wire));
            });
            let proxy = plain(&origin, cores);
            let address = proxy.address;
            let clients: Vec<_> = (0..100)
                .map(|number| {
                    thread::spawn(move || {
                        upload_and_read_status(address, UPLOAD_BYTES, number % 2 == 0)
                    })
                })
                .collect();
            let mut counts = std::collections::BTreeMap::new();
            for client in clients {
                *counts.entry(client.join().expect("a client ends")).or_insert(0) += 1;
            }
            // An origin that closes with bytes unread may reset its own answer away.
            let lost = counts.iter().filter(|(status, _)| !matches!(status, 413 | 502));
            assert_eq!(lost.count(), 0, "origin closes: {closes}, {counts:?}");
            if !closes {
                assert_eq!(counts.get(&413), Some(&100), "{counts:?}");
            }
        }
    });
}

/// Whether the peer has ended, without reading: FIN or reset show in the state of the socket.
fn is_gone(wire: &Wire) -> bool {
    wire.stream.set_nonblocking(true).expect("non-blocking");
    let mut byte = [0];
    let peeked = wire.stream.peek(&mut byte);
    wire.stream.set_nonblocking(false).expect("blocking");
    matches!(peeked, Err(error) if error.kind() != ErrorKind::WouldBlock)
}

#[test]
fn a_refused_client_may_finish_sending() {
    both(|cores| {
        let origin = Origin::answering(|_| ok(""));
        let proxy = Proxy::start(&config(&[origin.address], "max_body_bytes: 10", ""), cores);
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n");
        for _ in 0..60 {
            client.send([b'x'; 10_000]);
        }
        client.finish();
        assert_eq!(client.answer().status(), 413);
        client.expect_end();
    });
}

#[test]
fn lingering_has_an_end() {
    both(|cores| {
        let origin = Origin::answering(|_| ok(""));
        let router = "timeouts: {linger_ms: 200}";
        let proxy = Proxy::start(&config(&[origin.address], router, ""), cores);
        let mut client = proxy.connect();
        client.send("nonsense\r\n\r\n");
        assert_eq!(client.answer().status(), 400);
        client.expect_end();
        eventually("writing on is answered by a reset", || client.try_send("x").is_err());

        // One that pours on is cut off long before it is done.
        let mut client = proxy.connect();
        client.send("nonsense\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        let sent = (0..100).take_while(|_| client.try_send(&piece).is_ok()).count();
        assert!(sent < 90, "{sent} MiB were read");
    });
}

#[test]
fn a_head_that_does_not_end_is_a_408_and_silence_is_not() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let router = "timeouts: {head_timeout_ms: 300, idle_timeout_ms: 400}";
        let proxy = Proxy::start(&config(&[origin.address], router, ""), cores);
        let mut slow = proxy.connect();
        slow.send("GET / HTTP/1.1\r\nHos");
        let mut silent = proxy.connect();
        let mut idle = proxy.connect();
        assert_eq!(idle.get("/").text(), "fine");
        let mut next = proxy.connect();
        next.send(format!("{GET}GET /next"));
        assert_eq!(next.answer().text(), "fine");
        for client in [&mut slow, &mut next] {
            let answer = client.answer();
            assert_eq!((answer.status(), answer.head.reason()), (408, Some("client_timeout")));
            client.expect_end();
        }
        silent.expect_end();
        idle.expect_end();
        // Each byte in time, the head as a whole not.
        let mut dribble = proxy.connect();
        let started = Instant::now();
        let mut sent = 0;
        while !is_readable_within(&dribble, DRIBBLE_EVERY) && started.elapsed() < DEADLINE {
            let _ = dribble.try_send(if sent == 0 { "G" } else { "E" });
            sent += 1;
        }
        assert_eq!(dribble.answer().status(), 408);
        assert_eq!(origin.requests().len(), 2);
        proxy.stop();
    });
}

/// Between two bytes of a head: far less than `head_timeout_ms` there.
const DRIBBLE_EVERY: Duration = Duration::from_millis(20);

fn is_readable_within(wire: &Wire, limit: Duration) -> bool {
    let before = wire.stream.read_timeout().expect("a limit");
    wire.stream.set_read_timeout(Some(limit)).expect("a limit");
    let peeked = wire.stream.peek(&mut [0]);
    wire.stream.set_read_timeout(before).expect("a limit");
    !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn bodies_that_stall_are_given_up() {
    both(|cores| {
        let (tell, heard) = tellers();
        let origin = Origin::start(move |mut wire, _| {
            let Ok(Some(head)) = wire.try_head() else { return };
            match head.target() {
                "/stalls" => {
                    let _ = wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    let _ = wire.some();
                }
                "/pours" => {
                    let _ = wire.try_send("HTTP/1.1 200 OK\r\n\r\n");
                    while wire.try_send([b'x'; 65536]).is_ok() {}
                }
                _ => while wire.some().is_ok_and(|some| !some.is_empty()) {},
            }
            tell(head.target().to_owned());
        });
        let router = "timeouts: {stall_timeout_ms: 400}";
        let proxy = Proxy::start(&config(&[origin.address], router, ""), cores);
        let mut client = proxy.connect();
        client.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
        let answer = client.answer();
        assert_eq!((answer.status(), answer.head.reason()), (408, Some("client_timeout")));
        client.expect_end();
        let ended = || heard.recv_timeout(DEADLINE).expect("the origin sees the end");
        assert_eq!(ended(), "/upload");

        let mut client = proxy.connect();
        client.send("GET /stalls HTTP/1.1\r\nHost: h\r\n\r\n");
        let error = client.try_answer_to("GET").expect_err("half an answer is none");
        assert_ne!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(ended(), "/stalls");

        // A client that does not take its answer.
        let mut client = proxy.connect();
        client.send("GET /pours HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(ended(), "/pours");
        drop(client);
        proxy.stop();
    });
}

#[test]
fn a_full_shard_says_so() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let runtime = "drain_ms: 300, shard: {max_connections: 2}";
        let proxy = Proxy::start_with(runtime, &config(&[origin.address], "", ""), cores);
        // Held open: each shard takes two of them.
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..60 {
            let mut client = proxy.connect();
            let answer = client.get("/");
            match answer.status() {
                200 => held.push(client),
                _ => {
                    refused += 1;
                    assert_eq!((answer.status(), answer.head.reason()), (503, Some("overloaded")));
                    assert_eq!(answer.head.get("connection"), Some("close"));
                    client.expect_end();
                }
            }
        }
        let shards = cores.split(',').count();
        assert!(held.len() <= 2 * shards && !held.is_empty(), "{} are held", held.len());
        assert_eq!(refused, 60 - held.len());
        held.clear();
        eventually("there is room again", || proxy.connect().get("/").status() == 200);
    });
}
