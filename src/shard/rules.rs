//! What a service's configuration comes to on one shard, but for its endpoints.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::accrual::rule;
use super::retries::Retries;
use super::shared::Shared;
use crate::config::{self, UpstreamTimeouts};
use crate::policy::Kind;
use crate::policy::accrual::Accrual;
use crate::policy::hash_key::HashKey;

/// What the configuration says of a service, but for its endpoints. An exchange keeps those that it
/// began with.
pub(super) struct Rules {
    /// What they were made of, without endpoints.
    pub(super) config: config::Service,
    pub(super) timeouts: UpstreamTimeouts,
    pub(super) retries: Rc<Retries>,
    /// What of a request the balancer goes by, if it does.
    pub(super) hash_key: Option<HashKey>,
    pub(super) queue_timeout: Duration,
    pub(super) accrual: Accrual,
    pub(super) max_per_endpoint: Option<u32>,
    /// Of this shard's, over all endpoints.
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Duration,
}

impl Rules {
    /// The part that falls to one of `shards` shards. Budgets go on as they are where nothing about
    /// retries is new.
    pub(super) fn new(
        config: config::Service,
        shared: &Arc<Shared>,
        shards: usize,
        before: Option<&Rules>,
    ) -> Rules {
        let same = before.filter(|it| it.config.retries == config.retries);
        let retries = match same {
            Some(before) => before.retries.clone(),
            None => Rc::new(Retries::new(&config.retries, shared.clone())),
        };
        Rules {
            timeouts: config.timeouts.clone(),
            retries,
            hash_key: kind(&config.balancer).1,
            queue_timeout: config.limits.queue_timeout,
            accrual: rule(&config.failure_accrual.accrual),
            max_per_endpoint: config.limits.max_concurrent_per_endpoint,
            max_idle: (config.pool.max_idle / shards).max(1),
            idle_timeout: config.pool.idle,
            config,
        }
    }
}

/// What of a service's configuration is not about its endpoints.
pub(super) fn without_endpoints(service: &config::Service) -> config::Service {
    config::Service { endpoints: Vec::new(), ..service.clone() }
}

/// The balancer's kind, and what of a request it goes by.
pub(super) fn kind(balancer: &config::Balancer) -> (Kind, Option<HashKey>) {
    let hundredths = |percent: u32| f64::from(percent) / 100.0;
    let kind = match *balancer {
        config::Balancer::RoundRobin => Kind::RoundRobin,
        config::Balancer::LeastLoaded => Kind::LeastLoaded,
        config::Balancer::Ewma { decay } => Kind::Ewma { decay },
        config::Balancer::Aperture { decay, low_percent, high_percent, min_endpoints } => {
            Kind::Aperture {
                decay,
                low: hundredths(low_percent),
                high: hundredths(high_percent),
                min: min_endpoints as usize,
            }
        }
        config::Balancer::ConsistentHash { max_load_percent, .. } => {
            Kind::ConsistentHash { bound: hundredths(max_load_percent) }
        }
    };
    let hash_key = match balancer {
        config::Balancer::ConsistentHash { by, .. } => Some(match by {
            config::HashBy::Header(name) => HashKey::Header(name.clone()),
            config::HashBy::Cookie(name) => HashKey::Cookie(name.clone()),
            config::HashBy::Source => HashKey::Source,
        }),
        _ => None,
    };
    (kind, hash_key)
}
