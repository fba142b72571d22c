//! How many requests a service has under way at once: exactly as many as it may, over all shards.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Metrics, Origin, Proxy, Wire, both, config, eventually, four, ok, quantile,
};

const WEB: &str = "rt/http/service/web";
/// Those of `four()`.
const SHARDS: usize = 4;

/// An origin that takes a while, and the most requests that it had at once.
fn slow(ms: u64) -> (Origin, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::<AtomicUsize>::default());
    let seen = most.clone();
    let origin = Origin::answering(move |_| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::park_timeout(Duration::from_millis(ms));
        now.fetch_sub(1, Ordering::SeqCst);
        ok("fine")
    });
    (origin, most)
}

fn start(origin: &Origin, limits: &str, cores: &str) -> Proxy {
    let yaml = config(&[origin.address], "", &format!("limits: {{{limits}}}"));
    Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), cores)
}

/// The statuses of what so many clients get, each asking `requests` times. What is refused says
/// when to come back.
fn ask(proxy: &Proxy, clients: usize, requests: usize) -> Vec<u16> {
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let address = proxy.address;
            thread::spawn(move || {
                let mut client = Wire::connect(address);
                let status = |_| {
                    let answer = client.get("/");
                    if answer.status() == 503 {
                        assert_eq!(answer.head.get("ringlane-error"), Some("overloaded"));
                        assert_eq!(answer.head.get("retry-after"), Some("1"));
                    }
                    answer.status()
                };
                (0..requests).map(status).collect::<Vec<u16>>()
            })
        })
        .collect();
    threads.into_iter().flat_map(|it| it.join().expect("each is answered")).collect()
}

fn settled(proxy: &Proxy, requests: u64) -> common::Metrics {
    let metrics = proxy.metrics_when("all are counted", |metrics| {
        metrics.get(&format!("{WEB}/requests")) == requests
            && metrics.get(&format!("{WEB}/pending")) == 0
    });
    metrics.check_conservation();
    metrics
}

#[test]
fn what_is_beyond_the_limit_is_told_to_come_back() {
    both(|cores| {
        let (origin, most) = slow(20);
        let proxy = start(&origin, "max_concurrent: 5", cores);
        let statuses = ask(&proxy, 20, 10);
        assert_eq!(most.load(Ordering::SeqCst), 5);
        let served = statuses.iter().filter(|&&status| status == 200).count();
        let refused = statuses.iter().filter(|&&status| status == 503).count();
        assert_eq!((served + refused, origin.requests().len()), (200, served));
        assert!(refused > 0);
        let metrics = settled(&proxy, 200);
        assert_eq!(metrics.get(&format!("{WEB}/failures/overloaded")), refused as u64);
        assert_eq!(metrics.get(&format!("{WEB}/answered_here")), refused as u64);
    });
}

#[test]
fn who_waits_is_served_when_a_place_is_free() {
    both(|cores| {
        let (origin, most) = slow(5);
        let proxy = start(&origin, "max_concurrent: 2, max_queue: 100", cores);
        let began = Instant::now();
        let statuses = ask(&proxy, 16, 20);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        assert_eq!(most.load(Ordering::SeqCst), 2);
        // 320 requests of 5 ms, two at a time: a place that waits to be noticed would show.
        let (took, least) = (began.elapsed(), Duration::from_millis(320 * 5 / 2));
        assert!(took < 10 * least, "{took:?} for what takes {least:?}");
        let metrics = settled(&proxy, 320);
        assert_eq!(metrics.get("rt/http/client/web/pool_waiters"), 0);
    });
}

