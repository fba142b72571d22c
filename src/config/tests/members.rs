//! Where a service's endpoints come from, how they are asked whether they are well, and how much
//! each may have to do.

use std::time::Duration;

use super::super::secrets::Secrets;
use super::super::{Asking, Discovery, HealthCheck, Probe, Service};
use super::{bad, good, read, with};

/// A service with these keys in place of its endpoints.
fn of(keys: &str) -> String {
    with("endpoints: ['127.0.0.1:8080']", keys)
}

fn service(keys: &str) -> Service {
    good(&of(keys)).services.remove(0)
}

/// The same, shown and read again.
fn shown(keys: &str) -> Service {
    let config = good(&of(keys));
    let text = serde_yaml::to_string(&config.shown(Secrets::Shown)).unwrap();
    let again = read(&text).unwrap_or_else(|errors| panic!("{errors}\nof:\n{text}"));
    assert_eq!(again, config, "{text}");
    again.services.into_iter().next().unwrap()
}

#[test]
fn either_endpoints_or_discovery() {
    for keys in ["", "endpoints: ~, discovery: ~", "pool: {}"] {
        let errors = bad(&of(keys));
        assert_eq!(errors.len(), 1, "{keys}: {errors:?}");
        assert!(
            errors[0].ends_with(
                "services.web: neither endpoints nor discovery is there; allowed: exactly one of \
                 endpoints and discovery"
            ),
            "{errors:?}"
        );
    }
    let file = "discovery: {kind: file, path: /a}";
    assert_eq!(
        bad(&of(&format!("endpoints: ['127.0.0.1:80'], {file}"))),
        ["ringlane.yaml:5:49: services.web.discovery: beside endpoints: the service would have \
          two sources; allowed: exactly one of endpoints and discovery"]
    );
    // What is wrong with one of both is one error.
    for keys in ["endpoints: 5", "discovery: 5", "discovery: [file]"] {
        assert_eq!(bad(&of(keys)).len(), 1, "{keys}");
    }
    assert!(service(file).endpoints.is_empty());
}

#[test]
fn what_discovery_may_say() {
    let asking = Asking {
        resolvers: vec![],
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(60),
        timeout: Duration::from_secs(2),
    };
    let discovery = |keys: &str| shown(&format!("discovery: {{{keys}}}")).discovery.unwrap();
    assert_eq!(
        discovery("kind: file, path: /etc/web.txt"),
        Discovery::File { path: "/etc/web.txt".into() }
    );
    assert_eq!(
        discovery("kind: dns, name: 'API.internal.:8080'"),
        Discovery::Dns { name: "API.internal.".into(), port: 8080, asking: asking.clone() }
    );
    let keys = "min_ttl_ms: 5, max_ttl_ms: 6, timeout_ms: 7, resolvers: ['10.0.0.2:53', '[::1]:5']";
    assert_eq!(
        discovery(&format!("kind: dns_srv, name: _http._tcp.web.service.consul, {keys}")),
        Discovery::DnsSrv {
            name: "_http._tcp.web.service.consul".into(),
            asking: Asking {
                resolvers: vec!["10.0.0.2:53".parse().unwrap(), "[::1]:5".parse().unwrap()],
                min_ttl: Duration::from_millis(5),
                max_ttl: Duration::from_millis(6),
                timeout: Duration::from_millis(7),
            }
        }
    );
}

#[test]
fn what_discovery_may_not_say() {
    for (keys, error) in [
        ("", "kind: needed, and not there; allowed: file, dns, dns_srv"),
        ("path: /a", "kind: needed, and not there"),
        ("kind: dsn, name: 5", "kind: unknown word (\"dsn\"; did you mean dns?)"),
        ("kind: file", "path: needed, and not there"),
        ("kind: file, path: web.txt", "path: not a path to a file (\"web.txt\")"),
        ("kind: file, path: /etc/", "path: not a path to a file"),
        ("kind: file, path: /etc/..", "path: not a path to a file"),
        ("kind: file, path: /a, name: b", "name: kind file has no name"),
        ("kind: file, path: /a, resolvers: []", "resolvers: kind file has no resolvers"),
        ("kind: file, path: /a, min_ttl_ms: 5", "min_ttl_ms: kind file has no min_ttl_ms"),
        ("kind: dns", "name: needed, and not there"),
        ("kind: dns, name: 'a:1', path: /a", "path: kind dns has no path"),
        ("kind: dns, name: 5", "name: wrong type (5)"),
        ("kind: dns, name: api", "name: no such name (\"api\"); allowed: a domain name and a port"),
        ("kind: dns, name: 'api:0'", "name: no such name"),
        ("kind: dns, name: 'api:+1'", "name: no such name"),
        ("kind: dns, name: 'a b:1'", "name: no such name"),
        ("kind: dns, name: 'a..b:1'", "name: no such name"),
        ("kind: dns, name: '.:1'", "name: no such name"),
        ("kind: dns, name: '10.0.0.1:80'", "name: no such name"),
        ("kind: dns, name: '[::1]:80'", "name: no such name"),
        ("kind: dns_srv, name: 'web:80'", "name: no such name (\"web:80\"); allowed: a domain"),
        ("kind: dns, name: 'a:1', resolvers: []", "resolvers: needed, and not there"),
        ("kind: dns, name: 'a:1', resolvers: [a]", "resolvers[0]: bad address (\"a\")"),
        ("kind: dns, name: 'a:1', resolvers: [10.0.0.1]", "resolvers[0]: bad address"),
        ("kind: dns, name: 'a:1', resolvers: [~]", "resolvers[0]: needed, and not there"),
        ("kind: dns, name: 'a:1', resolvers: ['1.1.1.1:0']", "resolvers[0]: bad address"),
        (
            "kind: dns, name: 'a:1', resolvers: ['1.1.1.1:53', '1.1.1.1:53']",
            "resolvers[1]: duplicate resolver (1.1.1.1:53)",
        ),
        ("kind: dns, name: 'a:1', max_ttl_ms: 500", "min_ttl_ms: 1000 is more than max_ttl_ms"),
        ("kind: dns, name: 'a:1', timeout_ms: 0", "timeout_ms: out of range (0)"),
    ] {
        let errors = bad(&of(&format!("discovery: {{{keys}}}")));
        assert_eq!(errors.len(), 1, "{keys}: {errors:?}");
        assert!(
            errors[0].contains(&format!("services.web.discovery.{error}")),
            "{keys}: {errors:?}"
        );
    }
    let long = format!("{}.a", "x".repeat(64));
    assert_eq!(bad(&of(&format!("discovery: {{kind: dns_srv, name: {long}}}"))).len(), 1);
    let long = "abc.".repeat(64);
    assert_eq!(bad(&of(&format!("discovery: {{kind: dns_srv, name: {long}}}"))).len(), 1);
}

