//! How long to wait: before a retry, and before an ejected endpoint is tried again.
//!
//! - Retries of one request: not at all, a constant, or decorrelated jitter (Brooker, "Exponential
//!   Backoff and Jitter", AWS Architecture Blog, 2015): the next wait is drawn between `min` and
//!   three times the last one, and cut at `max`. Many clients that failed together so come back
//!   apart.
//! - Ejections: equal jitter of the same article, as Finagle's `equalJittered`: half of a base that
//!   doubles with each ejection in a row is fixed and the other half random, so that an endpoint is
//!   out for a known time at least, and several that fell together are not probed together.
//!
//! Invariants: a wait is at least `min`, unless `max` is less, and never over `max`. What counts as
//! an ejection in a row is `accrual/`'s to know.

use std::time::Duration;

use super::Rng;
use super::window::nanos;

/// From 0 the range of decorrelated jitter would never grow.
const LEAST_JITTERED: Duration = Duration::from_millis(1);

/// The waits before retries, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    None,
    Constant(Duration),
    /// Decorrelated; a `min` under 1 ms counts as 1 ms.
    Jittered {
        min: Duration,
        max: Duration,
    },
}

/// The waits of one request.
#[derive(Debug, Clone)]
pub struct Delays {
    backoff: Backoff,
    last: Duration,
}

/// How long endpoints stay out, as configured; `min` 5 s and `max` 300 s are Linkerd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionBackoff {
    pub min: Duration,
    pub max: Duration,
}

impl Backoff {
    /// For a new request.
    pub fn delays(self) -> Delays {
        Delays { backoff: self, last: Duration::ZERO }
    }
}

impl Delays {
    /// How long to wait before the next retry; zero is at once.
    pub fn next_delay(&mut self, rng: &mut Rng) -> Duration {
        match self.backoff {
            Backoff::None => Duration::ZERO,
            Backoff::Constant(delay) => delay,
            Backoff::Jittered { min, max } => {
                let min = min.max(LEAST_JITTERED);
                let high = self.last.max(min).saturating_mul(3);
                self.last = between(min, high, rng).min(max);
                self.last
            }
        }
    }
}

impl EjectionBackoff {
    /// How long an ejection lasts that has `earlier` ones before it in a row: from 5 to 10 s, 10 to
    /// 20 s, and so on to 150 to 300 s with Linkerd's numbers.
    pub fn length(&self, earlier: u32, rng: &mut Rng) -> Duration {
        let doubled = 2_u32.checked_pow(earlier.saturating_add(1)).unwrap_or(u32::MAX);
        let high = self.min.saturating_mul(doubled).min(self.max);
        let low = (high / 2).max(self.min).min(high);
        between(low, high, rng)
    }
}

/// Uniform, both ends included.
fn between(low: Duration, high: Duration, rng: &mut Rng) -> Duration {
    let range = nanos(high.saturating_sub(low)).saturating_add(1);
    low + Duration::from_nanos(rng.below(range as usize) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn none_and_constant() {
        let mut rng = Rng::new(1);
        let (mut none, mut constant) = (Backoff::None.delays(), Backoff::Constant(ms(7)).delays());
        for _ in 0..3 {
            assert_eq!(none.next_delay(&mut rng), Duration::ZERO);
            assert_eq!(constant.next_delay(&mut rng), ms(7));
        }
    }

    #[test]
    fn decorrelated_jitter_stays_in_its_range_and_reaches_it() {
        let (min, max) = (ms(10), ms(1_000));
        let mut firsts = Vec::new();
        let mut longest = Duration::ZERO;
        for seed in 0..2_000 {
            let mut rng = Rng::new(seed);
            let mut delays = Backoff::Jittered { min, max }.delays();
            let mut last = min;
            for at in 0..10 {
                let delay = delays.next_delay(&mut rng);
                assert!(delay >= min && delay <= (last * 3).min(max), "seed {seed}: {delay:?}");
                last = delay;
                longest = longest.max(delay);
                if at == 0 {
                    firsts.push(delay);
                }
            }
        }
        assert_eq!(longest, max);
        // Uniform from 10 to 30 ms.
        let mean = firsts.iter().sum::<Duration>() / firsts.len() as u32;
        assert!((ms(19)..ms(21)).contains(&mean), "{mean:?}");
        assert!(*firsts.iter().min().unwrap() < ms(11) && *firsts.iter().max().unwrap() > ms(29));
    }

    #[test]
    fn odd_numbers_of_decorrelated_jitter() {
        let mut rng = Rng::new(1);
        let mut from_zero = Backoff::Jittered { min: Duration::ZERO, max: ms(500) }.delays();
        let grown = (0..200).map(|_| from_zero.next_delay(&mut rng)).max();
        assert_eq!(grown, Some(ms(500)));
        let mut upside_down = Backoff::Jittered { min: ms(50), max: ms(5) }.delays();
        assert_eq!(upside_down.next_delay(&mut rng), ms(5));
        let mut endless = Backoff::Jittered { min: Duration::MAX, max: Duration::MAX }.delays();
        assert_eq!(endless.next_delay(&mut rng), Duration::MAX);
    }

    #[test]
    fn ejections_double_with_half_of_their_length_fixed() {
        let backoff =
            EjectionBackoff { min: Duration::from_secs(5), max: Duration::from_secs(300) };
        let ranges = [(5, 10), (10, 20), (20, 40), (40, 80), (80, 160), (150, 300), (150, 300)];
        for (earlier, (low, high)) in (0..).zip(ranges) {
            let lengths = (0..1_000).map(|seed| backoff.length(earlier, &mut Rng::new(seed)));
            let lengths: Vec<f64> = lengths.map(|length| length.as_secs_f64()).collect();
            let (low, high) = (f64::from(low), f64::from(high));
            assert!(lengths.iter().all(|length| (low..=high).contains(length)), "{earlier}");
            let mean = lengths.iter().sum::<f64>() / 1_000.0;
            let expected = (low + high) / 2.0;
            assert!((mean - expected).abs() < expected * 0.02, "{earlier}: {mean}");
        }
        let last = backoff.length(u32::MAX, &mut Rng::new(1)).as_secs();
        assert!((150..=300).contains(&last));
    }

    #[test]
    fn a_narrow_range_of_ejections_keeps_its_ends() {
        let backoff = EjectionBackoff { min: ms(80), max: ms(100) };
        for seed in 0..100 {
            for earlier in 0..3 {
                let length = backoff.length(earlier, &mut Rng::new(seed));
                assert!((ms(80)..=ms(100)).contains(&length), "seed {seed}: {length:?}");
            }
        }
        let upside_down = EjectionBackoff { min: ms(80), max: ms(10) };
        assert_eq!(upside_down.length(0, &mut Rng::new(1)), ms(10));
    }
}
