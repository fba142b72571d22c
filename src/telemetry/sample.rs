//! A state with something in every scope, for the tests of exporters.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::feed::Hub;
use super::layout::{Layout, Occupied, Registry, ServerName, ServiceFacts, TargetName, Topology};
use super::merge::Merger;
use super::record::{
    Attempt, AttemptEnd, Cause, NodeGauges, Outlet, Recorder, RequestEnd, ServiceGauges,
    ShardFigures,
};
use super::trace::{Forms, Hop, Incoming, Said, Span, Spans, Trail};
use crate::http::{Field, Method, Peer, Reason, Seen, Target};

/// Two shards, one server, a service `web` with two endpoints: 1,000 requests of which 10 failed
/// with 503 from upstream, one refused as malformed, one without a route, one still under way.
pub(super) fn hub() -> Hub {
    let mut merger = Merger::new(&[0, 1], 100, Duration::from_secs(600), Instant::now());
    let layout = layout(&["127.0.0.1:8080", "unix:/run/web.sock"]);
    merger.apply(layout.clone(), Instant::now());
    for shard in 0..2 {
        let (snapshots, inbox) = bounded(1);
        let (_return, returned) = bounded(1);
        let mut recorder = Recorder::new(shard, layout.clone(), Outlet { snapshots, returned });
        requests(&mut recorder, shard, &layout);
        recorder.flush(|gauges| {
            gauges.services = vec![ServiceGauges {
                size: 2,
                available: 2,
                load: 1 - shard as u64,
                pool_size: 2,
                pool_cached: 1,
                ..ServiceGauges::default()
            }];
            gauges.nodes = vec![NodeGauges { ewma_us: 1_500, ..NodeGauges::default() }; 2];
            gauges.shard = ShardFigures { connections: 1, busy_ratio: 0.25, ..Default::default() };
        });
        merger.merge(&mut inbox.recv().expect("flushed"));
    }
    merger.settle(Instant::now());
    merger.state_mut().process.refresh();
    Hub::new(merger)
}

pub(super) fn layout(endpoints: &[&str]) -> Arc<Layout> {
    let topology = Topology {
        servers: vec![ServerName { router: "http".into(), address: ([127, 0, 0, 1], 4140).into() }],
        services: vec![ServiceFacts {
            name: "web".into(),
            algorithm: "ewma",
            endpoints: endpoints.iter().map(|address| (*address).to_owned()).collect(),
            routers: vec!["http".into()],
        }],
    };
    Registry::new(100, Duration::from_secs(600)).apply(
        &topology,
        Instant::now(),
        &Occupied::default(),
    )
}

/// A request's own span: `GET /articles`, answered with 200 after 40 ms.
pub(super) fn span() -> Span {
    let hop = Hop::begin(&Incoming::read(&[], Seen::default()), Forms::DEFAULT, || 7);
    let target = Target::parse(b"/articles?page=2", Method::Get).expect("a target");
    let peer = Peer { ip: Some([192, 0, 2, 7].into()), port: 50_123 };
    let said = Said { server: 0, peer, method: b"GET", target: &target, request_id: b"" };
    let mut trail = Trail::begin(hop, Duration::from_millis(10), &said);
    trail.routed(0);
    let end = RequestEnd {
        status: 200,
        failure: None,
        latency: Duration::from_millis(40),
        attempts: 0,
        ..unroutable()
    };
    let mut spans = Spans::new(1);
    trail.ended(Duration::from_millis(50), &end, &mut spans);
    spans.take(Vec::new()).0.pop().expect("a span")
}

