//! The companion ring: one io_uring per shard, on which every socket, timer and mailbox lives.
//!
//! glommio runs the tasks; this ring does their I/O, because glommio's own sockets cost more than
//! twice as much (DESIGN section 1). A task owns sockets. It tells a socket what it wants (receive
//! pieces, fill this buffer, send that chunk), waits once for all of its sockets, and looks at what
//! has come of it when it is woken. Operations belong to the socket and not to a future, so there
//! is nothing to cancel when a task changes its mind, and a socket that is dropped with operations
//! in flight lives on as an orphan until the last of them has completed.
//!
//! In reading order: `slots` (keys that go stale), `buffers` (provided buffers), `lease` (a
//! stream's own buffers), `timer` (the wheel), `core` (the state that they share), `kernel`
//! (the other side), `submit` and `dispatch` (operations and their completions), `socket`,
//! `listener`, `mailbox` (what a task holds), `driver` (the turn), `run` (all of it on one thread),
//! `probe` (what the kernel must have).
//!
//! This is the only module of the project with `unsafe` in it. It knows nothing of HTTP.
#![allow(unsafe_code)]

mod buffers;
mod core;
mod dispatch;
mod driver;
mod kernel;
mod lease;
mod listener;
mod mailbox;
#[cfg(test)]
mod model_tests;
mod probe;
mod run;
#[cfg(test)]
pub(crate) mod simulated;
mod slots;
mod socket;
mod submit;
#[cfg(test)]
mod tests;
mod timer;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

pub use self::buffers::PIECE_BYTES;
pub use self::core::{Stats, Traffic};
pub use self::lease::{Charge, Lease};
pub use self::listener::{Accepted, Listener};
pub use self::mailbox::{Mailbox, MailboxFull, MailboxSender, OpenMailbox, mailbox};
pub use self::probe::{Unsupported, max_descriptors, probe, register_membarrier};
pub use self::run::{RunError, run};
pub use self::slots::Key;
pub use self::socket::{Chunk, End, Piece, Progress, Socket, Whose};

use self::core::Core;
use self::kernel::Kernel;
use self::lease::Leases;

/// What a shard gives its ring; the operator's keys under `runtime.shard`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Submission queue entries. The completion queue has four times as many, since a multishot
    /// receive completes more often than it is submitted.
    pub entries: u32,
    /// Provided buffers of `PIECE_BYTES`, for clients and for upstreams each.
    pub head_buffers: u16,
    /// What bodies and partial heads may hold in all.
    pub max_buffered_bytes: usize,
    /// How long a turn that brought nothing polls before it parks.
    pub spin: Duration,
    /// How long a park goes on although something has completed, so that the next turn has more
    /// to do: later by as much, and cheaper. 1 us to 100 ms; where the kernel cannot (before 6.12)
    /// it is nothing.
    pub gather: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            entries: 4096,
            head_buffers: 4096,
            max_buffered_bytes: 64 << 20,
            spin: Duration::ZERO,
            gather: Duration::ZERO,
        }
    }
}

struct Inner {
    core: RefCell<Core>,
    leases: Rc<Leases>,
    /// A task has made another one runnable since the driver last let them run: do not park.
    runnable: Cell<bool>,
    stopped: Cell<bool>,
}

/// A handle to the shard's ring. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Ring {
    inner: Rc<Inner>,
}

impl Ring {
    pub fn new(settings: &Settings) -> io::Result<Ring> {
        Ring::over(Kernel::new(settings)?, settings)
    }

    fn over(kernel: Kernel, settings: &Settings) -> io::Result<Ring> {
        Ok(Ring {
            inner: Rc::new(Inner {
                core: RefCell::new(Core::new(kernel, settings)?),
                leases: Leases::new(settings.max_buffered_bytes),
                runnable: Cell::new(false),
                stopped: Cell::new(false),
            }),
        })
    }

