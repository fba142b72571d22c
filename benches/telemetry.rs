//! What telemetry costs: all that one request records on its shard, and the merge of what 64 shards
//! with 1,000 endpoints send.
//!
//! The nearest bound of `record` is cache lines: one of counters per scope, and two per
//! distribution (its table entry, its moments); beyond it are buckets computed and looked up.
//! `record/dense` is the same samples in an HdrHistogram per series, which is what the table
//! replaced. That of `merge` is the random walk over each endpoint's histogram.

mod common;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use common::bounds::{Timed, report, timed};
use common::recorders::{
    ENDPOINTS_PER_SERVICE, REQUESTS_PER_ENDPOINT, SERVICES, SHARDS, Shard, layout, random,
};
use criterion::{Criterion, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use ringlane::telemetry::buckets::BUCKETS;
use ringlane::telemetry::merge::Merger;
use ringlane::telemetry::record::Snapshot;

fn record(criterion: &mut Criterion) {
    let layout = layout();
    for (name, services) in [("one_service", 1), ("1000_endpoints", SERVICES)] {
        let mut shard = Shard::new(0, &layout, services, 7);
        let mut group = criterion.benchmark_group("record");
        group.bench_function(name, |bencher| bencher.iter(|| shard.one()));
        group.finish();
        report("record", name, timed("", || shard.one()), vec![additions(services)]);
    }
    dense(criterion);
}

/// The counters, sums and buckets that a request adds to, at places that are known: no bucket is
/// computed from a value, and no table searched.
fn additions(services: usize) -> Timed<'static> {
    /// More than these latencies have.
    const EACH: usize = 256;
    let endpoints = services * ENDPOINTS_PER_SERVICE;
    let line = |count: usize| vec![[0_u64; 8]; count];
    let (mut server, mut targets, mut of_endpoints) =
        (line(2), line(3 * services), line(endpoints));
    // Sum, least, greatest and zeros.
    let moments = |count: usize| vec![[0_u64; 4]; count];
    let (mut server_moments, mut target_moments, mut endpoint_moments) =
        (moments(4), moments(4 * services), moments(endpoints));
    let mut server_buckets = vec![0_u32; 4 * EACH];
    let mut target_buckets = vec![0_u32; services * 3 * EACH];
    let mut endpoint_buckets = vec![0_u32; endpoints * EACH];
    let mut state = 7;
    timed("23 additions at known places", move || {
        let random = random(&mut state);
        let service = random as usize % services;
        let endpoint =
            service * ENDPOINTS_PER_SERVICE + random as usize / 256 % ENDPOINTS_PER_SERVICE;
        let bucket = (random >> 32) as usize % EACH;
        server.iter_mut().for_each(|counters| counters[0] += 1);
        targets[service * 3..][..3].iter_mut().for_each(|counters| counters[0] += 1);
        of_endpoints[endpoint][0] += 1;
        server_moments.iter_mut().for_each(|it| it[0] += random);
        target_moments[service * 4..][..4].iter_mut().for_each(|it| it[0] += random);
        endpoint_moments[endpoint][0] += random;
        for which in 0..4 {
            server_buckets[which * EACH + bucket] += 1;
        }
        for which in 0..3 {
            target_buckets[(service * 3 + which) * EACH + bucket] += 1;
        }
        endpoint_buckets[endpoint * EACH + bucket] += 1;
        black_box(&mut endpoint_buckets);
    })
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

/// The nearest bound is memory: each bucket of each flush is read, and added where it belongs.
/// Beyond it they are put in order by series first, and added twice: to the whole and to the last
/// minute.
fn merge(criterion: &mut Criterion) {
    let layout = layout();
    let flushes = || -> Vec<Snapshot> {
        let shard = |number| Shard::new(number, &layout, SERVICES, 11 + number as u64);
        (0..SHARDS).map(|number| shard(number).flush()).collect()
    };
    let cores: Vec<usize> = (0..SHARDS).collect();
    let now = Instant::now();
    let mut merger = Merger::new(&cores, 10_000, Duration::from_secs(600), now);
    merger.apply(layout.clone(), now);
    let before = resident_bytes();
    let mut second = 0;
    let mut merge = |flushes: &mut [Snapshot]| {
        flushes.iter_mut().for_each(|flush| merger.merge(flush));
        second += 1;
        merger.settle(now + Duration::from_secs(second));
        black_box(merger.state().version);
        second
    };
    let mut merges = 0;
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(10);
    group.bench_function("64_shards_1000_endpoints", |bencher| {
        bencher.iter_batched(
            flushes,
            |mut flushes| {
                merges = merge(&mut flushes);
                flushes
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
    println!(
        "merge: the process grew by {} MB over {merges} merges of {} requests each",
        resident_bytes().saturating_sub(before) >> 20,
        SHARDS as u64 * (SERVICES * ENDPOINTS_PER_SERVICE) as u64 * REQUESTS_PER_ENDPOINT,
    );
    // Merging leaves a flush as it was, but for gauges.
    let merged = RefCell::new(flushes());
    let counts: Vec<(u32, u32)> = merged.borrow().iter().flat_map(counts_of).collect();
    let mut sums = vec![0_u64; layout.series_count() << BUCKETS.ilog2()];
    let adding = timed(format!("adding {} counts to plain u64s", counts.len()), || {
        counts.iter().for_each(|&(at, count)| sums[at as usize] += u64::from(count));
        black_box(&mut sums).len()
    });
    let reading = timed("reading the tables that they come in", || {
        merged.borrow().iter().flat_map(counts_of).map(|(_, count)| u64::from(count)).sum::<u64>()
    });
    let work = timed("", || merge(&mut merged.borrow_mut()));
    report("merge", "64_shards_1000_endpoints", work, vec![adding, reading]);
}

/// What a flush counted: series and bucket as one number, and how many.
fn counts_of(flush: &Snapshot) -> impl Iterator<Item = (u32, u32)> {
    flush.recording.samples.iter().map(|(key, count)| (key.0, count))
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0u64) * 4096
}

criterion_group!(benches, record, merge);
criterion_main!(benches);
