//! Every counter and gauge moves when it should and by how much: statuses, reasons, requeues,
//! connections and their bytes, pools, tunnels, what is answered here.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use common::{DEADLINE, Metrics, Origin, Proxy, Wire, both, config, ok, refusing};

const WEB: &str = "rt/http/service/web";
const CLIENT: &str = "rt/http/client/web";
/// Beyond what the proxy takes in a request line, or in a field.
const TOO_LONG: usize = 300 << 10;

fn telemetry(yaml: &str) -> String {
    format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
}

fn answer(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Answers with the status in the path, or does what it says there, on a connection for each.
fn by_path() -> Origin {
    Origin::start(|mut wire, _| {
        let Ok(Some(request)) = wire.request() else { return };
        let word = request.head.target().rsplit('/').next().unwrap_or_default().to_owned();
        let _ = match word.as_str() {
            "none" => return,
            "junk" => wire.try_send("what?\r\n\r\n"),
            // Until the proxy has had enough.
            "never" => wire.some().map(drop),
            status => wire.try_send(answer(status.parse().expect("a status"))),
        };
    })
}

/// A way to fail or not: what is sent, what comes back, and as what it is counted.
struct Case {
    sent: String,
    status: u16,
    reason: Option<&'static str>,
    /// By service and whether an attempt of it gave that status.
    service: Option<(&'static str, bool)>,
}

fn cases() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let case = |sent: String, status, reason, service| Case { sent, status, reason, service };
    let mut cases = Vec::new();
    for status in [200, 204, 301, 404, 418, 500, 503, 599] {
        let reason = (status >= 500).then_some("upstream_status");
        cases.push(case(get(&format!("/web/{status}")), status, reason, Some(("web", true))));
    }
    let here = |sent: &str, status, reason| case(sent.to_owned(), status, Some(reason), None);
    let long = "x".repeat(TOO_LONG);
    cases.extend([
        case(get("/web/none"), 502, Some("upstream_reset"), Some(("web", false))),
        case(get("/web/junk"), 502, Some("bad_response"), Some(("web", false))),
        case(get("/slow/never"), 504, Some("attempt_timeout"), Some(("slow", false))),
        case(get("/dead/1"), 502, Some("connect_refused"), Some(("dead", false))),
        here(&get("/nowhere"), 404, "no_route"),
        here("GET / there HTTP/1.1\r\nHost: h\r\n\r\n", 400, "bad_request"),
        here("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", 405, "method_not_allowed"),
        here("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, "version_not_supported"),
        here(&get(&format!("/{long}")), 414, "uri_too_long"),
        here(&format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"), 431, "header_too_large"),
        here("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", 413, "body_too_large"),
        // A head that does not end.
        here("GET / HTTP/1.1\r\nHost: h\r\n", 408, "client_timeout"),
    ]);
    cases
}

fn three_services(origin: SocketAddr, dead: SocketAddr) -> String {
    telemetry(&format!(
        "routers:\n- label: http\n  servers: [{{port: 0}}]\n  max_body_bytes: 1000\n  \
         timeouts: {{head_timeout_ms: 150}}\n  routes:\n  \
         - {{path_prefix: /web, service: web}}\n  - {{path_prefix: /slow, service: slow}}\n  \
         - {{path_prefix: /dead, service: dead}}\n\
         services:\n  web: {{endpoints: [\"{origin}\"]}}\n  \
         slow: {{endpoints: [\"{origin}\"], timeouts: {{attempt_ms: 50}}}}\n  \
         dead: {{endpoints: [\"{dead}\"]}}\n"
    ))
}

#[test]
fn each_status_and_each_reason_is_counted_where_it_belongs() {
    both(|cores| {
        let origin = by_path();
        let (_refuses, dead) = refusing();
        let proxy = Proxy::start(&three_services(origin.address, dead), cores);
        let cases = cases();
        let mut all = 0;
        for (number, case) in cases.iter().enumerate() {
            // Another number of times each, so that none is taken for another.
            for _ in 0..=number % 5 {
                let mut client = proxy.connect();
                // It may be answered before it has sent all of it.
                let _ = client.try_send(&case.sent);
                assert_eq!(client.head().status(), case.status, "case {number}: {:?}", case.reason);
                all += 1;
            }
        }
        let server = proxy.server(0);
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{server}/requests")) == all
                && metrics.get(&format!("{server}/pending")) == 0
        });
        metrics.check_conservation();
        let times = |choose: &dyn Fn(&Case) -> bool| -> u64 {
            let chosen = cases.iter().enumerate().filter(|(_, case)| choose(case));
            chosen.map(|(number, _)| number as u64 % 5 + 1).sum()
        };
        for case in &cases {
            let named = format!("{} {:?}", case.status, case.reason);
            let status = times(&|it| it.status == case.status);
            assert_eq!(metrics.get(&format!("{server}/status/{}", case.status)), status, "{named}");
            let class = times(&|it| it.status / 100 == case.status / 100);
            let key = format!("{server}/status/{}XX", case.status / 100);
            assert_eq!(metrics.get(&key), class, "{named}");
            if let Some(reason) = case.reason {
                let count = times(&|it| it.reason == Some(reason));
                let key = format!("failures/{reason}");
                assert_eq!(metrics.get(&format!("{server}/{key}")), count, "{named}");
                if let Some((service, _)) = case.service {
                    let key = format!("rt/http/service/{service}/{key}");
                    assert_eq!(metrics.get(&key), count, "{named}");
                }
            }
            if let Some((service, true)) = case.service {
                let key = format!("rt/http/client/{service}/status/{}", case.status);
                let of_attempts =
                    times(&|it| it.status == case.status && it.service == case.service);
                assert_eq!(metrics.get(&key), of_attempts, "{named}");
            }
        }
        let failed = times(&|it| it.reason.is_some());
        assert_eq!(metrics.get(&format!("{server}/failures")), failed);
        assert_eq!(metrics.get(&format!("{server}/success")), all - failed);
        let here = times(&|it| it.service.is_none());
        assert_eq!(metrics.get(&format!("{server}/answered_here")), here);
        dead_service(&metrics, times(&|it| it.service == Some(("dead", false))));
    });
}

/// Nothing was sent, so that each request was tried twice more.
fn dead_service(metrics: &Metrics, requests: u64) {
    assert_eq!(metrics.get("rt/http/service/dead/requests"), requests);
    assert_eq!(metrics.get("rt/http/client/dead/failures/connect_refused"), 3 * requests);
    assert_eq!(metrics.get("rt/http/service/dead/retries/requeues"), 2 * requests);
    assert_eq!(metrics.get("rt/http/client/dead/connects"), 3 * requests);
    assert_eq!(metrics.get("rt/http/client/dead/closes"), 3 * requests);
    assert_eq!(metrics.get("rt/http/client/dead/loadbalancer/picks"), 3 * requests);
}

#[test]
fn a_client_that_goes_is_499_and_pending_until_then() {
    both(|cores| {
        let origin = by_path();
        let (_refuses, dead) = refusing();
        let proxy = Proxy::start(&three_services(origin.address, dead), cores);
        let server = proxy.server(0);
        let mut client = proxy.connect();
        client.send("GET /web/never HTTP/1.1\r\nHost: h\r\n\r\n");
        let pending = [&format!("{server}/pending"), &format!("{WEB}/pending")];
        let metrics = proxy.metrics_when("it is pending", |metrics| {
            pending.iter().all(|name| metrics.get(name) == 1)
                && metrics.get(&format!("{CLIENT}/pending")) == 1
        });
        metrics.check_conservation();
        let endpoint = format!("{CLIENT}/endpoint/{}", origin.address);
        assert_eq!(metrics.get(&format!("{endpoint}/pending")), 1);
        assert_eq!(metrics.get(&format!("{endpoint}/load")), 1);
        assert_eq!(metrics.get(&format!("{server}/status/499")), 0);
        client.reset();
        let metrics = proxy.metrics_when("it has gone", |metrics| {
            metrics.get(&format!("{server}/status/499")) == 1
        });
        metrics.check_conservation();
        for scope in [&server, WEB, CLIENT] {
            assert_eq!(metrics.get(&format!("{scope}/pending")), 0, "{scope}");
            assert_eq!(metrics.get(&format!("{scope}/failures/client_closed")), 1, "{scope}");
        }
        assert_eq!(metrics.get(&format!("{endpoint}/load")), 0);
    });
}

#[test]
fn a_pooled_connection_that_was_closed_is_a_requeue() {
    both(|cores| {
        // Answers the first request of a connection, and ends at the second without a word.
        let origin = Origin::start(|mut wire, _| {
            if let Ok(Some(_)) = wire.request() {
                let _ = wire.try_send(ok("once"));
                let _ = wire.request();
            }
        });
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), cores);
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "once");
        }
        let metrics = proxy
            .metrics_when("all are counted", |metrics| metrics.get(&format!("{WEB}/success")) == 3);
        metrics.check_conservation();
        assert_eq!(metrics.get(&format!("{WEB}/retries/requeues")), 2);
        assert_eq!(metrics.get(&format!("{WEB}/retries/total")), 0);
        assert_eq!(metrics.get(&format!("{WEB}/failures")), 0);
        assert_eq!(metrics.get(&format!("{CLIENT}/requests")), 5);
        assert_eq!(metrics.get(&format!("{CLIENT}/failures/reused_closed")), 2);
        assert_eq!(metrics.get(&format!("{CLIENT}/connects")), 3);
        assert_eq!(origin.accepted(), 3);
    });
}

