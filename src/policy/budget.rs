//! How many retries a service may make: a share of its requests, and a few on top, after Finagle's
//! `RetryBudget` (its guide, "Retries"; SRE book, chapter 21, "Handling Overload").
//!
//! - The share: over a sliding window, at most `percent` retries per 100 requests.
//! - The reserve: `min_per_sec` retries per second, so that a service with few requests may retry
//!   at all. It keeps what one second brings (at least one retry), starts full, and is touched only
//!   where the share is used up. Finagle's keeps a whole window's, which it may spend at once.
//!
//! A retry of the share is paid for by requests of the window before it, and none pays twice. So
//! with every endpoint failing for a window or longer, and the defaults (20 %, 10/s), upstream load
//! is 1.2 times the offered load and 10/s: under 1.3 times for more than 100 requests per second.
//! Below that rate the reserve decides: at 10 requests per second each may be retried once, and
//! `max_retries` bounds the factor. What the share has saved up may be spent at once, so that the
//! first second of an outage may see more.
//!
//! The share needs no division over shards, since each counts its own requests. The reserve is the
//! whole process's: a number that all shards may change, kept by the caller. Divided, a shard that
//! sees few requests could not go past a single dead endpoint.
//!
//! Buckets of a tenth of the window. A request counts for 9 to 10 tenths and a retry for 10 to 11,
//! so that nothing is granted that exact times would have refused. All sums are integers.
//!
//! Which failures are worth a retry is the classifier's to know; how many one request may have is
//! the caller's.

use std::time::Duration;

use super::window::{Window, nanos};

const BUCKETS: usize = 10;
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// One service's share on one shard.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    percent: u64,
    requests: Window<BUCKETS>,
    /// Retries that the share paid for.
    retries: Window<{ BUCKETS + 1 }>,
}

impl RetryBudget {
    pub fn new(percent: u32, window: Duration) -> RetryBudget {
        let width = window / BUCKETS as u32;
        RetryBudget {
            percent: u64::from(percent),
            requests: Window::new(width),
            retries: Window::new(width),
        }
    }

    /// A request came; once per request, not per attempt.
    pub fn deposit(&mut self, now: Duration) {
        self.requests.add(1, now);
    }

    /// Whether one more retry may be made, which is then counted.
    pub fn try_withdraw(&mut self, now: Duration) -> bool {
        let enough = self.left(now) > 0;
        if enough {
            self.retries.add(1, now);
        }
        enough
    }

    /// Retries that could be made now.
    pub fn left(&mut self, now: Duration) -> u64 {
        let allowed = self.requests.sum(now).saturating_mul(self.percent) / 100;
        allowed.saturating_sub(self.retries.sum(now))
    }
}

/// One service's reserve, as the generic cell rate algorithm has it (ITU-T I.371, annex A): its
/// state is the time at which it would be full again, in nanoseconds, and 0 at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// Between two retries; rounded up, so that there are never more. `None`: no retries.
    interval_ns: Option<u64>,
}

impl Reserve {
    pub fn new(min_per_sec: u32) -> Reserve {
        let per_sec = u64::from(min_per_sec);
        Reserve { interval_ns: (per_sec > 0).then(|| NANOS_PER_SEC.div_ceil(per_sec)) }
    }

    /// The state after one more retry; none where there is none to be had.
    pub fn take(&self, state: u64, now: Duration) -> Option<u64> {
        let (interval, now) = (self.interval_ns?, nanos(now));
        let after = state.max(now).saturating_add(interval);
        (after <= now.saturating_add(room(interval))).then_some(after)
    }

    /// Retries that could be made now.
    pub fn left(&self, state: u64, now: Duration) -> u64 {
        let Some(interval) = self.interval_ns else { return 0 };
        let now = nanos(now);
        now.saturating_add(room(interval)).saturating_sub(state.max(now)) / interval
    }
}

