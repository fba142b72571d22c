//! Lines read by a parser that follows InfluxDB's specification of line protocol to the letter.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::telemetry::exporters::probe;
use crate::telemetry::sample;
use crate::telemetry::state::ShardStats;

#[derive(Debug, PartialEq)]
enum Field {
    Integer(i64),
    Float(f64),
}

#[derive(Debug)]
struct Point {
    measurement: String,
    tags: Vec<(String, String)>,
    fields: BTreeMap<String, Field>,
    at_ns: i64,
}

impl Point {
    fn is(&self, measurement: &str, tags: &[(&str, &str)]) -> bool {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.measurement == measurement && self.tags == tags.collect::<Vec<_>>()
    }
}

/// Up to one of `ends` that has no backslash before it: what was escaped, and the rest from there.
fn token<'a>(text: &'a str, special: &str, ends: &str) -> (String, &'a str) {
    let (mut out, mut chars) = (String::new(), text.char_indices().peekable());
    while let Some((at, char)) = chars.next() {
        if char == '\\' {
            let (_, escaped) = chars.next().expect("a backslash ends nothing");
            assert!(special.contains(escaped), "{escaped:?} needs no backslash: {text}");
            out.push(escaped);
        } else if ends.contains(char) {
            return (out, &text[at..]);
        } else {
            assert!(!special.contains(char), "{char:?} needs a backslash: {text}");
            out.push(char);
        }
    }
    (out, "")
}

fn point(line: &str) -> Point {
    let (measurement, mut rest) = token(line, ", ", ", ");
    assert!(!measurement.is_empty() && !measurement.starts_with(['_', '#']), "{line}");
    let mut tags: Vec<(String, String)> = Vec::new();
    while let Some(tag) = rest.strip_prefix(',') {
        let (name, value) = token(tag, ",= ", "=");
        let (value, after) = token(value.strip_prefix('=').expect(line), ",= ", ", ");
        assert!(!name.is_empty() && !value.is_empty(), "{line}");
        tags.push((name, value));
        rest = after;
    }
    assert!(tags.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted, each once: {line}");
    let mut fields = BTreeMap::new();
    rest = rest.strip_prefix(' ').expect(line);
    let at_ns = loop {
        let (name, value) = token(rest, ",= ", "=");
        let value = value.strip_prefix('=').expect(line);
        let (value, after) = value.split_at(value.find([',', ' ']).expect(line));
        let value = match value.strip_suffix('i') {
            Some(whole) => Field::Integer(whole.parse().expect(line)),
            None => Field::Float(value.parse().expect(line)),
        };
        assert!(!matches!(value, Field::Float(it) if !it.is_finite()), "{line}");
        assert!(fields.insert(name, value).is_none(), "a field twice: {line}");
        match after.split_at(1) {
            (",", after) => rest = after,
            (_, after) => break after.parse().expect(line),
        }
    };
    Point { measurement, tags, fields, at_ns }
}

fn points(text: &str) -> Vec<Point> {
    assert!(text.ends_with('\n'));
    let points: Vec<Point> = text.lines().map(point).collect();
    let series: BTreeSet<String> =
        points.iter().map(|point| format!("{} {:?}", point.measurement, point.tags)).collect();
    assert_eq!(series.len(), points.len(), "a series twice");
    points
}

fn names() -> Names {
    Names { prefix: "ringlane".to_owned(), host: "a host".to_owned() }
}

fn find<'a>(points: &'a [Point], measurement: &str, tags: &[(&str, &str)]) -> &'a Point {
    let found = points.iter().find(|point| point.is(measurement, tags));
    found.unwrap_or_else(|| panic!("no {measurement} {tags:?}"))
}

