//! A service's failure accrual, over all shards of the process: the rules are `policy::accrual`'s.
//!
//! What is touched by plain requests is one padded line per endpoint, which a success reads and a
//! failure writes, and one line per service, which each pick reads: the number of changes. Whatever
//! changes (an ejection, a probe, a revival) is decided once, under a lock that nothing else takes;
//! then the number grows, and each shard brings its balancer up to date before its next pick. So
//! nobody is told by message: what all can read cannot get lost on the way, and costs less.
//!
//! The probe is the next request of any shard, and not of the one that ejected: that one may have
//! no client left.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::plan::Wanted;
use super::shared::EndpointState;
use crate::config::{self, Address};
use crate::policy::Rng;
use crate::policy::accrual::{Accrual as Rule, Ejection, EjectionState, Report, Watch, may_eject};
use crate::policy::backoff::EjectionBackoff;
use crate::telemetry::record::EndpointState as Shown;

/// Of a windowed success rate: fewer requests than this say nothing (as in Finagle).
const MIN_REQUESTS: u32 = 5;
/// No probe is due.
const NEVER_US: u64 = u64::MAX;

/// One per service, for all shards.
#[derive(Debug)]
pub(super) struct Accrual {
    /// What times here are since; the shards' own clocks begin there too.
    started: Instant,
    changes: Changes,
    decisions: Mutex<Decisions>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Changes {
    number: AtomicU64,
    /// When the next probe is due.
    probe_at_us: AtomicU64,
    /// How many endpoints balancers pick from.
    eligible: AtomicU32,
    /// Attempts under way on all others, as counted last; for limits on endpoints alone.
    elsewhere: AtomicU32,
}

#[derive(Debug)]
struct Decisions {
    rule: Rule,
    max_ejected_percent: u32,
    backoff: EjectionBackoff,
    /// In the order of the plan.
    books: Vec<Book>,
    /// Not the service's any more, for as long as somebody has an attempt there: should the address
    /// come back, its limit counts them.
    departed: Vec<Arc<EndpointState>>,
    out: usize,
    rng: Rng,
}

/// What is decided of one endpoint.
#[derive(Debug)]
struct Book {
    endpoint: Arc<EndpointState>,
    ejection: Ejection,
    /// `None`: the rule is not about a rate.
    watch: Option<Watch>,
}

/// The changes of all services when a shard last looked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    number: u64,
    /// When the next probe is due; `Duration::MAX`: none is.
    pub(super) probe_at: Duration,
}

/// The rule as policies take it.
pub(super) fn rule(accrual: &config::Accrual) -> Rule {
    match *accrual {
        config::Accrual::None => Rule::None,
        config::Accrual::ConsecutiveFailures { failures } => Rule::ConsecutiveFailures { failures },
        config::Accrual::SuccessRate { percent, requests } => {
            Rule::SuccessRate { rate: f64::from(percent) / 100.0, requests }
        }
        config::Accrual::SuccessRateWindowed { percent, window } => Rule::SuccessRateWindowed {
            rate: f64::from(percent) / 100.0,
            window,
            min_requests: MIN_REQUESTS,
        },
    }
}

/// Whether a rule is about a rate, which is looked at from time to time.
pub(super) fn watches_rates(rule: Rule) -> bool {
    matches!(rule, Rule::SuccessRate { .. } | Rule::SuccessRateWindowed { .. })
}

impl Accrual {
    pub(super) fn new(started: Instant, seed: u64) -> Accrual {
        Accrual {
            started,
            changes: Changes {
                number: AtomicU64::new(0),
                probe_at_us: AtomicU64::new(NEVER_US),
                eligible: AtomicU32::new(0),
                elsewhere: AtomicU32::new(0),
            },
            decisions: Mutex::new(Decisions {
                rule: Rule::None,
                max_ejected_percent: 100,
                backoff: EjectionBackoff { min: Duration::ZERO, max: Duration::ZERO },
                books: Vec::new(),
                departed: Vec::new(),
                out: 0,
                rng: Rng::new(seed),
            }),
        }
    }

