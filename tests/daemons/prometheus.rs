//! Debian's Prometheus and its promtool, with classic and with native histograms.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::common::{DEADLINE, Metrics, Wire, eventually};
use crate::dashboard::{self, Query};
use crate::load::Load;
use crate::tools::{self, Daemon, Folder};

const TEXT: &str = "text/plain; version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";
/// Ten scrapes: a rate needs two, and a machine may be busy.
const RATE_INTERVAL: &str = "5s";
const SCRAPE_INTERVAL: &str = "500ms";
/// Families of what never stands still.
const MOVING: [&str; 6] = [
    "process_",
    "ringlane_process_",
    "ringlane_heap_",
    "ringlane_shard_",
    "ringlane_telemetry_",
    "ringlane_endpoint_ewma_",
];
/// How far the quantile of a native histogram may be from ours; its buckets are 2.2 % wide.
const QUANTILE_ERROR: f64 = 0.05;

/// Values by name and labels, without those that Prometheus adds.
type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

#[test]
#[ignore = "needs prometheus"]
fn prometheus_scrapes_classic_histograms() {
    scrape("exemplar-storage", false);
}

#[test]
#[ignore = "needs prometheus"]
fn prometheus_scrapes_native_histograms() {
    scrape("native-histograms,exemplar-storage", true);
}

fn scrape(features: &str, native: bool) {
    // Spans are among what the dashboard shows.
    let mut load = Load::start("{kind: trace_log, sample_rate: 0.01}");
    let mut prometheus = Prometheus::start(load.proxy.admin, features);
    eventually("the target is up", || prometheus.number("up{job=\"ringlane\"}") == Some(1.0));
    // With the load still on: rates are of something.
    prometheus.check_dashboard();
    let totals = load.end();
    let is_kept = |name: &str| is_still(name) && !(native && name.ends_with("_bucket"));
    let (mut ours, mut theirs) = (Samples::new(), Samples::new());
    let mut different = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while ours.is_empty() || !different.is_empty() {
        assert!(Instant::now() < deadline, "Prometheus never had: {different:#?}");
        ours = samples(&load.page(TEXT));
        ours.retain(|(name, _), _| is_kept(name));
        theirs = prometheus.everything();
        different = differences(&ours, &theirs);
    }
    assert!(ours.len() > 100, "only {} samples stand still", ours.len());
    theirs.retain(|(name, _), _| name.starts_with("ringlane_") && is_kept(name));
    assert_eq!(differences(&theirs, &ours), Vec::<String>::new(), "nothing of its own");
    if native {
        compare_quantiles(&prometheus, &totals, &load.proxy.server(0));
    }
    prometheus.check_scrapes();
    load.proxy.stop();
}

