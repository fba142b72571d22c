//! One request on its way: attempts, both bodies, deadlines.
//!
//! The connection steps the exchange whenever it is woken. Each step looks at both sockets, moves
//! what can be moved and says what the connection is to do. What a failure or an end means is for
//! `http::Exchange` to say; where bytes go is for the pumps; here is the order of things:
//!
//! 1. an endpoint is picked, and a pooled connection taken or a new one made;
//! 2. the head goes out, with as much of the body as came with it;
//! 3. the rest of the body follows, unless the client waits for 100 first;
//! 4. interim answers are relayed, the answer's head is rewritten, its body follows;
//! 5. when both messages have ended cleanly, the connection goes into the pool.

use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use super::attempt::{self, Answered, Attempt};
use super::context::{Context, Router, Server};
use super::deadlines::Phase;
use super::ledger::{Bytes, Ledger};
use super::limits::Place;
use super::pump::{Copy, Pump, Pumped};
use super::retries::Grant;
use super::rules::Rules;
use super::transport::Transport;
use super::upstream::{Endpoint, NoPick, Upstream, Upward};
use crate::http::{self, Framing, PeerText, Reason, Request, Retry, Verdict};
use crate::http1::BodyError;
use crate::policy::backoff::Delays;
use crate::policy::balance::Ask;
use crate::policy::classifier::{Class, Outcome};
use crate::ring::{Chunk, End, PIECE_BYTES, Ring, Timer};
use crate::telemetry::record;

/// What of later requests is read while an earlier one is under way.
const MAX_PIPELINED_BYTES: usize = 16 << 10;
/// How often a request that found every endpoint full looks again.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(5);
/// No deadline.
pub(super) const NEVER: Duration = Duration::MAX;

/// What an exchange and a tunnel borrow from their connection for a step.
pub(super) struct Link<'a> {
    pub(super) context: &'a Rc<Context>,
    pub(super) router: &'a Router,
    pub(super) server: &'a Server,
    pub(super) waker: &'a Waker,
    pub(super) timer: &'a Timer,
    /// The client sends small requests: arm for many receives.
    pub(super) many: bool,
}

impl Link<'_> {
    /// Whether connections end with their next answer.
    pub(super) fn is_closing(&self) -> bool {
        self.context.is_closing() || self.server.is_closing(self.context.ring.now())
    }
}

/// What the connection is to do.
pub(super) enum Turn {
    Wait,
    /// The answer has been handed over whole.
    Done {
        close: bool,
    },
    /// The client is to be answered from here.
    Answer {
        reason: Reason,
        close: bool,
    },
    /// The client has a part of an answer and gets no more.
    Broken(Reason),
    ClientGone,
    /// A 101 was relayed: bytes from here on.
    Tunnel,
}

/// How one look at the attempt ended.
enum Look {
    Wait,
    Again,
    Failed(Reason),
    Turn(Turn),
}

pub(super) struct Exchange {
    pub(super) rules: http::Exchange,
    pub(super) upstream: Rc<Upstream>,
    /// The service's, as they were when the request came.
    pub(super) policy: Rc<Rules>,
    pub(super) ledger: Ledger,
    pub(super) attempt: Option<Attempt>,
    /// Of the service's limit; held for as long as the exchange lasts, and dropped after the
    /// attempt: who gets it next is to find an endpoint with room.
    pub(super) place: Place,
    /// The head as it goes out, what of the body came with it, and what is kept of the rest.
    pub(super) copy: Copy,
    /// The request is of a kind that may be sent again after a part of its body was.
    keeps_body: bool,
    pub(super) upload: Pump,
    pub(super) download: Pump,
    /// To which of the router's protocols the request asks to switch.
    pub(super) asks_upgrade: Option<usize>,
    /// The client waits for 100, and nobody has said it yet.
    pub(super) expects: bool,
    /// The upstream takes no more of the body, but may still answer.
    pub(super) upload_lost: bool,
    /// Nothing more is received of the client: it had sent too much ahead.
    deaf: bool,
    /// The client's half-close has been passed on.
    half_closed: bool,
    /// What a balancer goes by that keeps some requests together.
    key: Option<u64>,
    /// The endpoint that the next attempt is to leave out, by its slot.
    avoid: Option<usize>,
    /// The next attempt is to connect anew: a pooled connection has failed it.
    fresh: bool,
    /// What the next attempt is.
    next: record::Attempt,
    retries: u32,
    delays: Delays,
    /// The next attempt is not to begin before that; zero: at once.
    pub(super) retry_at: Duration,
    /// Until when it waits for an endpoint with room; set by the first wait.
    room_until: Duration,
    pub(super) phase: Phase,
    pub(super) deadline: Duration,
    pub(super) request_deadline: Duration,
    /// Body bytes moved when the deadline was set.
    pub(super) moved_bytes: u64,
    /// What the upstream and the client had acknowledged when that was last looked at.
    pub(super) taken_bytes: [u64; 2],
}