    /// Takes over a service's rules and endpoints. Those that were there keep their state, and what
    /// was counted for them unless the rule is another.
    pub(super) fn apply(
        &self,
        service: &config::Service,
        wanted: &[Wanted],
        make: impl Fn(&Address) -> EndpointState,
    ) -> Vec<Arc<EndpointState>> {
        let rules = &service.failure_accrual;
        let rule = rule(&rules.accrual);
        let backoff = EjectionBackoff { min: rules.min_ejection, max: rules.max_ejection };
        // Nothing is made or dropped under the lock, which shards may want.
        let mut fresh = self.missing(wanted, make);
        let mut decisions = self.lock();
        let is_same = decisions.rule == rule && decisions.backoff == backoff;
        decisions.rule = rule;
        decisions.backoff = backoff;
        decisions.max_ejected_percent = rules.max_ejected_percent;
        let old = std::mem::take(&mut decisions.books).into_iter();
        let mut old: HashMap<Address, Book> =
            old.map(|book| (book.endpoint.address.clone(), book)).collect();
        for (at, wanted) in (0..).zip(wanted) {
            let known = old.remove(&wanted.address);
            let mut new = || fresh.remove(&wanted.address);
            let Some(mut book) = known.or_else(|| new().map(|it| Book::new(it, rule, backoff)))
            else {
                debug_assert!(false, "what is not known was made");
                continue;
            };
            if !is_same {
                book.ejection.set_backoff(backoff);
                book.watch = rule.watch();
            }
            book.endpoint.at.store(at, Ordering::Relaxed);
            book.endpoint.is_drained.store(wanted.drained, Ordering::Relaxed);
            if service.health_check.is_none() {
                // Nobody would say otherwise any more.
                book.endpoint.is_unhealthy.store(false, Ordering::Relaxed);
            }
            decisions.books.push(book);
        }
        let is_out = |book: &&Book| book.ejection.state() != EjectionState::Alive;
        decisions.out = decisions.books.iter().filter(is_out).count();
        let departed = old.into_values().map(|book| book.endpoint);
        let mut departed: Vec<_> = decisions.departed.drain(..).chain(departed).collect();
        departed.retain(|it| decisions.find(it).is_none());
        decisions.departed = departed;
        self.publish(&decisions);
        let endpoints = decisions.books.iter().map(|book| book.endpoint.clone()).collect();
        drop(decisions);
        endpoints
    }

    /// The endpoints that are not known yet, or were and have gone.
    fn missing(
        &self,
        wanted: &[Wanted],
        make: impl Fn(&Address) -> EndpointState,
    ) -> HashMap<Address, Arc<EndpointState>> {
        let (known, departed) = {
            let mut decisions = self.lock();
            decisions.departed.retain(|it| Arc::strong_count(it) > 1);
            let known = decisions.books.iter().map(|book| book.endpoint.clone());
            (known.collect::<Vec<_>>(), decisions.departed.clone())
        };
        let known: HashSet<&Address> = known.iter().map(|it| &it.address).collect();
        let departed: HashMap<&Address, &Arc<EndpointState>> =
            departed.iter().map(|it| (&it.address, it)).collect();
        let unknown = wanted.iter().map(|it| &it.address).filter(|it| !known.contains(it));
        let make = |address: &Address| match departed.get(address) {
            Some(before) => (*before).clone(),
            None => Arc::new(make(address)),
        };
        unknown.map(|address| (address.clone(), make(address))).collect()
    }

    /// What there is to see now, if it is not what was `seen`.
    pub(super) fn changed_since(&self, seen: Seen) -> Option<Seen> {
        let number = self.changes.number.load(Ordering::Acquire);
        (number != seen.number).then(|| {
            let probe_at = match self.changes.probe_at_us.load(Ordering::Relaxed) {
                NEVER_US => Duration::MAX,
                us => Duration::from_micros(us),
            };
            Seen { number, probe_at }
        })
    }

    /// How many endpoints balancers pick from: those available, or all in service when most are
    /// out.
    fn eligible(&self) -> u32 {
        self.changes.eligible.load(Ordering::Relaxed)
    }

