//! Which requests are recorded as spans: one decision when the head is complete, and a second look
//! at what was not recorded when the request is over.
//!
//! At the head, the first of these that applies decides:
//!
//! | the request | recorded | passed on |
//! |---|---|---|
//! | asks for debugging | yes, whatever the cap says | debug |
//! | brings a rate (`l5d-sample`) | by that rate | what we decided |
//! | comes with a decision | where it says so | as it came |
//! | comes undecided | by our rate | undecided |
//! | begins its trace here | by our rate | what we decided |
//!
//! - A rate is compared with the low 64 bits of the trace's id, as OpenTelemetry's samplers do, and
//!   with no salt: every hop of one rate makes the same choice, and one of a higher rate records
//!   whatever one of a lower rate does. So an undecided trace stays whole as it goes on undecided.
//! - The cap is in spans per second of the process. A request is charged for two spans when it is
//!   decided on, and for those of further attempts when they are known; what goes over is made up
//!   for by later requests, so that no trace is cut in half. Nobody else's decision is changed
//!   because we have no room: it goes on as it came.
//! - What was not sampled is kept where its outcome is worth it, while half of what the cap has
//!   saved up is there: a storm of failures leaves the other half to those that are sampled. The
//!   hops around may know nothing of such a trace.
//!
//! Each shard has its own sampler, and its part of the cap. What the spans hold is `telemetry`'s.

use std::time::Duration;

use crate::http::Sampling;

/// A server's and its first attempt's.
const USUAL_SPANS: u32 = 2;
/// What may be spent at once, at the beginning or after silence.
const SAVED_UP: Duration = Duration::from_secs(1);
/// Debugging overdraws as much as it likes; once it is over, others wait no longer than for this
/// time, or this many spans where those take longer.
const MOST_OWED: Duration = Duration::from_secs(10);
const MOST_SPANS_OWED: u32 = 32;

/// A share of all traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The largest id that is in; `None`: none is.
    largest: Option<u64>,
}

impl Rate {
    pub const NEVER: Rate = Rate { largest: None };

    /// From 0 to 1; what is beyond counts as the end that is nearer, and NaN as 0.
    pub fn new(share: f64) -> Rate {
        // 2^64: exact, as the product is but for the smallest shares, and never over u64 + 1.
        let count = (share.clamp(0.0, 1.0) * 18_446_744_073_709_551_616.0) as u128;
        Rate { largest: count.checked_sub(1).map(|largest| largest as u64) }
    }

    #[inline]
    pub fn has(self, trace_low: u64) -> bool {
        self.largest.is_some_and(|largest| trace_low <= largest)
    }
}

/// What is kept of the requests that were not sampled. By default nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    pub failed: bool,
    pub retried: bool,
    pub slower_than: Option<Duration>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub failed: bool,
    /// More than one attempt was made.
    pub retried: bool,
    pub took: Duration,
}

impl Keep {
    pub const NOTHING: Keep = Keep { failed: false, retried: false, slower_than: None };

    pub fn wants(&self, outcome: &Outcome) -> bool {
        self.failed && outcome.failed
            || self.retried && outcome.retried
            || self.slower_than.is_some_and(|longest| outcome.took > longest)
    }
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    pub trace_low: u64,
    /// `None`: it begins its trace here.
    pub came: Option<Sampling>,
    /// The share that `l5d-sample` names.
    pub rate: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub recorded: bool,
    /// What the next hop is told.
    pub passed_on: Sampling,
    /// It would have been recorded if the cap had had room.
    pub capped: bool,
}

/// What becomes of a request that was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    No,
    Yes,
    /// It would have been kept if the cap had had room.
    NoRoom,
}

/// One shard's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampler {
    is_on: bool,
    rate: Rate,
    keep: Keep,
    cap: Option<Cap>,
}

impl Sampler {
    /// Records nothing, and has no say in what others do: every decision goes on as it came, and
    /// where none came it is left open.
    pub const OFF: Sampler =
        Sampler { is_on: false, rate: Rate::NEVER, keep: Keep::NOTHING, cap: None };

    /// `max_spans_per_sec` is the process's, divided over the shards; `None`: without a cap.
    pub fn new(rate: Rate, keep: Keep, max_spans_per_sec: Option<u32>, shards: u32) -> Sampler {
        let cap = max_spans_per_sec.map(|cap| Cap::new(cap, shards));
        Sampler { is_on: true, rate, keep, cap }
    }

    /// While the process runs: what the cap has spent stays spent.
    pub fn set(&mut self, is_on: bool, rate: Rate, keep: Keep) {
        (self.is_on, self.rate, self.keep) = (is_on, rate, keep);
    }

