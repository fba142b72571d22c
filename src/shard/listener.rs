//! Accepts connections on one listening socket and starts a task for each.
//!
//! A full shard does not stop accepting: what waits in the kernel's queue would time out unseen,
//! so a client beyond `max_connections` is told 503. When descriptors or memory run out, accepting
//! pauses instead, since the error would only repeat. A listener that goes is accepted empty
//! first: closing one of several SO_REUSEPORT sockets resets what is queued on it (measured: 19 of
//! 40).

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::connection::{Connection, MAX_REFUSALS};
use super::context::{Context, Hold, Router};
use crate::ring::{self, Accepted, Listener};

/// How long accepting pauses when the process has run out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn accept(context: Rc<Context>, router: Rc<Router>, socket: OwnedFd, hold: Hold) {
    let _hold = hold;
    let waker = ring::current_waker().await;
    let timer = context.ring.timer(waker.clone());
    let listener = Listener::new(&context.ring, socket, waker);
    let mut paused = false;
    loop {
        match listener.accept() {
            Accepted::Connection(fd) => serve(&context, &router, fd),
            Accepted::Stopped(error) if is_shortage(error) => {
                tracing::warn!(errno = error, "accepting pauses: out of descriptors or memory");
                paused = true;
                timer.set(context.ring.now() + PAUSE);
            }
            // The connection that was being accepted is to blame: the next one may be fine.
            Accepted::Stopped(_) => listener.resume(),
            Accepted::Nothing if context.is_closing() && listener.is_empty() => return,
            Accepted::Nothing => {
                if let Some(drain) = context.drain() {
                    timer.set(drain.begins.max(context.ring.now() + Duration::from_millis(1)));
                }
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

fn serve(context: &Rc<Context>, router: &Rc<Router>, fd: OwnedFd) {
    let room = context.settings.max_connections;
    let connections = context.connections();
    let hold = context.hold(true);
    let (context, router) = (context.clone(), router.clone());
    let ring = context.ring.clone();
    if connections < room {
        ring.spawn(Connection::serve(context, router, fd, hold));
    } else if connections < room + MAX_REFUSALS {
        ring.spawn(Connection::refuse(context, router, fd, hold));
    }
}

fn is_shortage(errno: i32) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS].contains(&errno)
}
