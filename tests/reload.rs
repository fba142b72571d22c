//! The configuration changes while requests are served: whole or not at all, and nobody notices but
//! for what changed.

mod common;

use std::net::SocketAddr;
use std::sync::mpsc;

use common::{Metrics, Origin, Proxy, Wire, both, config, eventually, ok};

/// Answers with its name.
fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| ok(name))
}

/// One router with a server for each port, and services by path.
fn several(ports: &[u16], services: &[(&str, SocketAddr)]) -> String {
    let servers: Vec<String> = ports.iter().map(|port| format!("{{port: {port}}}")).collect();
    let routes: String = services
        .iter()
        .map(|(name, _)| format!("  - {{path_prefix: /{name}, service: {name}}}\n"))
        .collect();
    let each: String = services
        .iter()
        .map(|(name, address)| format!("  {name}: {{endpoints: [\"{address}\"]}}\n"))
        .collect();
    format!(
        "telemetry: {{flush_interval_ms: 20}}\nrouters:\n- label: http\n  servers: [{}]\n  \
         routes:\n{routes}services:\n{each}",
        servers.join(", ")
    )
}

#[test]
fn the_next_request_goes_by_the_new_configuration_on_the_same_connection() {
    both(|cores| {
        let (old, new) = (named("old"), named("new"));
        let proxy = Proxy::start_from_file(&config(&[old.address], "", ""), cores);
        let mut clients: Vec<Wire> = (0..8).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").text(), "old");
        }
        proxy.reload(&config(&[new.address], "", ""));
        for client in &mut clients {
            assert_eq!(client.get("/").text(), "new");
        }
        let seen = old.requests().len();
        assert_eq!(seen, 8, "who was answered by the new one was not asked by the old one");
        proxy.stop();
    });
}

#[test]
fn a_signal_reloads_too_and_a_bad_file_changes_nothing() {
    both(|cores| {
        let (old, new) = (named("old"), named("new"));
        let good = config(&[old.address], "", "");
        let proxy = Proxy::start_from_file(&good, cores);
        let mut client = proxy.connect();
        for bad in ["routers: []\n".to_owned(), good.replace("service: web", "service: nobody")] {
            let answer = proxy.try_reload(&bad);
            assert_eq!(answer.status(), 422, "{}", answer.text());
            assert!(answer.text().contains("nothing has changed"), "{}", answer.text());
            assert!(answer.text().contains(".yaml:"), "it says where: {}", answer.text());
            assert_eq!(client.get("/").text(), "old");
        }
        proxy.rewrite("routers: [");
        proxy.signal("HUP");
        eventually("it is refused in the log", || {
            proxy.log().iter().any(|line| line.contains("nothing has changed"))
        });
        assert_eq!(client.get("/").text(), "old");
        proxy.rewrite(&config(&[new.address], "", ""));
        proxy.signal("HUP");
        eventually("the new one answers", || client.get("/").text() == "new");
        proxy.stop();
    });
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let origin = named("web");
    let yaml = config(&[origin.address], "", "");
    let proxy = Proxy::start_from_file(&yaml, "0");
    let answer = proxy.try_reload(&format!("telemetry: {{flush_interval_ms: 77}}\n{yaml}"));
    assert_eq!(answer.status(), 422);
    assert!(
        answer.text().contains("telemetry.flush_interval_ms: needs a restart (it is 1000, and"),
        "{}",
        answer.text()
    );
    // Standard input cannot be read again.
    let proxy = Proxy::start(&yaml, "0");
    let answer = proxy.post("/admin/reload", "");
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("no file"), "{}", answer.text());
    assert_eq!(proxy.connect().get("/").text(), "web");
}

