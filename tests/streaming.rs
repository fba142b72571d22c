//! Bodies of any size in both directions: every byte where it belongs, backpressure, bounded
//! memory, and nobody else the slower for a peer that stalls.

mod common;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Framing, Origin, Pattern, Proxy, Rng, Wire, both, config, descriptor_limit,
    eventually, ok, sanitizer_kib,
};
use socket2::SockRef;

const MIB: u64 = 1 << 20;
/// Sizes that a debug build would take minutes for are a quarter of the real ones there.
const SHARE: u64 = if cfg!(debug_assertions) { 4 } else { 1 };
/// What the process may use at most, whatever is streamed through it.
const MOST_KIB: u64 = 100 << 10;
/// One shard's and four shards' own: rings, buffers for heads, code.
const SLACK_KIB: u64 = 40 << 10;

/// Sends a body of `len` bytes of the pattern; chunks of random sizes up to `chunks`, if any.
fn pour(
    wire: &mut Wire,
    pattern: &Pattern,
    len: u64,
    chunks: Option<(u64, &mut Rng)>,
) -> io::Result<()> {
    let mut offset = 0;
    let mut send = |wire: &mut Wire, count: u64| -> io::Result<()> {
        let ends = offset + count;
        while offset < ends {
            let piece = pattern.at(offset, ends - offset);
            offset += piece.len() as u64;
            wire.try_send(piece)?;
        }
        Ok(())
    };
    let Some((most, rng)) = chunks else { return send(wire, len) };
    let mut left = len;
    while left > 0 {
        let size = rng.up_to(most).min(left);
        left -= size;
        wire.try_send(format!("{size:x}\r\n"))?;
        send(wire, size)?;
        wire.try_send("\r\n")?;
    }
    wire.try_send("0\r\n\r\n")
}

/// Reads a body and asserts that it is `len` bytes of the pattern.
fn drink(wire: &mut Wire, pattern: &Pattern, framing: Framing, len: u64) -> io::Result<()> {
    let mut offset = 0;
    wire.body(framing, &mut |data| {
        pattern.check(offset, data);
        offset += data.len() as u64;
    })?;
    assert_eq!(offset, len, "the length of the body");
    Ok(())
}

/// `/<upload's bytes>/<download's bytes>/<chunked>/<most of a chunk>`
fn parameters(target: &str) -> (u64, u64, bool, u64) {
    let parts: Vec<u64> = target.split('/').skip(1).map(|it| it.parse().unwrap()).collect();
    (parts[0], parts[1], parts[2] == 1, parts[3])
}

/// Checks the upload and sends a download, as the target says.
fn checking_origin(pattern: Arc<Pattern>) -> Origin {
    Origin::start(move |mut wire, number| {
        let mut rng = Rng::from(number as u64 + 7);
        while let Ok(Some(head)) = wire.try_head() {
            let (up, down, chunked, most) = parameters(head.target());
            if drink(&mut wire, &pattern, head.request_framing(), up).is_err() {
                return;
            }
            let framing = match chunked {
                true => "Transfer-Encoding: chunked".to_owned(),
                false => format!("Content-Length: {down}"),
            };
            let sent = wire.try_send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let chunks = chunked.then_some((most, &mut rng));
            if sent.and_then(|()| pour(&mut wire, &pattern, down, chunks)).is_err() {
                return;
            }
        }
    })
}

