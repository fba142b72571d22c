//! A receiver that takes nothing but what both dialects' specifications say: Etsy's
//! `docs/metric_types.md` and Datadog's "DogStatsD datagram format".

use std::collections::BTreeMap;

use super::*;
use crate::telemetry::state::{Scope, ShardStats, State};

/// Counters and gauges by name, with their tags where there are any.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Received {
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) gauges: BTreeMap<String, f64>,
}

impl Received {
    /// A packet.
    pub(super) fn take(&mut self, text: &str) {
        for line in text.lines() {
            let (name, rest) = line.split_once(':').expect(line);
            let mut sections = rest.split('|');
            let (value, kind) = (sections.next().expect(line), sections.next().expect(line));
            let tags = sections.next();
            assert_eq!(sections.next(), None, "{line}");
            check_name(name, tags.is_some());
            let name = match tags {
                Some(tags) => format!("{name}{}", checked_tags(tags)),
                None => name.to_owned(),
            };
            match kind {
                "c" => {
                    let count: u64 = digits(value).parse().expect(line);
                    *self.counters.entry(name).or_default() += count;
                }
                "g" => self.gauge(name, value, tags.is_some()),
                _ => panic!("{kind:?} is not sent: {line}"),
            }
        }
    }

    fn gauge(&mut self, name: String, value: &str, has_tags: bool) {
        let number = value.strip_prefix('-').unwrap_or(value);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        digits(whole);
        digits(fraction);
        let number: f64 = value.parse().unwrap();
        let gauge = self.gauges.entry(name).or_default();
        // Etsy: with a sign it is a difference.
        *gauge = if value.starts_with('-') && !has_tags { *gauge + number } else { number };
    }
}

fn digits(text: &str) -> &str {
    assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()), "{text:?}");
    text
}

fn check_name(name: &str, is_datadog: bool) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let parts = name.split('.');
    assert!(parts.clone().count() >= 2, "{name}");
    for part in parts {
        assert!(!part.is_empty() && part.bytes().all(fits), "{name}");
    }
    if is_datadog {
        let begins = name.starts_with(|first: char| first.is_ascii_alphabetic());
        assert!(begins && !name.contains('-') && name.len() <= 200, "{name}");
    }
}

/// `#tag:value,..`, each tag once.
fn checked_tags(section: &str) -> &str {
    let tags = section.strip_prefix('#').expect(section);
    let mut seen = BTreeSet::new();
    for tag in tags.split(',') {
        let (name, value) = tag.split_once(':').expect(tag);
        assert!(name.starts_with(|first: char| first.is_ascii_lowercase()), "{tag}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{tag}");
        let wrong = |char: char| matches!(char, '|' | ',' | '#' | '\n') || char.is_control();
        assert!(!value.is_empty() && !value.contains(wrong), "{tag}");
        assert!(seen.insert(name), "{section}");
    }
    section
}

fn received(state: &State, dialect: Dialect) -> Received {
    let mut received = Received::default();
    let lines = Format::new(dialect, "ring-lane").lines(state, &mut Ledger::default());
    lines.iter().for_each(|line| received.take(&line.text));
    received
}

#[test]
fn etsy_names_are_paths_in_the_tree() {
    let received = sample::hub().read(|state| received(state, Dialect::Etsy));
    let server = "ring-lane.rt.http.server.127_0_0_1.4140";
    assert_eq!(received.counters[&format!("{server}.requests")], 1_003);
    assert_eq!(received.counters[&format!("{server}.request_latency_ms.count")], 1_001);
    assert_eq!(received.counters[&format!("{server}.status.5XX")], 10);
    assert_eq!(received.gauges[&format!("{server}.pending")], 1.0);
    for figure in ["min", "max", "avg", "stddev", "p50", "p90", "p95", "p99", "p9990", "p9999"] {
        assert!(received.gauges[&format!("{server}.request_latency_ms.{figure}")] > 0.0);
    }
    let endpoint = "ring-lane.rt.http.client.web.endpoint.unix_.run.web_sock";
    assert_eq!(received.counters[&format!("{endpoint}.requests")], 501);
    assert_eq!(received.gauges["ring-lane.shard.0.busy_ratio"], 0.25);
}

