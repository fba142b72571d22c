//! Shards' flushes in, one state out.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::super::layout::{Occupied, Registry, Topology};
use super::super::record::{NodeGauges, Outlet, Recorder, ShardFigures};
use super::super::sample;
use super::*;

/// A recorder, what it sends, and the way back for what was merged.
struct Shard {
    recorder: Recorder,
    inbox: Receiver<Snapshot>,
    returns: Sender<Box<Recording>>,
}

fn shard(number: usize, layout: &Arc<Layout>) -> Shard {
    let (snapshots, inbox) = bounded(1);
    let (returns, returned) = bounded(1);
    let recorder = Recorder::new(number, layout.clone(), Outlet { snapshots, returned });
    Shard { recorder, inbox, returns }
}

impl Shard {
    fn merge_into(&self, merger: &mut Merger) {
        let mut snapshot = self.inbox.try_recv().expect("a snapshot was sent");
        merger.merge(&mut snapshot);
        self.returns.send(snapshot.recording).unwrap();
    }
}

#[test]
fn two_shards_make_one_whole() {
    let hub = sample::hub();
    hub.read(|state| {
        let server = state.servers().next().unwrap();
        let counts = server.counts;
        assert_eq!((counts.requests, counts.success, counts.failures), (1_003, 990, 12));
        assert_eq!(server.gauges.pending, 1);
        assert_eq!(server.failures.get("upstream_status"), 10);
        assert_eq!(server.failures.get("bad_request"), 1);
        assert_eq!(server.status.get("404"), 1);
        assert_eq!(server.latency.count(), 1_001);
        let target = state.targets().next().unwrap();
        assert_eq!((target.counts.attempts, target.gauges.attempts_pending), (1_001, 1));
        let service = &state.services[0];
        assert_eq!((service.gauges.size, service.gauges.pool_size, service.adds), (2, 4, 2));
        assert_eq!(service.nodes[0].ewma_us, 1_500);
        let requests: Vec<u64> = state.endpoints().map(|it| it.counts.requests).collect();
        assert_eq!(requests, [500, 501]);
    });
}

#[test]
fn percentiles_are_those_of_all_samples_and_no_averages() {
    // One shard has the fast ones, the other the slow ones: the mean of two p99 would be off.
    let layout = sample::layout(&["a:1"]);
    let now = Instant::now();
    let mut merger = Merger::new(&[0, 1], 100, Duration::from_secs(1), now);
    merger.apply(layout.clone(), now);
    for number in 0..2u64 {
        let mut shard = shard(number as usize, &layout);
        for n in 1..=10_000 {
            shard.recorder.upstream_connected(0, Duration::from_micros(n + number * 10_000));
        }
        shard.recorder.flush(|_| ());
        shard.merge_into(&mut merger);
    }
    merger.settle(now);
    let summary = merger.state().targets().next().unwrap().connect_latency.recent();
    let exact = [10_000.0, 18_000.0, 19_000.0, 19_800.0, 19_980.0, 19_998.0];
    for (found, exact) in summary.quantiles.into_iter().zip(exact) {
        assert!((found - exact).abs() <= exact * 0.005, "{found} for {exact}");
    }
    assert_eq!((summary.count, summary.min, summary.max), (20_000, 1, 20_000));
}

#[test]
fn a_full_channel_loses_nothing() {
    let layout = sample::layout(&["a:1"]);
    let now = Instant::now();
    let mut merger = Merger::new(&[0], 100, Duration::from_secs(1), now);
    merger.apply(layout.clone(), now);
    let mut shard = shard(0, &layout);
    for _ in 0..5 {
        shard.recorder.connected(0);
        shard.recorder.request_begun(0);
        // The second and all that follow find the channel full.
        shard.recorder.flush(|_| ());
    }
    shard.merge_into(&mut merger);
    assert_eq!(merger.state().servers().next().unwrap().counts.requests, 1);
    let figures = ShardFigures { turns: 7, ..ShardFigures::default() };
    shard.recorder.flush(|gauges| gauges.shard = figures);
    shard.merge_into(&mut merger);
    merger.settle(now);
    let server = merger.state().servers().next().unwrap();
    assert_eq!((server.counts.requests, server.counts.connects), (5, 5));
    assert_eq!((server.gauges.pending, server.gauges.connections), (5, 5));
    assert_eq!(merger.state().shards[0].figures.turns, 7);
}

#[test]
fn series_of_what_went_stay_for_their_time_and_then_go() {
    let start = Instant::now();
    let ttl = Duration::from_secs(10);
    let mut registry = Registry::new(100, ttl);
    let mut merger = Merger::new(&[0], 100, ttl, start);
    let at = |secs| start + Duration::from_secs(secs);
    let topology = |endpoints: &[&str]| Topology {
        servers: Vec::new(),
        services: vec![ServiceFacts {
            name: "web".into(),
            algorithm: "ewma",
            endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
            routers: vec!["http".into()],
        }],
    };
    let addresses = |merger: &Merger| -> Vec<String> {
        merger.state().endpoints().map(|it| it.name.address.clone()).collect()
    };
    merger.apply(registry.apply(&topology(&["a", "b"]), at(0), &Occupied::default()), at(0));
    merger.apply(registry.apply(&topology(&["b", "c"]), at(1), &Occupied::default()), at(1));
    merger.settle(at(10));
    assert_eq!(addresses(&merger), ["a", "b", "c"]);
    merger.settle(at(11));
    assert_eq!(addresses(&merger), ["b", "c"]);
    let service = &merger.state().services[0];
    assert_eq!((service.adds, service.removes, service.nodes.len()), (3, 1, 2));
}

