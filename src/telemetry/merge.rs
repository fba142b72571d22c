//! Merges what the shards send into one `State`: exact sums, and distributions bucket by bucket.
//!
//! A snapshot is merged whole or not at all, and each is consistent in itself, so whatever holds
//! at a shard's flush (conservation above all) holds for the merged state at any moment between
//! two calls. Counters are added; gauges replace those of the same shard.
//!
//! Knows no channel, clock or exporter: what comes in is handed to it with the time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::distribution::Distribution;
use super::layout::{
    EndpointName, Layout, Meaning, ServerName, ServerSeries, ServiceFacts, TargetName, TargetSeries,
};
use super::record::{Cause, Gauges, Recording, ServiceGauges, Snapshot};
use super::samples::{Moments, Series};
use super::state::{EndpointStats, ServerStats, ServiceStats, ShardStats, State, TargetStats};

#[derive(Debug)]
pub struct Merger {
    state: State,
    layout: Arc<Layout>,
    /// Of each shard's last flush.
    gauges: Vec<ShardGauges>,
    series_ttl: Duration,
    max_series: usize,
    /// Distributions that something has come for since `settle`.
    touched: Vec<Meaning>,
    started: Instant,
}

#[derive(Debug, Default)]
struct ShardGauges {
    generation: u64,
    gauges: Gauges,
}

