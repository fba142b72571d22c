//! What a shard counts: plain integers and one table of samples, by ids.
//!
//! A recorder belongs to one shard. Everything that happens to a request is one call with what is
//! known at that moment; nothing here allocates in steady state, locks, hashes a string or reads a
//! clock. Counters and samples gather in a `Recording` that is swapped out whole at each flush and
//! comes back emptied; gauges stay here, and each flush takes a copy of them.
//!
//! Conservation (DESIGN section 7) is asserted at each flush in debug builds, for each server,
//! target and endpoint. Every term is counted by itself:
//!
//! - requests = success + failures + pending
//! - attempts = requests - answered_here - waiting + retries + requeues + hedges
//!
//! A request is counted when its head is complete. What was refused before that (a malformed head,
//! a timeout) is counted as a request and a failure at once, since it was answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::distribution::Exemplar;
use super::exemplars::Exemplars;
pub use super::gauges::{EndpointState, Gauges, NodeGauges, ServiceGauges, ShardFigures};
use super::layout::{Layout, ServerSeries, TargetSeries};
use super::samples::Samples;
use super::trace::TraceId;
use crate::http::Reason;

/// Why something counts as failed: our reasons, and an answer that the classifier calls a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Reason(Reason),
    /// The upstream answered, with a status that the service's classifier calls a failure.
    UpstreamStatus,
}

impl Cause {
    pub const COUNT: usize = Reason::ALL.len() + 1;

    pub fn index(self) -> u32 {
        match self {
            Cause::Reason(reason) => reason as u32,
            Cause::UpstreamStatus => Reason::ALL.len() as u32,
        }
    }

    /// The label of an index.
    pub fn label(index: u32) -> &'static str {
        Reason::ALL.get(index as usize).map_or("upstream_status", |reason| reason.label())
    }
}

macro_rules! counts {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $(pub $field: u64,)*
        }

        impl $name {
            pub fn add(&mut self, other: &$name) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counts! {
    /// A listening address.
    ServerCounts {
        requests, success, failures, answered_here, malformed_contexts, connects, closes,
        received_bytes, sent_bytes,
    }
}

counts! {
    ServerGauges { pending, connections, tunnels }
}

counts! {
    /// A service as one router uses it: its requests, and the attempts that they came to.
    TargetCounts {
        requests, success, failures, answered_here, retries, requeues, budget_exhausted, hedges,
        hedges_won, attempts, attempt_success, attempt_failures, connects, closes, received_bytes,
        sent_bytes,
    }
}

counts! {
    TargetGauges { pending, waiting, attempts_pending, connections }
}

counts! {
    EndpointCounts { requests, success, failures }
}

counts! {
    /// A service's balancer and failure accrual, whichever router asked.
    ServiceCounts {
        picks, max_effort_exhausted, removals, revivals, probes, removed_for_us, health_checks,
        health_failures,
    }
}

/// What was counted between two flushes.
#[derive(Debug)]
pub struct Recording {
    pub servers: Vec<ServerCounts>,
    pub targets: Vec<TargetCounts>,
    pub endpoints: Vec<EndpointCounts>,
    pub services: Vec<ServiceCounts>,
    pub samples: Samples,
    pub exemplars: Exemplars,
    pub gauges: Gauges,
}

impl Recording {
    pub fn new(layout: &Layout) -> Recording {
        let mut recording = Recording {
            servers: Vec::new(),
            targets: Vec::new(),
            endpoints: Vec::new(),
            services: Vec::new(),
            samples: Samples::new(0),
            exemplars: Exemplars::default(),
            gauges: Gauges::default(),
        };
        recording.reset(layout);
        recording
    }

    /// Empties it for use under a layout.
    pub fn reset(&mut self, layout: &Layout) {
        clear(&mut self.servers, layout.servers.len());
        clear(&mut self.targets, layout.targets.len());
        clear(&mut self.endpoints, layout.endpoints.len());
        clear(&mut self.services, layout.services.len());
        self.samples.reset(layout.series_count());
        self.exemplars.drain().for_each(drop);
    }
}

fn clear<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    values.clear();
    values.resize(len, T::default());
}

/// A shard's flush, on its way to the telemetry thread.
#[derive(Debug)]
pub struct Snapshot {
    pub shard: usize,
    pub layout: Arc<Layout>,
    pub recording: Box<Recording>,
}

