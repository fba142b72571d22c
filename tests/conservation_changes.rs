//! Nothing is lost and nothing counted twice while everything changes at once: endpoints fail and
//! are ejected, refuse and are left for others, are drained, taken out and brought back; requests
//! queue and are refused; a service comes and goes, and limits, budgets and balancers are others
//! with each reload. The equations hold at every scrape, and in the end all counts are the clients'
//! and the origins' own.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Metrics, Origin, Proxy, Rng, Wire};
use common::{both, config, eventually, failing, ok, refusing};

const ORIGINS: usize = 5;
/// At least so many reloads, each followed by a scrape.
const CHANGES: usize = 90;
/// A polite client's connections end after so many requests.
const PER_CONNECTION: usize = 10;
/// How long `/slow` takes, and so others wait for its place.
const SERVICE_TIME: Duration = Duration::from_millis(15);
/// Of a client after each request: changes, and not floods, are what is tried here.
const PAUSE: Duration = Duration::from_millis(10);
const BALANCERS: [&str; 5] =
    ["ewma", "round_robin", "aperture", "least_loaded", "consistent_hash, hash_by: source"];
const LIMITS: [&str; 3] = [
    "max_concurrent: 3, max_queue: 3, queue_timeout_ms: 30",
    "max_concurrent_per_endpoint: 1, max_queue: 3, queue_timeout_ms: 1000",
    "max_concurrent: 0",
];

/// What must have happened before the test is over: else it has shown nothing.
const HAPPENS: [&str; 14] = [
    "service/web/retries/total",
    "service/web/retries/requeues",
    "service/web/retries/budget_exhausted",
    "service/web/failures/overloaded",
    "service/web/failures/client_closed",
    "service/side/success",
    "client/web/failures/upstream_status",
    "client/web/failures/upstream_reset",
    "client/web/failures/reused_closed",
    "client/web/failures/connect_refused",
    "client/web/failure_accrual/removals",
    "client/web/failure_accrual/probes",
    "client/web/failure_accrual/revivals",
    "client/web/loadbalancer/removes",
];

/// What clients and origins counted by themselves.
#[derive(Default)]
struct Tally {
    /// Answers of the polite clients' by status.
    statuses: Mutex<BTreeMap<u16, u64>>,
    /// Requests of theirs to `web`, and to `side` while it was there.
    web: AtomicU64,
    side: AtomicU64,
    /// Those that went nowhere.
    unroutable: AtomicU64,
    /// Requests of clients that do not wait for their answers.
    rude: AtomicU64,
    body_bytes: AtomicU64,
    /// Heads that each origin saw.
    heads: [AtomicU64; ORIGINS],
    /// Answers nothing but 503 for the time being.
    is_ill: [AtomicBool; ORIGINS],
    done: AtomicBool,
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

#[test]
fn requests_are_conserved_while_everything_changes() {
    both(conserve);
}

fn conserve(cores: &str) {
    let tally = Arc::new(Tally::default());
    let origins: Vec<Origin> = (0..ORIGINS).map(|at| origin(tally.clone(), at)).collect();
    let (_refuses, dead) = refusing();
    let all: Vec<SocketAddr> = origins.iter().map(|it| it.address).collect();
    let proxy = Proxy::start_from_file(&configuration(&all, dead, 0), cores);
    let clients: Vec<_> = (0..12)
        .map(|number| {
            let (tally, addresses) = (tally.clone(), proxy.addresses.clone());
            thread::spawn(move || match number {
                0..8 => polite(&tally, addresses[0], number),
                8..10 => rude(&tally, addresses[1], number),
                _ => resetting(&tally, addresses[1]),
            })
        })
        .collect();
    change(&proxy, &tally, &all, dead);
    tally.done.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("clients do not fail"));
    proxy.metrics_when("everybody is gone", |metrics| {
        (0..2).all(|server| metrics.get(&format!("{}/connections", proxy.server(server))) == 0)
            && metrics.between("rt/", "/pending").iter().all(|(_, pending)| *pending == 0)
    });
    let metrics = Metrics::since_start(proxy.admin);
    compare_clients(&metrics, &tally, &proxy);
    compare_origins(&metrics, &tally, &all, dead);
    proxy.stop();
}

