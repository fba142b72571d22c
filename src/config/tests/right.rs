//! What each key means, and the limits of its values.

use std::time::Duration;

use super::super::{Accrual, Address, Backoff, Balancer, Classifier, HashBy, Methods, Mode};
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
  servers: [{ip: '::', port: 80, proxy_protocol: true}, {ip: '::', port: 81}]
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
    assert!(router.servers[0].proxy_protocol && !router.servers[1].proxy_protocol);
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
fn some_keys_belong_to_one_kind_of_balancer() {
    let of = |balancer: &str| with("{endpoints: ", &format!("{{balancer: {balancer}, endpoints: "));
    for (balancer, error) in [
        ("{kind: least_loaded, decay_ms: 5}", "decay_ms: kind least_loaded has no decay_ms"),
        ("{min_endpoints: 5}", "min_endpoints: kind ewma has no min_endpoints"),
        ("{kind: aperture, hash_by: source}", "hash_by: kind aperture has no hash_by"),
        ("{kind: consistent_hash}", "hash_by: needed, and not there"),
        ("{kind: consistent_hash, hash_by: 'header:a b'}", "hash_by: nothing to hash by"),
        ("{kind: aperture, low_load_percent: 101}", "low_load_percent: 101 is more than half"),
    ] {
        let errors = bad(&of(balancer));
        assert_eq!(errors.len(), 1, "{balancer}: {errors:?}");
        assert!(errors[0].contains(&format!("services.web.balancer.{error}")), "{errors:?}");
    }
    let balancer = |text: &str| good(&of(text)).services[0].balancer.clone();
    assert_eq!(
        balancer("{kind: aperture, min_endpoints: 7}"),
        Balancer::Aperture {
            decay: Duration::from_secs(5),
            low_percent: 50,
            high_percent: 200,
            min_endpoints: 7
        }
    );
    for (text, by) in [
        ("source", HashBy::Source),
        ("header:X-User", HashBy::Header("x-user".into())),
        ("cookie:Session_1", HashBy::Cookie("Session_1".into())),
    ] {
        let balancer = balancer(&format!("{{kind: consistent_hash, hash_by: '{text}'}}"));
        assert_eq!(balancer, Balancer::ConsistentHash { by, max_load_percent: 125 });
    }
}

#[test]
fn retries_and_failure_accrual() {
    let of = |rules: &str| with("{endpoints: ", &format!("{{{rules}, endpoints: "));
    for (rules, error) in [
        ("failure_accrual: {kind: none, failures: 3}", "failures: kind none has no failures"),
        ("failure_accrual: {min_ejection_ms: 400000}", "min_ejection_ms: 400000 is more than"),
        ("failure_accrual: {max_ejected_percent: 0}", "max_ejected_percent: out of range"),
        ("retries: {statuses: [503]}", "statuses: classifier non_retryable_5xx has no statuses"),
        ("retries: {classifier: statuses}", "statuses: needed, and not there"),
        ("retries: {classifier: statuses, statuses: [200]}", "statuses[0]: out of range"),
        ("retries: {backoff: {min_ms: 3}}", "backoff.min_ms: kind none has no min_ms"),
        (
            "retries: {backoff: {kind: jittered, min_ms: 2000}}",
            "backoff.min_ms: 2000 is more than max_ms, which is 1000",
        ),
    ] {
        let errors = bad(&of(rules));
        assert_eq!(errors.len(), 1, "{rules}: {errors:?}");
        assert!(errors[0].contains(error), "{rules}: {errors:?}");
    }
    let config = good(&of(
        "failure_accrual: {kind: success_rate_windowed, success_rate_percent: 90, window_secs: 7}, \
         retries: {classifier: statuses, statuses: [503, 429, 503], methods: all, \
         backoff: {kind: constant, ms: 7}}",
    ));
    let service = &config.services[0];
    let window = Duration::from_secs(7);
    let rule = Accrual::SuccessRateWindowed { percent: 90, window };
    assert_eq!(service.failure_accrual.accrual, rule);
    let statuses = Classifier::Statuses { statuses: vec![429, 503], methods: Methods::All };
    assert_eq!(service.retries.classifier, statuses);
    assert_eq!(service.retries.backoff, Backoff::Constant(Duration::from_millis(7)));
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
