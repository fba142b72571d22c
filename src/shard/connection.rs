//! One client connection: a task that reads heads, runs an exchange for each, and closes well.
//!
//! ```text
//!   Announced
//!    |      head complete                 101
//!   Idle ------------------> Exchanging ------> Tunnel
//!    ^ \                       |   |              |
//!    |  \ refused     answered |   | last answer  | both ends done
//!    |   \---------------------|---+--------------+--> Closing --> gone
//!    +-------------------------+
//! ```
//!
//! Where a balancer in front announces its clients (PROXY protocol), a connection begins with that,
//! and has the client's address from there on. What comes in its place is not answered: who sends
//! it may be anybody, and a balancer has no use for an answer to what it did not ask.
//!
//! The task waits at one place only, for whatever it owns; every step before that is plain code on
//! this state. While idle it holds no buffer.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::accept::{
    self, Announcement, Head, accept, announcement, asks_for_head, error_bytes, log_answer, refused,
};
use super::context::{Context, Drain, Hold, Router, Server};
use super::exchange::{Exchange, Link, Turn};
use super::ledger::Answer;
use super::limits::Place;
use super::traces::Ids;
use super::transport::Transport;
use super::tunnel::Tunnel;
use crate::http::{Method, Reason};
use crate::http1::{FieldStorage, RequestParser, encode};
use crate::ring::{self, Chunk, End, PIECE_BYTES, Socket, Timer, Whose};

/// What is read and discarded of a client that is being closed (RFC 9112 section 9.6).
const MAX_LINGER_BYTES: usize = 1 << 20;
/// Small requests in a row after which a connection is armed for many receives: a submission less
/// per request. Where an upload comes, many would bring 128 KiB before its head is looked at
/// (measured: 1,000 uploads that nobody reads then hold 128 MB).
const SMALL_REQUESTS: u8 = 2;
/// Exchanges kept for use by the next request of any connection of the shard.
const SPARE_EXCHANGES: usize = 64;

enum State {
    /// Before the header of the PROXY protocol, or within it.
    Announced,
    /// Between requests, or within a head.
    Idle,
    Exchanging(Box<Exchange>),
    Tunnel(Box<Tunnel>),
    /// The last answer is on its way, or we have half-closed and wait for the client's end.
    Closing {
        half_closed: bool,
        discarded_bytes: usize,
    },
    Gone,
}

/// What the timer is set for while idle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Unset,
    Announcement,
    Request,
    RestOfHead,
    /// For its answers to be taken.
    Room,
    DrainsEnd,
}

pub(super) struct Connection {
    context: Rc<Context>,
    server: Rc<Server>,
    /// The one that holds for the request under way, or for the next.
    router: Rc<Router>,
    client: Transport,
    waker: Waker,
    timer: Timer,
    peer: accept::Client,
    parser: RequestParser,
    awaits: Awaits,
    /// Requests in a row that came whole.
    small_requests: u8,
    /// What the client had acknowledged when that was last looked at.
    acknowledged_bytes: u64,
    state: State,
    /// The server that accepted it, as telemetry knows it.
    server_id: u32,
    opened: Duration,
    requests: u32,
    _hold: Hold,
}

impl Connection {
    /// Serves a client until it or we have had enough.
    pub(super) async fn serve(context: Rc<Context>, server: Rc<Server>, fd: OwnedFd, hold: Hold) {
        let mut connection =
            Connection::new(context, server, fd, hold, ring::current_waker().await);
        while connection.step() {
            ring::wait().await;
        }
    }

    /// Tells a client that the shard is full.
    pub(super) async fn refuse(context: Rc<Context>, server: Rc<Server>, fd: OwnedFd, hold: Hold) {
        let mut connection =
            Connection::new(context, server, fd, hold, ring::current_waker().await);
        connection.refuse_head(Reason::Overloaded, false);
        while connection.step() {
            ring::wait().await;
        }
    }

