//! Pushes spans to an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! `opentelemetry-otlp` encodes what `data` makes of spans, makes the request and judges the answer
//! (`upload`); what it sends with is our client. Two things of it are not used:
//!
//! - It tries again by itself, asleep in between, and with it the thread that all exporters share.
//! - It takes what is not set from `OTEL_*` variables. What is in force is in the configuration, so
//!   all that can be set is; the fields of requests, which cannot, are left out by the client.

mod data;
mod upload;

use self::upload::Upload;
use super::push::{self, Settings, settings};
use super::{Ends, Exporter, Kind, Task};
use crate::config::{ExporterSettings, ExporterSpec};
use crate::telemetry::feed::Feed;

pub use data::data;

pub const KIND: Kind = Kind {
    spec: &ExporterSpec {
        kind: "otlp",
        keys: &[
            settings::endpoint("http://127.0.0.1:4318/v1/traces"),
            settings::SAMPLE_RATE,
            settings::LOCAL_SERVICE,
            settings::REMOTE_SERVICE,
            settings::QUEUE_SPANS,
            settings::TIMEOUT_MS,
            settings::CA,
        ],
        by_default: false,
    },
    make,
};

fn make(settings: &ExporterSettings) -> Result<Box<dyn Exporter>, String> {
    let pushed = Settings::new(settings)?;
    Ok(Box::new(Otlp(pushed)))
}

struct Otlp(Settings);

impl Exporter for Otlp {
    fn task(self: Box<Self>, feed: Feed, ends: Ends) -> Option<Task> {
        let queue = feed.collect_spans(self.0.queue_spans);
        let to = self.0.endpoint.to_string();
        Some(Box::pin(push::deliver(Upload::new(self.0), to, feed, queue, ends)))
    }
}

#[cfg(test)]
mod tests;
