//! Configuration: from the text that the operator wrote to a `Config` that cannot be invalid.
//!
//! ```text
//! text --yaml--> Value + Marks --shape--> raw::Root --validate--> Config
//!                                 \____________ Errors: all of them, by line ____________/
//! ```
//!
//! - `yaml` turns text into a `serde_yaml::Value`, which says what the text means, and `Marks`,
//!   which say where each path stands. Two parsers look at the text because serde_yaml forgets
//!   positions once it has a value: `saphyr-parser`'s events restore them. They are asked for
//!   nothing else, so if the two ever disagree, a line number is off and never a value. Reading
//!   everything from events was the alternative; it would have moved scalar types, aliases and
//!   their expansion limit into this crate.
//! - `raw` says which keys there are, which are sections and which are lists. serde stops at its
//!   first error, so `shape` notes a part with an error, takes it out of the value, and reads the
//!   rest again.
//! - `validate` (with `runtime`, `routers`, `services`, and `leaves` below them) turns each leaf
//!   into a typed field, knows ranges, references and duplicates, and is the only place that
//!   spells a default.
//!
//! Nothing here binds, resolves or opens anything: a `Config` may still fail to start.

mod admin;
mod balancer;
mod cores;
mod difference;
mod discovery;
mod errors;
mod exporters;
mod health;
mod leaves;
mod near;
mod of_kind;
mod raw;
mod resilience;
mod routers;
mod runtime;
mod secrets;
mod services;
mod shape;
mod show;
mod telemetry;
mod traces;
mod users;
mod validate;
mod yaml;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use cores::Host;
pub use difference::Difference;
pub use discovery::{Asking, Discovery};
pub use errors::{Errors, Issue};
pub use exporters::{ExporterKey, ExporterSettings, ExporterSpec, Shape};
pub use health::{HealthCheck, Probe};
pub use secrets::without_secrets;
pub use users::User;

/// Everything that the program was told. Routes refer to services by index.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub runtime: Runtime,
    /// `None`: `admin: off`.
    pub admin: Option<Admin>,
    /// `None`: `telemetry: off`.
    pub telemetry: Option<Telemetry>,
    /// At least one.
    pub routers: Vec<Router>,
    /// At least one, with names that differ.
    pub services: Vec<Service>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// Who the process is once its sockets are bound; `None`: who started it.
    pub user: Option<User>,
    /// One per shard, at least one; several may name one core.
    pub shards: Vec<ShardSettings>,
    /// Where the control thread may run; empty: anywhere.
    pub control_cores: Vec<usize>,
    /// How long a drain may last.
    pub drain: Duration,
    /// How long connections are still accepted after ready turned false.
    pub drain_grace: Duration,
}

/// What one shard may use. These numbers hold for the shard, all others for the process.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardSettings {
    pub core: usize,
    pub max_connections: usize,
    /// Submission queue entries; a power of two.
    pub ring_entries: u32,
    /// Provided buffers for heads; a power of two, as the kernel demands.
    pub head_buffers: u16,
    pub max_buffered_bytes: usize,
    /// Busy-polling before the shard parks; zero: parks at once.
    pub spin: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    pub address: SocketAddr,
    /// Which of the three categories of requests are served.
    pub ui: bool,
    pub control: bool,
    pub diagnostics: bool,
    /// What `Authorization: Bearer` must say; `None`: whoever reaches the port may use it.
    pub token: Option<String>,
    /// What `Host` may say besides addresses and localhost; lower case.
    pub hosts: Vec<String>,
    /// `None`: everything that is not denied.
    pub allow: Option<Vec<PathPattern>>,
    pub deny: Vec<PathPattern>,
}

/// A path, or all that begin with one: `/admin/ping`, `/admin/metrics*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
}

impl PathPattern {
    /// `None`: it begins with no slash, or has a star that is not its end.
    pub fn new(text: &str) -> Option<PathPattern> {
        let path = text.strip_suffix('*').unwrap_or(text);
        let fits = path.starts_with('/') && !path.contains('*');
        fits.then(|| PathPattern { text: text.to_owned() })
    }

    pub fn matches(&self, path: &str) -> bool {
        match self.text.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == self.text,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// How often a shard sends what it counted.
    pub flush_interval: Duration,
    /// Label values of one scope, beyond which there is `other`.
    pub max_series: usize,
    /// How long the series of what is no longer configured stay.
    pub series_ttl: Duration,
    pub tracing: Tracing,
    pub exporters: Vec<ExporterSettings>,
}

/// How requests are traced.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// In what a trace goes on that begins here; without any it does not go on.
    pub propagate: Vec<Propagation>,
    /// From 0 to 1. `None`: no exporter takes spans, so that none are made.
    pub sample_rate: Option<f64>,
    /// `None`: no limit.
    pub max_spans_per_sec: Option<u32>,
    pub keep_failed: bool,
    pub keep_retried: bool,
    /// `None`: none is kept for its latency.
    pub keep_slower_than: Option<Duration>,
    /// As many of the latest requests are shown; 0: none.
    pub recent_requests: usize,
}

