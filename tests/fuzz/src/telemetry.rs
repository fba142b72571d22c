//! Of telemetry: what a trace's context is, and what that is built on.

#[path = "../../../src/telemetry/buckets.rs"]
pub mod buckets;
#[path = "../../../src/telemetry/distribution.rs"]
pub mod distribution;
#[path = "../../../src/telemetry/exemplars.rs"]
pub mod exemplars;
#[path = "../../../src/telemetry/gauges.rs"]
pub mod gauges;
#[path = "../../../src/telemetry/layout.rs"]
pub mod layout;
#[path = "../../../src/telemetry/record.rs"]
pub mod record;
#[path = "../../../src/telemetry/samples.rs"]
pub mod samples;
#[path = "../../../src/telemetry/trace/mod.rs"]
pub mod trace;
