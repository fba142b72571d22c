//! Success rates of one endpoint, fed with what all shards counted since the last time.
//!
//! - Over requests: an exponential moving average that a request enters with weight
//!   `1 - exp(-1 / requests)`, as Finagle's `Ema` over a count of requests. Several at once enter
//!   as so many requests with their mean, since their order is not known. The first enter whole.
//!   It acts after `requests` requests, and never on fewer than 5.
//! - Over time: exact counts of a sliding window in ten buckets. It acts on `min_requests` or more
//!   of them (5 are Finagle's).
//!
//! An endpoint is found wanting only when a failure came just now: that fewer successes are left in
//! the window is no reason to eject it. What was seen is forgotten on [`Watch::reset`], which
//! belongs to a revival: the failures before would count again otherwise.

use std::time::Duration;

use super::Accrual;
use crate::policy::window::Window;

const BUCKETS: usize = 10;
/// On fewer requests one failure decides.
const LEAST_REQUESTS: u32 = 5;

/// Judges one endpoint.
#[derive(Debug, Clone)]
pub struct Watch {
    bound: f64,
    min_requests: u64,
    rate: Rate,
}

#[derive(Debug, Clone)]
enum Rate {
    OverRequests {
        /// What one request leaves of the average.
        keep: f64,
        average: f64,
        seen: u64,
    },
    OverTime {
        successes: Window<BUCKETS>,
        failures: Window<BUCKETS>,
    },
}

impl Watch {
    pub(super) fn new(accrual: &Accrual) -> Option<Watch> {
        match *accrual {
            Accrual::SuccessRate { rate, requests } => Some(Watch {
                bound: rate,
                min_requests: u64::from(requests.max(LEAST_REQUESTS)),
                rate: Rate::OverRequests {
                    keep: (-1.0 / f64::from(requests.max(1))).exp(),
                    average: 0.0,
                    seen: 0,
                },
            }),
            Accrual::SuccessRateWindowed { rate, window, min_requests } => {
                let width = window / BUCKETS as u32;
                let (successes, failures) = (Window::new(width), Window::new(width));
                Some(Watch {
                    bound: rate,
                    min_requests: u64::from(min_requests.max(1)),
                    rate: Rate::OverTime { successes, failures },
                })
            }
            Accrual::None | Accrual::ConsecutiveFailures { .. } => None,
        }
    }

    /// Takes what came since the last time; whether the endpoint should be ejected now.
    pub fn observe(&mut self, successes: u64, failures: u64, now: Duration) -> bool {
        self.rate.add(successes, failures, now);
        let (rate, seen) = self.rate.get(now);
        failures > 0 && seen >= self.min_requests && rate < self.bound
    }

    /// The success rate as of `now`, from 0 to 1; none before a request.
    pub fn success_rate(&mut self, now: Duration) -> Option<f64> {
        let (rate, seen) = self.rate.get(now);
        (seen > 0).then_some(rate)
    }

    /// Forgets all that was seen.
    pub fn reset(&mut self) {
        match &mut self.rate {
            Rate::OverRequests { seen, .. } => *seen = 0,
            Rate::OverTime { successes, failures } => {
                successes.clear();
                failures.clear();
            }
        }
    }
}

impl Rate {
    fn add(&mut self, good: u64, bad: u64, now: Duration) {
        let total = good + bad;
        if total == 0 {
            return;
        }
        match self {
            Rate::OverRequests { keep, average, seen } => {
                let mean = good as f64 / total as f64;
                let left = if *seen == 0 { 0.0 } else { keep.powf(total as f64) };
                *average = *average * left + mean * (1.0 - left);
                *seen += total;
            }
            Rate::OverTime { successes, failures } => {
                successes.add(good, now);
                failures.add(bad, now);
            }
        }
    }

    /// With the number of requests it is made of.
    fn get(&mut self, now: Duration) -> (f64, u64) {
        match self {
            Rate::OverRequests { average, seen, .. } => (*average, *seen),
            Rate::OverTime { successes, failures } => {
                let good = successes.sum(now);
                let total = good + failures.sum(now);
                (good as f64 / total.max(1) as f64, total)
            }
        }
    }
}