#[test]
fn nobody_waits_longer_than_that() {
    both(|cores| {
        let (origin, _) = slow(6_000);
        let limits = "max_concurrent: 1, max_queue: 1, queue_timeout_ms: 1500";
        let proxy = start(&origin, limits, cores);
        let mut first = proxy.connect();
        first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        proxy.metrics_when("it has the place", |metrics| {
            metrics.get("rt/http/client/web/pending") == 1
        });
        let began = Instant::now();
        let mut second = proxy.connect();
        second.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        proxy.metrics_when("it waits", |metrics| {
            metrics.get("rt/http/client/web/pool_waiters") == 1
                && metrics.get(&format!("{WEB}/waiting")) == 1
        });
        assert_eq!(proxy.connect().get("/").status(), 503, "the queue is full");
        let answer = second.answer();
        assert_eq!(answer.head.get("ringlane-error"), Some("overloaded"));
        assert!(began.elapsed() >= Duration::from_millis(1_500), "{:?}", began.elapsed());
    });
}

#[test]
fn a_client_that_goes_leaves_its_place_to_others() {
    both(|cores| {
        let (origin, most) = slow(30);
        let proxy = start(&origin, "max_concurrent: 2, max_queue: 50", cores);
        for _ in 0..20 {
            // Some have a place by then and some wait for one.
            let clients: Vec<Wire> = (0..6)
                .map(|_| {
                    let mut client = proxy.connect();
                    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    client
                })
                .collect();
            clients.into_iter().for_each(Wire::reset);
        }
        // A machine under load may take a while to see them go, and a full queue refuses rightly.
        proxy.metrics_when("they are gone", |metrics| {
            metrics.get(&format!("{WEB}/requests")) > 0
                && metrics.get(&format!("{WEB}/pending")) == 0
        });
        let statuses = ask(&proxy, 8, 5);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        let metrics = proxy.metrics_when("everybody is gone", |metrics| {
            metrics.get(&format!("{WEB}/pending")) == 0
        });
        metrics.check_conservation();
        assert_eq!(metrics.get("rt/http/client/web/pool_waiters"), 0);
        // The origin answers to the end what nobody waits for any more.
        assert!(most.load(Ordering::SeqCst) >= 2);
        assert_eq!(ask(&proxy, 2, 10), [200; 20], "both places are there still");
    });
}

#[test]
fn no_endpoint_has_more_than_its_own_limit_and_all_of_them_are_used() {
    both(|cores| {
        let (a, most_a) = slow(5);
        let (b, most_b) = slow(5);
        let yaml = |endpoints: &[std::net::SocketAddr], limits: &str| {
            let keys = format!("balancer: {{kind: round_robin}}\nlimits: {{{limits}}}");
            // It is nearly always drawn, and full even so.
            let heavy = format!("{{address: \"{}\", weight: 1000}}", a.address);
            let yaml = config(endpoints, "", &keys);
            let yaml = yaml.replace(&format!("\"{}\"", a.address), &heavy);
            format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
        };
        let limits = "max_concurrent_per_endpoint: 2, max_queue: 100";
        let both = [a.address, b.address];
        let proxy = Proxy::start_from_file(&yaml(&both, limits), cores);
        let statuses = ask(&proxy, 16, 20);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        assert_eq!([&most_a, &most_b].map(|it| it.load(Ordering::SeqCst)), [2, 2]);
        let metrics = settled(&proxy, 320);
        assert!(metrics.get("rt/http/client/web/loadbalancer/max_effort_exhausted") > 0);
        // One endpoint less is one limit less, from the next request on.
        proxy.reload(&yaml(&[a.address], limits));
        let before = b.requests().len();
        let statuses = ask(&proxy, 16, 5);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        assert_eq!((most_a.load(Ordering::SeqCst), b.requests().len()), (2, before));
        // And without a limit there is none.
        proxy.reload(&yaml(&[a.address], ""));
        let statuses = ask(&proxy, 16, 5);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        assert!(most_a.load(Ordering::SeqCst) > 2);
        proxy.stop();
    });
}

