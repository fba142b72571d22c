//! Which endpoint of a service takes the next attempt.
//!
//! - `round_robin`: by weight, earliest deadline first, as Envoy has it (`round_robin.rs`).
//! - `least_loaded`: power of two choices over `pending / weight` (`alias.rs`).
//! - `ewma`: power of two choices over peak EWMA of latency times pending, as in Finagle and
//!   linkerd2 (`ewma.rs`).
//! - `aperture`: least loaded over as few endpoints as the load needs, as in Finagle
//!   (`aperture.rs`).
//! - `consistent_hash`: the endpoint that a key belongs to, with bounded loads
//!   (`consistent_hash.rs`).
//!
//! Picking costs the same for 3 endpoints and for 3,000, but for the memory that is touched, and
//! O(log n) where weights differ under `round_robin`.
//!
//! An endpoint that is out (ejected, unhealthy) is passed over, unless most are: when more than
//! half of all are out, the cause is likelier to be ours or common to all, and the few left would
//! drown, so all are picked from (Envoy's panic threshold of 50 % does the same). One that was
//! drained is never picked, and does not count among all. An endpoint to avoid (it failed the
//! attempt before) is picked only where there is no other: one that is out may be back, and is the
//! better bet than the only one left, which has just failed.
//!
//! Endpoints live in slots (`endpoints.rs`), by which they are named here. Changes of many at once
//! are made one by one and take effect together, with [`Balancer::rebuild`], or with the next pick
//! if nobody calls that: what was taken out is not picked in between.
//!
//! Invariants: a slot stays its endpoint's while attempts are under way there; `pending` counts
//! attempts started and not finished. Who ejects and why, and probes, are not known here; nor is
//! who adds up what other shards have under way.

mod alias;
mod aperture;
mod consistent_hash;
mod endpoints;
mod ewma;
mod round_robin;
#[cfg(test)]
mod tests;

pub use aperture::Width;
pub use endpoints::Standing;

use super::Rng;
use alias::AliasTable;
use aperture::{Aperture, Band};
use consistent_hash::ConsistentHash;
use endpoints::Endpoints;
use ewma::PeakEwma;
use round_robin::RoundRobin;
use std::time::Duration;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    RoundRobin,
    LeastLoaded,
    /// `decay`: after this long without a peak, a peak weighs 1/e.
    Ewma {
        decay: Duration,
    },
    /// `decay`: the window of the load's moving average. `low` and `high`: the band in which the
    /// attempts under way per endpoint are held; `low` is well below `high`. `min`: the fewest
    /// endpoints; 0 counts as 1.
    Aperture {
        decay: Duration,
        low: f64,
        high: f64,
        min: usize,
    },
    /// `bound`: how much more than its share of the attempts under way an endpoint may have; from
    /// 1 up.
    ConsistentHash {
        bound: f64,
    },
}

/// For what an endpoint is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask {
    pub now: Duration,
    /// A hash of what the attempt belongs to: a header, a cookie, the client's address. Only
    /// `consistent_hash` looks.
    pub key: Option<u64>,
    /// The slot of an endpoint to be picked only where there is no other.
    pub avoid: Option<usize>,
}

/// The endpoints of one service on one shard.
#[derive(Debug)]
pub struct Balancer {
    endpoints: Endpoints,
    chooser: Chooser,
    slow_start: Option<Duration>,
    /// Something changed since the last rebuild.
    changed: bool,
    /// The weights of some grow by themselves.
    warming: bool,
}

#[derive(Debug)]
enum Chooser {
    RoundRobin(RoundRobin),
    LeastLoaded(AliasTable),
    Ewma { table: AliasTable, decay: Duration, latencies: Vec<PeakEwma> },
    Aperture(Aperture),
    ConsistentHash(ConsistentHash),
}

impl Balancer {
    /// Without endpoints. `seed`: the same on all shards of a process and another in each process;
    /// it sets the order in which an aperture opens.
    pub fn new(kind: Kind, seed: u64) -> Balancer {
        let chooser = match kind {
            Kind::RoundRobin => Chooser::RoundRobin(RoundRobin::default()),
            Kind::LeastLoaded => Chooser::LeastLoaded(AliasTable::default()),
            Kind::Ewma { decay } => {
                Chooser::Ewma { table: AliasTable::default(), decay, latencies: Vec::new() }
            }
            Kind::Aperture { decay, low, high, min } => {
                Chooser::Aperture(Aperture::new(Band { decay, low, high, min }, seed))
            }
            Kind::ConsistentHash { bound } => Chooser::ConsistentHash(ConsistentHash::new(bound)),
        };
        Balancer {
            endpoints: Endpoints::default(),
            chooser,
            slow_start: None,
            changed: false,
            warming: false,
        }
    }

