//! Endpoints that say that they are not well, or do not answer at all, get no requests.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use common::{Origin, Proxy, both, config, eventually, ok};

const QUICK: &str = "interval_ms: 20, timeout_ms: 500, unhealthy_after: 2, healthy_after: 2";

/// Answers `/health` with a status that the test sets, and everything else with its name.
struct Checked {
    origin: Origin,
    status: Arc<AtomicU16>,
}

fn checked(name: &'static str) -> Checked {
    let status = Arc::new(AtomicU16::new(200));
    let says = status.clone();
    let origin = Origin::answering(move |request| match request.head.target() {
        "/health?deep=1" => {
            let status = says.load(Ordering::SeqCst);
            format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nhi").into_bytes()
        }
        _ => ok(name),
    });
    Checked { origin, status }
}

fn state(proxy: &Proxy, address: SocketAddr) -> String {
    let endpoint = proxy.endpoint("web", address).expect("it is configured");
    endpoint["state"].as_str().expect("a word").to_owned()
}

fn yaml(endpoints: &[SocketAddr], check: &str) -> String {
    let keys = format!("balancer: {{kind: round_robin}}\nhealth_check: {{{check}}}\n");
    format!("telemetry: {{flush_interval_ms: 20}}\n{}", config(endpoints, "", &keys))
}

#[test]
fn one_that_answers_wrongly_is_left_out_until_it_answers_rightly() {
    both(|cores| {
        let (a, b) = (checked("a"), checked("b"));
        let endpoints = [a.origin.address, b.origin.address];
        let check = format!("kind: http, path: \"/health?deep=1\", expect: \"200-204\", {QUICK}");
        let proxy = Proxy::start_from_file(&yaml(&endpoints, &check), cores);
        let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
        let mut answers = move || -> Vec<String> {
            clients.iter_mut().flat_map(|it| [it.get("/").text(), it.get("/").text()]).collect()
        };
        assert!(answers().contains(&"a".to_owned()), "it is well until it says otherwise");
        a.status.store(302, Ordering::SeqCst);
        eventually("it is unhealthy", || state(&proxy, a.origin.address) == "unhealthy");
        assert!(answers().iter().all(|it| it == "b"));
        let metrics = proxy.metrics_when("checks are counted", |metrics| {
            // A check is no request of anybody's.
            metrics.get("rt/http/client/web/health/failures") >= 2
                && metrics.get("rt/http/client/web/requests") == 32
        });
        assert_eq!(metrics.get("rt/http/client/web/loadbalancer/available"), 1);
        assert!(
            metrics.get("rt/http/client/web/health/checks")
                > metrics.get("rt/http/client/web/health/failures")
        );
        // What is known outlives a reload of other keys; without checks all are well.
        proxy.reload(&(yaml(&endpoints, &check) + "  other: {endpoints: [\"127.0.0.1:1\"]}\n"));
        assert!(answers().iter().all(|it| it == "b"));
        a.status.store(204, Ordering::SeqCst);
        eventually("it is well again", || state(&proxy, a.origin.address) == "available");
        assert!(answers().contains(&"a".to_owned()));
        a.status.store(500, Ordering::SeqCst);
        eventually("it is unhealthy", || state(&proxy, a.origin.address) == "unhealthy");
        proxy.reload(&yaml(&endpoints, "kind: none"));
        assert!(answers().contains(&"a".to_owned()));
        let checked = a.origin.requests().len();
        let request = a.origin.requests().into_iter().find(|it| it.head.target() != "/");
        let head = request.expect("a check").head;
        assert_eq!(head.get("host"), Some(a.origin.address.to_string().as_str()));
        assert!(checked > 0);
        proxy.stop();
    });
}

#[test]
fn one_that_does_not_listen_is_left_out_and_all_are_used_when_nobody_is_well() {
    both(|cores| {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let well = checked("well");
        let endpoints = [dead, well.origin.address];
        let check = format!("kind: tcp, {QUICK}");
        let proxy = Proxy::start_from_file(&yaml(&endpoints, &check), cores);
        eventually("it is unhealthy", || state(&proxy, dead) == "unhealthy");
        let mut client = proxy.connect();
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "well");
        }
        let metrics = proxy.metrics_when("all is counted", |metrics| {
            metrics.get("rt/http/client/web/success") == 10
        });
        assert_eq!(metrics.get("rt/http/client/web/failures"), 0, "nobody was sent there");
        assert_eq!(metrics.get("rt/http/client/web/loadbalancer/max_effort_exhausted"), 0);
        // Unhealthy ones alone are better than none at all.
        let check = format!("kind: http, path: /nothing, expect: 418, {QUICK}");
        proxy.reload(&yaml(&endpoints, &check));
        eventually("nobody is well", || state(&proxy, well.origin.address) == "unhealthy");
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "well");
        }
        proxy.metrics_when("picks of unhealthy endpoints are counted", |metrics| {
            metrics.get("rt/http/client/web/loadbalancer/max_effort_exhausted") >= 10
        });
        proxy.stop();
    });
}

#[test]
fn one_that_accepts_and_says_nothing_is_not_well() {
    let mute = Origin::start(|mut wire, _| {
        // To its end, without an answer.
        while wire.some().is_ok_and(|bytes| !bytes.is_empty()) {}
    });
    let well = checked("well");
    let endpoints = [mute.address, well.origin.address];
    let check = "kind: http, path: \"/health?deep=1\", interval_ms: 20, timeout_ms: 50";
    let proxy = Proxy::start(&yaml(&endpoints, check), "0");
    eventually("it is unhealthy", || state(&proxy, mute.address) == "unhealthy");
    assert_eq!(state(&proxy, well.origin.address), "available");
    proxy.stop();
}
