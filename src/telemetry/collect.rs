//! The telemetry thread's own work: takes what the shards have sent, merges it, and gives the
//! buffers back.
//!
//! crossbeam cannot wake a tokio task, so flushes are taken on a tick, half as long as a flush
//! interval: what a scrape shows is a flush interval and a half old at most, and changes twice
//! within one at most, however many shards there are. Spans may be many: whoever hands some over
//! rings a bell, and they go to the exporters at once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::{Notify, oneshot};

use super::feed::Hub;
use super::layout::Layout;
use super::merge::Merger;
use super::record::{Outlet, Recording, Snapshot};
use super::spans::{Batch, Recents};
use super::trace::{Recent, Span};

/// Buffers of each shard that are on the way or waiting to be merged: all but the one in use.
const BUFFERS_PER_SHARD: usize = 2;
/// Flushes of each shard that are on the way: with each change of the configuration one goes
/// besides those in the buffers.
const SNAPSHOTS_PER_SHARD: usize = 64;
/// Batches of spans of each shard that are on the way. At 50,000 requests a second, all of them
/// recorded, one fills in 2.5 ms: so the telemetry thread may be busy for 80 ms. What finds no room
/// is counted.
const BATCHES_PER_SHARD: usize = 32;
/// A shard that ends waits for its last buffer no longer than twice this.
const LONGEST_TICK: Duration = Duration::from_millis(500);
/// A tick without a shard's flush still moves the minute on this often.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// The telemetry thread's ends of the channels.
#[derive(Debug)]
pub struct Inlet {
    /// When the process's clock began.
    started: Instant,
    snapshots: Receiver<Snapshot>,
    /// By shard.
    returns: Vec<Sender<Box<Recording>>>,
    spans: Receiver<Handed>,
    bell: Arc<Notify>,
    /// Where buffers for spans go back to, by shard.
    emptied: Vec<Sender<Vec<Span>>>,
}

/// Spans and recent requests, as a shard hands them over.
#[derive(Debug)]
pub struct Handed {
    pub shard: usize,
    pub layout: Arc<Layout>,
    pub spans: Vec<Span>,
    /// Spans that were recorded and found no room.
    pub dropped: u64,
    /// Requests that were not recorded since the cap had no room for them.
    pub capped: u64,
    pub recents: Vec<Recent>,
}

/// The shard's end of the spans' channel.
#[derive(Clone, Debug)]
pub struct SpanOutlet {
    handed: Sender<Handed>,
    bell: Arc<Notify>,
    emptied: Receiver<Vec<Span>>,
}

impl SpanOutlet {
    /// Sends, or gives back what finds no room in that time, which is none but at a shard's end.
    pub fn send(&self, handed: Handed, patience: Duration) -> Result<(), Handed> {
        if patience.is_zero() {
            self.handed.try_send(handed).map_err(TrySendError::into_inner)?;
        } else {
            let sent = self.handed.send_timeout(handed, patience);
            sent.map_err(SendTimeoutError::into_inner)?;
        }
        self.bell.notify_one();
        Ok(())
    }

    /// A buffer to gather spans in.
    pub fn buffer(&self) -> Vec<Span> {
        self.emptied.try_recv().unwrap_or_default()
    }
}

/// The ends for each shard, and those for the telemetry thread.
pub fn channels(shards: usize, started: Instant) -> (Vec<(Outlet, SpanOutlet)>, Inlet) {
    let (sender, snapshots) = bounded(shards * SNAPSHOTS_PER_SHARD);
    let (returns, returned): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| bounded(BUFFERS_PER_SHARD)).unzip();
    let (handed, spans) = bounded(shards * BATCHES_PER_SHARD);
    let (empty, emptied): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| bounded(BATCHES_PER_SHARD)).unzip();
    let bell = Arc::new(Notify::new());
    let outlet = |(returned, emptied)| {
        let spans = SpanOutlet { handed: handed.clone(), bell: bell.clone(), emptied };
        (Outlet { snapshots: sender.clone(), returned }, spans)
    };
    let outlets = returned.into_iter().zip(emptied).map(outlet).collect();
    (outlets, Inlet { started, snapshots, returns, spans, bell, emptied: empty })
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
                () = self.bell.notified() => {
                    self.pass_on(&hub);
                    continue;
                }
                _ = &mut ends => true,
            };
            self.pass_on(&hub);
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

    /// Gives the exporters what shards have handed over.
    fn pass_on(&self, hub: &Hub) {
        for handed in self.spans.try_iter() {
            let Handed { shard, layout, spans, dropped, capped, recents } = handed;
            let epoch = epoch(self.started);
            if !recents.is_empty() {
                hub.requested(Recents { requests: recents, layout: layout.clone(), epoch });
            }
            hub.not_recorded(dropped, capped);
            if !spans.is_empty() {
                let returns = self.emptied[shard].clone();
                hub.offer(&Batch::gathered(spans, layout, epoch, returns));
            }
        }
    }

    /// In one go: what anybody sees of the state is consistent in itself.
    fn merge(&self, merger: &mut Merger, flushes: Vec<Snapshot>, now: Instant) {
        merger.set_epoch(epoch(self.started));
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

/// When the process's clock began, since 1970; anew each time, since the calendar may be set.
pub(super) fn epoch(started: Instant) -> Duration {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.saturating_sub(started.elapsed())
}
