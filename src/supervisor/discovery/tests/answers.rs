//! What answers add up to, when to ask again, and which names to ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::answers::{
    self, Addresses, AddressesOf, Answer, Found, Missing, Pace, Target, candidates, first_priority,
    is_usable,
};
use super::written;
use crate::config::Asking;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect(text)).collect()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn records(texts: &[&str], ttl: u64) -> Answer<IpAddr> {
    Answer::Records { records: ips(texts), ttl: secs(ttl) }
}

fn nothing() -> Answer<IpAddr> {
    Answer::Nothing("none".to_owned())
}

fn failed() -> Answer<IpAddr> {
    Answer::Failed("SERVFAIL".to_owned())
}

fn of(v4: &[&str], v6: &[&str]) -> Addresses {
    Addresses { v4: ips(v4), v6: ips(v6) }
}

#[test]
fn both_families_make_an_answer() {
    let before = of(&["9.9.9.9"], &["9::9"]);
    for (a, aaaa, expected) in [
        (records(&["1.1.1.1"], 5), records(&["::1"], 3), Ok((of(&["1.1.1.1"], &["::1"]), 3, None))),
        (records(&["1.1.1.1"], 5), nothing(), Ok((of(&["1.1.1.1"], &[]), 5, None))),
        (nothing(), records(&["::1"], 3), Ok((of(&[], &["::1"]), 3, None))),
        // One that nobody can say anything about keeps what it had.
        (
            records(&["1.1.1.1"], 5),
            failed(),
            Ok((of(&["1.1.1.1"], &["9::9"]), 5, Some("AAAA: SERVFAIL"))),
        ),
        (failed(), records(&["::1"], 3), Ok((of(&["9.9.9.9"], &["::1"]), 3, Some("A: SERVFAIL")))),
        (nothing(), nothing(), Err(Missing::Nothing("none".to_owned()))),
        (failed(), nothing(), Err(Missing::Failed("SERVFAIL".to_owned()))),
        (nothing(), failed(), Err(Missing::Failed("SERVFAIL".to_owned()))),
        (failed(), failed(), Err(Missing::Failed("SERVFAIL".to_owned()))),
    ] {
        let case = format!("{a:?} {aaaa:?}");
        let expected = expected.map(|(what, ttl, trouble)| Found {
            what,
            ttl: secs(ttl),
            trouble: trouble.map(str::to_owned),
        });
        assert_eq!(answers::addresses(a, aaaa, Some(&before)), expected, "{case}");
    }
    let alone = answers::addresses(failed(), records(&["::1"], 3), None).unwrap();
    assert_eq!(alone.what, of(&[], &["::1"]));
}

#[test]
fn addresses_that_nobody_can_connect_to() {
    for address in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
        assert!(!is_usable(&address.parse().unwrap()), "{address}");
    }
    for address in ["127.0.0.1", "::1", "10.0.0.1", "fd00::1"] {
        assert!(is_usable(&address.parse().unwrap()), "{address}");
    }
    let twice = of(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], &["::1"]);
    let endpoints = written(&answers::endpoints(&twice, 80));
    assert_eq!(endpoints, ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]);
}

fn target(priority: u16, weight: u16, port: u16, name: &str) -> Target {
    Target { priority, weight, port, name: name.to_owned() }
}

#[test]
fn targets_of_the_first_priority_with_their_weights() {
    let all = vec![
        target(1, 5, 80, "."),
        target(2, 5, 0, "portless."),
        target(20, 5, 80, "spare."),
        target(10, 0, 80, "a."),
        target(10, 7, 81, "a."),
        target(10, 60_000, 80, "b."),
        target(10, 3, 80, "gone."),
    ];
    let first = first_priority(all);
    assert_eq!(first.len(), 4, "{first:?}");
    let addresses = AddressesOf::from([
        ("a.".to_owned(), of(&["10.0.0.1"], &["::1"])),
        ("b.".to_owned(), of(&["10.0.0.1", "10.0.0.2"], &[])),
    ]);
    assert_eq!(
        written(&answers::endpoints_of(&first, &addresses)),
        // 10.0.0.1:80 is both a's, with 1, and b's, with 1000.
        ["10.0.0.1:80*1000", "10.0.0.1:81*7", "10.0.0.2:80*1000", "[::1]:80", "[::1]:81*7"]
    );
    let twice = [target(1, 3, 80, "a."), target(1, 4, 80, "c.")];
    let addresses = AddressesOf::from([
        ("a.".to_owned(), of(&["10.0.0.1"], &[])),
        ("c.".to_owned(), of(&["10.0.0.1"], &[])),
    ]);
    assert_eq!(written(&answers::endpoints_of(&twice, &addresses)), ["10.0.0.1:80*7"]);
    assert_eq!(first_priority(vec![target(0, 0, 0, ".")]), []);
}

