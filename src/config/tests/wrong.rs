//! The ten kinds of bad configuration: for each the line, the path and what is allowed.

use super::{GOOD, bad, good, read, with};

#[test]
fn unknown_key() {
    assert_eq!(
        bad(&with("- servers", "- lable: x\n  servers")),
        ["ringlane.yaml:2:3: routers[0].lable: unknown key (did you mean label?); allowed: \
          label, servers, routes, timeouts, max_body_bytes, upgrades, forwarding"]
    );
    // What later versions bring is not silently taken today.
    let errors = bad(&format!("{GOOD}tls: {{}}\n"));
    assert_eq!(
        errors,
        ["ringlane.yaml:6:1: tls: unknown key; \
          allowed: runtime, admin, telemetry, routers, services"]
    );
}

#[test]
fn wrong_type() {
    assert_eq!(
        bad(&format!("runtime: {{drain_ms: soon}}\n{GOOD}")),
        ["ringlane.yaml:1:21: runtime.drain_ms: wrong type (\"soon\"); \
          allowed: a whole number from 0 to 604800000"]
    );
    assert_eq!(
        bad(&with("[{service: web}]", "5")),
        ["ringlane.yaml:3:11: routers[0].routes: wrong type (integer `5`); allowed: a sequence"]
    );
    assert_eq!(
        bad(&format!("runtime: [all]\n{GOOD}")),
        ["ringlane.yaml:1:10: runtime: wrong type (sequence); allowed: a mapping"]
    );
    assert_eq!(
        bad(&with("{port: 4140}", "{ip: 5, port: 1.5}")),
        [
            "ringlane.yaml:2:18: routers[0].servers[0].ip: wrong type (5); allowed: an IPv4 or \
             IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::1",
            "ringlane.yaml:2:27: routers[0].servers[0].port: wrong type (1.5); \
             allowed: a whole number from 0 to 65535",
        ]
    );
    assert_eq!(
        bad(&with("{port: 4140}", "{port: 4140, proxy_protocol: v2}")),
        ["ringlane.yaml:2:42: routers[0].servers[0].proxy_protocol: wrong type (\"v2\"); \
          allowed: true or false"]
    );
}

#[test]
fn port_out_of_range() {
    for port in ["65536", "70000", "-1"] {
        assert_eq!(
            bad(&with("4140", port)),
            [format!(
                "ringlane.yaml:2:20: routers[0].servers[0].port: out of range ({port}); \
                 allowed: a whole number from 0 to 65535"
            )]
        );
    }
    let errors = bad(&format!("admin: {{port: 70000}}\n{GOOD}"));
    assert!(errors[0].starts_with("ringlane.yaml:1:15: admin.port: out of range (70000)"));
}

#[test]
fn no_routers() {
    let services = "services:\n  web: {endpoints: ['127.0.0.1:8080']}\n";
    for (text, place) in [
        (services.to_owned(), "1:1"),
        (format!("routers: []\n{services}"), "1:10"),
        (format!("{services}routers: ~\n"), "3:10"),
    ] {
        let errors = bad(&text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("ringlane.yaml:{place}: ")), "{errors:?}");
        assert!(
            errors[0].ends_with(
                "routers: needed, and not there; allowed: a list of at least one router"
            )
        );
    }
    // An empty text lacks routers and services.
    assert_eq!(bad("").len(), 2);
}

#[test]
fn route_to_unknown_service() {
    assert_eq!(
        bad(&with("service: web", "service: wep")),
        ["ringlane.yaml:3:22: routers[0].routes[0].service: unknown service (\"wep\"; did you \
          mean web?); allowed: web"]
    );
    let errors = bad(&with("{service: web}", "{host: a.example}"));
    assert_eq!(
        errors,
        ["ringlane.yaml:3:12: routers[0].routes[0].service: needed, and not there; allowed: web"]
    );
}

