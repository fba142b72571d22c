//! Spans as Zipkin takes them: `POST /api/v2/spans`, a JSON array of the v2 format.
//!
//! The format is written here and not by `opentelemetry-zipkin` 0.33, which turns OpenTelemetry's
//! spans into Zipkin's and cannot say the following of what a proxy has to tell:
//!
//! - Its endpoints have an address and a port, but no `serviceName`: Zipkin would list no services
//!   and find no span by one.
//! - Its spans have no `remoteEndpoint`. Zipkin draws the dependency graph from the service names
//!   at both ends of a CLIENT span, so there would be none.
//! - `error` is dropped from spans whose status is not Error, and `otel.library.*` and
//!   `otel.status_code` are added to every span.
//! - The first span of a trace gets a `parentId` of zeros, which Zipkin's schema allows and its
//!   server takes for a parent that has not arrived.
//! - Trace ids are always 128 bits wide, `debug` and `shared` are not there at all.
//!
//! Of its types there would be left a JSON array in an HTTP request; that and how it is sent are
//! another matter than what a span says.

mod json;
mod naming;

pub use json::{Told, batch};
pub use naming::Naming;
