//! The messages to the supervisor. Plain data, no behaviour.
//!
//! What shards are told is `shard::Command`: it carries what shards share, which nobody else may
//! touch.

use crate::config::{self, Endpoint};

/// To the supervisor: from shards, signals, discovery and admin.
pub enum Event {
    /// A shard accepts.
    ShardReady { shard: usize },
    /// A shard goes by this generation of the configuration.
    Applied { shard: usize, generation: u64 },
    /// A shard has nothing left to do after a drain.
    ShardDone { shard: usize },
    /// A shard could not start.
    ShardFailed { shard: usize, why: String },
    /// A UNIX signal's number.
    Signal(i32),
    /// The operator asked admin to end the process as SIGTERM does.
    Shutdown,
    /// The operator asked admin to drain, which ends in the process's end too.
    Drain,
    /// The operator asked admin to read the configuration again.
    Reload { done: Done },
    /// The operator asked admin to treat an endpoint otherwise.
    SetEndpoint { change: EndpointChange, done: Done },
    /// The operator asked admin to record other requests than so far.
    SetTracing { change: TracingChange, done: Done },
    /// Discovery has found other endpoints for a service.
    Discovered { service: String, endpoints: Vec<Endpoint> },
}

/// Told what came of an order: a line for the operator, or why it was refused.
pub type Done = Box<dyn FnOnce(Result<String, String>) + Send>;

/// How an endpoint is to be treated from now on, whatever the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointChange {
    /// As it is written in the configuration.
    pub address: String,
    /// `None`: in every service that has it.
    pub service: Option<String>,
    pub drained: Option<bool>,
    /// From 1 to 1000.
    pub weight: Option<u32>,
}

/// How requests are traced from now on, whatever the configuration says; `None`: as they were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TracingChange {
    pub enabled: Option<bool>,
    /// From 0 to 1.
    pub sample_rate: Option<f64>,
    /// 0: no limit.
    pub max_spans_per_sec: Option<u32>,
    pub keep_failed: Option<bool>,
    pub keep_retried: Option<bool>,
    /// 0: none is kept for its latency.
    pub keep_slower_than_ms: Option<u64>,
}

/// How they are traced now.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    pub enabled: bool,
    pub settings: config::Tracing,
}
