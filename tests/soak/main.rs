//! The soak: the real proxy under everything at once for an hour (`RINGLANE_SOAK_SECS`; three
//! minutes by default): healthy clients of every kind, clients and origins that do everything
//! wrong, reloads, scrapes of every admin page, statsd and a collector of spans. It is about what
//! is left behind, not about speed, so the rate is about half a core in all.
//!
//! The base is taken after the same traffic for a while and a tide that fills whatever is kept for
//! use again; after the run everything must be back there, no request of a healthy client may be
//! lost, and requests are conserved.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod figures;
mod healthy;
#[path = "../common/narrow.rs"]
mod narrow;
mod origins;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{
    Collector, Metrics, Origin, Pattern, Proxy, Rng, Wire, eventually, eventually_within, four,
    refusing,
};
use figures::Figures;
use healthy::Outcome;

const DEFAULT_SECS: u64 = 180;
/// The same traffic before the base is taken.
const WARM_UP: Duration = Duration::from_secs(30);
/// Or this part of the time that follows: what grows towards a bound has come near it by then.
const WARM_UP_PART: u32 = 12;
/// How long what is left of the traffic may take to go: the longest timeout here and some more.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Distributions of the last minute go with it.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(90);
const RELOAD_EVERY: Duration = Duration::from_secs(2);
const SCRAPE_EVERY: Duration = Duration::from_millis(150);
/// All that is shown to whoever asks; `/metrics` in each format.
const PAGES: [&str; 14] = [
    "/admin",
    "/admin/ping",
    "/admin/ready",
    "/admin/server_info",
    "/admin/config.json",
    "/admin/metrics.json?pretty&window=total",
    "/admin/metrics.json?q=rt/http/server&tree",
    "/admin/metrics/influxdb",
    "/admin/clients.json",
    "/admin/shards.json",
    "/admin/requests.json",
    "/admin/route?method=GET&host=h&path=/web/x",
    "/admin/logging",
    "/admin/tracing",
];
const FORMATS: [&str; 3] = [
    "text/plain",
    "application/openmetrics-text; version=1.0.0",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
];

/// A kind of client: one round of it, on the connection that it has kept.
type Round = fn(&Load, &mut Option<Wire>, &mut Rng) -> Outcome;

/// How many of each there are, and how long they wait between rounds.
const HEALTHY: [(Round, u64, u64); 10] = [
    (healthy::keep_alive, 4, 8),
    (healthy::bodies, 2, 60),
    (healthy::pipelined, 1, 40),
    (healthy::churn, 2, 20),
    (healthy::slow_reader, 1, 100),
    (healthy::half_close, 1, 50),
    (healthy::tunnel, 1, 100),
    (healthy::interim, 1, 50),
    (healthy::second_listener, 1, 50),
    (faults::dribbles, 1, 100),
];
const FAULTS: [(Round, u64, u64); 7] = [
    (faults::malformed, 1, 30),
    (faults::bombs, 1, 200),
    (faults::resets, 2, 50),
    (faults::failures, 2, 40),
    (faults::timeouts, 1, 100),
    (faults::crowds, 1, 250),
    (faults::silence, 6, 100),
];

