//! Sends requests when they are due, and records what comes of them: one thread, one ring and one
//! record per core.
//!
//! ```text
//!   pacer --due--> idle connection --request--> server
//!     |                  ^   '--answer--> record
//!     '-- none idle --> waiting
//! ```
//!
//! In an open loop the pacer gives each request, with the moment at which it was due, to a
//! connection that is idle; where none is, it waits, and its latency runs. In a closed loop every
//! connection begins the next request when an answer is complete. A connection is a task; it owns
//! its socket and its reader, and goes back to the idle ones by itself.
//!
//! Moments are of `Ring::elapsed`, read when requests are sent and when an answer is complete; the
//! driver's milliseconds serve for timeouts alone. Per request nothing is allocated, and nothing is
//! shared between cores; each hands its record over once a second.
//!
//! In reading order: `job` (what is asked for), `state` (what a core's tasks share), `connection`,
//! `drive` (one load on one set of connections), `cores` (a run on several threads).

mod connection;
mod cores;
mod drive;
mod job;
mod state;

pub use self::cores::{RunError, Stop, run};
pub use self::drive::{ConnectError, Driven, Engine, Go};
pub use self::job::{Kind, Load, Plan, PlannedLoad, Settings};