/// Of histograms that stand still, so that both see the same samples.
fn compare_quantiles(prometheus: &Prometheus, totals: &Metrics, server: &str) {
    let of = |kind| format!("rt/http/{kind}/web/request_latency_ms");
    let endpoints = totals.between("rt/http/client/web/endpoint/", "/requests");
    let (endpoint, _) = endpoints.first().expect("an endpoint");
    for (family, labels, key) in [
        ("server", String::new(), format!("{server}/request_latency_ms")),
        ("service", "service=\"web\"".to_owned(), of("service")),
        ("client", "client=\"web\"".to_owned(), of("client")),
        (
            "endpoint",
            format!("endpoint=\"{endpoint}\""),
            format!("rt/http/client/web/endpoint/{endpoint}/request_latency_ms"),
        ),
    ] {
        let series = format!("ringlane_{family}_request_duration_seconds{{{labels}}}");
        let count = totals.get(&format!("{key}.count"));
        assert!(count > 500, "only {count} requests of {key}");
        for (quantile, figure) in [("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99")] {
            let expr = format!("histogram_quantile({quantile}, {series})");
            let theirs = prometheus.number(&expr).expect("a quantile") * 1e3;
            let ours = totals.float(&format!("{key}.{figure}"));
            eprintln!("{key}.{figure} of {count}: {ours} ms, by Prometheus {theirs} ms");
            let error = (theirs - ours).abs() / ours;
            assert!(error < QUANTILE_ERROR, "{theirs} for {ours}: {expr}");
        }
    }
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_nothing_to_say() {
    let mut load = Load::start("");
    load.proxy.metrics_when("requests of every kind", |metrics| {
        let server = load.proxy.server(0);
        let kinds = ["status/200", "status/404", "status/503", "failures/no_route"];
        kinds.iter().all(|kind| metrics.get(&format!("{server}/{kind}")) > 0)
    });
    check_metrics(&load.page(TEXT));
    load.end();
    check_metrics(&load.page(TEXT));
    // One state in all formats: what is there before and after is what was there between.
    let (mut text, mut open) = (String::new(), String::new());
    eventually("both formats of one state", || {
        text = load.page(TEXT);
        open = load.page(OPEN_METRICS);
        load.page(TEXT) == text
    });
    assert!(open.ends_with("# EOF\n"));
    let (text, open) = (samples(&text), samples(&open));
    assert!(text.len() > 200, "only {} samples", text.len());
    assert_eq!(differences(&text, &open), Vec::<String>::new());
    assert_eq!(differences(&open, &text), Vec::<String>::new());
    load.proxy.stop();
}

fn check_metrics(page: &str) {
    let mut child = Command::new(tools::find("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // It reads everything before it says anything.
    stdin.write_all(page.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = [&output.stdout[..], &output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "promtool has something to say");
    assert!(output.status.success(), "{}", output.status);
}

struct Prometheus {
    daemon: Daemon,
    address: SocketAddr,
    _folder: Folder,
}

impl Prometheus {
    /// With our own configuration, but another target and shorter times.
    fn start(admin: SocketAddr, features: &str) -> Prometheus {
        let folder = Folder::new();
        let mut text = tools::read("config/prometheus.yml");
        for (from, to) in [
            ("127.0.0.1:9990", admin.to_string()),
            ("scrape_interval: 15s", format!("scrape_interval: {SCRAPE_INTERVAL}")),
            ("scrape_timeout: 10s", format!("scrape_timeout: {SCRAPE_INTERVAL}")),
        ] {
            assert_eq!(text.matches(from).count(), 1, "{from} in config/prometheus.yml");
            text = text.replace(from, &to);
        }
        let config = folder.write("prometheus.yml", &text);
        let mut command = Command::new(tools::find("prometheus"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path("data").display()))
            .arg(format!("--enable-feature={features}"))
            .arg("--web.listen-address=127.0.0.1:0");
        let mut daemon = Daemon::start(&mut command);
        let address = daemon.wait_for("Prometheus says where it listens", |line| {
            let (_, address) = line.split_once("msg=\"Listening on\" address=")?;
            address.split_whitespace().next()?.parse().ok()
        });
        let prometheus = Prometheus { daemon, address, _folder: folder };
        eventually("Prometheus is ready", || {
            Wire::connect(address).get("/-/ready").status() == 200
        });
        prometheus
    }

    fn api(&self, path: &str) -> Value {
        let answer = Wire::connect(self.address).get(&format!("/api/v1/{path}"));
        let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The series that come of an instant query.
    fn query(&self, expr: &str) -> Vec<Value> {
        let data = self.api(&format!("query?query={}", encoded(expr)));
        assert_eq!(data["resultType"], "vector", "{expr}");
        data["result"].as_array().expect("a list").clone()
    }

    /// Of the one series that a query is about.
    fn number(&self, expr: &str) -> Option<f64> {
        let series = self.query(expr);
        assert!(series.len() < 2, "{expr}: {series:?}");
        series.first().map(|series| number(&series["value"][1]))
    }

    /// Every panel shows something, and has the labels that its legend names.
    fn check_dashboard(&self) {
        let dashboard = dashboard::dashboard();
        let variables = dashboard::variables(&dashboard);
        let names: Vec<&str> = variables.iter().map(|(name, ..)| name.as_str()).collect();
        for (name, series, label) in &variables {
            let series = dashboard::filled(series, &names, RATE_INTERVAL);
            let expr = format!("group by ({label}) ({series})");
            eventually(&format!("${name} has values: {expr}"), || {
                self.query(&expr).iter().any(|series| series["metric"][label].is_string())
            });
        }
        for Query { panel, expr, legend } in dashboard::queries(&dashboard) {
            let expr = dashboard::filled(&expr, &names, RATE_INTERVAL);
            eventually(&format!("{panel} shows data: {expr}"), || {
                let series = self.query(&expr);
                for label in &legend {
                    let has = |series: &Value| series["metric"][label].is_string();
                    assert!(series.iter().all(has), "{panel} has no {label}: {series:?}");
                }
                // Not 0 by 0, which is a number to Prometheus.
                series.iter().any(|series| number(&series["value"][1]).is_finite())
            });
        }
    }

    /// All that the target has now; a native histogram as its count and its sum.
    fn everything(&self) -> Samples {
        let mut all = Samples::new();
        for series in self.query("{job=\"ringlane\"}") {
            let labels = series["metric"].as_object().expect("labels");
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let name = text(&labels["__name__"]);
            let labels = labels
                .iter()
                .filter(|(name, _)| !["__name__", "instance", "job"].contains(&name.as_str()));
            let labels: BTreeMap<_, _> =
                labels.map(|(name, value)| (name.clone(), text(value))).collect();
            match series.get("histogram") {
                Some(histogram) => {
                    for figure in ["count", "sum"] {
                        let value = number(&histogram[1][figure]);
                        all.insert((format!("{name}_{figure}"), labels.clone()), value);
                    }
                }
                None => drop(all.insert((name, labels), number(&series["value"][1]))),
            }
        }
        all
    }

    /// No scrape failed, and none had anything that Prometheus warns of.
    fn check_scrapes(&mut self) {
        let targets = self.api("targets?state=active");
        let targets = targets["activeTargets"].as_array().expect("a list");
        assert_eq!(targets.len(), 1, "{targets:?}");
        assert_eq!(targets[0]["health"], "up", "{targets:?}");
        assert_eq!(targets[0]["lastError"], "", "{targets:?}");
        assert_eq!(self.number("min_over_time(up{job=\"ringlane\"}[1h])"), Some(1.0));
        let scrapes = self.number("count_over_time(up{job=\"ringlane\"}[1h])");
        assert!(scrapes >= Some(2.0), "{scrapes:?} scrapes");
        let log = self.daemon.log();
        let bad = |line: &&String| line.contains("level=warn") || line.contains("level=error");
        assert_eq!(log.iter().filter(bad).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

fn number(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value}"))
}

/// For a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Whether it stands still once there is no load.
fn is_still(name: &str) -> bool {
    !MOVING.iter().any(|moving| name.starts_with(moving))
}

/// Samples of either text format, without exemplars.
fn samples(page: &str) -> Samples {
    let mut all = Samples::new();
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // No label of this test holds any of what splits a line here.
        let sample = line.split(" # ").next().unwrap_or(line);
        let (series, value) = sample.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').expect("an end");
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        let pairs =
            pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
        let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
        let before = all.insert((name.to_owned(), pairs.collect()), value);
        assert_eq!(before, None, "twice: {line}");
    }
    all
}

/// What the second has otherwise than the first, or not at all.
fn differences(first: &Samples, second: &Samples) -> Vec<String> {
    // A sum may have come to its seconds in another way.
    let same = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-9 * a.abs();
    let differ = first.iter().filter_map(|(series, value)| match second.get(series) {
        Some(other) if same(*value, *other) => None,
        other => Some(format!("{series:?} is {value}, and not {other:?}")),
    });
    differ.collect()
}
