//! What becomes of the connection to an endpoint when nobody wants its answer any more: it is used
//! again where little of the answer is to come, else closed at once, and never used dirty.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use common::{DEADLINE, Origin, Proxy, Wire, both, config, eventually, ok};

const CLIENT: &str = "rt/http/client/web";
/// Discarded answers per case. A machine under load may hold some of them up for longer than the
/// proxy waits, so that not every connection is kept; without any kept it is one for each.
const ROUNDS: usize = 12;

fn start(addresses: &[&Origin], service: &str, cores: &str) -> Proxy {
    let addresses: Vec<_> = addresses.iter().map(|origin| origin.address).collect();
    let service = format!("failure_accrual: {{kind: none}}\n{service}");
    let yaml = config(&addresses, "", &service);
    Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), cores)
}

/// How much is under way at the only endpoint.
fn load(proxy: &Proxy) -> u64 {
    let answer = Wire::connect(proxy.admin).get("/admin/clients.json");
    let clients: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    clients[0]["endpoints"][0]["load"].as_u64().expect("a load")
}

/// Two endpoints: one fails in two pieces, the second of which follows when the retry has come to
/// the other.
struct Pair {
    bad: Origin,
    good: Origin,
    proxy: Proxy,
    /// Of the bad one: requests, and connections that have ended.
    asked: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
}

