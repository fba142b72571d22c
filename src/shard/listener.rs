//! Accepts connections on one listening socket and starts a task for each.
//!
//! A full shard does not stop accepting: what waits in the kernel's queue would time out unseen,
//! so a connection beyond `max_connections` is handed to the emptiest shard, or told 503. When
//! descriptors or memory run out, accepting pauses instead, since the error would only repeat. A
//! listener that goes is accepted empty first: closing one of several SO_REUSEPORT sockets resets
//! what is queued on it (measured: 19 of 40).

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::connection::Connection;
use super::context::{Context, Hold, Server};
use super::peers::Placed;
use crate::ring::{self, Accepted, Listener};

/// Connections beyond `max_connections` that are being told so; further ones are closed unheard.
const MAX_REFUSALS: usize = 1024;
/// How long accepting pauses when the process has run out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn accept(context: Rc<Context>, number: u32, socket: OwnedFd, hold: Hold) {
    let _hold = hold;
    let waker = ring::current_waker().await;
    let Some(server) = context.servers.borrow().get(&number).cloned() else {
        debug_assert!(false, "servers come before their sockets");
        return;
    };
    let timer = context.ring.timer(waker.clone());
    let listener = Listener::new(&context.ring, socket, waker);
    let mut paused = false;
    let mut ignores_new = false;
    loop {
        match listener.accept() {
            Accepted::Connection(fd) => place(&context, number, &server, fd),
            Accepted::Stopped(error) if is_shortage(error) => {
                tracing::warn!(errno = error, "accepting pauses: out of descriptors or memory");
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

/// Serves a connection here or on a shard that has more room.
fn place(context: &Rc<Context>, number: u32, server: &Rc<Server>, fd: OwnedFd) {
    if context.drain().is_some() {
        // The others may be about to end, and what is in their mailboxes with them.
        return serve(context, server, fd);
    }
    match context.peers.place(context.number, fd, number) {
        Placed::Here(fd) => serve(context, server, fd),
        Placed::HandedOver => {}
        Placed::Nowhere(fd) => refuse(context, server, fd),
    }
}

/// Serves a connection that another shard has accepted. A server that went meanwhile is not known
/// here any more where no connection of its is left: its client is told nothing, as if it had come
/// a moment later.
pub(super) fn adopt(context: &Rc<Context>, number: u32, fd: OwnedFd) {
    let server = context.servers.borrow().get(&number).cloned();
    if let Some(server) = server {
        serve(context, &server, fd);
    }
    context.peers.arrived(context.number);
}

/// Serves a connection on this shard.
fn serve(context: &Rc<Context>, server: &Rc<Server>, fd: OwnedFd) {
    let hold = context.hold(true);
    context.ring.spawn(Connection::serve(context.clone(), server.clone(), fd, hold));
}

fn refuse(context: &Rc<Context>, server: &Rc<Server>, fd: OwnedFd) {
    if context.connections() >= context.settings.max_connections + MAX_REFUSALS {
        return;
    }
    let hold = context.hold(true);
    context.ring.spawn(Connection::refuse(context.clone(), server.clone(), fd, hold));
}

fn is_shortage(errno: i32) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS].contains(&errno)
}
