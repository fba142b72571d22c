//! Every metric on retries, budget, balancer, pool, failure accrual and endpoints moves when it
//! should and by how much, and gauges go back: `CONTENTS` says which test is for which metric, and
//! the first test holds it to what `/admin/metrics.json` shows. Hedges are not here yet, and health
//! checks are in `health.rs`.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::web::{CLIENT, SERVICE, are, ask, balancer, client, retries, start, yaml};
use common::{Gate, Metrics, Origin, Wire, both, failing, holding, ok, refusing};

/// By file and test: the metrics that it holds, below the service's or the client's scope.
const CONTENTS: &[(&str, &str, &[&str])] = &[
    (
        "policy_metrics",
        "retries_are_counted_and_how_many_each_request_took",
        &["retries/total", "retries/per_request"],
    ),
    ("policy_metrics", "a_connection_that_is_refused_is_requeued", &["retries/requeues"]),
    (
        "policy_metrics",
        "the_budget_grows_with_requests_and_falls_with_retries",
        &["retries/budget", "retries/budget_exhausted"],
    ),
    (
        "policy_metrics",
        "the_balancer_is_what_the_configuration_says",
        &[
            "loadbalancer/algorithm",
            "loadbalancer/size",
            "loadbalancer/adds",
            "loadbalancer/removes",
        ],
    ),
    (
        "policy_metrics",
        "an_aperture_s_width_follows_the_load_and_goes_back",
        &["loadbalancer/width"],
    ),
    (
        "policy_metrics",
        "picks_that_find_nobody_fit_are_counted",
        &["loadbalancer/max_effort_exhausted"],
    ),
    ("policy_metrics", "who_waits_for_a_place_is_a_waiter_until_he_has_one", &["pool_waiters"]),
    (
        "endpoint_metrics",
        "each_attempt_is_a_pick_and_counted_for_its_endpoint",
        &[
            "loadbalancer/picks",
            "endpoint/requests",
            "endpoint/success",
            "endpoint/failures",
            "endpoint/request_latency_ms",
        ],
    ),
    (
        "endpoint_metrics",
        "what_is_under_way_is_load_and_then_a_pooled_connection",
        &["loadbalancer/load", "pool_size", "pool_cached", "endpoint/load", "endpoint/pending"],
    ),
    (
        "endpoint_metrics",
        "available_and_state_follow_drains_ejections_and_probes",
        &["loadbalancer/available", "endpoint/state"],
    ),
    ("endpoint_metrics", "an_ewma_is_the_peak_and_falls_while_nobody_asks", &["endpoint/ewma_ms"]),
    (
        "endpoint_metrics",
        "an_ejection_its_probes_and_its_end_are_counted",
        &[
            "failure_accrual/removals",
            "failure_accrual/revivals",
            "failure_accrual/probes",
            "failure_accrual/removed_for_ms",
        ],
    ),
];

/// What of a client's scope is held here; the rest is in `telemetry_counts.rs`.
const OF_CLIENT: [&str; 4] = ["loadbalancer/", "pool_", "failure_accrual/", "endpoint/"];

#[test]
fn every_metric_has_its_test() {
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = start(&[origin.address], "", "0");
    assert_eq!(proxy.connect().get("/").status(), 200);
    let metrics = proxy.metrics_when("it is counted", |it| it.get(&client("requests")) == 1);
    let endpoint = format!("endpoint/{}/", origin.address);
    let shown: BTreeSet<String> = metrics
        .0
        .keys()
        .filter_map(|name| {
            let of_service = name.strip_prefix(SERVICE).filter(|it| it.starts_with("retries/"));
            let is_held = |name: &&str| OF_CLIENT.iter().any(|scope| name.starts_with(scope));
            let of_client = || name.strip_prefix(CLIENT).filter(is_held);
            let key = of_service.or_else(of_client)?.replace(&endpoint, "endpoint/");
            // What a histogram comes to; and the kind of a balancer, which is a word.
            let key = key.split('.').next().unwrap_or_default();
            let kind = key.strip_prefix("loadbalancer/algorithm/");
            Some(if kind.is_some() { "loadbalancer/algorithm" } else { key }.to_owned())
        })
        .collect();
    let held = CONTENTS.iter().flat_map(|(_, _, metrics)| *metrics);
    assert_eq!(shown, held.clone().map(|it| (*it).to_owned()).collect());
    assert_eq!(shown.len(), held.count(), "a metric twice");
    for (file, test, _) in CONTENTS {
        let path = format!("{}/tests/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a file of ours");
        assert!(text.contains(&format!("#[test]\nfn {test}() {{")), "no test {test} in {file}");
    }
}

