//! What others make of our figures: Prometheus scrapes them, Grafana's dashboard asks for them,
//! promtool judges them, etsy's statsd adds them up, and Zipkin shows the spans.
//! And what comes from HAProxy in front.
//!
//! The daemons are real, so all but the tests of files are ignored outside `.ci/run`. Totals are
//! compared exactly once the load has ended; only what never stands still (process, heap, shards,
//! telemetry) is left out of that, or held between two readings of ours.

#[path = "../common/mod.rs"]
mod common;

mod dashboard;
mod dns;
mod haproxy;
mod load;
mod prometheus;
mod statsd;
mod tools;
mod zipkin;
