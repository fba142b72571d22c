//! Starts shards and admin, listens to signals, drains, and knows when the process is over.
//!
//! What can fail is done before any shard starts: the kernel is asked for what it lacks, every
//! socket is bound. A shard that dies takes the process with it: a core that silently serves
//! nobody would still be sent its share of the connections.

mod control;
#[cfg_attr(not(test), expect(dead_code, reason = "not wired yet"))]
mod discovery;
mod listen;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::control::ControlThread;
use self::listen::bind_all;
use crate::admin;
use crate::config::Config;
use crate::control::{Command, Event};
use crate::ring::{self, MailboxSender};
use crate::shard::{self, Given, Listeners, Peers, Process, Reporting, Services, Shard};
use crate::telemetry::collect::{self, Inlet};
use crate::telemetry::exporters::Made;
use crate::telemetry::layout::{Layout, Registry, ServerName, ServiceFacts, Topology};
use crate::telemetry::samples::Series;

/// How long after the end of a drain a shard may take to say so: a second for its last flush, one
/// for operations that are still in the kernel, and one to be given the core.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long to wait before a full mailbox is tried again.
const FULL_MAILBOX: Duration = Duration::from_millis(2);

/// What the caller knows and the configuration does not say.
pub struct Options {
    pub version: &'static str,
    /// What `Config::telemetry` asks for.
    pub exporters: Vec<Made>,
    /// How the log's filter is read and changed.
    pub logging: admin::Logging,
}

/// Why the process could not run, in one line.
#[derive(Debug)]
pub struct RunError(String);

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunError {}

/// Runs until a signal or admin ends it and every connection is done, or `drain` has passed.
pub fn run(config: Config, options: Options) -> Result<(), RunError> {
    ring::probe(config.runtime.shards.len()).map_err(|why| RunError(why.to_string()))?;
    die_with_any_shard();
    keep_to(&config.runtime.control_cores)?;
    let (events, inbox) = unbounded();
    listen_to_signals(events.clone())?;
    let config = Arc::new(config);
    let (listeners, addresses) = bind_all(&config)?;
    let (reporting, collector) = telemetry(&config, &addresses)?;
    let state = admin::State::new(admin::Info {
        version: options.version,
        config: config.clone(),
        listeners: addresses.clone(),
        logging: options.logging,
    });
    let control =
        ControlThread::start(&config, state.clone(), collector, options.exporters, events.clone())?;
    let started = Instant::now();
    let process = Process {
        started,
        addresses: addresses.clone().into(),
        services: Services::new(&config, started),
    };
    let (commands, shards) = start_shards(&config, listeners, process, reporting, &events)?;
    await_ready(&inbox, shards.len())?;
    state.set_ready(true);
    let cores: Vec<usize> = config.runtime.shards.iter().map(|shard| shard.core).collect();
    tracing::info!(
        version = options.version,
        cores = ?cores,
        listeners = ?addresses,
        admin = %control.admin().map_or_else(|| "off".into(), |address| address.to_string()),
        "ringlane is ready"
    );
    await_end(&inbox)?;
    state.set_ready(false);
    match drain(&inbox, &commands, &config)? {
        Drained::Everybody => {
            for shard in shards {
                shard.join().map_err(RunError)?;
            }
            control.end();
        }
        Drained::NotInTime => {
            // What the others have counted is told all the same.
            control.end();
            std::process::exit(0);
        }
    }
    tracing::info!("ringlane has ended");
    Ok(())
}

/// A shard's mailbox.
type Commands = MailboxSender<Command>;

/// Every mailbox is made before the first shard runs, since each may hand over to any other.
fn start_shards(
    config: &Arc<Config>,
    listeners: Vec<Listeners>,
    process: Process,
    reporting: Vec<Option<Reporting>>,
    events: &Sender<Event>,
) -> Result<(Vec<Commands>, Vec<Shard>), RunError> {
    let mut mailboxes = Vec::new();
    let mut commands = Vec::new();
    for _ in &listeners {
        let (sender, mailbox) = ring::mailbox(shard::MAILBOX_CAPACITY)
            .map_err(|error| RunError(format!("no eventfd for a mailbox: {error}")))?;
        mailboxes.push(mailbox);
        commands.push(sender);
    }
    let limits = config.runtime.shards.iter().map(|shard| shard.max_connections);
    let peers = Arc::new(Peers::new(limits.zip(commands.iter().cloned()).collect()));
    let mut shards = Vec::new();
    let given = listeners.into_iter().zip(reporting).map(|(listeners, reporting)| Given {
        listeners,
        process: process.clone(),
        reporting,
    });
    for (number, (given, mailbox)) in given.zip(mailboxes).enumerate() {
        let (config, peers, events) = (config.clone(), peers.clone(), events.clone());
        let shard = Shard::start(number, config, peers, mailbox, given, events);
        shards.push(shard.map_err(|why| RunError(format!("shard {number}: {why}")))?);
    }
    Ok((commands, shards))
}

