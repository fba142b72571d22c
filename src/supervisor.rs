//! Starts shards and admin, listens to signals, drains, and knows when the process is over.
//!
//! What can fail is done before any shard starts: the kernel is asked for what it lacks, every
//! socket is bound. A shard that dies takes the process with it: a core that silently serves
//! nobody would still be sent its share of the connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::{Domain, Protocol, Socket, Type};

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::control::{Command, Event};
use crate::ring::{self, MailboxSender};
use crate::shard::{self, Listeners, Peers, Shard};

/// Connections that the kernel completes before we accept them, per shard and address. More than
/// net.core.somaxconn are cut to that.
const BACKLOG: i32 = 4096;
/// How long after the end of a drain a shard may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the caller knows and the configuration does not say.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub version: &'static str,
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
    let state = admin::State::new(admin::Info {
        version: options.version,
        cores: config.runtime.shards.iter().map(|shard| shard.core).collect(),
        listeners: addresses.clone(),
    });
    let admin = start_admin(&config, state.clone(), events.clone())?;
    let (commands, shards) = start_shards(&config, listeners, &events)?;
    await_ready(&inbox, shards.len())?;
    state.set_ready(true);
    let cores: Vec<usize> = config.runtime.shards.iter().map(|shard| shard.core).collect();
    tracing::info!(
        version = options.version,
        cores = ?cores,
        listeners = ?addresses,
        admin = %admin.map_or_else(|| "off".into(), |address| address.to_string()),
        "ringlane is ready"
    );
    await_end(&inbox)?;
    state.set_ready(false);
    drain(&inbox, &commands, &config)?;
    for shard in shards {
        shard.join().map_err(RunError)?;
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
    for (number, (listeners, mailbox)) in listeners.into_iter().zip(mailboxes).enumerate() {
        let (config, peers, events) = (config.clone(), peers.clone(), events.clone());
        let shard = Shard::start(number, config, peers, mailbox, listeners, events);
        shards.push(shard.map_err(|why| RunError(format!("shard {number}: {why}")))?);
    }
    Ok((commands, shards))
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

/// Every shard's listening sockets, and the addresses that they came to.
fn bind_all(config: &Config) -> Result<(Vec<Listeners>, Vec<SocketAddr>), RunError> {
    let mut listeners: Vec<Listeners> = config.runtime.shards.iter().map(|_| vec![]).collect();
    let mut addresses = Vec::new();
    for (router, server) in config.routers.iter().enumerate().flat_map(|(number, router)| {
        router.servers.iter().map(move |server| (number, server.address))
    }) {
        let failed =
            |error: io::Error| RunError(format!("cannot listen on {server}: {}", describe(&error)));
        // SO_REUSEPORT would let us share a port that another process of the same user has, and
        // take half of its connections: it must be free without.
        let free = socket(server, false).and_then(|socket| socket.local_addr()).map_err(failed)?;
        let address = free.as_socket().unwrap_or(server);
        for shard in &mut listeners {
            let socket = socket(address, true).map_err(failed)?;
            socket.listen(BACKLOG).map_err(failed)?;
            shard.push((OwnedFd::from(socket), router));
        }
        addresses.push(address);
    }
    Ok((listeners, addresses))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 and :: on one port are two listeners, as the configuration has them.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it: no system call per connection.
        socket.set_tcp_nodelay(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken by another process".into(),
        io::ErrorKind::PermissionDenied => "this user may not use that port".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

fn start_admin(
    config: &Config,
    state: admin::State,
    events: Sender<Event>,
) -> Result<Option<SocketAddr>, RunError> {
    let Some(settings) = &config.admin else {
        return Ok(None);
    };
    let wanted = settings.address;
    let failed = |error: io::Error| {
        RunError(format!("cannot listen on {wanted} for admin: {}", describe(&error)))
    };
    let listener = std::net::TcpListener::bind(wanted).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let on_request = move |request| {
        let event = match request {
            admin::Request::Shutdown => Event::Shutdown,
            admin::Request::Drain => Event::Drain,
        };
        // Nobody listens only once the process is ending, which is what was asked for.
        let _ = events.send(event);
    };
    Admin::start(listener, state, Box::new(on_request)).map_err(failed)?;
    Ok(Some(address))
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

fn drain(inbox: &Receiver<Event>, shards: &[Commands], config: &Config) -> Result<(), RunError> {
    let (grace, drain) = (config.runtime.drain_grace, config.runtime.drain);
    tracing::info!(grace_ms = grace.as_millis(), drain_ms = drain.as_millis(), "draining");
    let ends = Instant::now() + grace + drain + LAST_WORDS;
    for (number, shard) in shards.iter().enumerate() {
        if shard.send(Command::Drain { grace, drain }).is_err() {
            return Err(RunError(format!("shard {number} does not take commands any more")));
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
                std::process::exit(0);
            }
        }
    }
    Ok(())
}
