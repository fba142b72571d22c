//! One hostile client or origin: the process does not grow, and whoever shares its shard with it is
//! served as ever.

mod common;
#[path = "common/narrow.rs"]
mod narrow;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Gate, Origin, Proxy, Wire, both, config, eventually, ok, sanitizer_kib, silent,
};
use narrow::narrow;

/// What a hostile peer may cost, with the first use of the shards' own buffers.
const SLACK_KIB: u64 = 24 << 10;
/// A stand-in for what has no end.
const ENDLESS_BYTES: u64 = 400 << 20;
/// Enough connections for every shard to get some.
const HEALTHY: usize = 12;

/// `/<n>` is answered by n bytes.
fn sized() -> Origin {
    Origin::answering(|request| {
        let size = request.head.target().trim_start_matches('/').parse().unwrap_or(2);
        ok(vec![b'x'; size])
    })
}

/// Requests for the host `bad` go to one service, all others to another.
fn two_services(bad: &[SocketAddr], good: SocketAddr, router: &str, service: &str) -> String {
    let bad: Vec<String> = bad.iter().map(|it| format!("\"{it}\"")).collect();
    format!(
        "routers:\n- label: http\n  servers: [{{port: 0}}]\n  {router}\n  routes:\n  \
         - {{host: bad, service: bad}}\n  - {{service: good}}\nservices:\n  bad:\n    \
         endpoints: [{}]\n    {service}\n  good: {{endpoints: [\"{good}\"]}}\n",
        bad.join(", "),
    )
}

/// Small and large answers on every shard.
#[track_caller]
fn assert_healthy(proxy: &Proxy) {
    for _ in 0..HEALTHY {
        let mut client = proxy.connect();
        assert_eq!(client.get("/2").body.len(), 2);
        assert_eq!(client.get("/1000000").body.len(), 1_000_000);
    }
}

#[track_caller]
fn assert_small(proxy: &Proxy, before_kib: u64) {
    let grown = proxy.memory().peak.saturating_sub(before_kib);
    assert!(grown < SLACK_KIB + sanitizer_kib(), "grown by {grown} KiB");
}

/// Sends until the peer takes no more for now; how much it took.
fn push(wire: &mut Wire, piece: &[u8], most: u64) -> u64 {
    let patience = Duration::from_millis(300);
    wire.stream.set_write_timeout(Some(patience)).expect("a deadline");
    let mut sent = 0;
    while sent < most && wire.try_send(piece).is_ok() {
        sent += piece.len() as u64;
    }
    wire.stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
    sent
}

/// Waits until a count stands still.
#[track_caller]
fn settle(what: &str, count: &AtomicU64) -> u64 {
    let still = Duration::from_millis(400);
    let (mut value, mut since) = (count.load(Ordering::SeqCst), Instant::now());
    eventually(what, || {
        let now = count.load(Ordering::SeqCst);
        if now != value {
            (value, since) = (now, Instant::now());
        }
        since.elapsed() > still
    });
    value
}

/// Answers `/endless` by `first` and then `piece` for as long as that is taken, and counts it.
fn endless(first: &'static str, piece: Vec<u8>) -> (Origin, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let origin = Origin::start(move |mut wire, _| {
        while let Ok(Some(request)) = wire.request() {
            if request.head.target() != "/endless" {
                let size = request.head.target()[1..].parse().unwrap_or(2);
                wire.send(ok(vec![b'x'; size]));
                continue;
            }
            wire.send(first);
            while counted.load(Ordering::SeqCst) < ENDLESS_BYTES && wire.try_send(&piece).is_ok() {
                counted.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
            return;
        }
    });
    (origin, sent)
}

#[test]
fn a_client_that_is_always_ahead_does_not_add_up() {
    const REQUESTS: usize = 12_000;
    both(|cores| {
        let origin = sized();
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/2").status(), 200);
        let before = proxy.memory().peak;
        let mut writer = client.twin();
        let sending = thread::spawn(move || {
            let request =
                format!("GET /2 HTTP/1.1\r\nHost: h\r\nPad: {}\r\n\r\n", "p".repeat(5000));
            let many = request.repeat(50);
            (0..REQUESTS / 50).for_each(|_| writer.send(&many));
        });
        for _ in 0..REQUESTS {
            assert_eq!(client.answer().text(), "xx");
        }
        sending.join().expect("all is sent");
        assert_small(&proxy, before);
        assert_healthy(&proxy);
    });
}