/// The shard's ends of the channels to the telemetry thread.
#[derive(Clone, Debug)]
pub struct Outlet {
    pub snapshots: Sender<Snapshot>,
    /// Recordings that come back, emptied or not.
    pub returned: Receiver<Box<Recording>>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd {
    /// What the client was sent, or 499.
    pub status: u16,
    pub failure: Option<Cause>,
    /// From the head's last byte to the answer's.
    pub latency: Duration,
    /// Of that, what was not spent waiting for an upstream.
    pub proxy_latency: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub retries: u32,
    pub attempts: u32,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct AttemptEnd {
    /// `None`: no answer came.
    pub status: Option<u16>,
    pub failure: Option<Cause>,
    pub latency: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// Why a further attempt of a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// The connection failed before it could be the request's fault.
    Requeue,
    /// The classifier said so.
    Retry,
}

impl Attempt {
    /// In the words of logs and spans.
    pub fn word(self) -> &'static str {
        match self {
            Attempt::First => "first",
            Attempt::Requeue => "requeue",
            Attempt::Retry => "retry",
        }
    }
}

#[derive(Debug)]
pub struct Recorder {
    shard: usize,
    layout: Arc<Layout>,
    now: Box<Recording>,
    gauges: Gauges,
    /// What was so when `now` began: counters are of the time since then.
    begun: Gauges,
    outlet: Outlet,
    /// By the ids of earlier generations, and not sent yet; the oldest first.
    unsent: VecDeque<Snapshot>,
    /// Used when `returned` has nothing yet.
    spare: Option<Box<Recording>>,
}

impl Recorder {
    pub fn new(shard: usize, layout: Arc<Layout>, outlet: Outlet) -> Recorder {
        let mut gauges = Gauges::default();
        gauges.make_room(&layout);
        let mut begun = Gauges::default();
        begun.copy(&gauges);
        let now = Box::new(Recording::new(&layout));
        let spare = Some(Box::new(Recording::new(&layout)));
        Recorder { shard, layout, now, gauges, begun, outlet, unsent: VecDeque::new(), spare }
    }

    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// From here on by the ids of a newer generation. What was counted by those of the last one
    /// leaves with the next flush, apart. Allocates.
    pub fn apply(&mut self, layout: &Arc<Layout>) {
        if Arc::ptr_eq(layout, &self.layout) {
            return;
        }
        self.check_invariants();
        let next = Box::new(Recording::new(layout));
        let mut recording = std::mem::replace(&mut self.now, next);
        recording.gauges.copy(&self.gauges);
        let before = std::mem::replace(&mut self.layout, layout.clone());
        self.unsent.push_back(Snapshot { shard: self.shard, layout: before, recording });
        self.gauges.make_room(layout);
        self.begun.copy(&self.gauges);
        self.spare = None;
    }

    /// A client's connection, taken in by a server.
    pub fn connected(&mut self, server: u32) {
        self.now.servers[server as usize].connects += 1;
        self.gauges.servers[server as usize].connections += 1;
    }

    /// A client's connection has gone.
    pub fn disconnected(&mut self, server: u32, lasted: Duration, requests: u64) {
        let layout = &*self.layout;
        self.now.servers[server as usize].closes += 1;
        self.gauges.servers[server as usize].connections -= 1;
        let samples = &mut self.now.samples;
        let duration = layout.of_server(server, ServerSeries::ConnectionDuration);
        samples.record(duration, micros(lasted));
        samples.record(layout.of_server(server, ServerSeries::ConnectionRequests), requests);
    }

    pub fn traffic(&mut self, server: u32, received_bytes: u64, sent_bytes: u64) {
        let counts = &mut self.now.servers[server as usize];
        counts.received_bytes += received_bytes;
        counts.sent_bytes += sent_bytes;
    }

    /// A connection is bytes from here on, or no more.
    pub fn tunnel(&mut self, server: u32, begins: bool) {
        let tunnels = &mut self.gauges.servers[server as usize].tunnels;
        *tunnels = tunnels.wrapping_add_signed(if begins { 1 } else { -1 });
    }

    /// A head is complete.
    pub fn request_begun(&mut self, server: u32) {
        self.now.servers[server as usize].requests += 1;
        self.gauges.servers[server as usize].pending += 1;
    }

    /// A request brought so many trace contexts that could not be read.
    pub fn malformed_context(&mut self, server: u32, count: u32) {
        self.now.servers[server as usize].malformed_contexts += u64::from(count);
    }

    /// What came was no complete request, and was answered. It has no latency: nobody knows when
    /// it would have been complete.
    pub fn refused(&mut self, server: u32, reason: Reason, response_bytes: u64) {
        let counts = &mut self.now.servers[server as usize];
        counts.requests += 1;
        counts.failures += 1;
        counts.answered_here += 1;
        let layout = &*self.layout;
        let samples = &mut self.now.samples;
        let status = layout.of_server(server, ServerSeries::Status);
        samples.count(status, u32::from(reason.status()), 1);
        let failures = layout.of_server(server, ServerSeries::Failures);
        samples.count(failures, Cause::Reason(reason).index(), 1);
        samples.record(layout.of_server(server, ServerSeries::ResponseBytes), response_bytes);
    }

