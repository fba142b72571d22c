//! States to render: one with everything odd in it, one with nothing in it, and large ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::telemetry::distribution::Exemplar;
use crate::telemetry::feed::Hub;
use crate::telemetry::layout::{
    Layout, Occupied, Registry, ServerName, ServiceFacts, TargetName, Topology,
};
use crate::telemetry::merge::Merger;
use crate::telemetry::record::{Attempt, AttemptEnd, Cause, Outlet, Recorder, RequestEnd};
use crate::telemetry::sample;
use crate::telemetry::state::{ServiceStats, Split};

/// What escapes could be mistaken for, or hide.
pub(super) const ODD_LABELS: [&str; 8] = [
    "a\"b",
    "back\\slash",
    "two\\\\and\\",
    "new\nline",
    "not\\na line",
    "\\\"quoted\\\"",
    "\\\n",
    "comma, {brace}=\"é\"",
];

/// The sample, with labels that need escapes, exemplars, and time that is no whole second.
pub(super) fn odd() -> Hub {
    let hub = sample::hub();
    hub.update(|merger| {
        let state = merger.state_mut();
        for (at, label) in ODD_LABELS.into_iter().enumerate() {
            let mut service = ServiceStats::new(label, "ewma", &[], 100);
            service.adds = 7;
            service.gauges.load = at as u64;
            service.nodes.push(service.node(label));
            state.services.push(service);
        }
        let mut failures = Split::default();
        ODD_LABELS.into_iter().for_each(|label| failures.add(label, 3, 100));
        state.telemetry.export_failures = failures;
        state.process.cpu_us = 12_345_678;
        let latency = &mut state.servers[0].as_mut().expect("a server").latency;
        let mut seen = |trace_id, value, at_secs| {
            latency.set_exemplar(Exemplar { trace_id, value, at_secs });
        };
        // The last two share a bucket of the family; the one that is newer comes first.
        seen((0xab << 100) | 1, 900, 1_700_000_001.5);
        seen(2, 12_500_000, 1_700_000_003.0);
        seen(3, 40_000_000, 1_700_000_002.25);
    });
    hub
}

/// Configured, and never used.
pub(super) fn idle() -> Merger {
    let now = Instant::now();
    let mut merger = Merger::new(&[0], 100, Duration::from_secs(600), now);
    merger.apply(sample::layout(&["127.0.0.1:80"]), now);
    merger.settle(now);
    merger
}

/// Every endpoint of every service used, by `requests` for each service.
pub(super) fn large(services: usize, endpoints: usize, requests: u64) -> Hub {
    let layout = layout(services, endpoints);
    let mut merger = Merger::new(&[0], 1_000, Duration::from_secs(600), Instant::now());
    merger.apply(layout.clone(), Instant::now());
    let (snapshots, inbox) = bounded(1);
    let (_return, returned) = bounded(1);
    let mut recorder = Recorder::new(0, layout.clone(), Outlet { snapshots, returned });
    for service in 0..services {
        let name = TargetName { router: "http".into(), service: name(service) };
        let target = layout.target_ids(&name).expect("the service has a route");
        for n in 0..requests {
            let endpoint = target.endpoints[n as usize % endpoints];
            request(&mut recorder, target.id, endpoint, n * (service as u64 + 3));
        }
    }
    recorder.flush(|_| ());
    merger.merge(&mut inbox.recv().expect("flushed"));
    merger.settle(Instant::now());
    Hub::new(merger)
}

fn name(service: usize) -> String {
    format!("service-{service}.example")
}

fn layout(services: usize, endpoints: usize) -> Arc<Layout> {
    let endpoint = |service: usize, n: usize| format!("10.{}.{}.{n}:8080", service / 250, service);
    let facts = (0..services).map(|service| ServiceFacts {
        name: name(service),
        algorithm: "ewma",
        endpoints: (0..endpoints).map(|n| endpoint(service, n)).collect(),
        routers: vec!["http".into()],
    });
    let servers = vec![ServerName { router: "http".into(), address: ([127, 0, 0, 1], 80).into() }];
    let topology = Topology { servers, services: facts.collect() };
    Registry::new(1_000, Duration::from_secs(600)).apply(
        &topology,
        Instant::now(),
        &Occupied::default(),
    )
}

/// Latencies spread over three powers of ten, by a generator that needs no seed but `n`.
fn request(recorder: &mut Recorder, target: u32, endpoint: u32, n: u64) {
    let spread = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24);
    let latency = Duration::from_micros((200.0 * 1_000f64.powf(spread)) as u64);
    let failure = (n % 50 == 7).then_some(Cause::UpstreamStatus);
    let status = if failure.is_some() { 502 } else { 200 };
    let (request_bytes, response_bytes) = (n % 300, n % 20_000);
    recorder.request_begun(0);
    recorder.routed(target);
    recorder.upstream_opened(target);
    recorder.upstream_connected(target, latency / 10);
    recorder.attempt_begun(target, endpoint, Attempt::First);
    recorder.attempt_ended(
        target,
        endpoint,
        &AttemptEnd { status: Some(status), failure, latency, request_bytes, response_bytes },
    );
    recorder.upstream_closed(target, latency * 50, n % 90);
    recorder.request_ended(
        0,
        Some(target),
        &RequestEnd {
            status,
            failure,
            latency,
            proxy_latency: latency / 20,
            request_bytes,
            response_bytes,
            retries: (n % 3) as u32,
            attempts: 1,
        },
    );
}