/// Its endpoints' slots are not those of the service that has its name afterwards.
#[test]
fn an_attempt_at_a_service_that_went_is_counted_for_its_endpoint() {
    both(|cores| {
        for comes_back in [false, true] {
            let (bad, other) = (Origin::answering(|_| failing()), Origin::answering(|_| ok("b")));
            let rules = "retries: {classifier: retryable_read_5xx, max_retries: 1, \
                         backoff: {kind: constant, ms: 1500}}";
            let yaml = |name: &str, endpoints: &[SocketAddr]| {
                let yaml = config(endpoints, "", rules);
                let yaml = yaml.replace("service: web", &format!("service: {name}"));
                "telemetry: {flush_interval_ms: 20}\n".to_owned()
                    + &yaml.replace("\n  web:", &format!("\n  {name}:"))
            };
            let proxy = Proxy::start_from_file(&yaml("web", &[bad.address]), cores);
            let mut client = proxy.connect();
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            eventually("the first attempt", || bad.requests().len() == 1);
            proxy.reload(&yaml("other", &[other.address]));
            if comes_back {
                proxy.reload(&yaml("web", &[other.address, bad.address]));
            }
            assert_eq!(client.answer().status(), 503);
            let metrics = proxy.metrics_when("it is counted", |metrics| {
                metrics.get("rt/http/service/web/failures") == 1
            });
            metrics.check_conservation();
            let of = |key: &str| metrics.get(&format!("rt/http/client/web/{key}"));
            assert_eq!(of(&format!("endpoint/{}/failures", bad.address)), 2, "back: {comes_back}");
            assert_eq!(of("request_latency_ms.count"), 2, "back: {comes_back}");
            assert_eq!((bad.requests().len(), other.requests().len()), (2, 0));
            proxy.stop();
        }
    });
}

/// Changes everything, time and again, until all has happened that is to.
fn change(proxy: &Proxy, tally: &Tally, all: &[SocketAddr], dead: SocketAddr) {
    let (begun, mut changes, mut waited) = (Instant::now(), 0, false);
    let mut missing = HAPPENS.to_vec();
    let mut snapshots = 0;
    while changes < CHANGES || !missing.is_empty() || !waited {
        assert!(begun.elapsed() < 2 * DEADLINE, "never: {missing:?}, waited: {waited}");
        changes += 1;
        proxy.reload(&configuration(all, dead, changes));
        // One is ill for a while, and another one drained; that before it is ready again.
        for (at, is_ill) in tally.is_ill.iter().enumerate() {
            is_ill.store(at == changes / 4 % ORIGINS, Ordering::SeqCst);
        }
        let set = |at: usize, json: &str| {
            let path = format!("/admin/endpoints/{}", all[at % ORIGINS]);
            let status = proxy.post(&path, json).status();
            // The configuration may be without it.
            assert!(status == 200 || status == 404, "{status}");
        };
        set(changes, "{\"ready\": true}");
        set(changes + 1, "{\"drain\": true}");
        let metrics = proxy.metrics_when("another flush", |metrics| {
            metrics.get("telemetry/snapshots") > snapshots
        });
        snapshots = metrics.get("telemetry/snapshots");
        metrics.check_conservation();
        missing.retain(|name| metrics.get(&format!("rt/http/{name}")) == 0);
        waited |= metrics.get("rt/http/client/web/pool_waiters") > 0;
    }
    eprintln!("{changes} changes in {:?}", begun.elapsed());
}

