//! What an operator writes holds for the process: the same limits, budgets and accrual settings
//! give the same totals with one shard and with four. Limits and counts exactly, retries and the
//! time that endpoints are out within 20 %.

mod common;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use common::{
    DEADLINE, Metrics, Origin, Proxy, Wire, both, config, eventually, failing, ok, refusing,
};

const RETRIES: &str = "rt/http/service/web/retries";
const ACCRUAL: &str = "rt/http/client/web/failure_accrual";
/// By how much what is not exact may differ.
const MAX_DIFFERENCE: f64 = 0.2;
/// Held while something is measured: beside each other, on few cores, these tests would measure how
/// busy the machine is.
static ALONE: Mutex<()> = Mutex::new(());
/// So many that each of four shards has some, wherever SO_REUSEPORT puts them.
const CONNECTIONS: usize = 64;

/// What is measured with one shard and with four.
fn measured<T>(measure: impl Fn(&str) -> T) -> [T; 2] {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = RefCell::new(Vec::new());
    both(|cores| {
        let one = measure(cores);
        found.borrow_mut().push(one);
    });
    let Ok(both) = found.into_inner().try_into() else { unreachable!("one and four") };
    both
}

#[track_caller]
fn differ_little(what: &str, [one, four]: [f64; 2]) {
    let difference = (one - four).abs() / one.min(four);
    eprintln!("{what}: {one:.1} with one shard, {four:.1} with four: {:.1} %", 100.0 * difference);
    assert!(difference <= MAX_DIFFERENCE, "{what}: {one} and {four}");
}

fn start(endpoints: &[SocketAddr], rules: &str, cores: &str) -> Proxy {
    let yaml = config(endpoints, "", &format!("balancer: {{kind: round_robin}}\n{rules}"));
    Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), cores)
}

fn shards(cores: &str) -> usize {
    cores.split(',').count()
}

fn connections(proxy: &Proxy) -> Vec<Wire> {
    (0..CONNECTIONS).map(|_| proxy.connect()).collect()
}

/// Of each shard. No total is one of four shards if all of it is in one.
fn check_spread(proxy: &Proxy, cores: &str) {
    let metrics = proxy.metrics_when("all are there", |metrics| {
        let connections = metrics.between("shard/", "/connections");
        connections.iter().map(|(_, count)| count).sum::<u64>() == CONNECTIONS as u64
    });
    let each: Vec<u64> = metrics.between("shard/", "/connections").iter().map(|it| it.1).collect();
    eprintln!("connections of each shard: {each:?}");
    assert_eq!(each.len(), shards(cores));
    assert!(each.iter().all(|count| *count > 0), "{each:?}");
}

