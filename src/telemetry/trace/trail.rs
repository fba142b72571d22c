//! One request's spans while it is under way: what its ledger learns, in the order of learning.
//!
//! There is one for each request that is recorded, and for those that may yet be kept for what
//! comes of them. The first attempt is held inline; further ones allocate, which happens where an
//! attempt failed.

use std::net::SocketAddr;
use std::time::Duration;

use super::hop::Hop;
use super::recent::Recent;
use super::span::{
    Client, Connection, METHOD_BYTES, PATH_BYTES, REQUEST_ID_BYTES, Role, Span, Spans, Text,
};
use crate::http::{Peer, Reason, Sampling, Target};
use crate::telemetry::record::{Attempt, AttemptEnd, Cause, RequestEnd};

#[derive(Clone, Debug)]
pub struct Trail {
    hop: Hop,
    began: Duration,
    server: u32,
    peer: Peer,
    target: Option<u32>,
    method: Text<METHOD_BYTES>,
    path: Text<PATH_BYTES>,
    request_id: Text<REQUEST_ID_BYTES>,
    first: Option<Tried>,
    more: Vec<Tried>,
}

/// An attempt.
#[derive(Clone, Copy, Debug)]
struct Tried {
    client: Client,
    began: Duration,
    first_byte: Option<Duration>,
    /// `None`: it is under way.
    ended: Option<Duration>,
    status: Option<u16>,
    failure: Option<Cause>,
    request_bytes: u64,
    response_bytes: u64,
}

impl Tried {
    /// Makes the server's span that of this attempt; at `now` the request was over.
    fn fill(&self, span: &mut Span, now: Duration) {
        (span.began, span.ended) = (self.began, self.ended.unwrap_or(now));
        (span.status, span.failure) = (self.status, self.failure);
        (span.request_bytes, span.response_bytes) = (self.request_bytes, self.response_bytes);
        span.first_byte = self.first_byte;
        span.role = Role::Client(self.client);
    }
}

/// What a request says of itself, for its trail.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The server that it came to.
    pub server: u32,
    pub peer: Peer,
    pub method: &'a [u8],
    pub target: &'a Target<'a>,
    /// Empty: none.
    pub request_id: &'a [u8],
}

impl Trail {
    /// A head is complete, at `now`.
    pub fn begin(hop: Hop, now: Duration, said: &Said<'_>) -> Trail {
        let mut trail = Trail {
            hop,
            began: now,
            server: said.server,
            peer: said.peer,
            target: None,
            method: Text::EMPTY,
            path: Text::EMPTY,
            request_id: Text::EMPTY,
            first: None,
            more: Vec::new(),
        };
        trail.say(said);
        trail
    }

    /// The same, in the place of one that is over: of a trail's 600 bytes most are room for text,
    /// and need not be moved.
    pub fn renew(&mut self, hop: Hop, now: Duration, said: &Said<'_>) {
        (self.hop, self.began, self.target, self.first) = (hop, now, None, None);
        self.more.clear();
        self.say(said);
    }

    fn say(&mut self, said: &Said<'_>) {
        (self.server, self.peer) = (said.server, said.peer);
        self.method.set(said.method);
        let target = said.target;
        self.path.set(if target.prefix_slash { b"/" } else { b"" });
        let end = target.path.iter().position(|&byte| byte == b'?').unwrap_or(target.path.len());
        self.path.push(&target.path[..end]);
        self.request_id.set(said.request_id);
    }

    pub fn hop(&self) -> &Hop {
        &self.hop
    }

    /// The request has found its service.
    pub fn routed(&mut self, target: u32) {
        self.target = Some(target);
    }

    /// An endpoint was picked, at `now`; a connection is to be made, unless [`Trail::pooled`].
    pub fn attempt_begun(
        &mut self,
        endpoint: u32,
        address: Option<SocketAddr>,
        attempt: Attempt,
        now: Duration,
    ) {
        let connection = Connection::Failed;
        let tried = Tried {
            client: Client { endpoint, address, attempt, connection },
            began: now,
            first_byte: None,
            ended: None,
            status: None,
            failure: None,
            request_bytes: 0,
            response_bytes: 0,
        };
        match self.first {
            None => self.first = Some(tried),
            Some(_) => self.more.push(tried),
        }
    }

