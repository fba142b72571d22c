//! What metrics say of each endpoint, and of all of them together as they come and go: attempts,
//! load and pool, latency, state, and the failure accrual's counts. The table in
//! `policy_metrics.rs` says which test is for which metric.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::web::{accrual, are, ask, balancer, client, endpoint, start, yaml};
use common::{Gate, Origin, Wire, both, eventually, failing, holding, ok};

#[test]
fn each_attempt_is_a_pick_and_counted_for_its_endpoint() {
    const REQUESTS: u64 = 12;
    const SERVICE_TIME: Duration = Duration::from_millis(20);
    both(|cores| {
        let bad = Origin::answering(|_| failing());
        let good = Origin::answering(|_| {
            // Works for a while: that is no waiting for something to happen.
            thread::park_timeout(SERVICE_TIME);
            ok("fine")
        });
        let rules = "balancer: {kind: round_robin}\nfailure_accrual: {kind: none}\n\
                     retries: {classifier: retryable_read_5xx, budget: {percent: 1000}}";
        let proxy = start(&[bad.address, good.address], rules, cores);
        let counts = |origin: &Origin, requests: u64, failures: u64| {
            let latencies = endpoint(origin.address, "request_latency_ms.count");
            let counts = [
                ("requests", requests),
                ("success", requests - failures),
                ("failures", failures),
                ("pending", 0),
            ];
            let counts = counts.map(|(key, count)| (endpoint(origin.address, key), count));
            [counts.to_vec(), vec![(latencies, requests)]].concat()
        };
        let picks = |count: u64| vec![(balancer("picks"), count)];
        let none = [counts(&bad, 0, 0), counts(&good, 0, 0), picks(0)].concat();
        are(&proxy, "at first", &none);
        let mut longest = Duration::ZERO;
        let mut wires: Vec<Wire> = (0..3).map(|_| proxy.connect()).collect();
        for at in 0..REQUESTS as usize {
            let begun = Instant::now();
            assert_eq!(wires[at % 3].get("/").text(), "fine");
            longest = longest.max(begun.elapsed());
        }
        let failed = bad.requests().len() as u64;
        assert!((3..=REQUESTS).contains(&failed), "by turns: {failed}");
        assert_eq!(good.requests().len() as u64, REQUESTS);
        let of_both = [counts(&bad, failed, failed), counts(&good, REQUESTS, 0)].concat();
        let metrics = are(&proxy, "all are counted", &[of_both, picks(REQUESTS + failed)].concat());
        let latency = |origin: &Origin, figure: &str| {
            metrics.float(&endpoint(origin.address, &format!("request_latency_ms.{figure}")))
        };
        // Between the origin's own time and the client's.
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        assert!(latency(&good, "min") >= ms(SERVICE_TIME), "{}", latency(&good, "min"));
        assert!(latency(&good, "max") <= ms(longest), "{}", latency(&good, "max"));
        assert!(latency(&good, "sum") >= REQUESTS as f64 * ms(SERVICE_TIME));
        assert!(latency(&bad, "max") <= ms(longest) - ms(SERVICE_TIME));
        proxy.stop();
    });
}

#[test]
fn what_is_under_way_is_load_and_then_a_pooled_connection() {
    both(|cores| {
        let gate = Arc::<Gate>::default();
        let [(a, held_a), (b, held_b)] = [holding(&gate), holding(&gate)];
        let proxy = start(&[a.address, b.address], "balancer: {kind: round_robin}", cores);
        // By endpoint what is under way there, and how many connections are idle.
        let are = |what: &str, [on_a, on_b]: [u64; 2], idle: u64| {
            let mut values = vec![
                (balancer("load"), on_a + on_b),
                (client("pool_size"), on_a + on_b + idle),
                (client("pool_cached"), idle),
                (client("connections"), on_a + on_b + idle),
            ];
            for (origin, count) in [(&a, on_a), (&b, on_b)] {
                values.push((endpoint(origin.address, "load"), count));
                values.push((endpoint(origin.address, "pending"), count));
            }
            are(&proxy, what, &values)
        };
        are("at first", [0, 0], 0);
        let mut wires: Vec<Wire> = (0..7).map(|_| ask(&proxy, "/held")).collect();
        eventually("all are held", || gate.came() == 7);
        let held = [&held_a, &held_b].map(|it| it.load(Ordering::SeqCst) as u64);
        assert!(held.iter().all(|it| *it > 0), "each shard takes turns: {held:?}");
        are("all are under way", held, 0);
        gate.open();
        wires.iter_mut().for_each(|wire| assert_eq!(wire.answer().status(), 200));
        are("all are idle", [0, 0], 7);
        // A drained endpoint keeps no connection.
        for (origin, idle) in [(&a, held[1]), (&b, 0)] {
            let path = format!("/admin/endpoints/{}", origin.address);
            assert_eq!(proxy.post(&path, "{\"drain\": true}").status(), 200);
            are("those of the other are idle", [0, 0], idle);
        }
        proxy.stop();
    });
}

