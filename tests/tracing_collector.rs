//! A collector that is away, slow, or refuses: requests go on as if it were there, memory stays
//! within the queue's bound, and every span is either sent or counted as dropped.

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Metrics, Origin, Proxy, Wire, both, config, eventually, four, ok, sanitizer_kib};
use serde_json::Value;

const SENT: &str = "telemetry/spans_sent/zipkin";
const DROPPED: &str = "telemetry/spans_dropped/zipkin";
/// Spans that wait for the collector.
const QUEUE: u64 = 2_000;

/// What a collector does with the spans that it is sent.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Mode {
    Takes,
    Fails,
    Stalls,
    /// Closes every connection.
    IsGone,
}

/// Zipkin's collector, as far as exporters know it.
struct Collector {
    origin: Origin,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mode: AtomicU8,
    spans: Mutex<Vec<Value>>,
}

impl Collector {
    fn start() -> Collector {
        let state = Arc::new(State::default());
        let serving = state.clone();
        let origin = Origin::start(move |mut wire, _| {
            while let Ok(Some(request)) = wire.request() {
                if serving.is(Mode::Stalls) {
                    eventually("the collector goes on", || !serving.is(Mode::Stalls));
                    // Whoever asked has gone meanwhile.
                    return;
                }
                if serving.is(Mode::IsGone) {
                    return;
                }
                let is_taken = !serving.is(Mode::Fails);
                if is_taken {
                    assert_eq!(request.head.target(), "/api/v2/spans");
                    let spans = serde_json::from_slice::<Vec<Value>>(&request.body);
                    serving.spans.lock().unwrap().extend(spans.expect("a list of spans"));
                }
                let status = if is_taken { "202 Accepted" } else { "500 No" };
                wire.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
            }
        });
        Collector { origin, state }
    }

    fn set(&self, mode: Mode) {
        self.state.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// All spans that it has taken.
    fn spans(&self) -> Vec<Value> {
        self.state.spans.lock().unwrap().clone()
    }
}

impl State {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }
}

fn start(origin: &Origin, collector: SocketAddr, cores: &str) -> Proxy {
    let yaml = config(&[origin.address], "", "");
    let telemetry = format!(
        "telemetry:\n  flush_interval_ms: 20\n  tracing: {{max_spans_per_sec: 0}}\n  exporters:\n  \
         - {{kind: zipkin, endpoint: \"http://{collector}/api/v2/spans\", sample_rate: 1.0, \
         queue_spans: {QUEUE}, timeout_ms: 1500}}\n"
    );
    Proxy::start(&format!("{telemetry}{yaml}"), cores)
}