#[test]
fn a_limit_that_is_lowered_holds_for_whoever_comes_next() {
    both(|cores| {
        // Longer than 16 clients take to ask, also with a sanitizer.
        let (origin, most) = slow(25);
        let yaml = |most: usize| {
            let limits = format!("limits: {{max_concurrent: {most}, max_queue: 100}}");
            let yaml = config(&[origin.address], "", &limits);
            format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
        };
        let proxy = Proxy::start_from_file(&yaml(8), cores);
        assert!(ask(&proxy, 16, 10).iter().all(|&status| status == 200));
        assert_eq!(most.swap(0, Ordering::SeqCst), 8);
        proxy.reload(&yaml(3));
        assert!(ask(&proxy, 16, 10).iter().all(|&status| status == 200));
        assert_eq!(most.load(Ordering::SeqCst), 3);
        settled(&proxy, 320);
        proxy.stop();
    });
}

/// Clients by the shard that their connections came to, at least so many on each.
fn spread(proxy: &Proxy, each: usize) -> Vec<Vec<Wire>> {
    let mut clients: Vec<Vec<Wire>> = (0..SHARDS).map(|_| Vec::new()).collect();
    let connections = |metrics: &Metrics| -> Vec<u64> {
        (0..SHARDS).map(|shard| metrics.get(&format!("shard/{shard}/connections"))).collect()
    };
    let mut before = vec![0; SHARDS];
    while clients.iter().any(|clients| clients.len() < each) {
        let client = proxy.connect();
        let total = before.iter().sum::<u64>() + 1;
        let metrics = proxy.metrics_when("a shard has it", |metrics| {
            connections(metrics).iter().sum::<u64>() == total
        });
        let now = connections(&metrics);
        let shard = (0..SHARDS).find(|&shard| now[shard] > before[shard]).expect("one has more");
        clients[shard].push(client);
        before = now;
    }
    clients
}

#[test]
fn who_waits_on_an_idle_shard_starts_when_a_place_is_free_on_another() {
    const ROUNDS: usize = 100;
    /// Half of what a shard takes to notice by itself, whoever forgets to wake it.
    const PROMPTLY_SECS: f64 = 0.05;
    let ended = Arc::new(Mutex::new(Instant::now()));
    let (came, has_come) = mpsc::channel();
    let end = ended.clone();
    let origin = Origin::answering(move |request| {
        came.send(Instant::now()).expect("the test looks");
        if request.head.target() == "/holds" {
            // Long enough for the other to stand in the queue.
            thread::park_timeout(Duration::from_millis(10));
            *end.lock().unwrap() = Instant::now();
        }
        ok("fine")
    });
    // Flushed seldom: a shard that is woken for that would look around as well.
    let yaml = config(&[origin.address], "", "limits: {max_concurrent: 1, max_queue: 10}");
    let yaml = format!("telemetry: {{flush_interval_ms: 300}}\n{yaml}");
    let proxy = Proxy::start(&yaml, four());
    let mut clients = spread(&proxy, 1);
    let mut round = |number: usize| {
        let holder = number % SHARDS;
        let waiter = (holder + 1 + number / SHARDS % (SHARDS - 1)) % SHARDS;
        clients[holder][0].send("GET /holds HTTP/1.1\r\nHost: h\r\n\r\n");
        has_come.recv_timeout(DEADLINE).expect("it has the place");
        clients[waiter][0].send("GET /waits HTTP/1.1\r\nHost: h\r\n\r\n");
        let started = has_come.recv_timeout(DEADLINE).expect("it is served");
        for client in [holder, waiter] {
            assert_eq!(clients[client][0].answer().status(), 200);
        }
        let ended = *ended.lock().unwrap();
        started.checked_duration_since(ended).expect("one after the other").as_secs_f64()
    };
    // A machine under load may hold any of them up, but not one in a hundred each time.
    let mut p99s: Vec<f64> = Vec::new();
    while p99s.len() < 3 && p99s.last().is_none_or(|p99| *p99 > PROMPTLY_SECS) {
        p99s.push(quantile(&(0..ROUNDS).map(&mut round).collect::<Vec<f64>>(), 0.99));
    }
    assert!(p99s.last().is_some_and(|p99| *p99 < PROMPTLY_SECS), "{p99s:?} s");
}

