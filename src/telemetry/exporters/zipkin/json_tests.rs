//! What Zipkin is sent, read back as JSON. That it passes Zipkin's schema is for `tests/zipkin.rs`.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::http::{Method, Peer, Reason, Sampling, Seen, Target};
use crate::telemetry::exporters::zipkin::Naming;
use crate::telemetry::record::{Attempt, AttemptEnd, Cause, RequestEnd};
use crate::telemetry::sample;
use crate::telemetry::trace::{Forms, Hop, Incoming, Said, Spans, Trail};

const EPOCH: Duration = Duration::from_micros(1_700_000_000_000_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn hop(came: &str, decision: Sampling) -> Hop {
    let field = crate::http::Field::new(b"b3", came.as_bytes());
    let mut seen = Seen::default();
    let fields = if came.is_empty() { &[][..] } else { &[field][..] };
    fields.iter().for_each(|field| seen.add(field.kind));
    let mut last = 0xF0;
    let incoming = Incoming::read(fields, seen);
    let mut hop = Hop::begin(&incoming, Forms::DEFAULT, || {
        last += 1;
        last
    });
    hop.decided(decision, true);
    hop
}

fn trail(hop: Hop, method: &str, target: &str) -> Trail {
    let parsed = Target::parse(target.as_bytes(), Method::Get).unwrap();
    let peer = Peer { ip: "::ffff:192.0.2.7".parse().ok(), port: 50_123 };
    let method = method.as_bytes();
    let said = Said { server: 0, peer, method, target: &parsed, request_id: b"" };
    Trail::begin(hop, ms(10), &said)
}

fn request(status: u16, failure: Option<Cause>, retries: u32) -> RequestEnd {
    RequestEnd {
        status,
        failure,
        latency: ms(40),
        proxy_latency: ms(1),
        request_bytes: 3,
        response_bytes: 128,
        retries,
        attempts: retries + 1,
    }
}

fn attempt(status: Option<u16>, failure: Option<Cause>, response_bytes: u64) -> AttemptEnd {
    AttemptEnd { status, failure, latency: ms(1), request_bytes: 3, response_bytes }
}

fn told(trail: &Trail, now: Duration, end: &RequestEnd, naming: &Naming) -> Vec<Value> {
    let mut spans = Spans::new(100);
    trail.ended(now, end, &mut spans);
    let layout = sample::layout(&["127.0.0.1:8080", "unix:/run/web.sock"]);
    let mut out = Vec::new();
    let (list, dropped) = spans.take(Vec::new());
    assert_eq!((list.len() as u32, dropped), (trail.spans(), 0));
    batch(&mut out, &list, &Told { layout: &layout, epoch: EPOCH, naming });
    serde_json::from_slice(&out).unwrap()
}

fn at(ms: u64) -> Value {
    json!(EPOCH.as_micros() as u64 + ms * 1_000)
}

/// Fails once with 503 over a new connection, and is retried over a pooled one.
fn retried() -> (Trail, Vec<Value>) {
    let came = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    let mut trail = trail(hop(came, Sampling::Yes), "POST", "/a%20\"b?secret=1");
    trail.routed(0);
    let address = "127.0.0.1:8080".parse().ok();
    trail.attempt_begun(0, address, Attempt::First, ms(11));
    trail.connected(ms(13));
    trail.answered(ms(20));
    trail.attempt_ended(ms(21), &attempt(Some(503), Some(Cause::UpstreamStatus), 7));
    trail.attempt_begun(1, None, Attempt::Retry, ms(30));
    trail.pooled();
    trail.answered(ms(40));
    trail.attempt_ended(ms(50), &attempt(Some(200), None, 128));
    let spans = told(&trail, ms(51), &request(200, None, 1), &Naming::default());
    assert_eq!(spans.len(), 3);
    (trail, spans)
}

#[test]
fn the_server_of_a_request_that_is_retried() {
    let (_, spans) = retried();
    let server = json!({
        "traceId": "80f198ee56343ba864fe8b2a57d3eff7",
        "parentId": "e457b5a2e4d86bd1",
        "id": "00000000000000f1",
        "kind": "SERVER",
        "name": "post web",
        "timestamp": at(10),
        "duration": 41_000,
        "localEndpoint": {"serviceName": "http", "ipv4": "127.0.0.1", "port": 4140},
        "remoteEndpoint": {"ipv4": "192.0.2.7", "port": 50_123},
        "annotations": [
            {"timestamp": at(10), "value": "wr"},
            {"timestamp": at(40), "value": "first byte"},
            {"timestamp": at(51), "value": "ws"},
        ],
        "tags": {
            "router.label": "http",
            "service": "web",
            "http.method": "POST",
            "http.path": "/a%20\"b",
            "http.status_code": "200",
            "http.request.size": "3",
            "http.response.size": "128",
            "retries": "1",
        },
    });
    assert_eq!(spans[0], server);
}

#[test]
fn both_attempts_of_a_request_that_is_retried() {
    let (trail, spans) = retried();
    let first = json!({
        "traceId": "80f198ee56343ba864fe8b2a57d3eff7",
        "parentId": "00000000000000f1",
        "id": format!("{:016x}", trail.hop().attempt(0).get()),
        "kind": "CLIENT",
        "name": "post web",
        "timestamp": at(11),
        "duration": 10_000,
        "localEndpoint": {"serviceName": "http", "ipv4": "127.0.0.1", "port": 4140},
        "remoteEndpoint": {"serviceName": "web", "ipv4": "127.0.0.1", "port": 8080},
        "annotations": [
            {"timestamp": at(11), "value": "connect start"},
            {"timestamp": at(13), "value": "connect end"},
            {"timestamp": at(13), "value": "ws"},
            {"timestamp": at(20), "value": "first byte"},
            {"timestamp": at(21), "value": "wr"},
        ],
        "tags": {
            "router.label": "http",
            "service": "web",
            "client": "127.0.0.1:8080",
            "attempt": "first",
            "http.method": "POST",
            "http.path": "/a%20\"b",
            "http.status_code": "503",
            "http.request.size": "3",
            "http.response.size": "7",
            "error": "upstream_status",
        },
    });
    assert_eq!(spans[1], first);
    let second = &spans[2];
    assert_eq!(second["id"], format!("{:016x}", trail.hop().attempt(1).get()));
    assert_eq!(second["remoteEndpoint"], json!({"serviceName": "web"}), "a Unix socket");
    assert_eq!(second["tags"]["client"], "unix:/run/web.sock");
    assert_eq!(second["tags"]["attempt"], "retry");
    assert_eq!(second["tags"].get("error"), None);
    let values = second["annotations"].as_array().unwrap().iter();
    let values: Vec<&str> = values.map(|it| it["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["ws", "first byte", "wr"]);
}

#[test]
fn a_connection_that_is_refused() {
    let mut trail = trail(hop("", Sampling::Debug), "GET", "/");
    trail.routed(0);
    trail.attempt_begun(0, "127.0.0.1:8080".parse().ok(), Attempt::First, ms(11));
    let failure = Some(Cause::Reason(Reason::ConnectRefused));
    trail.attempt_ended(ms(11), &attempt(None, failure, 0));
    let spans = told(&trail, ms(12), &request(502, failure, 0), &Naming::default());
    let (server, client) = (&spans[0], &spans[1]);
    // A trace that begins here has no parent, and 128 bits.
    assert_eq!(server.get("parentId"), None);
    assert_eq!(server["traceId"], "00000000000000f200000000000000f3");
    assert_eq!((&server["debug"], &client["debug"]), (&json!(true), &json!(true)));
    for span in [server, client] {
        assert_eq!(span["tags"]["error"], "connect_refused");
    }
    assert_eq!(server["tags"]["http.status_code"], "502");
    assert_eq!(client["tags"].get("http.status_code"), None, "nothing was answered");
    assert_eq!(client["duration"], 1, "Zipkin wants one at least");
    let began = json!([{"timestamp": at(11), "value": "connect start"}]);
    assert_eq!(client["annotations"], began);
    let ours = json!([{"timestamp": at(10), "value": "wr"}, {"timestamp": at(12), "value": "ws"}]);
    assert_eq!(server["annotations"], ours, "the answer was made here");
}

#[test]
fn a_request_that_found_no_service() {
    let trail = trail(hop("463ac35c9f6413ad-e457b5a2e4d86bd1", Sampling::Undecided), "BREW", "/x");
    let failure = Some(Cause::Reason(Reason::NoRoute));
    let spans = told(&trail, ms(10), &request(404, failure, 0), &Naming::default());
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0]["traceId"], "463ac35c9f6413ad", "64 bits stay 64 bits");
    assert_eq!(spans[0]["name"], "other", "names are few");
    assert_eq!(spans[0]["tags"]["http.method"], "BREW");
    assert_eq!(spans[0]["tags"].get("service"), None);
    assert_eq!(spans[0]["localEndpoint"]["serviceName"], "http");
    assert_eq!(spans[0].get("debug"), None);
}

#[test]
fn an_id_that_was_filled_up_is_the_same_trace() {
    let came = "0000000000000000463ac35c9f6413ad-e457b5a2e4d86bd1-1";
    let trail = trail(hop(came, Sampling::Yes), "GET", "/");
    let spans = told(&trail, ms(10), &request(404, None, 0), &Naming::default());
    assert_eq!(spans[0]["traceId"], "463ac35c9f6413ad");
}

#[test]
fn services_are_called_as_configured() {
    let mut trail = trail(hop("", Sampling::Yes), "GET", "/");
    trail.routed(0);
    trail.attempt_begun(0, "[2001:db8::1]:80".parse().ok(), Attempt::First, ms(11));
    trail.attempt_ended(ms(12), &attempt(Some(200), None, 0));
    let beside = Naming { local: "{service}".to_owned(), remote: String::new() };
    let spans = told(&trail, ms(12), &request(200, None, 0), &beside);
    assert_eq!(spans[0]["localEndpoint"]["serviceName"], "web");
    assert_eq!(spans[1]["localEndpoint"]["serviceName"], "web");
    assert_eq!(spans[1]["remoteEndpoint"], json!({"ipv6": "2001:db8::1", "port": 80}));
}

/// Ids of endpoints and services that went before their spans were told.
#[test]
fn names_that_are_gone_are_left_out() {
    let mut trail = trail(hop("", Sampling::Yes), "GET", "/");
    trail.routed(9);
    trail.attempt_begun(u32::MAX, "10.0.0.1:80".parse().ok(), Attempt::First, ms(11));
    trail.attempt_begun(77, None, Attempt::Requeue, ms(11));
    let spans = told(&trail, ms(12), &request(200, None, 0), &Naming::default());
    assert_eq!(spans[1]["tags"]["client"], "10.0.0.1:80");
    assert_eq!(spans[1]["remoteEndpoint"], json!({"ipv4": "10.0.0.1", "port": 80}));
    assert_eq!((spans[2]["tags"].get("client"), spans[2].get("remoteEndpoint")), (None, None));
    assert_eq!(spans[2]["tags"]["attempt"], "requeue");
}

/// Beyond `max_series` endpoints share an id, and are told by their addresses all the same.
#[test]
fn endpoints_of_one_id_are_told_apart() {
    let mut trail = trail(hop("", Sampling::Yes), "GET", "/");
    trail.routed(0);
    for (address, attempt) in [("10.0.0.1:80", Attempt::First), ("10.0.0.2:80", Attempt::Retry)] {
        trail.attempt_begun(77, address.parse().ok(), attempt, ms(11));
    }
    let spans = told(&trail, ms(12), &request(200, None, 1), &Naming::default());
    for (span, ip) in spans[1..].iter().zip(["10.0.0.1", "10.0.0.2"]) {
        assert_eq!(span["remoteEndpoint"]["ipv4"], ip);
        assert_eq!(span["tags"]["client"], format!("{ip}:80"));
    }
}

#[test]
fn text_is_cut_at_its_bound() {
    let path = format!("/{}", "p".repeat(500));
    let trail = trail(hop("", Sampling::Yes), &"M".repeat(60), &path);
    let spans = told(&trail, ms(10), &request(200, None, 0), &Naming::default());
    let tags = &spans[0]["tags"];
    assert_eq!(tags["http.path"].as_str(), Some(&path[..128]));
    assert_eq!(tags["http.method"].as_str(), Some(&"M".repeat(20)[..]));
    let absolute = self::trail(hop("", Sampling::Yes), "GET", "http://h?q=1");
    let spans = told(&absolute, ms(10), &request(200, None, 0), &Naming::default());
    assert_eq!(spans[0]["tags"]["http.path"], "/");
}

#[test]
fn a_batch_of_none_is_an_array() {
    let layout = sample::layout(&[]);
    let mut out = Vec::new();
    batch(&mut out, &[], &Told { layout: &layout, epoch: EPOCH, naming: &Naming::default() });
    assert_eq!(out, b"[]");
}

/// All spans of a request or none; what did not fit is counted.
#[test]
fn what_does_not_fit_is_counted() {
    let mut trail = trail(hop("", Sampling::Yes), "GET", "/");
    trail.attempt_begun(0, None, Attempt::First, ms(11));
    let mut spans = Spans::new(5);
    (0..4).for_each(|_| trail.ended(ms(12), &request(200, None, 0), &mut spans));
    let (list, dropped) = spans.take(Vec::new());
    assert_eq!((list.len(), dropped), (4, 4));
    assert!(spans.is_empty());
    let (list, dropped) = spans.take(list);
    assert_eq!((list.len(), dropped), (0, 0));
    trail.ended(ms(12), &request(200, None, 0), &mut spans);
    assert!(!spans.is_empty());
    let (again, _) = spans.take(list);
    assert_eq!(again.len(), 2);
}