#[test]
fn retries_are_counted_and_how_many_each_request_took() {
    both(|cores| {
        // `/2` fails twice.
        let asked = Mutex::new(HashMap::<String, usize>::new());
        let origin = Origin::answering(move |request| {
            let target = request.head.target().to_owned();
            let failures: usize = target[1..].parse().expect("a number");
            let mut asked = asked.lock().unwrap();
            let asked = asked.entry(target).or_default();
            *asked += 1;
            if *asked <= failures { failing() } else { ok("fine") }
        });
        let rules = "retries: {classifier: retryable_read_5xx, budget: {percent: 1000}}";
        let proxy = start(&[origin.address], rules, cores);
        let (total, count) = (retries("total"), retries("per_request.count"));
        are(&proxy, "at first", &[(total.clone(), 0), (count.clone(), 0)]);
        let mut wires: Vec<Wire> = (0..4).map(|_| proxy.connect()).collect();
        // The last one fails more often than it may be tried again.
        for (wire, (path, status)) in
            wires.iter_mut().zip([("/0", 200), ("/1", 200), ("/2", 200), ("/3", 503)])
        {
            assert_eq!(wire.get(path).status(), status, "{path}");
        }
        let after = [(total, 5), (count, 4), (retries("per_request.sum"), 5)];
        let metrics = are(&proxy, "1, 2 and 2 retries", &after);
        for (figure, value) in [("min", 0), ("p50", 1), ("max", 2)] {
            assert_eq!(metrics.get(&retries(&format!("per_request.{figure}"))), value, "{figure}");
        }
        assert_eq!(metrics.get(&retries("requeues")), 0);
        assert_eq!(metrics.get(&retries("budget_exhausted")), 0);
        assert_eq!(origin.requests().len(), 9);
        proxy.stop();
    });
}

#[test]
fn a_connection_that_is_refused_is_requeued() {
    both(|cores| {
        let (_refuses, dead) = refusing();
        let good = Origin::answering(|_| ok("fine"));
        let rules = "retries: {budget: {percent: 1000}}\nfailure_accrual: {kind: none}\n";
        let proxy = start(&[dead], rules, cores);
        are(&proxy, "at first", &[(retries("requeues"), 0)]);
        let mut wires: Vec<Wire> = (0..5).map(|_| proxy.connect()).collect();
        wires.iter_mut().for_each(|wire| assert_eq!(wire.get("/").status(), 502));
        let refused = client("failures/connect_refused");
        are(&proxy, "two each", &[(retries("requeues"), 10), (refused.clone(), 15)]);
        // The first goes to either of them, and on from the one that refuses.
        proxy.reload(&yaml(&[dead, good.address], rules));
        wires.iter_mut().for_each(|wire| assert_eq!(wire.get("/").status(), 200));
        let all = proxy.metrics_when("all are counted", |it| it.get(&client("success")) == 5);
        assert_eq!(all.get(&retries("requeues")), 10 + (all.get(&refused) - 15));
        assert_eq!(all.get(&retries("total")), 0);
        assert_eq!(good.requests().len(), 5);
        all.check_conservation();
        proxy.stop();
    });
}

/// One connection, and so one shard, whose share of the budget is what it has itself seen.
#[test]
fn the_budget_grows_with_requests_and_falls_with_retries() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/fail" => failing(),
            _ => ok("fine"),
        });
        // Nothing leaves a window of a minute while the test lasts.
        let rules = "retries: {classifier: retryable_read_5xx, max_retries: 2, \
                     budget: {percent: 50, min_per_sec: 0, window_secs: 60}}\n\
                     failure_accrual: {kind: none}";
        let proxy = start(&[origin.address], rules, cores);
        let mut wire = proxy.connect();
        let (mut requests, mut made, mut refused) = (0, 0, 0);
        let mut budgets = Vec::new();
        for (good, failing) in [(0, 0), (1, 0), (9, 1), (0, 3), (0, 4), (11, 0), (0, 2)] {
            for path in [vec!["/"; good], vec!["/fail"; failing]].concat() {
                wire.get(path);
                requests += 1;
                if path == "/fail" {
                    let granted = (requests / 2 - made).min(2);
                    made += granted;
                    refused += u64::from(granted < 2);
                }
            }
            let budget = requests / 2 - made;
            budgets.push(budget);
            let values = [
                (format!("{SERVICE}requests"), requests),
                (retries("budget"), budget),
                (retries("total"), made),
                (retries("budget_exhausted"), refused),
            ];
            are(&proxy, &format!("{good} good ones and {failing} that fail"), &values);
        }
        // Used up, and there again.
        assert_eq!((budgets, made, refused), (vec![0, 0, 3, 0, 0, 5, 2], 13, 5));
        proxy.stop();
    });
}

