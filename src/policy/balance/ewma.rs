//! Peak EWMA: an endpoint's latency as a moving average that jumps up to every peak and comes down
//! slowly, after Finagle's `PeakEwma` and linkerd2's `tower::load::PeakEwma`.
//!
//! - A sample above the average replaces it: a latency that turns bad must be felt at once.
//! - A sample below it is mixed in with weight `1 - exp(-elapsed / decay)`.
//! - While there are no samples the average decays towards 0, so that an endpoint which nobody
//!   picks any more is tried again.
//! - The cost is the average times the attempts that would then be under way, over the endpoint's
//!   share of the weight.
//! - An endpoint that never answered costs nothing while nothing is pending there, so it is tried;
//!   and once something is, more than any that answered, so that one attempt finds out and not all.

use std::time::Duration;

/// More than any real cost in nanoseconds: about 146 years.
const NEVER_ANSWERED: f64 = (u64::MAX >> 2) as f64;

#[derive(Debug, Clone, Default)]
pub(super) struct PeakEwma {
    /// As of `at`; none before the first answer.
    nanos: Option<f64>,
    at: Duration,
}

impl PeakEwma {
    pub(super) fn observe(&mut self, now: Duration, decay: Duration, rtt: Duration) {
        let sample = rtt.as_nanos() as f64;
        let mixed = self.nanos.map_or(sample, |nanos| {
            let keep = self.keep(now, decay);
            if sample > nanos * keep { sample } else { nanos * keep + sample * (1.0 - keep) }
        });
        self.nanos = Some(mixed);
        self.at = self.at.max(now);
    }

    /// What one more attempt would cost.
    pub(super) fn cost(&self, now: Duration, decay: Duration, pending: u32, share: f64) -> f64 {
        match self.nanos {
            Some(nanos) => nanos * self.keep(now, decay) * (f64::from(pending) / share + 1.0),
            None if pending == 0 => 0.0,
            None => NEVER_ANSWERED + f64::from(pending),
        }
    }

    pub(super) fn latency(&self, now: Duration, decay: Duration) -> Option<Duration> {
        let nanos = self.nanos? * self.keep(now, decay);
        Some(Duration::from_nanos(nanos as u64))
    }

    /// How much of the average is left after the time since the last sample.
    fn keep(&self, now: Duration, decay: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.at).as_nanos() as f64;
        // A decay of 0 keeps nothing; 1 ns stands for it.
        (-elapsed / (decay.as_nanos() as f64).max(1.0)).exp()
    }
}
