//! How many requests of a service are under way at once, over all shards, and who waits.
//!
//! Both numbers are one padded atomic, so that the limit holds exactly whatever shards do at once;
//! it is touched only where a limit is configured. Those who wait stand in a queue of their shard.
//!
//! A place that becomes free while somebody waits is never given back: it goes to the first in the
//! queue of the shard where it did, or in a message to another shard with a queue, by turns where
//! there are both, so that no shard starves the others. Only where nobody waits at all is it free
//! for whoever comes next.
//!
//! A limit on each endpoint is one on the service too: so many times the endpoints that there are
//! to pick from. Who has a place then finds an endpoint with room, since nobody holds two.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use super::shared::Shared;
use crate::policy::concurrency::{Admission, ConcurrencyLimit};
use crate::ring::Ring;

/// Of one service, for all shards. How much it allows is each shard's to say, who may have applied
/// another configuration for a moment.
#[derive(Debug)]
pub(super) struct Limit {
    counts: Counts,
    /// Of those who wait, how many do on each shard.
    waiting: Box<[AtomicU32]>,
}

/// Running in the lower half, waiting in the upper. A pair of cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Counts(AtomicU64);

fn unpack(counts: u64) -> (u32, u32) {
    (counts as u32, (counts >> 32) as u32)
}

fn pack(running: u32, waiting: u32) -> u64 {
    u64::from(waiting) << 32 | u64::from(running)
}

impl Limit {
    pub(super) fn new(shards: usize) -> Limit {
        Limit {
            counts: Counts(AtomicU64::new(0)),
            waiting: (0..shards).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// For a newcomer on shard `me`, who is counted as what the answer says.
    fn ask(&self, me: usize, rule: ConcurrencyLimit) -> Admission {
        let mut admission = Admission::Refuse;
        self.update(|running, waiting| {
            admission = rule.admit(running, waiting);
            match admission {
                Admission::Admit => Some((running + 1, waiting)),
                Admission::Wait => Some((running, waiting + 1)),
                Admission::Refuse => None,
            }
        });
        if admission == Admission::Wait {
            self.waiting[me].fetch_add(1, Ordering::SeqCst);
        }
        admission
    }

    /// Whether the first in the queue of shard `me` may start, which then counts as running.
    fn start_waiter(&self, me: usize, rule: ConcurrencyLimit) -> bool {
        let start = |running, waiting| rule.has_room(running).then(|| (running + 1, waiting - 1));
        let started = self.update(start);
        if started {
            self.waiting[me].fetch_sub(1, Ordering::SeqCst);
        }
        started
    }

    /// A place goes from who ends to who waits, both on shard `me`.
    fn hand_over(&self, me: usize) {
        self.waiting[me].fetch_sub(1, Ordering::SeqCst);
        self.update(|running, waiting| Some((running, waiting - 1)));
    }

    /// One who waited on shard `me` does no more.
    fn give_up(&self, me: usize) {
        self.hand_over(me);
    }

    /// One who ran has ended.
    pub(super) fn release(&self) {
        self.update(|running, waiting| Some((running - 1, waiting)));
    }

    /// Whether more run than may: the limit is lower than it was, or endpoints have gone.
    fn is_exceeded(&self, rule: ConcurrencyLimit) -> bool {
        unpack(self.counts.0.load(Ordering::SeqCst)).0 > rule.max_concurrent.max(1)
    }

    /// A place, if one is free though somebody waits: who came to wait just then saw none.
    fn take_for_waiter(&self, rule: ConcurrencyLimit) -> bool {
        self.update(|running, waiting| {
            (waiting > 0 && rule.has_room(running)).then(|| (running + 1, waiting))
        })
    }

    /// Another shard than `me` on which somebody waits.
    fn other_with_waiters(&self, me: usize) -> Option<usize> {
        let shards = self.waiting.len();
        let mut others = (1..shards).map(|step| (me + step) % shards);
        others.find(|shard| self.waiting[*shard].load(Ordering::SeqCst) > 0)
    }

    fn update(&self, mut change: impl FnMut(u32, u32) -> Option<(u32, u32)>) -> bool {
        let change = |counts| {
            let (running, waiting) = unpack(counts);
            change(running, waiting).map(|(running, waiting)| pack(running, waiting))
        };
        self.counts.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }
}

struct Waiter {
    state: Rc<Cell<Waits>>,
    waker: Waker,
}

#[derive(Clone, Copy, PartialEq)]
enum Waits {
    Still,
    /// It has a place, and may not know yet.
    Granted,
    /// It went away.
    Gone,
}

/// What became of a place.
#[derive(Clone, Copy, PartialEq)]
enum Passed {
    ToSomebody,
    /// Somebody waits on a shard whose mailbox is full.
    NotTaken,
    NobodyWaits,
}

/// How often a place that nobody took is offered to who came to wait just then. Who is missed even
/// so finds it within a tenth of a second, when its shard looks by itself.
const MAX_LOOKS: usize = 4;

/// What of a service's limits bounds requests under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) max_concurrent: Option<u32>,
    pub(super) per_endpoint: Option<u32>,
    pub(super) max_queue: u32,
}

/// A service's limit as one shard uses it.
pub(super) struct Gate {
    shared: Arc<Shared>,
    bounds: Cell<Bounds>,
    me: usize,
    ring: Ring,
    /// The first gets a place first.
    waiters: RefCell<VecDeque<Waiter>>,
    /// The last place went to another shard.
    was_sent: Cell<bool>,
    /// Sends a place to another shard; whether its mailbox took it.
    send: Box<dyn Fn(usize) -> bool>,
}

/// What a request has of its service's limit. Given back when it is dropped.
pub(super) enum Place {
    /// It has not asked.
    Unasked,
    /// There is no limit.
    Free,
    Held(#[expect(dead_code, reason = "its drop gives the place back")] Held),
    Waiting(Ticket),
    Refused,
}

pub(super) struct Held {
    gate: Rc<Gate>,
}

pub(super) struct Ticket {
    gate: Rc<Gate>,
    state: Rc<Cell<Waits>>,
}

impl Gate {
    /// Of shard `me`. `send` sends a place to another shard.
    pub(super) fn new(
        shared: Arc<Shared>,
        me: usize,
        ring: Ring,
        send: Box<dyn Fn(usize) -> bool>,
    ) -> Gate {
        let (waiters, was_sent) = (RefCell::default(), Cell::new(false));
        Gate { shared, bounds: Cell::default(), me, ring, waiters, was_sent, send }
    }