#[test]
fn the_budget_s_reserve_is_spent_and_comes_back() {
    both(|cores| {
        let origin = Origin::answering(|_| failing());
        let rules = "retries: {classifier: retryable_read_5xx, max_retries: 1, \
                     budget: {percent: 0, min_per_sec: 1}}\nfailure_accrual: {kind: none}";
        let proxy = start(&[origin.address], rules, cores);
        // What a second brings, on all shards together.
        let full = 1;
        are(&proxy, "full", &[(retries("budget"), full)]);
        let mut wire = proxy.connect();
        // It comes back a second later at the soonest, so that it is seen gone.
        wire.get("/");
        are(&proxy, "spent", &[(retries("budget"), full - 1), (retries("total"), 1)]);
        are(&proxy, "full again", &[(retries("budget"), full), (retries("total"), 1)]);
        // No more than that is ever there at once.
        wire.get("/");
        wire.get("/");
        let values = [("budget", full - 1), ("total", 2), ("budget_exhausted", 1)];
        are(&proxy, "one of two was retried", &values.map(|(key, value)| (retries(key), value)));
        proxy.stop();
    });
}

#[test]
fn the_balancer_is_what_the_configuration_says() {
    both(|cores| {
        let origins: Vec<Origin> = (0..3).map(|_| Origin::answering(|_| ok("fine"))).collect();
        let [a, b, c] = [0, 1, 2].map(|at| origins[at].address);
        let rules = "balancer: {kind: round_robin}";
        let proxy = start(&[a, b], rules, cores);
        let is = |endpoints: &[SocketAddr], adds: u64, removes: u64| {
            let size = endpoints.len() as u64;
            let values =
                [("size", size), ("available", size), ("adds", adds), ("removes", removes)];
            let values = values.map(|(key, value)| (balancer(key), value));
            are(&proxy, &format!("{endpoints:?}"), &values)
        };
        let kinds = |metrics: &Metrics| -> BTreeMap<String, u64> {
            metrics.between(&balancer("algorithm/"), "").into_iter().collect()
        };
        let metrics = is(&[a, b], 2, 0);
        assert_eq!(kinds(&metrics), BTreeMap::from([("round_robin".to_owned(), 1)]));
        let changes: [(&[SocketAddr], u64, u64); 4] =
            [(&[a, b, c], 3, 0), (&[c], 3, 2), (&[c], 3, 2), (&[b, a], 5, 3)];
        for (endpoints, adds, removes) in changes {
            proxy.reload(&yaml(endpoints, rules));
            is(endpoints, adds, removes);
        }
        proxy.reload(&yaml(&[b, a], "balancer: {kind: least_loaded}"));
        let metrics = proxy.metrics_when("it is another", |it| {
            it.0.contains_key(&balancer("algorithm/least_loaded"))
        });
        assert_eq!(kinds(&metrics), BTreeMap::from([("least_loaded".to_owned(), 1)]));
        is(&[b, a], 5, 3);
        proxy.stop();
    });
}

#[test]
fn an_aperture_s_width_follows_the_load_and_goes_back() {
    both(|cores| {
        let gate = Arc::<Gate>::default();
        let origins: Vec<_> = (0..10).map(|_| holding(&gate).0).collect();
        let addresses: Vec<SocketAddr> = origins.iter().map(|it| it.address).collect();
        let proxy = start(&addresses, "balancer: {kind: ewma}", cores);
        are(&proxy, "no aperture has no width", &[(balancer("width"), 0)]);
        let rules = "balancer: {kind: aperture, decay_ms: 200, min_endpoints: 2}";
        proxy.reload(&yaml(&addresses, rules));
        are(&proxy, "the least", &[(balancer("width"), 2), (balancer("size"), 10)]);
        let mut wires: Vec<Wire> = (0..16).map(|_| ask(&proxy, "/held")).collect();
        // Sixteen at once, with two for each: eight are used. Not one more, since a moving average
        // that comes up to 16 from below is never over it.
        are(&proxy, "as the load needs", &[(balancer("width"), 8), (balancer("load"), 16)]);
        gate.open();
        wires.iter_mut().for_each(|wire| assert_eq!(wire.answer().status(), 200));
        are(&proxy, "the least again", &[(balancer("width"), 2), (balancer("load"), 0)]);
        proxy.stop();
    });
}

