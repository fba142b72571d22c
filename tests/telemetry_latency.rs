//! Live percentiles lie between what the origin took and what the client waited, and the sizes of
//! streamed bodies are exact.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Metrics, Origin, Proxy, Rng, Wire, both, config, ok, quantile};

/// What a percentile of the proxy's may be off: it stands in the middle of a bucket, and the
/// clocks of both sides have microseconds.
const PRECISION: f64 = 0.005;
const TICK_MS: f64 = 0.002;
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// 128 KiB buffers are posted for bodies; this takes several.
const BODY_BYTES: usize = 1 << 20;

fn telemetry(yaml: &str) -> String {
    format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}")
}

/// The scopes that a request and its one attempt are in.
fn scopes(proxy: &Proxy, endpoint: SocketAddr) -> [String; 4] {
    [
        format!("rt/http/client/web/endpoint/{endpoint}"),
        "rt/http/client/web".to_owned(),
        "rt/http/service/web".to_owned(),
        proxy.server(0),
    ]
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Works until then, without noticing what else wakes it.
fn work(until: Instant) {
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|it| !it.is_zero()) {
        thread::park_timeout(left);
    }
}

/// What each of some clients' requests took, from before it was sent to the last byte.
fn measure(proxy: &Proxy, clients: usize, each: usize) -> Vec<f64> {
    let client = |address| {
        move || {
            let mut wire = Wire::connect(address);
            let ask = |_| {
                let began = Instant::now();
                assert_eq!(wire.get("/").status(), 200);
                millis(began)
            };
            (0..each).map(ask).collect::<Vec<f64>>()
        }
    };
    let clients: Vec<_> = (0..clients).map(|_| thread::spawn(client(proxy.address))).collect();
    clients.into_iter().flat_map(|it| it.join().expect("clients do not fail")).collect()
}

fn settled(proxy: &Proxy, requests: u64) -> Metrics {
    proxy.metrics_when("all are merged", |metrics| {
        metrics.get(&format!("{}/request_latency_ms.count", proxy.server(0))) == requests
    });
    Metrics::since_start(proxy.admin)
}

#[test]
fn percentiles_lie_between_the_origin_s_and_the_client_s() {
    const CLIENTS: usize = 4;
    const EACH: usize = 60;
    let seed = Rng::seeded().next();
    both(|cores| {
        let figures = Arc::new(Mutex::new(Vec::new()));
        let taken = figures.clone();
        let origin = Origin::start(move |mut wire, number| {
            let mut rng = Rng::from(seed ^ (number as u64 * 2 + 1));
            while let Ok(Some(_)) = wire.request() {
                let began = Instant::now();
                work(began + Duration::from_millis(rng.up_to(40)));
                taken.lock().unwrap().push(millis(began));
                if wire.try_send(ok("done")).is_err() {
                    return;
                }
            }
        });
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), cores);
        let clients = measure(&proxy, CLIENTS, EACH);
        let metrics = settled(&proxy, (CLIENTS * EACH) as u64);
        let origins = figures.lock().unwrap().clone();
        assert_eq!(origins.len(), clients.len());
        for scope in scopes(&proxy, origin.address) {
            let name = format!("{scope}/request_latency_ms");
            assert_eq!(metrics.get(&format!("{name}.count")), (CLIENTS * EACH) as u64);
            for (figure, share) in QUANTILES {
                let (least, most) = (quantile(&origins, share), quantile(&clients, share));
                let told = metrics.float(&format!("{name}.{figure}"));
                eprintln!("{name}.{figure}: {least:.3} <= {told:.3} <= {most:.3}");
                assert!(told >= least * (1.0 - PRECISION) - TICK_MS, "{name}.{figure}");
                assert!(told <= most * (1.0 + PRECISION) + TICK_MS, "{name}.{figure}");
            }
            let sum = metrics.float(&format!("{name}.sum"));
            let tick = TICK_MS * clients.len() as f64;
            assert!(sum >= origins.iter().sum::<f64>() - tick, "{name}: {sum}");
            assert!(sum <= clients.iter().sum::<f64>() + tick, "{name}: {sum}");
        }
        // What the proxy itself takes is the difference, and not the origin's work.
        let own = metrics.float(&format!("{}/proxy_latency_ms.p50", proxy.server(0)));
        assert!(own < quantile(&origins, 0.5) / 2.0, "{own} ms inside the proxy");
    });
}