#[test]
fn shards_on_which_many_wait_take_turns() {
    const EACH: usize = 6;
    let (served, held) = (Arc::<Mutex<Vec<usize>>>::default(), Arc::new(AtomicBool::new(true)));
    let (order, holds) = (served.clone(), held.clone());
    let origin = Origin::answering(move |request| {
        match request.head.target()[1..].parse() {
            Ok(shard) => order.lock().unwrap().push(shard),
            Err(_) => eventually("the others wait", || !holds.load(Ordering::SeqCst)),
        }
        ok("fine")
    });
    let proxy = start(&origin, "max_concurrent: 1, max_queue: 100", four());
    let mut clients = spread(&proxy, EACH);
    let mut first = proxy.connect();
    first.send("GET /holds HTTP/1.1\r\nHost: h\r\n\r\n");
    proxy
        .metrics_when("it has the place", |metrics| metrics.get("rt/http/client/web/pending") == 1);
    for (shard, clients) in clients.iter_mut().enumerate() {
        for client in &mut clients[..EACH] {
            client.send(format!("GET /{shard} HTTP/1.1\r\nHost: h\r\n\r\n"));
        }
    }
    proxy.metrics_when("all wait", |metrics| {
        metrics.get("rt/http/client/web/pool_waiters") == (SHARDS * EACH) as u64
    });
    held.store(false, Ordering::SeqCst);
    assert_eq!(first.answer().status(), 200);
    for client in clients.iter_mut().flat_map(|clients| &mut clients[..EACH]) {
        assert_eq!(client.answer().status(), 200);
    }
    let served = served.lock().unwrap();
    let mut counts = [0; SHARDS];
    for shard in served.iter() {
        counts[*shard] += 1;
        let (most, least) = (counts.iter().max(), counts.iter().min());
        assert!(most <= least.map(|least| least + 2).as_ref(), "{served:?}");
    }
    assert_eq!(counts, [EACH; SHARDS]);
}

#[test]
fn what_a_drained_endpoint_still_has_takes_no_place_of_the_others() {
    both(|cores| {
        let (entered, held) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicBool::new(true)));
        let (enters, holds) = (entered.clone(), held.clone());
        let goes = Origin::answering(move |_| {
            enters.fetch_add(1, Ordering::SeqCst);
            eventually("the test goes on", || !holds.load(Ordering::SeqCst));
            ok("goes")
        });
        let (stays, most) = slow(20);
        let yaml = |endpoints: &[std::net::SocketAddr]| {
            let limits = "limits: {max_concurrent_per_endpoint: 2, max_queue: 50}";
            let yaml = config(endpoints, "", limits);
            format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
        };
        let proxy = Proxy::start_from_file(&yaml(&[goes.address]), cores);
        let mut first: Vec<Wire> = (0..2).map(|_| proxy.connect()).collect();
        first.iter_mut().for_each(|it| it.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
        eventually("it is full", || entered.load(Ordering::SeqCst) == 2);
        proxy.reload(&yaml(&[goes.address, stays.address]));
        let path = format!("/admin/endpoints/{}", goes.address);
        assert_eq!(proxy.post(&path, "{\"drain\": true}").status(), 200);
        let statuses = ask(&proxy, 8, 5);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        assert_eq!(most.load(Ordering::SeqCst), 2, "both places, and no more");
        // It comes back full, by another configuration that does not have it in between.
        proxy.reload(&yaml(&[stays.address]));
        proxy.reload(&yaml(&[stays.address, goes.address]));
        assert_eq!(proxy.post(&path, "{\"ready\": true}").status(), 200);
        let statuses = ask(&proxy, 8, 5);
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        assert_eq!(entered.load(Ordering::SeqCst), 2, "it has as many as it may");
        held.store(false, Ordering::SeqCst);
        first.iter_mut().for_each(|it| assert_eq!(it.answer().text(), "goes"));
        eventually("it is used again", || proxy.connect().get("/").text() == "goes");
        proxy.stop();
    });
}