    /// Another way to choose among the same endpoints, whose loads stay known; what the old way had
    /// learnt of them does not.
    pub fn set_kind(&mut self, kind: Kind, seed: u64) {
        self.chooser = Balancer::new(kind, seed).chooser;
        if let Chooser::Ewma { latencies, .. } = &mut self.chooser {
            latencies.resize_with(self.endpoints.all().len(), PeakEwma::default);
        }
        self.change();
    }

    /// Whether [`Balancer::refresh`] wants to know what other shards have under way.
    pub fn needs_totals(&self) -> bool {
        match self.chooser {
            Chooser::Aperture(_) | Chooser::ConsistentHash(_) => true,
            Chooser::RoundRobin(_) | Chooser::LeastLoaded(_) | Chooser::Ewma { .. } => false,
        }
    }

    /// Adds an endpoint, and answers its slot. A weight of 0 counts as 1. `key`: what tells the
    /// endpoint from all others, wherever it runs: a hash of its address. `is_new`: it may be cold,
    /// which at the start of the process is not said of any.
    pub fn add(&mut self, weight: u32, key: u64, now: Duration, is_new: bool) -> usize {
        let warming_since = Some(now).filter(|_| is_new && self.slow_start.is_some());
        let slot = self.endpoints.add(weight, key, warming_since);
        if let Chooser::Ewma { latencies, .. } = &mut self.chooser {
            latencies.resize_with(latencies.len().max(slot + 1), PeakEwma::default);
            latencies[slot] = PeakEwma::default();
        }
        self.change();
        slot
    }

    /// Takes an endpoint out for good. Its slot is kept until the attempts there are finished.
    pub fn remove(&mut self, slot: usize) {
        self.endpoints.remove(slot);
        self.change();
    }

    /// A weight of 0 counts as 1.
    pub fn set_weight(&mut self, slot: usize, weight: u32) {
        if self.endpoints.get(slot).weight != weight.max(1) {
            self.endpoints.set_weight(slot, weight);
            self.change();
        }
    }

    /// Takes an endpoint out of service, or back in.
    pub fn set_standing(&mut self, slot: usize, standing: Standing, now: Duration) {
        if self.endpoints.get(slot).standing == standing {
            return;
        }
        let before = self.endpoints.set_standing(slot, standing);
        let is_back = (before, standing) == (Standing::Out, Standing::Available);
        if is_back && self.slow_start.is_some() {
            self.endpoints.warm_up(slot, now);
        }
        self.change();
    }

    /// How long an endpoint that is new, or back from being out, takes to its full weight.
    pub fn set_slow_start(&mut self, period: Option<Duration>) {
        if self.slow_start != period {
            self.slow_start = period;
            self.change();
        }
    }

    /// Puts all changes so far into effect. Costs O(n), or O(n log n) where the order of endpoints
    /// changes.
    pub fn rebuild(&mut self, now: Duration) {
        self.warming = self.endpoints.apply(now, self.slow_start);
        match &mut self.chooser {
            Chooser::RoundRobin(it) => it.rebuild(&self.endpoints),
            Chooser::LeastLoaded(table) | Chooser::Ewma { table, .. } => {
                let eligible = self.endpoints.eligible();
                *table = AliasTable::new(self.endpoints.weighted(eligible));
            }
            Chooser::Aperture(it) => it.rebuild(&self.endpoints),
            Chooser::ConsistentHash(it) => it.rebuild(&self.endpoints),
        }
        self.changed = false;
        self.check_invariants();
    }

    /// To be called every 100 ms or so. `totals`: by slot, the attempts under way on all other
    /// shards of the process; a slot beyond the end has none. Without them what was told last
    /// stays, so they may be left out where the kind does not need them.
    pub fn refresh(&mut self, now: Duration, totals: Option<&[u32]>) {
        if let Some(totals) = totals {
            self.endpoints.set_others(totals);
        }
        if self.changed || self.warming {
            self.rebuild(now);
        }
        if let Chooser::Aperture(it) = &mut self.chooser {
            it.adapt(now, &self.endpoints);
        }
        self.check_invariants();
    }