#[test]
fn answers_within_a_millisecond_are_not_rounded_to_nothing() {
    const REQUESTS: usize = 300;
    both(|cores| {
        let origin = Origin::answering(|_| ok("at once"));
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), cores);
        let clients = measure(&proxy, 1, REQUESTS);
        let metrics = settled(&proxy, REQUESTS as u64);
        for scope in scopes(&proxy, origin.address) {
            for (figure, share) in [("min", 0.0), ("p50", 0.5), ("p90", 0.9)] {
                let told = metrics.float(&format!("{scope}/request_latency_ms.{figure}"));
                let most = quantile(&clients, share);
                eprintln!("{scope}.{figure}: 0 < {told:.3} <= {most:.3}");
                assert!(told > 0.0, "{scope}.{figure}");
                assert!(told <= most * (1.0 + PRECISION) + TICK_MS, "{scope}.{figure}: {told}");
            }
            for figure in ["min", "p50"] {
                let told = metrics.float(&format!("{scope}/request_latency_ms.{figure}"));
                assert!(told < 5.0, "{scope}.{figure}: {told} ms");
            }
        }
    });
}

#[test]
fn streamed_bodies_are_measured_to_the_byte() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/chunked" => chunked("HTTP/1.1 200 OK\r\n", BODY_BYTES - 7),
            "/length" => ok(vec![b'x'; BODY_BYTES]),
            _ => ok("small"),
        });
        let proxy = Proxy::start(&telemetry(&config(&[origin.address], "", "")), cores);
        let mut client = proxy.connect();
        // In the order of their bodies' ends: both sums and both maxima differ from each other.
        client
            .send(format!("POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_BYTES}\r\n\r\n"));
        client.send(vec![b'y'; BODY_BYTES]);
        assert_eq!(client.answer().text(), "small");
        client.send(chunked("POST /up HTTP/1.1\r\nHost: h\r\n", BODY_BYTES + 11));
        assert_eq!(client.answer().text(), "small");
        assert_eq!(client.get("/chunked").body.len(), BODY_BYTES - 7);
        assert_eq!(client.get("/length").body.len(), BODY_BYTES);
        let bodies: usize = origin.requests().iter().map(|request| request.body.len()).sum();
        assert_eq!(bodies, 2 * BODY_BYTES + 11);
        let metrics = settled(&proxy, 4);
        for scope in [proxy.server(0), "rt/http/client/web".to_owned()] {
            let of = |figure: &str| metrics.get(&format!("{scope}/{figure}"));
            assert_eq!(of("request_payload_bytes.count"), 4, "{scope}");
            assert_eq!(of("request_payload_bytes.sum"), bodies as u64, "{scope}");
            assert_eq!(of("request_payload_bytes.max"), BODY_BYTES as u64 + 11, "{scope}");
            assert_eq!(of("request_payload_bytes.min"), 0, "{scope}");
            assert_eq!(of("response_payload_bytes.count"), 4, "{scope}");
            assert_eq!(of("response_payload_bytes.sum"), 2 * BODY_BYTES as u64 - 7 + 10, "{scope}");
            assert_eq!(of("response_payload_bytes.max"), BODY_BYTES as u64, "{scope}");
            assert_eq!(of("response_payload_bytes.min"), 5, "{scope}");
        }
    });
}

/// A message with a body in chunks of all sizes that end up at `bytes`.
fn chunked(head: &str, bytes: usize) -> Vec<u8> {
    let mut message = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    let (mut left, mut size) = (bytes, 1);
    while left > 0 {
        let chunk = left.min(size);
        message.extend_from_slice(format!("{chunk:x}\r\n").as_bytes());
        message.resize(message.len() + chunk, b'z');
        message.extend_from_slice(b"\r\n");
        left -= chunk;
        size = size * 3 + 1;
    }
    message.extend_from_slice(b"0\r\n\r\n");
    message
}