impl Exchange {
    pub(super) fn new(
        request: &Request<'_, '_>,
        upstream: Rc<Upstream>,
        ledger: Ledger,
        asks_upgrade: Option<usize>,
        head: Vec<u8>,
        peer: &PeerText,
        link: &Link<'_>,
    ) -> Exchange {
        let facts = &request.facts;
        let policy = upstream.rules().clone();
        let request_deadline = match policy.timeouts.request {
            Some(timeout) => link.context.ring.now() + timeout,
            None => NEVER,
        };
        let replay_buffer_bytes = policy.retries.replay_buffer_bytes;
        let fits = match facts.framing {
            Framing::Length(bytes) => bytes <= replay_buffer_bytes as u64,
            Framing::Empty | Framing::Chunked | Framing::UntilClose => true,
        };
        Exchange {
            rules: http::Exchange::of(request),
            ledger,
            attempt: None,
            copy: Copy::new(head, replay_buffer_bytes),
            keeps_body: policy.retries.may_repeat(request.method) && fits,
            upload: Pump::new(facts.framing, facts.framing, link.router.max_body_bytes)
                .dropping_trailers(facts.nominates),
            download: Pump::new(Framing::Empty, Framing::Empty, None),
            asks_upgrade,
            expects: facts.expect_continue,
            upload_lost: false,
            deaf: false,
            half_closed: false,
            key: policy.hash_key.as_ref().and_then(|key| key.of(request, peer.ip())),
            avoid: None,
            fresh: false,
            next: record::Attempt::First,
            retries: 0,
            delays: policy.retries.delays(),
            retry_at: Duration::ZERO,
            room_until: NEVER,
            phase: Phase::New,
            deadline: NEVER,
            request_deadline,
            place: Place::Unasked,
            upstream,
            policy,
            moved_bytes: 0,
            taken_bytes: [0; 2],
        }
    }

    /// Lets the body's bytes that came with the head leave with it. Returns how many they were.
    pub(super) fn inline_body(&mut self, bytes: &mut [u8]) -> Result<usize, Reason> {
        if self.expects && bytes.is_empty() {
            return Ok(0);
        }
        self.expects = false;
        let taken = self.upload.take(bytes, self.copy.beginning()).map_err(reason_of_body)?;
        if self.upload.is_ended() {
            self.rules.request_ended();
        }
        Ok(taken)
    }

