//! Discovery: who the endpoints of a service are, where files or DNS say so. One task per service
//! on the control thread, which tells every set of endpoints that differs from the one before.
//!
//! - A set is told whole, sorted, without an address twice, and never empty: while nobody can say
//!   anything better (a file is gone or half-written, a server does not answer, a name has no
//!   addresses), the last good one stays, and the log says so once.
//! - `lines` (what a file says) and `answers` (what answers add up to) are pure; `file` and
//!   `watch`, `dns` and `ask` do the waiting.
//!
//! Does not know shards, balancers or health: what becomes of a set is the caller's business.

mod answers;
mod ask;
mod dns;
mod file;
mod lines;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::JoinHandle;

use self::watch::Watcher;
use crate::config::{self, Endpoint};

/// The endpoints that a service has from now on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Update {
    pub(super) service: String,
    /// At least one, sorted by address, no address twice.
    pub(super) endpoints: Vec<Endpoint>,
}

/// Everything that is followed. Ends with its value.
pub(super) struct Discovery {
    report: Report,
    /// One inotify instance for all files.
    watcher: Arc<Watcher>,
    followed: HashMap<String, Followed>,
}

type Report = Arc<dyn Fn(Update) + Send + Sync>;

struct Followed {
    settings: config::Discovery,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Discovery {
    /// `report` is called from tasks of the runtime that `apply` is called in, and must not wait.
    pub(super) fn new(report: impl Fn(Update) + Send + Sync + 'static) -> Self {
        Discovery { report: Arc::new(report), watcher: Watcher::new(), followed: HashMap::new() }
    }

    /// Follows these services, by name, and no others. One that is followed already, by the same
    /// settings, is left alone and tells nothing; any other tells its endpoints as soon as it knows
    /// some, even if they are the same as those of the settings before.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(super) fn apply(&mut self, wanted: Vec<(String, config::Discovery)>) {
        let mut before = std::mem::take(&mut self.followed);
        for (service, settings) in wanted {
            let same = before.remove(&service).filter(|it| it.settings == settings);
            let followed = same.unwrap_or_else(|| self.follow(service.clone(), settings));
            self.followed.insert(service, followed);
        }
    }

    fn follow(&self, service: String, settings: config::Discovery) -> Followed {
        let reporter = Reporter { service, report: self.report.clone(), last: None };
        let task = match settings.clone() {
            config::Discovery::File { path } => {
                tokio::spawn(file::follow(path, self.watcher.clone(), reporter))
            }
            config::Discovery::Dns { name, port, asking } => {
                tokio::spawn(dns::follow(dns::Wanted::Addresses { port }, name, asking, reporter))
            }
            config::Discovery::DnsSrv { name, asking } => {
                tokio::spawn(dns::follow(dns::Wanted::Targets, name, asking, reporter))
            }
        };
        Followed { settings, task }
    }
}

/// Tells what is new.
struct Reporter {
    service: String,
    report: Report,
    last: Option<Vec<Endpoint>>,
}

impl Reporter {
    /// `endpoints` may come in any order, but with no address twice.
    fn tell(&mut self, mut endpoints: Vec<Endpoint>) {
        endpoints.sort_unstable_by(|one, other| one.address.cmp(&other.address));
        debug_assert!(endpoints.windows(2).all(|pair| pair[0].address != pair[1].address));
        if endpoints.is_empty() || self.last.as_ref() == Some(&endpoints) {
            return;
        }
        let (service, count) = (&self.service, endpoints.len());
        tracing::info!(%service, endpoints = count, "endpoints discovered");
        self.last = Some(endpoints.clone());
        (self.report)(Update { service: self.service.clone(), endpoints });
    }

    /// What stays in force while there is nothing better, for the log.
    fn fallback(&self) -> String {
        match &self.last {
            Some(endpoints) => format!("the last good {} endpoints stay", endpoints.len()),
            None => "there are no endpoints yet".to_owned(),
        }
    }
}

/// On a thread on which waiting does no harm.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is ending, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