impl Merger {
    /// `cores`: the core of each shard.
    pub fn new(cores: &[usize], max_series: usize, series_ttl: Duration, now: Instant) -> Merger {
        let mut state = State::default();
        let shards = cores.iter().enumerate();
        state.shards = shards.map(|(number, core)| ShardStats::new(number, *core)).collect();
        state.telemetry.scope.paths.push("telemetry".to_owned());
        Merger {
            state,
            layout: Arc::default(),
            gauges: cores.iter().map(|_| ShardGauges::default()).collect(),
            series_ttl,
            max_series,
            touched: Vec::new(),
            started: now,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is not merged: the process's and the exporters' own figures.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// A new generation of ids. Series that it does not have any more go after `series_ttl`.
    pub fn apply(&mut self, layout: Arc<Layout>, now: Instant) {
        rename(&mut self.state.servers, &layout.servers, now, ServerStats::new);
        rename(&mut self.state.targets, &layout.targets, now, TargetStats::new);
        rename(&mut self.state.endpoints, &layout.endpoints, now, EndpointStats::new);
        let mut old = std::mem::take(&mut self.state.services);
        self.state.services = layout
            .services
            .iter()
            .map(|facts| match old.iter().position(|service| service.name == facts.name) {
                Some(at) => renew(old.swap_remove(at), facts),
                None => renew(ServiceStats::default(), facts),
            })
            .collect();
        self.layout = layout;
        self.sum_gauges();
        self.state.version += 1;
    }

    /// Adds a shard's flush. Its recording may be used again afterwards.
    pub fn merge(&mut self, snapshot: &mut Snapshot) {
        let Snapshot { shard, layout, recording } = snapshot;
        let recording = &mut **recording;
        self.count(layout, recording);
        for (series, which, count) in recording.samples.iter() {
            self.sample(layout, series, which, count);
        }
        for (series, moments) in recording.samples.moments().iter().enumerate() {
            if *moments != Moments::NONE
                && let Some(it) =
                    distribution(&mut self.state, layout.meaning(Series(series as u32)))
            {
                it.add_moments(moments);
            }
        }
        for (series, exemplar) in recording.exemplars.drain(..) {
            if let Some(it) = distribution(&mut self.state, layout.meaning(series)) {
                it.set_exemplar(exemplar);
            }
        }
        let held = &mut self.gauges[*shard];
        held.generation = layout.generation;
        std::mem::swap(&mut held.gauges, &mut recording.gauges);
        self.state.shards[*shard].figures = held.gauges.shard;
        self.state.telemetry.snapshots += 1;
    }

    /// Ends a round of merges: what they brought is part of this second, what is too old goes.
    pub fn settle(&mut self, now: Instant) {
        let now_secs = now.duration_since(self.started).as_secs();
        for meaning in std::mem::take(&mut self.touched) {
            if let Some(it) = distribution(&mut self.state, meaning) {
                it.settle(now_secs);
            }
        }
        self.sum_gauges();
        let ttl = self.series_ttl;
        let has_gone = |since: Option<Instant>| since.is_some_and(|at| now >= at + ttl);
        drop_where(&mut self.state.servers, |it| has_gone(it.gone_since));
        drop_where(&mut self.state.targets, |it| has_gone(it.gone_since));
        drop_where(&mut self.state.endpoints, |it| has_gone(it.gone_since));
        each_distribution(&mut self.state, |it| it.expire(now_secs));
        self.state.version += 1;
    }

    fn count(&mut self, layout: &Layout, recording: &Recording) {
        let state = &mut self.state;
        for (stats, counts) in state.servers.iter_mut().zip(&recording.servers) {
            stats.iter_mut().for_each(|it| it.counts.add(counts));
        }
        for (stats, counts) in state.targets.iter_mut().zip(&recording.targets) {
            stats.iter_mut().for_each(|it| it.counts.add(counts));
        }
        for (stats, counts) in state.endpoints.iter_mut().zip(&recording.endpoints) {
            stats.iter_mut().for_each(|it| it.counts.add(counts));
        }
        for (at, (facts, counts)) in layout.services.iter().zip(&recording.services).enumerate() {
            if let Some(stats) = service(&mut state.services, at, &facts.name) {
                stats.counts.add(counts);
            }
        }
    }

    fn sample(&mut self, layout: &Layout, series: Series, which: u32, count: u32) {
        let meaning = layout.meaning(series);
        if let Some(it) = distribution(&mut self.state, meaning) {
            if !it.has_arrived() {
                self.touched.push(meaning);
            }
            it.add(which, count);
            return;
        }
        let (max, count) = (self.max_series, u64::from(count));
        let reason = Cause::label(which);
        match meaning {
            Meaning::Server(id, series) => {
                let Some(it) = at(&mut self.state.servers, id) else { return };
                match series {
                    ServerSeries::Status => it.status.add(which.to_string(), count, max),
                    _ => it.failures.add(reason, count, usize::MAX),
                }
            }
            Meaning::Target(id, series) => {
                let Some(it) = at(&mut self.state.targets, id) else { return };
                match series {
                    TargetSeries::AttemptStatus => {
                        it.attempt_status.add(which.to_string(), count, max);
                    }
                    TargetSeries::AttemptFailures => {
                        it.attempt_failures.add(reason, count, usize::MAX);
                    }
                    _ => it.failures.add(reason, count, usize::MAX),
                }
            }
            Meaning::Endpoint(_) => {}
        }
    }

    /// Gauges of the whole from those of each shard's last flush.
    fn sum_gauges(&mut self) {
        let State { servers, targets, endpoints, services, .. } = &mut self.state;
        servers.iter_mut().flatten().for_each(|it| it.gauges = Default::default());
        targets.iter_mut().flatten().for_each(|it| it.gauges = Default::default());
        endpoints.iter_mut().flatten().for_each(|it| it.pending = 0);
        for shard in &self.gauges {
            for (it, gauges) in servers.iter_mut().zip(&shard.gauges.servers) {
                it.iter_mut().for_each(|it| it.gauges.add(gauges));
            }
            for (it, gauges) in targets.iter_mut().zip(&shard.gauges.targets) {
                it.iter_mut().for_each(|it| it.gauges.add(gauges));
            }
            for (it, pending) in endpoints.iter_mut().zip(&shard.gauges.endpoints) {
                it.iter_mut().for_each(|it| it.pending += u64::from(*pending));
            }
        }
        // A shard that has not applied this generation yet has other services, in another order.
        let generation = self.layout.generation;
        let shards = self.gauges.iter().filter(|shard| shard.generation == generation);
        sum_services(services, &shards.map(|shard| &shard.gauges).collect::<Vec<_>>());
    }
}

/// Size and availability are the same on every shard but for a moment; the rest adds up.
fn sum_services(services: &mut [ServiceStats], shards: &[&Gauges]) {
    let mut first_node = 0;
    for (at, service) in services.iter_mut().enumerate() {
        let mut sum = ServiceGauges { available: u64::MAX, ..ServiceGauges::default() };
        for gauges in shards.iter().filter_map(|shard| shard.services.get(at)) {
            sum.size = sum.size.max(gauges.size);
            sum.available = sum.available.min(gauges.available);
            sum.load += gauges.load;
            sum.pool_size += gauges.pool_size;
            sum.pool_cached += gauges.pool_cached;
            sum.pool_waiters += gauges.pool_waiters;
            sum.retry_budget += gauges.retry_budget;
        }
        sum.available = sum.available.min(sum.size);
        service.gauges = sum;
        for (node, it) in (first_node..).zip(&mut service.nodes) {
            let seen = shards.iter().filter_map(|shard| shard.nodes.get(node));
            let known = seen.clone().filter(|gauges| gauges.ewma_us > 0);
            let (sum_us, keepers) =
                known.fold((0, 0), |(sum, count), gauges| (sum + gauges.ewma_us, count + 1));
            it.ewma_us = sum_us / keepers.max(1);
            it.load = seen.clone().map(|gauges| gauges.load).sum();
            it.state = seen.map(|gauges| gauges.state).max().unwrap_or_default();
        }
        first_node += service.nodes.len();
    }
}

/// A service as the configuration has it now. Its policies' counters go on.
fn renew(mut stats: ServiceStats, facts: &ServiceFacts) -> ServiceStats {
    let fresh = ServiceStats::new(&facts.name, facts.algorithm, &facts.routers);
    let before: HashSet<&str> = stats.nodes.iter().map(|node| node.address.as_str()).collect();
    let now: HashSet<&str> = facts.endpoints.iter().map(String::as_str).collect();
    stats.adds += now.difference(&before).count() as u64;
    stats.removes += before.difference(&now).count() as u64;
    let nodes = facts.endpoints.iter().map(|address| fresh.node(address)).collect();
    ServiceStats {
        nodes,
        counts: stats.counts,
        gauges: stats.gauges,
        adds: stats.adds,
        removes: stats.removes,
        ..fresh
    }
}

/// Makes `stats` what a generation's names say. What it does not have any more is marked.
fn rename<N: Clone + PartialEq, S: Named<N>>(
    stats: &mut Vec<Option<S>>,
    names: &[Option<N>],
    now: Instant,
    make: fn(N) -> S,
) {
    stats.resize_with(names.len().max(stats.len()), || None);
    for (at, it) in stats.iter_mut().enumerate() {
        let name = names.get(at).and_then(Option::as_ref);
        match (&mut *it, name) {
            (Some(kept), Some(name)) if kept.name() == name => *kept.gone_since() = None,
            // An id that was free for so long that it has been dealt out again.
            (_, Some(name)) => *it = Some(make(name.clone())),
            (Some(kept), None) => {
                kept.gone_since().get_or_insert(now);
            }
            (None, None) => {}
        }
    }
}

trait Named<N> {
    fn name(&self) -> &N;
    fn gone_since(&mut self) -> &mut Option<Instant>;
}

macro_rules! named {
    ($($stats:ident: $name:ident),*) => {
        $(impl Named<$name> for $stats {
            fn name(&self) -> &$name {
                &self.name
            }

            fn gone_since(&mut self) -> &mut Option<Instant> {
                &mut self.gone_since
            }
        })*
    };
}

named!(ServerStats: ServerName, TargetStats: TargetName, EndpointStats: EndpointName);

fn drop_where<S>(stats: &mut [Option<S>], gone: impl Fn(&S) -> bool) {
    for it in stats {
        if it.as_ref().is_some_and(&gone) {
            *it = None;
        }
    }
}

fn at<S>(stats: &mut [Option<S>], id: u32) -> Option<&mut S> {
    stats.get_mut(id as usize)?.as_mut()
}

/// Nearly always at the place that it has in the snapshot's generation.
fn service<'a>(
    services: &'a mut [ServiceStats],
    guess: usize,
    name: &str,
) -> Option<&'a mut ServiceStats> {
    match services.get(guess).is_some_and(|it| it.name == name) {
        true => services.get_mut(guess),
        false => services.iter_mut().find(|it| it.name == name),
    }
}