    /// Another cap, or none; the same as before changes nothing.
    pub fn set_cap(&mut self, max_spans_per_sec: Option<u32>, shards: u32) {
        let cap = max_spans_per_sec.map(|cap| Cap::new(cap, shards));
        let is_same = match (&self.cap, &cap) {
            (Some(before), Some(now)) => before.per_span == now.per_span,
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.cap = cap;
        }
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether a request that is not sampled may yet be kept, so that its spans are to be gathered.
    #[inline]
    pub fn may_keep(&self) -> bool {
        self.is_on && self.keep != Keep::NOTHING
    }

    /// What is done about a request whose head is complete.
    #[inline]
    pub fn decide(&mut self, asked: &Asked, now: Duration) -> Decision {
        if !self.is_on {
            let passed_on = asked.came.unwrap_or_default();
            return Decision { recorded: false, passed_on, capped: false };
        }
        let Some(rate) = asked.rate.filter(|_| asked.came != Some(Sampling::Debug)) else {
            return match asked.came {
                None => self.decide_by(self.rate, asked.trace_low, now),
                Some(came) => self.follow(came, asked.trace_low, now),
            };
        };
        self.decide_by(Rate::new(rate), asked.trace_low, now)
    }

    /// The decision is ours.
    #[inline]
    fn decide_by(&mut self, rate: Rate, trace_low: u64, now: Duration) -> Decision {
        let wanted = rate.has(trace_low);
        let recorded = wanted && self.charge_usual(now);
        let passed_on = if recorded { Sampling::Yes } else { Sampling::No };
        Decision { recorded, passed_on, capped: wanted && !recorded }
    }

    /// The decision is somebody else's, or is to be left open.
    fn follow(&mut self, came: Sampling, trace_low: u64, now: Duration) -> Decision {
        let wanted = match came {
            Sampling::Undecided => self.rate.has(trace_low),
            Sampling::No => false,
            Sampling::Yes | Sampling::Debug => true,
        };
        let has_room = wanted && self.charge_usual(now);
        let recorded = wanted && (has_room || came == Sampling::Debug);
        if recorded && !has_room {
            self.charge(USUAL_SPANS, now);
        }
        Decision { recorded, passed_on: came, capped: wanted && !recorded }
    }

    /// A recorded request made more attempts than one.
    pub fn attempts_were(&mut self, attempts: u32, now: Duration) {
        self.charge(attempts.saturating_sub(1), now);
    }

    /// Whether a request that was not recorded is, now that it is over; it has so many spans.
    pub fn keeps(&mut self, outcome: &Outcome, spans: u32, now: Duration) -> Kept {
        if !self.is_on || !self.keep.wants(outcome) {
            return Kept::No;
        }
        if self.cap.as_ref().is_some_and(|cap| !cap.has_room_to_spare(now)) {
            return Kept::NoRoom;
        }
        self.charge(spans, now);
        Kept::Yes
    }

    fn charge_usual(&mut self, now: Duration) -> bool {
        let has_room = self.has_room(now);
        if has_room {
            self.charge(USUAL_SPANS, now);
        }
        has_room
    }

    fn has_room(&self, now: Duration) -> bool {
        self.cap.as_ref().is_none_or(|cap| cap.has_room(now))
    }

    fn charge(&mut self, spans: u32, now: Duration) {
        if let Some(cap) = &mut self.cap {
            cap.charge(spans, now);
        }
    }
}

/// A token bucket, kept as the moment at which what was spent will have come in (the generic cell
/// rate algorithm of ATM, ITU-T I.371). It may be overdrawn, and then waits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cap {
    per_span: Duration,
    paid_at: Duration,
}

impl Cap {
    /// A cap of 0 counts as 1, as 0 shards do.
    fn new(max_per_sec: u32, shards: u32) -> Cap {
        let per_span = Duration::from_secs(1) * shards.max(1) / max_per_sec.max(1);
        Cap { per_span, paid_at: Duration::ZERO }
    }

    /// At least one span, however little comes in.
    fn has_room(&self, now: Duration) -> bool {
        self.paid_at <= now || self.paid_at.saturating_add(self.per_span) <= now + SAVED_UP
    }

    /// Whether half of what may be spent at once is there.
    fn has_room_to_spare(&self, now: Duration) -> bool {
        self.paid_at <= now || self.paid_at.saturating_add(self.per_span) <= now + SAVED_UP / 2
    }

    fn charge(&mut self, spans: u32, now: Duration) {
        let price = self.per_span.saturating_mul(spans);
        let most = self.per_span.saturating_mul(MOST_SPANS_OWED).max(MOST_OWED);
        let paid_at = self.paid_at.max(now).saturating_add(price);
        self.paid_at = paid_at.min(now.saturating_add(most));
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