/// So many requests over some connections at once; how long the slowest took.
fn load(proxy: &Proxy, requests: usize) -> Duration {
    const CLIENTS: usize = 8;
    std::thread::scope(|scope| {
        let client = || {
            let mut wire = proxy.connect();
            let mut slowest = Duration::ZERO;
            for _ in 0..requests / CLIENTS {
                let began = Instant::now();
                assert_eq!(wire.get("/").status(), 200);
                slowest = slowest.max(began.elapsed());
            }
            slowest
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().filter_map(|it| it.join().ok()).max().expect("no client has failed")
    })
}

fn recorded(metrics: &Metrics) -> u64 {
    metrics.get("telemetry/spans_recorded")
}

#[test]
fn spans_arrive_as_a_tree_that_zipkin_takes() {
    both(|cores| {
        let (origin, collector) = (Origin::answering(|_| ok("fine")), Collector::start());
        let proxy = start(&origin, collector.origin.address, cores);
        load(&proxy, 80);
        eventually("all spans arrive", || collector.spans().len() == 160);
        let spans = collector.spans();
        let of_kind = |kind: &str| -> Vec<&Value> {
            spans.iter().filter(|span| span["kind"] == kind).collect()
        };
        let (servers, clients) = (of_kind("SERVER"), of_kind("CLIENT"));
        assert_eq!((servers.len(), clients.len()), (80, 80));
        let ids: HashSet<&str> = spans.iter().filter_map(|span| span["id"].as_str()).collect();
        assert_eq!(ids.len(), 160, "ids differ");
        for client in clients {
            let is_parent = |server: &&&Value| {
                server["id"] == client["parentId"] && server["traceId"] == client["traceId"]
            };
            let server = servers.iter().find(is_parent).expect("its parent has arrived too");
            assert_eq!(server.get("parentId"), None);
            assert_eq!(client["remoteEndpoint"]["port"], origin.address.port());
            assert_eq!(client["localEndpoint"]["serviceName"], "http");
            assert_eq!(client["remoteEndpoint"]["serviceName"], "web");
            let end = |span: &Value| {
                span["timestamp"]
                    .as_u64()
                    .zip(span["duration"].as_u64())
                    .map(|(at, took)| at + took)
            };
            assert!(client["timestamp"].as_u64() >= server["timestamp"].as_u64());
            assert!(end(client) <= end(server).map(|end| end + 1), "{client} {server}");
        }
        let metrics = proxy.metrics_when("all are counted", |it| it.get(SENT) == 160);
        assert_eq!((recorded(&metrics), metrics.get(DROPPED)), (160, 0));
    });
}

#[test]
fn a_collector_in_trouble_costs_requests_nothing_and_every_span_is_accounted_for() {
    for cores in ["0", four()] {
        let origin = Origin::answering(|_| ok("fine"));
        let collector = Collector::start();
        let proxy = start(&origin, collector.origin.address, cores);
        const REQUESTS: usize = 3_200;
        load(&proxy, REQUESTS);
        let all = |phases: usize| (2 * phases * REQUESTS) as u64;
        proxy.metrics_when("spans arrive", |it| it.get(SENT) + it.get(DROPPED) == all(1));
        let taken = collector.spans().len();
        let before = proxy.memory().resident;
        let warnings = || proxy.log().iter().filter(|line| line.contains("WARN")).count();
        let warned = warnings();
        for (phase, mode) in [(2, Mode::Fails), (3, Mode::Stalls), (4, Mode::IsGone)] {
            collector.set(mode);
            let slowest = load(&proxy, REQUESTS);
            assert!(slowest < Duration::from_secs(1), "{slowest:?}");
            let metrics = proxy.metrics_when("what finds no room is dropped", |it| {
                recorded(it) == all(phase) && it.get(DROPPED) + it.get(SENT) + QUEUE >= all(phase)
            });
            assert!(metrics.get(DROPPED) + metrics.get(SENT) < all(phase), "some wait");
        }
        assert_eq!(collector.spans().len(), taken, "nobody took any");
        let grown = proxy.memory().resident.saturating_sub(before);
        // What waits is 2,000 spans of some 400 bytes; the rest is slack of the allocator.
        assert!(grown < (32 << 10) + sanitizer_kib(), "{grown} KiB");
        assert_eq!(warnings(), warned + 1, "said once while it lasts: {:#?}", proxy.log());
        collector.set(Mode::Takes);
        load(&proxy, 800);
        let metrics = proxy.metrics_when("all spans are sent or dropped", |it| {
            it.get(SENT) + it.get(DROPPED) == all(4) + 1_600
        });
        assert_eq!(recorded(&metrics), all(4) + 1_600);
        let arrived = collector.spans().len();
        assert!(arrived > taken, "it takes spans again");
        assert_eq!(arrived as u64, metrics.get(SENT), "what is said to be sent is there, once");
    }
}

#[test]
fn spans_on_their_way_are_sent_before_the_process_ends() {
    let (origin, collector) = (Origin::answering(|_| ok("fine")), Collector::start());
    let yaml = config(&[origin.address], "", "");
    let endpoint = format!("http://{}/api/v2/spans", collector.origin.address);
    // Nothing would leave by itself for a minute.
    let proxy = Proxy::start(
        &format!(
            "telemetry: {{flush_interval_ms: 60000, exporters: [{{kind: zipkin, sample_rate: 1.0, \
             endpoint: \"{endpoint}\"}}]}}\n{yaml}"
        ),
        "0",
    );
    load(&proxy, 16);
    proxy.stop();
    assert_eq!(collector.spans().len(), 32);
}

#[test]
fn what_a_collector_refuses_is_dropped_and_said_once() {
    let origin = Origin::answering(|_| ok("fine"));
    let collector = Origin::answering(|_| {
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\nnot like\n".to_vec()
    });
    let proxy = start(&origin, collector.address, "0");
    load(&proxy, 400);
    let metrics = proxy.metrics_when("all are dropped", |it| it.get(DROPPED) == 800);
    assert_eq!(metrics.get(SENT), 0);
    assert!(metrics.get("telemetry/export_failures/zipkin") > 0);
    let warnings = proxy.log().iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "{:#?}", proxy.log());
    let _: Wire = proxy.connect();
}