#[test]
fn a_client_that_takes_no_answer_leaves_the_buffers_to_others() {
    both(|cores| {
        let origin = sized();
        let yaml = config(&[origin.address], "timeouts: {stall_timeout_ms: 1000}", "");
        let proxy = Proxy::start_with("drain_ms: 300, shard: {head_buffers: 64}", &yaml, cores);
        assert_healthy(&proxy);
        let before = proxy.memory().peak;
        let mut hostile = narrow(proxy.address);
        hostile.send("GET /400000 HTTP/1.1\r\nHost: h\r\n\r\n");
        let sent = push(&mut hostile, b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", 1 << 20);
        assert!(sent > 64 * 28, "more segments than there are buffers");
        assert_healthy(&proxy);
        assert_small(&proxy, before);
        // And it does not stay for ever; what it has of its answers does not end cleanly.
        let stuck = proxy.descriptors();
        eventually("the hostile client is closed", || proxy.descriptors() < stuck);
        while let Ok(data) = hostile.some() {
            assert!(!data.is_empty(), "a clean end");
        }
    });
}

#[test]
fn an_upload_to_nobody_leaves_the_buffers_to_others() {
    both(|cores| {
        let (nobody, _listener, _clients) = silent();
        let good = sized();
        let yaml = two_services(&[nobody], good.address, "", "timeouts: {connect_ms: 3000}");
        let proxy = Proxy::start_with("drain_ms: 300, shard: {head_buffers: 64}", &yaml, cores);
        assert_healthy(&proxy);
        let before = proxy.memory().peak;
        let mut hostile = proxy.connect();
        hostile.send("POST / HTTP/1.1\r\nHost: bad\r\nContent-Length: 1000000000\r\n\r\n");
        let sent = push(&mut hostile, &[b'x'; 4096], ENDLESS_BYTES);
        assert!(sent < ENDLESS_BYTES, "the upload waits");
        let started = Instant::now();
        assert_healthy(&proxy);
        // While the endpoint was still being tried: three times, 3 s each.
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        assert_small(&proxy, before);
    });
}

#[test]
fn an_upload_that_waited_for_its_endpoint_goes_on() {
    const BYTES: usize = 3_000_000;
    both(|cores| {
        let (nobody, _listener, _clients) = silent();
        let good = Origin::answering(|request| ok(request.body.len().to_string()));
        let service = "balancer: {kind: round_robin}\ntimeouts: {connect_ms: 300}";
        let yaml = config(&[nobody, good.address], "", service);
        let proxy = Proxy::start(&yaml, cores);
        let mut client = proxy.connect();
        for _ in 0..4 {
            client.send(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {BYTES}\r\n\r\n"));
            client.send(vec![b'x'; BYTES]);
            assert_eq!(client.answer().text(), BYTES.to_string());
        }
    });
}

#[test]
fn an_answer_without_end_does_not_pile_up_for_a_client_that_is_stuck() {
    both(|cores| {
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(65536)).into_bytes();
        let (bad, sent) = endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk);
        let good = sized();
        let yaml = two_services(&[bad.address], good.address, "", "");
        let shard = "drain_ms: 300, shard: {max_buffered_bytes: 4194304}";
        let proxy = Proxy::start_with(shard, &yaml, cores);
        assert_healthy(&proxy);
        let before = proxy.memory().peak;
        // One of these is stuck just when its endless answer begins.
        let clients = (4..60).step_by(2).map(|count| {
            let mut client = narrow(proxy.address);
            for _ in 0..count {
                client.send("GET /3500 HTTP/1.1\r\nHost: bad\r\n\r\n");
            }
            client.send("GET /endless HTTP/1.1\r\nHost: bad\r\n\r\n");
            client
        });
        let clients: Vec<Wire> = clients.collect();
        let sent = settle("the origin waits", &sent);
        assert!((1..ENDLESS_BYTES).contains(&sent), "{sent} bytes");
        assert_small(&proxy, before);
        assert_healthy(&proxy);
        drop(clients);
    });
}

/// Whether anything has come, or the connection has ended.
fn is_told(wire: &Wire) -> bool {
    wire.stream.set_nonblocking(true).expect("non-blocking");
    let told = wire.stream.peek(&mut [0]).is_ok();
    wire.stream.set_nonblocking(false).expect("blocking");
    told
}

const HEAD_BYTES: usize = 60_000;

/// Without its end.
fn head_of(bytes: usize) -> String {
    let mut head = "GET / HTTP/1.1\r\nHost: bad\r\n".to_owned();
    for number in 0.. {
        if head.len() > bytes {
            break;
        }
        head.push_str(&format!("X-{number}: {}\r\n", "y".repeat(1000)));
    }
    head
}