#[test]
fn who_waits_for_a_place_is_a_waiter_until_he_has_one() {
    both(|cores| {
        let gate = Arc::<Gate>::default();
        let (origin, _) = holding(&gate);
        let limits = "limits: {max_concurrent: 2, max_queue: 9, queue_timeout_ms: 60000}";
        let proxy = start(&[origin.address], limits, cores);
        let waiting = |what: &str, waiters: u64, load: u64| {
            let waiting = (format!("{SERVICE}waiting"), waiters);
            let values = [(client("pool_waiters"), waiters), waiting, (balancer("load"), load)];
            are(&proxy, what, &values)
        };
        waiting("at first", 0, 0);
        let mut first: Vec<Wire> = (0..2).map(|_| ask(&proxy, "/held")).collect();
        waiting("places for two", 0, 2);
        let mut rest: Vec<Wire> = (0..5).map(|_| ask(&proxy, "/")).collect();
        waiting("five without", 5, 2);
        // Whoever goes does not wait any more.
        rest.pop().into_iter().for_each(Wire::reset);
        waiting("four without", 4, 2);
        gate.open();
        for wire in first.iter_mut().chain(&mut rest) {
            assert_eq!(wire.answer().status(), 200);
        }
        waiting("all are served", 0, 0);
        proxy.stop();
    });
}

#[test]
fn picks_that_find_nobody_fit_are_counted() {
    both(|cores| {
        // Both are ejected by their first requests.
        let origins = [0, 1].map(|_| Origin::answering(|_| failing()));
        let addresses = [0, 1].map(|at| origins[at].address);
        let rules = "balancer: {kind: round_robin}\nfailure_accrual: \
                     {failures: 1, min_ejection_ms: 60000, max_ejected_percent: 100}";
        let proxy = start(&addresses, rules, cores);
        let exhausted = balancer("max_effort_exhausted");
        let mut wires: Vec<Wire> = (0..8).map(|_| proxy.connect()).collect();
        (0..2).for_each(|at| assert_eq!(wires[at].get("/").status(), 503));
        are(&proxy, "somebody was fit", &[(exhausted.clone(), 0), (balancer("picks"), 2)]);
        wires.iter_mut().for_each(|wire| assert_eq!(wire.get("/").status(), 503));
        are(&proxy, "nobody was", &[(exhausted.clone(), 8), (balancer("picks"), 10)]);
        proxy.stop();
        // One that has as many as it may is drawn a thousand times of a thousand and one.
        let gate = Arc::<Gate>::default();
        let origins = [0, 1].map(|_| holding(&gate).0);
        let addresses = [0, 1].map(|at| origins[at].address);
        let rules = "balancer: {kind: round_robin}\n\
                     limits: {max_concurrent_per_endpoint: 1, max_queue: 9}";
        let proxy = start(&addresses, rules, cores);
        let mut held = ask(&proxy, "/held");
        are(&proxy, "it has room", &[(exhausted.clone(), 0), (balancer("load"), 1)]);
        let is_held =
            |it: &&SocketAddr| proxy.endpoint("web", **it).is_some_and(|it| it["load"] == 1);
        let full = addresses.iter().find(is_held).expect("one of them has it");
        let heavy = proxy.post(&format!("/admin/endpoints/{full}"), "{\"weight\": 1000}");
        assert_eq!(heavy.status(), 200);
        for _ in 0..8 {
            assert_eq!(proxy.connect().get("/").status(), 200);
        }
        // The other one's turn may come once on each shard.
        let metrics = proxy.metrics_when("all are counted", |it| it.get(&balancer("picks")) == 9);
        let shards = cores.split(',').count() as u64;
        let count = metrics.get(&exhausted);
        assert!((8 - shards..=8).contains(&count), "{count}");
        gate.open();
        assert_eq!(held.answer().status(), 200);
        are(&proxy, "it has ended", &[(balancer("load"), 0)]);
        assert_eq!(proxy.connect().get("/").status(), 200);
        are(&proxy, "it has room again", &[(exhausted.clone(), count), (balancer("picks"), 10)]);
        proxy.stop();
    });
}