    /// The connection was in the pool.
    pub fn pooled(&mut self) {
        if let Some(tried) = self.last() {
            tried.client.connection = Connection::Pooled;
        }
    }

    /// The connection is there, at `now`.
    pub fn connected(&mut self, now: Duration) {
        if let Some(tried) = self.last() {
            tried.client.connection = Connection::Made { at: now };
        }
    }

    /// The final answer's head has come, at `now`.
    pub fn answered(&mut self, now: Duration) {
        if let Some(tried) = self.last() {
            tried.first_byte = Some(now);
        }
    }

    /// The attempt is over, at `now`.
    pub fn attempt_ended(&mut self, now: Duration, end: &AttemptEnd) {
        if let Some(tried) = self.last() {
            tried.ended = Some(now);
            (tried.status, tried.failure) = (end.status, end.failure);
            (tried.request_bytes, tried.response_bytes) = (end.request_bytes, end.response_bytes);
        }
    }

    /// So many spans are gathered so far.
    pub fn spans(&self) -> u32 {
        1 + u32::from(self.first.is_some()) + self.more.len() as u32
    }

    /// An attempt failed and another was made; not where a pooled connection had merely closed.
    pub fn was_retried(&self) -> bool {
        let stale = Some(Cause::Reason(Reason::ReusedClosed));
        !self.more.is_empty()
            && self
                .first
                .iter()
                .chain(&self.more)
                .any(|tried| tried.failure.is_some() && tried.failure != stale)
    }

    /// The request is over, at `now`, and recorded.
    pub fn ended(&self, now: Duration, end: &RequestEnd, spans: &mut Spans) {
        let attempts = || self.first.iter().chain(&self.more);
        // The client was sent the last attempt's answer, unless we made one.
        let last = attempts().next_back().filter(|tried| tried.status == Some(end.status));
        let server = Span {
            trace: self.hop.trace(),
            id: self.hop.server(),
            parent: self.hop.caller(),
            debug: self.hop.sampling() == Sampling::Debug,
            began: self.began,
            ended: now,
            server: self.server,
            target: self.target,
            method: self.method,
            path: self.path,
            status: Some(end.status),
            failure: end.failure,
            request_bytes: end.request_bytes,
            response_bytes: end.response_bytes,
            first_byte: last.and_then(|tried| tried.first_byte),
            role: Role::Server {
                peer: self.peer,
                request_id: self.request_id,
                retries: end.retries,
            },
        };
        let clients = (0..).zip(attempts()).map(|(nth, tried)| {
            let mut span = server;
            (span.id, span.parent) = (self.hop.attempt(nth), Some(server.id));
            tried.fill(&mut span, now);
            span
        });
        spans.add(self.spans() as usize, std::iter::once(server).chain(clients));
    }

    /// The same as one line. `is_recorded`: its spans are.
    pub fn recent(&self, end: &RequestEnd, is_recorded: bool) -> Recent {
        let last = self.more.last().or(self.first.as_ref());
        Recent {
            trace: self.hop.trace(),
            span: self.hop.server(),
            request_id: self.request_id,
            is_recorded,
            began: self.began,
            took: end.latency,
            peer: self.peer,
            server: self.server,
            target: self.target,
            endpoint: last.map(|tried| tried.client.endpoint),
            method: self.method,
            path: self.path,
            status: end.status,
            failure: end.failure,
            attempts: end.attempts,
            retries: end.retries,
            request_bytes: end.request_bytes,
            response_bytes: end.response_bytes,
        }
    }

    fn last(&mut self) -> Option<&mut Tried> {
        self.more.last_mut().or(self.first.as_mut())
    }
}
