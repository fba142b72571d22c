//! The telemetry thread's own work: takes what the shards have sent, merges it, and gives the
//! buffers back.
//!
//! crossbeam cannot wake a tokio task, so the channel is drained on a tick, half as long as a flush
//! interval: what a scrape shows is a flush interval and a half old at most, and changes twice
//! within one at most, however many shards there are.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

use super::feed::Hub;
use super::merge::Merger;
use super::record::{Outlet, Recording, Snapshot};

/// Buffers of each shard that are on the way or waiting to be merged: all but the one in use.
const BUFFERS_PER_SHARD: usize = 2;
/// Flushes of each shard that are on the way: with each change of the configuration one goes
/// besides those in the buffers.
const SNAPSHOTS_PER_SHARD: usize = 64;
/// A shard that ends waits for its last buffer no longer than twice this.
const LONGEST_TICK: Duration = Duration::from_millis(500);
/// A tick without a shard's flush still moves the minute on this often.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// The telemetry thread's ends of the channels.
#[derive(Debug)]
pub struct Inlet {
    snapshots: Receiver<Snapshot>,
    /// By shard.
    returns: Vec<Sender<Box<Recording>>>,
}

/// The ends for each shard, and those for the telemetry thread.
pub fn channels(shards: usize) -> (Vec<Outlet>, Inlet) {
    let (sender, snapshots) = bounded(shards * SNAPSHOTS_PER_SHARD);
    let (returns, returned): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| bounded(BUFFERS_PER_SHARD)).unzip();
    let outlet = |returned| Outlet { snapshots: sender.clone(), returned };
    (returned.into_iter().map(outlet).collect(), Inlet { snapshots, returns })
}

impl Inlet {
    /// Merges until `ends` resolves, and once more then.
    pub async fn collect(
        self,
        hub: Hub,
        flush_interval: Duration,
        mut ends: oneshot::Receiver<()>,
    ) {
        let mut tick = tokio::time::interval((flush_interval / 2).min(LONGEST_TICK));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settled = Instant::now();
        loop {
            let last = tokio::select! {
                _ = tick.tick() => false,
                _ = &mut ends => true,
            };
            let flushes: Vec<Snapshot> = self.snapshots.try_iter().collect();
            if !flushes.is_empty() || settled.elapsed() >= AT_LEAST_EVERY {
                settled = Instant::now();
                hub.update(|merger| self.merge(merger, flushes, settled));
            }
            if last {
                return;
            }
        }
    }

    /// In one go: what anybody sees of the state is consistent in itself.
    fn merge(&self, merger: &mut Merger, flushes: Vec<Snapshot>, now: Instant) {
        for mut snapshot in flushes {
            merger.merge(&mut snapshot);
            // The shard empties it: it knows the layout that it will be used under. One that has
            // ended takes nothing back.
            let _ = self.returns[snapshot.shard].try_send(snapshot.recording);
        }
        merger.settle(now);
        let state = merger.state_mut();
        state.process.refresh();
        state.telemetry.merge_us = now.elapsed().as_micros() as u64;
    }
}
