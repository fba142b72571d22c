//! A bounded mailbox from other threads to a task of this shard.
//!
//! crossbeam carries the messages; an eventfd that the ring reads wakes the parked core. Senders
//! never block: a full mailbox is the sender's to deal with.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Ring;
use super::core::{EventSlot, Owner, Slot};
use super::slots::Key;

/// The message that did not fit, or whose reader has gone.
#[derive(Debug)]
pub struct MailboxFull<T>(pub T);

pub struct MailboxSender<T> {
    messages: Sender<T>,
    event: Arc<OwnedFd>,
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> MailboxSender<T> {
        MailboxSender { messages: self.messages.clone(), event: self.event.clone() }
    }
}

impl<T> MailboxSender<T> {
    pub fn send(&self, message: T) -> Result<(), MailboxFull<T>> {
        match self.messages.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                return Err(MailboxFull(message));
            }
        }
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes, to a descriptor that `event` keeps open. The only failure
        // is a count that is full, which wakes the reader as well as one more would.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        Ok(())
    }
}

/// The shard's end before it has a ring: may be sent to the shard's thread.
pub struct Mailbox<T> {
    messages: Receiver<T>,
    event: Arc<OwnedFd>,
}

pub fn mailbox<T>(capacity: usize) -> io::Result<(MailboxSender<T>, Mailbox<T>)> {
    let (sender, receiver) = bounded(capacity);
    // SAFETY: creates a descriptor and touches no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and in no other place.
    let event = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((
        MailboxSender { messages: sender, event: event.clone() },
        Mailbox { messages: receiver, event },
    ))
}

impl<T> Mailbox<T> {
    /// Puts the mailbox on a ring: `owner` is woken when something comes.
    pub fn open(self, ring: &Ring, owner: Waker) -> OpenMailbox<T> {
        let slot = EventSlot {
            event: self.event.clone(),
            owner: Owner::Task(owner),
            armed: false,
            count: Box::new(0),
        };
        let mut core = ring.inner.core.borrow_mut();
        let key = core.slots.insert(Slot::Event(slot));
        core.read_event(key);
        drop(core);
        OpenMailbox { key, ring: ring.clone(), mailbox: self }
    }
}

pub struct OpenMailbox<T> {
    key: Key,
    ring: Ring,
    mailbox: Mailbox<T>,
}

impl<T> OpenMailbox<T> {
    /// The next message; `None` when there is none now, and then the owner is woken by the next.
    pub fn take(&self) -> Option<T> {
        // Armed before it is found empty: a message that comes in between wakes the owner again.
        self.ring.inner.core.borrow_mut().read_event(self.key);
        self.mailbox.messages.try_recv().ok()
    }
}

impl<T> Drop for OpenMailbox<T> {
    fn drop(&mut self) {
        let mut core = self.ring.inner.core.borrow_mut();
        let key = self.key;
        let Some(event) = core.event(key) else { return };
        event.owner = Owner::Nobody;
        match event.armed {
            true => core.stop_event(key),
            false => drop(core.slots.remove(key)),
        }
    }
}
