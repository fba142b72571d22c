//! Thousands of clients that are slow, large or both: what they hold is bounded, what is shed says
//! so and is counted, whoever shares their shards is served as ever, and nothing of them stays.
//!
//! At full size in a release build; `tests/hostile.rs` has single clients and origins.

mod common;
#[path = "common/crowd.rs"]
mod crowd;
#[path = "common/held.rs"]
mod held;
#[path = "common/narrow.rs"]
mod narrow;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Origin, Proxy, Wire, both, config, eventually, four, ok, sanitizer_kib};
use crowd::{Crowd, as_many_as, connected};
use held::{Held, assert_unharmed, counted, neighbour};
use narrow::narrow;

/// A debug build would take minutes for the real number.
const SHARE: usize = if cfg!(debug_assertions) { 10 } else { 1 };
const MANY: usize = 5_000 / SHARE;
const SECOND: Duration = Duration::from_secs(1);
/// Pages that the allocator keeps, and first uses of the shards' own buffers.
const SLACK_KIB: u64 = 48 << 10;
fn slack_kib() -> u64 {
    SLACK_KIB + sanitizer_kib()
}
/// For a client with a request under way: its exchange, its head, and the connection upstream.
const EACH_KIB: u64 = 8;

/// `/<n>` is answered by n bytes, `/endless` by as many as are taken; what is not read whole is
/// not answered.
fn sized() -> Origin {
    Origin::start(|mut wire, _| {
        while let Ok(Some(request)) = wire.request() {
            if request.head.target() == "/endless" {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n");
                while wire.try_send([b'x'; 32 << 10]).is_ok() {}
                return;
            }
            let size = request.head.target().trim_start_matches('/').parse().unwrap_or(2);
            if wire.try_send(ok(vec![b'x'; size])).is_err() {
                return;
            }
        }
    })
}

/// Whose counts are there soon.
fn start(origin: &Origin, shard: &str, timeouts: &str, service: &str, cores: &str) -> Proxy {
    let telemetry = "telemetry: {flush_interval_ms: 100}\n";
    start_with(telemetry, origin, (shard, timeouts, service), cores)
}

fn start_with(
    telemetry: &str,
    origin: &Origin,
    (shard, timeouts, service): (&str, &str, &str),
    cores: &str,
) -> Proxy {
    let yaml = config(
        &[origin.address],
        &format!("timeouts: {{{timeouts}}}"),
        &format!("{service}\npool: {{idle_ms: 500}}"),
    );
    let yaml = format!("{telemetry}{yaml}");
    Proxy::start_with(&format!("drain_ms: 300, shard: {{{shard}}}"), &yaml, cores)
}

fn failures(proxy: &Proxy, reason: &str) -> String {
    format!("{}/failures/{reason}", proxy.server(0))
}

/// Shed: a head that is not complete in `head_timeout_ms` by 408, `client_timeout`; a body that
/// keeps dribbling by the service's `request_ms`, `request_timeout`.
#[test]
fn slow_heads_and_slow_bodies_harm_nobody() {
    let count = as_many_as(MANY) / 2;
    let origin = sized();
    let timeouts = "head_timeout_ms: 8000";
    let proxy = start(&origin, "", timeouts, "timeouts: {request_ms: 9000}", four());
    neighbour(proxy.address);
    let before = neighbour(proxy.address);
    let (base, memory) = (Held::by_nobody(&proxy), proxy.memory().resident);
    let mut slow = connected(proxy.address, count, "GET / HTTP/1.1\r\nHost: h\r\nX: ");
    let body = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
    slow.extend(connected(proxy.address, count, body));
    let slow = Crowd::sending(slow, b"a", SECOND, false);
    assert_unharmed(proxy.address, before);
    counted(&proxy, &failures(&proxy, "client_timeout"), count as u64);
    counted(&proxy, &failures(&proxy, "request_timeout"), count as u64);
    let mut slow = slow.stop();
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for wire in &mut slow {
        // One that went on sending after it was told has lost what it was told.
        let status = wire.try_answer_to("GET").map_or(0, |answer| answer.status());
        *statuses.entry(status).or_default() += 1;
    }
    eprintln!("{} slow clients, answered {statuses:?}", slow.len());
    assert!(statuses.keys().all(|status| [0, 408, 504].contains(status)), "{statuses:?}");
    assert!(statuses.contains_key(&408), "{statuses:?}");
    let grown = proxy.memory().peak.saturating_sub(memory);
    eprintln!("grown by {grown} KiB");
    assert!(grown < slack_kib() + EACH_KIB * slow.len() as u64, "grown by {grown} KiB");
    base.is_back(&proxy);
    assert_unharmed(proxy.address, before);
    proxy.stop();
}

