//! Exporters are plugins: one file each, one line in `KINDS`, one `kind` in the configuration.
//!
//! An exporter reads the last merged state through its `Feed`, as a task of the telemetry thread
//! or when its admin routes are asked, and never for long: with everybody on one thread, what one
//! takes the others wait for. A task sends and waits as it likes; nothing else waits for it.

pub mod influxdb;
pub mod json;
pub mod otlp;
pub mod page;
#[cfg(test)]
mod probe;
pub mod prometheus;
mod push;
pub mod recent_requests;
pub mod statsd;
mod told;
pub mod trace_log;
pub mod zipkin;

use std::pin::Pin;

use axum::Router;

use super::feed::Feed;
use crate::config::{ExporterSettings, ExporterSpec};

/// What all exporters can do.
pub trait Exporter: Send {
    /// Admin routes that it answers.
    fn routes(&self, _feed: &Feed) -> Router {
        Router::new()
    }

    /// The task of an exporter that pushes, until `ends`; what is due then is sent once more.
    /// `None`: it is asked for everything.
    fn task(self: Box<Self>, _feed: Feed, _ends: Ends) -> Option<Task> {
        None
    }
}

/// A future that the telemetry thread runs.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Turns true when the process is about to end.
pub type Ends = tokio::sync::watch::Receiver<bool>;

/// A kind of exporter.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name and its keys.
    pub spec: &'static ExporterSpec,
    /// Settings that are valid by the spec may still be refused, with the reason.
    pub make: fn(&ExporterSettings) -> Result<Box<dyn Exporter>, String>,
}

/// An exporter that has its settings.
pub struct Made {
    pub kind: &'static str,
    pub exporter: Box<dyn Exporter>,
}

/// The tables of some kinds, for the configuration.
pub fn specs(kinds: &[Kind]) -> Vec<&'static ExporterSpec> {
    kinds.iter().map(|kind| kind.spec).collect()
}

/// Makes what is configured, or says where in the configuration what is wrong: every exporter that
/// cannot be made.
pub fn make(settings: &[ExporterSettings], kinds: &[Kind]) -> Result<Vec<Made>, Vec<String>> {
    let make = |settings: &ExporterSettings| {
        let kind = kinds.iter().find(|kind| kind.spec == settings.spec);
        let kind = kind.ok_or_else(|| format!("{}: no such exporter", settings.at))?;
        let exporter = (kind.make)(settings).map_err(|why| format!("{}: {why}", settings.at))?;
        Ok(Made { kind: kind.spec.kind, exporter })
    };
    let (mut made, mut wrong) = (Vec::new(), Vec::new());
    for exporter in settings.iter().map(make) {
        match exporter {
            Ok(exporter) => made.push(exporter),
            Err(why) => wrong.push(why),
        }
    }
    if wrong.is_empty() { Ok(made) } else { Err(wrong) }
}

/// Every kind that comes with Ringlane.
pub const KINDS: &[Kind] = &[
    prometheus::KIND,
    json::KIND,
    influxdb::KIND,
    statsd::KIND,
    zipkin::KIND,
    otlp::KIND,
    trace_log::KIND,
    recent_requests::KIND,
];
