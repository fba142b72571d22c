//! What tracing costs a request: its context read and written in each form, and the whole of what
//! is done for one that is not sampled (bound: 50 ns). And what a span costs whoever tells it.
//!
//! Pure code on bytes in memory: `cargo bench --bench trace`. Fields are parsed beforehand, since
//! they are for every request; what longer heads cost the kernel is measured by `proxybench`.

mod common;

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use common::bounds::{report, timed};
use common::heads::{FORMS, with_context};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_http::{HttpClient, HttpError, Request as OtelRequest, Response};
use opentelemetry_otlp::WithHttpConfig as _;
use opentelemetry_sdk::trace::SpanExporter as _;
use ringlane::http::{ForwardRules, Peer, PeerText, Request, Sampling, Seen};
use ringlane::http1::{FieldStorage, RequestParser, encode};
use ringlane::policy::Rng;
use ringlane::policy::sampler::{Asked, Keep, Outcome, Rate, Sampler};
use ringlane::telemetry::exporters::otlp;
use ringlane::telemetry::exporters::zipkin::{Naming, Told, batch};
use ringlane::telemetry::layout::{Occupied, Registry, ServerName, ServiceFacts, Topology};
use ringlane::telemetry::record::{Attempt, AttemptEnd, RequestEnd};
use ringlane::telemetry::trace::{Forms, Hop, Incoming, Places, Said, Spans, Trail};

const SEED: u64 = 7;

fn with_request<T>(context: &str, run: impl FnOnce(&Request<'_, '_>) -> T) -> T {
    let bytes = with_context(context);
    let mut storage = FieldStorage::new();
    let parsed = RequestParser::default().parse(bytes.as_bytes(), &mut storage);
    let (request, _) = parsed.expect("valid").expect("whole");
    run(&request)
}

fn write(hop: &Hop, out: &mut Vec<u8>) -> Places {
    hop.write(out)
}

/// All that is done about tracing for a request that turns out not to be sampled, nor kept for what
/// comes of it.
fn unsampled(
    request: &Request<'_, '_>,
    forms: Forms,
    sampler: &mut Sampler,
    rng: &mut Rng,
    out: &mut Vec<u8>,
    trail: &mut Trail,
) -> Places {
    let incoming = Incoming::read(request.fields, request.facts.seen);
    let mut hop = Hop::begin(&incoming, forms, || rng.next_u64());
    let (trace_low, came) = (hop.trace().low(), incoming.sampling);
    let asked = Asked { trace_low, came, rate: incoming.rate };
    let decision = sampler.decide(&asked, Duration::ZERO);
    hop.decided(decision.passed_on, decision.recorded || sampler.may_keep());
    if sampler.may_keep() {
        follow(request, &hop, trail);
        let outcome =
            Outcome { failed: false, retried: trail.was_retried(), took: Duration::from_millis(1) };
        black_box(sampler.keeps(&outcome, trail.spans(), Duration::ZERO));
    }
    write(&hop, out)
}

/// What a trail learns of a request of one attempt.
fn follow(request: &Request<'_, '_>, hop: &Hop, trail: &mut Trail) {
    let at = Duration::from_micros;
    trail.renew(*hop, at(1), &said(request));
    trail.routed(0);
    trail.attempt_begun(0, Some(SocketAddr::from(([127, 0, 0, 1], 8080))), Attempt::First, at(2));
    trail.pooled();
    trail.answered(at(500));
    let end = AttemptEnd {
        status: Some(200),
        failure: None,
        latency: at(500),
        request_bytes: 0,
        response_bytes: 128,
    };
    trail.attempt_ended(at(500), &end);
}

fn said<'a>(request: &'a Request<'_, '_>) -> Said<'a> {
    let peer = Peer { ip: Some(IpAddr::from([192, 0, 2, 7])), port: 50_123 };
    let (method, target) = (request.method_bytes, &request.target);
    Said { server: 0, peer, method, target, request_id: b"" }
}