/// Nothing is shed while the budget lasts; then a head of which more than a buffer is held is
/// answered 503, `overloaded`.
#[test]
fn large_heads_that_dribble_cost_little_and_stay_within_the_budget() {
    const FIRST_BYTES: usize = 9_000;
    const SECS: u64 = 10;
    const BUDGET: u64 = 128 << 20;
    let count = as_many_as(MANY);
    let origin = sized();
    // Over four shards, so that there is room for the first bytes of all.
    let shard = format!("max_buffered_bytes: {}", BUDGET / SHARE as u64 / 4);
    // With telemetry as it is by itself: ten flushes a second are 0.8 % of a core.
    let proxy = start_with("", &origin, (&shard, "head_timeout_ms: 120000", ""), four());
    neighbour(proxy.address);
    let before = neighbour(proxy.address);
    let base = Held::by_nobody(&proxy);
    let memory = proxy.memory().resident;
    let head = format!("GET /2 HTTP/1.1\r\nHost: h\r\nX: {}\r\nY: ", "x".repeat(FIRST_BYTES));
    let clients = connected(proxy.address, count, &head);
    let none = failures(&proxy, "overloaded");
    proxy.metrics_when("all have begun", |metrics| {
        metrics.get(&format!("{}/connections", proxy.server(0))) >= count as u64
    });
    // Most of what a piece costs is to wake up for it, so it matters whether they come one by one.
    // Five times as many, all at once, are shown beside it.
    let mut clients = clients;
    for (every, at_once) in [(5 * SECOND, false), (SECOND, true)] {
        let dribble = Crowd::sending(clients, b"twelve bytes", every, at_once);
        // A debug build takes some ten times as long for each, and what it does besides is as much.
        let most = if cfg!(debug_assertions) { 30.0 } else { 5.0 };
        let mut shares = Vec::new();
        // What others on the machine add is not the proxy's own: the best of three.
        while shares.len() < 3 && shares.iter().all(|share| *share >= most) {
            let (began, pieces, spent) = (Instant::now(), dribble.pieces(), proxy.cpu_secs());
            thread::park_timeout(Duration::from_secs(SECS));
            let elapsed = began.elapsed().as_secs_f64();
            let rate = (dribble.pieces() - pieces) as f64 / elapsed;
            let share = (proxy.cpu_secs() - spent) / elapsed * 100.0;
            eprintln!(
                "{count} heads, {rate:.0} pieces/s, at once {at_once}: {share:.1} % of a core"
            );
            let meant = count as f64 / every.as_secs_f64();
            assert!(rate > 0.8 * meant, "{rate:.0} pieces/s is not the load meant here");
            shares.push(share);
            if at_once {
                break;
            }
        }
        let is_cheap = shares.iter().any(|share| *share < most);
        assert!(at_once || is_cheap, "{shares:?} % of a core");
        clients = dribble.stop();
    }
    assert_eq!(proxy.metrics().get(&none), 0, "nobody is shed");
    assert_unharmed(proxy.address, before);

    // Now up to 60 KB each, which is more than the budget.
    let piece = format!("\r\nZ: {}", "z".repeat(7_000));
    for _ in 0..7 {
        for client in &mut clients {
            let _ = client.try_send(&piece);
        }
    }
    counted(&proxy, &none, 1);
    assert_unharmed(proxy.address, before);
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for mut client in clients {
        let _ = client.try_send("\r\n\r\n");
        let status = client.try_answer_to("GET").map_or(0, |answer| answer.status());
        *statuses.entry(status).or_default() += 1;
    }
    eprintln!("answered: {statuses:?}; {:?}", proxy.memory());
    assert!(statuses.keys().all(|status| [0, 200, 503].contains(status)), "{statuses:?}");
    assert!([200, 503].iter().all(|status| statuses.contains_key(status)), "{statuses:?}");
    let grown = proxy.memory().peak.saturating_sub(memory);
    // What a vector of bytes has while it grows is up to twice what is in it.
    let most = BUDGET / SHARE as u64 / 1024 * 2 + slack_kib();
    assert!(grown < most, "grown by {grown} KiB");
    let metrics = base.is_back(&proxy);
    let shed = (statuses.get(&503).unwrap_or(&0) + statuses.get(&0).unwrap_or(&0)) as u64;
    assert_eq!(metrics.get(&none), shed);
    assert_unharmed(proxy.address, before);
    proxy.stop();
}