    /// From now on.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.bounds.set(bounds);
        self.admit();
    }

    fn limit(&self) -> &Limit {
        &self.shared.limit
    }

    fn rule(&self) -> ConcurrencyLimit {
        let Bounds { max_concurrent, per_endpoint, max_queue } = self.bounds.get();
        let by_endpoints = per_endpoint.map(|most| self.shared.accrual.capacity(most));
        let max_concurrent =
            max_concurrent.unwrap_or(u32::MAX).min(by_endpoints.unwrap_or(u32::MAX));
        ConcurrencyLimit { max_concurrent, max_queue }
    }

    /// How many wait here.
    pub(super) fn waiting(&self) -> usize {
        let waiters = self.waiters.borrow();
        waiters.iter().filter(|waiter| waiter.state.get() == Waits::Still).count()
    }

    /// For a newcomer; `waker` is woken when it has a place.
    pub(super) fn ask(self: &Rc<Gate>, waker: &Waker) -> Place {
        let Bounds { max_concurrent: None, per_endpoint: None, .. } = self.bounds.get() else {
            return self.ask_limit(waker);
        };
        Place::Free
    }

    fn ask_limit(self: &Rc<Gate>, waker: &Waker) -> Place {
        match self.limit().ask(self.me, self.rule()) {
            Admission::Admit => Place::Held(Held { gate: self.clone() }),
            Admission::Refuse => Place::Refused,
            Admission::Wait => {
                let state = Rc::new(Cell::new(Waits::Still));
                let waiter = Waiter { state: state.clone(), waker: waker.clone() };
                self.waiters.borrow_mut().push_back(waiter);
                // A place that became free before this one was counted was told to nobody.
                self.admit();
                Place::Waiting(Ticket { gate: self.clone(), state })
            }
        }
    }

    /// Lets in who waits here while there are places, and forgets who went away.
    pub(super) fn admit(&self) {
        if self.waiters.borrow().is_empty() {
            return;
        }
        let (limit, rule) = (self.limit(), self.rule());
        self.waiters.borrow_mut().retain(|waiter| waiter.state.get() == Waits::Still);
        while !self.waiters.borrow().is_empty() && limit.start_waiter(self.me, rule) {
            // It does not wait any more, so it is not counted out of the queue once more.
            let first = self.waiters.borrow_mut().pop_front();
            first.into_iter().for_each(|waiter| self.grant(&waiter));
        }
    }