/// What an origin's connections have read and written, once they have ended.
#[derive(Default)]
struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    fn add(&self, wire: &Wire) {
        self.received.fetch_add(wire.received_bytes, Ordering::SeqCst);
        self.sent.fetch_add(wire.sent_bytes, Ordering::SeqCst);
    }

    /// As the proxy's scope of the other side has them.
    #[track_caller]
    fn compare(&self, metrics: &Metrics, scope: &str) {
        let (received, sent) = (&self.received, &self.sent);
        let of = |key: &str| metrics.get(&format!("{scope}/{key}"));
        assert_eq!(of("sent_bytes"), received.load(Ordering::SeqCst), "{scope}");
        assert_eq!(of("received_bytes"), sent.load(Ordering::SeqCst), "{scope}");
    }
}

#[test]
fn connections_pools_and_bytes_are_those_that_there_were() {
    const BODY: [usize; 3] = [10, 100_000, 700_000];
    const EACH: [u64; 3] = [1, 2, 5];
    both(|cores| {
        let (traffic, clients) = (Arc::new(Traffic::default()), Traffic::default());
        let seen = traffic.clone();
        let origin = Origin::start(move |mut wire, _| {
            while let Ok(Some(request)) = wire.request() {
                let _ = wire.try_send(ok(request.body));
            }
            seen.add(&wire);
        });
        let yaml = config(&[origin.address], "", "pool: {idle_ms: 600}");
        let proxy = Proxy::start(&telemetry(&yaml), cores);
        let server = proxy.server(0);
        let mut wires: Vec<Wire> = (0..3).map(|_| proxy.connect()).collect();
        for ((wire, body), requests) in wires.iter_mut().zip(BODY).zip(EACH) {
            for _ in 0..requests {
                wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {body}\r\n\r\n"));
                wire.send(vec![b'b'; body]);
                assert_eq!(wire.answer().body.len(), body);
            }
        }
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{server}/success")) == EACH.iter().sum::<u64>()
        });
        assert_eq!(metrics.get(&format!("{server}/connections")), 3);
        assert_eq!(metrics.get(&format!("{server}/connects")), 3);
        assert_eq!(metrics.get(&format!("{server}/closes")), 0);
        assert_eq!(metrics.get(&format!("{server}/connection_requests.count")), 0);
        let shards = metrics.between("shard/", "/connections");
        assert_eq!(shards.iter().map(|(_, count)| count).sum::<u64>(), 3);
        wires.iter().for_each(|wire| clients.add(wire));
        drop(wires);
        let metrics = proxy.metrics_when("everybody is gone", |metrics| {
            metrics.get(&format!("{server}/closes")) == 3
                && metrics.get(&format!("{CLIENT}/connections")) == 0
        });
        metrics.check_conservation();
        assert_eq!(metrics.get(&format!("{server}/connections")), 0);
        for (scope, connections) in [(server.as_str(), 3), (CLIENT, origin.accepted() as u64)] {
            let of = |key: &str| metrics.get(&format!("{scope}/{key}"));
            assert_eq!(of("connects"), connections, "{scope}");
            assert_eq!(of("closes"), connections, "{scope}");
            assert_eq!(of("connection_requests.count"), connections, "{scope}");
            assert_eq!(of("connection_requests.sum"), EACH.iter().sum::<u64>(), "{scope}");
            assert_eq!(of("connection_duration_ms.count"), connections, "{scope}");
        }
        assert_eq!(metrics.get(&format!("{server}/connection_requests.min")), EACH[0]);
        assert_eq!(metrics.get(&format!("{server}/connection_requests.max")), EACH[2]);
        assert_eq!(metrics.get(&format!("{CLIENT}/connect_latency_ms.count")), {
            origin.accepted() as u64
        });
        clients.compare(&metrics, &server);
        common::eventually("the origin has seen the ends", || {
            traffic.received.load(Ordering::SeqCst) >= metrics.get(&format!("{CLIENT}/sent_bytes"))
        });
        traffic.compare(&metrics, CLIENT);
    });
}

