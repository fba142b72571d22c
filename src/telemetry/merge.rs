//! Merges what the shards send into one `State`: exact sums, and distributions bucket by bucket.
//!
//! A snapshot is merged whole or not at all, and each is consistent in itself, so whatever holds
//! at a shard's flush (conservation above all) holds for the merged state at any moment between
//! two calls. Counters are added; gauges replace those of the same shard.
//!
//! Knows no channel, clock or exporter: what comes in is handed to it with the time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buckets;
use super::distribution::Distribution;
use super::layout::{
    EndpointName, Layout, Meaning, ServerName, ServerSeries, ServiceFacts, TargetName, TargetSeries,
};
use super::record::{Cause, EndpointState, Gauges, Recording, ServiceGauges, Snapshot};
use super::samples::{Key, Moments, Series};
use super::state::{
    EndpointStats, ServerStats, ServiceStats, ShardStats, Split, State, TargetStats,
};

#[derive(Debug)]
pub struct Merger {
    state: State,
    layout: Arc<Layout>,
    /// Of each shard's last flush.
    gauges: Vec<ShardGauges>,
    series_ttl: Duration,
    max_series: usize,
    arrived: Arrived,
    started: Instant,
    now_secs: u64,
    epoch: Duration,
}

/// Samples of several shards, by the ids of one generation, that are not part of the state yet.
#[derive(Debug, Default)]
struct Arrived {
    layout: Arc<Layout>,
    /// In no order.
    counts: Vec<(Key, u32)>,
    /// By series: how many of `counts` are of it.
    of_series: Vec<u32>,
    /// By series.
    moments: Vec<Moments>,
}

impl Arrived {
    /// For samples by the ids of `layout`; there must be none by those of another.
    fn begin(&mut self, layout: &Arc<Layout>) {
        debug_assert!(self.counts.is_empty(), "ids of one generation only");
        self.layout = layout.clone();
        self.clear();
    }

    fn extend(&mut self, counts: impl Iterator<Item = (Key, u32)>) {
        let Arrived { counts: all, of_series, .. } = self;
        all.extend(counts.inspect(|(key, _)| of_series[key.series().0 as usize] += 1));
    }

    /// A busy second of 64 shards is millions of counts; that much is not kept for an idle one.
    fn clear(&mut self) {
        self.counts.clear();
        self.counts.shrink_to(1 << 20);
        let series = self.layout.series_count();
        self.of_series.clear();
        self.of_series.resize(series, 0);
        self.moments.clear();
        self.moments.resize(series, Moments::NONE);
    }
}