/// What each shard reports with, and what the control thread collects it with.
fn telemetry(
    config: &Config,
    addresses: &[SocketAddr],
) -> Result<(Vec<Option<Reporting>>, Option<Collector>), RunError> {
    let shards = config.runtime.shards.len();
    let Some(settings) = &config.telemetry else {
        return Ok((vec![None; shards], None));
    };
    let mut registry = Registry::new(settings.max_series, settings.series_ttl);
    let layout = registry.apply(&topology(config, addresses), Instant::now());
    if layout.series_count() > Series::MAX as usize {
        let (count, most) = (layout.series_count(), Series::MAX);
        return Err(RunError(format!(
            "telemetry has ids for {most} series, and this configuration has {count}; a lower \
             telemetry.max_series makes fewer"
        )));
    }
    let (outlets, inlet) = collect::channels(shards);
    let reporting = outlets.into_iter().map(|outlet| {
        let layout = layout.clone();
        Some(Reporting { layout, outlet, interval: settings.flush_interval })
    });
    Ok((reporting.collect(), Some(Collector { layout, inlet })))
}

struct Collector {
    layout: Arc<Layout>,
    inlet: Inlet,
}

/// The names of what is counted.
fn topology(config: &Config, addresses: &[SocketAddr]) -> Topology {
    let labels = config
        .routers
        .iter()
        .flat_map(|router| router.servers.iter().map(|_| router.label.clone()));
    let servers =
        labels.zip(addresses).map(|(router, address)| ServerName { router, address: *address });
    let services = config.services.iter().enumerate().map(|(index, service)| {
        let uses = |router: &&crate::config::Router| {
            router.routes.iter().any(|route| route.service == index)
        };
        ServiceFacts {
            name: service.name.clone(),
            algorithm: service.balancer.name(),
            endpoints: service.endpoints.iter().map(|it| it.address.to_string()).collect(),
            routers: config.routers.iter().filter(uses).map(|it| it.label.clone()).collect(),
        }
    });
    Topology { servers: servers.collect(), services: services.collect() }
}

/// Confines this thread, and those that it starts, to the control cores. Shards are pinned by their
/// executors.
fn keep_to(cores: &[usize]) -> Result<(), RunError> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set)
        .map_err(|error| RunError(format!("cannot run control threads on {cores:?}: {error}")))
}

/// A panic on any thread ends the process: the message, then exit 1.
fn die_with_any_shard() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("a thread has died, and the process with it");
        std::process::exit(1);
    }));
}

fn listen_to_signals(events: Sender<Event>) -> Result<(), RunError> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| RunError(format!("signals cannot be handled: {error}")))?;
    let listen = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(listen);
    started.map(drop).map_err(|error| RunError(format!("no thread for signals: {error}")))
}

fn await_ready(inbox: &Receiver<Event>, shards: usize) -> Result<(), RunError> {
    let mut ready = 0;
    while ready < shards {
        match inbox.recv() {
            Ok(Event::ShardReady { .. }) => ready += 1,
            Ok(Event::ShardFailed { shard, why }) => {
                return Err(RunError(format!("shard {shard} cannot start: {why}")));
            }
            Ok(Event::Signal(signal)) => {
                return Err(RunError(format!("ended by signal {signal} before it was ready")));
            }
            Ok(Event::ShardDone { .. } | Event::Shutdown | Event::Drain) => {}
            Err(_) => return Err(RunError("every shard has gone".into())),
        }
    }
    Ok(())
}

/// Waits for whatever ends the process.
fn await_end(inbox: &Receiver<Event>) -> Result<(), RunError> {
    loop {
        match inbox.recv() {
            Ok(Event::Signal(_) | Event::Shutdown | Event::Drain) => return Ok(()),
            Ok(Event::ShardReady { .. }) => {}
            Ok(Event::ShardDone { shard } | Event::ShardFailed { shard, .. }) => {
                return Err(RunError(format!("shard {shard} has died")));
            }
            Err(_) => return Err(RunError("every shard has gone".into())),
        }
    }
}

/// Whether every shard has said that it is done.
enum Drained {
    Everybody,
    NotInTime,
}

fn drain(
    inbox: &Receiver<Event>,
    shards: &[Commands],
    config: &Config,
) -> Result<Drained, RunError> {
    let (grace, drain) = (config.runtime.drain_grace, config.runtime.drain);
    tracing::info!(grace_ms = grace.as_millis(), drain_ms = drain.as_millis(), "draining");
    let ends = Instant::now() + grace + drain + LAST_WORDS;
    for (number, shard) in shards.iter().enumerate() {
        // A shard that is busy with what others hand over to it takes it a moment later.
        while shard.send(Command::Drain { grace, drain }).is_err() {
            if Instant::now() >= ends {
                return Err(RunError(format!("shard {number} does not take commands any more")));
            }
            thread::sleep(FULL_MAILBOX);
        }
    }
    let mut left = shards.len();
    while left > 0 {
        match inbox.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            Ok(Event::ShardDone { .. }) => left -= 1,
            Ok(Event::ShardFailed { shard, why }) => {
                return Err(RunError(format!("shard {shard} has died: {why}")));
            }
            Ok(Event::Signal(_)) => {
                tracing::warn!("ended by a second signal, with connections left");
                std::process::exit(0);
            }
            Ok(Event::ShardReady { .. } | Event::Shutdown | Event::Drain) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("the drain has taken too long; connections are left");
                return Ok(Drained::NotInTime);
            }
        }
    }
    Ok(Drained::Everybody)
}