#[test]
fn the_pool_s_gauges_follow_its_connections() {
    both(|cores| {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let origin = Origin::answering(move |request| {
            if request.head.target() == "/held" {
                let _ = held.lock().unwrap().recv_timeout(DEADLINE);
            }
            ok("fine")
        });
        let yaml = config(&[origin.address], "", "pool: {idle_ms: 600}");
        let proxy = Proxy::start(&telemetry(&yaml), cores);
        let pool = |size: u64, cached: u64| {
            proxy.metrics_when(&format!("{size} connections, {cached} idle"), |metrics| {
                metrics.get(&format!("{CLIENT}/pool_size")) == size
                    && metrics.get(&format!("{CLIENT}/pool_cached")) == cached
            })
        };
        pool(0, 0);
        let mut client = proxy.connect();
        client.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
        let metrics = pool(1, 0);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/load")), 1);
        release.send(()).expect("the origin waits");
        assert_eq!(client.answer().text(), "fine");
        let metrics = pool(1, 1);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/load")), 0);
        assert_eq!(metrics.get(&format!("{CLIENT}/connections")), 1);
        let metrics = pool(0, 0);
        assert_eq!(metrics.get(&format!("{CLIENT}/connections")), 0);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/size")), 1);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/available")), 1);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/picks")), 1);
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/algorithm/ewma")), 1);
    });
}

