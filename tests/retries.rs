//! What is tried again, where, how often, and with what body; and what that costs the origins.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Metrics, Origin, Proxy, both, config, ok};

const WEB: &str = "rt/http/service/web";
const CLIENT: &str = "rt/http/client/web";

fn telemetry(yaml: &str) -> String {
    format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
}

fn failing() -> Vec<u8> {
    b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_vec()
}

/// Fails the first `failures` requests, and answers the others with their bodies.
fn fails_first(failures: usize) -> Origin {
    let seen = AtomicUsize::new(0);
    Origin::answering(move |request| match seen.fetch_add(1, Ordering::SeqCst) < failures {
        true => failing(),
        false => ok(&request.body),
    })
}

fn settled(proxy: &Proxy, requests: u64) -> Metrics {
    let metrics = proxy.metrics_when("all are counted", |metrics| {
        metrics.get(&format!("{WEB}/requests")) == requests
            && metrics.get(&format!("{WEB}/pending")) == 0
            && metrics.get(&format!("{CLIENT}/pending")) == 0
    });
    metrics.check_conservation();
    metrics
}

#[test]
fn a_failure_is_hidden_by_a_retry_and_counted_once_in_each_scope() {
    both(|cores| {
        let origin = fails_first(1);
        let rules = "retries: {classifier: retryable_read_5xx}";
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", rules)), cores);
        let answer = proxy.connect().get("/");
        assert_eq!((answer.status(), answer.text()), (200, String::new()));
        let metrics = settled(&proxy, 1);
        // As Linkerd's own end-to-end test has it.
        for (name, count) in [
            (format!("{}/requests", proxy.server(0)), 1),
            (format!("{}/success", proxy.server(0)), 1),
            (format!("{}/status/200", proxy.server(0)), 1),
            (format!("{}/status/503", proxy.server(0)), 0),
            (format!("{CLIENT}/requests"), 2),
            (format!("{CLIENT}/success"), 1),
            (format!("{CLIENT}/failures/upstream_status"), 1),
            (format!("{CLIENT}/status/200"), 1),
            (format!("{CLIENT}/status/503"), 1),
            (format!("{WEB}/success"), 1),
            (format!("{WEB}/failures"), 0),
            (format!("{WEB}/retries/total"), 1),
            (format!("{WEB}/retries/requeues"), 0),
            (format!("{WEB}/retries/per_request.max"), 1),
            (format!("{WEB}/retries/budget_exhausted"), 0),
        ] {
            assert_eq!(metrics.get(&name), count, "{name}");
        }
        assert_eq!(origin.accepted(), 1, "an answer that came whole leaves its connection usable");
    });
}

#[test]
fn a_classifier_says_which_methods_and_statuses() {
    let cases = [
        ("non_retryable_5xx", "GET", 503, 1),
        ("retryable_read_5xx", "GET", 503, 3),
        ("retryable_read_5xx", "PUT", 503, 1),
        ("retryable_idempotent_5xx", "PUT", 500, 3),
        ("retryable_idempotent_5xx", "POST", 500, 1),
        ("retryable_all_5xx", "POST", 502, 3),
        ("retryable_all_5xx", "POST", 404, 1),
        ("all_successful", "GET", 503, 1),
        ("statuses, statuses: [429, 503]", "GET", 429, 3),
        ("statuses, statuses: [429, 503]", "GET", 500, 1),
        ("statuses, statuses: [429, 503]", "POST", 503, 1),
        ("statuses, statuses: [503], methods: all", "POST", 503, 3),
    ];
    for (classifier, method, status, attempts) in cases {
        let case = format!("{classifier} {method} {status}");
        let origin = Origin::answering(move |_| {
            format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes()
        });
        let rules = format!(
            "retries: {{classifier: {classifier}, budget: {{percent: 1000}}}}\n\
             failure_accrual: {{kind: none}}"
        );
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", &rules)), "0");
        let mut client = proxy.connect();
        client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
        assert_eq!(
            client.try_answer_to(method).expect("an answer").status(),
            status,
            "{case}: the last answer"
        );
        let requests = origin.requests();
        assert_eq!(requests.len(), attempts, "{case}");
        assert!(requests.iter().all(|request| request.body == b"x"), "{case}");
        let metrics = settled(&proxy, 1);
        let failed = u64::from(status >= 500 || attempts > 1) * u64::from(!case.starts_with("all"));
        assert_eq!(metrics.get(&format!("{WEB}/failures")), failed, "{case}");
    }
}

