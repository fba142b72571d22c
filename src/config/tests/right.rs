//! What each key means, and the limits of its values.

use std::time::Duration;

use super::super::{Address, Balancer, Mode};
use super::{GOOD, bad, good, with};

#[test]
fn routes_that_nothing_reaches() {
    let routes = "{service: web}, {host: a.example, service: web}";
    let errors = bad(&with("{service: web}", routes));
    assert!(errors[0].contains("routers[0].routes[1]: never reached: routes[0]"), "{errors:?}");
    let routes = "{host: a.example, service: web}, {path_prefix: /a, service: web}";
    good(&with("{service: web}", routes));
}

#[test]
fn hosts_and_prefixes() {
    let route = |fields: &str| with("{service: web}", &format!("{{{fields}, service: web}}"));
    for host in ["api.example.com:80", "'*.example.com'", "''", "'[::1'", "a/b", "'ä'"] {
        let errors = bad(&route(&format!("host: {host}")));
        assert!(errors[0].contains("routes[0].host: not a host"), "{errors:?}");
    }
    for path in ["v1", "''", "/a/../b", "/a/.", "'/a?b'", "'/a b'", "'/a#'", "/ä"] {
        let errors = bad(&route(&format!("path_prefix: {path}")));
        assert!(errors[0].contains("routes[0].path_prefix: not a path"), "{errors:?}");
    }
    let config = good(&route("host: API.Example.com, path_prefix: /v1/"));
    let route = &config.routers[0].routes[0];
    assert_eq!(route.host.as_deref(), Some("api.example.com"));
    assert_eq!(route.path_prefix.as_deref(), Some("/v1/"));
}

#[test]
fn cores_and_shards() {
    let cores = |written: &str| {
        let config = good(&format!("runtime: {{cores: {written}}}\n{GOOD}"));
        config.runtime.shards.iter().map(|shard| shard.core).collect::<Vec<_>>()
    };
    assert_eq!(cores("all"), [0, 1, 2, 3]);
    assert_eq!(cores("2"), [0, 1]);
    assert_eq!(cores("'2'"), [2]);
    assert_eq!(cores("'0,0,1,1'"), [0, 0, 1, 1]);
    assert_eq!(cores("'3,0-1'"), [3, 0, 1]);
}

#[test]
fn numbers_of_a_shard() {
    for (number, allowed) in [
        ("ring_entries: 100", "a power of two from 16 to 32768"),
        ("head_buffers: 65536", "a whole number from 16 to 32768"),
        ("max_buffered_bytes: 1000", "a whole number from 1048576 to 1099511627776"),
    ] {
        let errors = bad(&format!("runtime: {{shard: {{{number}}}}}\n{GOOD}"));
        assert!(errors[0].ends_with(&format!("allowed: {allowed}")), "{errors:?}");
    }
    let text =
        "runtime: {cores: 2, per_core: [{cores: '0-1', spin_us: 5}, {cores: 0, spin_us: 6}]}";
    let errors = bad(&format!("{text}\n{GOOD}"));
    assert!(errors[0].contains("per_core[1].spin_us: core 0 has been given"), "{errors:?}");
}

#[test]
fn every_choice_can_be_made() {
    let config = good(
        "\
admin: off
runtime: {drain_ms: 0, drain_grace_ms: 5000, control_cores: '1,2'}
routers:
- label: edge
  servers: [{ip: '::', port: 80}]
  routes: [{service: web}]
  timeouts: {head_timeout_ms: 1, idle_timeout_ms: 2, stall_timeout_ms: 3, linger_ms: 0}
  max_body_bytes: 1000
  upgrades: [WebSocket, tls/1.0]
  forwarding: {via: off, x_forwarded: overwrite, forwarded: append}
services:
  web:
    endpoints: [{address: '[::1]:80', weight: 3}, unix:/run/web.sock]
    balancer: {kind: round_robin}
    timeouts: {attempt_ms: 0, request_ms: 5000}
    pool: {max_idle: 1, idle_ms: 1}
",
    );
    assert_eq!(config.admin, None);
    assert_eq!(config.runtime.control_cores, [1, 2]);
    assert_eq!(config.runtime.drain_grace, Duration::from_secs(5));
    let router = &config.routers[0];
    assert_eq!(router.timeouts.head, Duration::from_millis(1));
    assert_eq!(router.timeouts.linger, Duration::ZERO);
    assert_eq!(router.max_body_bytes, Some(1000));
    assert_eq!(router.upgrades, ["websocket", "tls/1.0"]);
    assert_eq!(router.forwarding.via, None);
    assert_eq!(router.forwarding.x_forwarded, Mode::Overwrite);
    assert_eq!(router.forwarding.forwarded, Mode::Append);
    let service = &config.services[0];
    assert_eq!(service.endpoints[1].address, Address::Unix("/run/web.sock".into()));
    assert_eq!(service.endpoints[0].weight, 3);
    assert_eq!(service.balancer, Balancer::RoundRobin);
    assert_eq!(service.timeouts.attempt, None);
    assert_eq!(service.timeouts.request, Some(Duration::from_secs(5)));
}

#[test]
fn a_decay_belongs_to_ewma() {
    let service = "{balancer: {kind: least_loaded, decay_ms: 5}, endpoints: ";
    let errors = bad(&with("{endpoints: ", service));
    assert!(errors[0].contains("services.web.balancer.decay_ms: this balancer has no decay"));
}

#[test]
fn upgrades_that_are_never_forwarded() {
    let errors = bad(&with("- servers", "- upgrades: [h2c, 'a b', 5]\n  servers"));
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].contains("routers[0].upgrades[0]: not a protocol to forward (\"h2c\")"));
}

#[test]
fn aliases_are_followed() {
    let config = good(
        "\
routers:
- servers: [{port: 1}]
  routes: [{service: a}]
services:
  a: &a {endpoints: ['127.0.0.1:8080']}
  b: *a
",
    );
    assert_eq!(config.services[1].endpoints, config.services[0].endpoints);
    // An alias that expands without end is a syntax error, not a full memory.
    let mut text = String::from("a: &a [x]\n");
    for (name, last) in ('b'..='z').zip('a'..) {
        text += &format!("{name}: &{name} [*{last}, *{last}, *{last}, *{last}]\n");
    }
    assert!(!bad(&text).is_empty());
}

#[test]
fn addresses_read_back() {
    for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/web.sock"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
}