#[derive(Debug, Default)]
struct ShardGauges {
    /// That its services and nodes are by.
    layout: Arc<Layout>,
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
            arrived: Arrived::default(),
            started: now,
            now_secs: 0,
            epoch: Duration::ZERO,
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
        if Arc::ptr_eq(&layout, &self.layout) {
            return;
        }
        rename(&mut self.state.servers, &layout.servers, now, ServerStats::new);
        rename(&mut self.state.targets, &layout.targets, now, TargetStats::new);
        rename(&mut self.state.endpoints, &layout.endpoints, now, EndpointStats::new);
        let old = std::mem::take(&mut self.state.services).into_iter();
        let mut old: HashMap<String, ServiceStats> =
            old.map(|service| (service.name.clone(), service)).collect();
        let services = layout.services.iter().map(|facts| {
            let before = old.remove(&facts.name).unwrap_or_default();
            renew(before, facts, self.max_series)
        });
        self.state.services = services.collect();
        // Those that went come last, as long as their series stay.
        let mut gone: Vec<ServiceStats> = old.into_values().map(|it| retire(it, now)).collect();
        gone.sort_by(|a, b| a.name.cmp(&b.name));
        self.state.services.append(&mut gone);
        self.layout = layout;
        self.sum_gauges();
        self.state.version += 1;
    }

    /// When the clock of the shards began, since 1970.
    pub fn set_epoch(&mut self, epoch: Duration) {
        self.epoch = epoch;
    }

    /// Adds a shard's flush. Its recording may be used again afterwards.
    pub fn merge(&mut self, snapshot: &mut Snapshot) {
        let Snapshot { shard, layout, recording } = snapshot;
        let recording = &mut **recording;
        self.count(layout, recording);
        if !Arc::ptr_eq(layout, &self.arrived.layout) {
            self.fold();
            self.arrived.begin(layout);
        }
        self.arrived.extend(recording.samples.iter());
        for (sum, moments) in self.arrived.moments.iter_mut().zip(recording.samples.moments()) {
            sum.merge(moments);
        }
        let epoch_secs = self.epoch.as_secs_f64();
        for (series, mut exemplar) in recording.exemplars.drain() {
            exemplar.at_secs += epoch_secs;
            if let Some(it) = distribution(&mut self.state, layout.meaning(series)) {
                it.set_exemplar(exemplar);
            }
        }
        let held = &mut self.gauges[*shard];
        held.layout = layout.clone();
        std::mem::swap(&mut held.gauges, &mut recording.gauges);
        self.state.shards[*shard].update(held.gauges.shard, self.now_secs);
        self.state.telemetry.snapshots += 1;
    }

    /// Ends a round of merges: what they brought is part of this second, what is too old goes.
    pub fn settle(&mut self, now: Instant) {
        let now_secs = now.duration_since(self.started).as_secs();
        self.now_secs = now_secs;
        self.fold();
        self.sum_gauges();
        let ttl = self.series_ttl;
        let has_gone = |since: Option<Instant>| since.is_some_and(|at| now >= at + ttl);
        // While something is under way there, it will still be counted.
        drop_where(&mut self.state.servers, |it| has_gone(it.gone_since) && it.is_idle());
        drop_where(&mut self.state.targets, |it| has_gone(it.gone_since) && it.is_idle());
        drop_where(&mut self.state.endpoints, |it| has_gone(it.gone_since) && it.pending == 0);
        self.state.services.retain(|it| !has_gone(it.gone_since));
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
            if let Some(at) = place(&state.services, at, |it| it.name == facts.name) {
                state.services[at].counts.add(counts);
            }
        }
    }

    /// Makes what has arrived part of the state.
    fn fold(&mut self) {
        let Merger { arrived, state, max_series, now_secs, .. } = self;
        let (max_series, now_secs) = (*max_series, *now_secs);
        let mut of_targets = Arrived::default();
        of_targets.begin(&arrived.layout);
        let gathered = Some(&mut of_targets);
        let layout = &arrived.layout;
        Fold { layout, state, max_series, now_secs, of_targets: gathered }.all(arrived);
        // A target's attempts are those of its endpoints, so shards need not count them twice.
        Fold { layout, state, max_series, now_secs, of_targets: None }.all(&of_targets);
        arrived.clear();
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
        sum_services(services, &self.gauges);
    }
}

/// Adds samples of one generation to the state, series by series.
struct Fold<'a> {
    layout: &'a Layout,
    state: &'a mut State,
    max_series: usize,
    now_secs: u64,
    /// Where endpoints' latencies are gathered for their targets.
    of_targets: Option<&'a mut Arrived>,
}

