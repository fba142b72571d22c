//! Fifty reloads under load, each with another set of services and endpoints, other balancers and a
//! listener that comes and goes: no request is lost, no counter ever goes backwards, and in the end
//! the counts are the clients' own.

mod common;

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Origin, Proxy, Rng, Wire, both, eventually, ok};

const RELOADS: usize = 50;
const ORIGINS: usize = 6;
/// Services that every configuration has, and those of which each has some.
const STAY: [&str; 3] = ["a", "b", "c"];
const COME_AND_GO: [&str; 5] = ["v", "w", "x", "y", "z"];
const BALANCERS: [&str; 5] =
    ["ewma", "least_loaded", "round_robin", "aperture", "consistent_hash, hash_by: source"];
/// How long an origin takes, so that requests are on their way whenever a reload comes.
const SERVICE_TIME: Duration = Duration::from_millis(4);
/// Requests that must be answered between two reloads.
const BETWEEN_RELOADS: u64 = 20;

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    /// 404s of services that may not be configured.
    unrouted: AtomicU64,
    lost: Mutex<Vec<String>>,
    done: AtomicBool,
}

#[test]
fn fifty_reloads_lose_nothing() {
    both(|cores| reload_under_load(cores, 8, 400));
}

#[test]
#[ignore = "2,000 requests/s need a release build"]
fn fifty_reloads_lose_nothing_at_2000_requests_per_second() {
    both(|cores| reload_under_load(cores, 24, 2_000));
}

fn reload_under_load(cores: &str, clients: usize, per_second: usize) {
    let seed = Instant::now().elapsed().subsec_nanos() as u64 + std::process::id() as u64;
    eprintln!("seed {seed}");
    let mut rng = Rng::from(2 * seed + 1);
    let origins: Vec<Origin> = (0..ORIGINS).map(|_| slow()).collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(|it| it.address).collect();
    let proxy = Proxy::start_from_file(&configuration(&addresses, &mut rng), cores);
    let tally = Arc::new(Tally::default());
    let begun = Instant::now();
    let pause = Duration::from_secs(1) * clients as u32 / per_second as u32;
    let load: Vec<_> = (0..clients)
        .map(|number| {
            let (tally, address) = (tally.clone(), proxy.address);
            thread::spawn(move || client(&tally, address, number as u64, pause))
        })
        .collect();
    let watch = {
        let (tally, admin) = (tally.clone(), proxy.admin);
        thread::spawn(move || watch(&tally, admin))
    };
    for _ in 0..RELOADS {
        let before = tally.answered.load(Ordering::SeqCst);
        proxy.reload(&configuration(&addresses, &mut rng));
        eventually("requests are answered", || {
            tally.answered.load(Ordering::SeqCst) >= before + BETWEEN_RELOADS
        });
    }
    tally.done.store(true, Ordering::SeqCst);
    load.into_iter().for_each(|client| client.join().expect("a client ends"));
    let scrapes = watch.join().expect("counters only grow");
    let (answered, unrouted) =
        (tally.answered.load(Ordering::SeqCst), tally.unrouted.load(Ordering::SeqCst));
    let lost = tally.lost.lock().unwrap();
    let rate = (answered + unrouted) as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{answered} answered ({rate:.0}/s), {unrouted} 404, {scrapes} scrapes");
    assert!(lost.is_empty(), "{} lost: {lost:#?}", lost.len());
    assert!(scrapes >= 10, "only {scrapes} scrapes");
    assert!(rate > per_second as f64 / 2.0, "{rate:.0} requests/s is not the load meant here");
    let server = proxy.server(0);
    let metrics = proxy.metrics_when("all is counted", |metrics| {
        metrics.get(&format!("{server}/requests")) == answered + unrouted
            && metrics.get(&format!("{server}/connections")) == 0
    });
    metrics.check_conservation();
    assert_eq!(metrics.get(&format!("{server}/status/200")), answered);
    assert_eq!(metrics.get(&format!("{server}/failures/no_route")), unrouted);
    let seen: usize = origins.iter().map(|it| it.requests().len()).sum();
    let attempts: u64 = metrics
        .between("rt/http/client/", "/requests")
        .iter()
        .filter(|it| !it.0.contains('/'))
        .map(|it| it.1)
        .sum();
    assert_eq!(attempts, seen as u64, "attempts, and what the origins saw");
    proxy.stop();
}

