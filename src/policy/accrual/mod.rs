//! Failure accrual: when an endpoint has failed enough to be left out, for how long, and how it
//! comes back. After Finagle's `FailureAccrualPolicy` and `FailureAccrualFactory`, and Envoy's
//! outlier detection for the cap.
//!
//! - When: so many failures one after another, or a success rate under a bound, over the last
//!   requests or over the last seconds (`rates.rs`).
//! - Whether: at most a share of a service's endpoints is out at once ([`may_eject`]).
//! - How long, and the way back: `ejection.rs`.
//!
//! What counts as a failure is the classifier's and `Reason::is_upstream_fault`'s to say; where the
//! counts of all shards come together, and who is told of a decision, is the caller's.

mod ejection;
mod rates;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use ejection::{Counts, Ejection, EjectionState, Report};
pub use rates::Watch;

/// The rule of one service, as configured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Accrual {
    None,
    /// So many failures without a success between them; 0 counts as 1.
    ConsecutiveFailures {
        failures: u32,
    },
    /// A moving average under `rate` (0 to 1), after at least `requests` requests.
    SuccessRate {
        rate: f64,
        requests: u32,
    },
    /// A success rate under `rate` (0 to 1) over the last `window`, of at least `min_requests`.
    SuccessRateWindowed {
        rate: f64,
        window: Duration,
        min_requests: u32,
    },
}

impl Accrual {
    /// After a failure: whether this many in a row are enough to eject the endpoint. The count is
    /// the caller's, who clears it on a success and when the endpoint is revived.
    pub fn is_exceeded_by(&self, failures_in_a_row: u32) -> bool {
        match *self {
            Accrual::ConsecutiveFailures { failures } => failures_in_a_row >= failures.max(1),
            Accrual::None | Accrual::SuccessRate { .. } | Accrual::SuccessRateWindowed { .. } => {
                false
            }
        }
    }

    /// What watches one endpoint's success rate; none where the rule is not about one.
    pub fn watch(&self) -> Option<Watch> {
        Watch::new(self)
    }
}

/// Whether one more endpoint of `total` may be ejected with `ejected` out already: not more than
/// `max_percent` of all. Where there are several, one may always be: a small service could never
/// lose any by the share alone. The only endpoint never is, since nothing would be left to try.
///
/// Envoy's `max_ejection_percent` with its "at least one"; 100 allows that all go.
pub fn may_eject(ejected: usize, total: usize, max_percent: u32) -> bool {
    let within_share = (ejected as u64 + 1) * 100 <= total as u64 * u64::from(max_percent);
    total > 1 && ejected < total && (ejected == 0 || within_share)
}
