//! Endpoints that fail are left alone, over all shards at once, and come back by a single probe.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Metrics, Origin, Proxy, Wire, both, config, eventually, ok};

const CLIENT: &str = "rt/http/client/web";

/// An origin that can be told to fail, and counts what it is asked.
struct Switch {
    origin: Origin,
    fails: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Switch {
    fn start(fails: bool) -> Switch {
        let (fails, asked) = (Arc::new(AtomicBool::new(fails)), Arc::<AtomicUsize>::default());
        let (now_fails, count) = (fails.clone(), asked.clone());
        let origin = Origin::answering(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            match now_fails.load(Ordering::SeqCst) {
                true => b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
                false => ok("fine"),
            }
        });
        Switch { origin, fails, asked }
    }

    fn address(&self) -> SocketAddr {
        self.origin.address
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn set(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }
}

fn proxy(endpoints: &[SocketAddr], rules: &str, cores: &str) -> Proxy {
    let service = format!("balancer: {{kind: round_robin}}\n{rules}");
    let yaml = config(endpoints, "", &service);
    Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), cores)
}

fn accrual(metrics: &Metrics, key: &str) -> u64 {
    metrics.get(&format!("{CLIENT}/failure_accrual/{key}"))
}

/// One request each over some connections, which SO_REUSEPORT spreads over the shards.
fn ask(clients: &mut [Wire]) {
    for client in clients {
        client.get("/");
    }
}

fn clients(proxy: &Proxy) -> Vec<Wire> {
    (0..8).map(|_| proxy.connect()).collect()
}

#[test]
fn five_failures_in_a_row_are_enough_whichever_shards_saw_them() {
    both(|cores| {
        let (good, bad) = (Switch::start(false), Switch::start(true));
        let rules = "failure_accrual: {failures: 5, min_ejection_ms: 60000}";
        let proxy = proxy(&[good.address(), bad.address()], rules, cores);
        let mut clients = clients(&proxy);
        (0..10).for_each(|_| ask(&mut clients));
        assert_eq!(bad.asked(), 5, "it gets no more");
        assert_eq!(good.asked(), 75);
        let metrics = proxy.metrics_when("it is counted", |metrics| {
            accrual(metrics, "removals") == 1
                && metrics.get(&format!("{CLIENT}/loadbalancer/available")) == 1
        });
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/size")), 2);
        assert_eq!((accrual(&metrics, "probes"), accrual(&metrics, "revivals")), (0, 0));
        let endpoint = format!("{CLIENT}/endpoint/{}", bad.address());
        assert_eq!(metrics.get(&format!("{endpoint}/failures")), 5);
        metrics.check_conservation();
    });
}

#[test]
fn a_success_in_between_begins_the_count_anew() {
    both(|cores| {
        let (good, bad) = (Switch::start(false), Switch::start(true));
        let rules = "failure_accrual: {failures: 5, min_ejection_ms: 60000}";
        let proxy = proxy(&[good.address(), bad.address()], rules, cores);
        let mut client = proxy.connect();
        for round in 0..5 {
            bad.set(round % 5 == 4);
            let before = bad.asked();
            bad.set(true);
            while bad.asked() < before + 4 {
                client.get("/");
            }
            bad.set(false);
            while bad.asked() < before + 5 {
                client.get("/");
            }
        }
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{CLIENT}/status/500")) == 20
        });
        assert_eq!(accrual(&metrics, "removals"), 0);
    });
}