fn contexts(criterion: &mut Criterion) {
    let mut out = Vec::with_capacity(4096);
    let mut group = criterion.benchmark_group("trace context");
    for (name, context) in FORMS {
        with_request(context, |request| {
            group.bench_function(format!("read, {name}"), |bencher| {
                bencher.iter(|| {
                    let request = black_box(request);
                    Incoming::read(request.fields, request.facts.seen)
                });
            });
            let incoming = Incoming::read(request.fields, request.facts.seen);
            assert_eq!((incoming.malformed, incoming.sampling.is_some()), (0, !context.is_empty()));
            let mut hop = Hop::begin(&incoming, Forms::DEFAULT, || 7);
            hop.decided(Sampling::Yes, true);
            group.bench_function(format!("write, {name}"), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    write(black_box(&hop), &mut out)
                });
            });
            out.clear();
            let places = write(&hop, &mut out);
            group.bench_function(format!("another attempt, {name}"), |bencher| {
                bencher.iter(|| black_box(&hop).write_attempt(&places, black_box(&mut out), 1));
            });
        });
    }
    group.finish();
    for (name, context) in FORMS {
        let digits = hex_digits(context);
        // Linkerd's is base64, of numbers as they are in memory.
        if digits.is_empty() || name == "l5d-ctx-trace" {
            continue;
        }
        with_request(context, |request| {
            let what = format!("its {} digits by table", digits.len());
            let bound = timed(what, || decoded(black_box(&digits)));
            let work = timed("", || {
                let request = black_box(request);
                Incoming::read(request.fields, request.facts.seen)
            });
            report("trace context", &format!("read, {name}"), work, vec![bound]);
        });
    }
}

/// Of the fields' values.
fn hex_digits(context: &str) -> Vec<u8> {
    let values = context.lines().filter_map(|line| line.split_once(": "));
    let values = values.filter(|(name, _)| *name != "tracestate");
    values.flat_map(|(_, value)| value.bytes()).filter(u8::is_ascii_hexdigit).collect()
}

/// What digits are bound by: one load for each, and one number after the other.
fn decoded(digits: &[u8]) -> [u64; 2] {
    const VALUES: [u8; 256] = {
        let mut values = [u8::MAX; 256];
        let mut value = 0;
        while value < 16 {
            values[b"0123456789abcdef"[value] as usize] = value as u8;
            value += 1;
        }
        values
    };
    digits.chunks(16).fold([0, 0], |[all, wrong], digits| {
        let number = digits.iter().fold((all, wrong), |(number, wrong), &digit| {
            let value = VALUES[digit as usize];
            (number << 4 | u64::from(value), wrong | u64::from(value))
        });
        [all ^ number.0, number.1]
    })
}

/// The bound is for a plain request: `nothing`, with the defaults of what goes on and is kept.
fn requests(criterion: &mut Criterion) {
    let mut out = Vec::with_capacity(4096);
    let mut rng = Rng::new(SEED);
    let mut group = criterion.benchmark_group("unsampled request");
    let keep = Keep { failed: true, retried: true, slower_than: None };
    let cases = [(", nothing is kept", Keep::NOTHING), ("", keep)];
    for (suffix, keep) in cases {
        let mut sampler = Sampler::new(Rate::NEVER, keep, Some(10_000), 2);
        for (name, context) in FORMS {
            with_request(context, |request| {
                let hop = Hop::begin(&Incoming::read(&[], Seen::default()), Forms::DEFAULT, || 7);
                let mut trail = Trail::begin(hop, Duration::ZERO, &said(request));
                group.bench_function(format!("{name}{suffix}"), |bencher| {
                    bencher.iter(|| {
                        out.clear();
                        let (request, forms) = (black_box(request), Forms::DEFAULT);
                        unsampled(request, forms, &mut sampler, &mut rng, &mut out, &mut trail)
                    });
                });
            });
        }
    }
    with_request("", |request| {
        let rules = ForwardRules::default();
        let peer = PeerText::new(Peer { ip: None, port: 0 });
        group.bench_function("for scale: the head, without", |bencher| {
            bencher.iter(|| {
                out.clear();
                encode::request(&mut out, black_box(request), &rules, &peer, false);
            });
        });
    });
    group.finish();
}

fn decisions(criterion: &mut Criterion) {
    let mut rng = Rng::new(SEED);
    let keep = Keep { failed: true, retried: true, slower_than: Some(Duration::from_secs(1)) };
    let mut sampler = Sampler::new(Rate::new(0.001), keep, Some(1_000), 2);
    let mut now = Duration::ZERO;
    let mut group = criterion.benchmark_group("sampler");
    group.bench_function("decide, 0.001", |bencher| {
        bencher.iter(|| {
            now += Duration::from_micros(20);
            sampler.decide(&Asked { trace_low: rng.next_u64(), came: None, rate: None }, now)
        });
    });
    group.bench_function("keeps, a request like any other", |bencher| {
        let outcome = Outcome { failed: false, retried: false, took: Duration::from_millis(1) };
        bencher.iter(|| sampler.keeps(black_box(&outcome), 2, now));
    });
    group.finish();
}

