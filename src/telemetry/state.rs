//! What the telemetry thread knows, merged over all shards: what every exporter reads.
//!
//! Counters and distributions are totals since the start; gauges are of each shard's last flush.
//! How these become names is for `names`; how they come here is for `merge`.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::distribution::{Distribution, RECENT_SECS};
use super::layout::{EndpointName, OTHER, Occupied, ServerName, TargetName};
use super::process::Process;
use super::record::{
    EndpointCounts, EndpointState, ServerCounts, ServerGauges, ServiceCounts, ServiceGauges,
    ShardFigures, TargetCounts, TargetGauges,
};

/// Where a value belongs: its places in the tree, and its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Without a slash at either end; one for each router where several share the value.
    pub paths: Vec<String>,
    pub labels: Vec<(&'static str, String)>,
}

impl Scope {
    /// What it is a scope of, as `server` or `shard`: the name of its last label, since labels go
    /// from the outside in, and its place in the tree where it has none (`process`).
    pub fn kind(&self) -> &str {
        let path = self.paths.first().map_or("", String::as_str);
        self.labels.last().map_or(path, |(name, _)| name)
    }
}

/// One counter for each value of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    counts: BTreeMap<Cow<'static, str>, u64>,
    /// By the first digit of labels that begin with one, `other` or not.
    classes: [u64; 10],
}

impl Split {
    /// Beyond `max` labels, new ones are counted as `other`.
    pub fn add(&mut self, label: impl Into<Cow<'static, str>>, count: u64, max: usize) {
        let label = label.into();
        let first = label.as_bytes().first().copied().unwrap_or_default();
        if let Some(class) = self.classes.get_mut(first.wrapping_sub(b'0') as usize) {
            *class += count;
        }
        let known = self.counts.contains_key(&label) || self.counts.len() < max;
        *self.counts.entry(if known { label } else { OTHER.into() }).or_default() += count;
    }

