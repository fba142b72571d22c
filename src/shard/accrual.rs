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

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;
use crate::policy::Rng;
use crate::policy::accrual::{Accrual as Rule, Ejection, EjectionState, Report, Watch, may_eject};
use crate::policy::backoff::EjectionBackoff;
use crate::telemetry::record::EndpointState;

/// Of a windowed success rate: fewer requests than this say nothing (as in Finagle).
const MIN_REQUESTS: u32 = 5;
/// No probe is due.
const NEVER_US: u64 = u64::MAX;

/// One per service, for all shards.
pub(super) struct Accrual {
    rule: Rule,
    max_ejected_percent: u32,
    /// What times here are since; the shards' own clocks begin there too.
    started: Instant,
    endpoints: Box<[Endpoint]>,
    changes: Changes,
    decisions: Mutex<Decisions>,
}

/// Two lines, since prefetchers fetch by twos.
#[repr(align(128))]
struct Endpoint {
    /// In a row; for consecutive failures alone.
    failures: AtomicU32,
    /// What all shards have seen since the first one last looked; for success rates alone.
    successes_seen: AtomicU32,
    failures_seen: AtomicU32,
    /// An `EndpointState`; written under the lock.
    state: AtomicU8,
}

#[repr(align(128))]
struct Changes {
    number: AtomicU64,
    /// When the next probe is due.
    probe_at_us: AtomicU64,
}

struct Decisions {
    ejections: Vec<Ejection>,
    /// Empty where the rule is not about a rate.
    watches: Vec<Watch>,
    out: usize,
    rng: Rng,
}

/// The changes of all services when a shard last looked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seen {
    number: u64,
    /// When the next probe is due; `Duration::MAX`: none is.
    pub(super) probe_at: Duration,
}

impl Accrual {
    pub(super) fn new(service: &config::Service, started: Instant, seed: u64) -> Accrual {
        let rules = &service.failure_accrual;
        let rule = match rules.accrual {
            config::Accrual::None => Rule::None,
            config::Accrual::ConsecutiveFailures { failures } => {
                Rule::ConsecutiveFailures { failures }
            }
            config::Accrual::SuccessRate { percent, requests } => {
                Rule::SuccessRate { rate: f64::from(percent) / 100.0, requests }
            }
            config::Accrual::SuccessRateWindowed { percent, window } => Rule::SuccessRateWindowed {
                rate: f64::from(percent) / 100.0,
                window,
                min_requests: MIN_REQUESTS,
            },
        };
        let backoff = EjectionBackoff { min: rules.min_ejection, max: rules.max_ejection };
        let endpoint = |_: &config::Endpoint| Endpoint {
            failures: AtomicU32::new(0),
            successes_seen: AtomicU32::new(0),
            failures_seen: AtomicU32::new(0),
            state: AtomicU8::new(EndpointState::Available as u8),
        };
        let endpoints: Box<[Endpoint]> = service.endpoints.iter().map(endpoint).collect();
        Accrual {
            rule,
            max_ejected_percent: rules.max_ejected_percent,
            started,
            changes: Changes { number: AtomicU64::new(0), probe_at_us: AtomicU64::new(NEVER_US) },
            decisions: Mutex::new(Decisions {
                ejections: endpoints.iter().map(|_| Ejection::new(backoff)).collect(),
                watches: endpoints.iter().filter_map(|_| rule.watch()).collect(),
                out: 0,
                rng: Rng::new(seed),
            }),
            endpoints,
        }
    }