#[test]
fn datadog_names_are_kinds_and_labels_are_tags() {
    let received = sample::hub().read(|state| received(state, Dialect::DogStatsd));
    let server = "#router:http,server:127.0.0.1:4140";
    assert_eq!(received.counters[&format!("ring_lane.server.requests{server}")], 1_003);
    assert!(received.gauges[&format!("ring_lane.server.request_latency_ms.p99{server}")] > 1.0);
    let endpoint = "#client:web,endpoint:unix:/run/web.sock";
    assert_eq!(received.gauges[&format!("ring_lane.endpoint.ewma_ms{endpoint}")], 1.5);
    assert_eq!(received.counters["ring_lane.telemetry.snapshots"], 2);
}

#[test]
fn both_dialects_say_the_same() {
    sample::hub().read(|state| {
        let (etsy, datadog) = (received(state, Dialect::Etsy), received(state, Dialect::DogStatsd));
        let sorted = |received: &Received| {
            let mut values: Vec<u64> = received.counters.values().copied().collect();
            values.sort_unstable();
            values
        };
        assert_eq!(sorted(&etsy), sorted(&datadog));
        assert_eq!(etsy.gauges.len(), datadog.gauges.len());
    });
}

#[test]
fn names_and_tags_are_safe_whatever_is_in_them() {
    let mut state = State::default();
    let nasty = "a|b:c,d#e\nf g@h.i\u{e4}//";
    state.telemetry.scope.paths = vec!["telemetry".to_owned()];
    state.process.scope.paths = vec!["process".to_owned()];
    state.shards = vec![ShardStats::new(0, 0)];
    state.shards[0].scope = Scope {
        paths: vec![format!("shard/{nasty}"), "shard/0".to_owned()],
        labels: vec![("router", String::new()), ("shard", nasty.to_owned())],
    };
    state.shards[0].figures.turns = 5;
    state.shards[0].figures.busy_ratio = f64::NAN;
    let etsy = received(&state, Dialect::Etsy);
    assert_eq!(etsy.counters["ring-lane.shard.a_b_c_d_e_f_g_h_i_._._.turns"], 5);
    assert_eq!(etsy.counters["ring-lane.shard.0.turns"], 5);
    assert!(!etsy.gauges.keys().any(|name| name.contains("busy_ratio")));
    let datadog = received(&state, Dialect::DogStatsd);
    let tags = "#shard:a_b:c_d_e_f_g@h.i\u{e4}//";
    assert_eq!(datadog.counters[&format!("ring_lane.shard.turns{tags}")], 5);
}

#[test]
fn a_gauge_below_zero_is_a_value_and_no_difference() {
    let mut state = State { shards: vec![ShardStats::new(0, 0)], ..State::default() };
    state.telemetry.scope.paths = vec!["telemetry".to_owned()];
    for dialect in [Dialect::Etsy, Dialect::DogStatsd] {
        let format = Format::new(dialect, "ringlane");
        let (mut received, mut ledger) = (Received::default(), Ledger::default());
        for value in [7.5, -3.25, -0.0, -3.25, -4.0] {
            state.shards[0].figures.busy_ratio = value;
            let lines = format.lines(&state, &mut ledger);
            let is_it = |line: &&Line| line.text.contains("busy_ratio");
            let line = lines.iter().find(is_it).unwrap();
            received.take(&line.text);
            let found = received.gauges.iter().find(|(name, _)| name.contains("busy_ratio"));
            assert_eq!(*found.unwrap().1, value, "{dialect:?}: {}", line.text);
        }
    }
}