    pub fn set(&mut self, label: &'static str, count: u64) {
        self.counts.insert(label.into(), count);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(label, count)| (label.as_ref(), *count))
    }

    /// Status codes by class: the first digit, and how many.
    pub fn classes(&self) -> impl Iterator<Item = (usize, u64)> {
        self.classes.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    pub fn get(&self, label: &str) -> u64 {
        self.counts.get(label).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[derive(Debug)]
pub struct ServerStats {
    pub name: ServerName,
    pub scope: Scope,
    pub counts: ServerCounts,
    pub gauges: ServerGauges,
    pub status: Split,
    pub failures: Split,
    pub latency: Distribution,
    pub proxy_latency: Distribution,
    pub request_bytes: Distribution,
    pub response_bytes: Distribution,
    pub connection_duration: Distribution,
    pub connection_requests: Distribution,
    pub gone_since: Option<Instant>,
}

/// A service as one router uses it: its requests (`service/`) and its attempts (`client/`).
#[derive(Debug)]
pub struct TargetStats {
    pub name: TargetName,
    pub service_scope: Scope,
    pub client_scope: Scope,
    pub counts: TargetCounts,
    pub gauges: TargetGauges,
    pub failures: Split,
    pub latency: Distribution,
    pub retries_per_request: Distribution,
    pub attempt_status: Split,
    pub attempt_failures: Split,
    pub attempt_latency: Distribution,
    pub attempt_request_bytes: Distribution,
    pub attempt_response_bytes: Distribution,
    pub connect_latency: Distribution,
    pub connection_duration: Distribution,
    pub connection_requests: Distribution,
    pub gone_since: Option<Instant>,
}

#[derive(Debug)]
pub struct EndpointStats {
    pub name: EndpointName,
    pub scope: Scope,
    pub counts: EndpointCounts,
    pub pending: u64,
    pub latency: Distribution,
    pub gone_since: Option<Instant>,
}

/// A service's balancer, pool and failure accrual, whichever routers use it.
#[derive(Debug, Default)]
pub struct ServiceStats {
    pub name: String,
    pub scope: Scope,
    pub service_scope: Scope,
    /// The balancer's kind.
    pub algorithm: &'static str,
    pub counts: ServiceCounts,
    pub gauges: ServiceGauges,
    /// Endpoints that configurations brought and took since the start.
    pub adds: u64,
    pub removes: u64,
    /// Every endpoint.
    pub nodes: Vec<NodeStats>,
    /// What those beyond `max_series` come to; `None` where there are no more than that.
    pub other: Option<NodeStats>,
    pub max_series: usize,
    /// When it went from the configuration.
    pub gone_since: Option<Instant>,
}

/// An endpoint as the balancers see it.
#[derive(Clone, Debug, Default)]
pub struct NodeStats {
    pub address: String,
    pub scope: Scope,
    /// Attempts under way, over all shards.
    pub load: u64,
    /// The mean of the shards that keep one; 0 where none does.
    pub ewma_us: u64,
    /// The worst that a shard has.
    pub state: EndpointState,
}

#[derive(Debug, Default)]
pub struct ShardStats {
    pub scope: Scope,
    pub core: usize,
    /// Of the last flush, but for `longest_poll_us` and `late_us`: a stall between two scrapes must
    /// be seen, so they are of the last minute.
    pub figures: ShardFigures,
    /// Of each second that had a flush: (the second, `longest_poll_us`, `late_us`).
    peaks: VecDeque<(u64, u64, u64)>,
}

/// The telemetry thread's own figures.
#[derive(Debug, Default)]
pub struct TelemetryStats {
    pub scope: Scope,
    /// What the last merge took.
    pub merge_us: u64,
    pub snapshots: u64,
    /// Whatever became of them.
    pub spans_recorded: u64,
    /// Requests that `max_spans_per_sec` kept from being recorded.
    pub traces_capped: u64,
    /// By exporter that delivers spans. Of each: what was recorded is sent, dropped or waits.
    pub spans_sent: Split,
    pub spans_dropped: Split,
    /// By exporter; an exporter that never failed has 0.
    pub export_failures: Split,
}

#[derive(Debug, Default)]
pub struct State {
    /// Grows with each merge that brought something: what is rendered can be kept until it does.
    pub version: u64,
    pub servers: Vec<Option<ServerStats>>,
    pub targets: Vec<Option<TargetStats>>,
    pub endpoints: Vec<Option<EndpointStats>>,
    pub services: Vec<ServiceStats>,
    pub shards: Vec<ShardStats>,
    pub process: Process,
    pub telemetry: TelemetryStats,
}

impl State {
    /// The ids whose series are kept.
    pub fn occupied(&self) -> Occupied {
        fn kept<S>(stats: &[Option<S>]) -> Vec<bool> {
            stats.iter().map(Option::is_some).collect()
        }
        Occupied {
            servers: kept(&self.servers),
            targets: kept(&self.targets),
            endpoints: kept(&self.endpoints),
        }
    }

    pub fn servers(&self) -> impl Iterator<Item = &ServerStats> {
        self.servers.iter().flatten()
    }

    pub fn targets(&self) -> impl Iterator<Item = &TargetStats> {
        self.targets.iter().flatten()
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointStats> {
        self.endpoints.iter().flatten()
    }
}

impl ServerStats {
    pub fn new(name: ServerName) -> ServerStats {
        let (router, address) = (&name.router, name.address);
        let scope = Scope {
            paths: vec![format!("rt/{router}/server/{}/{}", address.ip(), address.port())],
            labels: vec![("router", router.clone()), ("server", address.to_string())],
        };
        ServerStats {
            scope,
            counts: ServerCounts::default(),
            gauges: ServerGauges::default(),
            status: Split::default(),
            failures: Split::default(),
            latency: Distribution::default(),
            proxy_latency: Distribution::default(),
            request_bytes: Distribution::default(),
            response_bytes: Distribution::default(),
            connection_duration: Distribution::default(),
            connection_requests: Distribution::default(),
            gone_since: None,
            name,
        }
    }
}

impl ServerStats {
    /// Nothing is under way there.
    pub fn is_idle(&self) -> bool {
        self.gauges == ServerGauges::default()
    }
}

impl TargetStats {
    /// Nothing is under way there, and no connection is open.
    pub fn is_idle(&self) -> bool {
        self.gauges == TargetGauges::default()
    }

    pub fn new(name: TargetName) -> TargetStats {
        let (router, service) = (&name.router, &name.service);
        let scope = |kind: &'static str| Scope {
            paths: vec![format!("rt/{router}/{kind}/{service}")],
            labels: vec![("router", router.clone()), (kind, service.clone())],
        };
        TargetStats {
            service_scope: scope("service"),
            client_scope: scope("client"),
            counts: TargetCounts::default(),
            gauges: TargetGauges::default(),
            failures: Split::default(),
            latency: Distribution::default(),
            retries_per_request: Distribution::default(),
            attempt_status: Split::default(),
            attempt_failures: Split::default(),
            attempt_latency: Distribution::default(),
            attempt_request_bytes: Distribution::default(),
            attempt_response_bytes: Distribution::default(),
            connect_latency: Distribution::default(),
            connection_duration: Distribution::default(),
            connection_requests: Distribution::default(),
            gone_since: None,
            name,
        }
    }
}

impl EndpointStats {
    pub fn new(name: EndpointName) -> EndpointStats {
        let TargetName { router, service } = &name.target;
        let address = &name.address;
        let scope = Scope {
            paths: vec![format!("rt/{router}/client/{service}/endpoint/{address}")],
            labels: vec![
                ("router", router.clone()),
                ("client", service.clone()),
                ("endpoint", address.clone()),
            ],
        };
        EndpointStats {
            scope,
            counts: EndpointCounts::default(),
            pending: 0,
            latency: Distribution::default(),
            gone_since: None,
            name,
        }
    }
}

impl ServiceStats {
    pub fn new(
        name: &str,
        algorithm: &'static str,
        routers: &[String],
        max_series: usize,
    ) -> ServiceStats {
        let scope = |kind: &'static str| Scope {
            paths: routers.iter().map(|router| format!("rt/{router}/{kind}/{name}")).collect(),
            labels: vec![(kind, name.to_owned())],
        };
        ServiceStats {
            name: name.to_owned(),
            scope: scope("client"),
            service_scope: scope("service"),
            algorithm,
            max_series,
            ..ServiceStats::default()
        }
    }

    /// The endpoints that have series, and what the others come to.
    pub fn series(&self) -> impl Iterator<Item = &NodeStats> {
        self.nodes.iter().take(self.max_series).chain(&self.other)
    }

    /// After a change of the nodes.
    pub fn sum_other(&mut self) {
        let beyond = self.nodes.get(self.max_series..).unwrap_or_default();
        let other = beyond.iter().fold(self.node(OTHER), |sum, node| NodeStats {
            load: sum.load + node.load,
            ewma_us: sum.ewma_us.max(node.ewma_us),
            state: sum.state.max(node.state),
            ..sum
        });
        self.other = (!beyond.is_empty()).then_some(other);
    }

    /// An endpoint of this service's, without figures yet.
    pub fn node(&self, address: &str) -> NodeStats {
        let paths = self.scope.paths.iter().map(|path| format!("{path}/endpoint/{address}"));
        NodeStats {
            address: address.to_owned(),
            scope: Scope {
                paths: paths.collect(),
                labels: vec![("client", self.name.clone()), ("endpoint", address.to_owned())],
            },
            ..NodeStats::default()
        }
    }
}

impl ShardStats {
    pub fn new(number: usize, core: usize) -> ShardStats {
        ShardStats {
            scope: Scope {
                paths: vec![format!("shard/{number}")],
                labels: vec![("shard", number.to_string())],
            },
            core,
            figures: ShardFigures::default(),
            peaks: VecDeque::new(),
        }
    }

    /// Takes in a flush that came in the second `now_secs`.
    pub fn update(&mut self, figures: ShardFigures, now_secs: u64) {
        let peak = (now_secs, figures.longest_poll_us, figures.late_us);
        match self.peaks.back_mut() {
            Some(last) if last.0 == now_secs => {
                *last = (now_secs, last.1.max(peak.1), last.2.max(peak.2));
            }
            _ => self.peaks.push_back(peak),
        }
        while self.peaks.front().is_some_and(|peak| peak.0 + RECENT_SECS <= now_secs) {
            self.peaks.pop_front();
        }
        self.figures = ShardFigures {
            longest_poll_us: self.peaks.iter().map(|peak| peak.1).max().unwrap_or_default(),
            late_us: self.peaks.iter().map(|peak| peak.2).max().unwrap_or_default(),
            ..figures
        };
    }
}