    /// The driver's clock: when this turn began, since the ring was made. For deadlines, not for
    /// latencies.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.inner.core.borrow().now_ms())
    }

    /// The virtual time of a simulated ring.
    #[cfg(test)]
    pub(crate) fn simulated_now(&self) -> Option<Duration> {
        match &self.inner.core.borrow().kernel {
            Kernel::Simulated(kernel) => Some(kernel.elapsed()),
            Kernel::Uring { .. } => None,
        }
    }

    /// Nothing is held any more, neither here nor by a simulated kernel.
    #[cfg(test)]
    pub(crate) fn assert_empty(&self) {
        let stats = self.stats();
        let left = (stats.slots, stats.buffers_in_use, stats.leased_bytes, stats.stale);
        assert_eq!(left, (0, 0, 0, 0), "slots, buffers, leases, stale completions");
        let core = self.inner.core.borrow();
        if let Kernel::Simulated(kernel) = &core.kernel {
            let posted = core.groups.each_ref().map(buffers::Group::posted);
            assert_eq!(posted, kernel.posted(), "buffers that the kernel has, it can use");
        }
    }

    /// Wakes a task of this shard. Whoever wakes a task in any other way lets the core park on it.
    pub fn wake(&self, waker: &Waker) {
        self.inner.runnable.set(true);
        waker.wake_by_ref();
    }

    /// Wakes the owner of every client socket and listener: something changed for all of them.
    pub fn wake_all(&self) {
        self.inner.runnable.set(true);
        self.inner.core.borrow_mut().wake_owners();
    }

    /// Starts a task on this shard.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.inner.runnable.set(true);
        // Never polled: a handle polled and dropped leaks its waker (facts/glommio.md).
        drop(glommio::spawn_local(task).detach());
    }

    /// A timer of the calling task's.
    pub fn timer(&self, waker: Waker) -> Timer {
        Timer { key: self.inner.core.borrow_mut().add_timer(waker), ring: self.clone() }
    }

    /// A large buffer, or `None` while the budget is used up.
    pub fn lease(&self, wanted_bytes: usize) -> Option<Lease> {
        self.inner.leases.lease(wanted_bytes)
    }

    /// Whether the budget for bodies and partial heads is used up.
    pub fn is_out_of_budget(&self) -> bool {
        self.inner.leases.is_used_up()
    }

    pub fn charge(&self) -> Charge {
        self.inner.leases.charge()
    }

    /// An empty heap buffer, used before if there is one.
    pub fn buffer(&self) -> Vec<u8> {
        self.inner.core.borrow_mut().spare_buffer()
    }

    pub fn recycle(&self, buffer: Vec<u8>) {
        self.inner.core.borrow_mut().recycle(buffer);
    }

    /// Names the task that hears of events on parked sockets (`Socket::park`).
    pub fn set_keeper(&self, waker: Waker) {
        self.inner.core.borrow_mut().set_keeper(waker);
    }

    /// The parked sockets on which something has happened: closed by the peer, or bytes nobody
    /// asked for.
    pub fn take_disturbed(&self) -> Vec<Key> {
        self.inner.core.borrow_mut().take_disturbed()
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.core.borrow().stats();
        stats.leased_bytes = self.inner.leases.used_bytes();
        stats
    }

    /// The figures, of which peaks begin anew.
    pub fn take_stats(&self) -> Stats {
        let stats = self.stats();
        self.inner.core.borrow_mut().forget_peaks();
        stats
    }

    /// What was counted for each account since this was last asked (`Socket::count_for`).
    pub fn take_traffic(&self, mut take: impl FnMut(u32, Traffic)) {
        let mut core = self.inner.core.borrow_mut();
        for (account, traffic) in core.traffic.iter_mut().enumerate() {
            let counted = std::mem::take(traffic);
            if counted != Traffic::default() {
                take(account as u32, counted);
            }
        }
    }

    /// Since the ring was made, to the nanosecond: a reading of the clock, where `now` is none.
    pub fn elapsed(&self) -> Duration {
        self.inner.core.borrow().elapsed()
    }

    /// Wakes a task at a moment by `elapsed`, where a timer's milliseconds are too coarse. There is
    /// one alarm; a later call takes the place of what was set.
    pub fn set_alarm(&self, at: Duration, waker: Waker) {
        self.inner.core.borrow_mut().set_alarm(at, waker);
    }

    /// Ends `drive` after this turn.
    pub fn stop(&self) {
        self.inner.stopped.set(true);
        self.inner.runnable.set(true);
    }
}

/// One deadline of one task's. Setting it later is a store.
pub struct Timer {
    key: Key,
    ring: Ring,
}

impl Timer {
    pub fn set(&self, deadline: Duration) {
        // Rounded up: a deadline never fires early.
        let deadline_ms = deadline.as_micros().div_ceil(1_000).min(u128::from(u64::MAX)) as u64;
        self.ring.inner.core.borrow_mut().set_timer(self.key, deadline_ms);
    }

    pub fn clear(&self) {
        self.ring.inner.core.borrow_mut().set_timer(self.key, timer::NEVER_MS);
    }

    /// Whether the deadline has passed since it was last set.
    pub fn has_fired(&self) -> bool {
        self.ring.inner.core.borrow_mut().has_fired(self.key)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.ring.inner.core.borrow_mut().remove_timer(self.key);
    }
}

/// The waker of the calling task.
pub async fn current_waker() -> Waker {
    poll_fn(|context| Poll::Ready(context.waker().clone())).await
}

/// Waits until the task is woken by anything that it owns. May return for nothing.
pub async fn wait() {
    let mut waited = false;
    poll_fn(|_| match std::mem::replace(&mut waited, true) {
        false => Poll::Pending,
        true => Poll::Ready(()),
    })
    .await
}