const ENDPOINTS: &str = "endpoints: ['127.0.0.1:80']";

#[test]
fn what_a_health_check_may_say() {
    let check =
        |keys: &str| shown(&format!("{ENDPOINTS}, health_check: {{{keys}}}")).health_check.unwrap();
    assert_eq!(service(ENDPOINTS).health_check, None);
    assert_eq!(shown(&format!("{ENDPOINTS}, health_check: {{kind: none}}")).health_check, None);
    assert_eq!(
        check("kind: tcp"),
        HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    );
    assert_eq!(
        check("kind: http").probe,
        Probe::Http { path: "/".into(), host: None, expect: 200..=399 }
    );
    let keyed = of(&format!("{ENDPOINTS}, health_check: {{kind: http, path: '/h?key=s3cret'}}"));
    let told = serde_yaml::to_string(&good(&keyed).to_value()).unwrap();
    assert!(told.contains("path: /h?***************(hidden)\n"), "{told}");
    let keys = "kind: http, path: '/health?a=b', host: 'web.internal:80', interval_ms: 1, \
                timeout_ms: 2, unhealthy_after: 4, healthy_after: 5";
    for (expect, range) in [("200", 200..=200), ("'204'", 204..=204), ("100-599", 100..=599)] {
        assert_eq!(
            check(&format!("{keys}, expect: {expect}")),
            HealthCheck {
                probe: Probe::Http {
                    path: "/health?a=b".into(),
                    host: Some("web.internal:80".into()),
                    expect: range,
                },
                interval: Duration::from_millis(1),
                timeout: Duration::from_millis(2),
                unhealthy_after: 4,
                healthy_after: 5,
            }
        );
    }
}

#[test]
fn what_a_health_check_may_not_say() {
    for (keys, error) in [
        ("kind: udp", "kind: unknown word (\"udp\""),
        ("interval_ms: 5", "interval_ms: kind none has no interval_ms"),
        ("kind: tcp, path: /", "path: kind tcp has no path; allowed: path with kind: http alone"),
        ("kind: tcp, healthy_after: 0", "healthy_after: out of range (0)"),
        ("kind: http, path: health", "path: not a path (\"health\")"),
        (
            "kind: http, path: 'health?key=s'",
            "path: not a path (\"health?***************(hidden)\"",
        ),
        ("kind: http, path: '/a b'", "path: not a path"),
        ("kind: http, path: '/a#b'", "path: not a path"),
        ("kind: http, path: 5", "path: wrong type (5)"),
        ("kind: http, host: ''", "host: not a host (\"\")"),
        ("kind: http, host: 'a/b'", "host: not a host"),
        ("kind: http, expect: 99", "expect: no range of statuses (99)"),
        ("kind: http, expect: 600", "expect: no range of statuses"),
        ("kind: http, expect: 300-200", "expect: no range of statuses (\"300-200\")"),
        ("kind: http, expect: '200-'", "expect: no range of statuses"),
        ("kind: http, expect: '+20'", "expect: no range of statuses"),
        ("kind: http, expect: [200]", "expect: wrong type (a list)"),
    ] {
        let errors = bad(&of(&format!("{ENDPOINTS}, health_check: {{{keys}}}")));
        assert_eq!(errors.len(), 1, "{keys}: {errors:?}");
        let error = format!("services.web.health_check.{error}");
        assert!(errors[0].contains(&error), "{keys}: {errors:?}");
    }
}

#[test]
fn limits_of_an_endpoint() {
    let limits = |keys: &str| shown(&format!("{ENDPOINTS}, limits: {{{keys}}}")).limits;
    assert_eq!(limits("").max_concurrent_per_endpoint, None);
    assert_eq!(limits("max_concurrent_per_endpoint: 0").max_concurrent_per_endpoint, None);
    assert_eq!(limits("max_concurrent_per_endpoint: 7").max_concurrent_per_endpoint, Some(7));
}