    /// The endpoint for the next attempt; none only where there is none, or all are drained. The
    /// caller says [`Balancer::started`] if it goes ahead, before anything else changes.
    pub fn pick(&mut self, ask: &Ask, rng: &mut Rng) -> Option<usize> {
        if self.changed {
            self.rebuild(ask.now);
        }
        let endpoints = &self.endpoints;
        if let [only] = endpoints.eligible() {
            let only = *only as usize;
            let is_avoided = Some(only) == ask.avoid;
            let other = if is_avoided { endpoints.any_out(rng) } else { None };
            return Some(other.unwrap_or(only));
        }
        match &mut self.chooser {
            Chooser::RoundRobin(it) => it.next(endpoints, rng, ask.avoid),
            Chooser::LeastLoaded(table) => table.lesser_of_two(rng, ask.avoid, |slot| {
                let it = endpoints.get(slot);
                f64::from(it.pending) / it.share
            }),
            Chooser::Ewma { table, decay, latencies } => {
                table.lesser_of_two(rng, ask.avoid, |slot| {
                    let it = endpoints.get(slot);
                    latencies[slot].cost(ask.now, *decay, it.pending, it.share)
                })
            }
            Chooser::Aperture(it) => it.pick(endpoints, rng, ask.avoid),
            Chooser::ConsistentHash(it) => it.pick(endpoints, ask.key, rng, ask.avoid),
        }
    }

    /// An attempt goes to this endpoint.
    pub fn started(&mut self, slot: usize) {
        self.endpoints.started(slot);
    }

    /// An attempt ended; `rtt` where it says how fast the endpoint answers. A failure does not:
    /// an endpoint that refuses at once must not look fast.
    pub fn finished(&mut self, slot: usize, now: Duration, rtt: Option<Duration>) {
        self.endpoints.finished(slot);
        if let (Chooser::Ewma { decay, latencies, .. }, Some(rtt)) = (&mut self.chooser, rtt) {
            latencies[slot].observe(now, *decay, rtt);
        }
    }

    /// How many endpoints there are, drained ones among them.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many endpoints are available.
    pub fn available(&self) -> usize {
        self.endpoints.available()
    }

    /// The slots of all endpoints, drained ones among them, in order.
    pub fn slots(&self) -> impl Iterator<Item = usize> {
        self.endpoints.live()
    }

    /// Attempts started and not finished on this shard, on endpoints that were removed too.
    pub fn pending_on_all(&self) -> u64 {
        self.endpoints.pending()
    }

    /// The slots that are picked from, as of the last rebuild.
    pub fn eligible(&self) -> &[u32] {
        self.endpoints.eligible()
    }

    /// Attempts started and not finished on this shard; after the endpoint was removed, too.
    pub fn pending(&self, slot: usize) -> u32 {
        self.endpoints.get(slot).pending
    }

    pub fn standing(&self, slot: usize) -> Standing {
        self.endpoints.get(slot).standing
    }

    /// The endpoint's own weight, whether it has it already or is warming up.
    pub fn weight(&self, slot: usize) -> u32 {
        self.endpoints.get(slot).weight
    }

    /// The endpoint's latency as the balancer sees it now; `ewma` alone knows one.
    pub fn latency(&self, slot: usize, now: Duration) -> Option<Duration> {
        match &self.chooser {
            Chooser::Ewma { decay, latencies, .. } => latencies[slot].latency(now, *decay),
            Chooser::RoundRobin(_)
            | Chooser::LeastLoaded(_)
            | Chooser::Aperture(_)
            | Chooser::ConsistentHash(_) => None,
        }
    }

    /// How many endpoints are used; `aperture` alone does not use all.
    pub fn width(&self) -> Option<Width> {
        match &self.chooser {
            Chooser::Aperture(it) => Some(it.width()),
            Chooser::RoundRobin(_)
            | Chooser::LeastLoaded(_)
            | Chooser::Ewma { .. }
            | Chooser::ConsistentHash(_) => None,
        }
    }

    fn change(&mut self) {
        self.changed = true;
        self.check_invariants();
    }

    /// In debug builds only: O(n), and for `consistent_hash` O(points) where nothing changed.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.endpoints.check_invariants(!self.changed);
        match &self.chooser {
            _ if self.changed => {}
            Chooser::RoundRobin(it) => it.check_invariants(&self.endpoints),
            Chooser::Aperture(it) => it.check_invariants(&self.endpoints),
            Chooser::ConsistentHash(it) => it.check_invariants(&self.endpoints),
            Chooser::LeastLoaded(_) => {}
            Chooser::Ewma { latencies, .. } => {
                assert_eq!(latencies.len(), self.endpoints.all().len());
            }
        }
    }
}