fn slow() -> Origin {
    Origin::answering(|_| {
        // Works for a while: that is no waiting for something to happen.
        thread::park_timeout(SERVICE_TIME);
        ok("fine")
    })
}

/// A configuration at random. The first listener is always the same.
fn configuration(addresses: &[SocketAddr], rng: &mut Rng) -> String {
    let servers = if rng.up_to(2) == 1 { "{port: 0}" } else { "{port: 0}, {port: 0}" };
    let mut names: Vec<&str> = STAY.to_vec();
    names.extend(COME_AND_GO.iter().filter(|_| rng.up_to(2) == 1));
    let (mut routes, mut services) = (String::new(), String::new());
    for name in names {
        writeln!(routes, "  - {{path_prefix: /{name}, service: {name}}}").unwrap();
        let mut endpoints: Vec<String> = Vec::new();
        for address in addresses {
            // About half of them.
            let weight = rng.up_to(6);
            if weight <= 3 {
                endpoints.push(format!("{{address: \"{address}\", weight: {weight}}}"));
            }
        }
        if endpoints.is_empty() {
            endpoints.push(format!("\"{}\"", addresses[0]));
        }
        let balancer = BALANCERS[rng.up_to(BALANCERS.len() as u64) as usize - 1];
        let limit = if rng.up_to(2) == 1 { "max_concurrent: 100, max_queue: 900" } else { "" };
        writeln!(
            services,
            "  {name}: {{endpoints: [{}], balancer: {{kind: {balancer}}}, limits: {{{limit}}}}}",
            endpoints.join(", ")
        )
        .unwrap();
    }
    format!(
        "telemetry: {{flush_interval_ms: 20}}\nrouters:\n- label: http\n  servers: [{servers}]\n  \
         routes:\n{routes}services:\n{services}"
    )
}

/// Asks one after the other on a connection that nothing may close.
fn client(tally: &Tally, address: SocketAddr, number: u64, pause: Duration) {
    let mut rng = Rng::from(2 * number + 1);
    let mut wire = Wire::connect(address);
    let mut due = Instant::now();
    while !tally.done.load(Ordering::SeqCst) {
        let stays = rng.up_to(3) > 1;
        let names: &[&str] = if stays { &STAY } else { &COME_AND_GO };
        let name = names[rng.up_to(names.len() as u64) as usize - 1];
        let sent = wire.try_send(format!("GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n"));
        match sent.and_then(|()| wire.try_answer_to("GET")) {
            Ok(answer) if answer.status() == 200 && answer.text() == "fine" => {
                tally.answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) if answer.head.reason() == Some("no_route") && !stays => {
                tally.unrouted.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => {
                let text = format!("/{name}: {} {:?}", answer.status(), answer.head.reason());
                tally.lost.lock().unwrap().push(text);
            }
            Err(error) => {
                tally.lost.lock().unwrap().push(format!("/{name}: {error}"));
                wire = Wire::connect(address);
            }
        }
        due += pause;
        // The pace of the load, and no waiting for something to happen.
        thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
}

/// Scrapes as Prometheus does, and holds each counter to what it was before. How often it did.
fn watch(tally: &Tally, admin: SocketAddr) -> usize {
    let mut before: HashMap<String, f64> = HashMap::new();
    let mut scrapes = 0;
    while !tally.done.load(Ordering::SeqCst) {
        let text = Wire::connect(admin).get("/metrics").text();
        let now = counters(&text);
        assert!(now.len() > 100, "only {} counters", now.len());
        for (name, value) in &before {
            let after = now.get(name).unwrap_or_else(|| panic!("{name} has gone"));
            assert!(after >= value, "{name}: {value}, then {after}");
        }
        before = now;
        scrapes += 1;
    }
    scrapes
}

/// Every sample that may only grow, by name and labels.
fn counters(text: &str) -> HashMap<String, f64> {
    let mut found = HashMap::new();
    let mut is_counter = false;
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# TYPE ") {
            is_counter = of.ends_with(" counter") || of.ends_with(" histogram");
        } else if !line.starts_with('#')
            && is_counter
            && let Some((name, value)) = line.rsplit_once(' ')
        {
            found.insert(name.to_owned(), value.parse().expect("a number"));
        }
    }
    found
}