#[test]
fn a_port_that_another_has_is_refused_whole() {
    let (old, new) = (named("old"), named("new"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let proxy = Proxy::start_from_file(&several(&[0], &[("a", old.address)]), "0");
    let answer = proxy.try_reload(&several(&[0, port], &[("a", new.address)]));
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("taken by another process"), "{}", answer.text());
    assert_eq!(proxy.connect().get("/a").text(), "old");
    assert_eq!(proxy.listeners(), [proxy.address]);
    drop(taken);
    proxy.reload(&several(&[0, port], &[("a", new.address)]));
    assert_eq!(proxy.connect().get("/a").text(), "new");
    assert_eq!(Wire::connect(([127, 0, 0, 1], port).into()).get("/a").text(), "new");
}

#[test]
fn listeners_come_and_go_and_those_that_stay_are_not_touched() {
    both(|cores| {
        let origin = named("a");
        let services = [("a", origin.address)];
        let proxy = Proxy::start_from_file(&several(&[0], &services), cores);
        let mut stays = proxy.connect();
        assert_eq!(stays.get("/a").text(), "a");
        proxy.reload(&several(&[0, 0], &services));
        let second = proxy.listeners()[1];
        assert_eq!(proxy.listeners()[0], proxy.address);
        let mut goes = Wire::connect(second);
        assert_eq!(goes.get("/a").text(), "a");
        let mut idle = Wire::connect(second);
        assert_eq!(idle.get("/a").text(), "a");
        proxy.reload(&several(&[0], &services));
        eventually("nobody listens there", || std::net::TcpStream::connect(second).is_err());
        // Like a drain: a request that comes in time is answered, and the last one says so.
        idle.expect_end();
        if let Ok(answer) = goes
            .try_send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            .and_then(|()| goes.try_answer_to("GET"))
        {
            assert_eq!(answer.head.get("connection"), Some("close"));
        }
        assert_eq!(stays.get("/a").head.get("connection"), None);
        // Its port may come back at once.
        let again = several(&[0, second.port()], &services);
        proxy.reload(&again);
        assert_eq!(Wire::connect(second).get("/a").text(), "a");
        assert_eq!(stays.get("/a").text(), "a");
        proxy.stop();
    });
}

#[test]
fn a_port_may_go_from_one_address_to_all_and_back() {
    both(|cores| {
        let origin = named("a");
        let yaml = |ip: &str, port: u16| {
            several(&[port], &[("a", origin.address)])
                .replace("{port:", &format!("{{ip: {ip}, port:"))
        };
        let proxy = Proxy::start_from_file(&yaml("127.0.0.1", 0), cores);
        let port = proxy.address.port();
        for ip in ["127.0.0.1", "0.0.0.0", "127.0.0.1"] {
            proxy.reload(&yaml(ip, port));
            assert_eq!(proxy.connect().get("/a").text(), "a");
            let elsewhere = std::net::TcpStream::connect(("127.0.0.2", port));
            match ip {
                "0.0.0.0" => assert_eq!(Wire::new(elsewhere.expect("all")).get("/a").text(), "a"),
                _ => eventually("it is closed elsewhere", || {
                    std::net::TcpStream::connect(("127.0.0.2", port)).is_err()
                }),
            }
        }
        proxy.stop();
    });
}

#[test]
fn an_exchange_ends_by_what_it_began_with() {
    both(|cores| {
        let (entered, started) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let slow = Origin::answering(move |_| {
            entered.send(()).expect("the test waits");
            released.lock().unwrap().recv().expect("the test goes on");
            ok("old")
        });
        let new = named("new");
        let proxy = Proxy::start_from_file(&several(&[0], &[("a", slow.address)]), cores);
        let mut client = proxy.connect();
        client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
        started.recv().expect("it is on its way");
        // Another service, of another name: the first is not configured any more.
        proxy.reload(&several(&[0], &[("b", new.address)]));
        assert_eq!(proxy.connect().get("/b").text(), "new");
        assert_eq!(proxy.connect().get("/a").status(), 404);
        release.send(()).expect("it waits");
        assert_eq!(client.answer().text(), "old");
        assert_eq!(client.get("/b").text(), "new");
        // What ended after its service went is counted for it all the same.
        let metrics = proxy
            .metrics_when("it is counted", |metrics| metrics.get("rt/http/service/a/success") == 1);
        metrics.check_conservation();
        assert_eq!(metrics.get("rt/http/client/a/success"), 1);
        proxy.stop();
    });
}

#[test]
fn endpoints_that_stay_keep_their_connections_and_what_is_known_of_them() {
    both(|cores| {
        let (stays, goes, comes) = (named("stays"), named("goes"), named("comes"));
        let yaml = |endpoints: &[SocketAddr]| {
            config(endpoints, "", "balancer: {kind: round_robin}\n")
                + "telemetry: {flush_interval_ms: 20}\n"
        };
        let proxy = Proxy::start_from_file(&yaml(&[goes.address, stays.address]), cores);
        let mut client = proxy.connect();
        for _ in 0..10 {
            client.get("/");
        }
        let connections = stays.accepted();
        proxy.reload(&yaml(&[stays.address, comes.address]));
        let before = goes.requests().len();
        for _ in 0..10 {
            assert_ne!(client.get("/").text(), "goes");
        }
        assert_eq!(goes.requests().len(), before);
        assert_eq!(stays.accepted(), connections, "its pooled connection was used again");
        assert_eq!(comes.requests().len(), 5);
        assert_eq!(proxy.endpoint("web", goes.address), None);
        let balancer = "rt/http/client/web/loadbalancer";
        let metrics = proxy.metrics_when("all is counted", |metrics| {
            metrics.get("rt/http/client/web/success") == 20
        });
        assert_eq!(metrics.get(&format!("{balancer}/adds")), 3);
        assert_eq!(metrics.get(&format!("{balancer}/removes")), 1);
        assert_eq!(metrics.get(&format!("{balancer}/size")), 2);
        let of = |origin: &Origin| {
            metrics.get(&format!("rt/http/client/web/endpoint/{}/requests", origin.address))
        };
        assert_eq!([of(&stays), of(&goes), of(&comes)], [10, 5, 5]);
        metrics.check_conservation();
        proxy.stop();
    });
}

#[test]
fn an_ejection_outlives_a_reload_and_so_does_what_the_operator_said() {
    both(|cores| {
        let bad = Origin::answering(|_| b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec());
        let (good, drained) = (named("good"), named("drained"));
        let keys = "failure_accrual: {failures: 2, min_ejection_ms: 60000}\n\
                    balancer: {kind: round_robin}\n";
        let all = [bad.address, good.address, drained.address];
        let yaml = |keys: &str| config(&all, "", keys) + "telemetry: {flush_interval_ms: 20}\n";
        let proxy = Proxy::start_from_file(&yaml(keys), cores);
        let path = format!("/admin/endpoints/{}", drained.address);
        assert_eq!(proxy.post(&path, "{\"drain\": true}").status(), 200);
        let state = |origin: &Origin| {
            let endpoint = proxy.endpoint("web", origin.address).expect("it is configured");
            endpoint["state"].as_str().expect("a word").to_owned()
        };
        let mut client = proxy.connect();
        for _ in 0..6 {
            client.get("/");
        }
        eventually("it is ejected", || state(&bad) == "ejected");
        // Another balancer, other budgets: the endpoints are the same.
        proxy.reload(&yaml(&(keys.replace("round_robin", "ewma") + "retries: {max_retries: 1}\n")));
        let seen = bad.requests().len();
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "good");
        }
        assert_eq!((bad.requests().len(), drained.requests().len()), (seen, 0));
        eventually("they are shown as before", || {
            [state(&bad), state(&drained)] == ["ejected", "draining"]
        });
        proxy.stop();
    });
}

