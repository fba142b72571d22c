//! Grafana's dashboard as data: every query of it, and what it is called in our tables.

use std::collections::BTreeSet;

use ringlane::telemetry::names::{self, Kind};
use serde_json::Value;

use crate::tools;

/// A query, and the labels that its legend names.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) panel: String,
    pub(crate) expr: String,
    pub(crate) legend: Vec<String>,
}

pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&tools::read("config/grafana/ringlane.json")).expect("JSON")
}

/// Every panel, those in rows included.
pub(crate) fn panels(of: &Value) -> Vec<&Value> {
    let list = of["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().flat_map(|panel| std::iter::once(panel).chain(panels(panel))).collect()
}

/// What panels ask, as they have it.
pub(crate) fn queries(dashboard: &Value) -> Vec<Query> {
    let mut found = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let text = |key: &str| target[key].as_str().expect("a text").to_owned();
            let legend = text("legendFormat");
            let labels = legend.split("{{").skip(1).filter_map(|part| part.split_once("}}"));
            found.push(Query {
                panel: format!("{} {}", panel["id"], panel["title"]),
                expr: text("expr"),
                legend: labels.map(|(label, _)| label.trim().to_owned()).collect(),
            });
        }
    }
    found
}

/// What variables offer: the name of each, the series that it looks at, and their label.
pub(crate) fn variables(dashboard: &Value) -> Vec<(String, String, String)> {
    let list = dashboard["templating"]["list"].as_array().expect("a list");
    let queried = list.iter().filter(|variable| variable["type"] == "query");
    let parts = queried.map(|variable| {
        let query = variable["query"]["query"].as_str().expect("a query");
        let inner = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
        let (series, label) = inner.and_then(|it| it.rsplit_once(", ")).expect("label_values");
        let name = variable["name"].as_str().expect("a name");
        (name.to_owned(), series.to_owned(), label.to_owned())
    });
    parts.collect()
}

/// With everything selected, as Grafana replaces variables, and that rate interval.
pub(crate) fn filled(expr: &str, names: &[&str], rate_interval: &str) -> String {
    let mut text = expr.replace("$__rate_interval", rate_interval);
    for name in names {
        text = text.replace(&format!("\"${name}\""), "\".*\"");
    }
    assert!(!text.contains('$'), "a variable that does not exist: {text}");
    text
}

/// Metrics that an expression names.
fn metrics(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("ringlane_") || word.starts_with("process_"))
}

/// The family that a name is of, if it is one of ours.
fn family(metric: &str) -> Option<&'static str> {
    let known = |name: &str| names::all().find(|info| !name.is_empty() && info.family == name);
    let of_histogram = || {
        let suffixes = ["_bucket", "_sum", "_count"].into_iter();
        let base = suffixes.filter_map(|suffix| metric.strip_suffix(suffix)).next()?;
        known(base).filter(|info| matches!(info.kind, Kind::Histogram(_)))
    };
    known(metric).or_else(of_histogram).map(|info| info.family)
}

#[test]
fn every_metric_of_the_dashboard_is_exported() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() > 80, "only {} queries", queries.len());
    let mut shown = BTreeSet::new();
    for Query { panel, expr, .. } in &queries {
        assert!(metrics(expr).next().is_some(), "{panel} asks for nothing of ours: {expr}");
        for metric in metrics(expr) {
            let family = family(metric);
            shown.insert(family.unwrap_or_else(|| panic!("{panel}: there is no {metric}")));
        }
    }
    for (name, series, _) in variables(&dashboard) {
        let metric = metrics(&series).next().expect("a metric");
        assert!(family(metric).is_some(), "${name}: there is no {metric}");
    }
    // Durations of connections to upstreams and the like are for whoever looks closer.
    let all = names::all().filter(|info| !info.family.is_empty()).count();
    let hidden =
        names::all().filter(|info| !info.family.is_empty() && !shown.contains(info.family));
    let hidden: Vec<&str> = hidden.map(|info| info.family).collect();
    assert!(hidden.len() * 10 < all, "of {all} the dashboard leaves out {hidden:#?}");
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(37), "Grafana 9 and above");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is another's");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(at("w") > 0 && at("h") > 0 && at("x") + at("w") <= 24, "{title}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: no unit");
        }
    }
    let variables = variables(&dashboard);
    let names: Vec<&str> = variables.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["instance", "router", "server", "service", "endpoint"]);
    for Query { expr, .. } in queries(&dashboard) {
        filled(&expr, &names, "1m");
        assert!(expr.contains("instance=~\"$instance\""), "of all instances: {expr}");
        assert!(!expr.contains("rate(") || expr.contains("[$__rate_interval]"), "{expr}");
    }
}
