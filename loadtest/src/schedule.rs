//! When requests are meant to start: the open loop's half that does not ask the server.
//!
//! One `Schedule` is one core's share. Constant rates and ramps are one sequence for the whole run,
//! of which core i of n takes every n-th; each moment is computed from its number alone, so that no
//! error adds up over hours. Poisson arrivals are drawn per core at an n-th of the rate:
//! independent Poisson processes add up to one. Moments are offsets from the run's beginning, never
//! earlier than the one before. Knows no clock and sends nothing.

use std::fmt;
use std::time::Duration;

use ringlane::policy::Rng;

const NANOS_PER_SECOND: f64 = 1e9;
/// Beyond this, a gap would be shorter than what the moments are counted in.
const MAX_PER_SECOND: f64 = NANOS_PER_SECOND;

/// How the intended starts of the whole run are spread, over all cores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// The k-th, from 0, at k / `per_second`.
    Constant { per_second: f64 },
    /// Independent of each other: gaps are exponential, their mean is 1 / `per_second`.
    Poisson { per_second: f64 },
    /// The rate goes from one to the other in a straight line, and stays there. The k-th is where
    /// the integral of the rate is k.
    Ramp { from_per_second: f64, to_per_second: f64, over: Duration },
}

/// Whichever comes first; `None` never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Nothing starts at this offset or later.
    pub after: Option<Duration>,
    /// Of all cores together.
    pub requests: Option<u64>,
}

/// Which core of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub core: u32,
    pub cores: u32,
}

impl Share {
    /// Its part of a count: all parts add up to it, and no two differ by more than one.
    pub fn of(self, all: u64) -> u64 {
        let cores = u64::from(self.cores);
        all / cores + u64::from(u64::from(self.core) < all % cores)
    }
}

/// The intended starts of one core, in order.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    after_ns: u64,
    share: Share,
    /// How many this core may take in all.
    limit: u64,
    taken: u64,
    /// The next moment, where there is one.
    next_ns: Option<u64>,
    /// Poisson: the next moment with its fraction. 2^53 ns are 104 days.
    drawn_ns: f64,
    rng: Rng,
}

/// Why there can be no such schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScheduleError {
    Rate(f64),
    NoRamp,
    Cores(Share),
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScheduleError::Rate(rate) => write!(
                out,
                "a rate of {rate}/s; allowed: more than 0, up to {MAX_PER_SECOND}/s \
                 (a ramp may begin or end at 0)"
            ),
            ScheduleError::NoRamp => {
                write!(out, "a ramp over no time; allowed: a duration of 1 ns or more")
            }
            ScheduleError::Cores(share) => write!(
                out,
                "core {} of {}; allowed: a number below that of cores, which is 1 or more",
                share.core, share.cores
            ),
        }
    }
}

impl std::error::Error for ScheduleError {}

impl Arrivals {
    /// How many are meant to have started within the first `time`, on average where it is random.
    pub fn expected_by(&self, time: Duration) -> f64 {
        let time_s = time.as_secs_f64();
        match *self {
            Arrivals::Constant { per_second } | Arrivals::Poisson { per_second } => {
                per_second * time_s
            }
            Arrivals::Ramp { from_per_second: from, to_per_second: to, over } => {
                let over_s = over.as_secs_f64();
                let on_ramp_s = time_s.min(over_s);
                let slope = (to - from) / over_s;
                on_ramp_s * (from + slope * on_ramp_s / 2.0) + (time_s - on_ramp_s) * to
            }
        }
    }

    fn check(&self) -> Result<(), ScheduleError> {
        let rate = |rate: f64, from: f64| {
            let right = rate.is_finite() && rate >= from && rate <= MAX_PER_SECOND;
            if right { Ok(()) } else { Err(ScheduleError::Rate(rate)) }
        };
        match *self {
            Arrivals::Constant { per_second } | Arrivals::Poisson { per_second } => {
                rate(per_second, f64::MIN_POSITIVE)
            }
            Arrivals::Ramp { from_per_second, to_per_second, over } => {
                rate(from_per_second, 0.0)?;
                rate(to_per_second, 0.0)?;
                rate(from_per_second.max(to_per_second), f64::MIN_POSITIVE)?;
                if over.is_zero() { Err(ScheduleError::NoRamp) } else { Ok(()) }
            }
        }
    }

