//! The document against the state: what is there, by which name, in which form.

use std::time::{Duration, Instant};

use super::*;
use crate::telemetry::exporters::probe;
use crate::telemetry::layout::{Occupied, Registry, ServerName, ServiceFacts, Topology};
use crate::telemetry::merge::Merger;
use crate::telemetry::record::{Attempt, AttemptEnd, Outlet, Recorder, RequestEnd};
use crate::telemetry::sample;
use crate::telemetry::state::Scope;

const SERVER: &str = "rt/http/server/127.0.0.1/4140";

fn query(text: &str) -> Query {
    Query::parse(text).unwrap()
}

/// The document that a query text asks for. It has as many keys as there are in its text: only
/// keys are quoted, and a reader keeps one of those that are there twice.
fn ask(state: &State, text: &str) -> Map<String, Value> {
    let bytes = document(state, &query(text)).unwrap_or_else(|| panic!("nothing for {text:?}"));
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    let (mut quotes, mut escaped) = (0, false);
    for byte in bytes {
        quotes += usize::from(byte == b'"' && !escaped);
        escaped = byte == b'\\' && !escaped;
    }
    assert_eq!(quotes, 2 * keys(&value), "a key is there twice");
    value.as_object().unwrap().clone()
}

fn keys(value: &Value) -> usize {
    value.as_object().map_or(0, |map| map.len() + map.values().map(keys).sum::<usize>())
}

fn with<T>(check: impl FnOnce(&State) -> T) -> T {
    sample::hub().read(check)
}

#[test]
fn flat_names_have_the_values_of_the_state() {
    with(|state| {
        let document = ask(state, "");
        let at = |key: &str| document[&format!("{SERVER}/{key}")].to_string();
        assert_eq!(at("requests"), "1003");
        assert_eq!(at("failures"), "12");
        assert_eq!(at("failures/upstream_status"), "10");
        assert_eq!(at("status/503"), "10");
        assert_eq!(at("status/5XX"), "10");
        assert_eq!(at("pending"), "1.0");
        assert_eq!(at("request_latency_ms.count"), "1001");
        assert!(at("request_latency_ms.p50").parse::<f64>().unwrap() > 40.0);
        for figure in ["sum", "min", "max", "avg", "stddev", "p90", "p95", "p99", "p9990", "p9999"]
        {
            at(&format!("request_latency_ms.{figure}"));
        }
        assert_eq!(document["rt/http/client/web/loadbalancer/algorithm/ewma"], 1.0);
        assert_eq!(document["shard/0/busy_ratio"], 0.25);
        // Nothing was hedged, retried or put through a tunnel.
        let removed = "rt/http/client/web/failure_accrual/removed_for_ms";
        assert_eq!(document[removed].to_string(), "0.0");
    });
}

#[test]
fn an_empty_histogram_is_its_count() {
    let hub = sample::hub();
    let later = Instant::now() + Duration::from_secs(90);
    hub.update(|merger| merger.settle(later));
    hub.read(|state| {
        let text = format!("q={SERVER}/request_latency_ms");
        assert_eq!(Value::from(ask(state, &text)), json!({ ".count": 0 }));
        assert_eq!(ask(state, &format!("{text}&window=total"))[".count"], 1001);
    });
}

#[test]
fn pretty_is_the_same_but_sorted_and_indented() {
    with(|state| {
        assert_eq!(ask(state, "pretty"), ask(state, ""));
        let text = String::from_utf8(document(state, &query("pretty=1")).unwrap()).unwrap();
        let keys: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  \"")).collect();
        assert!(keys.len() > 100 && keys.is_sorted(), "{text}");
        let nested = String::from_utf8(document(state, &query("pretty&tree")).unwrap()).unwrap();
        assert!(nested.contains("\n    \"http\": {\n"), "{nested}");
    });
}

/// Flat names and numbers of a tree.
fn flattened(node: &Value, at: &str, into: &mut Map<String, Value>) {
    for (name, value) in node.as_object().unwrap() {
        match name.as_str() {
            _ if value.is_object() => {
                let slash = if at.is_empty() { "" } else { "/" };
                flattened(value, &format!("{at}{slash}{name}"), into);
            }
            "counter" | "gauge" => drop(into.insert(at.to_owned(), value.clone())),
            stat => {
                let figure = stat.strip_prefix("stat").unwrap();
                into.insert(format!("{at}{figure}"), value.clone());
            }
        }
    }
}