    fn new(
        context: Rc<Context>,
        server: Rc<Server>,
        fd: OwnedFd,
        hold: Hold,
        waker: Waker,
    ) -> Connection {
        let router = server.router.borrow().clone();
        let server_id = server.id.get();
        let socket = Socket::adopt(&context.ring, fd, Whose::Client, waker.clone());
        if let Some(reporter) = &context.reporter {
            socket.count_for(reporter.server_account(server_id));
            reporter.record(|recorder| recorder.connected(server_id));
        }
        let peer = accept::Client::new(socket.peer_address());
        Connection {
            client: Transport::new(&context.ring, socket),
            timer: context.ring.timer(waker.clone()),
            waker,
            peer,
            parser: RequestParser::default(),
            awaits: Awaits::Unset,
            small_requests: 0,
            acknowledged_bytes: 0,
            state: if server.proxy_protocol.get() { State::Announced } else { State::Idle },
            opened: context.stamp(),
            requests: 0,
            server,
            server_id,
            context,
            router,
            _hold: hold,
        }
    }

    /// Does what can be done now. `false`: the connection is over.
    fn step(&mut self) -> bool {
        if self.context.is_over() {
            return self.break_off();
        }
        loop {
            let waits = match std::mem::replace(&mut self.state, State::Gone) {
                State::Announced => self.announced(),
                State::Idle => self.idle(),
                State::Exchanging(exchange) => self.exchange(exchange),
                State::Tunnel(tunnel) => self.tunnel(tunnel),
                State::Closing { half_closed, discarded_bytes } => {
                    self.close(half_closed, discarded_bytes)
                }
                State::Gone => return false,
            };
            if waits {
                return true;
            }
        }
    }

    /// Whether this connection ends with its next answer.
    fn is_closing(&self) -> bool {
        self.context.is_closing() || self.server.is_closing(self.context.ring.now())
    }

    /// The drain under way, of the process or of the server.
    fn drain(&self) -> Option<Drain> {
        self.context.drain().or_else(|| self.server.drain())
    }

    /// From here on by what is configured now.
    fn renew_router(&mut self) {
        let current = self.server.router.borrow();
        if !Rc::ptr_eq(&current, &self.router) {
            self.router = current.clone();
        }
    }

    /// Reads what the balancer in front says about its client.
    fn announced(&mut self) -> bool {
        self.state = State::Announced;
        self.renew_router();
        match announcement(&mut self.client) {
            Announcement::Read(client) => {
                self.peer = client.unwrap_or(self.peer);
                self.awaits = Awaits::Unset;
                self.state = State::Idle;
                return false;
            }
            Announcement::Refused => return self.gone(),
            Announcement::Partial if self.is_too_much() => return self.gone(),
            Announcement::Partial => {}
        }
        if self.client.has_ended().is_some() || self.client.progress().end != End::Open {
            return self.gone();
        }
        self.client.socket().receive(false);
        let drains = self.is_closing() && self.client.spilled_bytes() == 0;
        self.wait_idle(if drains { Awaits::DrainsEnd } else { Awaits::Announcement })
    }

    /// Reads a head. Returns whether the task is to wait, as all that follow.
    fn idle(&mut self) -> bool {
        self.state = State::Idle;
        self.renew_router();
        let progress = self.client.progress();
        if progress.send_error.is_some() || matches!(progress.end, End::Failed(_)) {
            return self.gone();
        }
        // A client that does not take its answers gets no further ones made.
        if !progress.can_send {
            self.client.hold_back();
            self.client.socket().wake_when_sent(true);
            return self.wait_idle(Awaits::Room);
        }
        while self.client.has_input() {
            match self.read_head() {
                Head::Partial if self.client.progress().has_piece => {}
                Head::Partial if self.is_too_much() => {
                    return self.refuse_partial(Reason::Overloaded);
                }
                Head::Partial => break,
                Head::Exchange(exchange) => {
                    self.requests += 1;
                    let small = exchange.came_whole();
                    self.small_requests =
                        if small { self.small_requests.saturating_add(1) } else { 0 };
                    self.awaits = Awaits::Unset;
                    self.state = State::Exchanging(exchange);
                    return false;
                }
                Head::Malformed { reason, head_only } => {
                    return self.refuse_head(reason, head_only);
                }
                Head::Local { answer, close } => {
                    self.requests += 1;
                    self.client.send(Chunk::heap(answer));
                    return self.after_answer(close);
                }
                Head::Refused { reason, close, head_only } => {
                    self.requests += 1;
                    return self.answer(reason, close, head_only);
                }
            }
        }
        if self.client.progress().end != End::Open && !self.client.progress().has_piece {
            // The last answer may still be on its way to a client that has half-closed.
            return if progress.all_sent { self.gone() } else { self.closing(false) };
        }
        self.client.socket().receive(self.small_requests >= SMALL_REQUESTS);
        self.wait_idle(match self.parser.begun() {
            true => Awaits::RestOfHead,
            false if self.awaits == Awaits::Room && !progress.all_sent => Awaits::Room,
            false if self.is_closing() => Awaits::DrainsEnd,
            false => Awaits::Request,
        })
    }