#[test]
fn heads_that_do_not_end_stay_within_the_budget() {
    const CLIENTS: usize = 150;
    both(|cores| {
        let origin = sized();
        let yaml = config(&[origin.address], "timeouts: {head_timeout_ms: 60000}", "");
        let shard = "drain_ms: 300, shard: {max_buffered_bytes: 1048576}";
        let proxy = Proxy::start_with(shard, &yaml, cores);
        assert_healthy(&proxy);
        let before = proxy.memory().peak;
        let head = head_of(HEAD_BYTES);
        let clients = (0..CLIENTS).map(|_| {
            let mut client = proxy.connect();
            let _ = client.try_send(&head);
            client
        });
        let mut clients: Vec<Wire> = clients.collect();
        let shards = cores.split(',').count();
        // Twice the budget, since what is held is counted in buffers and not in bytes.
        let most = shards * 2 * (1 << 20) / HEAD_BYTES;
        eventually("the others are refused", || {
            clients.iter().filter(|client| !is_told(client)).count() <= most
        });
        let refused = clients.iter_mut().find(|client| is_told(client)).expect("one is refused");
        assert!([431, 503].contains(&refused.answer().status()));
        assert_healthy(&proxy);
        assert_small(&proxy, before);
    });
}

/// With a large head, or with as much of a body behind it as a connection brings that is armed for
/// many receives: beyond the budget they are told 503, and the others wait for their answer.
#[test]
fn requests_that_wait_for_their_answer_stay_within_the_budget() {
    const CLIENTS: usize = 300;
    let large = head_of(HEAD_BYTES) + "\r\n";
    let upload = |padding: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: bad\r\nContent-Length: 1000000\r\nX: {}\r\n\r\n{}",
            "x".repeat(padding),
            "y".repeat(130_000)
        )
    };
    // The last goes on piece by piece, and what is held of it is what the ring has anyway.
    for (request, is_shed) in [(large, true), (upload(4_100), true), (upload(0), false)] {
        both(|cores| {
            let gate = Arc::<Gate>::default();
            let origin = Origin::start({
                let gate = gate.clone();
                move |_wire, _| gate.pass()
            });
            let good = sized();
            let yaml = two_services(&[origin.address], good.address, "", "");
            let shard = "drain_ms: 300, shard: {max_buffered_bytes: 1048576, head_buffers: 256}";
            let proxy = Proxy::start_with(shard, &yaml, cores);
            assert_healthy(&proxy);
            let before = proxy.memory().peak;
            let clients = (0..CLIENTS).map(|_| {
                let mut client = proxy.connect();
                for _ in 0..3 {
                    assert_eq!(client.get("/2").status(), 200);
                }
                client.stream.set_nonblocking(true).expect("non-blocking");
                let _ = client.stream.write(request.as_bytes());
                client.stream.set_nonblocking(false).expect("blocking");
                client
            });
            let clients: Vec<Wire> = clients.collect();
            let overloaded = format!("{}/failures/overloaded", proxy.server(0));
            let metrics = proxy.metrics_when("each waits or is refused", |metrics| {
                metrics.get("rt/http/service/bad/pending") + metrics.get(&overloaded)
                    >= CLIENTS as u64
            });
            eprintln!("{} of {CLIENTS} were refused", metrics.get(&overloaded));
            assert!(metrics.get("rt/http/service/bad/pending") > 0, "nobody waits");
            assert!(!is_shed || metrics.get(&overloaded) > 0, "nobody is refused");
            if cores == "0" && request.starts_with("GET") {
                let mut client = proxy.connect();
                client.send(request.replacen("GET", "HEAD", 1));
                assert_eq!(client.try_answer_to("HEAD").expect("an answer").status(), 503);
                client.expect_end();
            }
            assert_healthy(&proxy);
            assert_small(&proxy, before);
            drop(clients);
            gate.open();
            let base = proxy.metrics_when("nothing is held", |metrics| {
                metrics.get("rt/http/service/bad/pending") == 0
                    && metrics.between("shard/", "/buffered_bytes").iter().all(|(_, it)| *it == 0)
            });
            base.check_conservation();
        });
    }
}