impl Pair {
    fn start(pieces: [Vec<u8>; 2], cores: &str) -> Pair {
        let [retried, asked, gone]: [Arc<AtomicUsize>; 3] = Default::default();
        let good = {
            let retried = retried.clone();
            Origin::answering(move |_| {
                retried.fetch_add(1, Ordering::SeqCst);
                ok("fine")
            })
        };
        let (counts, ends) = (asked.clone(), gone.clone());
        let bad = Origin::start(move |mut wire, _| {
            while let Ok(Some(_)) = wire.request() {
                let before = retried.load(Ordering::SeqCst);
                counts.fetch_add(1, Ordering::SeqCst);
                let _ = wire.try_send(&pieces[0]);
                eventually("the retry", || retried.load(Ordering::SeqCst) > before);
                if wire.try_send(&pieces[1]).is_err() {
                    break;
                }
            }
            ends.fetch_add(1, Ordering::SeqCst);
        });
        let rules = "balancer: {kind: round_robin}\n\
                     retries: {classifier: retryable_read_5xx, budget: {percent: 1000}}";
        let proxy = start(&[&bad, &good], rules, cores);
        Pair { bad, good, proxy, asked, gone }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn gone(&self) -> usize {
        self.gone.load(Ordering::SeqCst)
    }

    /// Asks until the bad one has failed once more.
    fn fail_once(&self, client: &mut Wire) {
        let before = self.asked();
        while self.asked() == before {
            assert_eq!(client.get("/").text(), "fine");
        }
    }
}

fn failing(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 503 No\r\n{fields}\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_discarded_answer_in_two_pieces_costs_no_connection() {
    let (half, rest) = ("x".repeat(3_000), "x".repeat(16 << 10));
    let much = failing(&format!("Content-Length: {}", half.len() + rest.len()), &half);
    let chunked = failing("Transfer-Encoding: chunked", "5\r\nhe");
    for pieces in [
        [failing("Content-Length: 8", "half"), b"half".to_vec()],
        [failing("Content-Length: 8", ""), b"all of it"[..8].to_vec()],
        [much, rest.into_bytes()],
        [chunked, b"llo\r\n3\r\nyou\r\n0\r\nX-Trailer: 1\r\n\r\n".to_vec()],
    ] {
        both(|cores| {
            let pair = Pair::start(pieces.clone(), cores);
            let mut client = pair.proxy.connect();
            for _ in 0..ROUNDS {
                pair.fail_once(&mut client);
                let attempts = (pair.asked() + pair.good.requests().len()) as u64;
                pair.proxy.metrics_when(
                    "all are in the pool but those that were late",
                    |metrics| {
                        let of = |key: &str| metrics.get(&format!("{CLIENT}/{key}"));
                        let open = pair.good.accepted() + pair.bad.accepted() - pair.gone();
                        (of("requests"), of("pending")) == (attempts, 0)
                            && of("pool_cached") == open as u64
                    },
                );
            }
            let accepted = pair.bad.accepted();
            assert!(accepted <= ROUNDS / 2, "{accepted} connections for {ROUNDS} answers");
            pair.proxy.metrics().check_conservation();
        });
    }
}

#[test]
fn what_cannot_be_used_again_is_closed() {
    let half = failing("Content-Length: 8", "half");
    let large = vec![b'x'; 10 << 20];
    let is_large = failing("Content-Length: 10485764", "half");
    let says_close = failing("Content-Length: 8\r\nConnection: close", "half");
    let chunked = failing("Transfer-Encoding: chunked", "5\r\nhe");
    let cases = [
        ("10 MB", is_large, large.clone()),
        ("10 MB in chunks", failing("Transfer-Encoding: chunked", "A00000\r\n"), large.clone()),
        ("small chunks without end", chunked.clone(), b"llo\r\n".repeat(8_000)),
        ("an endless one", failing("X: 1", "half"), large),
        ("a byte too many", half.clone(), b"halfx".to_vec()),
        ("a byte too many, at once", failing("Content-Length: 4", "halfx"), Vec::new()),
        ("another answer", half.clone(), [b"half".to_vec(), ok("")].concat()),
        ("no chunk", chunked, b"llo\n".to_vec()),
        ("it closes", says_close, b"half".to_vec()),
        ("the rest does not come", half, Vec::new()),
    ];
    for (case, first, second) in cases {
        eprintln!("{case}");
        let pair = Pair::start([first, second], "0");
        let mut client = pair.proxy.connect();
        for number in 1..=3 {
            pair.fail_once(&mut client);
            eventually("its connection is closed", || pair.gone() == number);
            assert_eq!(pair.bad.accepted(), number, "{case}: one each");
        }
        pair.proxy.metrics_when("nothing is held", |metrics| {
            let of = |key: &str| metrics.get(&format!("{CLIENT}/{key}"));
            of("pool_cached") == 1 && of("connects") - of("closes") == 1
        });
    }
}

#[test]
fn a_request_that_did_not_leave_whole_spends_its_connection() {
    let (ended, has_ended) = mpsc::channel();
    let bad = Origin::start(move |mut wire, _| {
        wire.head();
        wire.take(4).expect("the half of its body");
        wire.send(failing("Content-Length: 2", "no"));
        let rest = wire.some();
        ended.send(rest.is_ok_and(|rest| !rest.is_empty())).expect("the test looks");
    });
    let good = Origin::answering(|request| ok(&request.body));
    let rules = "balancer: {kind: round_robin}\n\
                 retries: {classifier: retryable_all_5xx, budget: {percent: 1000}}";
    let proxy = start(&[&bad, &good], rules, "0");
    let mut client = proxy.connect();
    while bad.accepted() == 0 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf");
        let is_there = || good.accepted() + bad.accepted() > 0;
        eventually("an endpoint has the half", is_there);
        if bad.accepted() > 0 {
            assert!(!has_ended.recv_timeout(DEADLINE).expect("it is closed"), "and nothing more");
        }
        client.send("half");
        assert_eq!(client.answer().text(), "halfhalf");
    }
    assert_eq!(good.last_request().body, b"halfhalf");
}

/// An origin that sends the first piece, and the second when it is told to. The last answer of the
/// function: its ended connections.
fn in_two(pieces: [Vec<u8>; 2], told: Receiver<()>) -> (Origin, Arc<AtomicUsize>) {
    let (told, gone) = (std::sync::Mutex::new(told), Arc::<AtomicUsize>::default());
    let ends = gone.clone();
    let origin = Origin::start(move |mut wire, _| {
        while let Ok(Some(_)) = wire.request() {
            let _ = wire.try_send(&pieces[0]);
            let told = told.lock().unwrap().recv_timeout(DEADLINE);
            if told.is_err() || wire.try_send(&pieces[1]).is_err() {
                break;
            }
        }
        ends.fetch_add(1, Ordering::SeqCst);
    });
    (origin, gone)
}

#[test]
fn a_client_that_leaves_a_small_rest_behind_costs_no_connection() {
    both(|cores| {
        let (tell, told) = mpsc::channel();
        let answer = ok("halfhalf");
        let (half, rest) = answer.split_at(answer.len() - 4);
        let (origin, gone) = in_two([half.to_vec(), rest.to_vec()], told);
        let proxy = start(&[&origin], "", cores);
        for number in 0..ROUNDS {
            let before = gone.load(Ordering::SeqCst);
            let mut client = proxy.connect();
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            client.head();
            client.take(4).expect("the half");
            client.reset();
            proxy.metrics_when("it is gone", |metrics| {
                metrics.get(&format!("{CLIENT}/requests")) == number as u64 + 1
                    && metrics.get(&format!("{CLIENT}/pending")) == 0
            });
            tell.send(()).expect("the origin is there");
            // One for each shard that has had one, unless it was late.
            proxy.metrics_when("it is in the pool, or was late", |metrics| {
                let cached = metrics.get(&format!("{CLIENT}/pool_cached")) as usize;
                let late = gone.load(Ordering::SeqCst);
                cached + late == origin.accepted() || late > before
            });
        }
        let accepted = origin.accepted();
        assert!(accepted <= ROUNDS / 2 + 4, "{accepted} connections for {ROUNDS} clients");
        proxy.metrics().check_conservation();
    });
}

/// What an origin does with a connection until it sees its end, and when it saw that.
fn watching(serve: impl Fn(&mut Wire) + Send + Sync + 'static) -> (Origin, Receiver<Instant>) {
    let (ended, has_ended) = mpsc::channel();
    let origin = Origin::start(move |mut wire, _| {
        serve(&mut wire);
        while wire.some().is_ok_and(|bytes| !bytes.is_empty()) {}
        ended.send(Instant::now()).expect("the test looks");
    });
    (origin, has_ended)
}

#[test]
fn a_client_that_goes_frees_its_endpoint_at_once() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    const HALF: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf";
    type Does = fn(&mut Wire);
    let silent: Does = |_| {};
    let large: Does = |wire| {
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
    };
    // A client that closes is told of as it is: the endpoint sees its end, and may answer.
    for (case, request, serve, awaits_answer, resets) in [
        ("it waits for an answer", GET, silent, false, true),
        ("it uploads", HALF, silent, false, true),
        ("it downloads", GET, large, true, true),
        ("it closes and does not reset", GET, silent, false, false),
    ] {
        both(|cores| {
            eprintln!("{case}");
            let (origin, has_ended) = watching(serve);
            let proxy = start(&[&origin], "", cores);
            let mut client = proxy.connect();
            client.send(request);
            eventually("the endpoint is at work", || load(&proxy) == 1);
            if awaits_answer {
                client.head();
                client.take(4).expect("a part");
            }
            let left = Instant::now();
            if resets {
                client.reset();
            } else {
                drop(client);
            }
            let ended = has_ended.recv_timeout(DEADLINE).expect("its connection is closed");
            let took = ended.saturating_duration_since(left);
            assert!(took < Duration::from_secs(1), "{case}: {took:?}");
            eventually("nothing is under way there", || load(&proxy) == 0);
            let metrics = proxy.metrics_when("it is counted", |metrics| {
                metrics.get(&format!("{CLIENT}/pending")) == 0
            });
            assert_eq!(metrics.get(&format!("{CLIENT}/pool_cached")), 0);
            metrics.check_conservation();
        });
    }
}

#[test]
fn a_drain_waits_no_longer_for_a_rest_than_that_takes() {
    let (tell, told) = mpsc::channel::<()>();
    let answer = ok("halfhalf");
    let (half, rest) = answer.split_at(answer.len() - 4);
    let (origin, _) = in_two([half.to_vec(), rest.to_vec()], told);
    let yaml = config(&[origin.address], "", "");
    let yaml = format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}");
    let proxy = Proxy::start_with("drain_ms: 60000", &yaml, "0");
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.head();
    client.take(4).expect("the half");
    client.reset();
    proxy.metrics_when("it is gone", |metrics| {
        metrics.get(&format!("{CLIENT}/requests")) == 1
            && metrics.get(&format!("{CLIENT}/pending")) == 0
    });
    let began = Instant::now();
    proxy.stop();
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    drop(tell);
}