#[test]
fn available_and_state_follow_drains_ejections_and_probes() {
    both(|cores| {
        let (good, gate) = (Origin::answering(|_| ok("fine")), Arc::<Gate>::default());
        // Its first request fails, and the second one, which is the probe, takes its time.
        let (asked, held) = (AtomicUsize::new(0), gate.clone());
        let bad = Origin::answering(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => failing(),
            1 => {
                held.pass();
                ok("fine")
            }
            _ => ok("fine"),
        });
        let rules = "balancer: {kind: round_robin}\n\
                     failure_accrual: {failures: 1, min_ejection_ms: 100, max_ejection_ms: 100}";
        let proxy = start(&[good.address, bad.address], rules, cores);
        let is = |what: &str, available: u64, good_s: u64, bad_s: u64| {
            let values = [
                (balancer("available"), available),
                (endpoint(good.address, "state"), good_s),
                (endpoint(bad.address, "state"), bad_s),
                (balancer("size"), 2),
            ];
            are(&proxy, what, &values)
        };
        let set = |address: SocketAddr, json: &str| {
            let answer = proxy.post(&format!("/admin/endpoints/{address}"), json);
            assert_eq!(answer.status(), 200, "{}", answer.text());
        };
        is("at first", 2, 0, 0);
        set(good.address, "{\"drain\": true}");
        is("drained", 1, 3, 0);
        let mut wire = proxy.connect();
        assert_eq!(wire.get("/").status(), 503);
        is("drained, and the other one ejected", 0, 3, 1);
        set(good.address, "{\"ready\": true}");
        is("ready again", 1, 0, 1);
        // The next request after a tenth of a second is the probe, and the only one to wait.
        let mut wires = Vec::new();
        eventually("it is probed", || {
            wires.push(ask(&proxy, "/"));
            gate.came() == 1
        });
        is("being probed", 1, 0, 2);
        gate.open();
        is("back", 2, 0, 0);
        wires.iter_mut().for_each(|wire| assert_eq!(wire.answer().status(), 200));
        proxy.stop();
    });
}

#[test]
fn an_unhealthy_endpoint_is_not_available_and_has_a_state_of_its_own() {
    both(|cores| {
        let is_well = Arc::new(AtomicBool::new(true));
        let says = is_well.clone();
        let ill = Origin::answering(move |_| match says.load(Ordering::SeqCst) {
            true => ok("fine"),
            false => failing(),
        });
        let well = Origin::answering(|_| ok("fine"));
        let rules = "health_check: {kind: http, interval_ms: 20, unhealthy_after: 1, \
                     healthy_after: 1, timeout_ms: 5000}";
        let proxy = start(&[ill.address, well.address], rules, cores);
        for (is_well_now, available, state) in [(true, 2, 0), (false, 1, 4), (true, 2, 0)] {
            is_well.store(is_well_now, Ordering::SeqCst);
            let values = [
                (balancer("available"), available),
                (endpoint(ill.address, "state"), state),
                (endpoint(well.address, "state"), 0),
            ];
            are(&proxy, &format!("well: {is_well_now}"), &values);
        }
        proxy.stop();
    });
}