/// Clients whose request is never answered, and who go on to ask for as long as that is taken.
/// Each has had `answered` small answers before.
fn pipeline_behind_silence(cores: &str, answered: usize) -> (Proxy, u64, Vec<Wire>, [Origin; 2]) {
    const CLIENTS: usize = 300;
    let bad = Origin::start(|mut wire, _| while wire.some().is_ok_and(|it| !it.is_empty()) {});
    let good = sized();
    let yaml = two_services(&[bad.address], good.address, "", "");
    // The ring's own buffers are each shard's, whatever clients do: few, so as not to hide these.
    let shard = "drain_ms: 300, shard: {max_buffered_bytes: 1048576, head_buffers: 256}";
    let proxy = Proxy::start_with(shard, &yaml, cores);
    assert_healthy(&proxy);
    let before = proxy.memory().peak;
    let request = b"GET / HTTP/1.1\r\nHost: bad\r\n\r\n";
    let many = request.repeat(10_000);
    let clients = (0..CLIENTS).map(|_| {
        let mut client = proxy.connect();
        for _ in 0..answered {
            assert_eq!(client.get("/2").status(), 200);
        }
        client.send(request);
        client
    });
    let mut clients: Vec<Wire> = clients.collect();
    eventually("their requests are with the origin", || bad.accepted() == CLIENTS);
    for client in &mut clients {
        client.stream.set_nonblocking(true).expect("non-blocking");
        let _ = client.try_send(&many);
    }
    // Every shard has looked at what came before.
    assert_healthy(&proxy);
    (proxy, before, clients, [bad, good])
}

#[test]
fn what_is_pipelined_behind_a_silent_origin_does_not_add_up() {
    both(|cores| {
        for answered in [0, 3] {
            let (proxy, before, _clients, _origins) = pipeline_behind_silence(cores, answered);
            assert_small(&proxy, before);
        }
    });
}

#[test]
fn what_is_pipelined_behind_a_silent_origin_costs_others_no_refusal() {
    both(|cores| {
        let (proxy, _, _clients, _origins) = pipeline_behind_silence(cores, 0);
        for _ in 0..HEALTHY {
            // A large head in two segments.
            let mut client = proxy.connect();
            client.send(format!("GET /2 HTTP/1.1\r\nHost: h\r\nCookie: {}", "c".repeat(5000)));
            // The proxy is to see them apart, which nothing shows from outside.
            thread::sleep(Duration::from_millis(20));
            client.send("c\r\n\r\n");
            assert_eq!(client.answer().status(), 200);
        }
    });
}

#[test]
fn interim_answers_without_end_wait_for_the_client() {
    both(|cores| {
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "a".repeat(2000));
        let (bad, sent) = endless("", hint.repeat(30).into_bytes());
        let good = sized();
        let proxy = Proxy::start(&two_services(&[bad.address], good.address, "", ""), cores);
        assert_healthy(&proxy);
        let before = proxy.memory().peak;
        let mut client = narrow(proxy.address);
        client.send("GET /endless HTTP/1.1\r\nHost: bad\r\n\r\n");
        eventually("the origin has begun", || sent.load(Ordering::SeqCst) > 0);
        let sent = settle("the origin waits", &sent);
        assert!(sent < ENDLESS_BYTES, "{sent} bytes");
        assert_small(&proxy, before);
        assert_healthy(&proxy);
    });
}

#[test]
fn clients_that_vanish_within_an_answer_leave_nothing_behind() {
    const CLIENTS: usize = 40;
    both(|cores| {
        let origin = sized();
        let timeouts = "timeouts: {idle_timeout_ms: 500, stall_timeout_ms: 500, linger_ms: 300}";
        let yaml = config(&[origin.address], timeouts, "pool: {max_idle: 1}");
        let proxy = Proxy::start(&yaml, cores);
        let before = proxy.descriptors();
        // A pooled connection for each shard.
        let most = before + cores.split(',').count();
        let open = || {
            let clients = (0..CLIENTS).map(|_| {
                let mut client = narrow(proxy.address);
                client.send("GET /350000 HTTP/1.1\r\nHost: h\r\n\r\n");
                client
            });
            let clients: Vec<Wire> = clients.collect();
            for client in &clients {
                eventually("the answer has begun", || is_told(client));
            }
            clients
        };
        let gone = |how: &str| {
            eventually(&format!("{how}: nothing is left"), || proxy.descriptors() <= most);
        };
        let half_closed = open();
        half_closed.iter().for_each(Wire::finish);
        gone("half-closed and silent");
        drop(half_closed);
        let silent = open();
        gone("silent");
        drop(silent);
        let half_closed = open();
        half_closed.iter().for_each(Wire::finish);
        drop(half_closed);
        gone("half-closed and gone");
        open().into_iter().for_each(Wire::reset);
        gone("reset");
        proxy.stop();
    });
}