/// A way to write a trace's context into a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// One `b3` field.
    B3Single,
    /// `x-b3-traceid` and its like.
    B3Multi,
    /// `traceparent`.
    W3c,
    /// `l5d-ctx-trace`.
    Linkerd,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    pub label: String,
    /// At least one; no address is listened on twice.
    pub servers: Vec<Server>,
    /// At least one; the first match wins.
    pub routes: Vec<Route>,
    pub timeouts: ClientTimeouts,
    pub max_body_bytes: Option<u64>,
    /// Lower case.
    pub upgrades: Vec<String>,
    pub forwarding: Forwarding,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub address: SocketAddr,
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Lower case, without port. `None`: any host.
    pub host: Option<String>,
    /// Begins with `/`. `None`: any path.
    pub path_prefix: Option<String>,
    /// Index into `Config::services`.
    pub service: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientTimeouts {
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Between exchanges on a keep-alive connection.
    pub idle: Duration,
    /// No byte of a body moves, either way.
    pub stall: Duration,
    /// Reading to the end after a half-close (RFC 9112 9.6).
    pub linger: Duration,
    /// No byte moves in an upgraded connection.
    pub tunnel: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Forwarding {
    /// The pseudonym in `Via` (RFC 9110 7.6.3); `None`: no such field is added.
    pub via: Option<String>,
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    pub x_forwarded: Mode,
    /// `Forwarded` (RFC 7239).
    pub forwarded: Mode,
}

/// What happens to a field that says where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passed on as it came.
    Off,
    /// What came is trusted and added to.
    Append,
    /// What came is replaced.
    Overwrite,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: String,
    /// At least one, no address twice; none where there is `discovery`.
    pub endpoints: Vec<Endpoint>,
    /// Who says what the endpoints are, where they are not written down.
    pub discovery: Option<Discovery>,
    pub balancer: Balancer,
    /// How long an endpoint that is new or has come back takes to get its full share.
    pub slow_start: Option<Duration>,
    pub timeouts: UpstreamTimeouts,
    pub pool: Pool,
    pub failure_accrual: FailureAccrual,
    /// `None`: endpoints are not asked whether they are well.
    pub health_check: Option<HealthCheck>,
    pub retries: Retries,
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    /// From 1 to `WEIGHT_MAX`.
    pub weight: u32,
}

impl Endpoint {
    pub const WEIGHT: u32 = 1;
    /// Enough to shift traffic by a tenth of a percent.
    pub const WEIGHT_MAX: u32 = 1_000;
}

/// Where an endpoint listens: `127.0.0.1:80`, `[::1]:80` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Ip(SocketAddr),
    /// Absolute, and short enough for `sockaddr_un`.
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Balancer {
    RoundRobin,
    LeastLoaded,
    Ewma {
        decay: Duration,
    },
    /// A part of the endpoints, so wide that each has between `low` and `high` attempts under way,
    /// in hundredths.
    Aperture {
        decay: Duration,
        low_percent: u32,
        high_percent: u32,
        min_endpoints: u32,
    },
    /// `max_load_percent`: of the mean load, what an endpoint takes at most.
    ConsistentHash {
        by: HashBy,
        max_load_percent: u32,
    },
}

/// What of a request decides which endpoint it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashBy {
    /// The value of a field, by its name in lower case.
    Header(String),
    Cookie(String),
    /// The client's address, without its port.
    Source,
}

impl fmt::Display for HashBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashBy::Header(name) => write!(f, "header:{name}"),
            HashBy::Cookie(name) => write!(f, "cookie:{name}"),
            HashBy::Source => f.write_str("source"),
        }
    }
}

impl Balancer {
    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Balancer::RoundRobin => "round_robin",
            Balancer::LeastLoaded => "least_loaded",
            Balancer::Ewma { .. } => "ewma",
            Balancer::Aperture { .. } => "aperture",
            Balancer::ConsistentHash { .. } => "consistent_hash",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// Until the head of the answer; `None`: as long as it takes.
    pub attempt: Option<Duration>,
    /// The whole exchange; `None`: as long as it takes.
    pub request: Option<Duration>,
    /// How long `Expect: 100-continue` waits for the endpoint before we send 100 ourselves.
    pub expect: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// For the process: divided over the shards, of which each keeps at least one.
    pub max_idle: usize,
    pub idle: Duration,
}

