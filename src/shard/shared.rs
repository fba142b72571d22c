//! What the shards share of each service: its failure accrual, its limit, and for balancers that
//! need it, how much each shard has under way.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::accrual::Accrual;
use super::limits::Limit;
use crate::config::{self, Config};
use crate::policy::concurrency::ConcurrencyLimit;

/// Of one service.
pub(super) struct Shared {
    pub(super) accrual: Accrual,
    pub(super) limit: Option<Limit>,
    /// Attempts under way by shard and endpoint, each as its shard wrote them last: ten times a
    /// second, and so by nobody on the way of a request. Empty where the balancer does not look.
    loads: Box<[Box<[AtomicU32]>]>,
}

/// Of all services, in their order.
#[derive(Clone)]
pub struct Services {
    pub(super) each: Arc<[Arc<Shared>]>,
    /// The same on all shards, and another in each process: where an aperture opens.
    pub(super) seed: u64,
}

impl Services {
    pub fn new(config: &Config, started: Instant) -> Services {
        let seed = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let shards = config.runtime.shards.len();
        let shared = |service: &config::Service| {
            let loads = |_| service.endpoints.iter().map(|_| AtomicU32::new(0)).collect();
            let looks = matches!(
                service.balancer,
                config::Balancer::Aperture { .. } | config::Balancer::ConsistentHash { .. }
            );
            let accrual = Accrual::new(service, started, seed);
            let rules = &service.limits;
            let limit = rules.max_concurrent.map(|max_concurrent| {
                let max_queue = rules.max_queue;
                Limit::new(ConcurrencyLimit { max_concurrent, max_queue }, shards)
            });
            Arc::new(Shared {
                accrual,
                limit,
                loads: (0..shards).filter(|_| looks).map(loads).collect(),
            })
        };
        Services { each: config.services.iter().map(shared).collect(), seed }
    }
}

impl Shared {
    /// Tells the others what shard `me` has under way, and adds up in `others` what they have.
    /// Whether the balancer looks at that.
    pub(super) fn exchange_loads(
        &self,
        me: usize,
        pending: impl Fn(usize) -> u32,
        others: &mut Vec<u32>,
    ) -> bool {
        let Some(mine) = self.loads.get(me) else { return false };
        mine.iter().enumerate().for_each(|(at, it)| it.store(pending(at), Ordering::Relaxed));
        others.clear();
        others.resize(mine.len(), 0);
        for shard in self.loads.iter().enumerate().filter(|it| it.0 != me).map(|it| it.1) {
            for (sum, load) in others.iter_mut().zip(shard) {
                *sum += load.load(Ordering::Relaxed);
            }
        }
        true
    }
}
