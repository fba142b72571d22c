//! Nothing is lost and nothing counted twice: under load with failures, resets, refused requests
//! and unroutable ones, requests = success + failures + pending in every scope at every scrape, and
//! in the end the totals are the clients' and the origins' own.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Metrics, Origin, Proxy, Rng, Wire, both, eventually, ok};

const SCRAPES: usize = 50;
/// A polite client's connections end after so many requests.
const PER_CONNECTION: usize = 10;
/// How long `/slow` takes, so that something is pending at every scrape.
const SERVICE_TIME: Duration = Duration::from_millis(3);

/// What clients and origins counted by themselves.
#[derive(Default)]
struct Tally {
    /// Answers of the polite clients' by status.
    statuses: Mutex<BTreeMap<u16, u64>>,
    /// Requests of theirs, by service.
    polite: [AtomicU64; 2],
    unroutable: AtomicU64,
    malformed: AtomicU64,
    /// Requests of clients that do not wait for their answers.
    rude: AtomicU64,
    /// Heads that the origin saw.
    heads: AtomicU64,
    body_bytes: AtomicU64,
    done: AtomicBool,
}

#[test]
fn requests_are_conserved_at_every_scrape_and_add_up_to_what_was_seen_outside() {
    both(conserve);
}

fn conserve(cores: &str) {
    let tally = Arc::new(Tally::default());
    let origin = origin(tally.clone());
    let proxy = Proxy::start(&configuration(origin.address), cores);
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (tally, addresses) = (tally.clone(), proxy.addresses.clone());
            thread::spawn(move || match number {
                0..5 => polite(&tally, addresses[0], number),
                5..7 => rude(&tally, addresses[1], number),
                _ => resetting(&tally, addresses[1]),
            })
        })
        .collect();
    let mut snapshots = 0;
    let mut pending = 0;
    for _ in 0..SCRAPES {
        let metrics = proxy.metrics_when("another flush", |metrics| {
            metrics.get("telemetry/snapshots") > snapshots
        });
        snapshots = metrics.get("telemetry/snapshots");
        metrics.check_conservation();
        pending += metrics.get(&format!("{}/pending", proxy.server(0)));
    }
    assert!(pending > 0, "nothing was under way at any scrape: the load is no load");
    tally.done.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("clients do not fail"));
    let metrics = proxy.metrics_when("everybody is gone", |metrics| {
        (0..2).all(|server| metrics.get(&format!("{}/connections", proxy.server(server))) == 0)
    });
    compare(&metrics, &tally, &proxy);
    proxy.stop();
}

fn compare(metrics: &Metrics, tally: &Tally, proxy: &Proxy) {
    metrics.check_conservation();
    for (scope, pending) in metrics.between("", "/pending") {
        assert_eq!(pending, 0, "{scope}");
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let server = proxy.server(0);
    let statuses = tally.statuses.lock().unwrap();
    let counted: BTreeMap<u16, u64> = metrics
        .between(&format!("{server}/status/"), "")
        .into_iter()
        .filter_map(|(status, count)| Some((status.parse().ok()?, count)))
        .collect();
    assert_eq!(counted, *statuses);
    let (web, dead) = (count(&tally.polite[0]), count(&tally.polite[1]));
    let (unroutable, malformed) = (count(&tally.unroutable), count(&tally.malformed));
    let all = web + dead + unroutable + malformed;
    assert_eq!(metrics.get(&format!("{server}/requests")), all);
    assert_eq!(metrics.get(&format!("{server}/failures/no_route")), unroutable);
    assert_eq!(metrics.get(&format!("{server}/failures/bad_request")), malformed);
    assert_eq!(metrics.get(&format!("{server}/answered_here")), unroutable + malformed);
    assert_eq!(metrics.get(&format!("{}/requests", proxy.server(1))), count(&tally.rude));
    assert_eq!(metrics.get("rt/http/service/web/requests"), web + count(&tally.rude));
    // Every attempt at this service reached its origin, and each that it saw was one.
    assert_eq!(metrics.get("rt/http/client/web/requests"), count(&tally.heads));
    let bytes = metrics.get(&format!("{server}/response_payload_bytes.sum"));
    assert_eq!(bytes, count(&tally.body_bytes), "bodies of answers");
    // The dead service refuses each attempt, and there are no more than the budget allows.
    assert_eq!(metrics.get("rt/http/service/dead/requests"), dead);
    let requeues = metrics.get("rt/http/service/dead/retries/requeues");
    assert_eq!(metrics.get("rt/http/client/dead/failures/connect_refused"), dead + requeues);
    assert!(requeues > 0 && requeues <= 2 * dead, "{requeues} of {dead}");
    let retries = metrics.get("rt/http/service/web/retries/total");
    assert!(retries > 0, "nothing was retried");
    assert_eq!(metrics.get("rt/http/service/web/retries/per_request.sum"), retries);
    for key in ["success", "failures/upstream_status", "failures/upstream_reset"] {
        assert!(metrics.get(&format!("rt/http/client/web/{key}")) > 0, "{key} never happened");
    }
    assert!(metrics.get(&format!("{}/failures/client_closed", proxy.server(1))) > 0);
}

fn configuration(origin: SocketAddr) -> String {
    // A port that was free a moment ago: whoever connects there is refused.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!(
        "telemetry: {{flush_interval_ms: 20}}\n\
         routers:\n\
         - label: http\n  servers: [{{port: 0}}, {{port: 0}}]\n  routes:\n  \
           - {{path_prefix: /web, service: web}}\n  - {{path_prefix: /dead, service: dead}}\n\
         services:\n  web:\n    endpoints: [\"{origin}\"]\n    \
           retries: {{classifier: retryable_all_5xx, max_retries: 1, budget: {{percent: 30}}}}\n  \
           dead: {{endpoints: [\"{dead}\"]}}\n"
    )
}