/// How many requests a service has under way at once; for the process.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// `None`: as many as come.
    pub max_concurrent: Option<u32>,
    /// The same for each endpoint.
    pub max_concurrent_per_endpoint: Option<u32>,
    /// How many more wait for a place.
    pub max_queue: u32,
    pub queue_timeout: Duration,
}

/// When an endpoint is left alone, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct FailureAccrual {
    pub accrual: Accrual,
    /// How long the first ejection lasts; each further one in a row twice as long as the last.
    pub min_ejection: Duration,
    /// At least `min_ejection`.
    pub max_ejection: Duration,
    /// Of a service's endpoints, from 1 to 100.
    pub max_ejected_percent: u32,
}

/// What an endpoint is ejected for.
#[derive(Debug, Clone, PartialEq)]
pub enum Accrual {
    None,
    /// So many failures in a row, over all shards.
    ConsecutiveFailures {
        failures: u32,
    },
    /// Fewer successes than this, over about as many requests.
    SuccessRate {
        percent: u32,
        requests: u32,
    },
    SuccessRateWindowed {
        percent: u32,
        window: Duration,
    },
}

impl Accrual {
    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Accrual::None => "none",
            Accrual::ConsecutiveFailures { .. } => "consecutive_failures",
            Accrual::SuccessRate { .. } => "success_rate",
            Accrual::SuccessRateWindowed { .. } => "success_rate_windowed",
        }
    }
}

/// When a request is tried again after an attempt that may have reached the endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    pub classifier: Classifier,
    /// Per request.
    pub max_retries: u32,
    pub budget: RetryBudget,
    pub backoff: Backoff,
    /// Of a request's body, what is kept to be sent again; a longer one is not retried.
    pub replay_buffer_bytes: usize,
}

/// Which answers are failures, and which of those may be retried; named as in Linkerd 1.x.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classifier {
    NonRetryable5xx,
    RetryableRead5xx,
    RetryableIdempotent5xx,
    RetryableAll5xx,
    /// These alone are retried; at least one, sorted, from 400 to 599.
    Statuses {
        statuses: Vec<u16>,
        methods: Methods,
    },
    AllSuccessful,
}

/// The methods of requests that may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    Read,
    Idempotent,
    All,
}

impl Methods {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Methods::Read => "read",
            Methods::Idempotent => "idempotent",
            Methods::All => "all",
        }
    }
}

impl Classifier {
    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Classifier::NonRetryable5xx => "non_retryable_5xx",
            Classifier::RetryableRead5xx => "retryable_read_5xx",
            Classifier::RetryableIdempotent5xx => "retryable_idempotent_5xx",
            Classifier::RetryableAll5xx => "retryable_all_5xx",
            Classifier::Statuses { .. } => "statuses",
            Classifier::AllSuccessful => "all_successful",
        }
    }
}

/// For the process.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    /// Retries to a hundred requests.
    pub percent: u32,
    /// Besides, so that a service with few requests has some.
    pub min_per_sec: u32,
    pub window: Duration,
}

/// The time between an attempt and the next.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    None,
    Constant(Duration),
    Jittered { min: Duration, max: Duration },
}

impl Config {
    /// Reads a configuration, or says everything that is wrong with it. `origin` is what errors
    /// call the text: a file name or `<stdin>`.
    /// `exporters` are the kinds that it may name.
    pub fn from_yaml(
        text: &str,
        origin: &str,
        host: &Host,
        exporters: &[&'static ExporterSpec],
    ) -> Result<Config, Errors> {
        let document = yaml::parse(text).map_err(|issue| Errors::new(origin, vec![issue]))?;
        let mut report = errors::Report::new(document.marks);
        for duplicate in document.duplicates {
            report.push(duplicate);
        }
        let root = shape::read(document.value, &mut report);
        let config = validate::config(&root, host, exporters, &mut report);
        let issues = report.into_issues();
        if issues.is_empty() { Ok(config) } else { Err(Errors::new(origin, issues)) }
    }
}

/// The longest path that `sockaddr_un` holds, its closing NUL apart.
const UNIX_PATH_MAX_BYTES: usize = 107;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What an `Address` may be; also what its parser answers when it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an IP address with a port from 1 to 65535 (127.0.0.1:80, [::1]:80), or unix:/path \
             of at most {UNIX_PATH_MAX_BYTES} bytes"
        )
    }
}

impl std::error::Error for NotAnAddress {}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.len() > 1 && path.len() <= UNIX_PATH_MAX_BYTES;
            let plain = path.starts_with('/') && !path.contains('\0');
            return if fits && plain { Ok(Address::Unix(path.into())) } else { Err(NotAnAddress) };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Address::Ip(address)),
            _ => Err(NotAnAddress),
        }
    }
}
