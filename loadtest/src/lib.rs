//! What `ringlane-loadtest` is made of: when requests are due, what a server answered, what is
//! recorded of it, how a run is judged and shown, the engine that does it
//! over sockets, and an origin by script to do it to.
//!
//! Apart from `engine`, `origin` and `compare` everything here is pure: time and randomness are
//! arguments, so that a run of an hour is tested in a moment. The reader of responses shares
//! nothing with the proxy's parser, which it judges.

#![forbid(unsafe_code)]

pub mod request;
pub mod schedule;

pub mod response;

pub mod record;
pub mod run;

pub mod engine;

pub mod origin;

pub mod plot;
pub mod report;
pub mod thresholds;

pub mod capacity;
pub mod sweep;

pub mod compare;

pub mod threads;
pub mod values;
