//! The driver: the one task that talks to the kernel.
//!
//! A turn submits what is queued, waits for a completion if nobody is runnable, dispatches what
//! came, and lets the woken tasks run: they were queued before the driver queues itself again, so
//! when its next turn comes they have all run once. One `io_uring_enter` a turn, none in vain.
//!
//! **The core parks in this ring's enter, not in glommio's.** So everything that can make a task
//! of this shard runnable must come from this ring: its sockets, timers and mailboxes, or a wake
//! through `Ring::wake` and `Ring::spawn`. Never glommio's own reactor (its sockets, timers,
//! `spawn_blocking`), nor a waker called from another thread: a parked core would not see it.
//! A slip costs at most `PARK_MS`.

use std::task::Poll;
use std::time::{Duration, Instant};

use io_uring::cqueue;

use super::core::Core;
use super::kernel::Wait;
use super::{Ring, Settings};

/// The longest that a core parks whatever it believes.
const PARK_MS: u64 = 100;
/// Parking until an alarm that is nearer costs more than looking again: a third of the time of an
/// open loop at 48,000 requests a second went into timers that never fired.
const WORTH_PARKING: Duration = Duration::from_micros(10);
/// How long closing what was dropped may take at the end.
const LAST_TURNS: Duration = Duration::from_secs(1);
/// How long each wait for it is, when the ring itself goes.
const LAST_WAIT: Duration = Duration::from_millis(10);
/// Completions that end a park which gathers, early.
const GATHERED: u32 = 512;

impl Ring {
    /// Runs the ring until `stop`. The shard's main task.
    pub async fn drive(&self, settings: &Settings) {
        let mut scratch = Vec::with_capacity(1024);
        while !self.inner.stopped.get() {
            self.turn(settings.spin, &mut scratch);
            self.inner.runnable.set(false);
            yield_once().await;
        }
        // What was dropped last is still to be taken back and closed: a listening socket that the
        // process keeps open would go on to complete connections that nobody accepts.
        self.inner.runnable.set(false);
        let ends = self.elapsed() + LAST_TURNS;
        while self.inner.core.borrow_mut().has_unfinished() && self.elapsed() < ends {
            self.turn(Duration::ZERO, &mut scratch);
        }
    }

    pub(super) fn turn(&self, spin: Duration, scratch: &mut Vec<cqueue::Entry>) {
        let mut core = self.inner.core.borrow_mut();
        core.stats.turns += 1;
        core.feed_starved();
        core.recall_resting();
        core.submit_overflow();
        let idle = !self.inner.runnable.get();
        if idle && spin > Duration::ZERO {
            core.spin(spin);
        }
        let park = match idle && !core.kernel.has_completions() {
            true => core.may_park(),
            false => Duration::ZERO,
        };
        core.enter(park);
        core.advance_clock();
        // The head of the queue is published before anything is submitted again, or the kernel
        // would return early from each enter (facts/ring.md).
        scratch.clear();
        core.kernel.reap(scratch);
        for completion in scratch.iter() {
            core.dispatch(completion);
        }
    }
}

impl Core {
    /// Moves what did not fit into the queue, entering the kernel each time that it is full.
    fn submit_overflow(&mut self) {
        while !self.push_overflow() {
            self.enter(Duration::ZERO);
            if self.kernel.is_full() {
                // The kernel takes nothing before its completions are reaped.
                return;
            }
        }
    }

    /// As much of it as the queue has room for; whether that was all.
    fn push_overflow(&mut self) -> bool {
        while let Some(entry) = self.overflow.pop_front() {
            // SAFETY: as in `Core::push`.
            if !unsafe { self.kernel.push(&entry) } {
                self.overflow.push_front(entry);
                return false;
            }
        }
        true
    }

    /// Waits for the last completion of all that was dropped, when everything has been cancelled.
    /// `false`: it did not come in time.
    pub(super) fn finish_orphans(&mut self) -> bool {
        let ends = self.kernel.elapsed() + LAST_TURNS;
        let mut scratch = Vec::new();
        while self.has_unfinished() {
            self.push_overflow();
            let wait = Wait { wanted: 1, most: LAST_WAIT, gather: Duration::ZERO };
            // No panic here, where a ring that is broken may be what everything ends by.
            let works = self.submit(wait).is_ok();
            self.kernel.reap(&mut scratch);
            for completion in scratch.drain(..) {
                self.dispatch(&completion);
            }
            if !works || self.kernel.elapsed() >= ends {
                return !self.has_unfinished();
            }
        }
        true
    }

    fn spin(&mut self, spin: Duration) {
        let started = Instant::now();
        while !self.kernel.has_completions() && started.elapsed() < spin {
            self.enter(Duration::ZERO);
        }
    }

    /// Until a deadline comes; not at all if that is too soon.
    fn may_park(&self) -> Duration {
        let ms = self.next_timer_ms().map_or(PARK_MS, |ms| ms.min(PARK_MS));
        let park = Duration::from_millis(ms);
        match self.until_alarm() {
            Some(until) if until < WORTH_PARKING && self.gather.is_zero() => Duration::ZERO,
            Some(until) => until.min(park),
            None => park,
        }
    }

    /// Submits what is queued, and waits up to `park` for a completion.
    fn enter(&mut self, park: Duration) {
        self.stats.enters += 1;
        let parked = (!park.is_zero()).then(|| self.kernel.elapsed());
        let (wanted, gather) = match parked {
            None => (0, Duration::ZERO),
            Some(_) if self.gather.is_zero() => (1, Duration::ZERO),
            // As many as there may be: after `gather`, one is enough.
            Some(_) => (GATHERED, self.gather),
        };
        let entered = self.submit(Wait { wanted, most: park.max(gather), gather });
        if let Some(parked) = parked {
            self.stats.parked += self.kernel.elapsed() - parked;
        }
        if let Err(error) = entered {
            panic!("io_uring_enter failed with {error:?}: the ring is broken");
        }
    }

    fn submit(&mut self, wait: Wait) -> Result<(), Option<i32>> {
        match self.kernel.enter(wait).map_err(|error| error.raw_os_error()) {
            // EBUSY and EAGAIN: the kernel wants its completions reaped first, which comes next.
            Ok(()) | Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            broken => broken,
        }
    }
}

/// Lets every task that is runnable now run once.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| match std::mem::replace(&mut yielded, true) {
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        true => Poll::Ready(()),
    })
    .await
}