fn exchange(client: &mut Wire, pattern: &Pattern, up: u64, down: u64, most: u64, rng: &mut Rng) {
    let chunked = most > 0;
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {up}"),
    };
    let target = format!("/{up}/{down}/{}/{most}", u8::from(chunked));
    client.send(format!("POST {target} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
    pour(client, pattern, up, chunked.then_some((most, rng))).expect("the upload is taken");
    let head = client.head();
    assert_eq!(head.status(), 200, "{target}");
    drink(client, pattern, head.answer_framing("GET"), down).expect("the whole download");
}

#[test]
fn every_byte_of_a_body_arrives_in_its_place() {
    let mut rng = Rng::seeded();
    let pattern = Arc::new(Pattern::new(rng.next()));
    let mut sizes = vec![0, 1, 2047, 2048, 2049];
    for edge in [4096, 8192, 16384, 32768, 65536, 131_072] {
        sizes.extend([edge - 1, edge, edge + 1]);
    }
    sizes.extend([MIB, MIB + 1, 3 * MIB + 17]);
    let seeds = Mutex::new(rng);
    both(|cores| {
        let mut rng = Rng::from(seeds.lock().unwrap().next());
        let origin = checking_origin(pattern.clone());
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        for &up in &sizes {
            for most in [0, 70, 5000, 200_000] {
                // Chunks of a few bytes are all framing: not for large ones in a debug build.
                if most == 70 && up > 70_000 {
                    continue;
                }
                let down = sizes[(rng.next() % sizes.len() as u64) as usize];
                let down = if most == 70 { down.min(70_000) } else { down };
                exchange(&mut client, &pattern, up, down, most, &mut rng);
            }
        }
        exchange(&mut client, &pattern, 64 * MIB, 64 * MIB, 0, &mut rng);
        exchange(&mut client, &pattern, 64 * MIB, 64 * MIB, 300_000, &mut rng);
        assert_eq!(origin.accepted(), 1, "both sides stay in step throughout");
        let memory = proxy.memory();
        assert!(memory.peak < MOST_KIB + sanitizer_kib(), "{memory:?}");
        proxy.stop();
    });
}

#[test]
fn an_echo_streams_both_ways_at_once() {
    const BYTES: u64 = 1024 * MIB / SHARE;
    let pattern = Arc::new(Pattern::new(Rng::seeded().next()));
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let head = wire.head();
            let Framing::Length(bytes) = head.request_framing() else { return };
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
            let mut writer = wire.twin();
            let _ = wire.body(Framing::Length(bytes), &mut |data| writer.send(data));
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        let mut uploader = client.twin();
        let uploaded = pattern.clone();
        let upload = thread::spawn(move || {
            let length = format!("Content-Length: {BYTES}");
            uploader.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{length}\r\n\r\n"));
            pour(&mut uploader, &uploaded, BYTES, None).expect("the upload is taken");
        });
        let head = client.head();
        drink(&mut client, &pattern, head.answer_framing("POST"), BYTES).expect("all of it");
        upload.join().expect("the upload ends");
        let memory = proxy.memory();
        assert!(memory.peak < MOST_KIB + sanitizer_kib(), "{memory:?}");
        proxy.stop();
    });
}

