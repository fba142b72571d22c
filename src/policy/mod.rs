//! Decisions: which service, which endpoint, whether and when again. Pure: time and randomness are
//! arguments.
//!
//! Nothing here opens a socket, reads a clock or counts a metric, so a test can replay any history
//! exactly.

pub mod accrual;
pub mod backoff;
pub mod balance;
pub mod budget;
pub mod classifier;
pub mod concurrency;
pub mod hash_key;
pub mod health;
pub mod rng;
pub mod route;
pub mod sampler;
mod window;

pub use accrual::{Accrual, Ejection, EjectionState, Report, Watch, may_eject};
pub use backoff::{Backoff, Delays, EjectionBackoff};
pub use balance::{Balancer, Kind};
pub use budget::RetryBudget;
pub use classifier::{Class, Classifier, Methods, Outcome, Statuses};
pub use concurrency::{Admission, ConcurrencyLimit, retry_after_secs};
pub use hash_key::HashKey;
pub use rng::Rng;
pub use route::{ClimbsAboveRoot, Route, RouteTable};
pub use sampler::Sampler;