#[test]
fn a_retry_goes_to_another_endpoint_while_there_is_one() {
    both(|cores| {
        let bad = Origin::answering(|_| failing());
        let good = Origin::answering(|_| ok("fine"));
        let rules = "balancer: {kind: round_robin}\nfailure_accrual: {kind: none}\n\
                     retries: {classifier: retryable_read_5xx, budget: {percent: 100}}";
        let yaml = telemetry(&config(&[bad.address, good.address], "", rules));
        let proxy = Proxy::start(&yaml, cores);
        let mut client = proxy.connect();
        for _ in 0..40 {
            assert_eq!(client.get("/").text(), "fine");
        }
        let metrics = settled(&proxy, 40);
        assert_eq!(good.requests().len(), 40, "each failure went there with its first retry");
        let retries = metrics.get(&format!("{WEB}/retries/total"));
        assert_eq!(retries, bad.requests().len() as u64);
        assert!((10..=40).contains(&retries), "{retries}");
    });
}

#[test]
fn a_body_is_sent_again_while_all_of_it_is_kept() {
    both(|cores| {
        let rules = "retries: {classifier: retryable_all_5xx, replay_buffer_bytes: 20000}";
        for (length, chunked, is_kept) in
            [(5, false, true), (20_000, false, true), (20_001, false, false), (9_000, true, true)]
        {
            let case = format!("{length} bytes, chunked: {chunked}");
            let origin = fails_first(1);
            let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", rules)), cores);
            let body: String = (0..length).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
            let mut client = proxy.connect();
            if chunked {
                client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in body.as_bytes().chunks(1_000) {
                    client.send(format!("{:x}\r\n", piece.len()));
                    client.send(piece);
                    client.send("\r\n");
                }
                client.send("0\r\n\r\n");
            } else {
                client.send(format!(
                    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
            }
            let answer = client.answer();
            let requests = origin.requests();
            if is_kept {
                assert_eq!((answer.status(), answer.text()), (200, body.clone()), "{case}");
                assert_eq!(requests.len(), 2, "{case}");
                assert_eq!(requests[0].body, requests[1].body, "{case}");
            } else {
                assert_eq!((answer.status(), requests.len()), (503, 1), "{case}");
            }
        }
    });
}

#[test]
fn a_connection_that_breaks_off_is_retried_as_the_classifier_says_of_its_status() {
    both(|cores| {
        for (classifier, attempts) in [("retryable_read_5xx", 3), ("non_retryable_5xx", 1)] {
            let origin = Origin::start(|mut wire, _| drop(wire.request()));
            let rules =
                format!("retries: {{classifier: {classifier}}}\nfailure_accrual: {{kind: none}}");
            let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", &rules)), cores);
            let answer = proxy.connect().get("/");
            assert_eq!(answer.status(), 502);
            assert_eq!(answer.head.get("ringlane-error"), Some("upstream_reset"));
            assert_eq!(origin.accepted(), attempts);
            let metrics = settled(&proxy, 1);
            let resets = metrics.get(&format!("{CLIENT}/failures/upstream_reset"));
            assert_eq!(resets, attempts as u64);
        }
    });
}

#[test]
fn a_proxy_behind_us_that_never_delivered_a_request_may_be_asked_again() {
    let seen = AtomicUsize::new(0);
    let origin = Origin::answering(move |_| match seen.fetch_add(1, Ordering::SeqCst) {
        0 => b"HTTP/1.1 502 X\r\nl5d-retryable: true\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("fine"),
    });
    let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), "0");
    let mut client = proxy.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.answer().text(), "fine");
}