/// How many requests somebody had at once, at most.
#[derive(Default)]
struct AtOnce {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl AtOnce {
    fn begin(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// The most that two origins had at once: both together, and each. All are answered in the end.
fn at_once(limits: &str, cores: &str) -> (usize, [usize; 2]) {
    let counts: [Arc<AtOnce>; 3] = Default::default();
    let origins = [0, 1].map(|at| {
        let (all, own) = (counts[2].clone(), counts[at].clone());
        Origin::answering(move |_| {
            [&all, &own].into_iter().for_each(|it| it.begin());
            // Works for a while: that is no waiting for something to happen.
            thread::park_timeout(Duration::from_millis(5));
            [&all, &own].into_iter().for_each(|it| it.end());
            ok("fine")
        })
    });
    let addresses = [0, 1].map(|at| origins[at].address);
    let limits = format!("limits: {{{limits}, max_queue: 100, queue_timeout_ms: 20000}}");
    let proxy = start(&addresses, &limits, cores);
    let wires = connections(&proxy);
    check_spread(&proxy, cores);
    let ask = |mut wire: Wire| {
        thread::spawn(move || (0..10).for_each(|_| assert_eq!(wire.get("/").status(), 200)))
    };
    let clients: Vec<_> = wires.into_iter().map(ask).collect();
    clients.into_iter().for_each(|client| client.join().expect("each is answered"));
    proxy.stop();
    (counts[2].most(), [counts[0].most(), counts[1].most()])
}

#[test]
fn as_many_are_under_way_at_once_as_may_be() {
    let of_service = measured(|cores| at_once("max_concurrent: 7", cores).0);
    assert_eq!(of_service, [7, 7]);
    let of_endpoints = measured(|cores| at_once("max_concurrent_per_endpoint: 3", cores));
    assert_eq!(of_endpoints, [(6, [3, 3]); 2]);
}

#[test]
fn as_many_wait_as_may_and_the_rest_is_told_so() {
    const ADMITTED: usize = 5;
    const WAITING: usize = 9;
    let refused = measured(|cores| {
        let is_open = Arc::new(AtomicBool::new(false));
        let held = is_open.clone();
        let origin = Origin::answering(move |_| {
            eventually("it is let go", || held.load(Ordering::SeqCst));
            ok("fine")
        });
        let limits = format!(
            "limits: {{max_concurrent: {ADMITTED}, max_queue: {WAITING}, queue_timeout_ms: 60000}}"
        );
        let proxy = start(&[origin.address], &limits, cores);
        let mut wires = connections(&proxy);
        check_spread(&proxy, cores);
        wires.iter_mut().for_each(|wire| wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
        let refused = (CONNECTIONS - ADMITTED - WAITING) as u64;
        let metrics = proxy.metrics_when("all have come", |metrics| {
            metrics.get("rt/http/service/web/requests") == CONNECTIONS as u64
        });
        assert_eq!(metrics.get("rt/http/service/web/failures/overloaded"), refused);
        is_open.store(true, Ordering::SeqCst);
        let statuses: Vec<u16> = wires.iter_mut().map(|wire| wire.answer().status()).collect();
        proxy.stop();
        statuses.iter().filter(|status| **status == 503).count()
    });
    assert_eq!(refused, [CONNECTIONS - ADMITTED - WAITING; 2]);
}

/// How an outage is asked through: by a few threads, each over some of the connections.
struct Load {
    clients: usize,
    /// Between two requests of a thread.
    pause: Duration,
    lasts: Duration,
}

/// With every endpoint failing, and in the end: requests, retries, and how long that took.
fn outage(budget: &str, load: &Load, cores: &str) -> (u64, u64, f64) {
    let origins = [0, 1, 2].map(|_| Origin::answering(|_| failing()));
    let addresses = [0, 1, 2].map(|at| origins[at].address);
    let (requests, metrics, took) = outage_of(&addresses, budget, load, cores, 503);
    let retries = metrics.get(&format!("{RETRIES}/total"));
    let seen: usize = origins.iter().map(|origin| origin.requests().len()).sum();
    assert_eq!(seen as u64, requests + retries, "as the origins have it");
    eprintln!("{retries} retries of {requests} requests in {took:.2} s");
    (requests, retries, took)
}

/// The same with endpoints of any kind, to which each request gets this status.
fn outage_of(
    addresses: &[SocketAddr],
    budget: &str,
    load: &Load,
    cores: &str,
    status: u16,
) -> (u64, Metrics, f64) {
    let rules = format!(
        "failure_accrual: {{kind: none}}\n\
         retries: {{classifier: retryable_all_5xx, budget: {{{budget}}}}}"
    );
    let proxy = start(addresses, &rules, cores);
    let mut wires = connections(&proxy);
    check_spread(&proxy, cores);
    let (pause, lasts) = (load.pause, load.lasts);
    let begun = Instant::now();
    let clients: Vec<_> = (0..load.clients)
        .map(|_| {
            let mut wires = wires.split_off(wires.len() - CONNECTIONS / load.clients);
            thread::spawn(move || {
                let mut requests = 0;
                while pause * requests < lasts {
                    // Open loop: the next is due whatever became of the last.
                    thread::park_timeout((pause * requests).saturating_sub(begun.elapsed()));
                    let at = requests as usize % wires.len();
                    assert_eq!(wires[at].get("/").status(), status);
                    requests += 1;
                }
                u64::from(requests)
            })
        })
        .collect();
    let requests = clients.into_iter().map(|it| it.join().expect("each is answered")).sum();
    let took = begun.elapsed().as_secs_f64();
    let metrics = settled(&proxy, requests);
    assert!(metrics.get(&format!("{RETRIES}/budget_exhausted")) > 0, "the budget is what bounds");
    proxy.stop();
    (requests, metrics, took)
}

fn settled(proxy: &Proxy, requests: u64) -> Metrics {
    let metrics = proxy.metrics_when("all are counted", |metrics| {
        let of_service = |key: &str| metrics.get(&format!("rt/http/service/web/{key}"));
        of_service("requests") == requests && of_service("pending") == 0
    });
    metrics.check_conservation();
    metrics
}

#[test]
fn so_many_retries_a_second_are_as_many_over_all_shards() {
    const MIN_PER_SEC: f64 = 40.0;
    let budget = format!("percent: 0, min_per_sec: {MIN_PER_SEC}");
    // Each shard is asked for more than its part of them.
    let load = Load { clients: 4, pause: Duration::from_millis(16), lasts: Duration::from_secs(4) };
    let found = measured(|cores| outage(&budget, &load, cores));
    for (_, retries, took) in found {
        // What a second brings is there at first.
        let expected = MIN_PER_SEC * (1.0 + took);
        let retries = retries as f64;
        assert!((0.9 * expected..=expected + 1.0).contains(&retries), "{retries} in {took} s");
    }
    differ_little("retries", found.map(|(_, retries, _)| retries as f64));
}

#[test]
fn connections_that_are_refused_are_made_again_as_often_over_all_shards() {
    const MIN_PER_SEC: f64 = 40.0;
    let budget = format!("percent: 0, min_per_sec: {MIN_PER_SEC}");
    let load = Load { clients: 4, pause: Duration::from_millis(16), lasts: Duration::from_secs(4) };
    let dead = [refusing(), refusing(), refusing()];
    let addresses = dead.each_ref().map(|(_, address)| *address);
    let found = measured(|cores| {
        let (requests, metrics, took) = outage_of(&addresses, &budget, &load, cores, 502);
        let requeues = metrics.get(&format!("{RETRIES}/requeues"));
        let attempts = metrics.get("rt/http/client/web/failures/connect_refused");
        assert_eq!(attempts, requests + requeues);
        eprintln!("{requeues} requeues of {requests} requests in {took:.2} s");
        (requeues as f64, took)
    });
    for (requeues, took) in found {
        let expected = MIN_PER_SEC * (1.0 + took);
        assert!((0.9 * expected..=expected + 1.0).contains(&requeues), "{requeues} in {took} s");
    }
    differ_little("requeues", found.map(|(requeues, _)| requeues));
}

#[test]
fn a_share_of_the_requests_is_as_many_retries_over_all_shards() {
    let load = Load { clients: 4, pause: Duration::from_millis(16), lasts: Duration::from_secs(3) };
    let found = measured(|cores| outage("percent: 25, min_per_sec: 0", &load, cores));
    for ((requests, retries, _), shards) in found.into_iter().zip([1, 4]) {
        // Each shard rounds its own share down.
        let share = requests / 4;
        assert!((share + 1 - shards..=share).contains(&retries), "{retries} of {requests}");
    }
    differ_little("retries", found.map(|(_, retries, _)| retries as f64));
}

/// When an origin was asked.
type Moments = Arc<Mutex<Vec<Instant>>>;

/// Origins of which the first so many fail the first request that each of them is asked.
fn fail_first(origins: usize, failing_ones: usize) -> (Vec<Origin>, Vec<Moments>) {
    let moments: Vec<Moments> = (0..origins).map(|_| Moments::default()).collect();
    let origin = |(at, moments): (usize, &Moments)| {
        let moments = moments.clone();
        Origin::answering(move |_| {
            let mut moments = moments.lock().unwrap();
            moments.push(Instant::now());
            if at < failing_ones && moments.len() == 1 { failing() } else { ok("fine") }
        })
    };
    (moments.iter().enumerate().map(origin).collect(), moments)
}

/// 400 requests a second, one after another, until `holds`.
fn ask_until(wires: &mut [Wire], what: &str, mut holds: impl FnMut() -> bool) {
    const PAUSE: Duration = Duration::from_micros(2_500);
    // Whether it holds is looked at four times a second.
    const AT_A_TIME: u32 = 100;
    let (begun, mut asked) = (Instant::now(), 0);
    while asked % AT_A_TIME != 0 || !holds() {
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::park_timeout((PAUSE * asked).saturating_sub(begun.elapsed()));
        wires[asked as usize % CONNECTIONS].get("/");
        asked += 1;
    }
    eprintln!("{asked} requests in {:?}", begun.elapsed());
}

/// Ejects `failing_ones` of so many origins once, and asks until all are back; for how long each of
/// them was out in the mean, in ms.
fn eject(origins: usize, failing_ones: usize, min_ms: u64, cores: &str) -> (f64, Vec<Moments>) {
    let (origins, moments) = fail_first(origins, failing_ones);
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let rules = format!(
        "failure_accrual: {{failures: 1, min_ejection_ms: {min_ms}, max_ejected_percent: 100}}"
    );
    let proxy = start(&addresses, &rules, cores);
    let mut wires = connections(&proxy);
    check_spread(&proxy, cores);
    let all = failing_ones as u64;
    // Little of the tree: with so many endpoints the whole takes the machine a while.
    let query = format!("/admin/metrics.json?q={ACCRUAL}");
    let are_back = || {
        let answer = Wire::connect(proxy.admin).get(&query);
        let metrics: Value = serde_json::from_slice(&answer.body).expect("JSON");
        metrics["revivals"] == all
    };
    ask_until(&mut wires, "all are back", are_back);
    let metrics = proxy.metrics();
    let accrual = |key: &str| metrics.float(&format!("{ACCRUAL}/{key}"));
    let counts = ["removals", "probes", "revivals"].map(|key| accrual(key) as u64);
    assert_eq!(counts, [all; 3], "each was out once, and asked once whether it is back");
    metrics.check_conservation();
    proxy.stop();
    (accrual("removed_for_ms") / failing_ones as f64, moments)
}

/// While all are out they are asked as if none was, but only a probe brings one back.
#[test]
fn endpoints_are_out_for_as_long() {
    const MIN_EJECTION_MS: u64 = 1_000;
    let out_ms = measured(|cores| eject(60, 60, MIN_EJECTION_MS, cores).0);
    // Up to twice as long, at random, and until the next request after that.
    out_ms.iter().for_each(|ms| assert!((1_200.0..2_500.0).contains(ms), "{ms} ms"));
    differ_little("ms out in the mean of 60", out_ms);
}

/// With fewer than half of them out, those that are get no request but their probes.
#[test]
fn each_ejection_ends_with_a_single_probe() {
    const ALL: usize = 30;
    const OUT: usize = 12;
    const MIN_EJECTION: Duration = Duration::from_millis(500);
    measured(|cores| {
        let (_, moments) = eject(ALL, OUT, MIN_EJECTION.as_millis() as u64, cores);
        for moments in &moments[..OUT] {
            let moments = moments.lock().unwrap();
            let out = moments[1] - moments[0];
            assert!(out >= MIN_EJECTION, "asked after {out:?}, and it was no probe");
        }
    });
}

#[test]
fn as_many_failures_in_a_row_are_enough() {
    const FAILURES: [usize; 3] = [1, 4, 9];
    let asked = measured(|cores| {
        FAILURES.map(|failures| {
            let bad = [0, 1].map(|_| Origin::answering(|_| failing()));
            let good = [0, 1, 2].map(|_| Origin::answering(|_| ok("fine")));
            let all = [&bad[0], &good[0], &good[1], &bad[1], &good[2]].map(|it| it.address);
            let accrual = format!("failures: {failures}, min_ejection_ms: 60000");
            let proxy = start(&all, &format!("failure_accrual: {{{accrual}}}"), cores);
            let mut wires = connections(&proxy);
            check_spread(&proxy, cores);
            ask_until(&mut wires, "both are out", || {
                proxy.metrics().get(&format!("{ACCRUAL}/removals")) == 2
            });
            wires.iter_mut().for_each(|wire| assert_eq!(wire.get("/").status(), 200));
            proxy.stop();
            [&bad[0], &bad[1]].map(|bad| bad.requests().len())
        })
    });
    assert_eq!(asked, [FAILURES.map(|failures| [failures; 2]); 2]);
}