#[test]
fn targets_that_nobody_can_say_anything_about_keep_their_addresses() {
    let found = |what, ttl| Ok(Found { what, ttl: secs(ttl), trouble: None });
    let failed = || Err(Missing::Failed("timeout".to_owned()));
    let before = AddressesOf::from([
        ("a.".to_owned(), of(&["10.0.0.1"], &[])),
        ("b.".to_owned(), of(&["10.0.0.2"], &[])),
    ]);
    let results = HashMap::from([
        ("a.".to_owned(), found(of(&["10.0.0.9"], &[]), 7)),
        ("b.".to_owned(), failed()),
        ("new.".to_owned(), failed()),
        ("gone.".to_owned(), Err(Missing::Nothing("none".to_owned()))),
    ]);
    let all = answers::targets(results, secs(9), Some(&before)).unwrap();
    assert_eq!(all.ttl, secs(7));
    assert_eq!(all.trouble.as_deref(), Some("b.: timeout"));
    assert_eq!(all.what.len(), 2);
    assert_eq!(all.what["a."], of(&["10.0.0.9"], &[]));
    assert_eq!(all.what["b."], of(&["10.0.0.2"], &[]));
    // With none answered, nothing is known.
    let results = HashMap::from([("a.".to_owned(), failed()), ("b.".to_owned(), failed())]);
    let none = answers::targets(results, secs(9), Some(&before)).unwrap_err();
    assert_eq!(none, Missing::Failed("a.: timeout".to_owned()));
    // What came along with the targets has their TTL at most.
    let results = HashMap::from([("a.".to_owned(), found(of(&["10.0.0.9"], &[]), 60))]);
    let all = answers::targets(results, secs(9), None).unwrap();
    assert_eq!((all.ttl, all.trouble), (secs(9), None));
}

#[test]
fn when_to_ask_again() {
    let asking = |min_ms, max_ms| Asking {
        resolvers: vec![],
        min_ttl: Duration::from_millis(min_ms),
        max_ttl: Duration::from_millis(max_ms),
        timeout: secs(1),
    };
    let mut pace = Pace::default();
    let usual = asking(1_000, 60_000);
    assert_eq!(pace.good(secs(0), &usual), secs(1));
    assert_eq!(pace.good(secs(30), &usual), secs(30));
    assert_eq!(pace.good(secs(3_600), &usual), secs(60));
    let bad: Vec<u64> = (0..40).map(|_| pace.bad(&usual).as_secs()).collect();
    assert_eq!(bad[..5], [1, 2, 4, 5, 5]);
    assert!(bad[5..].iter().all(|secs| *secs == 5), "{bad:?}");
    // It begins anew after a good round.
    pace.good(secs(30), &usual);
    assert_eq!(pace.bad(&usual), secs(1));
    let quick = asking(100, 300);
    let mut pace = Pace::default();
    let bad: Vec<u128> = (0..4).map(|_| pace.bad(&quick).as_millis()).collect();
    assert_eq!(bad, [100, 200, 300, 300]);
    // Whatever is asked for rarely is asked for again soon while it is missing.
    assert_eq!(Pace::default().bad(&asking(30_000, 60_000)), secs(5));
}

#[test]
fn names_of_a_search_list() {
    let search = ["ns.svc.local.", "example.com", "."].map(str::to_owned);
    let of = |name| candidates(name, &search, 2);
    assert_eq!(of("web."), ["web."]);
    assert_eq!(of("web"), ["web.ns.svc.local.", "web.example.com.", "web."]);
    assert_eq!(of("web.a"), ["web.a.ns.svc.local.", "web.a.example.com.", "web.a."]);
    assert_eq!(of("web.a.b"), ["web.a.b.", "web.a.b.ns.svc.local.", "web.a.b.example.com."]);
    assert_eq!(candidates("web", &[], 0), ["web."]);
}
