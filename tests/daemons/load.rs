//! A proxy under a load that brings every kind of series, until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::{Metrics, Origin, Proxy, Rng, Wire, ok};

const CLIENTS: u64 = 8;
/// A client's connections end after so many requests, so that connections have durations.
const PER_CONNECTION: usize = 20;
/// The origin works for up to this long, evenly spread: a percentile has close neighbours then,
/// and does not depend on how it is interpolated.
const MOST_WORK_US: u64 = 30_000;

pub(crate) struct Load {
    pub(crate) proxy: Proxy,
    clients: Clients,
    _origin: Origin,
}

struct Clients {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `exporters`: entries of `telemetry.exporters` besides those that are always there.
    pub(crate) fn start(exporters: &str) -> Load {
        let origin = origin();
        // A port that was free a moment ago: whoever connects there is refused.
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let yaml = format!(
            "telemetry: {{flush_interval_ms: 100, exporters: [{exporters}]}}\n\
             routers:\n\
             - label: http\n  servers: [{{port: 0}}]\n  routes:\n  \
               - {{path_prefix: /web, service: web}}\n  \
               - {{path_prefix: /dead, service: dead}}\n\
             services:\n  web: {{endpoints: [\"{}\"]}}\n  dead: {{endpoints: [\"{dead}\"]}}\n",
            origin.address
        );
        let proxy = Proxy::start(&yaml, "0,0");
        let done = Arc::new(AtomicBool::new(false));
        let seed = Rng::seeded().next();
        let client = |number| {
            let (done, address) = (done.clone(), proxy.address);
            let mut rng = Rng::from(seed.wrapping_add(2 * number));
            thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    visit(Wire::connect(address), &mut rng);
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Load { proxy, clients: Clients { done, threads }, _origin: origin }
    }

    /// Ends the load, and waits until the proxy has told all of it; its totals then.
    pub(crate) fn end(&mut self) -> Metrics {
        self.clients.done.store(true, Ordering::SeqCst);
        let threads = self.clients.threads.drain(..);
        threads.for_each(|client| client.join().expect("clients do not fail"));
        let gone = format!("{}/connections", self.proxy.server(0));
        self.proxy.metrics_when("everybody is gone", |metrics| {
            let pending = metrics.between("", "/pending");
            metrics.get(&gone) == 0 && pending.iter().all(|(_, count)| *count == 0)
        });
        self.totals()
    }

    /// With distributions since the start, as other monitoring has them.
    pub(crate) fn totals(&self) -> Metrics {
        let answer = Wire::connect(self.proxy.admin).get("/admin/metrics.json?window=total");
        assert_eq!(answer.status(), 200, "{answer:?}");
        Metrics(serde_json::from_slice(&answer.body).expect("numbers by name"))
    }

    /// `/metrics` in the format that is asked for.
    pub(crate) fn page(&self, accept: &str) -> String {
        let mut wire = Wire::connect(self.proxy.admin);
        wire.send(format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n"));
        let answer = wire.answer();
        assert_eq!(answer.status(), 200, "{answer:?}");
        let content_type = answer.head.get("content-type").unwrap_or_default();
        assert!(content_type.starts_with(accept), "{content_type} for {accept}");
        answer.text()
    }
}

/// A test that fails leaves no load behind.
impl Drop for Clients {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
    }
}

fn visit(mut wire: Wire, rng: &mut Rng) {
    for _ in 0..PER_CONNECTION {
        let path = match rng.up_to(20) {
            1 => "/web/fail",
            2 => "/dead",
            3 => "/nowhere",
            _ => "/web/work",
        };
        let body = "a".repeat(rng.up_to(2_000) as usize);
        let length = body.len();
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let answer = wire.try_answer_to("POST").expect("an answer");
        if answer.head.get("connection") == Some("close") {
            return;
        }
    }
}

fn origin() -> Origin {
    Origin::start(|mut wire, number| {
        let mut rng = Rng::from(number as u64 * 7919 + 1);
        // The first numbers of a small seed are small themselves.
        for _ in 0..16 {
            rng.next();
        }
        while let Ok(Some(request)) = wire.request() {
            if request.head.target() == "/web/fail" {
                // Closed, so that connections to upstreams end too.
                let failure = "HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                let _ = wire.try_send(failure);
                return;
            }
            // Works for a while: that is no waiting for something to happen.
            thread::park_timeout(Duration::from_micros(rng.up_to(MOST_WORK_US)));
            if wire.try_send(ok("a".repeat(rng.up_to(9_000) as usize))).is_err() {
                return;
            }
        }
    })
}
