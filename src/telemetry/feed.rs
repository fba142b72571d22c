//! What an exporter is given: the last merged state, word of each new one, and a place to count
//! what failed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::merge::Merger;
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
    failures: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Hub {
    pub fn new(merger: Merger) -> Hub {
        let version = merger.state().version;
        Hub {
            merger: Arc::new(Mutex::new(merger)),
            published: Arc::new(watch::Sender::new(version)),
            failures: Arc::default(),
        }
    }

    pub fn feed(&self, exporter: &'static str) -> Feed {
        lock(&self.failures).entry(exporter).or_default();
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
        for (exporter, failures) in lock(&self.failures).iter() {
            state.telemetry.export_failures.set(exporter, *failures);
        }
        let version = state.version;
        drop(merger);
        self.published.send_replace(version);
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
        *lock(&self.hub.failures).entry(self.exporter).or_default() += 1;
    }
}

/// A panic ends the process, so nobody ever sees what a panicking thread left behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
