//! Holds `config/` to the code: the samples parse, and the reference shows every key at its
//! default.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_yaml::Value;

use super::errors::Report;
use super::{Config, Host, shape, yaml};

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Kinds of exporters are not known here: tests/exporters.rs holds their keys to the reference.
fn parse(text: &str) -> Config {
    let host = Host::with_cores(0..4);
    let is_exporter =
        |line: &&str| line.starts_with("  - kind:") || line.starts_with("    prefix:");
    let text: Vec<&str> = text.lines().filter(|line| !is_exporter(line)).collect();
    Config::from_yaml(&text.join("\n"), "sample", &host, &[])
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// Every key of a value, as `routers[].label`; services by `*` in place of their names.
fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        // An exporter's keys depend on its kind.
        Value::Mapping(_) if at == "telemetry.exporters[]" => {}
        Value::Mapping(map) => {
            for (key, value) in map {
                let name = if at == "services" { "*" } else { key.as_str().unwrap() };
                let path = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Sequence(list) => {
            for value in list {
                keys(value, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

/// The reference with the keys that belong to other kinds than the default ones: `#key: value`.
fn with_other_kinds(text: &str) -> String {
    let uncommented = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let key = line[indent..].strip_prefix('#').unwrap_or_default();
        match key.starts_with(|first: char| first.is_ascii_lowercase()) {
            true => format!("{}{key}\n", &line[..indent]),
            false => format!("{line}\n"),
        }
    };
    text.lines().map(uncommented).collect()
}

#[test]
fn the_reference_shows_every_key_and_no_other() {
    let document = yaml::parse(&with_other_kinds(&sample("ringlane.yaml"))).unwrap();
    let (mut written, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&document.value, "", &mut written);
    let mut report = Report::new(document.marks);
    let root = shape::read(document.value, &mut report);
    assert_eq!(report.into_issues(), [], "a key that the code does not know");
    keys(&serde_yaml::to_value(&root).unwrap(), "", &mut known);
    let missing: Vec<_> = known.difference(&written).collect();
    assert!(missing.is_empty(), "config/ringlane.yaml lacks {missing:?}");
    assert!(known.contains("runtime.per_core[].spin_us") && known.len() > 50, "{known:?}");
}

#[test]
fn the_reference_shows_defaults() {
    let only_what_has_no_default = "
        routers:
        - servers: [{port: 4140}]
          routes:
          - {host: api.example.com, path_prefix: /v1, service: api}
          - {service: web}
        services:
          web: {endpoints: ['127.0.0.1:8080']}
          api: {endpoints: ['127.0.0.1:8081']}
    ";
    assert_eq!(parse(&sample("ringlane.yaml")), parse(only_what_has_no_default));
}

#[test]
fn what_is_shown_of_a_configuration_is_the_same_when_it_is_read_again() {
    for name in ["ringlane.yaml", "minimal.yaml", "demo.yaml", "per-core.yaml", "bench.yaml"] {
        let config = parse(&sample(name));
        let shown = serde_yaml::to_string(&config.to_value()).unwrap();
        assert_eq!(parse(&shown), config, "{name}:\n{shown}");
    }
}

#[test]
fn minimal_is_one_router_and_one_service() {
    let config = parse(&sample("minimal.yaml"));
    assert_eq!(config.runtime.shards.len(), 4);
    assert_eq!(config.admin.unwrap().address, "127.0.0.1:9990".parse().unwrap());
    assert_eq!(config.routers.len(), 1);
    assert_eq!(config.services.len(), 1);
}

#[test]
fn demo_is_what_the_issue_promises() {
    let config = parse(&sample("demo.yaml"));
    assert_eq!(config.routers[0].servers[0].address, "127.0.0.1:4140".parse().unwrap());
    assert_eq!(config.admin.unwrap().address, "127.0.0.1:9990".parse().unwrap());
    let endpoints = config.services[0].endpoints.iter();
    let addresses: Vec<String> = endpoints.map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:9101", "127.0.0.1:9102", "127.0.0.1:9103"]);
}

#[test]
fn bench_is_one_core_on_the_port_that_the_readme_names() {
    let config = parse(&sample("bench.yaml"));
    assert_eq!(config.runtime.shards.len(), 1);
    assert_eq!(config.routers[0].servers[0].address.port(), 8080);
}

#[test]
fn per_core_overrides_reach_their_shards() {
    let runtime = parse(&sample("per-core.yaml")).runtime;
    let of = |at: usize| {
        let shard = &runtime.shards[at];
        (shard.core, shard.max_connections, shard.spin)
    };
    assert_eq!(of(0), (1, 10_000, Duration::ZERO));
    assert_eq!(of(1), (2, 50_000, Duration::from_micros(50)));
    assert_eq!(of(2), (3, 50_000, Duration::from_micros(50)));
    assert_eq!(runtime.control_cores, [0]);
}

#[test]
fn the_unit_waits_longer_than_a_drain() {
    let unit = sample("ringlane.service");
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let runtime = parse(&sample("minimal.yaml")).runtime;
    let stop = Duration::from_secs(stop.parse().unwrap());
    assert!(stop > runtime.drain + runtime.drain_grace);
    for line in ["LimitMEMLOCK=infinity", "KillSignal=SIGTERM", "NoNewPrivileges=yes"] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
}