    /// A request has found its service.
    pub fn routed(&mut self, target: u32) {
        self.now.targets[target as usize].requests += 1;
        let gauges = &mut self.gauges.targets[target as usize];
        gauges.pending += 1;
        gauges.waiting += 1;
    }

    pub fn attempt_begun(&mut self, target: u32, endpoint: u32, attempt: Attempt) {
        let counts = &mut self.now.targets[target as usize];
        let gauges = &mut self.gauges.targets[target as usize];
        counts.attempts += 1;
        match attempt {
            Attempt::First => gauges.waiting -= 1,
            Attempt::Requeue => counts.requeues += 1,
            Attempt::Retry => counts.retries += 1,
        }
        gauges.attempts_pending += 1;
        if let Some(counts) = self.now.endpoints.get_mut(endpoint as usize) {
            counts.requests += 1;
            self.gauges.endpoints[endpoint as usize] += 1;
        }
    }

    pub fn attempt_ended(&mut self, target: u32, endpoint: u32, end: &AttemptEnd) {
        let (layout, now) = (&*self.layout, &mut *self.now);
        let of = |which| layout.of_target(target, which);
        self.gauges.targets[target as usize].attempts_pending -= 1;
        let counts = &mut now.targets[target as usize];
        match end.failure {
            None => counts.attempt_success += 1,
            Some(cause) => {
                counts.attempt_failures += 1;
                now.samples.count(of(TargetSeries::AttemptFailures), cause.index(), 1);
            }
        }
        if let Some(status) = end.status {
            now.samples.count(of(TargetSeries::AttemptStatus), u32::from(status), 1);
        }
        let latency = micros(end.latency);
        // The target's is that of its endpoints: the telemetry thread adds it up.
        now.samples.record(of(TargetSeries::AttemptRequestBytes), end.request_bytes);
        now.samples.record(of(TargetSeries::AttemptResponseBytes), end.response_bytes);
        let Some(counts) = now.endpoints.get_mut(endpoint as usize) else { return };
        self.gauges.endpoints[endpoint as usize] -= 1;
        counts.success += u64::from(end.failure.is_none());
        counts.failures += u64::from(end.failure.is_some());
        now.samples.record(layout.of_endpoint(endpoint), latency);
    }

    /// A request with a complete head has been answered, or given up.
    pub fn request_ended(&mut self, server: u32, target: Option<u32>, end: &RequestEnd) {
        let (layout, now) = (&*self.layout, &mut *self.now);
        let of = |which| layout.of_server(server, which);
        let latency = micros(end.latency);
        self.gauges.servers[server as usize].pending -= 1;
        let counts = &mut now.servers[server as usize];
        match end.failure {
            None => counts.success += 1,
            Some(cause) => {
                counts.failures += 1;
                now.samples.count(of(ServerSeries::Failures), cause.index(), 1);
            }
        }
        counts.answered_here += u64::from(end.attempts == 0);
        now.samples.count(of(ServerSeries::Status), u32::from(end.status), 1);
        now.samples.record(of(ServerSeries::Latency), latency);
        now.samples.record(of(ServerSeries::ProxyLatency), micros(end.proxy_latency));
        now.samples.record(of(ServerSeries::RequestBytes), end.request_bytes);
        now.samples.record(of(ServerSeries::ResponseBytes), end.response_bytes);
        let Some(target) = target else { return };
        let of = |which| layout.of_target(target, which);
        let gauges = &mut self.gauges.targets[target as usize];
        gauges.pending -= 1;
        let counts = &mut now.targets[target as usize];
        match end.failure {
            None => counts.success += 1,
            Some(cause) => {
                counts.failures += 1;
                now.samples.count(of(TargetSeries::Failures), cause.index(), 1);
            }
        }
        if end.attempts == 0 {
            gauges.waiting -= 1;
            counts.answered_here += 1;
        }
        now.samples.record(of(TargetSeries::Latency), latency);
        now.samples.record(of(TargetSeries::RetriesPerRequest), u64::from(end.retries));
    }

    /// A request that took so long is to be found by its trace; `now` is the process's clock.
    pub fn exemplar(
        &mut self,
        server: u32,
        target: Option<u32>,
        trace: TraceId,
        latency: Duration,
        now: Duration,
    ) {
        let trace_id = u128::from(trace.high()) << 64 | u128::from(trace.low());
        let it = Exemplar { trace_id, value: micros(latency), at_secs: now.as_secs_f64() };
        let exemplars = &mut self.now.exemplars;
        exemplars.note(self.layout.of_server(server, ServerSeries::Latency), it);
        if let Some(target) = target {
            exemplars.note(self.layout.of_target(target, TargetSeries::Latency), it);
        }
    }

