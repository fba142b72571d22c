//! A listening socket: one multishot accept, re-armed when the kernel ends it, or one by one.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::task::Waker;

use socket2::{SockFilter, SockRef};

use super::Ring;
use super::core::{ListenerSlot, Owner, Slot};
use super::slots::Key;

/// What `Listener::accept` found.
pub enum Accepted {
    Connection(OwnedFd),
    /// Nothing now; the owner is woken when there is.
    Nothing,
    /// Accepting failed and has stopped; an errno. `resume` starts it again: at once where the
    /// connection is to blame, after a pause where the process is (EMFILE, ENFILE, ENOMEM).
    Stopped(i32),
}

pub struct Listener {
    key: Key,
    ring: Ring,
}

impl Listener {
    /// Takes over a listening socket and begins to accept.
    pub fn new(ring: &Ring, fd: impl Into<OwnedFd>, owner: Waker) -> Listener {
        let slot = ListenerSlot {
            fd: fd.into().into_raw_fd(),
            owner: Owner::Task(owner),
            armed: false,
            one_by_one: false,
            accepted: Default::default(),
            error: None,
        };
        let mut core = ring.inner.core.borrow_mut();
        let key = core.slots.insert(Slot::Listener(slot));
        core.accept(key);
        drop(core);
        Listener { key, ring: ring.clone() }
    }

    pub fn accept(&self) -> Accepted {
        let mut core = self.ring.inner.core.borrow_mut();
        let Some(listener) = core.listener(self.key) else {
            return Accepted::Nothing;
        };
        if let Some(fd) = listener.accepted.pop_front() {
            // SAFETY: the kernel has just handed us this descriptor, and it is in no other place.
            return Accepted::Connection(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        if let Some(error) = listener.error.take() {
            return Accepted::Stopped(error);
        }
        core.accept(self.key);
        Accepted::Nothing
    }

    /// Has the kernel ignore new connection attempts, while those begun before complete: the socket
    /// can then be accepted empty and closed, and nothing is reset. Who was ignored tries again
    /// after a second (RFC 6298 section 2.1) and is refused then.
    pub fn ignore_new(&self) -> io::Result<()> {
        const FLAGS: u32 = 13;
        const SYN: u32 = 0x02;
        const ACK: u32 = 0x10;
        let code = |code: u32| code as u16;
        let load_flags = code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS);
        let mask = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
        let is_equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
        let verdict = code(libc::BPF_RET | libc::BPF_K);
        let fd = match self.ring.inner.core.borrow_mut().listener(self.key) {
            Some(listener) => listener.fd,
            None => return Ok(()),
        };
        // SAFETY: the slot keeps the descriptor open for as long as `self` lives.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        // A filter of a listening socket sees packets from the TCP header on.
        SockRef::from(&fd).attach_filter(&[
            SockFilter::new(load_flags, 0, 0, FLAGS),
            SockFilter::new(mask, 0, 0, SYN | ACK),
            SockFilter::new(is_equal, 0, 1, SYN),
            SockFilter::new(verdict, 0, 0, 0),
            SockFilter::new(verdict, 0, 0, u32::MAX),
        ])
    }

    /// Whether nothing waits in the kernel's queue.
    pub fn is_empty(&self) -> bool {
        let mut core = self.ring.inner.core.borrow_mut();
        let Some(listener) = core.listener(self.key) else {
            return true;
        };
        let mut poll = libc::pollfd { fd: listener.fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives until the call returns; a timeout of 0 does not block.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready <= 0 && listener.accepted.is_empty()
    }

    /// Lets what comes wait in the kernel's queue, until `accept` finds nothing or is to `resume`.
    pub fn pause(&self) {
        let mut core = self.ring.inner.core.borrow_mut();
        if core.listener(self.key).is_some_and(|listener| listener.armed) {
            core.stop_accepting(self.key);
        }
    }

    /// Accepts one connection at a time from here on, or many with one operation: these have their
    /// descriptors before anybody has looked at the first of them.
    pub fn one_by_one(&self, one_by_one: bool) {
        let mut core = self.ring.inner.core.borrow_mut();
        let Some(listener) = core.listener(self.key) else {
            return;
        };
        let was = std::mem::replace(&mut listener.one_by_one, one_by_one);
        if one_by_one && !was && listener.armed {
            core.stop_accepting(self.key);
        }
    }

    /// Accepts again after `Stopped`.
    pub fn resume(&self) {
        self.ring.inner.core.borrow_mut().accept(self.key);
    }
}

impl Drop for Listener {
    /// Closes the listening socket. What is queued on it is reset by the kernel: a listener that
    /// goes is to be accepted empty first.
    fn drop(&mut self) {
        let mut core = self.ring.inner.core.borrow_mut();
        let key = self.key;
        let Some(listener) = core.listener(key) else {
            return;
        };
        listener.owner = Owner::Nobody;
        match listener.armed {
            true => core.stop_accepting(key),
            false => core.remove_listener(key),
        }
    }
}
