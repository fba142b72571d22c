//! An origin that serves by script and counts what it served.
//!
//! For measuring a proxy beside it, so it is cheap: one thread and one ring for all origins of a
//! process, answers that are prepared once, no clock read for an answer that is sent at once. It
//! shares no code with the proxy but the ring; its reader of requests is its own.
//!
//! In reading order: `script` (what is to be done), `request` and `answer` (bytes), `ids` and
//! `counts` (what was served), `alarms` (when), `house` (the thread's state), `connection`.

pub mod answer;
pub mod counts;
pub mod ids;
pub mod request;
pub mod script;

mod alarms;
mod connection;
mod house;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringlane::ring::{self, MailboxSender, RunError, Settings};
use socket2::{Domain, Socket, Type};

pub use counts::{Counts, Served};
pub use script::{Script, ScriptError};

use crate::threads;
use house::Message;

/// Connections that may wait to be accepted: a load test opens thousands at once.
const BACKLOG: i32 = 4_096;
/// Questions that may wait for the thread at once.
const MAILBOX: usize = 64;

/// One origin.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Port 0: one that the kernel picks, see `Running::addresses`.
    pub address: SocketAddr,
    pub script: Script,
}

/// Origins that run until this is dropped.
pub struct Running {
    addresses: Vec<SocketAddr>,
    mailbox: MailboxSender<Message>,
    thread: Option<JoinHandle<()>>,
}

/// Why origins could not start.
#[derive(Debug)]
pub enum StartError {
    Listen { address: SocketAddr, error: io::Error },
    Pin { core: usize, error: io::Error },
    Thread(io::Error),
    Ring(RunError),
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen { address, error } => {
                write!(out, "cannot listen on {address}: {error}")
            }
            StartError::Pin { core, error } => write!(
                out,
                "cannot pin the origin to core {core}: {error}; allowed: a core of this machine \
                 that the process may use"
            ),
            StartError::Thread(error) => write!(out, "cannot start the origin's thread: {error}"),
            StartError::Ring(error) => write!(out, "the origin has no ring: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Listens on all addresses, and serves on a thread of its own, on `core` if there is one.
pub fn start(origins: Vec<Origin>, core: Option<usize>) -> Result<Running, StartError> {
    let mut addresses = Vec::with_capacity(origins.len());
    let mut listening = Vec::with_capacity(origins.len());
    for Origin { address, script } in origins {
        let failed = |error| StartError::Listen { address, error };
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        addresses.push(address);
        listening.push((address, listener, script));
    }
    let (mailbox, open) = ring::mailbox(MAILBOX).map_err(StartError::Thread)?;
    let (ready, started) = sync_channel(1);
    let serve = move || {
        if let Err(error) = prepare(core) {
            return drop(ready.try_send(Err(error)));
        }
        let told = ready.clone();
        let settings = Settings::default();
        let served = ring::run(&settings, |ring| house::serve(ring, listening, open, told));
        if let Err(error) = served {
            drop(ready.try_send(Err(StartError::Ring(error))));
        }
    };
    let thread = thread::Builder::new().name("origin".into()).spawn(serve);
    let thread = Some(thread.map_err(StartError::Thread)?);
    let running = Running { addresses, mailbox, thread };
    match started.recv() {
        Ok(result) => result.map(|()| running),
        // Without a word: it panicked, and what it said has gone to stderr.
        Err(_) => Err(StartError::Ring(RunError::Panicked)),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // What is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn prepare(core: Option<usize>) -> Result<(), StartError> {
    threads::wake_within(Duration::ZERO);
    let pin = |core| threads::pin(core).map_err(|error| StartError::Pin { core, error });
    core.map_or(Ok(()), pin)
}

impl Running {
    /// In the order of the origins.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was served until now.
    pub fn counts(&self) -> Counts {
        self.ask(Message::Counts)
    }

    /// Ends all origins, and says what they served in all.
    pub fn stop(self) -> Counts {
        self.ask(Message::Stop)
    }

    fn ask(&self, question: fn(SyncSender<Counts>) -> Message) -> Counts {
        let (reply, answer): (_, Receiver<Counts>) = sync_channel(1);
        let mut message = question(reply);
        loop {
            match self.mailbox.send(message) {
                Ok(()) => break,
                Err(full) => message = full.0,
            }
            let runs = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
            assert!(runs, "the origin's thread has panicked");
            thread::yield_now();
        }
        answer.recv().expect("the origin's thread has not panicked")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (reply, _) = sync_channel(1);
        let mut message = Message::Stop(reply);
        while let (Err(full), Some(false)) =
            (self.mailbox.send(message), self.thread.as_ref().map(JoinHandle::is_finished))
        {
            message = full.0;
            thread::yield_now();
        }
        if let Some(thread) = self.thread.take() {
            // What it panicked with has gone to stderr.
            let _ = thread.join();
        }
    }
}
