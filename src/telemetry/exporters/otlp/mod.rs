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
use super::push::{Pusher, Settings, settings};
use super::{Exporter, Kind};
use crate::config::{ExporterSettings, ExporterSpec};

pub use data::data;

pub const KIND: Kind = Kind {
    spec: &ExporterSpec {
        kind: "otlp",
        keys: &settings::keys("http://127.0.0.1:4318/v1/traces"),
        by_default: false,
    },
    make,
};

fn make(settings: &ExporterSettings) -> Result<Box<dyn Exporter>, String> {
    let pushed = Settings::new(settings)?;
    Ok(Box::new(Pusher::new(&pushed.clone(), Upload::new(pushed))))
}

#[cfg(test)]
mod tests;