/// Shed: all of them, by 431, `header_too_large`.
#[test]
fn header_bombs_are_refused_as_they_come() {
    let count = as_many_as(MANY) / 5;
    both(|cores| {
        let origin = sized();
        let proxy = start(&origin, "max_buffered_bytes: 16777216", "", "", cores);
        neighbour(proxy.address);
        let before = neighbour(proxy.address);
        let base = Held::by_nobody(&proxy);
        let memory = proxy.memory().resident;
        // 128 fields and more than 64 KiB; and more fields than that.
        let field = |number: usize| format!("X-{number}: {}\r\n", "y".repeat(560));
        let large: String = (0..128).map(field).collect();
        let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
        let begin = "GET / HTTP/1.1\r\nHost: h\r\n";
        let bombs = [format!("{begin}{large}\r\n"), format!("{begin}{many}\r\n")];
        assert!(bombs[0].len() > 64 << 10);
        let mut clients: Vec<Wire> = (0..count).map(|_| proxy.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let _ = client.try_send(&bombs[number % 2]);
        }
        assert_unharmed(proxy.address, before);
        let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
        for client in &mut clients {
            let status = client.try_answer_to("GET").map_or(0, |answer| answer.status());
            *statuses.entry(status).or_default() += 1;
        }
        // With the budget used up by the others' parts, it is that.
        assert!(statuses.keys().all(|status| [431, 503].contains(status)), "{statuses:?}");
        assert!(statuses[&431] >= count / 2, "{statuses:?}");
        let grown = proxy.memory().peak.saturating_sub(memory);
        let shards = cores.split(',').count() as u64;
        assert!(grown < shards * (32 << 10) + slack_kib(), "grown by {grown} KiB");
        drop(clients);
        let metrics = base.is_back(&proxy);
        let refused = metrics.get(&failures(&proxy, "header_too_large"));
        assert_eq!(refused, statuses[&431] as u64);
        proxy.stop();
    });
}