/// What was asked and answered, as the clients have it.
fn compare_clients(metrics: &Metrics, tally: &Tally, proxy: &Proxy) {
    metrics.check_conservation();
    let server = proxy.server(0);
    let statuses = tally.statuses.lock().unwrap();
    let counted: BTreeMap<u16, u64> = metrics
        .between(&format!("{server}/status/"), "")
        .into_iter()
        .filter_map(|(status, count)| Some((status.parse().ok()?, count)))
        .collect();
    assert_eq!(counted, *statuses);
    let [web, side] = [&tally.web, &tally.side].map(count);
    let [unroutable, rude] = [&tally.unroutable, &tally.rude].map(count);
    eprintln!("{web} to web, {side} to side, {unroutable} nowhere, {rude} rude; {statuses:?}");
    let names = [
        (format!("{server}/requests"), web + side + unroutable),
        (format!("{server}/response_payload_bytes.sum"), count(&tally.body_bytes)),
        (format!("{server}/failures/no_route"), unroutable),
        (format!("{}/requests", proxy.server(1)), rude),
        ("rt/http/service/web/requests".to_owned(), web + rude),
        ("rt/http/service/side/requests".to_owned(), side),
    ];
    for (name, expected) in names {
        assert_eq!(metrics.get(&name), expected, "{name}");
    }
}

/// What was tried, as the origins have it, and what of it is left.
fn compare_origins(metrics: &Metrics, tally: &Tally, all: &[SocketAddr], dead: SocketAddr) {
    let of = |service: &str, key: &str| metrics.get(&format!("rt/http/client/{service}/{key}"));
    for (at, address) in all.iter().enumerate() {
        let attempts = ["web", "side"].map(|it| of(it, &format!("endpoint/{address}/requests")));
        // Every attempt reached its origin, and each that it saw was one.
        assert_eq!(attempts[0] + attempts[1], count(&tally.heads[at]), "{address}");
    }
    for service in ["web", "side"] {
        let attempts = of(service, "requests");
        assert_eq!(of(service, "request_latency_ms.count"), attempts, "{service}");
    }
    let refused = of("web", "failures/connect_refused");
    assert_eq!(of("web", &format!("endpoint/{dead}/requests")), refused);
    assert_eq!(of("web", "loadbalancer/picks"), of("web", "requests"));
    let retries = |key: &str| metrics.get(&format!("rt/http/service/web/retries/{key}"));
    assert_eq!(retries("per_request.sum"), retries("total"));
    let waiting = metrics.get("rt/http/service/web/waiting");
    assert_eq!((waiting, of("web", "pool_waiters"), of("web", "loadbalancer/load")), (0, 0, 0));
    assert_eq!(of("web", "pool_size"), of("web", "connections"));
    assert_eq!(of("web", "connections"), of("web", "connects") - of("web", "closes"));
    for (name, value) in metrics.between("rt/http/client/", "/load") {
        assert_eq!(value, 0, "{name}");
    }
    let [removals, probes, revivals] =
        ["removals", "probes", "revivals"].map(|it| of("web", &format!("failure_accrual/{it}")));
    assert!(revivals <= removals && revivals <= probes, "{removals}, {probes}, {revivals}");
}

/// The configuration after so many changes: another one of the origins is missing, `side` is there
/// or not, and the rules are others.
fn configuration(all: &[SocketAddr], dead: SocketAddr, changes: usize) -> String {
    let missing = changes / 2 % ORIGINS;
    let endpoints: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != missing)
        .map(|(at, address)| format!("{{address: \"{address}\", weight: {}}}", 1 + at % 3))
        .chain([format!("\"{dead}\"")])
        .collect();
    let (route, service) = match changes % 2 {
        0 => ("", String::new()),
        _ => ("  - {path_prefix: /side, service: side}\n", side(all[missing])),
    };
    format!(
        "telemetry: {{flush_interval_ms: 20}}\n\
         routers:\n\
         - label: http\n  servers: [{{port: 0}}, {{port: 0}}]\n  routes:\n{route}  \
           - {{path_prefix: /web, service: web}}\n\
         services:\n{service}  web:\n    endpoints: [{}]\n    \
           balancer: {{kind: {}}}\n    limits: {{{}}}\n    \
           timeouts: {{expect_timeout_ms: 20}}\n    failure_accrual: {{failures: 3, \
             min_ejection_ms: 40, max_ejection_ms: 80, max_ejected_percent: 60}}\n    \
           retries: {{classifier: retryable_all_5xx, max_retries: 2, \
             budget: {{percent: {}, min_per_sec: 5}}}}\n",
        endpoints.join(", "),
        BALANCERS[changes % BALANCERS.len()],
        LIMITS[changes / 2 % LIMITS.len()],
        10 + changes % 4 * 10,
    )
}