    /// Waits, but not for ever. Input that came with the deadline counts.
    fn wait_idle(&mut self, awaits: Awaits) -> bool {
        if awaits == self.awaits {
            return !self.timer.has_fired() || self.idle_for_too_long();
        }
        self.awaits = awaits;
        let timeouts = &self.router.timeouts;
        let after = match (awaits, self.drain()) {
            (Awaits::RestOfHead | Awaits::Announcement, _) => timeouts.head,
            (Awaits::DrainsEnd, Some(drain)) => {
                // Spread, so that the clients of a whole process do not all come back at once.
                drain.idle_close.mul_f64(self.context.rng.borrow_mut().unit())
            }
            (Awaits::Room, _) => timeouts.stall,
            _ => timeouts.idle,
        };
        self.timer.set(self.context.ring.now() + after);
        true
    }

    fn idle_for_too_long(&mut self) -> bool {
        let awaits = self.awaits;
        match awaits {
            Awaits::RestOfHead => self.refuse_partial(Reason::ClientTimeout),
            // The last answer has not left yet: idle begins when it has.
            Awaits::Unset | Awaits::Request | Awaits::DrainsEnd
                if !self.client.progress().all_sent =>
            {
                self.client.socket().wake_when_sent(true);
                self.wait_idle(Awaits::Room)
            }
            Awaits::Room if self.is_taking() => {
                self.awaits = Awaits::Unset;
                self.wait_idle(Awaits::Room)
            }
            // A request has come in time, and only its completion has not: a turn that took long,
            // or a process that was held up, may see its timers first.
            Awaits::Unset | Awaits::Request | Awaits::DrainsEnd
                if self.client.socket().has_unread() =>
            {
                self.awaits = Awaits::Unset;
                self.wait_idle(Awaits::Request)
            }
            Awaits::Unset
            | Awaits::Announcement
            | Awaits::Request
            | Awaits::DrainsEnd
            | Awaits::Room => self.gone(),
        }
    }

    /// Whether an answer is still on its way, and has moved since this was last asked.
    fn is_taking(&mut self) -> bool {
        let acknowledged_bytes = self.client.socket().acknowledged_bytes();
        let before = std::mem::replace(&mut self.acknowledged_bytes, acknowledged_bytes);
        !self.client.progress().all_sent && acknowledged_bytes > before
    }

    /// Whether this part of a head cannot be kept: it is large, and the shard's budget used up.
    fn is_too_much(&self) -> bool {
        self.client.spilled_bytes() > PIECE_BYTES && self.context.ring.is_out_of_budget()
    }