impl Fold<'_> {
    fn all(&mut self, arrived: &Arrived) {
        let sorted = by_series(&arrived.counts, &arrived.of_series);
        let mut rest = &sorted[..];
        let mut gathered = Gathered::default();
        let mut counts = Vec::new();
        for (series, (of_series, moments)) in
            arrived.of_series.iter().zip(&arrived.moments).enumerate()
        {
            let (of_this, after) = rest.split_at(*of_series as usize);
            rest = after;
            if moments.zeros > 0 {
                gathered.add(0, moments.zeros.min(u64::from(u32::MAX)) as u32);
            }
            of_this.iter().for_each(|(key, count)| gathered.add(key.which(), *count));
            gathered.take(&mut counts);
            if !counts.is_empty() {
                self.one(Series(series as u32), &counts, moments);
            }
        }
    }

    fn one(&mut self, series: Series, counts: &[(u32, u32)], moments: &Moments) {
        let meaning = self.layout.meaning(series);
        if let Some(it) = distribution(self.state, meaning) {
            it.add(counts, moments, self.now_secs);
        }
        if let Meaning::Endpoint(endpoint) = meaning {
            self.pass_on(endpoint, counts, moments);
        }
        let Some((split, is_status)) = split(self.state, meaning) else { return };
        for &(which, count) in counts {
            let count = u64::from(count);
            match is_status {
                true => split.add(which.to_string(), count, self.max_series),
                false => split.add(Cause::label(which), count, usize::MAX),
            }
        }
    }

    /// Adds an endpoint's latencies to its target's.
    fn pass_on(&mut self, endpoint: u32, counts: &[(u32, u32)], moments: &Moments) {
        let Some(gathered) = &mut self.of_targets else { return };
        let Some(target) = self.layout.target_of(endpoint) else { return };
        let series = self.layout.of_target(target, TargetSeries::AttemptLatency);
        gathered.moments[series.0 as usize].merge(moments);
        // Zeros are in the moments already.
        let counts = counts.iter().filter(|(bucket, _)| *bucket > 0);
        gathered.extend(counts.map(|&(bucket, count)| (Key::new(series, bucket), count)));
    }
}

/// The counts of the first series, then those of the next; `of_series` says how many each has. One
/// pass: what comes after adds up a series at a time, and needs no order within it.
fn by_series(counts: &[(Key, u32)], of_series: &[u32]) -> Vec<(Key, u32)> {
    let mut sorted = vec![(Key(0), 0); counts.len()];
    let mut next: Vec<u32> =
        of_series.iter().scan(0, |sum, count| Some(std::mem::replace(sum, *sum + count))).collect();
    for one in counts {
        let at = &mut next[one.0.series().0 as usize];
        sorted[*at as usize] = *one;
        *at += 1;
    }
    sorted
}

/// The counts of one series, added up by bucket: dense and small enough for the first level of a
/// cache. Sorting them all by bucket took twice as long (`cargo bench --bench telemetry`).
struct Gathered {
    counts: Box<[u32]>,
    /// The buckets that may have counts.
    touched: std::ops::Range<u32>,
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered { counts: vec![0; buckets::BUCKETS as usize].into(), touched: 0..0 }
    }
}

impl Gathered {
    fn add(&mut self, bucket: u32, count: u32) {
        let sum = &mut self.counts[bucket as usize];
        *sum = sum.saturating_add(count);
        self.touched = match self.touched.is_empty() {
            true => bucket..bucket + 1,
            false => self.touched.start.min(bucket)..self.touched.end.max(bucket + 1),
        };
    }

    /// Moves everything to `out`, in order and each bucket once; what was there goes.
    fn take(&mut self, out: &mut Vec<(u32, u32)>) {
        out.clear();
        for bucket in std::mem::take(&mut self.touched) {
            let count = std::mem::take(&mut self.counts[bucket as usize]);
            if count > 0 {
                out.push((bucket, count));
            }
        }
    }
}

