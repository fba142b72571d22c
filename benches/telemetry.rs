//! What telemetry costs: all that one request records on its shard, and the merge of what 64 shards
//! with 1,000 endpoints send.
//!
//! `record` is bound by cache lines: one of counters per scope, and two per distribution (its table
//! entry, its moments). `record/dense` is the same samples in an HdrHistogram per series, which is
//! what the table replaced. `merge` is bound by the random walk over each endpoint's histogram.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, bounded};
use hdrhistogram::Histogram;
use ringlane::telemetry::layout::{
    Layout, Occupied, Registry, ServerName, ServiceFacts, TargetName, Topology,
};
use ringlane::telemetry::merge::Merger;
use ringlane::telemetry::record::{Attempt, AttemptEnd, Outlet, Recorder, RequestEnd, Snapshot};

const SERVICES: usize = 200;
const ENDPOINTS_PER_SERVICE: usize = 5;
const SHARDS: usize = 64;
/// What a shard's endpoint sees between two flushes in `merge`.
const REQUESTS_PER_ENDPOINT: u64 = 30;

fn layout() -> Arc<Layout> {
    let service = |number: usize| ServiceFacts {
        name: format!("service-{number}"),
        algorithm: "ewma",
        endpoints: (0..ENDPOINTS_PER_SERVICE)
            .map(|endpoint| format!("10.0.{number}.{endpoint}:80"))
            .collect(),
        routers: vec!["http".into()],
    };
    let topology = Topology {
        servers: vec![ServerName { router: "http".into(), address: ([127, 0, 0, 1], 80).into() }],
        services: (0..SERVICES).map(service).collect(),
    };
    Registry::new(10_000, Duration::from_secs(600)).apply(
        &topology,
        Instant::now(),
        &Occupied::default(),
    )
}

fn recorder(shard: usize, layout: &Arc<Layout>) -> (Recorder, Receiver<Snapshot>) {
    let (snapshots, inbox) = bounded(1);
    let (_, returned) = bounded(1);
    (Recorder::new(shard, layout.clone(), Outlet { snapshots, returned }), inbox)
}

/// All that a plain request records, as `shard/ledger.rs` does it.
fn request(recorder: &mut Recorder, target: u32, service: usize, endpoint: u32, random: u64) {
    let latency = Duration::from_micros(300 + random % 600);
    recorder.request_begun(0);
    recorder.routed(target);
    recorder.service(service).picks += 1;
    recorder.attempt_begun(target, endpoint, Attempt::First);
    let end = AttemptEnd {
        status: Some(200),
        failure: None,
        latency,
        request_bytes: 0,
        response_bytes: 128,
    };
    recorder.attempt_ended(target, endpoint, &end);
    let end = RequestEnd {
        status: 200,
        failure: None,
        latency: latency + Duration::from_micros(12),
        proxy_latency: Duration::from_micros(12 + random % 8),
        request_bytes: 0,
        response_bytes: 128,
        retries: 0,
        attempts: 1,
    };
    recorder.request_ended(0, Some(target), &end);
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn record(criterion: &mut Criterion) {
    let layout = layout();
    let targets: Vec<(u32, Box<[u32]>)> = (0..SERVICES)
        .map(|number| {
            let name = TargetName { router: "http".into(), service: format!("service-{number}") };
            let ids = layout.target_ids(&name).expect("it is routed");
            (ids.id, ids.endpoints.clone())
        })
        .collect();
    for (name, services) in [("one_service", 1), ("1000_endpoints", SERVICES)] {
        let (mut recorder, _inbox) = recorder(0, &layout);
        let mut state = 7;
        criterion.bench_function(&format!("record/{name}"), |bencher| {
            bencher.iter(|| {
                let random = random(&mut state);
                let service = random as usize % services;
                let (target, endpoints) = &targets[service];
                let endpoint = endpoints[random as usize / 256 % endpoints.len()];
                request(&mut recorder, *target, service, endpoint, random);
            });
        });
    }
    dense(criterion);
}

/// The ten samples of a request, each in a histogram of its own.
fn dense(criterion: &mut Criterion) {
    for (name, services) in [("one_service", 1), ("1000_endpoints", SERVICES)] {
        let histogram = || Histogram::<u32>::new(2).expect("two digits");
        let mut server: Vec<_> = (0..4).map(|_| histogram()).collect();
        let mut clients: Vec<_> = (0..services * 5).map(|_| histogram()).collect();
        let mut endpoints: Vec<_> =
            (0..services * ENDPOINTS_PER_SERVICE).map(|_| histogram()).collect();
        let mut state = 7;
        criterion.bench_function(&format!("record/dense/{name}"), |bencher| {
            bencher.iter(|| {
                let random = random(&mut state);
                let service = random as usize % services;
                let endpoint =
                    service * ENDPOINTS_PER_SERVICE + random as usize / 256 % ENDPOINTS_PER_SERVICE;
                let latency = 300 + random % 600;
                for (at, value) in [latency + 12, 12 + random % 8, 0, 128].into_iter().enumerate() {
                    server[at].record(value).expect("it grows");
                }
                let client = &mut clients[service * 5..][..5];
                for (at, value) in [latency, latency + 12, 0, 128, 0].into_iter().enumerate() {
                    client[at].record(value).expect("it grows");
                }
                endpoints[endpoint].record(latency).expect("it grows");
            });
        });
    }
}

fn merge(criterion: &mut Criterion) {
    let layout = layout();
    let flushes = || -> Vec<Snapshot> {
        let mut state = 11;
        let flush = |shard: usize| {
            let (mut recorder, inbox) = recorder(shard, &layout);
            for service in 0..SERVICES {
                let name =
                    TargetName { router: "http".into(), service: format!("service-{service}") };
                let ids = layout.target_ids(&name).expect("it is routed");
                for &endpoint in &ids.endpoints {
                    for _ in 0..REQUESTS_PER_ENDPOINT {
                        let random = random(&mut state);
                        request(&mut recorder, ids.id, service, endpoint, random);
                    }
                }
            }
            recorder.flush(|_| ());
            inbox.recv().expect("it was sent")
        };
        (0..SHARDS).map(flush).collect()
    };
    let cores: Vec<usize> = (0..SHARDS).collect();
    let now = Instant::now();
    let mut merger = Merger::new(&cores, 10_000, Duration::from_secs(600), now);
    merger.apply(layout.clone(), now);
    let before = resident_bytes();
    let mut second = 0;
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(10);
    group.bench_function("64_shards_1000_endpoints", |bencher| {
        bencher.iter_batched(
            flushes,
            |mut flushes| {
                flushes.iter_mut().for_each(|flush| merger.merge(flush));
                second += 1;
                merger.settle(now + Duration::from_secs(second));
                black_box(merger.state().version);
                flushes
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
    println!(
        "merge: the process grew by {} MB over {second} merges of {} requests each",
        resident_bytes().saturating_sub(before) >> 20,
        SHARDS as u64 * (SERVICES * ENDPOINTS_PER_SERVICE) as u64 * REQUESTS_PER_ENDPOINT,
    );
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0u64) * 4096
}

criterion_group!(benches, record, merge);
criterion_main!(benches);