    /// A retry was called for, and its service's budget used up.
    pub fn budget_exhausted(&mut self, target: u32) {
        self.now.targets[target as usize].budget_exhausted += 1;
    }

    /// A connection to an endpoint is being made for a target.
    pub fn upstream_opened(&mut self, target: u32) {
        self.now.targets[target as usize].connects += 1;
        self.gauges.targets[target as usize].connections += 1;
    }

    /// It was made.
    pub fn upstream_connected(&mut self, target: u32, took: Duration) {
        let series = self.layout.of_target(target, TargetSeries::ConnectLatency);
        self.now.samples.record(series, micros(took));
    }

    pub fn upstream_closed(&mut self, target: u32, lasted: Duration, requests: u64) {
        self.now.targets[target as usize].closes += 1;
        self.gauges.targets[target as usize].connections -= 1;
        let layout = &*self.layout;
        let duration = layout.of_target(target, TargetSeries::ConnectionDuration);
        self.now.samples.record(duration, micros(lasted));
        let per_connection = layout.of_target(target, TargetSeries::ConnectionRequests);
        self.now.samples.record(per_connection, requests);
    }

    pub fn upstream_traffic(&mut self, target: u32, received_bytes: u64, sent_bytes: u64) {
        let counts = &mut self.now.targets[target as usize];
        counts.received_bytes += received_bytes;
        counts.sent_bytes += sent_bytes;
    }

    /// A service's counters that its policies keep.
    pub fn service(&mut self, service: usize) -> &mut ServiceCounts {
        &mut self.now.services[service]
    }

    /// Sends what was counted, and the gauges, which `fill` completes with what only the shard
    /// knows (services, nodes, shard). What finds no room is kept and goes with the next flush.
    /// Says whether it was sent.
    pub fn flush(&mut self, fill: impl FnOnce(&mut Gauges)) -> bool {
        while let Some(snapshot) = self.unsent.pop_front() {
            if let Err(error) = self.outlet.snapshots.try_send(snapshot) {
                self.unsent.push_front(error.into_inner());
                return false;
            }
        }
        let Some(mut next) = self.next_recording() else {
            return false;
        };
        fill(&mut self.gauges);
        self.check_invariants();
        std::mem::swap(&mut self.now, &mut next);
        next.gauges.copy(&self.gauges);
        let snapshot = Snapshot { shard: self.shard, layout: self.layout.clone(), recording: next };
        let unsent = match self.outlet.snapshots.try_send(snapshot) {
            Ok(()) => {
                if cfg!(debug_assertions) {
                    self.begun.copy(&self.gauges);
                }
                return true;
            }
            Err(TrySendError::Full(snapshot) | TrySendError::Disconnected(snapshot)) => snapshot,
        };
        // It has what was counted; what took its place is empty still.
        self.spare = Some(std::mem::replace(&mut self.now, unsent.recording));
        false
    }

    /// Waits up to `patience` for a buffer to come back: for a last flush that found none.
    pub fn await_buffer(&mut self, patience: Duration) {
        if self.spare.is_none()
            && let Ok(mut returned) = self.outlet.returned.recv_timeout(patience)
        {
            returned.reset(&self.layout);
            self.spare = Some(returned);
        }
    }

    /// An empty recording. `None`: all of them are on the way, so this one is carried on.
    fn next_recording(&mut self) -> Option<Box<Recording>> {
        if let Some(spare) = self.spare.take() {
            return Some(spare);
        }
        let mut returned = self.outlet.returned.try_recv().ok()?;
        returned.reset(&self.layout);
        Some(returned)
    }

    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let (now, then) = (&self.gauges, &self.begun);
        for (id, it) in self.now.servers.iter().enumerate() {
            let pending = [then.servers[id].pending, now.servers[id].pending];
            assert_eq!(it.requests + pending[0], it.success + it.failures + pending[1], "{it:?}");
        }
        for (id, it) in self.now.targets.iter().enumerate() {
            let (then, now) = (&then.targets[id], &now.targets[id]);
            let ended = it.success + it.failures;
            assert_eq!(it.requests + then.pending, ended + now.pending, "{it:?}");
            let ended = it.attempt_success + it.attempt_failures;
            assert_eq!(it.attempts + then.attempts_pending, ended + now.attempts_pending, "{it:?}");
            let first = it.attempts - it.retries - it.requeues - it.hedges;
            let begun = first + it.answered_here + now.waiting;
            assert_eq!(it.requests + then.waiting, begun, "{it:?}");
        }
        for (id, it) in self.now.endpoints.iter().enumerate() {
            let pending = [then.endpoints[id], now.endpoints[id]].map(u64::from);
            assert_eq!(it.requests + pending[0], it.success + it.failures + pending[1], "{it:?}");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