#[test]
fn every_scope_is_a_line_with_its_fields() {
    let text = sample::hub().read(|state| document(state, &names(), 1_700_000_000_000_000_001));
    let points = points(&text);
    assert!(points.iter().all(|point| point.at_ns == 1_700_000_000_000_000_001));
    let tags = [("host", "a host"), ("router", "http"), ("server", "127.0.0.1:4140")];
    let server = find(&points, "ringlane_server", &tags);
    assert_eq!(server.fields["requests"], Field::Integer(1_003));
    assert_eq!(server.fields["failures/no_route"], Field::Integer(1));
    assert_eq!(server.fields["pending"], Field::Float(1.0));
    assert_eq!(server.fields["request_latency_ms_count"], Field::Integer(1_001));
    for figure in ["sum", "avg", "min", "max", "p50", "p90", "p95", "p99", "p999", "p9999"] {
        let field = &server.fields[&format!("request_latency_ms_{figure}")];
        assert!(matches!(field, Field::Float(value) if *value > 0.0), "{figure}: {field:?}");
    }
    let tags = [("client", "web"), ("endpoint", "unix:/run/web.sock"), ("host", "a host")];
    assert_eq!(find(&points, "ringlane_endpoint", &tags).fields["ewma_ms"], Field::Float(1.5));
    let tags = [("host", "a host"), ("shard", "1")];
    assert_eq!(find(&points, "ringlane_shard", &tags).fields["turns"], Field::Integer(0));
    for kind in ["process", "telemetry"] {
        find(&points, &format!("ringlane_{kind}"), &[("host", "a host")]);
    }
    let service = [("host", "a host"), ("router", "http"), ("service", "web")];
    find(&points, "ringlane_service", &service);
    let client = find(&points, "ringlane_client", &[("client", "web"), ("host", "a host")]);
    assert_eq!(client.fields["loadbalancer/algorithm/ewma"], Field::Float(1.0));
}

#[test]
fn counts_go_on_when_the_minute_is_over() {
    let hub = sample::hub();
    hub.update(|merger| merger.settle(Instant::now() + Duration::from_secs(90)));
    let points = points(&hub.read(|state| document(state, &names(), 1)));
    let server = points.iter().find(|point| point.measurement == "ringlane_server").unwrap();
    assert_eq!(server.fields["request_latency_ms_count"], Field::Integer(1_001));
    assert!(server.fields.contains_key("request_latency_ms_sum"));
    assert!(!server.fields.contains_key("request_latency_ms_p50"));
}

#[test]
fn what_is_special_is_escaped_and_what_cannot_be_written_replaced() {
    let mut state = State::default();
    state.telemetry.scope.paths = vec!["telemetry".to_owned()];
    state.telemetry.export_failures.set("a,b=c d\n", 1);
    state.shards = vec![ShardStats::new(0, 0)];
    state.shards[0].figures.busy_ratio = f64::INFINITY;
    state.shards[0].figures.turns = u64::MAX;
    let labels = [("shard", "a,b=c d\\"), ("router", "x\r\ny"), ("client", "")];
    state.shards[0].scope.labels =
        labels.map(|(name, value)| (name, value.to_owned())).into_iter().rev().collect();
    let names = Names { prefix: "my, own=".to_owned(), host: String::new() };
    let points = points(&document(&state, &names, 1));
    let shard = find(&points, "my, own=_shard", &[("router", "x__y"), ("shard", "a,b=c d_")]);
    assert_eq!(shard.fields["turns"], Field::Integer(i64::MAX));
    assert!(!shard.fields.contains_key("busy_ratio"));
    let telemetry = find(&points, "my, own=_telemetry", &[]);
    assert_eq!(telemetry.fields["export_failures/a,b=c d_"], Field::Integer(1));
}

#[test]
fn scopes_with_the_same_tags_share_a_line_and_several_paths_are_one() {
    let shards = vec![ShardStats::new(0, 0), ShardStats::new(0, 1)];
    let mut state = State { shards, ..State::default() };
    state.shards[1].scope.paths.push("elsewhere".to_owned());
    // Two kinds of scope that are about the same thing.
    state.telemetry.scope = state.shards[0].scope.clone();
    let points = points(&document(&state, &names(), 1));
    let shard = find(&points, "ringlane_shard", &[("host", "a host"), ("shard", "0")]);
    assert!(shard.fields.contains_key("turns") && shard.fields.contains_key("snapshots"));
}

#[test]
fn it_is_asked_at_its_place_and_says_what_it_is() {
    let answer = probe::get(KIND, &sample::hub(), "/admin/metrics/influxdb");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
    let points = points(&answer.body);
    let host = host_name();
    assert!(points.iter().all(|point| point.tags.contains(&("host".into(), host.clone()))));
}

#[test]
fn a_prefix_that_cannot_work_is_refused() {
    for (prefix, fits) in
        [("", true), ("a b,c", true), ("_x", false), ("#", false), ("a\nb", false), ("\\", false)]
    {
        let settings = ExporterSettings::defaults(KIND.spec).with_text("prefix", prefix);
        let made = (KIND.make)(&settings);
        assert_eq!(made.is_ok(), fits, "{prefix:?}");
        assert!(made.err().is_none_or(|why| why.contains("allowed")));
    }
}
