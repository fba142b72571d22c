//! Starts shards and admin, listens to signals, drains, and knows when the process is over.
//!
//! What can fail is done before any shard starts: the kernel is asked for what it lacks, every
//! socket is bound. A shard that dies takes the process with it: a core that silently serves
//! nobody would still be sent its share of the connections.

mod control;
mod discovery;
mod listen;
mod planner;
mod privileges;
mod reign;
mod restart;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::control::ControlThread;
use self::listen::{Bound, Listening};
use self::planner::Planner;
use self::reign::Reign;
use crate::admin;
use crate::config::Config;
use crate::control::Event;
use crate::ring::{self, MailboxFull, MailboxSender};
use crate::shard::{self, Command, Given, Peers, Plan, Reporting, Shard};
use crate::telemetry::collect::{self, Inlet};
use crate::telemetry::exporters::Made;
use crate::telemetry::feed::Hub;
use crate::telemetry::layout::Occupied;

/// How long after the end of a drain a shard may take to say so: a second for its last flush, one
/// for operations that are still in the kernel, and one to be given the core.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long to wait before a full mailbox is tried again.
const FULL_MAILBOX: Duration = Duration::from_millis(2);
/// And how often: half a minute.
const FULL_TRIES: u32 = 15_000;

/// What the caller knows and the configuration does not say.
pub struct Options {
    pub version: &'static str,
    /// What `Config::telemetry` asks for.
    pub exporters: Vec<Made>,
    /// How the log's filter is read and changed.
    pub logging: admin::Logging,
    /// Where the configuration was read, if that was a file.
    pub file: Option<PathBuf>,
    /// Reads the configuration again, for a reload; or says what is wrong with it, in lines.
    pub reread: Box<dyn Fn() -> Result<Config, String>>,
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
    privileges::gain_no_more()?;
    keep_to(&config.runtime.control_cores)?;
    let config = Arc::new(config);
    let mut listening = Listening::default();
    let Bound { servers, sockets } = listening.bind(&config)?;
    listening.keep(&config, &servers);
    let admin = control::bind(&config)?;
    let user = config.runtime.user.as_ref();
    listening.set_unprivileged(privileges::become_user(user)?);
    privileges::warn_of(user, options.file.as_deref());
    let (events, inbox) = unbounded();
    listen_to_signals(events.clone())?;
    let started = Instant::now();
    let mut planner = Planner::new(config.clone(), started, servers);
    let plan = planner.plan(&Occupied::default())?;
    let (reporting, collector) = telemetry(&plan, started);
    let hub = collector.as_ref().map(|(_, hub)| hub.clone());
    let info = admin::Info { version: options.version, logging: options.logging };
    let listeners = planner.addresses();
    let tracing = planner.tracing();
    let current = admin::Current { config: config.clone(), listeners: listeners.clone(), tracing };
    let state = admin::State::new(info, current);
    let control =
        ControlThread::start(&config, admin, state.clone(), collector, options.exporters, &events)?;
    let given =
        reporting.into_iter().map(|reporting| Given { started, plan: plan.clone(), reporting });
    let (commands, shards) = start_shards(&config, given.collect(), &events)?;
    let later = await_ready(&inbox, shards.len())?;
    drop(plan);
    let mut reign = Reign {
        inbox: &inbox,
        commands: &commands,
        control: &control,
        planner,
        listening,
        hub,
        state: state.clone(),
        reread: options.reread,
        later,
    };
    reign.begin()?;
    // Until here the kernel keeps connections waiting: requests find all that they need.
    for (number, (shard, sockets)) in commands.iter().zip(sockets).enumerate() {
        send(number, shard, Command::Listen(sockets))?;
    }
    state.set_ready(true);
    let cores: Vec<usize> = config.runtime.shards.iter().map(|shard| shard.core).collect();
    tracing::info!(
        version = options.version,
        cores = ?cores,
        listeners = ?listeners,
        admin = %control.admin().map_or_else(|| "off".into(), |address| address.to_string()),
        user = %privileges::who(),
        "ringlane is ready"
    );
    reign.last()?;
    let Reign { planner, later, .. } = reign;
    state.set_ready(false);
    match drain(&inbox, later, &commands, planner.config())? {
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
    config: &Config,
    given: Vec<Given>,
    events: &Sender<Event>,
) -> Result<(Vec<Commands>, Vec<Shard>), RunError> {
    let mut mailboxes = Vec::new();
    let mut commands = Vec::new();
    for _ in &given {
        let (sender, mailbox) = ring::mailbox(shard::MAILBOX_CAPACITY)
            .map_err(|error| RunError(format!("no eventfd for a mailbox: {error}")))?;
        mailboxes.push(mailbox);
        commands.push(sender);
    }
    let limits = config.runtime.shards.iter().map(|shard| shard.max_connections);
    let peers = Arc::new(Peers::new(limits.zip(commands.iter().cloned()).collect()));
    let mut shards = Vec::new();
    for (number, (given, mailbox)) in given.into_iter().zip(mailboxes).enumerate() {
        let shard = Shard::start(number, peers.clone(), mailbox, given, events.clone());
        shards.push(shard.map_err(|why| RunError(format!("shard {number}: {why}")))?);
    }
    Ok((commands, shards))
}

/// What each shard reports with, and what the control thread collects it with.
fn telemetry(plan: &Plan, started: Instant) -> (Vec<Option<Reporting>>, Option<(Inlet, Hub)>) {
    let shards = plan.config.runtime.shards.len();
    let (Some(settings), Some(layout)) = (&plan.config.telemetry, &plan.layout) else {
        return (vec![None; shards], None);
    };
    let hub = control::hub_of(&plan.config);
    hub.update(|merger| merger.apply(layout.clone(), Instant::now()));
    let (outlets, inlet) = collect::channels(shards, started);
    let reporting = outlets.into_iter().map(|(outlet, spans)| {
        let layout = layout.clone();
        Some(Reporting { layout, outlet, spans, interval: settings.flush_interval })
    });
    (reporting.collect(), Some((inlet, hub)))
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
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
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

/// What else came until all shards accept.
fn await_ready(inbox: &Receiver<Event>, shards: usize) -> Result<VecDeque<Event>, RunError> {
    let mut later = VecDeque::new();
    let mut ready = 0;
    while ready < shards {
        match inbox.recv() {
            Ok(Event::ShardReady { .. }) => ready += 1,
            Ok(Event::ShardFailed { shard, why }) => {
                return Err(RunError(format!("shard {shard} cannot start: {why}")));
            }
            Ok(Event::Signal(signal)) if signal != SIGHUP => {
                return Err(RunError(format!("ended by signal {signal} before it was ready")));
            }
            Ok(other) => later.push_back(other),
            Err(_) => return Err(RunError("every shard has gone".into())),
        }
    }
    Ok(later)
}

/// Says so to whoever waits for an answer.
fn refuse(event: Event, why: &str) {
    match event {
        Event::Reload { done }
        | Event::SetEndpoint { done, .. }
        | Event::SetTracing { done, .. } => done(Err(why.to_owned())),
        _ => {}
    }
}

/// Whether every shard has said that it is done.
enum Drained {
    Everybody,
    NotInTime,
}

fn drain(
    inbox: &Receiver<Event>,
    mut later: VecDeque<Event>,
    shards: &[Commands],
    config: &Config,
) -> Result<Drained, RunError> {
    let (grace, drain) = (config.runtime.drain_grace, config.runtime.drain);
    tracing::info!(grace_ms = grace.as_millis(), drain_ms = drain.as_millis(), "draining");
    let ends = Instant::now() + grace + drain + LAST_WORDS;
    for (number, shard) in shards.iter().enumerate() {
        send(number, shard, Command::Drain { grace, drain })?;
    }
    let mut left = shards.len();
    while left > 0 {
        let next = match later.pop_front() {
            Some(event) => Ok(event),
            None => inbox.recv_timeout(ends.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(Event::ShardDone { .. }) => left -= 1,
            Ok(Event::ShardFailed { shard, why }) => {
                return Err(RunError(format!("shard {shard} has died: {why}")));
            }
            Ok(Event::Signal(signal)) if signal != SIGHUP => {
                tracing::warn!("ended by a second signal, with connections left");
                std::process::exit(0);
            }
            Ok(other) => refuse(other, "the process is ending"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("the drain has taken too long; connections are left");
                return Ok(Drained::NotInTime);
            }
        }
    }
    Ok(Drained::Everybody)
}

/// Puts a command into a shard's mailbox. A shard that is busy with what others hand over to it
/// takes it a moment later.
fn send(number: usize, shard: &Commands, mut command: Command) -> Result<(), RunError> {
    // Counted, not timed: a process that was stopped for a while goes on where it was.
    for _ in 0..FULL_TRIES {
        match shard.send(command) {
            Ok(()) => return Ok(()),
            Err(MailboxFull(refused)) => command = refused,
        }
        thread::sleep(FULL_MAILBOX);
    }
    Err(RunError(format!("shard {number} does not take commands any more")))
}
