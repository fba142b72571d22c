//! One endpoint in and out of service.
//!
//! ```text
//!   Alive --eject--> Ejected { until } --try_probe, from `until` on--> Probing
//!     ^                 ^                                                |
//!     |                 |--- Failed: longer ----- Lost: at once ---------|
//!     `----------------------------- Succeeded --------------------------'
//! ```
//!
//! - The first request that asks at or after `until` is the probe; while it is under way nobody
//!   else is sent there. A probe that ends without a verdict (its exchange was dropped) gives its
//!   place to the next that asks.
//! - Each ejection in a row lasts longer. They are in a row where a probe failed, and where an
//!   endpoint was ejected again within the length of its last ejection after it came back: such a
//!   revival did not stick. One that did starts over.
//! - Removals and revivals are counted in pairs, as in Finagle: a failed probe removes nothing that
//!   was not out already.
//!
//! When to eject is the rule's business, and how many may be out the cap's. Reports that come late
//! (several shards see the same failures) change nothing.

use std::time::Duration;

use crate::policy::{EjectionBackoff, Rng};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionState {
    Alive,
    /// Nobody is sent there before `until`.
    Ejected {
        until: Duration,
    },
    /// One request finds out.
    Probing,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    Succeeded,
    Failed,
    /// Without a verdict.
    Lost,
}

/// What happened to an endpoint since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub removals: u64,
    pub revivals: u64,
    pub probes: u64,
    /// How long it was out, a removal that still lasts included.
    pub removed_for: Duration,
}

/// The state of one endpoint.
#[derive(Debug, Clone)]
pub struct Ejection {
    backoff: EjectionBackoff,
    state: EjectionState,
    /// Of the last ejection; zero before the first.
    length: Duration,
    /// Ejections that the last one had before it in a row.
    earlier: u32,
    /// When it went out last; valid while it is not alive.
    removed_at: Duration,
    /// When it came back last; valid after the first revival.
    revived_at: Duration,
    /// `removed_for` is of the removals that are over.
    counts: Counts,
}

impl Ejection {
    pub fn new(backoff: EjectionBackoff) -> Ejection {
        Ejection {
            backoff,
            state: EjectionState::Alive,
            length: Duration::ZERO,
            earlier: 0,
            removed_at: Duration::ZERO,
            revived_at: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// For ejections from now on.
    pub fn set_backoff(&mut self, backoff: EjectionBackoff) {
        self.backoff = backoff;
    }

    pub fn state(&self) -> EjectionState {
        self.state
    }

    pub fn counts(&self, now: Duration) -> Counts {
        Counts { removed_for: self.counts.removed_for + self.out_for(now), ..self.counts }
    }

    /// How long a removal that still lasts has taken; zero for a living endpoint.
    pub fn out_for(&self, now: Duration) -> Duration {
        match self.state {
            EjectionState::Alive => Duration::ZERO,
            EjectionState::Ejected { .. } | EjectionState::Probing => {
                now.saturating_sub(self.removed_at)
            }
        }
    }

    /// Takes a living endpoint out of service, until the time that is returned; none where it is
    /// out already.
    pub fn eject(&mut self, now: Duration, rng: &mut Rng) -> Option<Duration> {
        if self.state != EjectionState::Alive {
            return None;
        }
        let is_first = self.counts.removals == 0;
        let stuck = now.saturating_sub(self.revived_at) > self.length;
        self.earlier = if is_first || stuck { 0 } else { self.earlier.saturating_add(1) };
        self.counts.removals += 1;
        self.removed_at = now;
        let until = self.stay_out(now, rng);
        self.check_invariants();
        Some(until)
    }

    /// Whether a request that asks would be the probe.
    pub fn is_due(&self, now: Duration) -> bool {
        matches!(self.state, EjectionState::Ejected { until } if now >= until)
    }

    /// Whether the request that asks is the probe; it then owes a [`Ejection::report`].
    pub fn try_probe(&mut self, now: Duration) -> bool {
        let is_due = self.is_due(now);
        if is_due {
            self.state = EjectionState::Probing;
            self.counts.probes += 1;
        }
        is_due
    }

    /// The probe's end. The new state; unchanged where no probe is under way.
    pub fn report(&mut self, report: Report, now: Duration, rng: &mut Rng) -> EjectionState {
        if self.state != EjectionState::Probing {
            return self.state;
        }
        match report {
            Report::Succeeded => {
                self.counts.revivals += 1;
                self.counts.removed_for += now.saturating_sub(self.removed_at);
                self.revived_at = now;
                self.state = EjectionState::Alive;
            }
            Report::Failed => {
                self.earlier = self.earlier.saturating_add(1);
                self.stay_out(now, rng);
            }
            // Due already, so whoever asks next is the probe.
            Report::Lost => self.state = EjectionState::Ejected { until: now },
        }
        self.check_invariants();
        self.state
    }

    fn stay_out(&mut self, now: Duration, rng: &mut Rng) -> Duration {
        self.length = self.backoff.length(self.earlier, rng);
        let until = now.saturating_add(self.length);
        self.state = EjectionState::Ejected { until };
        until
    }

    fn check_invariants(&self) {
        let out = u64::from(self.state != EjectionState::Alive);
        debug_assert_eq!(self.counts.removals, self.counts.revivals + out);
        debug_assert!(self.counts.probes >= self.counts.revivals);
    }
}
