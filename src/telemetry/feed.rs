//! What an exporter is given: the last merged state, word of each new one, the spans and the recent
//! requests, and a place to count what was sent and what failed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::merge::Merger;
use super::spans::{Batch, Queue, Recents};
use super::state::State;

/// One per exporter.
#[derive(Clone, Debug)]
pub struct Feed {
    exporter: &'static str,
    hub: Hub,
}

/// The merged state as the tasks of the telemetry thread share it. They take turns on one thread,
/// so the lock is never waited for; none of them keeps it over an await.
#[derive(Clone, Debug)]
pub struct Hub {
    merger: Arc<Mutex<Merger>>,
    published: Arc<watch::Sender<u64>>,
    books: Arc<Mutex<Books>>,
}

/// What is known of exporters, by their kind; of two of one kind, the sum.
#[derive(Debug, Default)]
struct Books {
    failures: BTreeMap<&'static str, u64>,
    /// Those that deliver spans to a collector, with what it took.
    collectors: Vec<Collector>,
    recorded: u64,
    capped: u64,
    /// By shard; the latest of each.
    recents: VecDeque<Arc<Recents>>,
    recents_capacity: usize,
}

#[derive(Debug)]
struct Collector {
    exporter: &'static str,
    queue: Arc<Queue>,
    sent: u64,
}

impl Hub {
    pub fn new(merger: Merger) -> Hub {
        let version = merger.state().version;
        Hub {
            merger: Arc::new(Mutex::new(merger)),
            published: Arc::new(watch::Sender::new(version)),
            books: Arc::default(),
        }
    }

    pub fn feed(&self, exporter: &'static str) -> Feed {
        lock(&self.books).failures.entry(exporter).or_default();
        Feed { exporter, hub: self.clone() }
    }

    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(lock(&self.merger).state())
    }

    /// Changes the state and tells everybody.
    pub fn update(&self, change: impl FnOnce(&mut Merger)) {
        let mut merger = lock(&self.merger);
        change(&mut merger);
        let state = merger.state_mut();
        lock(&self.books).show(state);
        let version = state.version;
        drop(merger);
        self.published.send_replace(version);
    }

    /// Hands spans to every exporter that takes them.
    pub(super) fn offer(&self, batch: &Arc<Batch>) {
        let mut books = lock(&self.books);
        books.recorded += batch.spans.len() as u64;
        books.collectors.iter().for_each(|it| it.queue.push(batch.clone()));
    }

    /// Spans that were recorded, and for which there was no room on the way here; and requests that
    /// were not recorded since the cap had no room.
    pub(super) fn not_recorded(&self, dropped_spans: u64, capped: u64) {
        let mut books = lock(&self.books);
        books.recorded += dropped_spans;
        books.capped += capped;
        books.collectors.iter().for_each(|it| it.queue.drop_more(dropped_spans));
    }

    /// A shard's latest requests.
    pub(super) fn requested(&self, recents: Recents) {
        lock(&self.books).keep(recents);
    }
}

impl Books {
    fn show(&self, state: &mut State) {
        let telemetry = &mut state.telemetry;
        for (exporter, failures) in &self.failures {
            telemetry.export_failures.set(exporter, *failures);
        }
        telemetry.spans_recorded = self.recorded;
        telemetry.traces_capped = self.capped;
        let (mut sent, mut dropped) = (BTreeMap::new(), BTreeMap::new());
        for it in &self.collectors {
            *sent.entry(it.exporter).or_default() += it.sent;
            *dropped.entry(it.exporter).or_default() += it.queue.dropped();
        }
        sent.iter().for_each(|(exporter, spans)| telemetry.spans_sent.set(exporter, *spans));
        dropped.iter().for_each(|(exporter, spans)| telemetry.spans_dropped.set(exporter, *spans));
    }

    /// As many as are needed to have the latest requests of all shards.
    fn keep(&mut self, recents: Recents) {
        self.recents.push_back(Arc::new(recents));
        let mut kept: usize = self.recents.iter().map(|it| it.requests.len()).sum();
        // What one shard brings is within the capacity: the last of it goes on being whole.
        while let Some(oldest) = self.recents.front()
            && kept - oldest.requests.len() >= self.recents_capacity
        {
            kept -= oldest.requests.len();
            self.recents.pop_front();
        }
    }
}

impl Feed {
    /// Looks at the state. Not for long: the thread does nothing else meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        self.hub.read(read)
    }

    /// Waits for a state newer than the last that was waited for.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.hub.published.subscribe()
    }

    /// Counts an export that failed, under this exporter's name.
    pub fn failed(&self) {
        *lock(&self.hub.books).failures.entry(self.exporter).or_default() += 1;
    }

    /// Spans from now on, for an exporter that delivers them to a collector: of each it will say
    /// whether it was [`Feed::sent`]; what finds no room among the `most` spans that wait counts
    /// as dropped.
    pub fn collect_spans(&self, most: usize) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(most));
        let collector = Collector { exporter: self.exporter, queue: queue.clone(), sent: 0 };
        lock(&self.hub.books).collectors.push(collector);
        queue
    }

    /// A collector has taken so many spans of the exporter's `queue`.
    pub fn sent(&self, queue: &Arc<Queue>, spans: u64) {
        let mut books = lock(&self.hub.books);
        let is_it = |it: &&mut Collector| Arc::ptr_eq(&it.queue, queue);
        if let Some(collector) = books.collectors.iter_mut().find(is_it) {
            collector.sent += spans;
        }
    }

    /// The latest requests are kept from now on: so many, and perhaps more.
    pub fn keep_recents(&self, capacity: usize) {
        let mut books = lock(&self.hub.books);
        books.recents_capacity = books.recents_capacity.max(capacity);
    }

    /// The latest requests, by shard and flush, in no order of time.
    pub fn recents(&self) -> Vec<Arc<Recents>> {
        lock(&self.hub.books).recents.iter().cloned().collect()
    }
}

/// A panic ends the process, so nobody ever sees what a panicking thread left behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