/// What clients are told, and what they count.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) pattern: Arc<Pattern>,
    /// The listener that comes and goes.
    second: Mutex<Option<SocketAddr>>,
    requests: AtomicU64,
    faults: AtomicU64,
    reloads: AtomicU64,
    scrapes: AtomicU64,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Load {
    pub(crate) fn second(&self) -> Option<SocketAddr> {
        *self.second.lock().unwrap()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn says(&self, wrong: String) {
        eprintln!("wrong: {wrong}");
        self.wrong.lock().unwrap().push(wrong);
    }
}

/// Everything around the proxy.
struct House {
    proxy: Arc<Proxy>,
    load: Arc<Load>,
    origins: Vec<Origin>,
    refusing: SocketAddr,
    spans: SocketAddr,
    statsd: SocketAddr,
    /// What the first configuration looked like is what the last one does.
    reloads: AtomicU64,
}

#[test]
#[ignore = "an hour, or three minutes, of a release build"]
fn an_hour_leaves_nothing_behind() {
    let secs = std::env::var("RINGLANE_SOAK_SECS").ok().and_then(|it| it.parse().ok());
    let secs = secs.unwrap_or(DEFAULT_SECS);
    let pattern = Arc::new(Pattern::new(Rng::seeded().next()));
    let origins = vec![
        origins::steady(&pattern),
        origins::steady(&pattern),
        origins::steady(&pattern),
        origins::failing(&pattern),
    ];
    let (_socket, refusing) = refusing();
    let batches = Arc::default();
    let spans = origins::collector(&batches);
    let statsd = Collector::start(UdpSocket::bind("127.0.0.1:0").expect("a port"));
    let house = House::build(pattern, origins, refusing, spans.address, statsd.address);
    let lasts = Duration::from_secs(secs);
    house.run(WARM_UP.max(lasts / WARM_UP_PART), false);
    house.tide();
    let base = house.quiet();
    let counted = [&house.load.requests, &house.load.faults].map(|it| it.swap(0, Ordering::SeqCst));
    eprintln!(
        "warm: {} requests, {} faults; the base is {:?}",
        counted[0], counted[1], base.values
    );
    house.run(lasts, true);
    let metrics = house.at_rest();
    let end = house.returned(&base);
    house.report(secs, &base, &end, &metrics);
    assert!(batches.load(Ordering::SeqCst) > 0, "no span has come");
    assert!(statsd.finish().at("rt/http/service/web/requests") > 0, "no count has come");
    drop(spans);
    Arc::into_inner(house.proxy).expect("nobody else has it").stop();
}

impl House {
    fn build(
        pattern: Arc<Pattern>,
        origins: Vec<Origin>,
        refusing: SocketAddr,
        spans: SocketAddr,
        statsd: SocketAddr,
    ) -> House {
        let yaml = configuration(&origins, refusing, spans, statsd, false);
        let proxy = Proxy::start_from_file(&yaml, four());
        let load = Load {
            address: proxy.address,
            pattern,
            second: Mutex::new(None),
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            scrapes: AtomicU64::new(0),
            wrong: Mutex::default(),
            over: AtomicBool::new(false),
        };
        let (proxy, load) = (Arc::new(proxy), Arc::new(load));
        House { proxy, load, origins, refusing, spans, statsd, reloads: AtomicU64::new(0) }
    }

    /// Traffic for that long, and then none.
    fn run(&self, lasts: Duration, tells: bool) {
        self.load.over.store(false, Ordering::SeqCst);
        let (began, mut told) = (Instant::now(), 0);
        let threads = self.clients();
        let scraping = self.scrape();
        while began.elapsed() < lasts {
            self.reload();
            thread::park_timeout(RELOAD_EVERY.min(lasts.saturating_sub(began.elapsed())));
            let minutes = began.elapsed().as_secs() / 60;
            if tells && minutes > told {
                told = minutes;
                let load = &self.load;
                let [requests, faults] =
                    [&load.requests, &load.faults].map(|it| it.load(Ordering::SeqCst));
                let figures = Figures::of(&self.proxy);
                eprintln!(
                    "{minutes} min: {requests} requests, {faults} faults, {:?}",
                    figures.values
                );
            }
        }
        self.load.over.store(true, Ordering::SeqCst);
        threads.into_iter().chain([scraping]).for_each(|it| it.join().expect("none panics"));
        // To what it was at first.
        if self.reloads.load(Ordering::SeqCst) % 2 == 1 {
            self.reload();
        }
    }

    fn clients(&self) -> Vec<JoinHandle<()>> {
        let mut threads = Vec::new();
        let kinds = HEALTHY.iter().map(|it| (it, true)).chain(FAULTS.iter().map(|it| (it, false)));
        for (&(round, count, pause_ms), is_healthy) in kinds {
            for _ in 0..count {
                let (load, seed) = (self.load.clone(), 2 * threads.len() as u64 + 1);
                threads
                    .push(thread::spawn(move || client(&load, round, pause_ms, is_healthy, seed)));
            }
        }
        threads
    }

    /// Changes the configuration, by a signal and by admin in turn, and waits until it holds.
    fn reload(&self) {
        let number = self.reloads.fetch_add(1, Ordering::SeqCst) + 1;
        let more = number % 2 == 1;
        let yaml = configuration(&self.origins, self.refusing, self.spans, self.statsd, more);
        // Before it goes: who connects from here on may be refused.
        *self.load.second.lock().unwrap() = None;
        if (number / 2).is_multiple_of(2) {
            self.proxy.reload(&yaml);
        } else {
            self.proxy.rewrite(&yaml);
            self.proxy.signal("HUP");
        }
        let mut listeners = Vec::new();
        eventually("the reload holds", || {
            listeners = self.proxy.listeners();
            listeners.len() == 1 + usize::from(more)
        });
        *self.load.second.lock().unwrap() = listeners.get(1).copied();
        self.load.reloads.fetch_add(1, Ordering::SeqCst);
    }

    fn scrape(&self) -> JoinHandle<()> {
        let (load, admin) = (self.load.clone(), self.proxy.admin);
        thread::spawn(move || {
            let mut number = 0;
            while !load.is_over() {
                let accept = FORMATS[number % FORMATS.len()];
                for page in [PAGES[number % PAGES.len()], "/metrics"] {
                    let mut wire = Wire::connect(admin);
                    let gzip =
                        if number.is_multiple_of(2) { "Accept-Encoding: gzip\r\n" } else { "" };
                    wire.send(format!(
                        "GET {page} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n{gzip}\r\n"
                    ));
                    let answer = wire.try_answer_to("GET");
                    if !answer.as_ref().is_ok_and(|answer| answer.status() == 200) {
                        load.says(format!("{page}: {answer:?}"));
                    }
                    load.scrapes.fetch_add(1, Ordering::SeqCst);
                }
                number += 1;
                thread::park_timeout(SCRAPE_EVERY);
            }
        })
    }

    /// Fills what is kept for use again, so that it is in the base: more streams of each size at
    /// once than shards keep buffers for, and more connections than there will be.
    fn tide(&self) {
        const STREAMS: usize = 150;
        for bytes in [3_000_u64, 12_000, 100_000, 2_000_000] {
            let clients = (0..STREAMS).map(|_| {
                let address = self.load.address;
                thread::spawn(move || {
                    let mut wire = Wire::connect(address);
                    // What is too slow for the stall timeout here has been a part of the tide.
                    let head = format!("GET /web/c/{bytes} HTTP/1.1\r\nHost: h\r\n\r\n");
                    if wire.try_send(head).and_then(|()| wire.try_answer_to("GET")).is_err() {
                        return wire;
                    }
                    let pad = "p".repeat(14_000);
                    let head = format!("GET /web/n/2 HTTP/1.1\r\nHost: h\r\nPad: {pad}\r\n");
                    let _ = wire.try_send(head);
                    wire
                })
            });
            let clients: Vec<JoinHandle<Wire>> = clients.collect();
            let clients = clients.into_iter().map(|it| it.join().expect("it is answered"));
            for mut wire in clients.collect::<Vec<Wire>>() {
                // Some have not been in time with the rest of their heads.
                if wire.try_send("\r\n").is_ok() {
                    let _ = wire.try_answer_to("GET");
                }
            }
        }
    }

    /// The figures once nothing is under way and they have stood still for a while.
    fn quiet(&self) -> Figures {
        let mut figures = Figures::of(&self.proxy);
        eventually_within(QUIET_WITHIN, "nothing is under way", || {
            thread::park_timeout(Duration::from_millis(200));
            figures = Figures::of(&self.proxy);
            figures.is_quiet()
        });
        let (mut since, ends) = (Instant::now(), Instant::now() + FORGOTTEN_WITHIN);
        while since.elapsed() < Duration::from_secs(8) && Instant::now() < ends {
            thread::park_timeout(Duration::from_millis(500));
            let now = Figures::of(&self.proxy);
            if !now.is_quiet() {
                continue;
            }
            if !figures.grown(&now).is_empty() || now.series.len() < figures.series.len() {
                since = Instant::now();
            }
            figures = now;
        }
        figures
    }

    /// The counts once everybody is gone; requests are conserved.
    fn at_rest(&self) -> Metrics {
        eventually_within(QUIET_WITHIN, "nothing is under way", || {
            thread::park_timeout(Duration::from_millis(200));
            Figures::of(&self.proxy).is_quiet()
        });
        let metrics = self.proxy.metrics();
        // An endpoint that comes and goes takes its series with it.
        metrics.check_conservation_without_endpoints();
        metrics
    }

    /// The figures once they are back at `base`, or what they are after all that time.
    fn returned(&self, base: &Figures) -> Figures {
        let ends = Instant::now() + FORGOTTEN_WITHIN;
        loop {
            let now = Figures::of(&self.proxy);
            if now.is_quiet() && now.grown(base).is_empty() || Instant::now() > ends {
                return now;
            }
            thread::park_timeout(Duration::from_millis(500));
        }
    }

    fn report(&self, secs: u64, base: &Figures, end: &Figures, metrics: &Metrics) {
        let load = &self.load;
        eprintln!("\n| figure | base | after {secs} s |\n|---|---|---|");
        for (name, value) in &end.values {
            eprintln!("| {name} | {} | {value} |", base.get(name));
        }
        let grown = end.grown(base);
        let wrong = load.wrong.lock().unwrap();
        let [requests, faults, reloads, scrapes] =
            [&load.requests, &load.faults, &load.reloads, &load.scrapes]
                .map(|it| it.load(Ordering::SeqCst));
        eprintln!(
            "soak: {secs} s, {requests} requests, {faults} faults, {reloads} reloads, \
             {scrapes} scrapes, {} leaks",
            grown.len()
        );
        assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
        assert!(grown.is_empty(), "{grown:#?}");
        // Each of them has really been there.
        for (service, key) in [
            ("web", "success"),
            ("flaky", "retries/total"),
            ("flaky", "failures/upstream_status"),
            ("alone", "failures/upstream_reset"),
            ("hasty", "failures/attempt_timeout"),
            ("few", "failures/overloaded"),
        ] {
            let name = format!("rt/http/service/{service}/{key}");
            assert!(metrics.get(&name) > 0, "{name} never happened");
        }
        let log = self.proxy.log();
        let panicked = log.iter().find(|line| line.contains("panicked"));
        assert_eq!(panicked, None);
    }
}

fn client(load: &Load, round: Round, pause_ms: u64, is_healthy: bool, seed: u64) {
    let mut rng = Rng::from(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut wire = None;
    while !load.is_over() {
        match round(load, &mut wire, &mut rng) {
            Ok(count) if is_healthy => drop(load.requests.fetch_add(count, Ordering::SeqCst)),
            Ok(count) => drop(load.faults.fetch_add(count, Ordering::SeqCst)),
            Err(why) => {
                wire = None;
                load.says(why);
            }
        }
        // The pace of the load, and no waiting for something to happen.
        thread::park_timeout(Duration::from_millis(pause_ms));
    }
}

/// One of two configurations: the one has a listener, an endpoint, a service and a route more, and
/// other numbers.
fn configuration(
    origins: &[Origin],
    refusing: SocketAddr,
    spans: SocketAddr,
    statsd: SocketAddr,
    more: bool,
) -> String {
    let [a, b, c, failing] = [0, 1, 2, 3].map(|at: usize| origins[at].address);
    let second = if more { ", {port: 0}" } else { "" };
    let third = if more { format!(", \"{c}\"") } else { String::new() };
    let weight = if more { 3 } else { 1 };
    let balancer = if more { "ewma" } else { "least_loaded" };
    let (route, extra) = match more {
        true => (
            "\n  - {path_prefix: /extra, service: extra}",
            format!(
                "\n  extra: {{endpoints: [\"{c}\"], health_check: {{kind: tcp, interval_ms: 300}}}}"
            ),
        ),
        false => ("", String::new()),
    };
    format!(
        "telemetry:
  flush_interval_ms: 200
  series_ttl_ms: 1000
  exporters:
  - {{kind: statsd, address: \"{statsd}\", interval_ms: 500}}
  - {{kind: zipkin, endpoint: \"http://{spans}/api/v2/spans\", sample_rate: 0.05}}
  - {{kind: recent_requests, capacity: 100}}
routers:
- label: http
  servers: [{{port: 0}}{second}]
  routes:
  - {{path_prefix: /web, service: web}}
  - {{path_prefix: /flaky, service: flaky}}
  - {{path_prefix: /alone, service: alone}}
  - {{path_prefix: /hasty, service: hasty}}
  - {{path_prefix: /few, service: few}}{route}
  timeouts: {{head_timeout_ms: 5000, idle_timeout_ms: 10000, stall_timeout_ms: 6000,
             linger_ms: 300, tunnel_timeout_ms: 5000}}
  max_body_bytes: 8388608
services:
  web:
    endpoints: [\"{a}\", {{address: \"{b}\", weight: {weight}}}{third}]
    balancer: {{kind: {balancer}}}
    pool: {{max_idle: 64, idle_ms: 1000}}
  flaky:
    endpoints: [\"{failing}\", \"{refusing}\", \"{a}\"]
    balancer: {{kind: round_robin}}
    pool: {{idle_ms: 1000}}
    timeouts: {{connect_ms: 500, attempt_ms: 300, request_ms: 5000}}
    failure_accrual: {{failures: 20, min_ejection_ms: 300, max_ejection_ms: 600}}
    retries: {{classifier: retryable_all_5xx, budget: {{percent: 50}},
              backoff: {{kind: jittered, min_ms: 2, max_ms: 40}}, replay_buffer_bytes: 16384}}
  alone:
    endpoints: [\"{failing}\"]
    pool: {{idle_ms: 1000}}
    timeouts: {{attempt_ms: 400}}
    failure_accrual: {{failures: 5, min_ejection_ms: 200, max_ejection_ms: 400,
                      max_ejected_percent: 100}}
  hasty:
    endpoints: [\"{a}\"]
    pool: {{idle_ms: 1000}}
    timeouts: {{attempt_ms: 300}}
    failure_accrual: {{kind: none}}
  few:
    endpoints: [\"{a}\", \"{b}\"]
    pool: {{idle_ms: 1000}}
    limits: {{max_concurrent: 4, max_queue: 4, queue_timeout_ms: 200}}{extra}
"
    )
}
