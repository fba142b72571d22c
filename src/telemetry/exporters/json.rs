//! `GET /admin/metrics.json`: the tree, flat or nested, as a Linkerd 1.x user knows it.
//!
//! Flat, a name is a path of its scope and its key; a scope with several paths is there under each.
//! Counters and counts are integers; everything else is a float, with a point even where it is
//! whole (`1.0`). A value that JSON has no number for is left out. A histogram is written as
//! `<name>.count`, `.sum` and so on; only its count where it is empty.
//!
//! | query | |
//! |---|---|
//! | `pretty` | indented, and sorted by name |
//! | `tree` | nested by segment; `{"counter": 1}`, `{"gauge": 1.0}`, `{"stat.count": 1, ..}` |
//! | `q=a/b/c` | what is at `a/b/c` or below it, relative to it: what is at it is named `""` |
//! | `window=recent`, `total` | histograms over the last minute, which is the default, or all |
//!
//! Invariant: no key twice in an object. The flat form is written straight into bytes, since it is
//! what scrapers ask for; the others go through `serde_json::Value`, whose maps are sorted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State as Context};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::page::Page;
use super::{Exporter, Kind};
use crate::config::ExporterSpec;
use crate::telemetry::feed::Feed;
use crate::telemetry::state::State;
use crate::telemetry::tree::{self, Leaf, Window};

pub const KIND: Kind = Kind {
    spec: &ExporterSpec { kind: "json", keys: &[], by_default: true },
    make: |_| Ok(Box::new(Json)),
};

const CONTENT_TYPE: &str = "application/json";

struct Json;

impl Exporter for Json {
    fn routes(&self, feed: &Feed) -> Router {
        let asked = Arc::new(Asked { feed: feed.clone(), page: Page::default() });
        Router::new().route("/admin/metrics.json", get(answer)).with_state(asked)
    }
}

struct Asked {
    feed: Feed,
    page: Page,
}

async fn answer(
    Context(asked): Context<Arc<Asked>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = match Query::parse(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
    };
    let Asked { feed, page } = &*asked;
    let render = |state: &State| document(state, &query);
    page.try_answer(feed, &query.key(), &headers, CONTENT_TYPE, render).unwrap_or_else(|| {
        let why = format!("nothing at or below {:?}", query.under);
        refusal(StatusCode::NOT_FOUND, &why)
    })
}

fn refusal(status: StatusCode, why: &str) -> Response {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    (status, [content_type], json!({ "error": why }).to_string()).into_response()
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    pretty: bool,
    tree: bool,
    window: Window,
    /// Without a slash at either end; empty for everything.
    under: String,
}

impl Query {
    /// Of what is there twice the last counts; what is not known is not looked at.
    fn parse(text: &str) -> Result<Query, String> {
        let mut query =
            Query { pretty: false, tree: false, window: Window::Recent, under: String::new() };
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            match name.as_str() {
                "pretty" => query.pretty = flag(&name, &value)?,
                "tree" => query.tree = flag(&name, &value)?,
                "window" => query.window = window(&value)?,
                "q" => value.trim_matches('/').clone_into(&mut query.under),
                _ => {}
            }
        }
        Ok(query)
    }

    /// The same for queries with the same answer.
    fn key(&self) -> String {
        let Query { pretty, tree, window, under } = self;
        format!("{pretty} {tree} {window:?} {under}")
    }
}

fn flag(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("{name} is {value:?}; allowed: 1, true, 0, false, or no value (true)")),
    }
}

fn window(value: &str) -> Result<Window, String> {
    match value {
        "recent" => Ok(Window::Recent),
        "total" => Ok(Window::Total),
        _ => Err(format!(
            "window is {value:?}; allowed: recent (the last {} s), total (since the start)",
            crate::telemetry::distribution::RECENT_SECS
        )),
    }
}

