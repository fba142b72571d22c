//! What is left of answers that nobody wants: read to their ends where that is cheap, so that
//! their connections can be used again.
//!
//! An answer goes unwanted when its request is retried, or when its client has gone. Where little
//! of it is to come, that is most likely on its way already, and reading it costs less than a new
//! connection (measured where each request is retried once, with 100 bytes and with 16 KiB left:
//! 0.79 and 0.75 of the proxy's CPU per request, in a debug build). One task of the shard's reads
//! them all: a task of glommio's that has ended leaves memory behind, so that one for each would be
//! a leak. Whatever does not end cleanly, in time and within bounds is closed; so is what has a
//! byte too many, which the pool itself refuses. A connection whose request has not left whole, or
//! whose endpoint said that it closes, never comes here.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::attempt::Attempt;
use super::context::{Context, Held, Hold};
use super::exchange::{Exchange, Link};
use super::pump::{Pumped, Rest};
use super::upstream::{Endpoint, Upstream, Upward};
use crate::ring;

/// How long the rest of an answer may take: longer than a round trip of a continent, shorter than
/// anybody minds waiting for a shard to end.
const DRAIN_TIME: Duration = Duration::from_millis(250);
/// Read at the same time; what comes beyond that is closed. All are looked at whenever something
/// comes for any of them.
const MAX_LEFTOVERS: usize = 128;

/// Of one shard.
#[derive(Default)]
pub(super) struct Leftovers {
    each: RefCell<Vec<Leftover>>,
    /// The task that reads them.
    reader: RefCell<Option<Waker>>,
}

struct Leftover {
    upstream: Rc<Upstream>,
    endpoint: Rc<Endpoint>,
    link: Upward,
    rest: Rest,
    /// When it is given up.
    ends: Duration,
    /// A shard that drains waits for it, which is short.
    _hold: Hold,
}

impl Leftovers {
    /// Looks at each. When the next of them is given up.
    fn step(&self, waker: &Waker, now: Duration) -> Option<Duration> {
        let mut each = self.each.borrow_mut();
        let mut at = 0;
        while let Some(it) = each.get_mut(at) {
            it.link.transport.set_owner(waker);
            match it.rest.step(&mut it.link.transport) {
                Pumped::Waiting if now < it.ends => at += 1,
                Pumped::Ended => {
                    let Leftover { upstream, endpoint, link, .. } = each.swap_remove(at);
                    upstream.check_in(&endpoint, link, now);
                }
                _ => drop(each.swap_remove(at)),
            }
        }
        each.iter().map(|it| it.ends).min()
    }
}

/// The task that reads them; one per shard.
pub(super) async fn read(context: Rc<Context>) {
    let waker = ring::current_waker().await;
    *context.leftovers.reader.borrow_mut() = Some(waker.clone());
    let timer = context.ring.timer(waker.clone());
    loop {
        match context.leftovers.step(&waker, context.ring.now()) {
            Some(ends) => timer.set(ends),
            None => timer.clear(),
        }
        ring::wait().await;
    }
}

/// Takes over a connection that could be used again if it were not for the rest of an answer.
pub(super) fn keep(
    upstream: &Rc<Upstream>,
    endpoint: Rc<Endpoint>,
    mut link: Upward,
    mut rest: Rest,
    context: &Rc<Context>,
) {
    let (leftovers, now) = (&context.leftovers, context.ring.now());
    link.transport.socket().wake_when_sent(false);
    match rest.step(&mut link.transport) {
        Pumped::Ended => return upstream.check_in(&endpoint, link, now),
        Pumped::Waiting if !context.is_closing() => {}
        _ => return,
    }
    let mut each = leftovers.each.borrow_mut();
    if each.len() >= MAX_LEFTOVERS {
        return;
    }
    let (upstream, ends, hold) = (upstream.clone(), now + DRAIN_TIME, context.hold(Held::Other));
    each.push(Leftover { upstream, endpoint, link, rest, ends, _hold: hold });
    if let Some(reader) = &*leftovers.reader.borrow() {
        context.ring.wake(reader);
    }
}

impl Exchange {
    /// The client has gone, and so does the attempt.
    pub(super) fn abandon(&mut self, link: &Link<'_>) {
        let Some(attempt) = self.attempt.take() else { return };
        if self.rules.response_has_begun()
            && self.rules.may_reuse_discarded(true)
            && !self.is_half_closed()
            && let Some(rest) = self.download.rest()
        {
            let Attempt { endpoint, transport, meter, .. } = attempt;
            keep(&self.upstream, endpoint, Upward { transport, meter }, rest, link.context);
        }
    }
}