    /// What of the attempt's request the upstream was sent.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.upload.moved_bytes
    }

    /// Nothing is sent again once the client has a part of an answer.
    pub(super) fn forget_copy(&mut self, ring: &Ring) {
        self.copy.forget(ring);
        if !self.upload.is_ended() {
            self.rules.body_forwarded();
        }
        self.keeps_body = false;
    }

    /// Whether the client half-closed, and the upstream was told.
    pub(super) fn is_half_closed(&self) -> bool {
        self.half_closed
    }

    /// Whether the request came whole with its head.
    pub(super) fn came_whole(&self) -> bool {
        self.upload.is_ended()
    }

    /// What of the bodies has been moved.
    pub(super) fn moved(&self) -> Bytes {
        Bytes { request: self.upload.moved_bytes, response: self.download.moved_bytes }
    }

    /// Gives back what an exchange that is over has kept.
    pub(super) fn clear(&mut self, context: &Context) {
        self.attempt = None;
        self.place = Place::Unasked;
        context.forget_trace(&mut self.ledger.trace);
        let copy = std::mem::replace(&mut self.copy, Copy::new(Vec::new(), 0));
        context.ring.recycle(copy.into_bytes());
    }

    pub(super) fn step(&mut self, client: &mut Transport, link: &Link<'_>) -> Turn {
        let turn = self.proceed(client, link);
        if matches!(turn, Turn::ClientGone) {
            self.abandon(link);
        }
        turn
    }

    fn proceed(&mut self, client: &mut Transport, link: &Link<'_>) -> Turn {
        if link.timer.has_fired()
            && let Some(turn) = self.overdue(client, link)
        {
            return turn;
        }
        loop {
            let progress = client.progress();
            if matches!(progress.end, End::Failed(_)) || progress.send_error.is_some() {
                return Turn::ClientGone;
            }
            let look = match &self.attempt {
                None if self.retry_at > link.context.ring.now() => Look::Wait,
                None => self.enter(link),
                Some(attempt) if attempt.connecting => self.connect(link),
                Some(_) => self.talk(client, link),
            };
            match look {
                Look::Again => {}
                Look::Turn(turn) => return turn,
                Look::Failed(reason) => {
                    if let Some(turn) = self.fail(reason, link) {
                        return turn;
                    }
                }
                Look::Wait => {
                    self.watch_client(client, link);
                    self.set_deadline(link);
                    return Turn::Wait;
                }
            }
        }
    }

    /// Begins an attempt once the request has a place.
    fn enter(&mut self, link: &Link<'_>) -> Look {
        if matches!(self.place, Place::Unasked) {
            self.place = self.upstream.gate.ask(link.waker);
        }
        if self.place.look() {
            return self.begin_attempt(link);
        }
        match self.place {
            Place::Refused => Look::Failed(Reason::Overloaded),
            _ => Look::Wait,
        }
    }

    fn begin_attempt(&mut self, link: &Link<'_>) -> Look {
        let context = link.context;
        let now = context.clock();
        let ask = Ask { now, key: self.key, avoid: self.avoid };
        let pick = match self.upstream.pick(&ask, &self.policy, context) {
            Ok(pick) => pick,
            Err(NoPick::NoEndpoint) => return Look::Failed(Reason::NoEndpoint),
            Err(NoPick::AllFull) => return self.await_room(link),
        };
        let slot = pick.endpoint.slot;
        if pick.is_probe {
            self.upstream.count(context, |counts| counts.probes += 1);
        }
        self.rules.attempt_begun();
        self.upload_lost = false;
        self.half_closed = false;
        self.phase = Phase::New;
        self.taken_bytes = [0; 2];
        self.retry_at = Duration::ZERO;
        self.room_until = NEVER;
        let fresh = std::mem::replace(&mut self.fresh, false);
        self.upstream.count(context, |counts| counts.picks += 1);
        self.ledger.attempt_begun(context, &pick.endpoint, self.next, now);
        let target = self.ledger.target();
        match Attempt::begin(&self.upstream, pick, fresh, now, target, link) {
            Ok(attempt) => {
                let connecting = attempt.connecting;
                self.attempt = Some(attempt);
                if !connecting {
                    self.ledger.pooled();
                    self.send_request(link);
                }
                Look::Again
            }
            Err(error) => {
                tracing::warn!(service = self.upstream.name, %error, "no socket to connect with");
                self.avoid = Some(slot);
                Look::Failed(attempt::unmade(&error))
            }
        }
    }

    /// Endpoints have gone since the request got its place, and the rest is full: it waits for as
    /// long as it would have in the queue.
    fn await_room(&mut self, link: &Link<'_>) -> Look {
        let now = link.context.ring.now();
        self.room_until = self.room_until.min(now + self.policy.queue_timeout);
        if now >= self.room_until {
            return Look::Failed(Reason::Overloaded);
        }
        self.retry_at = now + LOOK_FOR_ROOM;
        Look::Wait
    }

    fn connect(&mut self, link: &Link<'_>) -> Look {
        let Some(attempt) = &mut self.attempt else {
            return Look::Again;
        };
        match attempt.connected() {
            None => Look::Wait,
            Some(Ok(())) => {
                self.ledger.connected(link.context);
                self.send_request(link);
                Look::Again
            }
            Some(Err(reason)) => Look::Failed(reason),
        }
    }

    fn send_request(&mut self, link: &Link<'_>) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        debug_assert!(self.copy.is_whole(), "a request is sent from its beginning");
        let mut out = link.context.ring.buffer();
        out.extend_from_slice(self.copy.bytes());
        self.ledger.write_attempt(&mut out);
        attempt.transport.send(Chunk::heap(out));
        attempt.transport.socket().receive(attempt.endpoint.expects_small());
        self.rules.request_sent();
    }

    /// The upstream is connected: both directions.
    fn talk(&mut self, client: &mut Transport, link: &Link<'_>) -> Look {
        // Before more of the body goes to an upstream that has gone: it may still be whole here.
        if let Some(reason) = self.lost_unheard() {
            return Look::Failed(reason);
        }
        if let Some(reason) = self.send_body(client, link) {
            return Look::Failed(reason);
        }
        let Some(attempt) = &mut self.attempt else {
            return Look::Again;
        };
        if self.rules.response_has_begun() {
            let ring = &link.context.ring;
            return match self.download.step(&mut attempt.transport, client, None, ring) {
                Pumped::Waiting => Look::Wait,
                Pumped::Ended => self.finish(link),
                Pumped::SinkLost => Look::Turn(Turn::ClientGone),
                Pumped::Refused(_) => Look::Failed(Reason::BadResponse),
                Pumped::SourceLost => Look::Failed(Reason::UpstreamReset),
            };
        }
        match self.read_answer(client, link) {
            Answered::NotYet => Look::Wait,
            Answered::Interim | Answered::Discarded => Look::Again,
            Answered::Head { whole: true } => self.finish(link),
            Answered::Head { whole: false } => Look::Again,
            Answered::Switched => Look::Turn(Turn::Tunnel),
            Answered::Failed(reason) => Look::Failed(reason),
        }
    }

    /// Whether the upstream ended without a byte of an answer.
    fn lost_unheard(&self) -> Option<Reason> {
        let attempt = self.attempt.as_ref()?;
        let awaited = !self.rules.response_has_begun();
        (awaited && attempt.transport.has_ended().is_some()).then(|| attempt.lost())
    }

    /// Moves the request's body. Says what is wrong with it, or with the client that sends it.
    fn send_body(&mut self, client: &mut Transport, link: &Link<'_>) -> Option<Reason> {
        let attempt = self.attempt.as_mut()?;
        if self.upload.is_ended() || self.upload_lost {
            return None;
        }
        if self.expects && !client.has_input() && client.has_ended().is_none() {
            return None;
        }
        self.expects = false;
        let ring = &link.context.ring;
        let before = self.upload.moved_bytes;
        let keeps = self.keeps_body;
        let copy = keeps.then_some(&mut self.copy);
        let pumped = self.upload.step(client, &attempt.transport, copy, ring);
        let has_moved = self.upload.moved_bytes > before || pumped == Pumped::Ended;
        if keeps && !self.copy.is_whole() || !keeps && has_moved {
            self.rules.body_forwarded();
        }
        match pumped {
            Pumped::Waiting => None,
            Pumped::Ended => {
                self.rules.request_ended();
                None
            }
            Pumped::SinkLost => {
                self.upload_lost = true;
                self.rules.upstream_spent();
                None
            }
            Pumped::SourceLost => Some(Reason::BadRequest),
            Pumped::Refused(error) => Some(reason_of_body(error)),
        }
    }

    /// The answer is complete. An upload that is not has nobody to go to any more.
    fn finish(&mut self, link: &Link<'_>) -> Look {
        self.rules.response_ended();
        self.ledger.attempt_ended(link.context, None, self.moved());
        if let Some(attempt) = &mut self.attempt {
            attempt.load.ended(link.context);
        }
        if let Some(Attempt { endpoint, transport, meter, .. }) = self.attempt.take()
            && self.rules.may_reuse_upstream()
            && !self.half_closed
        {
            let upward = Upward { transport, meter };
            self.upstream.check_in(&endpoint, upward, link.context.ring.now());
        }
        Look::Turn(Turn::Done { close: self.rules.closes_client() })
    }

    /// Ends the attempt. `None`: the request is to be tried again.
    pub(super) fn fail(&mut self, reason: Reason, link: &Link<'_>) -> Option<Turn> {
        let mut moved = self.moved();
        if self.attempt.as_ref().is_none_or(|attempt| attempt.connecting) {
            // What came with the head is counted as it is written, and nobody got it.
            moved.request = 0;
        }
        self.ledger.attempt_ended(link.context, Some(reason), moved);
        let endpoint = self.attempt.as_ref().map(|attempt| attempt.endpoint.clone());
        if let Some(mut attempt) = self.attempt.take() {
            if reason.retry() == Retry::NothingSent {
                attempt.load.unreachable(link.context.clock());
            }
            if reason.is_upstream_fault() {
                attempt.load.judge(false, link.context);
            }
        }
        let is_requeue = match self.rules.on_failure(reason) {
            Verdict::Again if reason == Reason::ReusedClosed => {
                self.fresh = true;
                true
            }
            Verdict::Again => {
                self.avoid = endpoint.as_ref().map(|it| it.slot).or(self.avoid);
                let may_requeue = self.policy.retries.may_requeue(link.context);
                if !may_requeue {
                    self.ledger.budget_exhausted(link.context);
                }
                may_requeue
            }
            Verdict::Answer { .. } | Verdict::Break => false,
        };
        if is_requeue {
            self.next = record::Attempt::Requeue;
            return None;
        }
        // What never reached an endpoint has been tried again as often as that makes sense.
        let outcome = Outcome::Failed { reason, nothing_sent: false };
        if reason.retry() == Retry::ByClassifier && self.retry(outcome, endpoint.as_deref(), link) {
            return None;
        }
        match self.rules.given_up(reason) {
            Verdict::Answer { close } => Some(Turn::Answer { reason, close }),
            Verdict::Break | Verdict::Again => Some(Turn::Broken(reason)),
        }
    }

    /// Whether the request is to be sent once more by the service's rules; then all is set for it.
    pub(super) fn retry(
        &mut self,
        outcome: Outcome,
        endpoint: Option<&Endpoint>,
        link: &Link<'_>,
    ) -> bool {
        let retries = &self.policy.retries;
        let class = retries.classify(self.rules.method, outcome);
        if class != (Class::Failure { retryable: true }) || !self.rules.may_retry() {
            return false;
        }
        let now = link.context.ring.now();
        let delay = self.delays.next_delay(&mut link.context.rng.borrow_mut());
        if now + delay >= self.request_deadline {
            return false;
        }
        match retries.ask(self.retries, link.context) {
            Grant::Granted => {}
            Grant::NoMore => return false,
            Grant::Exhausted => {
                self.ledger.budget_exhausted(link.context);
                return false;
            }
        }
        self.retries += 1;
        self.rules.retry_granted();
        self.next = record::Attempt::Retry;
        self.avoid = endpoint.map(|it| it.slot).or(self.avoid);
        self.retry_at = if delay.is_zero() { Duration::ZERO } else { now + delay };
        true
    }

    /// Minds what the client does while its request is out: more requests are kept, up to a bound;
    /// its half-close is passed on (DESIGN section 5).
    fn watch_client(&mut self, client: &mut Transport, link: &Link<'_>) {
        let connected = self.attempt.as_ref().is_some_and(|attempt| !attempt.connecting);
        let uploading = !self.upload.is_ended() && !self.upload_lost && !self.expects;
        if uploading && connected {
            // The pump minds the client.
            return;
        }
        client.absorb();
        let kept = client.spilled_bytes();
        let ahead = self.rules.request_has_ended() && kept > PIECE_BYTES / 2;
        let short = ahead && link.context.ring.is_out_of_budget();
        if short && self.asks_upgrade.is_none() {
            // Memory is short: what was sent ahead is dropped, and so is the connection once this
            // request is answered. Who pipelines has to be ready for that (RFC 9112 9.3.2).
            client.discard();
            self.rules.client_spent();
            self.deaf = true;
        } else if kept > MAX_PIPELINED_BYTES || short || uploading || self.deaf {
            // What comes ahead of a switch is not to be had again: it is the tunnel's beginning.
            client.hold_back();
        } else {
            client.socket().receive(link.many);
        }
        let progress = client.progress();
        if progress.end != End::Closed || self.half_closed || !self.upload.is_ended() {
            return;
        }
        let Some(attempt) = &self.attempt else { return };
        if !connected {
            return;
        }
        if !attempt.transport.progress().all_sent {
            attempt.transport.socket().wake_when_sent(true);
            return;
        }
        attempt.transport.socket().shutdown_write();
        self.half_closed = true;
        self.rules.upstream_spent();
    }
}

fn reason_of_body(error: BodyError) -> Reason {
    match error {
        BodyError::TooLarge => Reason::BodyTooLarge,
        BodyError::Malformed | BodyError::TrailerTooLarge | BodyError::Truncated => {
            Reason::BadRequest
        }
    }
}