/// The spans of four requests: one that fails once over a new connection and is retried over a
/// pooled one, one whose connection is refused, one without a service, and one with a method that
/// nobody knows. Endpoints are those of `layout`.
pub(super) fn spans() -> Vec<Span> {
    let ms = Duration::from_millis;
    let mut spans = Spans::new(100);
    let begin = |b3: &str, method: &[u8], target: &str| {
        let field = Field::new(b"b3", b3.as_bytes());
        let mut seen = Seen::default();
        seen.add(field.kind);
        let mut last = 0xF0;
        let hop = Hop::begin(&Incoming::read(&[field], seen), Forms::DEFAULT, || {
            last += 1;
            last
        });
        let target = Target::parse(target.as_bytes(), Method::Get).expect("a target");
        let peer = Peer { ip: "::ffff:192.0.2.7".parse().ok(), port: 50_123 };
        let said = Said { server: 0, peer, method, target: &target, request_id: b"1-2" };
        Trail::begin(hop, ms(10), &said)
    };
    let end = |status, failure| RequestEnd { status, failure, retries: 1, ..unroutable() };
    let attempt = |status, failure| AttemptEnd {
        status,
        failure,
        latency: ms(1),
        request_bytes: 3,
        response_bytes: 128,
    };
    let address = "127.0.0.1:8080".parse().ok();
    let wide = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    let mut trail = begin(wide, b"POST", "/a%20\"b?secret=1");
    trail.routed(0);
    trail.attempt_begun(0, address, Attempt::First, ms(11));
    trail.connected(ms(13));
    trail.answered(ms(20));
    trail.attempt_ended(ms(21), &attempt(Some(503), Some(Cause::UpstreamStatus)));
    trail.attempt_begun(1, None, Attempt::Retry, ms(30));
    trail.pooled();
    trail.answered(ms(40));
    trail.attempt_ended(ms(50), &attempt(Some(200), None));
    trail.ended(ms(51), &end(200, None), &mut spans);
    let mut trail = begin("", b"GET", "/");
    trail.routed(0);
    trail.attempt_begun(0, address, Attempt::First, ms(11));
    let refused = Some(Cause::Reason(Reason::ConnectRefused));
    trail.attempt_ended(ms(12), &attempt(None, refused));
    trail.ended(ms(12), &end(502, refused), &mut spans);
    let trail = begin("463ac35c9f6413ad-e457b5a2e4d86bd1", b"GET", "/x");
    let no_route = Some(Cause::Reason(Reason::NoRoute));
    trail.ended(ms(11), &end(404, no_route), &mut spans);
    begin(wide, b"BREW", "/pot").ended(ms(11), &end(405, None), &mut spans);
    spans.take(Vec::new()).0
}

fn requests(recorder: &mut Recorder, shard: usize, layout: &Layout) {
    let name = TargetName { router: "http".into(), service: "web".into() };
    let target = layout.target_ids(&name).expect("the service has a route").id;
    recorder.connected(0);
    recorder.upstream_opened(target);
    recorder.upstream_connected(target, Duration::from_micros(120));
    for n in 0..500u64 {
        let latency = Duration::from_micros(200 * (n + 1));
        let failure = (n % 100 == 50).then_some(Cause::UpstreamStatus);
        let status = if failure.is_some() { 503 } else { 200 };
        recorder.request_begun(0);
        recorder.routed(target);
        recorder.service(0).picks += 1;
        recorder.attempt_begun(target, (n % 2) as u32, Attempt::First);
        let (request_bytes, response_bytes) = (n, 128);
        recorder.attempt_ended(
            target,
            (n % 2) as u32,
            &AttemptEnd { status: Some(status), failure, latency, request_bytes, response_bytes },
        );
        let proxy_latency = Duration::from_micros(20);
        recorder.request_ended(
            0,
            Some(target),
            &RequestEnd {
                status,
                failure,
                latency: latency + proxy_latency,
                proxy_latency,
                request_bytes,
                response_bytes,
                retries: 0,
                attempts: 1,
            },
        );
    }
    if shard == 0 {
        recorder.refused(0, Reason::BadRequest, 50);
        recorder.request_begun(0);
        recorder.request_ended(0, None, &unroutable());
        recorder.request_begun(0);
        recorder.routed(target);
        recorder.attempt_begun(target, 1, Attempt::First);
    } else {
        recorder.disconnected(0, Duration::from_secs(2), 500);
        recorder.upstream_closed(target, Duration::from_secs(1), 500);
    }
    recorder.traffic(0, 50_000, 100_000);
    recorder.upstream_traffic(target, 100_000, 60_000);
}

fn unroutable() -> RequestEnd {
    RequestEnd {
        status: 404,
        failure: Some(Cause::Reason(Reason::NoRoute)),
        latency: Duration::from_micros(5),
        proxy_latency: Duration::from_micros(5),
        request_bytes: 0,
        response_bytes: 0,
        retries: 0,
        attempts: 0,
    }
}
