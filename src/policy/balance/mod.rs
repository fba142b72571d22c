//! Which endpoint of a service takes the next attempt.
//!
//! - `round_robin`: smooth weighted round robin, as nginx has it (`round_robin.rs`).
//! - `least_loaded`: power of two choices over `pending / weight` (Mitzenmacher, "The Power of Two
//!   Choices in Randomized Load Balancing", 2001).
//! - `ewma`: power of two choices over peak EWMA of latency times pending, as in Finagle and
//!   linkerd2 (`ewma.rs`).
//!
//! Two choices are drawn by weight (`alias.rs`), so that idle endpoints share by weight, and the
//! less loaded of the two wins, so that picking costs the same for 3 endpoints and for 3,000.
//!
//! An endpoint that is not available (ejected, draining) is left out, unless most are: when more
//! than half of all are out, the cause is likelier to be ours or common to all, and the few left
//! would drown, so all are picked from (Envoy's panic threshold of 50 % does the same). An endpoint
//! to avoid (it failed the attempt before) is picked only where there is no other.
//!
//! Invariants: an endpoint's index never changes; `pending` counts attempts started and not
//! finished. Who ejects and why, slow start and probes are not known here.

mod alias;
mod ewma;
mod round_robin;
#[cfg(test)]
mod tests;

use super::Rng;
use alias::AliasTable;
use ewma::PeakEwma;
use round_robin::SmoothRoundRobin;
use std::time::Duration;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    RoundRobin,
    LeastLoaded,
    /// `decay`: after this long without a peak, a peak weighs 1/e.
    Ewma {
        decay: Duration,
    },
}

/// Draws until two choices differ and none is to be avoided; then the nearest one is taken. With
/// equal weights, 8 draws among two fail 1 time in 256.
const MAX_DRAWS: usize = 8;

/// The endpoints of one service on one shard.
#[derive(Debug)]
pub struct Balancer {
    endpoints: Vec<Endpoint>,
    /// Indices of those that are picked from, in order; never empty while there are endpoints.
    eligible: Vec<usize>,
    available: usize,
    chooser: Chooser,
}

#[derive(Debug)]
struct Endpoint {
    weight: u32,
    available: bool,
    pending: u32,
    /// Weight over the mean weight: what a share of load is measured by.
    share: f64,
}

#[derive(Debug)]
enum Chooser {
    RoundRobin(SmoothRoundRobin),
    LeastLoaded(AliasTable),
    Ewma { table: AliasTable, decay: Duration, latencies: Vec<PeakEwma> },
}