/// Nothing is shed: heads wait in the kernel until there is a buffer, which `buffers_exhausted`
/// counts.
#[test]
fn a_ring_of_few_buffers_serves_everybody_in_turn() {
    let count = as_many_as(MANY) / 5;
    both(|cores| {
        let origin = sized();
        let proxy = start(&origin, "head_buffers: 16", "", "", cores);
        neighbour(proxy.address);
        let base = Held::by_nobody(&proxy);
        let pad = "p".repeat(11_000);
        let request = format!("GET /3000 HTTP/1.1\r\nHost: h\r\nPad: {pad}\r\n\r\n");
        let mut clients: Vec<Wire> = (0..count).map(|_| proxy.connect()).collect();
        for _ in 0..3 {
            clients.iter_mut().for_each(|client| client.send(&request));
            for client in &mut clients {
                let answer = client.answer();
                assert_eq!((answer.status(), answer.body.len()), (200, 3000));
            }
        }
        let exhausted: u64 =
            proxy.metrics().between("shard/", "/buffers_exhausted").iter().map(|it| it.1).sum();
        eprintln!("{count} clients found no buffer {exhausted} times");
        assert!(exhausted > 0, "there were buffers enough");
        drop(clients);
        base.is_back(&proxy);
        neighbour(proxy.address);
        proxy.stop();
    });
}

/// Shed: who takes nothing of its answer for once or twice `stall_timeout_ms`, by a reset,
/// `client_closed`.
/// Who takes a little now and then is served for as long as that.
#[test]
fn slow_readers_of_large_answers_cost_little() {
    let count = as_many_as(MANY) / 10;
    both(|cores| {
        let origin = sized();
        let proxy =
            start(&origin, "max_buffered_bytes: 4194304", "stall_timeout_ms: 8000", "", cores);
        neighbour(proxy.address);
        let before = neighbour(proxy.address);
        let base = Held::by_nobody(&proxy);
        let memory = proxy.memory().resident;
        let ask = |_| {
            let mut wire = narrow(proxy.address);
            wire.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
            // One after the other: the origin is no match for so many at once.
            assert_eq!(wire.head().status(), 200);
            wire
        };
        let mut readers: Vec<Wire> = (0..count).map(ask).collect();
        let began = Instant::now();
        let mut rounds = 0;
        while began.elapsed() < 3 * SECOND {
            for reader in &mut readers {
                // The head first, and then what fits into so small a window.
                let data = reader.some().expect("more of the answer");
                assert!(!data.is_empty(), "the answer has ended");
            }
            rounds += 1;
        }
        assert_unharmed(proxy.address, before);
        let grown = proxy.memory().peak.saturating_sub(memory);
        let shards = cores.split(',').count() as u64;
        eprintln!("{count} readers, {rounds} reads each: grown by {grown} KiB");
        assert!(grown < shards * (4 << 10) + slack_kib(), "grown by {grown} KiB");
        // From here on they take nothing.
        let metrics = base.is_back(&proxy);
        let shed = metrics.between(&failures(&proxy, ""), "");
        assert_eq!(shed, [("client_closed".to_owned(), count as u64)]);
        for reader in &mut readers {
            while let Ok(data) = reader.some() {
                assert!(!data.is_empty(), "a clean end of a part");
            }
        }
        assert_unharmed(proxy.address, before);
        proxy.stop();
    });
}