#[test]
fn each_ejection_ends_with_one_probe() {
    const FAILED_PROBES: usize = 2;
    both(|cores| {
        let (good, bad) = (Switch::start(false), Switch::start(true));
        let rules = "failure_accrual: {failures: 3, min_ejection_ms: 300, max_ejection_ms: 600}";
        let proxy = proxy(&[good.address(), bad.address()], rules, cores);
        let done = Arc::new(AtomicBool::new(false));
        let load_clients = 8;
        let load: Vec<_> = (0..load_clients)
            .map(|_| {
                let (done, address) = (done.clone(), proxy.address);
                thread::spawn(move || {
                    let mut client = Wire::connect(address);
                    while !done.load(Ordering::SeqCst) {
                        client.get("/");
                    }
                })
            })
            .collect();
        let begun = Instant::now();
        proxy.metrics_when("it is ejected", |metrics| accrual(metrics, "removals") == 1);
        proxy.metrics_when("it is probed", |metrics| {
            accrual(metrics, "probes") >= FAILED_PROBES as u64
        });
        assert!(begun.elapsed() > Duration::from_millis(600), "two ejections: {begun:?}");
        bad.set(false);
        let metrics = proxy.metrics_when("it is back", |metrics| accrual(metrics, "revivals") == 1);
        done.store(true, Ordering::SeqCst);
        load.into_iter().for_each(|thread| thread.join().expect("clients are answered"));
        assert_eq!(accrual(&metrics, "removals"), 1, "a probe that fails removes nothing more");
        // Each probe but the last failed. Of the others only what was under way when it was ejected
        // may have failed besides the three that were enough.
        let failed_probes = accrual(&metrics, "probes") as usize - 1;
        let failed = metrics.get(&format!("{CLIENT}/status/500")) as usize;
        let besides = failed - failed_probes;
        assert!((3..3 + load_clients).contains(&besides), "{failed}, {failed_probes} of probes");
        let removed_for = metrics.get(&format!("{CLIENT}/failure_accrual/removed_for_ms"));
        assert!((600..60_000).contains(&removed_for), "{removed_for} ms");
        assert!(Duration::from_millis(removed_for) < DEADLINE);
    });
}

#[test]
fn no_more_than_the_cap_are_out_at_once() {
    both(|cores| {
        let bad: Vec<Switch> = (0..4).map(|_| Switch::start(true)).collect();
        let addresses: Vec<_> = bad.iter().map(Switch::address).collect();
        let rules =
            "failure_accrual: {failures: 2, min_ejection_ms: 60000, max_ejected_percent: 50}";
        let proxy = proxy(&addresses, rules, cores);
        let mut clients = clients(&proxy);
        (0..20).for_each(|_| ask(&mut clients));
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{CLIENT}/status/500")) == 160
        });
        assert_eq!(accrual(&metrics, "removals"), 2);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/available")), 2);
        // The only endpoint of a service is never taken away.
        let one = Switch::start(true);
        let proxy = self::proxy(&[one.address()], rules, cores);
        let mut clients = self::clients(&proxy);
        (0..5).for_each(|_| ask(&mut clients));
        assert_eq!(one.asked(), 40);
    });
}

#[test]
fn a_success_rate_counts_what_all_shards_saw() {
    both(|cores| {
        for rule in [
            "kind: success_rate, success_rate_percent: 60, requests: 40",
            "kind: success_rate_windowed, success_rate_percent: 60, window_secs: 5",
        ] {
            let good = Switch::start(false);
            // Two of three fail, never five in a row.
            let count = AtomicUsize::new(0);
            let bad = Origin::answering(move |_| match count.fetch_add(1, Ordering::SeqCst) % 3 {
                0 => ok("fine"),
                _ => b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
            });
            let rules = format!("failure_accrual: {{{rule}, min_ejection_ms: 60000}}");
            let proxy = proxy(&[good.address(), bad.address], &rules, cores);
            let mut clients = clients(&proxy);
            let begun = Instant::now();
            let is_out = |proxy: &Proxy| {
                proxy.metrics().get(&format!("{CLIENT}/loadbalancer/available")) == 1
            };
            while !is_out(&proxy) {
                assert!(begun.elapsed() < DEADLINE, "{rule}: not ejected");
                ask(&mut clients);
            }
            let before = bad.requests().len();
            (0..5).for_each(|_| ask(&mut clients));
            assert_eq!(bad.requests().len(), before, "{rule}");
            let metrics =
                proxy.metrics_when("it is counted", |metrics| accrual(metrics, "removals") == 1);
            metrics.check_conservation();
        }
    });
}

#[test]
fn what_the_client_did_wrong_is_not_held_against_an_endpoint() {
    both(|cores| {
        let (one, other) = (Switch::start(false), Switch::start(false));
        let rules = "failure_accrual: {failures: 1, min_ejection_ms: 60000}";
        let proxy = proxy(&[one.address(), other.address()], rules, cores);
        for _ in 0..10 {
            let mut client = proxy.connect();
            client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send("5\r\nhello\r\nnonsense\r\n");
            assert_eq!(client.answer().status(), 400);
        }
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{}/failures/bad_request", proxy.server(0))) == 10
        });
        assert_eq!(accrual(&metrics, "removals"), 0);
    });
}