fn side(endpoint: SocketAddr) -> String {
    format!("  side: {{endpoints: [\"{endpoint}\"], retries: {{classifier: retryable_all_5xx}}}}\n")
}

/// Counts each head that it reads, and answers by its path.
fn origin(tally: Arc<Tally>, at: usize) -> Origin {
    Origin::start(move |mut wire, _| {
        while let Ok(Some(head)) = wire.try_head() {
            add_one(&tally.heads[at]);
            let framing = head.request_framing();
            if wire.body(framing, &mut |_| ()).is_err() {
                return;
            }
            let is_ill = tally.is_ill[at].load(Ordering::SeqCst);
            let answer = match head.target() {
                "/web/none" => return,
                _ if is_ill => failing(),
                "/web/fail" => failing(),
                // A part of an answer, and nothing more.
                "/web/part" => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec(),
                _ => ok("fine"),
            };
            if head.target().ends_with("/slow") {
                // Works for a while: that is no waiting for something to happen.
                thread::park_timeout(SERVICE_TIME);
            }
            let is_part = answer.ends_with(b"half");
            if wire.try_send(answer).is_err() || is_part {
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
            let path = match rng.up_to(12) {
                1 => "/web/fail",
                2 => "/web/none",
                3 => "/web/part",
                4 => "/nowhere",
                5 => "/side/fine",
                6 => "/side/slow",
                7..=9 => "/web/slow",
                _ => "/web/fine",
            };
            // Those that may be sent again though nobody knows what became of them, and others.
            let method = if rng.up_to(2) == 1 { "PUT" } else { "POST" };
            wire.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"
            ));
            let head = wire.try_head().expect("an answer").expect("a head");
            let is_unroutable = head.reason() == Some("no_route");
            add_one(match path {
                _ if is_unroutable => &tally.unroutable,
                "/side/fine" | "/side/slow" => &tally.side,
                _ => &tally.web,
            });
            *tally.statuses.lock().unwrap().entry(head.status()).or_default() += 1;
            // What comes of a body that is broken off in the middle counts too.
            let mut bytes = 0;
            let whole = wire.body(head.answer_framing(method), &mut |data| bytes += data.len());
            assert_eq!(whole.is_err(), path == "/web/part" && head.status() == 200, "{path}");
            tally.body_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
            thread::park_timeout(PAUSE);
            if whole.is_err() || head.get("connection") == Some("close") {
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
        add_one(&tally.rude);
        thread::park_timeout(PAUSE);
    }
}

/// Resets its connection in the middle of a body, once its head has got through.
fn resetting(tally: &Tally, address: SocketAddr) {
    while !tally.done.load(Ordering::SeqCst) {
        let mut wire = Wire::connect(address);
        wire.send(
            "POST /web/up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        );
        add_one(&tally.rude);
        // The proxy asks for the body where the endpoint has not: the head is through by then. Or
        // there is no place for it, or only endpoints that refuse.
        let head = wire.try_head().expect("an answer").expect("a head");
        if head.status() == 100 {
            wire.reset();
        } else {
            assert!(head.reason().is_some(), "{head:?}");
        }
        thread::park_timeout(PAUSE);
    }
}