    /// A place has come here: of who ended, or from another shard.
    pub(super) fn receive(&self) {
        let limit = self.limit();
        if limit.is_exceeded(self.rule()) {
            return limit.release();
        }
        for _ in 0..MAX_LOOKS {
            let passed = self.pass_on(limit);
            if passed == Passed::ToSomebody {
                return;
            }
            limit.release();
            // A full mailbox is no reason to try again and again: the other shard looks by itself.
            if passed == Passed::NotTaken || !limit.take_for_waiter(self.rule()) {
                return;
            }
        }
        limit.release();
    }

    /// Gives a place to somebody who waits, here or elsewhere.
    fn pass_on(&self, limit: &Limit) -> Passed {
        let mut waiters = self.waiters.borrow_mut();
        while waiters.front().is_some_and(|waiter| waiter.state.get() != Waits::Still) {
            waiters.pop_front();
        }
        let mut passed = Passed::NobodyWaits;
        if let Some(other) = limit.other_with_waiters(self.me)
            && (waiters.is_empty() || !self.was_sent.get())
        {
            if (self.send)(other) {
                self.was_sent.set(true);
                return Passed::ToSomebody;
            }
            passed = Passed::NotTaken;
        }
        self.was_sent.set(false);
        let Some(first) = waiters.pop_front() else { return passed };
        limit.hand_over(self.me);
        self.grant(&first);
        Passed::ToSomebody
    }

    fn grant(&self, waiter: &Waiter) {
        waiter.state.set(Waits::Granted);
        // By the ring, which must not park while there is something to do.
        self.ring.wake(&waiter.waker);
    }
}

impl Place {
    /// Whether the request may go ahead, once it has asked; a ticket that was granted is a place.
    pub(super) fn look(&mut self) -> bool {
        if let Place::Waiting(ticket) = self
            && ticket.state.get() == Waits::Granted
        {
            // The ticket owes nothing any more: what it was granted is held.
            ticket.state.set(Waits::Gone);
            *self = Place::Held(Held { gate: ticket.gate.clone() });
        }
        matches!(self, Place::Free | Place::Held(_))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.receive();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.state.replace(Waits::Gone) {
            Waits::Still => {
                self.gate.limit().give_up(self.gate.me);
            }
            Waits::Granted => self.gate.receive(),
            Waits::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max_concurrent: u32, max_queue: u32) -> (Limit, ConcurrencyLimit) {
        (Limit::new(3), ConcurrencyLimit { max_concurrent, max_queue })
    }

    #[test]
    fn a_place_is_free_only_where_nobody_waits() {
        let (limit, rule) = limit(1, 2);
        assert_eq!(limit.ask(0, rule), Admission::Admit);
        assert_eq!(limit.other_with_waiters(0), None);
        assert_eq!((limit.ask(2, rule), limit.ask(2, rule)), (Admission::Wait, Admission::Wait));
        assert_eq!(limit.ask(1, rule), Admission::Refuse);
        assert!(!limit.start_waiter(2, rule), "there is no place yet");
        assert!(!limit.take_for_waiter(rule), "nor for anybody else");
        assert_eq!((limit.other_with_waiters(0), limit.other_with_waiters(2)), (Some(2), None));
        limit.hand_over(2);
        limit.release();
        assert!(limit.take_for_waiter(rule), "it is free, and one waits");
        limit.hand_over(2);
        limit.release();
        assert!(!limit.take_for_waiter(rule));
        assert_eq!(unpack(limit.counts.0.load(Ordering::SeqCst)), (0, 0));
    }

    #[test]
    fn no_more_run_than_may_whatever_threads_do() {
        use std::sync::atomic::AtomicU32;
        const MOST: u32 = 3;
        let ((limit, rule), running) = (limit(MOST, 0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for me in 0..3 {
                let (limit, running) = (&limit, &running);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if limit.ask(me, rule) == Admission::Admit {
                            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(now <= MOST, "{now}");
                            running.fetch_sub(1, Ordering::SeqCst);
                            limit.release();
                        }
                    }
                });
            }
        });
        assert_eq!(unpack(limit.counts.0.load(Ordering::SeqCst)), (0, 0));
    }
}