#[test]
fn a_probe_that_becomes_a_tunnel_brings_its_endpoint_back() {
    both(|cores| {
        let good = Switch::start(false);
        let fails = Arc::new(AtomicBool::new(true));
        let now_fails = fails.clone();
        let switching = Origin::start(move |mut wire, _| {
            while let Ok(Some(_)) = wire.request() {
                if now_fails.load(Ordering::SeqCst) {
                    let answer = "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n";
                    if wire.try_send(answer).is_err() {
                        return;
                    }
                    continue;
                }
                let answer = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                let _ = wire.try_send(answer);
                // A tunnel that lasts until the client has enough of it.
                while wire.some().is_ok_and(|bytes| !bytes.is_empty()) {}
                return;
            }
        });
        let rules = "failure_accrual: {failures: 2, min_ejection_ms: 100, max_ejection_ms: 100}";
        let proxy = proxy(&[good.address(), switching.address], rules, cores);
        let mut client = proxy.connect();
        let mut removals = || {
            client.get("/");
            accrual(&proxy.metrics(), "removals")
        };
        eventually("it is ejected", || removals() == 1);
        fails.store(false, Ordering::SeqCst);
        let upgrade = [
            "GET / HTTP/1.1",
            "Host: h",
            "Connection: upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "\r\n",
        ]
        .join("\r\n");
        let mut tunnels = Vec::new();
        eventually("it is back while the tunnel lasts", || {
            let mut tunnel = proxy.connect();
            tunnel.send(&upgrade);
            tunnels.push(tunnel);
            accrual(&proxy.metrics(), "revivals") == 1
        });
        assert!(proxy.metrics().get(&format!("{}/tunnels", proxy.server(0))) >= 1);
    });
}

#[test]
fn one_that_was_ejected_answers_when_nobody_else_does() {
    both(|cores| {
        let ejected = Switch::start(true);
        // It closes each connection before it answers, and then is there no more.
        let (gone, served) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
        let other = {
            let (gone, served) = (gone.clone(), served.clone());
            Origin::start(move |mut wire, _| {
                while let Ok(Some(_)) = wire.request() {
                    if gone.load(Ordering::SeqCst) || wire.try_send(ok("other")).is_err() {
                        return;
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let rules = "failure_accrual: {failures: 3, min_ejection_ms: 60000}\n\
                     retries: {classifier: retryable_read_5xx, budget: {min_per_sec: 1000}}";
        let proxy = proxy(&[ejected.address(), other.address], rules, cores);
        let mut client = proxy.connect();
        eventually("it is ejected", || {
            assert_eq!(client.get("/").text(), "other", "its failures are hidden");
            accrual(&proxy.metrics(), "removals") == 1
        });
        assert!(served.load(Ordering::SeqCst) > 0);
        ejected.set(false);
        gone.store(true, Ordering::SeqCst);
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "fine", "long before its ejection ends");
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_one_failure_however_it_began() {
    // A 500 is a failure already when its head comes; a 200 is one when it breaks off.
    for (status, failures) in [(200, 1), (200, 2), (500, 2), (500, 3)] {
        both(|cores| {
            let case = format!("{status}, {failures} failures");
            eprintln!("{case}");
            let good = Switch::start(false);
            let broken = Origin::start(move |mut wire, _| {
                let _ = wire.request();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\n");
                let _ = wire.try_send(head + "half");
            });
            let rules =
                format!("failure_accrual: {{failures: {failures}, min_ejection_ms: 60000}}");
            let proxy = proxy(&[good.address(), broken.address], &rules, cores);
            let ask_broken = |number: u64| {
                while broken.accepted() < number as usize {
                    let mut client = proxy.connect();
                    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    let whole = client.try_answer_to("GET");
                    assert_eq!(whole.is_ok(), broken.accepted() < number as usize, "{case}");
                }
                let metrics = proxy.metrics_when("it is counted", |metrics| {
                    let endpoint = format!("{CLIENT}/endpoint/{}", broken.address);
                    metrics.get(&format!("{endpoint}/failures")) == number
                });
                metrics.check_conservation();
                accrual(&metrics, "removals")
            };
            for number in 1..failures {
                assert_eq!(ask_broken(number), 0, "{case}: {number} so far");
            }
            assert_eq!(ask_broken(failures), 1, "{case}");
        });
    }
}