#[test]
fn the_tree_is_the_flat_form_nested() {
    with(|state| {
        for rest in ["", "&q=rt/http/client", "&window=total"] {
            let tree = ask(state, &format!("tree{rest}"));
            let mut flat = Map::new();
            flattened(&tree.into(), "", &mut flat);
            assert_eq!(flat, ask(state, rest), "{rest}");
        }
        let tree = Value::from(ask(state, "tree"));
        let failures = &tree["rt"]["http"]["server"]["127.0.0.1"]["4140"]["failures"];
        assert_eq!(failures["counter"], 12, "a node has its value and children");
        assert_eq!(failures["no_route"]["counter"], 1);
    });
}

#[test]
fn q_is_for_whole_segments_and_reaches_keys_with_slashes() {
    with(|state| {
        let endpoint = "rt/http/client/web/endpoint/unix:/run/web.sock";
        for text in [endpoint, &endpoint.replace('/', "%2F"), &format!("/{endpoint}/")] {
            let found = ask(state, &format!("q={text}"));
            assert_eq!(found["requests"], 501, "{text}");
            assert_eq!(found["ewma_ms"], 1.5, "{text}");
        }
        let failures = ask(state, &format!("q={SERVER}/failures"));
        assert_eq!((&failures[""], &failures["no_route"]), (&json!(12), &json!(1)));
        let tree = ask(state, &format!("tree&q={SERVER}/failures"));
        assert_eq!((&tree["counter"], &tree["no_route"]["counter"]), (&json!(12), &json!(1)));
        let figure = ask(state, &format!("q={SERVER}/request_latency_ms.max&tree"));
        assert_eq!(Value::from(figure), json!({ "stat.max": 100.02 }));
        assert_eq!(document(state, &query("q=rt/htt")), None, "part of a segment");
        assert_eq!(document(state, &query(&format!("q={SERVER}/request_latency_ms.p5"))), None);
        assert_eq!(document(state, &query("q=shard/7&tree&pretty")), None);
    });
}

#[test]
fn several_paths_have_the_same_value_and_no_key_is_there_twice() {
    let mut state = State::default();
    let paths = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    state.telemetry.scope = Scope { paths: paths(&["a", "b", "a"]), labels: Vec::new() };
    state.telemetry.merge_us = 7;
    state.process.scope.paths = paths(&["b"]);
    // A path of a socket may be named as a node's own value is.
    state.telemetry.export_failures.set("x/counter", 1);
    state.telemetry.export_failures.set("x", 2);
    let found = ask(&state, "");
    assert_eq!((&found["a/merge_us"], &found["b/merge_us"]), (&json!(7.0), &json!(7.0)));
    assert_eq!(ask(&state, "pretty"), found);
    let tree = Value::from(ask(&state, "tree&q=a/export_failures/x"));
    assert_eq!(tree, json!({ "counter": 2, "/counter": { "counter": 1 } }));
}

#[test]
fn names_are_escaped_and_numbers_that_are_none_left_out() {
    let mut state = State::default();
    let path = "a \"quoted\\ \u{1} name\u{fc}".to_owned();
    state.shards = vec![crate::telemetry::state::ShardStats::new(0, 0)];
    state.shards[0].scope.paths = vec![path.clone()];
    state.shards[0].figures.busy_ratio = f64::NAN;
    state.shards[0].figures.turns = u64::MAX;
    for text in ["", "tree", "pretty"] {
        ask(&state, text);
    }
    let found = ask(&state, "");
    assert_eq!(found[&format!("{path}/turns")], u64::MAX);
    assert!(!found.contains_key(&format!("{path}/busy_ratio")));
}