#[test]
fn duplicate_listener() {
    let two = |ip: &str, other: &str| {
        with("{port: 4140}", &format!("{{ip: '{ip}', port: 80}}, {{ip: '{other}', port: 80}}"))
    };
    assert_eq!(
        bad(&two("127.0.0.1", "127.0.0.1")),
        ["ringlane.yaml:2:42: routers[0].servers[1]: duplicate listener (127.0.0.1:80: \
          routers[0].servers[0] has 127.0.0.1:80); allowed: an address and port that nothing else \
          here listens on"]
    );
    for (ip, other) in [("0.0.0.0", "127.0.0.1"), ("10.0.0.1", "0.0.0.0"), ("::", "::1")] {
        let errors = bad(&two(ip, other));
        assert!(errors[0].contains("routers[0].servers[1]: duplicate listener"), "{errors:?}");
    }
    for (ip, other) in [("127.0.0.1", "127.0.0.2"), ("0.0.0.0", "::"), ("::1", "0.0.0.0")] {
        good(&two(ip, other));
    }
    let errors = bad(&with("4140", "9990"));
    assert!(errors[0].contains("(127.0.0.1:9990: admin has 127.0.0.1:9990)"), "{errors:?}");
    good(&format!("admin: off\n{}", with("4140", "9990")));
}

#[test]
fn core_that_does_not_exist() {
    assert_eq!(
        bad(&format!("runtime:\n  cores: '0,9'\n{GOOD}")),
        ["ringlane.yaml:2:10: runtime.cores: core 9 is not online, or not ours to use \
          (\"0,9\"); allowed: all, a count from 1 to 4, or cores of this machine (0-3) as a list \
          such as \"0,2-5\""]
    );
    let errors = bad(&format!("runtime: {{cores: 5}}\n{GOOD}"));
    assert_eq!(
        errors,
        ["ringlane.yaml:1:18: runtime.cores: out of range (5); allowed: a whole number \
             from 1 to 4"]
    );
    assert_eq!(
        bad(&format!("runtime: {{cores: '0', per_core: [{{cores: '1', spin_us: 5}}]}}\n{GOOD}")),
        ["ringlane.yaml:1:42: runtime.per_core[0].cores: core 1 runs no shard; allowed: cores \
          that run a shard (0)"]
    );
    assert!(bad(&format!("runtime: {{control_cores: '7'}}\n{GOOD}"))[0].contains("core 7"));
}

#[test]
fn bad_address() {
    let relative = ["unix:sock", "unix:", "localhost:80", "127.0.0.1", "127.0.0.1:0", "::1:80"];
    for address in relative {
        assert_eq!(
            bad(&with("127.0.0.1:8080", address)),
            [format!(
                "ringlane.yaml:5:21: services.web.endpoints[0].address: bad address \
                 ({address:?}); allowed: an IP address with a port from 1 to 65535 (127.0.0.1:80, \
                 [::1]:80), or unix:/path of at most 107 bytes"
            )]
        );
    }
    let errors = bad(&with("{port: 4140}", "{ip: localhost, port: 4140}"));
    assert!(
        errors[0].contains("servers[0].ip: not an IP address (\"localhost\"); allowed: an IPv4")
    );
}

#[test]
fn empty_endpoint_list() {
    assert_eq!(
        bad(&with("['127.0.0.1:8080']", "[]")),
        ["ringlane.yaml:5:20: services.web.endpoints: needed, and not there; allowed: a list of \
          at least one address"]
    );
}