    /// How many requests may be under way with at most `most` on each endpoint: those that have an
    /// attempt where nobody is sent any more take no place of the others.
    pub(super) fn capacity(&self, most: u32) -> u32 {
        let elsewhere = self.changes.elsewhere.load(Ordering::Relaxed);
        most.saturating_mul(self.eligible()).saturating_add(elsewhere)
    }

    /// Counts anew what is under way on endpoints that nobody is sent to; the first shard does,
    /// where endpoints have a limit.
    pub(super) fn count_elsewhere(&self) {
        let decisions = self.lock();
        self.changes.elsewhere.store(decisions.elsewhere(), Ordering::Relaxed);
    }

    /// Consecutive failures are over.
    pub(super) fn succeeded(&self, endpoint: &EndpointState) {
        if endpoint.failures.load(Ordering::Relaxed) != 0 {
            endpoint.failures.store(0, Ordering::Relaxed);
        }
    }

    /// One failure more, by the rule that the shard goes by; whether it took the endpoint out.
    pub(super) fn failed(&self, endpoint: &EndpointState, rule: Rule) -> bool {
        if !matches!(rule, Rule::ConsecutiveFailures { .. }) {
            return false;
        }
        let in_a_row = endpoint.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if !rule.is_exceeded_by(in_a_row) {
            return false;
        }
        // From the beginning where it is not ejected either, or each further failure of the only
        // endpoint would take the lock.
        endpoint.failures.store(0, Ordering::Relaxed);
        let mut decisions = self.lock();
        let at = decisions.find(endpoint);
        at.is_some_and(|at| self.eject(&mut decisions, at))
    }

    /// Adds what a shard has seen of an endpoint; for success rates.
    pub(super) fn add(&self, endpoint: &EndpointState, successes: u32, failures: u32) {
        endpoint.successes_seen.fetch_add(successes, Ordering::Relaxed);
        endpoint.failures_seen.fetch_add(failures, Ordering::Relaxed);
    }

    /// Looks at the rates of all endpoints; the first shard does. Returns how many were ejected.
    pub(super) fn look(&self) -> u64 {
        let now = self.started.elapsed();
        let mut decisions = self.lock();
        let mut ejected = 0;
        for at in 0..decisions.books.len() {
            let Book { endpoint, watch, .. } = &mut decisions.books[at];
            let successes = endpoint.successes_seen.swap(0, Ordering::Relaxed);
            let failures = endpoint.failures_seen.swap(0, Ordering::Relaxed);
            let is_bad =
                watch.as_mut().is_some_and(|it| it.observe(successes.into(), failures.into(), now));
            if is_bad && self.eject(&mut decisions, at) {
                ejected += 1;
            }
        }
        ejected
    }

    /// The endpoint that the request which asks is to probe: one that is due, that is out for its
    /// failures alone, and that `takes` it.
    pub(super) fn try_probe(&self, mut takes: impl FnMut(&EndpointState) -> bool) {
        let now = self.started.elapsed();
        let mut decisions = self.lock();
        let found = decisions.books.iter_mut().any(|Book { endpoint, ejection, .. }| {
            let may = endpoint.may_be_probed() && ejection.is_due(now);
            may && takes(endpoint) && ejection.try_probe(now)
        });
        if found {
            self.publish(&decisions);
        }
    }

    /// A probe is over. For how long the endpoint was out, where that is over too.
    pub(super) fn report(&self, endpoint: &EndpointState, report: Report) -> Option<Duration> {
        let now = self.started.elapsed();
        let mut decisions = self.lock();
        let at = decisions.find(endpoint)?;
        let Decisions { books, out, rng, rule, .. } = &mut *decisions;
        let Book { ejection, watch, .. } = &mut books[at];
        if ejection.state() != EjectionState::Probing {
            // Its address went and came back meanwhile, and has a book of its own.
            return None;
        }
        let lasted = ejection.out_for(now);
        let revived = ejection.report(report, now, rng) == EjectionState::Alive;
        if revived {
            *out -= 1;
            endpoint.failures.store(0, Ordering::Relaxed);
            *watch = rule.watch();
        }
        self.publish(&decisions);
        revived.then_some(lasted)
    }