#[test]
fn queries_are_read_as_forms_are_written() {
    let read = query("pretty=true&tree=0&q=a%2Fb+c%20d%zz%&window=total&other");
    let under = "a/b c d%zz%".to_owned();
    assert_eq!(read, Query { pretty: true, tree: false, window: Window::Total, under });
    assert_eq!(query("pretty=false&tree=1").key(), query("tree=true").key());
    for wrong in ["pretty=yes", "tree=2", "window=", "window=minute"] {
        assert!(Query::parse(wrong).unwrap_err().contains("allowed: "), "{wrong}");
    }
}

#[test]
fn what_is_wrong_is_said_in_json() {
    let hub = sample::hub();
    for (target, status, part) in [
        ("?window=x", 400, "recent"),
        ("?q=no/such", 404, "no/such"),
        ("?q=telemetry", 200, "snapshots"),
        ("", 200, SERVER),
    ] {
        let answer = probe::get(KIND, &hub, &format!("/admin/metrics.json{target}"));
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        let value: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(value.get("error").is_some(), status != 200, "{value}");
        assert!(answer.body.contains(part), "{target}: {}", answer.body);
    }
}

/// 200 services with five endpoints each, and a minute of 50 requests a second on each service.
fn large() -> Merger {
    let start = Instant::now();
    let services = (0..200).map(|n| ServiceFacts {
        name: format!("service-{n}"),
        algorithm: "ewma",
        endpoints: (0..5).map(|at| format!("10.0.{n}.{at}:8080")).collect(),
        routers: vec!["http".into()],
    });
    let server = ServerName { router: "http".into(), address: ([127, 0, 0, 1], 4140).into() };
    let topology = Topology { servers: vec![server], services: services.collect() };
    let layout = Registry::new(1_000, Duration::from_secs(600)).apply(
        &topology,
        start,
        &Occupied::default(),
    );
    let mut merger = Merger::new(&[0], 1_000, Duration::from_secs(600), start);
    merger.apply(layout.clone(), start);
    let (snapshots, inbox) = crossbeam_channel::bounded(1);
    let (give_back, returned) = crossbeam_channel::bounded(1);
    let mut recorder = Recorder::new(0, layout.clone(), Outlet { snapshots, returned });
    for second in 0..60u64 {
        for n in 0..200 * 50u64 {
            let endpoint = (n % 1_000) as u32;
            let target = endpoint / 5;
            let latency = Duration::from_micros(300 + (n * 7_919 + second * 104_729) % 60_000);
            let (failure, request_bytes, response_bytes) = (None, n % 4_000, n % 40_000);
            recorder.request_begun(0);
            recorder.routed(target);
            recorder.attempt_begun(target, endpoint, Attempt::First);
            let status = Some(200);
            let end = AttemptEnd { status, failure, latency, request_bytes, response_bytes };
            recorder.attempt_ended(target, endpoint, &end);
            let end = RequestEnd {
                status: 200,
                failure,
                latency,
                proxy_latency: latency / 100,
                request_bytes,
                response_bytes,
                retries: 0,
                attempts: 1,
            };
            recorder.request_ended(0, Some(target), &end);
        }
        recorder.flush(|_| {});
        let mut snapshot = inbox.recv().unwrap();
        merger.merge(&mut snapshot);
        drop(give_back.try_send(snapshot.recording));
        merger.settle(start + Duration::from_secs(second));
    }
    merger
}

/// What this thread has had of a CPU, which does not depend on who else wants it.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// `cargo test --release --lib exporters::json -- --ignored --nocapture` says how long it takes.
#[test]
#[ignore = "of a release build"]
fn a_thousand_endpoints_take_less_than_20_ms() {
    const ROUNDS: u32 = 40;
    let merger = large();
    for text in ["window=total", "pretty", "tree", ""] {
        let query = query(text);
        let rounds = (0..ROUNDS).map(|_| {
            let start = cpu_time();
            let bytes = document(merger.state(), &query).unwrap().len();
            (cpu_time() - start, bytes)
        });
        // The least: whoever shares the core's caches can only add to it.
        let (least, bytes) = rounds.min().expect("there are rounds");
        println!("{text:?}: {bytes} bytes in {least:?}");
        assert!(!text.is_empty() || least < Duration::from_millis(20), "{least:?}");
    }
}