#[test]
fn series_of_what_went_stay_for_a_while_and_their_counts_go_on_when_it_comes_back() {
    let (a, b) = (named("a"), named("b"));
    let yaml = |services: &[(&str, SocketAddr)]| {
        several(&[0], services)
            .replace("flush_interval_ms: 20", "flush_interval_ms: 20, series_ttl_ms: 1500")
    };
    let both = yaml(&[("a", a.address), ("b", b.address)]);
    let only_b = yaml(&[("b", b.address)]);
    let proxy = Proxy::start_from_file(&both, "0");
    let mut client = proxy.connect();
    let counted = |metrics: &Metrics| metrics.get("rt/http/service/a/requests");
    let picks = |metrics: &Metrics| metrics.get("rt/http/client/a/loadbalancer/picks");
    assert_eq!(client.get("/a").text(), "a");
    proxy.metrics_when("it is counted", |it| counted(it) == 1 && picks(it) == 1);
    proxy.reload(&only_b);
    assert_eq!(client.get("/a").status(), 404);
    let metrics = proxy.metrics_when("the 404 is counted", |metrics| {
        metrics.get(&format!("{}/status/404", proxy.server(0))) == 1
    });
    assert_eq!((counted(&metrics), picks(&metrics)), (1, 1), "it is still shown");
    proxy.reload(&both);
    assert_eq!(client.get("/a").text(), "a");
    proxy.metrics_when("its counts go on", |it| counted(it) == 2 && picks(it) == 2);
    proxy.reload(&only_b);
    proxy.metrics_when("it is shown no more", |metrics| {
        metrics.between("rt/http/service/a/", "").is_empty()
            && metrics.between("rt/http/client/a/", "").is_empty()
    });
    let metrics = proxy.metrics();
    assert!(!metrics.between("rt/http/service/b/", "").is_empty());
    metrics.check_conservation();
    proxy.stop();
}