#[test]
fn several_errors_at_once() {
    let errors = bad("\
runtime: {cores: '8', sharts: 3, drain_ms: x}
admin: {port: 70000}
routers:
- label: a
  servers: [{port: 99999}, {}, {port: 80, prot: 81}]
  routes: [{service: nowhere}, 7]
- label: a
  servers: {}
  timeouts: [1]
services:
  web:
    endpoints: [nowhere, {weight: 0, address: '127.0.0.1:1'}, [5]]
    balancer: {kind: emwa}
  web: {}
");
    let places: Vec<String> = errors
        .iter()
        .map(|error| error.splitn(5, ':').take(4).skip(1).collect::<Vec<_>>().join(":"))
        .collect();
    assert_eq!(
        places,
        [
            "1:18: runtime.cores",
            "1:23: runtime.sharts",
            "1:44: runtime.drain_ms",
            "2:15: admin.port",
            "5:20: routers[0].servers[0].port",
            "5:28: routers[0].servers[1].port",
            "5:43: routers[0].servers[2].prot",
            "6:22: routers[0].routes[0].service",
            "6:32: routers[0].routes[1]",
            "7:3: routers[1].routes",
            "7:10: routers[1].label",
            "8:12: routers[1].servers",
            "9:13: routers[1].timeouts",
            "12:17: services.web.endpoints[0].address",
            "12:35: services.web.endpoints[1].weight",
            "12:63: services.web.endpoints[2]",
            "13:22: services.web.balancer.kind",
            "14:3: services.web",
        ],
        "{errors:#?}"
    );
}

#[test]
fn an_error_brings_no_others_with_it() {
    // A bad port is one error, not a clash of two listeners; a bad host hides no route.
    let errors = bad(&with("{port: 4140}", "{port: x}, {port: y}"));
    assert_eq!(errors.len(), 2, "{errors:?}");
    let errors = bad(&with("{service: web}", "{host: 5, service: web}, {service: web}"));
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn a_service_whose_name_is_no_text() {
    let errors = bad(&with("  web: {", "  5: {}\n  web: {"));
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("services: a key that is no text (integer `5`)"), "{errors:?}");
}

#[test]
fn a_key_given_twice() {
    assert_eq!(
        bad(&with("{port: 4140}", "{port: 4140, port: 4141}")),
        ["ringlane.yaml:2:26: routers[0].servers[0].port: this key stands here twice, first on \
          line 2; allowed: each key once"]
    );
}

#[test]
fn what_is_no_yaml() {
    let errors = bad("routers: [\n- x: }\n");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("ringlane.yaml:2:"), "{errors:?}");
    assert!(errors[0].contains("not valid YAML: "), "{errors:?}");
    let errors = bad(&format!("runtime: {{cores: 0,0,1,1}}\n{GOOD}"));
    assert!(errors[0].contains("runtime: a key that is no text (integer `0`)"), "{errors:?}");
    for text in ["- 1\n", "5", "just text", "? [a]\n: b\n", "5: x\n", "!tag {}\n"] {
        assert!(!bad(text).is_empty(), "{text}");
    }
}

#[test]
fn text_of_any_kind_never_panics() {
    // Every prefix of the reference, and the reference with each byte replaced in turn.
    let text = include_str!("../../../config/ringlane.yaml");
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().starts_with('#')).collect();
    let text = lines.join("\n");
    for end in (0..text.len()).step_by(7) {
        let _ = read(&text[..end]);
    }
    for (at, other) in (0..text.len()).step_by(5).zip("{[:-'\"&*!#\t\n0x".chars().cycle()) {
        let mut text = text.clone();
        text.replace_range(at..at + 1, &other.to_string());
        let _ = read(&text);
    }
}

#[test]
fn a_text_that_is_brackets_alone_is_refused() {
    let errors = bad(&format!("routers: {}", "[".repeat(2_000)));
    assert_eq!(errors.len(), 1);
    assert!(bad(&format!("routers: {}", "{a: ".repeat(2_000))).len() == 1);
    assert!(!bad(&format!("routers: {}{}", "[".repeat(100), "]".repeat(100))).is_empty());
}

#[test]
fn line_ends_of_other_systems_and_a_byte_order_mark() {
    good(&GOOD.replace('\n', "\r\n"));
    good(&format!("\u{feff}{GOOD}"));
    let errors = bad(&with("4140", "65536").replace('\n', "\r\n"));
    assert!(errors[0].starts_with("ringlane.yaml:2:20: routers[0].servers[0].port"), "{errors:?}");
}

#[test]
fn a_text_that_is_wrong_throughout_is_given_up() {
    let keys: String = (0..5_000).map(|at| format!("key{at}: 1\n")).collect();
    assert_eq!(bad(&keys).len(), 200);
}