    /// When the k-th of the whole run starts. `None`: never. Not for Poisson's.
    fn moment_ns(&self, k: u64) -> Option<u64> {
        // Two roundings of one in 2^53 each: a fiftieth of a nanosecond over a day, so that the
        // whole number of nanoseconds that is nearest is the right one.
        let k = k as f64;
        let nanos = match *self {
            Arrivals::Constant { per_second } | Arrivals::Poisson { per_second } => {
                k * NANOS_PER_SECOND / per_second
            }
            Arrivals::Ramp { from_per_second: from, to_per_second: to, over } => {
                ramp_s(k, from, to, over.as_secs_f64())? * NANOS_PER_SECOND
            }
        };
        (nanos < u64::MAX as f64).then_some(nanos.round() as u64)
    }
}

/// Where the integral of the rate is `k`. In the form that neither divides by a slope of zero nor
/// subtracts what is nearly alike.
fn ramp_s(k: f64, from: f64, to: f64, over_s: f64) -> Option<f64> {
    let on_ramp = (from + to) / 2.0 * over_s;
    if k > on_ramp {
        return (to > 0.0).then(|| over_s + (k - on_ramp) / to);
    }
    if k == 0.0 {
        return Some(0.0);
    }
    let slope = (to - from) / over_s;
    // Rounding may bring the end of a ramp to zero just below it.
    let root = (from * from + 2.0 * slope * k).max(0.0).sqrt();
    Some((2.0 * k / (from + root)).min(over_s))
}

impl Schedule {
    /// The share of one core. `rng` draws Poisson's gaps: a seed of its own for each core.
    pub fn new(
        arrivals: Arrivals,
        end: End,
        share: Share,
        rng: Rng,
    ) -> Result<Schedule, ScheduleError> {
        arrivals.check()?;
        if share.core >= share.cores {
            return Err(ScheduleError::Cores(share));
        }
        let mut schedule = Schedule {
            arrivals,
            after_ns: end.after.map_or(u64::MAX, nanos),
            share,
            limit: end.requests.map_or(u64::MAX, |all| share.of(all)),
            taken: 0,
            next_ns: None,
            drawn_ns: 0.0,
            rng,
        };
        schedule.find_next();
        Ok(schedule)
    }

    /// The next intended start, which stays the next. `None`: there are no more.
    pub fn peek(&self) -> Option<Duration> {
        self.next_ns.map(Duration::from_nanos)
    }

    /// The next intended start if it has come.
    pub fn take_due(&mut self, now: Duration) -> Option<Duration> {
        if self.next_ns? > nanos(now) { None } else { self.next() }
    }

    /// When this core's request of a number starts, before the end of the run. Not for Poisson's.
    fn moment_ns(&self, number: u64) -> Option<u64> {
        let k = number.checked_mul(u64::from(self.share.cores))?;
        let k = k.checked_add(u64::from(self.share.core))?;
        self.arrivals.moment_ns(k).filter(|at| *at < self.after_ns)
    }

    fn find_next(&mut self) {
        self.next_ns = if self.taken >= self.limit {
            None
        } else if let Arrivals::Poisson { per_second } = self.arrivals {
            let per_core = per_second / f64::from(self.share.cores);
            // In (0, 1], whose logarithm is finite.
            let unit = 1.0 - self.rng.unit();
            self.drawn_ns -= unit.ln() * NANOS_PER_SECOND / per_core;
            let at = self.drawn_ns;
            (at < u64::MAX as f64).then_some(at as u64).filter(|at| *at < self.after_ns)
        } else {
            self.moment_ns(self.taken)
        };
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let next = self.peek()?;
        self.taken += 1;
        self.find_next();
        debug_assert!(self.peek().is_none_or(|after| after >= next), "moments are in order");
        Some(next)
    }
}

/// 584 years are enough.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