    /// Parses what came, and makes an exchange of it where that is possible.
    fn read_head(&mut self) -> Head {
        let link = Link {
            context: &self.context,
            router: &self.router,
            server: &self.server,
            waker: &self.waker,
            timer: &self.timer,
            many: self.small_requests >= SMALL_REQUESTS,
        };
        if self.context.ring.is_out_of_budget() {
            // All that came is looked at, and not only the piece with the head: who is armed for
            // many may have sent 128 KiB of a body.
            self.client.absorb();
        }
        let (parser, peer, server) = (&mut self.parser, &self.peer, self.server_id);
        self.client.with_input(|bytes| {
            let mut storage = FieldStorage::new();
            let (head, consumed) = match parser.parse(bytes, &mut storage) {
                Ok(None) => return (0, Head::Partial),
                Ok(Some((request, consumed))) => (accept(&request, peer, server, &link), consumed),
                Err(reason) => {
                    let head_only = asks_for_head(bytes);
                    return (bytes.len(), Head::Malformed { reason, head_only });
                }
            };
            let Head::Exchange(mut exchange) = head else {
                return (consumed, head);
            };
            let reason = match exchange.inline_body(&mut bytes[consumed..]) {
                Ok(taken) => {
                    let consumed = consumed + taken;
                    let waiting = if exchange.came_whole() { 0 } else { bytes.len() - consumed };
                    if exchange.copy.may_stay(waiting, &link.context.ring) {
                        return (consumed, Head::Exchange(exchange));
                    }
                    Reason::Overloaded
                }
                Err(reason) => reason,
            };
            let head_only = exchange.rules.method == Method::Head;
            (bytes.len(), refused(exchange.ledger, reason, true, head_only, link.context))
        })
    }

    fn exchange(&mut self, mut exchange: Box<Exchange>) -> bool {
        let link = Link {
            context: &self.context,
            router: &self.router,
            server: &self.server,
            waker: &self.waker,
            timer: &self.timer,
            many: self.small_requests >= SMALL_REQUESTS,
        };
        let turn = exchange.step(&mut self.client, &link);
        if !matches!(turn, Turn::Wait) {
            self.account(&mut exchange, &turn);
        }
        match turn {
            Turn::Wait => {
                self.state = State::Exchanging(exchange);
                true
            }
            Turn::Done { close } => {
                self.recycle(exchange);
                self.after_answer(close)
            }
            Turn::Answer { reason, close } => {
                let head_only = exchange.rules.method == Method::Head;
                log_answer(Some(&exchange.upstream.name), reason, exchange.ledger.ids());
                let close = close || self.is_closing();
                self.recycle(exchange);
                self.answer(reason, close, head_only)
            }
            Turn::Tunnel => {
                let attempt = exchange.attempt.take();
                let place = std::mem::replace(&mut exchange.place, Place::Unasked);
                self.recycle(exchange);
                if let Some(attempt) = attempt {
                    self.context.record(|recorder| recorder.tunnel(self.server_id, true));
                    self.state = State::Tunnel(Box::new(Tunnel::new(attempt, place)));
                }
                false
            }
            Turn::Broken(_) | Turn::ClientGone => self.reset(),
        }
    }

    /// Counts a request that is over.
    fn account(&self, exchange: &mut Exchange, turn: &Turn) {
        let mut bytes = exchange.moved();
        let ledger = &mut exchange.ledger;
        let (reason, status) = match turn {
            Turn::Wait | Turn::Done { .. } => (None, None),
            Turn::Tunnel => {
                let switched = Answer { status: 101, whole: true, is_failure: false };
                ledger.answered(self.context.stamp(), switched);
                (None, None)
            }
            // At the end of a drain, before the client had anything of an answer.
            Turn::Broken(reason) if !exchange.rules.response_has_begun() => {
                (Some(*reason), Some(ledger.status_when_gone()))
            }
            Turn::Broken(reason) => (Some(*reason), None),
            Turn::ClientGone => (Some(Reason::ClientClosed), Some(ledger.status_when_gone())),
            Turn::Answer { reason, .. } => {
                let head_only = exchange.rules.method == Method::Head;
                bytes.response = error_bytes(*reason, head_only);
                (Some(*reason), Some(reason.status()))
            }
        };
        ledger.ended(&self.context, reason, status, bytes);
    }

    fn tunnel(&mut self, mut tunnel: Box<Tunnel>) -> bool {
        let link = Link {
            context: &self.context,
            router: &self.router,
            server: &self.server,
            waker: &self.waker,
            timer: &self.timer,
            many: self.small_requests >= SMALL_REQUESTS,
        };
        match tunnel.step(&mut self.client, &link) {
            Turn::Wait => {
                self.state = State::Tunnel(tunnel);
                true
            }
            Turn::Done { .. } => {
                self.context.record(|recorder| recorder.tunnel(self.server_id, false));
                self.closing(true)
            }
            Turn::Broken(_) | Turn::ClientGone | Turn::Answer { .. } | Turn::Tunnel => {
                self.context.record(|recorder| recorder.tunnel(self.server_id, false));
                self.reset()
            }
        }
    }

