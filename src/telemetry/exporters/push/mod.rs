//! What exporters that push spans share.
//!
//! `settings` is what is configured of them (`naming`: what services are called), `client` sends a
//! request and remembers how it went, `verdict` says what follows from that, and `delivery` is the
//! loop: which spans go when, and that each of them ends as sent or as dropped.

mod client;
mod delivery;
mod naming;
#[cfg(test)]
pub(super) mod rig;
pub(super) mod settings;
#[cfg(test)]
mod tests;
mod verdict;

pub(super) use client::Client;
pub(super) use delivery::{Collector, Request, deliver};
pub use naming::Naming;
pub(super) use settings::Settings;
pub(super) use verdict::Verdict;
