//! Shards that record, and what they send: 1,000 endpoints in 200 services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use ringlane::telemetry::layout::{
    Layout, Occupied, Registry, ServerName, ServiceFacts, TargetName, Topology,
};
use ringlane::telemetry::record::{Attempt, AttemptEnd, Outlet, Recorder, RequestEnd, Snapshot};

pub const SERVICES: usize = 200;
pub const ENDPOINTS_PER_SERVICE: usize = 5;
pub const SHARDS: usize = 64;
/// What a shard's endpoint sees between two flushes in `merge`.
pub const REQUESTS_PER_ENDPOINT: u64 = 30;

pub fn layout() -> Arc<Layout> {
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

pub fn recorder(shard: usize, layout: &Arc<Layout>) -> (Recorder, Receiver<Snapshot>) {
    let (snapshots, inbox) = bounded(1);
    let (_, returned) = bounded(1);
    (Recorder::new(shard, layout.clone(), Outlet { snapshots, returned }), inbox)
}

/// All that a plain request records, as `shard/ledger.rs` does it.
pub fn request(recorder: &mut Recorder, target: u32, service: usize, endpoint: u32, random: u64) {
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

pub fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A shard's recorder, and whom its requests go to.
pub struct Shard {
    pub recorder: Recorder,
    inbox: Receiver<Snapshot>,
    targets: Vec<(u32, Box<[u32]>)>,
    state: u64,
}

impl Shard {
    /// Whose requests are for the first so many services.
    pub fn new(number: usize, layout: &Arc<Layout>, services: usize, seed: u64) -> Shard {
        let (recorder, inbox) = recorder(number, layout);
        let target = |service: usize| {
            let name = TargetName { router: "http".into(), service: format!("service-{service}") };
            let ids = layout.target_ids(&name).expect("it is routed");
            (ids.id, ids.endpoints.clone())
        };
        Shard { recorder, inbox, targets: (0..services).map(target).collect(), state: seed }
    }

    /// All that one request records.
    #[inline]
    pub fn one(&mut self) {
        let random = random(&mut self.state);
        let service = random as usize % self.targets.len();
        let (target, endpoints) = &self.targets[service];
        let endpoint = endpoints[random as usize / 256 % endpoints.len()];
        request(&mut self.recorder, *target, service, endpoint, random);
    }

    /// What it sends after so many requests for each endpoint.
    pub fn flush(mut self) -> Snapshot {
        for (service, (target, endpoints)) in self.targets.iter().enumerate() {
            for &endpoint in endpoints {
                for _ in 0..REQUESTS_PER_ENDPOINT {
                    let random = random(&mut self.state);
                    request(&mut self.recorder, *target, service, endpoint, random);
                }
            }
        }
        self.recorder.flush(|_| ());
        self.inbox.recv().expect("it was sent")
    }
}
