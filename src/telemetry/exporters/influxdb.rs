//! `GET /admin/metrics/influxdb`: line protocol, for Telegraf or whoever else pulls it.
//!
//! A line is a scope: `<prefix>_<kind>`, where the kind is the scope's own (`Scope::kind`: server,
//! service, client, endpoint, shard, process, heap, telemetry); its labels and `host` as tags,
//! sorted; the keys of its leaves as fields. A scope that stands in the tree several times is
//! written once, and scopes with the same measurement and tags share a line, since points of the
//! same series and time overwrite each other.
//!
//! A field never changes its type, which InfluxDB would refuse: counters and counts are integers
//! (`12i`; counters of time are floats), all the rest are floats. A histogram has `<key>_count` and
//! `_sum` since the start, and `_avg`, `_min`, `_max`, `_p50` and so on over the last minute, which
//! are not there in a minute without samples. A number that is none is left out.
//!
//! Line protocol cannot say a newline or other control characters, nor an empty tag; and parsers
//! disagree on a backslash before a character that is escaped. Those are written as `_`; an empty
//! tag is left out.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State as Context;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

use super::page::Page;
use super::{Exporter, Kind};
use crate::config::{ExporterKey, ExporterSettings, ExporterSpec, Shape};
use crate::telemetry::distribution::{Distribution, QUANTILES};
use crate::telemetry::feed::Feed;
use crate::telemetry::state::{Scope, State};
use crate::telemetry::tree::Leaf;

const PREFIX: &str = "text without control characters and backslashes, that does not begin with _ \
                      or #; or \"\" for none";

pub const KIND: Kind = Kind {
    spec: &ExporterSpec {
        kind: "influxdb",
        keys: &[ExporterKey {
            name: "prefix",
            shape: Shape::Text { default: Some("ringlane"), allowed: PREFIX },
        }],
        by_default: true,
    },
    make,
};

/// As Linkerd named them here, where p9990 is p999; in the order of `QUANTILES`.
const QUANTILE_NAMES: [&str; QUANTILES.len()] = ["_p50", "_p90", "_p95", "_p99", "_p999", "_p9999"];

const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

fn make(settings: &ExporterSettings) -> Result<Box<dyn Exporter>, String> {
    let prefix = settings.text("prefix");
    // InfluxDB keeps names that begin with an underscore to itself; # begins a comment.
    if prefix.starts_with(['_', '#']) || prefix.chars().any(is_unwritable) {
        return Err(format!("prefix is {prefix:?}; allowed: {PREFIX}"));
    }
    let names = Names { prefix: prefix.to_owned(), host: host_name() };
    Ok(Box::new(InfluxDb { names }))
}

/// What each line needs that is not of the state.
#[derive(Clone, Debug)]
struct Names {
    prefix: String,
    /// Empty where it is not known.
    host: String,
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

struct InfluxDb {
    names: Names,
}

impl Exporter for InfluxDb {
    fn routes(&self, feed: &Feed) -> Router {
        let (feed, names) = (feed.clone(), self.names.clone());
        let asked = Arc::new(Asked { feed, names, page: Page::default() });
        Router::new().route("/admin/metrics/influxdb", get(answer)).with_state(asked)
    }
}

struct Asked {
    feed: Feed,
    names: Names,
    page: Page,
}

async fn answer(Context(asked): Context<Arc<Asked>>, headers: HeaderMap) -> Response {
    let Asked { feed, names, page } = &*asked;
    page.answer(feed, "", &headers, CONTENT_TYPE, |state| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        document(state, names, now.as_nanos()).into_bytes()
    })
}

/// What a scope, or several with the same tags, came to.
struct Line {
    /// Measurement and tags.
    head: String,
    fields: String,
    /// So that none is there twice.
    keys: Vec<Box<str>>,
}

