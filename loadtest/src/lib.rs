//! What `ringlane-loadtest` is made of, apart from its sockets: when requests are due, what a
//! server answered, what is recorded of it, and how a run is judged and shown.
//!
//! Everything here is pure: time and randomness are arguments, so that a run of an hour is tested
//! in a moment. The reader of responses shares nothing with the proxy's parser, which it judges.

#![forbid(unsafe_code)]

pub mod schedule;

pub mod response;

pub mod record;
pub mod run;

pub mod plot;
pub mod report;
pub mod thresholds;