    /// Whether the rule is about a rate, which is looked at from time to time.
    pub(super) fn watches_rates(&self) -> bool {
        matches!(self.rule, Rule::SuccessRate { .. } | Rule::SuccessRateWindowed { .. })
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

    pub(super) fn state(&self, endpoint: usize) -> EndpointState {
        match self.endpoints[endpoint].state.load(Ordering::Relaxed) {
            it if it == EndpointState::Ejected as u8 => EndpointState::Ejected,
            it if it == EndpointState::Probing as u8 => EndpointState::Probing,
            _ => EndpointState::Available,
        }
    }

    /// Consecutive failures are over.
    pub(super) fn succeeded(&self, endpoint: usize) {
        let failures = &self.endpoints[endpoint].failures;
        if failures.load(Ordering::Relaxed) != 0 {
            failures.store(0, Ordering::Relaxed);
        }
    }

    /// One failure more; whether it took the endpoint out.
    pub(super) fn failed(&self, endpoint: usize) -> bool {
        if !matches!(self.rule, Rule::ConsecutiveFailures { .. }) {
            return false;
        }
        let failures = &self.endpoints[endpoint].failures;
        if !self.rule.is_exceeded_by(failures.fetch_add(1, Ordering::Relaxed) + 1) {
            return false;
        }
        // From the beginning where it is not ejected either, or each further failure of the only
        // endpoint would take the lock.
        failures.store(0, Ordering::Relaxed);
        self.eject(&mut self.lock(), endpoint)
    }

    /// Adds what a shard has seen of an endpoint; for success rates.
    pub(super) fn add(&self, endpoint: usize, successes: u32, failures: u32) {
        let it = &self.endpoints[endpoint];
        it.successes_seen.fetch_add(successes, Ordering::Relaxed);
        it.failures_seen.fetch_add(failures, Ordering::Relaxed);
    }

    /// Looks at the rates of all endpoints; the first shard does. Returns how many were ejected.
    pub(super) fn look(&self) -> u64 {
        let now = self.started.elapsed();
        let mut decisions = self.lock();
        let mut ejected = 0;
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let successes = endpoint.successes_seen.swap(0, Ordering::Relaxed);
            let failures = endpoint.failures_seen.swap(0, Ordering::Relaxed);
            let watch = decisions.watches.get_mut(at);
            let is_bad = watch.is_some_and(|it| it.observe(successes.into(), failures.into(), now));
            if is_bad && self.eject(&mut decisions, at) {
                ejected += 1;
            }
        }
        ejected
    }

    /// The endpoint that the request which asks is to probe, if one is due; not `avoid`.
    pub(super) fn try_probe(&self, avoid: Option<usize>) -> Option<usize> {
        let now = self.started.elapsed();
        let mut decisions = self.lock();
        let mut ejections = (0..).zip(&mut decisions.ejections);
        let endpoint = ejections.find_map(|(at, ejection)| {
            (Some(at) != avoid && ejection.try_probe(now)).then_some(at)
        })?;
        self.publish(&decisions);
        Some(endpoint)
    }

    /// A probe is over. For how long the endpoint was out, where that is over too.
    pub(super) fn report(&self, endpoint: usize, report: Report) -> Option<Duration> {
        let now = self.started.elapsed();
        let mut decisions = self.lock();
        let Decisions { ejections, watches, out, rng } = &mut *decisions;
        let ejection = &mut ejections[endpoint];
        debug_assert_eq!(ejection.state(), EjectionState::Probing, "who probes reports once");
        let lasted = ejection.out_for(now);
        let revived = ejection.report(report, now, rng) == EjectionState::Alive;
        if revived {
            *out -= 1;
            self.endpoints[endpoint].failures.store(0, Ordering::Relaxed);
            if let (Some(watch), Some(fresh)) = (watches.get_mut(endpoint), self.rule.watch()) {
                *watch = fresh;
            }
        }
        self.publish(&decisions);
        revived.then_some(lasted)
    }

    fn eject(&self, decisions: &mut Decisions, endpoint: usize) -> bool {
        let Decisions { ejections, rng, out, .. } = decisions;
        let ejected = may_eject(*out, self.endpoints.len(), self.max_ejected_percent)
            && ejections[endpoint].eject(self.started.elapsed(), rng).is_some();
        if ejected {
            *out += 1;
            self.publish(decisions);
        }
        ejected
    }

    /// Lets the shards see what was decided.
    fn publish(&self, decisions: &Decisions) {
        let mut probe_at_us = NEVER_US;
        for (endpoint, ejection) in self.endpoints.iter().zip(&decisions.ejections) {
            let state = match ejection.state() {
                EjectionState::Alive => EndpointState::Available,
                EjectionState::Probing => EndpointState::Probing,
                EjectionState::Ejected { until } => {
                    probe_at_us = probe_at_us.min(until.as_micros() as u64);
                    EndpointState::Ejected
                }
            };
            endpoint.state.store(state as u8, Ordering::Relaxed);
        }
        self.changes.probe_at_us.store(probe_at_us, Ordering::Relaxed);
        // Who sees the number sees what was stored before it.
        self.changes.number.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Decisions> {
        // A panic ends the process.
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// As it is before anything has changed.
    pub(super) const NOTHING: Seen = Seen { number: 0, probe_at: Duration::MAX };
}