#[test]
fn an_ewma_is_the_peak_and_falls_while_nobody_asks() {
    both(|cores| {
        let origin = Origin::answering(|request| {
            let ms = request.head.target()[1..].parse().expect("a number");
            thread::park_timeout(Duration::from_millis(ms));
            ok("fine")
        });
        // So slow that nothing is forgotten while the test lasts.
        let slowly = "balancer: {kind: ewma, decay_ms: 600000000}";
        let proxy = start(&[origin.address], slowly, cores);
        let ewma = endpoint(origin.address, "ewma_ms");
        are(&proxy, "nobody has asked", &[(ewma.clone(), 0)]);
        let mut wire = proxy.connect();
        let mut timed = |path: &str| {
            let begun = Instant::now();
            assert_eq!(wire.get(path).status(), 200);
            begun.elapsed().as_secs_f64() * 1e3
        };
        let mut peak = (0.0, 0.0);
        for (count, ms) in (1..).zip([30.0, 80.0, 10.0]) {
            let took = timed(&format!("/{ms}"));
            if ms > peak.0 {
                peak = (ms, took);
            }
            let after =
                proxy.metrics_when("it is counted", |it| it.get(&client("success")) == count);
            // Between the origin's own time and the client's, but for what is forgotten.
            let found = after.float(&ewma);
            assert!((peak.0 * 0.999..=peak.1).contains(&found), "{found} ms, with {peak:?}");
        }
        // What it has learnt goes with the kind of balancer, and what it learns goes by itself.
        proxy.reload(&yaml(&[origin.address], "balancer: {kind: ewma, decay_ms: 100}"));
        are(&proxy, "nobody has asked this one", &[(ewma.clone(), 0)]);
        timed("/30");
        proxy.metrics_when("it has learnt", |it| it.float(&ewma) > 0.0);
        proxy.metrics_when("it has forgotten", |it| it.float(&ewma) == 0.0);
        proxy.stop();
    });
}

/// When an origin was asked, or answered.
type Moments = Arc<Mutex<Vec<Instant>>>;

#[test]
fn an_ejection_its_probes_and_its_end_are_counted() {
    both(|cores| {
        let good = Origin::answering(|_| ok("fine"));
        // Its first request and the first probe fail.
        let asked = Moments::default();
        let moments = asked.clone();
        let bad = Origin::answering(move |_| {
            let mut moments = moments.lock().unwrap();
            moments.push(Instant::now());
            if moments.len() <= 2 { failing() } else { ok("fine") }
        });
        let rules = "balancer: {kind: round_robin}\n\
                     failure_accrual: {failures: 1, min_ejection_ms: 200}";
        let proxy = start(&[good.address, bad.address], rules, cores);
        let counts = |what: &str, [removals, probes, revivals]: [u64; 3]| {
            let values = [("removals", removals), ("probes", probes), ("revivals", revivals)];
            let values = values.map(|(key, value)| (accrual(key), value));
            let metrics = are(&proxy, what, &values);
            // Counted when it is over, however often it was probed.
            let removed_for_ms = metrics.float(&accrual("removed_for_ms"));
            assert_eq!(removed_for_ms > 0.0, revivals > 0, "{what}: {removed_for_ms} ms");
            removed_for_ms
        };
        counts("at first", [0, 0, 0]);
        let mut wires: Vec<Wire> = (0..8).map(|_| proxy.connect()).collect();
        let mut answered = Vec::new();
        let mut ask_until = |times: usize| {
            let wires = &mut wires;
            let mut turn = 0;
            eventually("it is asked again", || {
                wires[turn % 8].get("/");
                turn += 1;
                asked.lock().unwrap().len() == times
            });
            answered.push(Instant::now());
        };
        ask_until(1);
        counts("ejected", [1, 0, 0]);
        ask_until(2);
        counts("a probe has failed", [1, 1, 0]);
        ask_until(3);
        let removed_for_ms = counts("back", [1, 2, 1]);
        // From between its first request and its answer to between the third and its answer.
        let asked = asked.lock().unwrap().clone();
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let bounds = ms(answered[0], asked[2])..=ms(asked[0], answered[2]);
        assert!(bounds.contains(&removed_for_ms), "{removed_for_ms} ms, not in {bounds:?}");
        // 200 to 400 ms, and then 400 to 800.
        assert!(removed_for_ms >= 600.0, "{removed_for_ms} ms");
        proxy.stop();
    });
}
