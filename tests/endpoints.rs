//! What an operator does to endpoints at run time: drain, ready, weight.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Origin, Proxy, Wire, both, config, eventually, ok};

fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| ok(name))
}

fn yaml(endpoints: &[SocketAddr]) -> String {
    let yaml = config(endpoints, "", "balancer: {kind: round_robin}\n");
    format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
}

fn set(proxy: &Proxy, address: SocketAddr, json: &str) {
    let answer = proxy.post(&format!("/admin/endpoints/{address}"), json);
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// How many of so many requests got each answer.
fn ask(proxy: &Proxy, requests: usize) -> impl Fn(&str) -> usize + use<> {
    let mut clients: Vec<Wire> = (0..4).map(|_| proxy.connect()).collect();
    let mut texts = Vec::new();
    for at in 0..requests {
        texts.push(clients[at % 4].get("/").text());
    }
    move |name| texts.iter().filter(|it| *it == name).count()
}

#[test]
fn a_drained_endpoint_ends_what_it_has_and_gets_nothing_new() {
    both(|cores| {
        let (entered, held) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicBool::new(true)));
        let (enters, holds) = (entered.clone(), held.clone());
        let drained = Origin::answering(move |request| {
            if request.head.target() == "/slow" {
                enters.fetch_add(1, Ordering::SeqCst);
                eventually("the test goes on", || !holds.load(Ordering::SeqCst));
            }
            ok("drained")
        });
        let stays = named("stays");
        let proxy = Proxy::start(&yaml(&[drained.address, stays.address]), cores);
        // Both have pooled connections.
        assert!(ask(&proxy, 8)("drained") > 0);
        // Of so many some go there, whichever shards they are on.
        let mut slow: Vec<Wire> = (0..16).map(|_| proxy.connect()).collect();
        slow.iter_mut().for_each(|it| it.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"));
        eventually("some are on their way", || entered.load(Ordering::SeqCst) > 0);
        set(&proxy, drained.address, "{\"drain\": true}");
        let seen = drained.requests().len();
        assert_eq!(ask(&proxy, 20)("stays"), 20);
        assert_eq!(drained.requests().len(), seen);
        eventually("it is shown", || {
            proxy.endpoint("web", drained.address).expect("it is configured")["state"] == "draining"
        });
        // What was on its way is answered.
        held.store(false, Ordering::SeqCst);
        for client in &mut slow {
            assert_eq!(client.answer().status(), 200);
        }
        set(&proxy, drained.address, "{\"ready\": true}");
        assert!(ask(&proxy, 20)("drained") >= 5);
        proxy.stop();
    });
}

#[test]
fn weights_shift_the_load_and_outlive_a_reload() {
    both(|cores| {
        let (a, b) = (named("a"), named("b"));
        let proxy = Proxy::start_from_file(&yaml(&[a.address, b.address]), cores);
        set(&proxy, a.address, "{\"weight\": 9}");
        // A turn of the wheel is ten requests on each shard.
        let counted = ask(&proxy, 200);
        assert!((170..=190).contains(&counted("a")), "{} of 200", counted("a"));
        proxy
            .reload(&(yaml(&[a.address, b.address]) + "  other: {endpoints: [\"127.0.0.1:1\"]}\n"));
        let counted = ask(&proxy, 200);
        assert!((170..=190).contains(&counted("a")), "{} of 200", counted("a"));
        set(&proxy, a.address, "{\"weight\": 1}");
        let counted = ask(&proxy, 200);
        assert!((90..=110).contains(&counted("a")), "{} of 200", counted("a"));
        proxy.stop();
    });
}

#[test]
fn with_all_drained_there_is_none_and_an_unknown_one_is_a_404() {
    let origin = named("a");
    let proxy = Proxy::start(&yaml(&[origin.address]), "0");
    set(&proxy, origin.address, "{\"drain\": true}");
    let answer = proxy.connect().get("/");
    assert_eq!((answer.status(), answer.head.reason()), (503, Some("no_endpoint")));
    assert_eq!(answer.head.get("retry-after"), Some("1"));
    let answer = proxy.post("/admin/endpoints/127.0.0.1:1", "{\"drain\": true}");
    assert_eq!(answer.status(), 404);
    assert!(answer.text().contains("no service has an endpoint 127.0.0.1:1"), "{}", answer.text());
    let path = format!("/admin/endpoints/{}?service=api", origin.address);
    let answer = proxy.post(&path, "{\"ready\": true}");
    assert_eq!(answer.status(), 404);
    assert_eq!(proxy.connect().get("/").status(), 503, "nothing was changed");
    proxy.stop();
}