/// Counts each head that it reads, and answers by its path.
fn origin(tally: Arc<Tally>) -> Origin {
    Origin::start(move |mut wire, _| {
        while let Ok(Some(head)) = wire.try_head() {
            tally.heads.fetch_add(1, Ordering::SeqCst);
            let framing = head.request_framing();
            if wire.body(framing, &mut |_| ()).is_err() {
                return;
            }
            let answer = match head.target() {
                "/web/fail" => b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_vec(),
                // A part of an answer, and nothing more.
                "/web/part" => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec(),
                "/web/none" => return,
                _ => ok("fine"),
            };
            if head.target() == "/web/slow" {
                // Works for a while: that is no waiting for something to happen.
                thread::park_timeout(SERVICE_TIME);
            }
            if wire.try_send(answer).is_err() || head.target() == "/web/part" {
                return;
            }
        }
    })
}

/// Reads every answer to its end, and counts it.
fn polite(tally: &Tally, address: SocketAddr, seed: u64) {
    let mut rng = Rng::from(2 * seed + 1);
    while !tally.done.load(Ordering::SeqCst) {
        let mut wire = Wire::connect(address);
        for _ in 0..PER_CONNECTION {
            let path = match rng.up_to(9) - 1 {
                0 => "/web/fail",
                1 => "/web/none",
                2 => "/dead",
                3 => "/nowhere",
                4 => "/web/part",
                5 => "/web bad",
                6 => "/web/slow",
                _ => "/web/fine",
            };
            let body = "12345";
            wire.send(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            let counter = match path {
                "/dead" => &tally.polite[1],
                "/nowhere" => &tally.unroutable,
                "/web bad" => &tally.malformed,
                _ => &tally.polite[0],
            };
            counter.fetch_add(1, Ordering::SeqCst);
            let head = wire.try_head().expect("an answer").expect("a head");
            *tally.statuses.lock().unwrap().entry(head.status()).or_default() += 1;
            // What comes of a body that is broken off in the middle counts too.
            let mut bytes = 0;
            let whole = wire.body(head.answer_framing("POST"), &mut |data| bytes += data.len());
            assert_eq!(whole.is_err(), path == "/web/part", "{path}");
            tally.body_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
            if path == "/web/part" || head.get("connection") == Some("close") {
                break;
            }
        }
    }
}

/// Asks and goes away without waiting.
fn rude(tally: &Tally, address: SocketAddr, seed: u64) {
    let mut rng = Rng::from(2 * seed + 1);
    while !tally.done.load(Ordering::SeqCst) {
        let mut wire = Wire::connect(address);
        let path = if rng.up_to(2) == 1 { "/web/slow" } else { "/web/fine" };
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        tally.rude.fetch_add(1, Ordering::SeqCst);
        // Not so fast that it is a flood.
        thread::park_timeout(SERVICE_TIME);
    }
}

/// Resets its connection in the middle of a body, once its head has got through.
fn resetting(tally: &Tally, address: SocketAddr) {
    while !tally.done.load(Ordering::SeqCst) {
        let mut wire = Wire::connect(address);
        wire.send(
            "POST /web/up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        );
        tally.rude.fetch_add(1, Ordering::SeqCst);
        // The proxy asks for the body once the endpoint has not: the head is through by then.
        let interim = wire.try_head().expect("an interim answer").expect("a head");
        assert_eq!(interim.status(), 100);
        wire.reset();
    }
    eventually("heads were seen", || tally.heads.load(Ordering::SeqCst) > 0);
}