fn document(state: &State, names: &Names, now_ns: u128) -> String {
    let mut lines: Vec<Line> = Vec::new();
    let mut by_head: HashMap<String, usize> = HashMap::new();
    // All leaves of a scope come in a row.
    let mut current: Option<(*const Scope, usize)> = None;
    state.leaves(&mut |scope, key, leaf| {
        let this = std::ptr::from_ref(scope);
        let at = match current {
            Some((last, at)) if last == this => at,
            _ => {
                let head = head(scope, names);
                let at = *by_head.entry(head).or_insert_with_key(|head| {
                    let (head, fields) = (head.clone(), String::new());
                    lines.push(Line { head, fields, keys: Vec::new() });
                    lines.len() - 1
                });
                current = Some((this, at));
                at
            }
        };
        lines[at].add(key, leaf);
    });
    let mut out = String::new();
    for Line { head, fields, .. } in lines.iter().filter(|line| !line.fields.is_empty()) {
        // The last comma of the fields is not wanted.
        let fields = &fields[..fields.len() - 1];
        let _ = writeln!(out, "{head} {fields} {now_ns}");
    }
    out
}

fn head(scope: &Scope, names: &Names) -> String {
    let Names { prefix, host } = names;
    let mut head = String::new();
    if !prefix.is_empty() {
        escape(&mut head, prefix, &[',', ' ']);
        head.push('_');
    }
    escape(&mut head, scope.kind(), &[',', ' ']);
    let labels = scope.labels.iter().map(|(name, value)| (*name, value.as_str()));
    let tags: BTreeMap<&str, &str> = labels.chain([("host", host.as_str())]).collect();
    for (name, value) in tags.into_iter().filter(|(_, value)| !value.is_empty()) {
        head.push(',');
        escape(&mut head, name, &[',', '=', ' ']);
        head.push('=');
        escape(&mut head, value, &[',', '=', ' ']);
    }
    head
}

fn escape(out: &mut String, text: &str, special: &[char]) {
    for char in text.chars() {
        if special.contains(&char) {
            out.push('\\');
        }
        out.push(if is_unwritable(char) { '_' } else { char });
    }
}

fn is_unwritable(char: char) -> bool {
    char.is_control() || char == '\\'
}

impl Line {
    fn add(&mut self, key: &str, leaf: Leaf<'_>) {
        if self.keys.iter().any(|known| **known == *key) {
            return;
        }
        self.keys.push(key.into());
        match leaf {
            Leaf::Counter(count) => self.whole(key, "", count),
            Leaf::FloatCounter(value) | Leaf::Gauge(value) => self.float(key, "", value),
            Leaf::Stat(distribution, per) => self.stat(key, distribution, per),
        }
    }

    fn stat(&mut self, key: &str, distribution: &Distribution, per: f64) {
        self.whole(key, "_count", distribution.count());
        self.float(key, "_sum", distribution.sum() as f64 / per);
        let recent = distribution.recent();
        if recent.count == 0 {
            return;
        }
        self.float(key, "_avg", recent.avg / per);
        self.float(key, "_min", recent.min as f64 / per);
        self.float(key, "_max", recent.max as f64 / per);
        for (name, value) in QUANTILE_NAMES.iter().zip(recent.quantiles) {
            self.float(key, name, value / per);
        }
    }

    /// The key of a field, and the sign after it.
    fn name(&mut self, key: &str, suffix: &str) {
        escape(&mut self.fields, key, &[',', '=', ' ']);
        self.fields.push_str(suffix);
        self.fields.push('=');
    }

    fn whole(&mut self, key: &str, suffix: &str, value: u64) {
        self.name(key, suffix);
        // InfluxDB's integers have a sign.
        let _ = write!(self.fields, "{}i,", value.min(i64::MAX as u64));
    }

    fn float(&mut self, key: &str, suffix: &str, value: f64) {
        if value.is_finite() {
            self.name(key, suffix);
            let _ = write!(self.fields, "{value},");
        }
    }
}

#[cfg(test)]
mod tests;