/// What a second brings, or a single retry.
fn room(interval_ns: u64) -> u64 {
    interval_ns.max(NANOS_PER_SEC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rng;

    const WINDOW: Duration = Duration::from_secs(10);

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    fn withdrawn(budget: &mut RetryBudget, now: Duration) -> u64 {
        let expected = budget.left(now);
        let granted = (0..).take_while(|_| budget.try_withdraw(now)).count() as u64;
        assert_eq!(granted, expected, "what is left is what is granted");
        granted
    }

    /// Takes from a reserve, if there is something.
    fn take(reserve: Reserve, state: &mut u64, now: Duration) -> bool {
        let left = reserve.left(*state, now);
        let after = reserve.take(*state, now);
        assert_eq!(after.is_some(), left > 0, "what is left is what is granted");
        *state = after.unwrap_or(*state);
        after.is_some()
    }

    #[test]
    fn a_share_of_the_requests_of_the_window() {
        let mut budget = RetryBudget::new(20, WINDOW);
        assert_eq!(withdrawn(&mut budget, secs(0.0)), 0);
        (0..104).for_each(|_| budget.deposit(secs(0.5)));
        assert_eq!(withdrawn(&mut budget, secs(1.0)), 20);
        budget.deposit(secs(1.0));
        assert_eq!(withdrawn(&mut budget, secs(1.0)), 1);
        assert_eq!(withdrawn(&mut budget, secs(1.0)), 0);
        // Requests leave after 9 to 10 s, the retries they paid for after 10 to 11 s.
        (0..100).for_each(|_| budget.deposit(secs(10.5)));
        assert_eq!(withdrawn(&mut budget, secs(10.99)), 0);
        assert_eq!(withdrawn(&mut budget, secs(12.0)), 20);
        assert_eq!(withdrawn(&mut budget, secs(60.0)), 0);
    }

    #[test]
    fn a_few_per_second_without_drift() {
        let (reserve, mut state) = (Reserve::new(10), 0);
        let granted = (0..100).filter(|_| take(reserve, &mut state, secs(3.0))).count();
        assert_eq!(granted, 10, "what one second brings");
        // Asked for every 7 ms: 1,000 s bring 10,000 and those of the beginning.
        let (reserve, mut state) = (Reserve::new(10), 0);
        let asked = (0..=1_000_000_u64 / 7).map(|step| Duration::from_millis(step * 7));
        let granted = asked.filter(|now| take(reserve, &mut state, *now)).count();
        assert_eq!(granted, 10_000 + 9);
        let (reserve, mut state) = (Reserve::new(1), 0);
        let asked = [0.0, 0.1, 0.99, 1.0, 1.9, 2.0, 9.0, 9.1];
        let granted = asked.map(|now| take(reserve, &mut state, secs(now)));
        assert_eq!(granted, [true, false, false, true, false, true, true, false]);
        assert_eq!(Reserve::new(0).left(0, secs(9.0)), 0);
        assert_eq!(Reserve::new(0).take(0, secs(9.0)), None);
    }

    /// How many of these times lie in the window up to `now`, which does not include its beginning.
    fn within(times: &[u64], now: u64, window: u64) -> u64 {
        times.iter().rev().take_while(|&&time| time + window > now).count() as u64
    }

    /// Random histories against lists of times. Where a retry is granted, an exact window would
    /// have allowed it; where it is refused, one that is a tenth stricter would not have.
    #[test]
    fn never_more_than_a_list_of_times() {
        for seed in 0..3_000 {
            let mut rng = Rng::new(seed);
            let percent = [0, 1, 20, 50, 100, 150][rng.below(6)];
            let min_per_sec = [0, 0, 1, 10, 37][rng.below(5)];
            let window_ms = 1_000 + rng.below(900) as u64 * 10;
            let mut budget = RetryBudget::new(percent, Duration::from_millis(window_ms));
            let (reserve, mut state) = (Reserve::new(min_per_sec), 0);
            let (percent, per_sec) = (u64::from(percent), u64::from(min_per_sec));
            let (mut requests, mut shared, mut reserved) = (Vec::new(), Vec::new(), Vec::new());
            let mut now_ms = rng.below(100_000) as u64;
            for _ in 0..150 {
                let pause = [1, 2, window_ms as usize / 10, window_ms as usize][rng.below(4)];
                now_ms += rng.below(pause) as u64;
                let now = Duration::from_millis(now_ms);
                if rng.below(3) > 0 {
                    budget.deposit(now);
                    requests.push(now_ms);
                    continue;
                }
                let share = |window_ms| within(&requests, now_ms, window_ms) * percent / 100;
                if budget.try_withdraw(now) {
                    shared.push(now_ms);
                    let made = within(&shared, now_ms, window_ms);
                    assert!(made <= share(window_ms), "seed {seed} at {now_ms} ms");
                    let paid = requests.len() as u64 * percent / 100;
                    assert!(shared.len() as u64 <= paid, "seed {seed}: none pays twice");
                    continue;
                }
                let made = within(&shared, now_ms, window_ms / 10 * 11);
                assert!(made >= share(window_ms / 10 * 9), "seed {seed} at {now_ms} ms");
                if take(reserve, &mut state, now) {
                    reserved.push(now_ms);
                    let kept = per_sec.max(1) * 1_000;
                    let made = within(&reserved, now_ms, window_ms) * 1_000;
                    assert!(made <= per_sec * window_ms + kept, "seed {seed} at {now_ms} ms");
                }
            }
        }
    }

    /// Every attempt fails at once and asks for its retries; requests come at random to the shards.
    #[test]
    fn upstream_load_stays_under_1_3_times_the_offered_load() {
        for seed in 0..30 {
            let mut rng = Rng::new(seed);
            let shards = [1, 2, 4, 8][rng.below(4)];
            let per_sec = 130 + rng.below(1_500);
            let mut budgets = vec![RetryBudget::new(20, WINDOW); shards];
            let (reserve, mut state) = (Reserve::new(10), 0);
            let (mut offered, mut sent) = (0_u64, 0_u64);
            let mut now = Duration::ZERO;
            // Healthy for some seconds, during which the share fills.
            let outage = Duration::from_secs(rng.below(2) as u64 * 15);
            while now < outage + Duration::from_secs(10) {
                now += Duration::from_secs_f64(rng.unit() * 2.0 / per_sec as f64);
                let budget = &mut budgets[rng.below(shards)];
                budget.deposit(now);
                if now < outage {
                    continue;
                }
                offered += 1;
                let mut asks = || budget.try_withdraw(now) || take(reserve, &mut state, now);
                sent += 1 + (0..2).take_while(|_| asks()).count() as u64;
            }
            let load = sent as f64 / offered as f64;
            assert!(load < 1.3, "seed {seed}: {load} at {per_sec} per second, {shards} shards");
            assert!(load > 1.19, "seed {seed}: {load} at {per_sec} per second: retries are made");
        }
    }
}
