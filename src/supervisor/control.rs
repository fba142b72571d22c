//! The control thread: merges what the shards report, runs the exporters and serves admin, each as
//! a task of one runtime, apart from every shard.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::RunError;
use super::discovery::{Discovery, Update};
use super::listen::describe;
use crate::admin;
use crate::config::{Config, Service, Telemetry};
use crate::control::Event;
use crate::telemetry::collect::Inlet;
use crate::telemetry::exporters::Made;
use crate::telemetry::feed::Hub;
use crate::telemetry::merge::Merger;

/// How long exporters may take to send what is due when the process ends: a push that was under way
/// and the last one, each with a second of its own, and the second that a close may take.
const LAST_EXPORTS: Duration = Duration::from_millis(3_500);

pub(super) struct ControlThread {
    admin: Option<SocketAddr>,
    /// Which services are discovered, and how.
    discovered: mpsc::UnboundedSender<Wanted>,
    ends: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    pub(super) fn start(
        config: &Config,
        listener: Option<TcpListener>,
        state: admin::State,
        collector: Option<(Inlet, Hub)>,
        exporters: Vec<Made>,
        events: &Sender<Event>,
    ) -> Result<ControlThread, RunError> {
        let failed = |error: io::Error| RunError(format!("no control thread: {error}"));
        let admin = listener.as_ref().map(TcpListener::local_addr).transpose().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (ends, ended) = oneshot::channel();
        // Each in turn, not the newest alone: a service that goes and comes back is told anew.
        let (discovered, wanted) = mpsc::unbounded_channel();
        let work = Work {
            listener,
            state,
            collector,
            flush_interval: config.telemetry.as_ref().map(|it| it.flush_interval),
            exporters,
            wanted,
            events: events.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                runtime.block_on(work.run(ended));
                // The name of a collector may be being looked up; dropped, it would wait for that.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        let control = ControlThread { admin, discovered, ends, thread };
        control.discover(config);
        Ok(control)
    }

    /// Where admin came to listen.
    pub(super) fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Follows what a new configuration says of where endpoints are found.
    pub(super) fn discover(&self, config: &Config) {
        // It may have died, and then the process with it.
        let _ = self.discovered.send(wanted(config));
    }

    /// Merges what the shards have sent last, lets exporters send it, and ends.
    pub(super) fn end(self) {
        // It may have died, and then the process with it.
        let _ = self.ends.send(());
        let _ = self.thread.join();
    }
}

/// For what the shards of this configuration will send.
pub(super) fn hub_of(config: &Config) -> Hub {
    let cores: Vec<usize> = config.runtime.shards.iter().map(|shard| shard.core).collect();
    let (max_series, series_ttl) = config
        .telemetry
        .as_ref()
        .map_or((0, Duration::ZERO), |telemetry| (telemetry.max_series, series_ttl(telemetry)));
    Hub::new(Merger::new(&cores, max_series, series_ttl, Instant::now()))
}

/// Where admin is to listen.
pub(super) fn bind(config: &Config) -> Result<Option<TcpListener>, RunError> {
    let Some(settings) = &config.admin else {
        return Ok(None);
    };
    let wanted = settings.address;
    let failed = |error: io::Error| {
        RunError(format!("cannot listen on {wanted} for admin: {}", describe(&error)))
    };
    let listener = TcpListener::bind(wanted).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Some(listener))
}

/// How long series stay. At least as long as what was counted for them may be on the way.
pub(super) fn series_ttl(telemetry: &Telemetry) -> Duration {
    telemetry.series_ttl.max(3 * telemetry.flush_interval)
}

/// Services whose endpoints are not configured, and where they are found.
type Wanted = Vec<(String, crate::config::Discovery)>;

fn wanted(config: &Config) -> Wanted {
    let discovered = |it: &Service| Some((it.name.clone(), it.discovery.clone()?));
    config.services.iter().filter_map(discovered).collect()
}

/// What the thread does.
struct Work {
    listener: Option<TcpListener>,
    state: admin::State,
    collector: Option<(Inlet, Hub)>,
    flush_interval: Option<Duration>,
    exporters: Vec<Made>,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    events: Sender<Event>,
}

impl Work {
    async fn run(self, ended: oneshot::Receiver<()>) {
        let (end_exports, exports_end) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut routes = axum::Router::new();
        let hub = self.collector.as_ref().map(|(_, hub)| hub.clone());
        if let Some(hub) = &hub {
            for Made { kind, exporter } in self.exporters {
                let feed = hub.feed(kind);
                routes = routes.merge(exporter.routes(&feed));
                if let Some(task) = exporter.task(feed, exports_end.clone()) {
                    tasks.spawn(task);
                }
            }
        }
        tokio::spawn(discover(self.wanted, self.events.clone()));
        if let Some(listener) = self.listener {
            let on_request = order(self.events);
            tokio::spawn(admin::serve(listener, self.state, hub, routes, on_request));
        }
        match self.collector.zip(self.flush_interval) {
            Some(((inlet, hub), interval)) => inlet.collect(hub, interval, ended).await,
            None => {
                let _ = ended.await;
            }
        }
        end_exports.send_replace(true);
        let last = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_EXPORTS, last).await.is_err() {
            tracing::warn!("exporters have not sent everything before the end");
        }
    }
}

/// Follows whatever is wanted, and tells the supervisor.
async fn discover(mut wanted: mpsc::UnboundedReceiver<Wanted>, events: Sender<Event>) {
    let mut discovery = Discovery::new(move |Update { service, endpoints }| {
        // Nobody listens only once the process is ending.
        let _ = events.send(Event::Discovered { service, endpoints });
    });
    while let Some(wanted) = wanted.recv().await {
        discovery.apply(wanted);
    }
}

fn order(events: Sender<Event>) -> admin::OnRequest {
    Box::new(move |request| {
        let event = match request {
            admin::Request::Shutdown => Event::Shutdown,
            admin::Request::Drain => Event::Drain,
            admin::Request::Reload(done) => Event::Reload { done },
            admin::Request::SetEndpoint(change, done) => Event::SetEndpoint { change, done },
            admin::Request::SetTracing(change, done) => Event::SetTracing { change, done },
        };
        // Nobody listens only once the process is ending, which is what was asked for.
        let _ = events.send(event);
    })
}