/// `None` for what is a set of counters, and for what is known no more.
fn distribution(state: &mut State, meaning: Meaning) -> Option<&mut Distribution> {
    match meaning {
        Meaning::Server(id, series) => {
            let it = at(&mut state.servers, id)?;
            match series {
                ServerSeries::Latency => Some(&mut it.latency),
                ServerSeries::ProxyLatency => Some(&mut it.proxy_latency),
                ServerSeries::RequestBytes => Some(&mut it.request_bytes),
                ServerSeries::ResponseBytes => Some(&mut it.response_bytes),
                ServerSeries::ConnectionDuration => Some(&mut it.connection_duration),
                ServerSeries::ConnectionRequests => Some(&mut it.connection_requests),
                ServerSeries::Status | ServerSeries::Failures => None,
            }
        }
        Meaning::Target(id, series) => {
            let it = at(&mut state.targets, id)?;
            match series {
                TargetSeries::Latency => Some(&mut it.latency),
                TargetSeries::RetriesPerRequest => Some(&mut it.retries_per_request),
                TargetSeries::AttemptLatency => Some(&mut it.attempt_latency),
                TargetSeries::AttemptRequestBytes => Some(&mut it.attempt_request_bytes),
                TargetSeries::AttemptResponseBytes => Some(&mut it.attempt_response_bytes),
                TargetSeries::ConnectLatency => Some(&mut it.connect_latency),
                TargetSeries::ConnectionDuration => Some(&mut it.connection_duration),
                TargetSeries::ConnectionRequests => Some(&mut it.connection_requests),
                TargetSeries::Failures
                | TargetSeries::AttemptStatus
                | TargetSeries::AttemptFailures => None,
            }
        }
        Meaning::Endpoint(id) => at(&mut state.endpoints, id).map(|it| &mut it.latency),
    }
}

fn each_distribution(state: &mut State, mut each: impl FnMut(&mut Distribution)) {
    let (servers, targets) = (state.servers.len() as u32, state.targets.len() as u32);
    let of_servers =
        (0..servers).flat_map(|id| ServerSeries::ALL.map(|series| Meaning::Server(id, series)));
    let of_targets =
        (0..targets).flat_map(|id| TargetSeries::ALL.map(|series| Meaning::Target(id, series)));
    for meaning in of_servers.chain(of_targets) {
        distribution(state, meaning).into_iter().for_each(&mut each);
    }
    state.endpoints.iter_mut().flatten().for_each(|it| each(&mut it.latency));
}

#[cfg(test)]
mod tests;