#[test]
fn a_tunnel_is_one_until_it_ends_and_its_bytes_count() {
    both(|cores| {
        let (traffic, clients) = (Arc::new(Traffic::default()), Traffic::default());
        let seen = traffic.clone();
        let origin = Origin::start(move |mut wire, _| {
            let Ok(Some(_)) = wire.try_head() else { return };
            let _ = wire.try_send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n",
            );
            while let Ok(data) = wire.some() {
                if data.is_empty() || wire.try_send(data).is_err() {
                    break;
                }
            }
            seen.add(&wire);
        });
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), cores);
        let server = proxy.server(0);
        let mut client = proxy.connect();
        client.send(
            "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(client.head().status(), 101);
        let metrics = proxy.metrics_when("it is a tunnel", |metrics| {
            metrics.get(&format!("{server}/tunnels")) == 1
        });
        metrics.check_conservation();
        for (key, count) in [("status/101", 1), ("success", 1), ("pending", 0), ("connections", 1)]
        {
            assert_eq!(metrics.get(&format!("{server}/{key}")), count, "{key}");
        }
        assert_eq!(metrics.get(&format!("{CLIENT}/loadbalancer/load")), 1);
        assert_eq!(metrics.get(&format!("{CLIENT}/pool_size")), 1);
        assert_eq!(metrics.get(&format!("{CLIENT}/pool_cached")), 0);
        for _ in 0..20 {
            client.send([7; 1000]);
            client.take(1000).expect("an echo");
        }
        client.finish();
        client.expect_end();
        clients.add(&client);
        drop(client);
        let metrics = proxy.metrics_when("it has ended", |metrics| {
            metrics.get(&format!("{server}/closes")) == 1
                && metrics.get(&format!("{CLIENT}/closes")) == 1
        });
        metrics.check_conservation();
        for name in [format!("{server}/tunnels"), format!("{CLIENT}/loadbalancer/load")] {
            assert_eq!(metrics.get(&name), 0, "{name}");
        }
        assert_eq!(metrics.get(&format!("{CLIENT}/pool_size")), 0);
        clients.compare(&metrics, &server);
        common::eventually("the origin has seen the end", || {
            traffic.received.load(Ordering::SeqCst) >= metrics.get(&format!("{CLIENT}/sent_bytes"))
        });
        traffic.compare(&metrics, CLIENT);
    });
}

