//! What is so at the moment of a flush, as a shard tells it: under way, connected, balanced.

use super::layout::Layout;
use super::record::{ServerGauges, TargetGauges};

/// A service's balancer and pool on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServiceGauges {
    pub size: u64,
    pub available: u64,
    /// Attempts under way.
    pub load: u64,
    /// Endpoints that an aperture uses; 0 where the balancer uses all.
    pub width: u64,
    /// Connections, idle or not.
    pub pool_size: u64,
    /// Idle ones.
    pub pool_cached: u64,
    pub pool_waiters: u64,
    /// Retries that the budget would allow now.
    pub retry_budget: u64,
}

/// Whether an endpoint is given requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    #[default]
    Available,
    Ejected,
    Probing,
    /// The health checker says so.
    Unhealthy,
    Draining,
}

/// An endpoint as one shard's balancer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeGauges {
    pub load: u64,
    /// 0 where the balancer keeps none.
    pub ewma_us: u64,
    pub state: EndpointState,
}

/// The driver's own figures, as totals since the shard began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ShardFigures {
    pub connections: u64,
    pub turns: u64,
    pub enters: u64,
    pub sqes: u64,
    pub cqes: u64,
    /// Sockets, listeners and mailboxes in the ring, with those whose last completion is out.
    pub slots: u64,
    pub buffers_in_use: u64,
    pub buffers_exhausted: u64,
    pub leased_bytes: u64,
    /// Of the time since the last flush, what was not spent parked.
    pub busy_ratio: f64,
    /// Both since the last flush.
    pub longest_poll_us: u64,
    pub late_us: u64,
}

/// What is so at the moment of a flush.
#[derive(Debug, Default)]
pub struct Gauges {
    pub servers: Vec<ServerGauges>,
    pub targets: Vec<TargetGauges>,
    /// Attempts under way, by endpoint id.
    pub endpoints: Vec<u32>,
    /// By service.
    pub services: Vec<ServiceGauges>,
    /// Endpoints of the first service, then of the next.
    pub nodes: Vec<NodeGauges>,
    pub shard: ShardFigures,
}

impl Gauges {
    /// For all ids of a layout. Ids only ever become more, and keep what they have.
    pub(super) fn make_room(&mut self, layout: &Layout) {
        let room = |len: usize, ids: usize| len.max(ids);
        self.servers.resize_with(room(self.servers.len(), layout.servers.len()), Default::default);
        self.targets.resize_with(room(self.targets.len(), layout.targets.len()), Default::default);
        self.endpoints.resize(room(self.endpoints.len(), layout.endpoints.len()), 0);
    }

    pub(super) fn copy(&mut self, from: &Gauges) {
        self.servers.clone_from(&from.servers);
        self.targets.clone_from(&from.targets);
        self.endpoints.clone_from(&from.endpoints);
        self.services.clone_from(&from.services);
        self.nodes.clone_from(&from.nodes);
        self.shard = from.shard;
    }
}