#[test]
fn a_slow_reader_slows_the_origin_and_costs_little() {
    const CLIENTS: usize = 20;
    const EACH: u64 = 400 * MIB;
    let pattern = Arc::new(Pattern::new(Rng::seeded().next()));
    both(|cores| {
        let sent = Arc::new(AtomicU64::new(0));
        let (counted, poured) = (sent.clone(), pattern.clone());
        let origin = Origin::start(move |mut wire, _| {
            let _ = wire.request();
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {EACH}\r\n\r\n"));
            let mut offset = 0;
            while offset < EACH {
                let piece = poured.at(offset, (EACH - offset).min(64 << 10));
                if wire.try_send(piece).is_err() {
                    return;
                }
                offset += piece.len() as u64;
                counted.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        let mut before = (u64::MAX, Instant::now());
        eventually("the origin is not read any more", || {
            let now = sent.load(Ordering::SeqCst);
            if now != before.0 {
                before = (now, Instant::now());
            }
            now > 0 && before.1.elapsed() > Duration::from_millis(500)
        });
        let each = sent.load(Ordering::SeqCst) / CLIENTS as u64;
        assert!(each < 40 * MIB, "{each} bytes each, in buffers of the kernel's and ours");
        for client in &mut clients {
            let head = client.head();
            assert_eq!(head.answer_framing("GET"), Framing::Length(EACH));
            drink(client, &pattern, Framing::Length(12 * MIB), 12 * MIB).expect("it goes on");
        }
        let memory = proxy.memory();
        assert!(memory.peak < MOST_KIB + sanitizer_kib(), "{memory:?}");
        drop(clients);
        proxy.stop();
    });
}

fn p99(client: &mut Wire) -> Duration {
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let asked = Instant::now();
            assert_eq!(client.get("/fast").text(), "fast");
            asked.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() * 99 / 100]
}

/// Pushes as much of an upload as anybody takes; the sockets that wait.
fn stuck_uploads(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let piece = vec![b's'; 32 << 10];
    let mut waiting: Vec<(TcpStream, u64)> = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).expect("a connection");
        SockRef::from(&stream).set_send_buffer_size(64 << 10).expect("a small buffer");
        let head = "POST /stuck HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("the head is taken");
        stream.set_nonblocking(true).expect("non-blocking");
        waiting.push((stream, 0));
    }
    let mut moved = Instant::now();
    while moved.elapsed() < Duration::from_millis(500) {
        for (stream, sent) in &mut waiting {
            match stream.write(&piece) {
                Ok(count) if *sent < 4 * MIB => {
                    *sent += count as u64;
                    moved = Instant::now();
                }
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    waiting.into_iter().map(|(stream, _)| stream).collect()
}

#[test]
fn uploads_that_nobody_reads_cost_the_others_nothing() {
    const BUDGET: u64 = 16 * MIB;
    const UPLOADS: usize = 1000 / SHARE as usize;
    both(|cores| {
        let (hold, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let stuck = Origin::start(move |wire, _| {
            // Reads nothing until the test is over.
            let _ = held.lock().unwrap().recv();
            drop(wire);
        });
        let fast = Origin::answering(|_| ok("fast"));
        let yaml = format!(
            "routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes:\n  \
             - {{path_prefix: /stuck, service: stuck}}\n  - {{service: fast}}\n\
             services:\n  stuck: {{endpoints: [\"{}\"]}}\n  fast: {{endpoints: [\"{}\"]}}\n",
            stuck.address, fast.address
        );
        let runtime = format!("drain_ms: 300, shard: {{max_buffered_bytes: {BUDGET}}}");
        let proxy = Proxy::start_with(&runtime, &yaml, cores);
        let mut client = proxy.connect();
        p99(&mut client);
        let before = p99(&mut client);
        let base = proxy.memory().resident;
        let uploads = stuck_uploads(proxy.address, UPLOADS);
        eventually("all have an upstream connection", || stuck.accepted() == UPLOADS);
        let during = p99(&mut client);
        eprintln!("p99 before {before:?}, during {during:?}; {:?}", proxy.memory());
        let most = before * 10 + Duration::from_millis(20);
        assert!(during < most, "p99 before {before:?}, during {during:?}");
        let shards = cores.split(',').count() as u64;
        let (memory, slack) = (proxy.memory(), SLACK_KIB + sanitizer_kib());
        assert!(memory.peak < base + shards * BUDGET / 1024 + slack, "{base} {memory:?}");
        // A newcomer on any shard gets its small answer too.
        for _ in 0..10 {
            assert_eq!(proxy.connect().get("/fast").text(), "fast");
        }
        drop(uploads);
        drop(hold);
        proxy.stop();
    });
}

#[test]
fn a_tight_budget_delays_and_never_locks_up() {
    const CLIENTS: usize = 100;
    let mut rng = Rng::seeded();
    let pattern = Arc::new(Pattern::new(rng.next()));
    both(|cores| {
        let origin = checking_origin(pattern.clone());
        let runtime = "drain_ms: 300, shard: {max_buffered_bytes: 1048576}";
        let proxy = Proxy::start_with(runtime, &config(&[origin.address], "", ""), cores);
        let failed = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (mut client, pattern) = (proxy.connect(), pattern.clone());
                thread::spawn(move || {
                    let mut rng = Rng::from(number as u64 + 1);
                    // Downloads alone, uploads alone, and both framings.
                    let (up, down) = if number % 2 == 0 { (0, 4 * MIB) } else { (2 * MIB, 2000) };
                    let most = if number % 4 < 2 { 0 } else { 200_000 };
                    exchange(&mut client, &pattern, up, down, most, &mut rng);
                })
            })
            .collect();
        for client in clients {
            failed.fetch_add(usize::from(client.join().is_err()), Ordering::SeqCst);
        }
        assert_eq!(failed.load(Ordering::SeqCst), 0, "all {CLIENTS} complete");
        let memory = proxy.memory();
        assert!(memory.peak < MOST_KIB + sanitizer_kib(), "{memory:?}");
        proxy.stop();
    });
}

#[test]
fn events_trickle_to_many_at_once() {
    let many = 2000.min((descriptor_limit().saturating_sub(200)) / 2);
    both(|cores| {
        let streams = Arc::new(Mutex::new(BTreeMap::new()));
        let kept = streams.clone();
        let events = Origin::start(move |mut wire, _| {
            let Ok(Some(request)) = wire.request() else { return };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            if wire.try_send(head).is_ok() {
                let number: usize = request.head.target()[1..].parse().expect("a number");
                kept.lock().unwrap().insert(number, wire);
            }
        });
        let runtime = "drain_ms: 300, shard: {max_buffered_bytes: 1048576}";
        let proxy = Proxy::start_with(runtime, &config(&[events.address], "", ""), cores);
        let mut clients: Vec<Wire> = (0..many)
            .map(|number| {
                let mut client = proxy.connect();
                client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
                assert_eq!(client.head().status(), 200);
                client
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for event in 0..3 {
            let text = format!("data: event {event}\n\n");
            let chunk = format!("{:x}\r\n{text}\r\n", text.len());
            for (number, client) in clients.iter_mut().enumerate() {
                let mut streams = streams.lock().unwrap();
                let asked = Instant::now();
                streams.get_mut(&number).expect("a stream").send(&chunk);
                let size = client.chunk_size().expect("the event's chunk") as usize;
                assert_eq!(client.take(size).expect("the event"), text.as_bytes());
                assert_eq!(client.line().expect("its end"), "");
                slowest = slowest.max(asked.elapsed());
            }
        }
        let memory = proxy.memory();
        eprintln!("{many} streams, the slowest event took {slowest:?}; {memory:?}");
        assert!(slowest < Duration::from_secs(1), "nothing waits to be gathered: {slowest:?}");
        assert!(memory.peak < MOST_KIB + sanitizer_kib(), "{memory:?}");
        streams.lock().unwrap().clear();
        for client in &mut clients {
            client.expect_gone();
        }
        proxy.stop();
    });
}

/// A large body passes beside many streams that have had something to say.
#[test]
fn streams_that_rest_hold_nothing_of_the_budget() {
    let pattern = Arc::new(Pattern::new(Rng::seeded().next()));
    both(|cores| {
        let (told, heard) = mpsc::channel();
        let told = Mutex::new(told);
        let resting = Origin::start(move |mut wire, _| {
            let _ = wire.request();
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // First much, as a list of what was missed: the stream is taken for a large one.
            wire.send(format!("{:x}\r\n{}\r\n", 200_000, "m".repeat(200_000)));
            let _ = told.lock().unwrap().send(());
            // Rests for as long as the proxy keeps it, whatever the deadlines of this test.
            wire.stream.set_read_timeout(None).expect("no deadline");
            let _ = wire.some();
        });
        let large = checking_origin(pattern.clone());
        let yaml = format!(
            "routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes:\n  \
             - {{path_prefix: /rest, service: resting}}\n  - {{service: large}}\n\
             services:\n  resting: {{endpoints: [\"{}\"]}}\n  large: {{endpoints: [\"{}\"]}}\n",
            resting.address, large.address
        );
        let runtime = "drain_ms: 300, shard: {max_buffered_bytes: 1048576}";
        let proxy = Proxy::start_with(runtime, &yaml, cores);
        let mut clients = Vec::new();
        for number in 0..300 {
            let mut client = proxy.connect();
            client.send("GET /rest HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(client.head().status(), 200);
            // The proxy may cut chunks anew.
            let mut left = 200_000;
            while left > 0 {
                let size = client.chunk_size();
                let size = size.unwrap_or_else(|error| panic!("stream {number}: {error}")) as usize;
                client.take(size).expect("what was missed");
                assert_eq!(client.line().expect("its end"), "");
                left -= size;
            }
            heard.recv_timeout(DEADLINE).expect("all was sent");
            clients.push(client);
        }
        let mut client = proxy.connect();
        exchange(&mut client, &pattern, 2 * MIB, 2 * MIB, 0, &mut Rng::from(5));
        proxy.stop();
    });
}

/// An announced body that does not come, or stops, holds nothing that others need.
#[test]
fn uploads_that_rest_hold_nothing_of_the_budget() {
    let pattern = Arc::new(Pattern::new(Rng::seeded().next()));
    both(|cores| {
        let origin = checking_origin(pattern.clone());
        let runtime = "drain_ms: 300, shard: {max_buffered_bytes: 1048576}";
        let proxy = Proxy::start_with(runtime, &config(&[origin.address], "", ""), cores);
        let clients: Vec<Wire> = (0..400)
            .map(|number| {
                let mut client = proxy.connect();
                let target = format!("/{MIB}/0/0/0");
                let length = format!("Content-Length: {MIB}");
                client.send(format!("POST {target} HTTP/1.1\r\nHost: h\r\n{length}\r\n\r\n"));
                if number % 2 == 0 {
                    client.send(pattern.at(0, 30_000));
                }
                client
            })
            .collect();
        eventually("all are on their way", || origin.accepted() == clients.len());
        for _ in 0..4 {
            let mut client = proxy.connect();
            exchange(&mut client, &pattern, 2 * MIB, 2 * MIB, 0, &mut Rng::from(5));
        }
        drop(clients);
        proxy.stop();
    });
}