/// Shed: an upload of which nothing moves for `stall_timeout_ms`, by 504, `attempt_timeout`: it is
/// the endpoint that takes no more.
#[test]
fn endless_uploads_to_an_origin_that_reads_nothing_stay_where_they_are() {
    const CLIENTS: usize = 50;
    const ANNOUNCED: u64 = 10 << 30;
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            while let Ok(Some(head)) = wire.try_head() {
                if head.target() == "/stalls" {
                    // Reads nothing until the proxy gives up on it.
                    let gone = || wire.stream.take_error().is_ok_and(|error| error.is_some());
                    let mut byte = [0];
                    while !gone() && wire.stream.peek(&mut byte).is_ok_and(|count| count > 0) {
                        thread::park_timeout(Duration::from_millis(20));
                    }
                    return;
                }
                let size = head.target()[1..].parse().unwrap_or(2);
                if wire.try_send(ok(vec![b'x'; size])).is_err() {
                    return;
                }
            }
        });
        let shard = "max_buffered_bytes: 8388608";
        let proxy = start(&origin, shard, "stall_timeout_ms: 2500", "", cores);
        neighbour(proxy.address);
        let before = neighbour(proxy.address);
        let base = Held::by_nobody(&proxy);
        let memory = proxy.memory().resident;
        let head =
            format!("POST /stalls HTTP/1.1\r\nHost: h\r\nContent-Length: {ANNOUNCED}\r\n\r\n");
        let mut uploads = connected(proxy.address, CLIENTS, &head);
        let piece = vec![b'u'; 256 << 10];
        let (mut sent, mut moved) = (0_u64, Instant::now());
        uploads.iter().for_each(|it| it.stream.set_nonblocking(true).expect("non-blocking"));
        while moved.elapsed() < Duration::from_millis(700) {
            for upload in &mut uploads {
                if let Ok(count) = upload.stream.write(&piece) {
                    (sent, moved) = (sent + count as u64, Instant::now());
                }
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        let grown = proxy.memory().peak.saturating_sub(memory);
        let announced = CLIENTS as u64 * ANNOUNCED;
        eprintln!("{} MiB of {} were taken, grown by {grown} KiB", sent >> 20, announced >> 20);
        assert!(sent > 0 && sent < 1 << 30, "{sent} bytes were taken");
        let shards = cores.split(',').count() as u64;
        assert!(grown < shards * (8 << 10) + slack_kib(), "grown by {grown} KiB");
        assert_unharmed(proxy.address, before);
        let metrics = base.is_back(&proxy);
        assert_eq!(metrics.get(&failures(&proxy, "attempt_timeout")), CLIENTS as u64);
        assert_unharmed(proxy.address, before);
        proxy.stop();
    });
}

/// Shed: the client, `stall_timeout_ms` after it took the last of its answers, by a reset.
#[test]
fn a_zip_of_requests_is_worked_off_only_as_its_answers_are_taken() {
    const CLIENTS: usize = 20;
    const REQUESTS: usize = 10_000;
    both(|cores| {
        let asked = Arc::<AtomicU64>::default();
        let count = asked.clone();
        let origin = Origin::answering(move |request| {
            if request.head.target() == "/300000" {
                count.fetch_add(1, Ordering::SeqCst);
            }
            let size = request.head.target()[1..].parse().unwrap_or(2);
            ok(vec![b'x'; size])
        });
        let shard = "max_buffered_bytes: 4194304, head_buffers: 256";
        let proxy = start(&origin, shard, "stall_timeout_ms: 2500", "", cores);
        neighbour(proxy.address);
        let before = neighbour(proxy.address);
        let base = Held::by_nobody(&proxy);
        let memory = proxy.memory().resident;
        let zip = b"GET /300000 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(REQUESTS);
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| narrow(proxy.address)).collect();
        for client in &mut clients {
            client.stream.set_nonblocking(true).expect("non-blocking");
            // As much of it as is taken at once.
            let _ = client.stream.write(&zip);
        }
        eventually("they have begun", || asked.load(Ordering::SeqCst) >= CLIENTS as u64);
        assert_unharmed(proxy.address, before);
        let grown = proxy.memory().peak.saturating_sub(memory);
        let (asked, shards) = (asked.load(Ordering::SeqCst), cores.split(',').count() as u64);
        eprintln!("{asked} of {} requests, grown by {grown} KiB", CLIENTS * REQUESTS);
        assert!(asked <= 8 * CLIENTS as u64, "{asked} requests for answers that nobody takes");
        assert!(grown < shards * (4 << 10) + slack_kib(), "grown by {grown} KiB");
        base.is_back(&proxy);
        for client in &mut clients {
            client.stream.set_nonblocking(false).expect("blocking");
            client.stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            while let Ok(data) = client.some() {
                assert!(!data.is_empty(), "a clean end of a part");
            }
        }
        assert_unharmed(proxy.address, before);
        proxy.stop();
    });
}