    fn recycle(&self, mut exchange: Box<Exchange>) {
        exchange.clear(&self.context);
        let mut spare = self.context.spare.borrow_mut();
        if spare.len() < SPARE_EXCHANGES {
            spare.push(exchange);
        }
    }

    fn refuse_partial(&mut self, reason: Reason) -> bool {
        let head_only = self.client.with_input(|bytes| (0, asks_for_head(bytes)));
        self.refuse_head(reason, head_only)
    }

    /// Answers what is no complete request, and closes.
    fn refuse_head(&mut self, reason: Reason, head_only: bool) -> bool {
        self.requests += 1;
        let bytes = error_bytes(reason, head_only);
        self.context.record(|recorder| recorder.refused(self.server_id, reason, bytes));
        log_answer(None, reason, Ids::NONE);
        self.answer(reason, true, head_only)
    }

    /// Sends an answer of our own.
    fn answer(&mut self, reason: Reason, close: bool, head_only: bool) -> bool {
        let mut out = self.context.ring.buffer();
        let date = self.context.date();
        encode::error_response(&mut out, reason, close, head_only, Some(&date));
        self.client.send(Chunk::heap(out));
        self.after_answer(close)
    }

    fn after_answer(&mut self, close: bool) -> bool {
        if close {
            return self.closing(false);
        }
        self.client.socket().wake_when_sent(false);
        self.awaits = Awaits::Unset;
        self.state = State::Idle;
        false
    }

    fn closing(&mut self, half_closed: bool) -> bool {
        self.timer.set(self.context.ring.now() + self.router.timeouts.stall);
        self.client.socket().wake_when_sent(true);
        self.state = State::Closing { half_closed, discarded_bytes: 0 };
        false
    }

    /// Half-closes once everything is out, then reads to the client's end: closing at once would
    /// reset the connection, and an answer that the client has not read yet would be lost.
    fn close(&mut self, mut half_closed: bool, mut discarded_bytes: usize) -> bool {
        let progress = self.client.progress();
        if progress.send_error.is_some() {
            return self.gone();
        }
        if self.timer.has_fired() {
            if !self.is_taking() {
                return self.gone();
            }
            self.timer.set(self.context.ring.now() + self.router.timeouts.stall);
        }
        if progress.all_sent && !half_closed {
            half_closed = true;
            self.client.socket().shutdown_write();
            self.timer.set(self.context.ring.now() + self.router.timeouts.linger);
        }
        while self.client.has_input() {
            discarded_bytes += self.client.with_input(|bytes| (bytes.len(), bytes.len()));
        }
        if let Some((_, range)) = self.client.take_filled() {
            discarded_bytes += range.len();
        }
        if self.client.has_ended().is_some() && half_closed || discarded_bytes > MAX_LINGER_BYTES {
            return self.gone();
        }
        self.client.socket().receive(true);
        self.state = State::Closing { half_closed, discarded_bytes };
        true
    }

    /// The drain has ended before this connection did.
    fn break_off(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Exchanging(mut exchange) => {
                // It took longer than a drain may.
                self.account(&mut exchange, &Turn::Broken(Reason::RequestTimeout));
                self.reset()
            }
            State::Tunnel(_) => {
                self.context.record(|recorder| recorder.tunnel(self.server_id, false));
                self.reset()
            }
            State::Announced | State::Idle | State::Closing { .. } | State::Gone => self.gone(),
        }
    }

    fn gone(&mut self) -> bool {
        if !self.client.progress().all_sent {
            // A clean end would let a part of an answer look like the whole.
            self.client.socket().reset_on_close();
        }
        self.state = State::Gone;
        false
    }

    fn reset(&mut self) -> bool {
        self.client.socket().reset_on_close();
        self.gone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(reporter) = &self.context.reporter {
            let lasted = self.context.stamp().saturating_sub(self.opened);
            let requests = u64::from(self.requests);
            reporter.record(|recorder| recorder.disconnected(self.server_id, lasted, requests));
        }
    }
}