#[test]
fn retries_wait_as_configured() {
    const WAIT: Duration = Duration::from_millis(120);
    let origin = fails_first(2);
    let rules = "retries: {classifier: retryable_read_5xx, backoff: {kind: constant, ms: 120}}";
    let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", rules)), "0");
    let begun = Instant::now();
    assert_eq!(proxy.connect().get("/").status(), 200);
    assert!(begun.elapsed() >= 2 * WAIT, "{:?}", begun.elapsed());
    assert_eq!(origin.requests().len(), 3);
    // Where the wait would outlast the request, the failure is the answer, and at once.
    let origin = fails_first(1);
    let rules = "retries: {classifier: retryable_read_5xx, backoff: {kind: constant, ms: 60000}}\n\
                 timeouts: {request_ms: 30000}";
    let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", rules)), "0");
    let begun = Instant::now();
    assert_eq!(proxy.connect().get("/").status(), 503);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_goes_while_its_retry_waits_is_let_go() {
    let origin = Origin::answering(|_| failing());
    let rules = "retries: {classifier: retryable_read_5xx, backoff: {kind: constant, ms: 60000}}";
    let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", rules)), "0");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    common::eventually("the first attempt", || !origin.requests().is_empty());
    client.reset();
    let metrics = settled(&proxy, 1);
    assert_eq!(metrics.get(&format!("{WEB}/failures/client_closed")), 1);
}

/// 400 requests a second for some seconds, all of which fail.
#[test]
fn with_every_endpoint_failing_the_load_stays_under_1_3_times_what_is_offered() {
    const REQUESTS: usize = 2_000;
    const CLIENTS: usize = 4;
    both(|cores| {
        let origins: Vec<Origin> = (0..3).map(|_| Origin::answering(|_| failing())).collect();
        let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        let rules = "retries: {classifier: retryable_all_5xx, max_retries: 5}";
        let proxy = Proxy::start(&telemetry(&config(&addresses, "", rules)), cores);
        let address = Arc::new(proxy.address);
        let begun = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || {
                    let mut client = common::Wire::connect(*address);
                    let begun = Instant::now();
                    for at in 0..REQUESTS / CLIENTS {
                        // Open loop: the next is due whatever became of the last.
                        let due = Duration::from_millis(10) * at as u32;
                        std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
                        assert_eq!(client.get("/").status(), 503);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("each is answered"));
        let metrics = settled(&proxy, REQUESTS as u64);
        let attempts: usize = origins.iter().map(|origin| origin.requests().len()).sum();
        assert_eq!(attempts as u64, metrics.get(&format!("{CLIENT}/requests")));
        let factor = attempts as f64 / REQUESTS as f64;
        // A fifth, and ten a second, which is a fortieth; on a machine so slow that clients fall
        // behind their times it is more.
        let secs = begun.elapsed().as_secs_f64();
        let most = if secs < 7.0 { 1.3 } else { 1.25 + 10.0 * secs / REQUESTS as f64 };
        assert!((1.15..most).contains(&factor), "{factor} in {secs} s");
        assert!(metrics.get(&format!("{WEB}/retries/budget_exhausted")) > 0);
    });
}

#[test]
fn a_body_of_nothing_is_sent_again_as_it_came() {
    both(|cores| {
        let rules = "retries: {classifier: retryable_all_5xx}";
        // What comes with the head, and what comes once that is at the endpoint.
        for (framing, at_once, later) in [
            ("Content-Length: 0", "", ""),
            ("Transfer-Encoding: chunked", "0\r\n\r\n", ""),
            ("Transfer-Encoding: chunked", "", "0\r\n\r\n"),
            ("Transfer-Encoding: chunked", "0\r\n", "X-Trailer: 1\r\n\r\n"),
        ] {
            let case = format!("{framing}, {at_once:?}, then {later:?}");
            let origin = fails_first(1);
            let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", rules)), cores);
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{at_once}"));
            if !later.is_empty() {
                common::eventually("the head is there", || origin.accepted() == 1);
                client.send(later);
            }
            assert_eq!(client.answer().status(), 200, "{case}");
            let requests = origin.requests();
            assert_eq!(requests.len(), 2, "{case}");
            for request in &requests {
                let (name, value) = framing.split_once(": ").expect("a field");
                assert_eq!(request.head.get(name), Some(value), "{case}");
                assert!(request.body.is_empty(), "{case}");
                assert_eq!(request.trailers.is_empty(), !later.contains("Trailer"), "{case}");
            }
            let metrics = settled(&proxy, 1);
            assert_eq!(metrics.get(&format!("{WEB}/retries/total")), 1, "{case}");
        }
    });
}