impl Balancer {
    /// One endpoint per weight; a weight of 0 counts as 1.
    pub fn new(kind: Kind, weights: &[u32]) -> Balancer {
        let weights: Vec<u32> = weights.iter().map(|&weight| weight.max(1)).collect();
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let mean = total as f64 / weights.len().max(1) as f64;
        let endpoint = |&weight: &u32| {
            let share = f64::from(weight) / mean;
            Endpoint { weight, available: true, pending: 0, share }
        };
        let endpoints: Vec<Endpoint> = weights.iter().map(endpoint).collect();
        let count = endpoints.len();
        let chooser = match kind {
            Kind::RoundRobin => Chooser::RoundRobin(SmoothRoundRobin::new(count)),
            Kind::LeastLoaded => Chooser::LeastLoaded(AliasTable::default()),
            Kind::Ewma { decay } => Chooser::Ewma {
                table: AliasTable::default(),
                decay,
                latencies: vec![PeakEwma::default(); count],
            },
        };
        let mut made = Balancer { endpoints, eligible: Vec::new(), available: count, chooser };
        made.choose_eligible();
        made
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// How many endpoints are available.
    pub fn available(&self) -> usize {
        self.available
    }

    /// The endpoint for the next attempt; none only where there are no endpoints. The caller says
    /// [`Balancer::started`] if it goes ahead.
    pub fn pick(&mut self, now: Duration, rng: &mut Rng, avoid: Option<usize>) -> Option<usize> {
        if let [only] = self.eligible[..] {
            return Some(only);
        }
        match &mut self.chooser {
            Chooser::RoundRobin(state) => {
                let weight = |at: usize| self.endpoints[at].weight;
                state.next(&self.eligible, weight, avoid)
            }
            Chooser::LeastLoaded(table) => {
                let (a, b) = two(&self.eligible, table, rng, avoid)?;
                let load = |at: usize| {
                    let it = &self.endpoints[at];
                    f64::from(it.pending) / it.share
                };
                Some(if load(b) < load(a) { b } else { a })
            }
            Chooser::Ewma { table, decay, latencies } => {
                let (a, b) = two(&self.eligible, table, rng, avoid)?;
                let cost = |at: usize| {
                    let it = &self.endpoints[at];
                    latencies[at].cost(now, *decay, it.pending, it.share)
                };
                Some(if cost(b) < cost(a) { b } else { a })
            }
        }
    }

    /// An attempt goes to this endpoint.
    pub fn started(&mut self, endpoint: usize) {
        self.endpoints[endpoint].pending += 1;
    }

    /// An attempt ended; `rtt` where it says how fast the endpoint answers. A failure does not:
    /// an endpoint that refuses at once must not look fast.
    pub fn finished(&mut self, endpoint: usize, now: Duration, rtt: Option<Duration>) {
        let pending = &mut self.endpoints[endpoint].pending;
        debug_assert!(*pending > 0, "finished without started");
        *pending = pending.saturating_sub(1);
        if let (Chooser::Ewma { decay, latencies, .. }, Some(rtt)) = (&mut self.chooser, rtt) {
            latencies[endpoint].observe(now, *decay, rtt);
        }
    }

    /// Attempts started and not finished.
    pub fn pending(&self, endpoint: usize) -> u32 {
        self.endpoints[endpoint].pending
    }

    /// The endpoint's latency as the balancer sees it now; `ewma` alone knows one.
    pub fn latency(&self, endpoint: usize, now: Duration) -> Option<Duration> {
        match &self.chooser {
            Chooser::Ewma { decay, latencies, .. } => latencies[endpoint].latency(now, *decay),
            Chooser::RoundRobin(_) | Chooser::LeastLoaded(_) => None,
        }
    }

    pub fn is_available(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].available
    }

    /// Takes an endpoint out, or back in. Costs O(n); only on a change.
    pub fn set_available(&mut self, endpoint: usize, available: bool) {
        let it = &mut self.endpoints[endpoint];
        if it.available == available {
            return;
        }
        it.available = available;
        if available {
            self.available += 1;
        } else {
            self.available -= 1;
        }
        self.choose_eligible();
        self.check_invariants();
    }

    fn choose_eligible(&mut self) {
        let out = self.endpoints.len() - self.available;
        let most_are_out = 2 * out > self.endpoints.len();
        let indices = 0..self.endpoints.len();
        self.eligible =
            indices.filter(|&at| most_are_out || self.endpoints[at].available).collect();
        match &mut self.chooser {
            Chooser::RoundRobin(_) => {}
            Chooser::LeastLoaded(table) | Chooser::Ewma { table, .. } => {
                let weight = |&at: &usize| self.endpoints[at].weight;
                *table = AliasTable::new(self.eligible.iter().map(weight));
            }
        }
    }

    fn check_invariants(&self) {
        let available = self.endpoints.iter().filter(|it| it.available).count();
        debug_assert_eq!(available, self.available);
        debug_assert_eq!(self.eligible.is_empty(), self.endpoints.is_empty());
    }
}

/// Two different endpoints drawn by weight, neither to be avoided where that is possible.
fn two(
    eligible: &[usize],
    table: &AliasTable,
    rng: &mut Rng,
    avoid: Option<usize>,
) -> Option<(usize, usize)> {
    let a = one(eligible, table, rng, avoid, None)?;
    let b = one(eligible, table, rng, avoid, Some(a)).unwrap_or(a);
    Some((a, b))
}

fn one(
    eligible: &[usize],
    table: &AliasTable,
    rng: &mut Rng,
    avoid: Option<usize>,
    other: Option<usize>,
) -> Option<usize> {
    let fits = |at: usize| Some(at) != avoid && Some(at) != other;
    let mut slot = 0;
    for _ in 0..MAX_DRAWS {
        slot = table.draw(rng)?;
        if fits(eligible[slot]) {
            return Some(eligible[slot]);
        }
    }
    // At most two do not fit, so this ends within three steps.
    let mut next = eligible[slot..].iter().chain(&eligible[..slot]).copied();
    next.find(|&at| fits(at))
}
