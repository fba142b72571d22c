//! What the shards share of each service and of each of its endpoints: failure accrual, health,
//! limits, and for balancers that need it, how much each shard has under way.
//!
//! All of it outlives configurations: a service keeps it as long as its name is configured, an
//! endpoint as long as its address is the service's or an attempt is under way there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::accrual::Accrual;
use super::limits::Limit;
use super::plan::Wanted;
use crate::config::{self, Address};
use crate::telemetry::record::EndpointState as Shown;

/// Of one service.
#[derive(Debug)]
pub struct Shared {
    /// No other service's, nor will it be: how messages name it.
    pub(super) number: u32,
    pub(super) accrual: Accrual,
    pub(super) limit: Limit,
    pub(super) reserves: Reserves,
    shards: usize,
    /// The same on all shards, and another in each process: where an aperture opens.
    pub(super) seed: u64,
}

/// Of one endpoint of one service. Its first lines are touched by plain requests: a success reads
/// them, a failure writes them. Two lines, since prefetchers fetch by twos.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct EndpointState {
    /// In a row; for consecutive failures alone.
    pub(super) failures: AtomicU32,
    /// What all shards have seen since the first one last looked; for success rates alone.
    pub(super) successes_seen: AtomicU32,
    pub(super) failures_seen: AtomicU32,
    /// Whether it is ejected; written under the accrual's lock.
    pub(super) ejection: AtomicU8,
    /// The health checker's verdict.
    pub(super) is_unhealthy: AtomicBool,
    pub(super) is_drained: AtomicBool,
    /// Its place in the accrual's books; of no meaning once it is the service's no more.
    pub(super) at: AtomicU32,
    pub(super) address: Address,
    /// Attempts under way by shard, each as its shard wrote them last: ten times a second, and so
    /// by nobody on the way of a request.
    pub(super) loads: Box<[AtomicU32]>,
    pub(super) running: Running,
}

/// States of `policy::budget::Reserve`; touched where a shard's own share is used up.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Reserves {
    pub(super) retries: AtomicU64,
    pub(super) requeues: AtomicU64,
}

/// Attempts under way over all shards; touched only where a limit is configured.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Running(AtomicU32);

impl Shared {
    pub fn new(number: u32, shards: usize, started: Instant, seed: u64) -> Shared {
        Shared {
            number,
            accrual: Accrual::new(started, seed),
            limit: Limit::new(shards),
            reserves: Reserves::default(),
            shards,
            seed,
        }
    }

    /// Takes over what is configured and found. Endpoints that were there keep their state.
    pub(super) fn apply(
        &self,
        service: &config::Service,
        wanted: &[Wanted],
    ) -> Vec<Arc<EndpointState>> {
        self.accrual.apply(service, wanted, |address| EndpointState::new(address, self.shards))
    }
}

impl EndpointState {
    fn new(address: &Address, shards: usize) -> EndpointState {
        EndpointState {
            failures: AtomicU32::new(0),
            successes_seen: AtomicU32::new(0),
            failures_seen: AtomicU32::new(0),
            ejection: AtomicU8::new(Shown::Available as u8),
            is_unhealthy: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
            at: AtomicU32::new(u32::MAX),
            address: address.clone(),
            loads: (0..shards).map(|_| AtomicU32::new(0)).collect(),
            running: Running::default(),
        }
    }

    /// It is out for its failures alone.
    pub(super) fn may_be_probed(&self) -> bool {
        !self.is_drained.load(Ordering::Relaxed) && !self.is_unhealthy.load(Ordering::Relaxed)
    }

    /// As operators and balancers see it.
    pub(super) fn shown(&self) -> Shown {
        if self.is_drained.load(Ordering::Relaxed) {
            return Shown::Draining;
        }
        match self.ejection.load(Ordering::Relaxed) {
            it if it == Shown::Ejected as u8 => Shown::Ejected,
            it if it == Shown::Probing as u8 => Shown::Probing,
            _ if self.is_unhealthy.load(Ordering::Relaxed) => Shown::Unhealthy,
            _ => Shown::Available,
        }
    }

    /// Tells the others what shard `me` has under way; what they have.
    pub(super) fn exchange_load(&self, me: usize, pending: u32) -> u32 {
        self.loads[me].store(pending, Ordering::Relaxed);
        let others = self.loads.iter().enumerate().filter(|(shard, _)| *shard != me);
        others.map(|(_, load)| load.load(Ordering::Relaxed)).sum()
    }
}

impl Running {
    /// Counts an attempt in, if there is room for it below `most`.
    pub(super) fn enter(&self, most: u32) -> bool {
        let more = |running: u32| (running < most).then_some(running + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "who leaves has entered");
    }
}