#[test]
fn endpoints_that_come_and_go_do_not_grow_anything() {
    let start = Instant::now();
    let ttl = Duration::from_secs(60);
    let mut registry = Registry::new(200, ttl);
    let mut merger = Merger::new(&[0], 200, ttl, start);
    let (snapshots, inbox) = bounded(1);
    let mut most = 0;
    for round in 0..1_000u64 {
        let now = start + Duration::from_secs(round * 7);
        let endpoints = (0..20).map(|n| format!("10.{}.{}.{n}:80", round / 250, round % 250));
        let topology = Topology {
            servers: Vec::new(),
            services: vec![ServiceFacts {
                name: "web".into(),
                algorithm: "ewma",
                endpoints: endpoints.collect(),
                routers: vec!["http".into()],
            }],
        };
        let layout = registry.apply(&topology, now, &Occupied::default());
        merger.apply(layout.clone(), now);
        let (_, returned) = bounded(1);
        let outlet = Outlet { snapshots: snapshots.clone(), returned };
        let mut recorder = Recorder::new(0, layout.clone(), outlet);
        let name = TargetName { router: "http".into(), service: "web".into() };
        let ids = layout.target_ids(&name).unwrap();
        for &endpoint in &ids.endpoints {
            recorder.routed(ids.id);
            recorder.attempt_begun(ids.id, endpoint, crate::telemetry::record::Attempt::First);
        }
        recorder.flush(|_| ());
        merger.merge(&mut inbox.try_recv().unwrap());
        merger.settle(now);
        most = most.max(merger.state().endpoints().count());
        assert!(most <= 201 && merger.state().endpoints.len() <= 201, "round {round}: {most}");
    }
    // Nothing was lost over it: what found no series of its own is in `other`.
    assert_eq!(merger.state().targets().next().unwrap().counts.attempts, 20_000);
    assert!(most > 150, "{most}");
}

#[test]
fn balancers_have_series_for_as_many_endpoints_as_others() {
    let addresses: Vec<String> = (0..25).map(|at| format!("10.0.0.{at}:80")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let layout = sample::layout(&addresses);
    let now = Instant::now();
    let mut merger = Merger::new(&[0], 10, Duration::from_secs(600), now);
    merger.apply(layout.clone(), now);
    let (snapshots, inbox) = bounded(1);
    let (_return, returned) = bounded(1);
    let mut recorder = Recorder::new(0, layout, Outlet { snapshots, returned });
    recorder.flush(|gauges| {
        let node = |load| NodeGauges { load, ..NodeGauges::default() };
        gauges.services = vec![ServiceGauges { size: 25, ..ServiceGauges::default() }];
        gauges.nodes = (0..25).map(node).collect();
    });
    merger.merge(&mut inbox.recv().unwrap());
    merger.settle(now);
    let service = &merger.state().services[0];
    assert_eq!(service.nodes.len(), 25, "whoever looks at one service sees them all");
    let series: Vec<(&str, u64)> =
        service.series().map(|node| (node.address.as_str(), node.load)).collect();
    assert_eq!(series.len(), 11);
    assert_eq!(series[9], ("10.0.0.9:80", 9));
    assert_eq!(series[10], ("other", (10..25).sum()));
}

#[test]
fn a_stall_is_seen_for_a_minute() {
    let mut shard = ShardStats::new(0, 0);
    let mut flush = |longest_poll_us, late_us, secs| {
        shard.update(ShardFigures { longest_poll_us, late_us, ..Default::default() }, secs);
        (shard.figures.longest_poll_us, shard.figures.late_us)
    };
    assert_eq!(flush(200_000, 3, 1), (200_000, 3));
    assert_eq!(flush(40, 90, 1), (200_000, 90));
    assert_eq!(flush(50, 2, 60), (200_000, 90));
    assert_eq!(flush(10, 1, 61), (50, 2));
}

#[test]
fn an_origin_that_answers_with_any_status_gets_a_bounded_number_of_series() {
    let layout = sample::layout(&["a:1"]);
    let now = Instant::now();
    let mut merger = Merger::new(&[0], 50, Duration::from_secs(1), now);
    merger.apply(layout.clone(), now);
    let mut shard = shard(0, &layout);
    for status in 100..1_000 {
        shard.recorder.request_begun(0);
        let end = crate::telemetry::record::RequestEnd {
            status,
            failure: None,
            latency: Duration::ZERO,
            proxy_latency: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            retries: 0,
            attempts: 1,
        };
        shard.recorder.request_ended(0, None, &end);
    }
    shard.recorder.flush(|_| ());
    shard.merge_into(&mut merger);
    merger.settle(now);
    let status = &merger.state().servers().next().unwrap().status;
    assert_eq!((status.iter().count(), status.total()), (51, 900));
    assert_eq!(status.get("other"), 850);
}
