//! What is known of one request for telemetry's sake, from its head to its end.
//!
//! The exchange says what happens; the ledger remembers the moments and tells the recorder. With
//! `telemetry: off` it remembers nothing and no clock is read for it. Clock readings are those of
//! DESIGN section 7: head complete, each attempt's start, connected and first byte, last byte.

use std::rc::Rc;
use std::time::Duration;

use super::context::{Context, Target};
use super::traces::{Arrival, Begun, Ids, Traced};
use super::upstream::Endpoint;
use crate::http::{Peer, Reason, Request, Seen};
use crate::telemetry::record::{Attempt, AttemptEnd, Cause, RequestEnd};

/// The sizes of both bodies as far as they went, without framing.
#[derive(Clone, Copy, Default)]
pub(super) struct Bytes {
    pub(super) request: u64,
    pub(super) response: u64,
}

/// An upstream's final answer.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// It came with all of its body.
    pub(super) whole: bool,
    /// The classifier says so.
    pub(super) is_failure: bool,
}

#[derive(Default)]
pub(super) struct Ledger {
    server: u32,
    pub(super) trace: Traced,
    /// `None`: the request was answered before it had a service, or nothing is recorded.
    target: Option<Rc<Target>>,
    head_complete: Duration,
    attempt: Option<Open>,
    /// Spent waiting for upstreams, or streaming what they sent.
    away: Duration,
    attempts: u32,
    retries: u32,
    /// Of the upstream's final answer; 0 before that.
    status: u16,
    /// The classifier takes that answer for a failure.
    is_failure: bool,
    /// The answer's body did not come whole with its head.
    streams: bool,
    /// When the last attempt ended.
    last_byte: Duration,
}

/// An attempt under way.
struct Open {
    endpoint: u32,
    began: Duration,
    first_byte: Option<Duration>,
}

impl Ledger {
    /// A head is complete. Also which of its fields do not go on as they came.
    pub(super) fn begin(
        context: &Context,
        server: u32,
        request: &Request<'_, '_>,
        peer: Peer,
    ) -> (Ledger, Seen) {
        context.record(|recorder| recorder.request_begun(server));
        let now = context.stamp();
        let Begun { traced, dropped, .. } = context.trace(&Arrival { request, peer, server, now });
        (Ledger { server, trace: traced, head_complete: now, ..Ledger::default() }, dropped)
    }

    /// The request has found its service.
    pub(super) fn routed(&mut self, context: &Context, target: Option<&Rc<Target>>) {
        self.target = target.cloned();
        if let Some(target) = &self.target {
            context.record(|recorder| recorder.routed(target.id));
            if let Some(trail) = &mut self.trace.trail {
                trail.routed(target.id);
            }
        }
    }

    /// By what the request is found again.
    pub(super) fn ids(&self) -> Ids {
        self.trace.ids()
    }

    /// Makes the request's head that of the attempt under way.
    pub(super) fn write_attempt(&self, head: &mut [u8]) {
        self.trace.write_attempt(head, self.attempts.saturating_sub(1));
    }

    /// What the request is counted for, once it has found its service.
    pub(super) fn target(&self) -> Option<&Rc<Target>> {
        self.target.as_ref()
    }

    /// The service's balancer picked an endpoint; `now` by the same clock as `Context::stamp`.
    pub(super) fn attempt_begun(
        &mut self,
        context: &Context,
        picked: &Endpoint,
        attempt: Attempt,
        now: Duration,
    ) {
        debug_assert!(self.attempt.is_none(), "one attempt at a time");
        debug_assert_eq!(self.attempts == 0, attempt == Attempt::First);
        self.attempts += 1;
        self.retries += u32::from(attempt == Attempt::Retry);
        let Some(target) = &self.target else { return };
        let endpoint = target.endpoint(picked.slot);
        context.record(|recorder| recorder.attempt_begun(target.id, endpoint, attempt));
        if let Some(trail) = &mut self.trace.trail {
            trail.attempt_begun(endpoint, picked.socket_address(), attempt, now);
        }
        self.attempt = Some(Open { endpoint, began: now, first_byte: None });
    }

    /// The attempt's connection came from the pool.
    pub(super) fn pooled(&mut self) {
        if let Some(trail) = &mut self.trace.trail {
            trail.pooled();
        }
    }

