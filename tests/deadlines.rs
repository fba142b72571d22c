//! `l5d-ctx-deadline`: a request that brings it is over by then, here and at the next hop.

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Answer, Origin, Proxy, Wire, both, config, ok};

const WEB: &str = "rt/http/service/web";
const FIELD: &str = "l5d-ctx-deadline";
const SECOND_NS: i64 = 1_000_000_000;
/// When the tests' deadlines were set: any moment does.
const SET_NS: i64 = 1_500_000_000_000_000_000;

fn start(origin: &Origin, service: &str, cores: &str) -> Proxy {
    let yaml = config(&[origin.address], "", service);
    Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), cores)
}

/// An origin that takes requests and never answers.
fn never() -> Origin {
    Origin::start(|mut wire, _| while wire.some().is_ok_and(|bytes| !bytes.is_empty()) {})
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as i64
}

/// The value of a deadline so many nanoseconds from now.
fn in_ns(ns: i64) -> String {
    format!("{SET_NS} {}", now_ns() + ns)
}

fn send(client: &mut Wire, values: &[&str]) {
    let fields: String = values.iter().map(|it| format!("{FIELD}: {it}\r\n")).collect();
    client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
}

fn get(client: &mut Wire, values: &[&str]) -> Answer {
    send(client, values);
    client.answer()
}

#[track_caller]
fn assert_over(answer: &Answer) {
    assert_eq!((answer.status(), answer.head.reason()), (504, Some("request_timeout")));
}

#[test]
fn it_ends_a_request_that_nothing_else_would() {
    both(|cores| {
        let origin = never();
        let proxy = start(&origin, "timeouts: {attempt_ms: 0}", cores);
        let began = Instant::now();
        let mut client = proxy.connect();
        assert_over(&get(&mut client, &[&in_ns(SECOND_NS / 2)]));
        let took = began.elapsed();
        assert!(took > Duration::from_millis(250), "{took:?}");
        let metrics = proxy.metrics_when("it is counted", |metrics| {
            metrics.get(&format!("{WEB}/failures/request_timeout")) == 1
        });
        metrics.check_conservation();
        assert_eq!(origin.accepted(), 1);
        assert_over(&get(&mut client, &[&in_ns(SECOND_NS / 10)]));
    });
}

#[test]
fn what_is_over_already_costs_the_origin_nothing() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, "", cores);
        let mut client = proxy.connect();
        let (over, far) = (in_ns(-SECOND_NS), in_ns(60 * SECOND_NS));
        for values in [&[&over[..]][..], &["0 0"], &["-1 -1"], &[&far, &over], &["no", &over]] {
            assert_over(&get(&mut client, values));
        }
        let metrics = proxy.metrics_when("all are counted", |metrics| {
            metrics.get(&format!("{WEB}/answered_here")) == 5
        });
        metrics.check_conservation();
        assert_eq!(metrics.get(&format!("{WEB}/failures/request_timeout")), 5);
        assert_eq!((origin.accepted(), metrics.get("rt/http/client/web/requests")), (0, 0));
        assert_eq!(get(&mut client, &[]).text(), "fine", "the connection goes on");
        // A body that nobody reads ends it.
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{FIELD}: {over}\r\n"));
        client.send("Content-Length: 4\r\n\r\nbody");
        let answer = client.answer();
        assert_over(&answer);
        assert_eq!(answer.head.get("connection"), Some("close"));
        client.expect_end();
    });
}

#[test]
fn it_lengthens_nothing() {
    let origin = never();
    let proxy = start(&origin, "timeouts: {request_ms: 300}", "0");
    let began = Instant::now();
    assert_over(&get(&mut proxy.connect(), &[&in_ns(3_600 * SECOND_NS)]));
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}

#[test]
fn what_cannot_be_read_is_ignored_and_goes_on_as_it_came() {
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = start(&origin, "timeouts: {request_ms: 30000}", "0");
    let mut client = proxy.connect();
    for value in ["1", "1 2 3", "1,2", "now then", "1 9223372036854775808", "0x1 0x2", "1.5 2.5"] {
        assert_eq!(get(&mut client, &[value]).text(), "fine", "{value}");
        assert_eq!(origin.last_request().head.get(FIELD), Some(value));
    }
    assert_eq!(get(&mut client, &["one", "two"]).text(), "fine");
    assert_eq!(origin.last_request().head.all(FIELD), ["one", "two"]);
}

#[test]
fn the_next_hop_learns_what_is_left() {
    let seen = |service: &str, values: &[&str]| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, service, "0");
        assert_eq!(get(&mut proxy.connect(), values).text(), "fine");
        origin.last_request().head.get(FIELD).map(str::to_owned)
    };
    let (minute, hour) = (in_ns(60 * SECOND_NS), in_ns(3_600 * SECOND_NS));
    let ends_in_ten = "timeouts: {request_ms: 600000}";
    assert_eq!(seen(ends_in_ten, &[]), None, "nothing is made up");
    assert_eq!(seen("", &[&hour]).as_ref(), Some(&hour), "as it came");
    assert_eq!(seen(ends_in_ten, &[&minute]).as_ref(), Some(&minute), "ours ends later");
    assert_eq!(seen("", &[&hour, "no", &minute]).as_ref(), Some(&minute), "the earliest of all");
    let before_ns = now_ns();
    let value = seen(ends_in_ten, &[&hour]).expect("a deadline");
    let (set, over) = value.split_once(' ').expect("two moments");
    let (set_ns, over_ns): (i64, i64) = (set.parse().unwrap(), over.parse().unwrap());
    assert_eq!(set_ns, SET_NS);
    let ours_ns = before_ns + 600 * SECOND_NS..=now_ns() + 600 * SECOND_NS;
    assert!(ours_ns.contains(&over_ns), "{over_ns} is not in {ours_ns:?}");
}

#[test]
fn nothing_is_tried_again_that_would_end_too_late() {
    let failing = || Origin::answering(|_| b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec());
    let rules = |wait_ms: u32| {
        format!(
            "retries: {{classifier: retryable_read_5xx, \
             backoff: {{kind: constant, ms: {wait_ms}}}}}"
        )
    };
    let origin = failing();
    let proxy = start(&origin, &rules(10_000), "0");
    let began = Instant::now();
    assert_eq!(get(&mut proxy.connect(), &[&in_ns(5 * SECOND_NS)]).status(), 503);
    assert_eq!(origin.requests().len(), 1, "the wait alone would outlast it");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let origin = failing();
    let proxy = start(&origin, &rules(1), "0");
    let value = in_ns(3_600 * SECOND_NS);
    assert_eq!(get(&mut proxy.connect(), &[&value]).status(), 503);
    let requests = origin.requests();
    assert_eq!(requests.len(), 3, "there is time for both");
    assert!(requests.iter().all(|request| request.head.get(FIELD) == Some(&value)));
}

#[test]
fn who_waits_for_a_place_waits_no_longer() {
    both(|cores| {
        let origin = never();
        let rules = "limits: {max_concurrent: 1, max_queue: 1, queue_timeout_ms: 60000}";
        let proxy = start(&origin, rules, cores);
        let mut first = proxy.connect();
        first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        proxy.metrics_when("it has the place", |metrics| {
            metrics.get("rt/http/client/web/pending") == 1
        });
        assert_over(&get(&mut proxy.connect(), &[&in_ns(SECOND_NS / 2)]));
        assert_eq!(origin.accepted(), 1);
    });
}
