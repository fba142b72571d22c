//! What happened, counted on the shards and told by one thread.
//!
//! ```text
//!   shard: Recorder --Snapshot--> channel --> Merger --> State --> exporters, admin
//!            ^                                  |
//!            `----------- Recording <-----------'      (the same buffers again)
//! ```
//!
//! In reading order: `layout` (ids), `buckets` and `samples` (values by id), `record` (what a shard
//! does), `distribution`, `state` and `merge` (what the telemetry thread has), `names` (what it is
//! called), `process`, `collect`, `feed` and `exporters` (how it is told); `trace` (a request's
//! place in its trace, and its spans).
//!
//! A shard never waits for this thread, and this thread never asks a shard for anything.

pub mod buckets;
pub mod collect;
pub mod distribution;
pub mod exemplars;
pub mod exporters;
pub mod feed;
pub mod gauges;
pub mod layout;
pub mod merge;
pub mod names;
pub mod process;
pub mod record;
#[cfg(test)]
mod sample;
pub mod samples;
pub mod spans;
pub mod state;
pub mod trace;
pub mod tree;
