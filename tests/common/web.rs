//! The metrics of a service `web` behind a router `http`, as [`super::config`] makes them, by the
//! part of their names that tells them apart.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{DEADLINE, Metrics, Proxy, Wire, config};

pub const SERVICE: &str = "rt/http/service/web/";
pub const CLIENT: &str = "rt/http/client/web/";

pub fn client(key: &str) -> String {
    format!("{CLIENT}{key}")
}

pub fn retries(key: &str) -> String {
    format!("{SERVICE}retries/{key}")
}

pub fn balancer(key: &str) -> String {
    format!("{CLIENT}loadbalancer/{key}")
}

pub fn accrual(key: &str) -> String {
    format!("{CLIENT}failure_accrual/{key}")
}

pub fn endpoint(address: SocketAddr, key: &str) -> String {
    format!("{CLIENT}endpoint/{address}/{key}")
}

pub fn yaml(endpoints: &[SocketAddr], rules: &str) -> String {
    format!("telemetry: {{flush_interval_ms: 20}}\n{}", config(endpoints, "", rules))
}

pub fn start(endpoints: &[SocketAddr], rules: &str, cores: &str) -> Proxy {
    Proxy::start_from_file(&yaml(endpoints, rules), cores)
}

/// Sends a request and does not wait for its answer.
pub fn ask(proxy: &Proxy, path: &str) -> Wire {
    let mut wire = proxy.connect();
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    wire
}

/// Waits until each metric has its value; those metrics.
#[track_caller]
pub fn are(proxy: &Proxy, what: &str, values: &[(String, u64)]) -> Metrics {
    let mut last = None;
    let is = |metrics: &Metrics| values.iter().all(|(name, value)| metrics.get(name) == *value);
    let begun = Instant::now();
    while !is(last.insert(proxy.metrics())) && begun.elapsed() < DEADLINE {
        thread::park_timeout(Duration::from_millis(5));
    }
    let metrics = last.expect("scraped at least once");
    let found: Vec<_> = values.iter().map(|(name, _)| (name.clone(), metrics.get(name))).collect();
    assert_eq!(found, values, "{what}");
    // A name that is misspelt is 0 for ever.
    let known = values.iter().all(|(name, _)| metrics.0.contains_key(name));
    assert!(known, "{what}: unknown names in {values:?}");
    metrics.check_conservation();
    metrics
}