/// A request of one attempt, from its head to two spans; and a batch of such spans as JSON.
fn spans(criterion: &mut Criterion) {
    const BATCH: usize = 1_000;
    let mut group = criterion.benchmark_group("spans");
    let mut spans = Spans::new(BATCH);
    let request = with_request(FORMS[1].1, |request| {
        let incoming = Incoming::read(request.fields, request.facts.seen);
        let mut hop = Hop::begin(&incoming, Forms::DEFAULT, || 7);
        hop.decided(Sampling::Yes, true);
        let mut trail = Trail::begin(hop, Duration::ZERO, &said(request));
        let mut spare = Vec::new();
        group.bench_function("recorded, one attempt", |bencher| {
            bencher.iter(|| {
                record(black_box(request), &hop, &mut trail, &mut spans);
                if spans.is_full(2) {
                    spare = spans.take(std::mem::take(&mut spare)).0;
                }
            });
        });
        spans.take(Vec::new());
        while !spans.is_full(2) {
            record(request, &hop, &mut trail, &mut spans);
        }
        spans.take(Vec::new()).0
    });
    let topology = Topology {
        servers: vec![ServerName { router: "http".into(), address: ([127, 0, 0, 1], 80).into() }],
        services: vec![ServiceFacts {
            name: "web".into(),
            algorithm: "ewma",
            endpoints: vec!["127.0.0.1:8080".into()],
            routers: vec!["http".into()],
        }],
    };
    let layout = Registry::new(100, Duration::from_secs(600)).apply(
        &topology,
        Instant::now(),
        &Occupied::default(),
    );
    let naming = Naming::default();
    let told = Told { layout: &layout, epoch: Duration::from_secs(1_700_000_000), naming: &naming };
    let mut out = Vec::new();
    group.throughput(Throughput::Elements(request.len() as u64));
    group.bench_function("a batch as Zipkin's JSON", |bencher| {
        bencher.iter(|| {
            out.clear();
            batch(&mut out, black_box(&request), &told);
            out.len()
        });
    });
    group.bench_function("a batch by opentelemetry-zipkin", |bencher| {
        let (runtime, exporter) = (runtime(), their_exporter());
        bencher.iter(|| {
            let spans = black_box(&request).iter().map(|it| otlp::data(it, &told)).collect();
            runtime.block_on(exporter.export(spans)).expect("it is taken");
        });
    });
    group.bench_function("a batch by opentelemetry-otlp", |bencher| {
        let (runtime, exporter) = (runtime(), otlp_exporter());
        bencher.iter(|| {
            let spans = black_box(&request).iter().map(|it| otlp::data(it, &told)).collect();
            runtime.block_on(exporter.export(spans)).expect("it is taken");
        });
    });
    group.finish();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// Takes every request, and does nothing with it.
#[derive(Debug)]
struct Sink;

#[async_trait]
impl HttpClient for Sink {
    async fn send_bytes(&self, request: OtelRequest<Bytes>) -> Result<Response<Bytes>, HttpError> {
        black_box(request.body().len());
        Ok(Response::new(Bytes::new()))
    }
}

// As in the exporter: it is deprecated, and this is what that costs to use.
#[allow(deprecated)]
fn their_exporter() -> opentelemetry_zipkin::ZipkinExporter {
    let builder = opentelemetry_zipkin::ZipkinExporter::builder();
    builder.with_http_client(Sink).build().expect("it has a default endpoint")
}

fn otlp_exporter() -> opentelemetry_otlp::SpanExporter {
    let builder = opentelemetry_otlp::SpanExporter::builder().with_http();
    builder.with_http_client(Sink).build().expect("it has a default endpoint")
}

fn record(request: &Request<'_, '_>, hop: &Hop, trail: &mut Trail, spans: &mut Spans) {
    follow(request, hop, trail);
    let at = Duration::from_micros;
    let end = RequestEnd {
        status: 200,
        failure: None,
        latency: at(500),
        proxy_latency: at(5),
        request_bytes: 0,
        response_bytes: 128,
        retries: 0,
        attempts: 1,
    };
    trail.ended(at(501), &end, spans);
}

criterion_group!(trace, contexts, requests, decisions, spans);
criterion_main!(trace);
