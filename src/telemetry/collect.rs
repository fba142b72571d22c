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
use super::record::{Outlet, Recording, Snapshot};

/// Buffers of each shard that are on the way or waiting to be merged: all but the one in use.
const BUFFERS_PER_SHARD: usize = 2;
/// A tick without a shard's flush still moves the minute on this often.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// After this long the other tasks of the thread have their turn before the next snapshot.
const IN_ONE_GO: Duration = Duration::from_millis(20);

/// The telemetry thread's ends of the channels.
#[derive(Debug)]
pub struct Inlet {
    snapshots: Receiver<Snapshot>,
    /// By shard.
    returns: Vec<Sender<Box<Recording>>>,
}

/// The ends for each shard, and those for the telemetry thread.
pub fn channels(shards: usize) -> (Vec<Outlet>, Inlet) {
    let (sender, snapshots) = bounded(shards * BUFFERS_PER_SHARD);
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
        let mut tick = tokio::time::interval(flush_interval / 2);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut settled = Instant::now();
        loop {
            let last = tokio::select! {
                _ = tick.tick() => false,
                _ = &mut ends => true,
            };
            let merging = Instant::now();
            let merged = self.merge_all(&hub).await;
            if merged > 0 || settled.elapsed() >= AT_LEAST_EVERY {
                settled = Instant::now();
                hub.update(|merger| {
                    merger.settle(settled);
                    let state = merger.state_mut();
                    state.process.refresh();
                    state.telemetry.merge_us = merging.elapsed().as_micros() as u64;
                });
            }
            if last {
                return;
            }
        }
    }

    /// Merges what is there now, and says how much that was.
    async fn merge_all(&self, hub: &Hub) -> usize {
        let waiting = self.snapshots.len();
        let mut since = Instant::now();
        for _ in 0..waiting {
            let Ok(mut snapshot) = self.snapshots.try_recv() else { break };
            hub.merge(&mut snapshot);
            // The shard empties it: it knows the layout that it will be used under. One that has
            // ended takes nothing back.
            let _ = self.returns[snapshot.shard].try_send(snapshot.recording);
            if since.elapsed() > IN_ONE_GO {
                tokio::task::yield_now().await;
                since = Instant::now();
            }
        }
        waiting
    }
}