#[test]
fn what_is_for_the_proxy_is_answered_here_and_a_success() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("not for me"));
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), cores);
        let server = proxy.server(0);
        let mut client = proxy.connect();
        let trace = "TRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n";
        let mut echoed = 0;
        for _ in 0..3 {
            client.send(trace);
            echoed += client.answer().body.len() as u64;
        }
        client.send("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n");
        assert_eq!(client.answer().status(), 200);
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{server}/answered_here")) == 4
        });
        metrics.check_conservation();
        let of = |key: &str| metrics.get(&format!("{server}/{key}"));
        assert_eq!((of("requests"), of("success"), of("failures")), (4, 4, 0));
        assert_eq!((of("status/200"), of("response_payload_bytes.sum")), (4, echoed));
        assert_eq!(metrics.get(&format!("{WEB}/requests")), 0);
        assert_eq!(metrics.get(&format!("{CLIENT}/requests")), 0);
        assert_eq!(origin.accepted(), 0);
        // With hops left it is the origin's.
        client.send("TRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 1\r\n\r\n");
        assert_eq!(client.answer().text(), "not for me");
        let metrics = proxy
            .metrics_when("it is counted", |metrics| metrics.get(&format!("{WEB}/success")) == 1);
        assert_eq!(metrics.get(&format!("{server}/answered_here")), 4);
    });
}

#[test]
fn an_origin_that_answers_with_any_status_stays_within_max_series() {
    const MAX_SERIES: usize = 40;
    let origin = by_path();
    let telemetry = format!("telemetry: {{flush_interval_ms: 20, max_series: {MAX_SERIES}}}\n");
    let proxy = Proxy::start(&(telemetry + &config(&[origin.address], "", "")), "0");
    // Below 200 they are interim; httparse takes none of four digits.
    let statuses = 200..=999;
    let count = statuses.clone().count() as u64;
    let mut client = proxy.connect();
    for status in statuses {
        assert_eq!(client.get(&format!("/{status}")).status(), status);
    }
    let server = proxy.server(0);
    let metrics = proxy.metrics_when("all are counted", |metrics| {
        metrics.get(&format!("{server}/success")) + metrics.get(&format!("{server}/failures"))
            == count
    });
    metrics.check_conservation();
    for scope in [server.as_str(), CLIENT] {
        let (classes, codes): (Vec<_>, Vec<_>) = metrics
            .between(&format!("{scope}/status/"), "")
            .into_iter()
            .partition(|(label, _)| label.ends_with("XX"));
        let of_class: Vec<(String, u64)> =
            (2..=9).map(|class| (format!("{class}XX"), 100)).collect();
        assert_eq!(classes, of_class, "{scope}: those of `other` too");
        assert_eq!(codes.len(), MAX_SERIES + 1, "{scope}: {codes:?}");
        let other = codes.iter().find(|(label, _)| label == "other").expect("the rest").1;
        assert_eq!(other, count - MAX_SERIES as u64, "{scope}");
        assert_eq!(codes.iter().map(|(_, count)| count).sum::<u64>(), count, "{scope}");
    }
}
