//! Decisions: which service, which endpoint. Pure: time and randomness are arguments.
//!
//! Nothing here opens a socket, reads a clock or counts a metric, so a test can replay any history
//! exactly.

pub mod balance;
pub mod rng;
pub mod route;

pub use balance::{Balancer, Kind};
pub use rng::Rng;
pub use route::{ClimbsAboveRoot, Route, RouteTable};
