//! Ringlane: an HTTP/1.1 reverse proxy and load balancer, one io_uring shard per core.
//!
//! ```text
//!   main --> supervisor --> shard --> ring            the kernel: sockets, buffers, timers
//!                 |           |-----> http1 --> http  bytes to events and back; rules
//!                 |           |-----> policy -> http  which route, which endpoint
//!                 |           `-----> telemetry       what happened: recorder, ids
//!                 |-> telemetry -> http     (merges what shards counted; exporters)
//!                 |-> admin --> telemetry, policy     (the operator's interface)
//!                 `-> config, control (what was written; what threads say to each other)
//! ```
//!
//! An arrow may import; nothing else may, and a test reads the `use` lines and holds this. `http`
//! and `ring` import nothing of the crate. `http`, `http1` and `policy` are pure: time and
//! randomness are handed to them. `unsafe` is in `ring` alone.
#![deny(unsafe_code)]

pub mod config;
pub mod control;

pub mod http;
pub mod http1;
pub mod policy;

pub mod telemetry;

pub mod ring;
pub mod shard;

pub mod admin;
pub mod demo;
pub mod supervisor;