    /// A connection was made for the attempt.
    pub(super) fn connected(&mut self, context: &Context) {
        if let (Some(target), Some(attempt)) = (&self.target, &self.attempt) {
            let now = context.stamp();
            let took = now.saturating_sub(attempt.began);
            context.record(|recorder| recorder.upstream_connected(target.id, took));
            if let Some(trail) = &mut self.trace.trail {
                trail.connected(now);
            }
        }
    }

    /// A retry would have been made if the service's budget allowed it.
    pub(super) fn budget_exhausted(&self, context: &Context) {
        if let Some(target) = &self.target {
            context.record(|recorder| recorder.budget_exhausted(target.id));
        }
    }

    /// The final answer's head has come, at `now`.
    pub(super) fn answered(&mut self, now: Duration, answer: Answer) {
        (self.status, self.is_failure) = (answer.status, answer.is_failure);
        self.streams = !answer.whole;
        if let Some(attempt) = &mut self.attempt {
            attempt.first_byte = Some(now);
            self.away += now.saturating_sub(attempt.began);
            if let Some(trail) = &mut self.trace.trail {
                trail.answered(now);
            }
        }
    }

    /// The answer of the attempt that ended is not the client's to have.
    pub(super) fn discarded(&mut self) {
        (self.status, self.is_failure) = (0, false);
    }

    /// The attempt is over: with the whole answer, or with a reason of ours.
    pub(super) fn attempt_ended(
        &mut self,
        context: &Context,
        reason: Option<Reason>,
        bytes: Bytes,
    ) {
        let (Some(target), Some(attempt)) = (&self.target, self.attempt.take()) else { return };
        let now = context.stamp();
        self.last_byte = now;
        let since = match (attempt.first_byte, self.streams) {
            (Some(_), false) => now,
            (Some(first_byte), true) => first_byte,
            (None, _) => attempt.began,
        };
        self.away += now.saturating_sub(since);
        let answered = attempt.first_byte.is_some();
        let end = AttemptEnd {
            status: answered.then_some(self.status),
            failure: self.cause(reason),
            latency: now.saturating_sub(attempt.began),
            request_bytes: bytes.request,
            response_bytes: bytes.response,
        };
        context.record(|recorder| recorder.attempt_ended(target.id, attempt.endpoint, &end));
        if let Some(trail) = &mut self.trace.trail {
            trail.attempt_ended(now, &end);
        }
    }

    /// The request is over. `reason`: why it failed; `status`: what the client was sent, where
    /// that was no answer of an upstream's.
    pub(super) fn ended(
        &mut self,
        context: &Context,
        reason: Option<Reason>,
        status: Option<u16>,
        bytes: Bytes,
    ) {
        if self.attempt.is_some() {
            self.attempt_ended(context, reason, bytes);
        }
        // The last byte of the last attempt was the client's too, unless we answered after it.
        let now = match status {
            None if self.last_byte > Duration::ZERO => self.last_byte,
            _ => context.stamp(),
        };
        let latency = now.saturating_sub(self.head_complete);
        let end = RequestEnd {
            status: status.unwrap_or(self.status),
            failure: match status {
                Some(_) => reason.map(Cause::Reason),
                None => self.cause(reason),
            },
            latency,
            proxy_latency: latency.saturating_sub(self.away),
            request_bytes: bytes.request,
            response_bytes: bytes.response,
            retries: self.retries,
            attempts: self.attempts,
        };
        let target = self.target.as_ref().map(|target| target.id);
        context.record(|recorder| recorder.request_ended(self.server, target, &end));
        if let Some(trace) = context.traced(&mut self.trace, now, &end) {
            context.record(|recorder| recorder.exemplar(self.server, target, trace, latency, now));
        }
    }

    fn cause(&self, reason: Option<Reason>) -> Option<Cause> {
        reason.map(Cause::Reason).or_else(|| self.is_failure.then_some(Cause::UpstreamStatus))
    }

    /// What of an answer the client had when it ended early: its status, or 499.
    pub(super) fn status_when_gone(&self) -> u16 {
        match self.status {
            0 => Reason::ClientClosed.status(),
            status => status,
        }
    }
}
