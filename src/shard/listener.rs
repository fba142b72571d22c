//! Accepts connections on one listening socket and starts a task for each.
//!
//! A full shard does not stop accepting: what waits in the kernel's queue would time out unseen,
//! so a connection beyond `max_connections` is handed to the emptiest shard, or told 503. So is one
//! that comes when descriptors are scarce: the last of them are kept for connections to endpoints,
//! without which those who are there already would be answered 503, and for whoever scrapes. From
//! there on connections are accepted one by one, since many at once would take those as well,
//! before they are seen. When descriptors or memory run out all the same, accepting pauses, since
//! the error would only repeat.
//! A listener that goes is accepted empty first: closing one of several SO_REUSEPORT sockets resets
//! what is queued on it (measured: 19 of 40).

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::connection::Connection;
use super::context::{Context, Held, Hold, Server};
use super::peers::Placed;
use crate::http::Reason;
use crate::ring::{self, Accepted, Listener};

/// Connections beyond `max_connections` that are being told so; further ones are closed unheard.
const MAX_REFUSALS: usize = 1024;
/// Who is refused often comes back at once, and telling it costs as much as some requests do: so
/// many are told in a period, 1,000 a second, and who comes beyond that waits in the kernel's queue
/// for its turn. Measured with three times `max_connections` clients that come back at once: those
/// inside have 0.83 to 1.12 of the throughput that they have alone, and 0.22 to 0.28 where each is
/// told at once. Four in a period made no difference (0.89 to 1.19), and let who waits wait longer.
const MAX_REFUSALS_PER_PERIOD: usize = 10;
const REFUSALS_PERIOD: Duration = Duration::from_millis(10);
/// The part of the process's descriptors that no client is served with: an eighth. In the first
/// half of it clients are still told so.
const KEPT_DESCRIPTORS: usize = 8;
/// How long accepting pauses when the process has run out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn accept(
    context: Rc<Context>,
    number: u32,
    server: Rc<Server>,
    socket: OwnedFd,
    hold: Hold,
) {
    let _hold = hold;
    let waker = ring::current_waker().await;
    let timer = context.ring.timer(waker.clone());
    let listener = Listener::new(&context.ring, socket, waker);
    let mut paused = false;
    let mut ignores_new = false;
    let mut refusals = Refusals::default();
    loop {
        match listener.accept() {
            Accepted::Connection(fd) => {
                listener.one_by_one(scarce(&context, &fd).is_some());
                if !place(&context, number, &server, fd)
                    && let Some(until) = refusals.pause(context.ring.now())
                {
                    listener.pause();
                    paused = true;
                    timer.set(until);
                }
            }
            Accepted::Stopped(error) if is_shortage(error) => {
                tracing::warn!(errno = error, "accepting pauses: out of descriptors or memory");
                listener.one_by_one(true);
                paused = true;
                timer.set(context.ring.now() + PAUSE);
            }
            // The connection that was being accepted is to blame: the next one may be fine.
            Accepted::Stopped(_) => listener.resume(),
            Accepted::Nothing if is_turning_away(&context, &server) => {
                if !std::mem::replace(&mut ignores_new, true) {
                    ignore_new(&listener);
                }
                if is_closing(&context, &server) && listener.is_empty() {
                    // Its connections are to know that they close from here on.
                    context.ring.wake_all();
                    return;
                }
                // Woken when the drain goes on, and by whoever had begun to connect.
                timer.set(context.ring.now() + PAUSE);
                ring::wait().await;
            }
            Accepted::Nothing => {
                ring::wait().await;
            }
        }
        while paused && !timer.has_fired() {
            ring::wait().await;
        }
        if std::mem::take(&mut paused) {
            listener.resume();
        }
    }
}

/// How many were refused of late.
#[derive(Default)]
struct Refusals {
    ends: Duration,
    count: usize,
}

impl Refusals {
    /// Counts one. Until when accepting is to pause, if it was the last for now.
    fn pause(&mut self, now: Duration) -> Option<Duration> {
        if now >= self.ends {
            *self = Refusals { ends: now + REFUSALS_PERIOD, count: 0 };
        }
        self.count += 1;
        (self.count >= MAX_REFUSALS_PER_PERIOD).then_some(self.ends)
    }
}

fn ignore_new(listener: &Listener) {
    if let Err(error) = listener.ignore_new() {
        tracing::warn!(%error, "connections made while the listener closes may be reset");
    }
}

fn is_turning_away(context: &Context, server: &Server) -> bool {
    context.is_turning_away() || server.is_turning_away(context.ring.now())
}

fn is_closing(context: &Context, server: &Server) -> bool {
    context.is_closing() || server.is_closing(context.ring.now())
}

/// Serves a connection here or on a shard that has more room. `false`: it was refused, which is to
/// be paced.
fn place(context: &Rc<Context>, number: u32, server: &Rc<Server>, fd: OwnedFd) -> bool {
    if context.drain().is_some() {
        // The others may be about to end, and what is in their mailboxes with them.
        serve(context, server, fd);
        return true;
    }
    if scarce(context, &fd).is_some() {
        // Who is not told costs little, and a descriptor for as long as it waits to be closed.
        return !refuse(context, server, fd);
    }
    match context.peers.place(context.number, fd, number) {
        Placed::Here(fd) => serve(context, server, fd),
        Placed::HandedOver => {}
        Placed::Nowhere(fd) => {
            refuse(context, server, fd);
            return false;
        }
    }
    true
}

/// How many descriptors are left above this one, if they are scarce. The kernel hands out the
/// lowest number that is free, so that one that is high says that all below it are taken.
fn scarce(context: &Context, fd: &OwnedFd) -> Option<usize> {
    let left = context.max_descriptors.saturating_sub(fd.as_raw_fd() as usize);
    (left <= context.max_descriptors / KEPT_DESCRIPTORS).then_some(left)
}

/// Serves a connection that another shard has accepted. A server that went meanwhile is not known
/// here any more where no connection of its is left: its client is told nothing, as if it had come
/// a moment later.
pub(super) fn adopt(context: &Rc<Context>, number: u32, fd: OwnedFd) {
    context.take_over();
    let server = context.servers.borrow().get(&number).cloned();
    match server {
        Some(server) => serve(context, &server, fd),
        None => context.publish(),
    }
}

/// Serves a connection on this shard.
fn serve(context: &Rc<Context>, server: &Rc<Server>, fd: OwnedFd) {
    let hold = context.hold(Held::Served);
    context.ring.spawn(Connection::serve(context.clone(), server.clone(), fd, hold));
}

/// Whether the client is told.
fn refuse(context: &Rc<Context>, server: &Rc<Server>, fd: OwnedFd) -> bool {
    let too_scarce = context.max_descriptors / KEPT_DESCRIPTORS / 2;
    if context.refused() >= MAX_REFUSALS
        || scarce(context, &fd).is_some_and(|left| left <= too_scarce)
    {
        // Counted as those that are told.
        let (server, reason) = (server.id.get(), Reason::Overloaded);
        context.record(|recorder| recorder.refused(server, reason, 0));
        return false;
    }
    let hold = context.hold(Held::Refused);
    context.ring.spawn(Connection::refuse(context.clone(), server.clone(), fd, hold));
    true
}

/// Whether an error says that the process, or the machine, has run out of something.
pub(super) fn is_shortage(errno: i32) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS].contains(&errno)
}
