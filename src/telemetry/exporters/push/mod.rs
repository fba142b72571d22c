//! What exporters that push spans share.
//!
//! `settings` is what is configured of them (`naming`: what services are called), `client` sends a
//! request and remembers how it went, `verdict` says what follows from that, and `delivery` is the
//! loop: which spans go when, and that each of them ends as sent or as dropped.

use super::{Ends, Exporter, Task};
use crate::config::without_secrets;
use crate::telemetry::feed::Feed;

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
use delivery::deliver;
pub(super) use delivery::{Collector, Request};
pub use naming::Naming;
pub(super) use settings::Settings;
pub(super) use verdict::Verdict;

/// The exporter that delivers to a collector.
pub(super) struct Pusher<C> {
    collector: C,
    to: String,
    queue_spans: usize,
}

impl<C: Collector> Pusher<C> {
    pub(super) fn new(settings: &Settings, collector: C) -> Pusher<C> {
        let to = without_secrets(&settings.endpoint.to_string());
        Pusher { collector, to, queue_spans: settings.queue_spans }
    }
}

impl<C: Collector + 'static> Exporter for Pusher<C> {
    fn task(self: Box<Self>, feed: Feed, ends: Ends) -> Option<Task> {
        let Pusher { collector, to, queue_spans } = *self;
        let queue = feed.collect_spans(queue_spans);
        Some(Box::pin(deliver(collector, to, feed, queue, ends)))
    }
}