    /// The health checker's verdict.
    pub(super) fn set_health(&self, endpoint: &EndpointState, is_healthy: bool) {
        let decisions = self.lock();
        endpoint.is_unhealthy.store(!is_healthy, Ordering::Relaxed);
        self.publish(&decisions);
    }

    fn eject(&self, decisions: &mut Decisions, at: usize) -> bool {
        let now = self.started.elapsed();
        let total = decisions.books.len();
        let Decisions { books, rng, out, max_ejected_percent, .. } = decisions;
        let ejected = may_eject(*out, total, *max_ejected_percent)
            && books[at].ejection.eject(now, rng).is_some();
        if ejected {
            *out += 1;
            self.publish(decisions);
        }
        ejected
    }

    /// Lets the shards see what was decided.
    fn publish(&self, decisions: &Decisions) {
        let mut probe_at_us = NEVER_US;
        let (mut available, mut out) = (0, 0);
        for Book { endpoint, ejection, .. } in &decisions.books {
            let state = match ejection.state() {
                EjectionState::Alive => Shown::Available,
                EjectionState::Probing => Shown::Probing,
                EjectionState::Ejected { until } if endpoint.may_be_probed() => {
                    probe_at_us = probe_at_us.min(until.as_micros() as u64);
                    Shown::Ejected
                }
                EjectionState::Ejected { .. } => Shown::Ejected,
            };
            endpoint.ejection.store(state as u8, Ordering::Relaxed);
            match endpoint.shown() {
                Shown::Available => available += 1,
                Shown::Draining => {}
                Shown::Ejected | Shown::Probing | Shown::Unhealthy => out += 1,
            }
        }
        // The balancer's own rule (`policy::balance`).
        let eligible = if 2 * out > available + out { available + out } else { available };
        self.changes.eligible.store(eligible, Ordering::Relaxed);
        self.changes.elsewhere.store(decisions.elsewhere(), Ordering::Relaxed);
        self.changes.probe_at_us.store(probe_at_us, Ordering::Relaxed);
        // Who sees the number sees what was stored before it.
        self.changes.number.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Decisions> {
        // A panic ends the process.
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn new(endpoint: Arc<EndpointState>, rule: Rule, backoff: EjectionBackoff) -> Book {
        Book { endpoint, ejection: Ejection::new(backoff), watch: rule.watch() }
    }
}

impl Decisions {
    /// Attempts under way on endpoints that balancers do not pick from.
    fn elsewhere(&self) -> u32 {
        let is_in = |shown: Shown| shown != Shown::Draining;
        let states = || self.books.iter().map(|book| &book.endpoint);
        let in_service = states().filter(|it| is_in(it.shown())).count();
        let available = states().filter(|it| it.shown() == Shown::Available).count();
        let most_are_out = 2 * (in_service - available) > in_service;
        let is_picked = |it: &&Arc<EndpointState>| match it.shown() {
            Shown::Available => true,
            Shown::Draining => false,
            Shown::Ejected | Shown::Probing | Shown::Unhealthy => most_are_out,
        };
        let out = states().filter(|it| !is_picked(it)).chain(&self.departed);
        out.map(|it| it.running.count()).sum()
    }

    /// Where an endpoint's book is. `None`: it is the service's no more.
    fn find(&self, endpoint: &EndpointState) -> Option<usize> {
        let at = endpoint.at.load(Ordering::Relaxed) as usize;
        let book = self.books.get(at)?;
        std::ptr::eq(&*book.endpoint, endpoint).then_some(at)
    }
}

impl Seen {
    /// The same, with the next probe at another time.
    pub(super) fn with_probe_at(self, probe_at: Duration) -> Seen {
        Seen { probe_at, ..self }
    }

    /// As it is before anything has changed.
    pub(super) const NOTHING: Seen = Seen { number: 0, probe_at: Duration::MAX };
}