/// Size and availability are the same on every shard but for a moment; the rest adds up. A shard
/// that has not flushed under this generation yet has other services, in another order.
fn sum_services(services: &mut [ServiceStats], shards: &[ShardGauges]) {
    // By service and node: what EWMAs add up to, and how many shards keep one.
    let mut ewmas: Vec<Vec<(u64, u64)>> = Vec::new();
    for service in services.iter_mut() {
        service.gauges = ServiceGauges { available: u64::MAX, ..ServiceGauges::default() };
        ewmas.push(vec![(0, 0); service.nodes.len()]);
        for node in &mut service.nodes {
            (node.load, node.state) = (0, EndpointState::default());
        }
    }
    for ShardGauges { layout, gauges } in shards {
        let mut nodes = gauges.nodes.iter();
        for (theirs, facts) in layout.services.iter().enumerate() {
            let of_service = nodes.by_ref().take(facts.endpoints.len());
            let Some(at) = place(services, theirs, |it| it.name == facts.name) else {
                of_service.for_each(drop);
                continue;
            };
            let service = &mut services[at];
            if let Some(seen) = gauges.services.get(theirs) {
                add_gauges(&mut service.gauges, seen);
            }
            for (k, (address, seen)) in facts.endpoints.iter().zip(of_service).enumerate() {
                let Some(k) = place(&service.nodes, k, |it| it.address == *address) else {
                    continue;
                };
                let node = &mut service.nodes[k];
                node.load += seen.load;
                node.state = node.state.max(seen.state);
                let ewma = &mut ewmas[at][k];
                *ewma = (ewma.0 + seen.ewma_us, ewma.1 + u64::from(seen.ewma_us > 0));
            }
        }
    }
    for (service, ewmas) in services.iter_mut().zip(ewmas) {
        service.gauges.available = service.gauges.available.min(service.gauges.size);
        for (node, (sum_us, keepers)) in service.nodes.iter_mut().zip(ewmas) {
            node.ewma_us = sum_us / keepers.max(1);
        }
        service.sum_other();
    }
}

fn add_gauges(sum: &mut ServiceGauges, seen: &ServiceGauges) {
    sum.size = sum.size.max(seen.size);
    sum.available = sum.available.min(seen.available);
    sum.width = sum.width.max(seen.width);
    sum.load += seen.load;
    sum.pool_size += seen.pool_size;
    sum.pool_cached += seen.pool_cached;
    sum.pool_waiters += seen.pool_waiters;
    sum.retry_budget += seen.retry_budget;
}

/// Where what is looked for is: nearly always at its place in the newest generation.
fn place<T>(all: &[T], guess: usize, is: impl Fn(&T) -> bool) -> Option<usize> {
    match all.get(guess).is_some_and(&is) {
        true => Some(guess),
        false => all.iter().position(is),
    }
}

/// A service that is not configured any more. Its counters stay for a while.
fn retire(stats: ServiceStats, now: Instant) -> ServiceStats {
    ServiceStats {
        removes: stats.removes + stats.nodes.len() as u64,
        nodes: Vec::new(),
        other: None,
        gauges: ServiceGauges::default(),
        gone_since: stats.gone_since.or(Some(now)),
        ..stats
    }
}

/// A service as the configuration has it now. Its policies' counters go on.
fn renew(mut stats: ServiceStats, facts: &ServiceFacts, max_series: usize) -> ServiceStats {
    let fresh = ServiceStats::new(&facts.name, facts.algorithm, &facts.routers, max_series);
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

/// A set of counters, and whether it is by status and not by reason. `None` for a distribution.
fn split(state: &mut State, meaning: Meaning) -> Option<(&mut Split, bool)> {
    match meaning {
        Meaning::Server(id, series) => {
            let it = at(&mut state.servers, id)?;
            match series {
                ServerSeries::Status => Some((&mut it.status, true)),
                ServerSeries::Failures => Some((&mut it.failures, false)),
                _ => None,
            }
        }
        Meaning::Target(id, series) => {
            let it = at(&mut state.targets, id)?;
            match series {
                TargetSeries::AttemptStatus => Some((&mut it.attempt_status, true)),
                TargetSeries::AttemptFailures => Some((&mut it.attempt_failures, false)),
                TargetSeries::Failures => Some((&mut it.failures, false)),
                _ => None,
            }
        }
        Meaning::Endpoint(_) => None,
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