/// As forms encode it (WHATWG URL, section 5.1): `+` is a space, `%` two hex digits. A `%` that is
/// not followed by them stands for itself.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let hex = after.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match (first, hex.and_then(|hex| std::str::from_utf8(hex).ok())) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(hex)) => {
                bytes.push(u8::from_str_radix(hex, 16).expect("two hex digits"));
                rest = &after[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` where nothing is at or below what the query asks for.
fn document(state: &State, query: &Query) -> Option<Vec<u8>> {
    match (query.tree, query.pretty) {
        (false, false) => flat(state, query),
        (false, true) => sorted(state, query).map(|map| written(&map, true)),
        (true, pretty) => nested(state, query).map(|map| written(&map, pretty)),
    }
}

fn written(map: &Map<String, Value>, pretty: bool) -> Vec<u8> {
    let bytes = if pretty { serde_json::to_vec_pretty(map) } else { serde_json::to_vec(map) };
    bytes.expect("keys are text and numbers are finite")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Whole(u64),
    Float(f64),
}

/// What is at one name.
enum Reading<'a> {
    Counter(Number),
    Gauge(Number),
    /// By figure.
    Stat(&'a [(&'static str, Number)]),
}

/// Everything that the query asks for, once each, by its name relative to the query.
fn readings(state: &State, query: &Query, each: &mut dyn FnMut(&str, Reading<'_>)) {
    // The leaves of a scope come in a row, and a table has no key twice. That a path has one row
    // of a table follows from the configuration; that no key is written twice does not hang on it.
    let (mut seen, mut row) = (HashSet::new(), None);
    let mut is_new: Vec<bool> = Vec::new();
    let (mut name, mut figures) = (String::new(), Vec::new());
    // One figure may be asked for by the name that it has when flat.
    let (stat, figure) = query.under.rsplit_once('.').unwrap_or_default();
    state.leaves(&mut |scope, key, leaf| {
        if row.replace(std::ptr::from_ref(scope)) != Some(std::ptr::from_ref(scope)) {
            is_new.clear();
            is_new.extend(scope.paths.iter().map(|path| seen.insert(format!("{path}/{key}"))));
        }
        let mut summed = false;
        for (path, _) in scope.paths.iter().zip(&is_new).filter(|(_, is_new)| **is_new) {
            name.clear();
            name.extend([path, "/", key]);
            let below = relative(&name, &query.under);
            let is_figure = matches!(leaf, Leaf::Stat(..)) && !figure.is_empty() && name == stat;
            if below.is_none() && !is_figure {
                continue;
            }
            let below = below.unwrap_or_default();
            match leaf {
                Leaf::Counter(count) => each(below, Reading::Counter(Number::Whole(count))),
                Leaf::FloatCounter(it) if it.is_finite() => {
                    each(below, Reading::Counter(Number::Float(it)));
                }
                Leaf::Gauge(it) if it.is_finite() => {
                    each(below, Reading::Gauge(Number::Float(it)));
                }
                Leaf::FloatCounter(_) | Leaf::Gauge(_) => {}
                Leaf::Stat(distribution, per) => {
                    if !std::mem::replace(&mut summed, true) {
                        figures.clear();
                        let summary = tree::summary(distribution, query.window);
                        tree::figures(&summary, per, &mut |figure, value| match figure {
                            "count" => figures.push((figure, Number::Whole(summary.count))),
                            _ if value.is_finite() => figures.push((figure, Number::Float(value))),
                            _ => {}
                        });
                    }
                    let one = figures.iter().position(|(it, _)| is_figure && *it == figure);
                    match one {
                        Some(at) => each("", Reading::Stat(&figures[at..=at])),
                        None if is_figure => {}
                        None => each(below, Reading::Stat(&figures)),
                    }
                }
            }
        }
    });
}

/// The rest of a name at or below a path; by whole segments.
fn relative<'a>(name: &'a str, under: &str) -> Option<&'a str> {
    if under.is_empty() {
        return Some(name);
    }
    let rest = name.strip_prefix(under)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

fn flat(state: &State, query: &Query) -> Option<Vec<u8>> {
    let mut out = vec![b'{'];
    let mut escaped = Vec::new();
    readings(state, query, &mut |name, reading| {
        escaped.clear();
        serde_json::to_writer(&mut escaped, name).expect("memory takes everything");
        // Without the quotes, so that a figure can follow.
        let name = &escaped[1..escaped.len() - 1];
        match reading {
            Reading::Counter(number) | Reading::Gauge(number) => {
                write_entry(&mut out, name, "", number);
            }
            Reading::Stat(figures) => {
                for (figure, number) in figures {
                    write_entry(&mut out, name, figure, *number);
                }
            }
        }
    });
    // Its last comma is where the end belongs; without one there is nothing.
    *out.last_mut().filter(|last| **last == b',')? = b'}';
    Some(out)
}

fn write_entry(out: &mut Vec<u8>, name: &[u8], figure: &str, number: Number) {
    out.push(b'"');
    out.extend_from_slice(name);
    if !figure.is_empty() {
        out.push(b'.');
        out.extend_from_slice(figure.as_bytes());
    }
    out.extend_from_slice(b"\":");
    let written = match number {
        Number::Whole(number) => serde_json::to_writer(&mut *out, &number),
        Number::Float(number) => serde_json::to_writer(&mut *out, &number),
    };
    written.expect("memory takes everything");
    out.push(b',');
}

impl From<Number> for Value {
    fn from(number: Number) -> Value {
        match number {
            Number::Whole(number) => Value::from(number),
            Number::Float(number) => Value::from(number),
        }
    }
}

fn sorted(state: &State, query: &Query) -> Option<Map<String, Value>> {
    let mut map = Map::new();
    readings(state, query, &mut |name, reading| match reading {
        Reading::Counter(number) | Reading::Gauge(number) => {
            map.insert(name.to_owned(), number.into());
        }
        Reading::Stat(figures) => {
            for (figure, number) in figures {
                map.insert(format!("{name}.{figure}"), (*number).into());
            }
        }
    });
    (!map.is_empty()).then_some(map)
}

/// A node of the tree: its own values, and what is below it.
#[derive(Default)]
struct Node {
    own: Map<String, Value>,
    children: BTreeMap<String, Node>,
}

fn nested(state: &State, query: &Query) -> Option<Map<String, Value>> {
    let mut root = Node::default();
    readings(state, query, &mut |name, reading| {
        let segments = name.split('/').filter(|_| !name.is_empty());
        let node = segments.fold(&mut root, |node, segment| {
            if !node.children.contains_key(segment) {
                node.children.insert(segment.to_owned(), Node::default());
            }
            node.children.get_mut(segment).expect("it is there")
        });
        match reading {
            Reading::Counter(number) => {
                node.own.insert("counter".to_owned(), number.into());
            }
            Reading::Gauge(number) => {
                node.own.insert("gauge".to_owned(), number.into());
            }
            Reading::Stat(figures) => {
                for (figure, number) in figures {
                    node.own.insert(format!("stat.{figure}"), (*number).into());
                }
            }
        }
    });
    let map = root.into_map();
    (!map.is_empty()).then_some(map)
}

impl Node {
    /// A child that is named as one of its parent's values, as a path of a socket may make one, is
    /// written with a slash before its name, which no segment has.
    fn into_map(self) -> Map<String, Value> {
        let Node { own: mut map, children } = self;
        for (segment, child) in children {
            let name = if map.contains_key(&segment) { format!("/{segment}") } else { segment };
            map.insert(name, Value::Object(child.into_map()));
        }
        map
    }
}

#[cfg(test)]
mod tests;
