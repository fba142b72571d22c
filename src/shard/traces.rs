//! Traces on one shard: what a request brings of its trace, what is decided about it, what the
//! upstream is told, and what is recorded of it.
//!
//! The rules are `policy::sampler`'s, the formats `telemetry::trace`'s. A trail is gathered for
//! requests that are recorded, or may yet be kept for what comes of them, or are to be shown as
//! recent; others cost their context alone. Spans gather in a buffer that goes to the telemetry
//! thread when it is full, and with each flush.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use crate::config::{self, Propagation};
use crate::http::{FieldName, Peer, Request, Sampling, Seen};
use crate::policy::Rng;
use crate::policy::sampler::{Asked, Decision, Keep, Outcome, Rate, Sampler};
use crate::telemetry::collect::{Handed, SpanOutlet};
use crate::telemetry::layout::Layout;
use crate::telemetry::record::RequestEnd;
use crate::telemetry::trace::{
    Form, Forms, Hop, Incoming, Places, REQUEST_ID_BYTES, Recent, Said, Spans, Text, TraceId, Trail,
};

/// Spans of a batch: 110 KB, which a core's second cache holds beside everything else.
const BATCH: usize = 256;
/// Trails kept for use by later requests.
const SPARE_TRAILS: usize = 64;

/// A shard's.
pub(super) struct Tracer {
    shard: usize,
    shards: u32,
    /// Spans are recorded, and traces begin here.
    is_on: bool,
    propagate: Forms,
    sampler: Sampler,
    spans: Spans,
    /// Recorded, and lost on the way to the telemetry thread; it is yet to be told.
    lost: u64,
    /// Requests that the cap had no room for, and that are yet to be told.
    capped: u64,
    latest: Latest,
    /// `None`: `telemetry: off`.
    outlet: Option<SpanOutlet>,
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    spare: Vec<Box<Trail>>,
}

/// The latest requests since the last flush.
#[derive(Default)]
struct Latest {
    capacity: usize,
    /// A ring once it is full; `next` is the oldest then.
    requests: Vec<Recent>,
    next: usize,
}

/// A request's trace, for as long as it is under way.
#[derive(Default)]
pub(super) struct Traced {
    hop: Option<Hop>,
    request_id: Text<REQUEST_ID_BYTES>,
    /// Fields that do not go on as they came.
    dropped: Seen,
    /// The upstream is told an id for the request, since the client sent none.
    names_request: bool,
    places: Places,
    is_recorded: bool,
    pub(super) trail: Option<Box<Trail>>,
}

/// What a head says that concerns its trace.
pub(super) struct Arrival<'a, 'b, 's> {
    pub(super) request: &'a Request<'b, 's>,
    pub(super) peer: Peer,
    pub(super) server: u32,
    /// When it was complete.
    pub(super) now: Duration,
}

impl Tracer {
    pub(super) fn new(shard: usize, shards: usize, outlet: Option<SpanOutlet>) -> Tracer {
        Tracer {
            shard,
            shards: shards as u32,
            is_on: false,
            propagate: Forms::default(),
            sampler: Sampler::OFF,
            spans: Spans::new(if outlet.is_some() { BATCH } else { 0 }),
            lost: 0,
            capped: 0,
            latest: Latest::default(),
            outlet,
            spare: Vec::new(),
        }
    }

    /// Goes by other settings from the next request on.
    pub(super) fn apply(&mut self, settings: &config::Tracing) {
        self.is_on = settings.sample_rate.is_some() && self.outlet.is_some();
        let rate = Rate::new(settings.sample_rate.unwrap_or(0.0));
        let keep = Keep {
            failed: settings.keep_failed,
            retried: settings.keep_retried,
            slower_than: settings.keep_slower_than,
        };
        self.sampler.set(self.is_on, rate, keep);
        self.sampler.set_cap(settings.max_spans_per_sec, self.shards);
        // A trace that is said not to be sampled is lost to whoever would have begun it behind us.
        let begins = self.is_on.then_some(&settings.propagate[..]).unwrap_or_default();
        self.propagate = Forms::default();
        begins.iter().for_each(|form| self.propagate.add(form_of(*form)));
        self.latest.resize(settings.recent_requests);
    }

    /// A head is complete. Also how much of its context could not be read.
    pub(super) fn begin(&mut self, arrival: &Arrival<'_, '_, '_>, rng: &mut Rng) -> (Traced, u32) {
        let Arrival { request, peer, server, now } = *arrival;
        let incoming = Incoming::read(request.fields, request.facts.seen);
        let mut hop = Hop::begin(&incoming, self.propagate, || rng.next_u64());
        // What does not record has no say in what others do.
        let rate = incoming.rate.filter(|_| self.is_on);
        let asked = Asked { trace_low: hop.trace().low(), came: incoming.sampling, rate };
        let decision = self.decide(&asked, now);
        self.capped += u64::from(decision.capped);
        let may_keep = self.sampler.may_keep();
        // Who records by a rate of its own may do so where we do not, and then needs a parent that
        // is there; where the word is no, nobody does but by the same outcome.
        let is_seen = decision.recorded || may_keep && decision.passed_on == Sampling::No;
        hop.decided(decision.passed_on, is_seen);
        let sent_id = request_id(request);
        let gathers = decision.recorded || may_keep || self.latest.capacity > 0;
        let trail = (gathers && self.outlet.is_some()).then(|| {
            let (method, target) = (request.method_bytes, &request.target);
            let request_id = sent_id.unwrap_or_default();
            self.trail(Trail::begin(hop, now, &Said { server, peer, method, target, request_id }))
        });
        let kept = if incoming.rate.is_some() && !self.is_on {
            Seen::of(&[FieldName::Sample])
        } else {
            Seen::default()
        };
        let traced = Traced {
            hop: Some(hop),
            request_id: sent_id.map(Text::new).unwrap_or_default(),
            dropped: incoming.dropped.without(kept),
            names_request: sent_id.is_none() && hop.goes_on(),
            places: Places::default(),
            is_recorded: decision.recorded,
            trail,
        };
        (traced, incoming.malformed)
    }

    fn decide(&mut self, asked: &Asked, now: Duration) -> Decision {
        if !self.is_on {
            let passed_on = asked.came.unwrap_or_default();
            return Decision { recorded: false, passed_on, capped: false };
        }
        self.sampler.decide(asked, now)
    }

    fn trail(&mut self, trail: Trail) -> Box<Trail> {
        match self.spare.pop() {
            Some(mut spare) => {
                *spare = trail;
                spare
            }
            None => Box::new(trail),
        }
    }

    /// A request is over; whether its spans were recorded.
    fn end(
        &mut self,
        traced: &mut Traced,
        now: Duration,
        end: &RequestEnd,
        layout: impl FnOnce() -> Arc<Layout>,
    ) -> bool {
        let Some(trail) = traced.trail.take() else { return false };
        let spans = trail.spans();
        if traced.is_recorded {
            self.sampler.attempts_were(end.attempts, now);
        } else {
            let (failed, retried) = (end.failure.is_some(), end.attempts > 1);
            let outcome = Outcome { failed, retried, took: end.latency };
            traced.is_recorded = self.sampler.keeps(&outcome, spans, now);
        }
        if traced.is_recorded {
            if self.spans.is_full(spans as usize) {
                self.hand_over(layout());
            }
            trail.ended(now, end, &mut self.spans);
        }
        self.latest.add(|| trail.recent(end, traced.is_recorded));
        if self.spare.len() < SPARE_TRAILS {
            self.spare.push(trail);
        }
        traced.is_recorded
    }

    /// Gives what has gathered to the telemetry thread. `layout`: by whose ids it speaks.
    fn hand_over(&mut self, layout: Arc<Layout>) {
        let Some(outlet) = &self.outlet else { return };
        let is_empty = self.spans.is_empty() && self.latest.requests.is_empty();
        if is_empty && self.lost + self.capped == 0 {
            return;
        }
        let (spans, dropped) = self.spans.take(outlet.buffer());
        let (recents, dropped) = (self.latest.take(), dropped + std::mem::take(&mut self.lost));
        let (shard, capped) = (self.shard, std::mem::take(&mut self.capped));
        let handed = Handed { shard, layout, spans, dropped, capped, recents };
        if let Err(refused) = outlet.send(handed) {
            self.lost = refused.dropped + refused.spans.len() as u64;
            self.capped = refused.capped;
        }
    }
}

impl Latest {
    fn resize(&mut self, capacity: usize) {
        if capacity != self.capacity {
            *self = Latest { capacity, requests: Vec::with_capacity(capacity), next: 0 };
        }
    }

    fn add(&mut self, recent: impl FnOnce() -> Recent) {
        if self.requests.len() < self.capacity {
            self.requests.push(recent());
        } else if let Some(oldest) = self.requests.get_mut(self.next) {
            *oldest = recent();
            self.next = (self.next + 1) % self.capacity;
        }
    }

    /// The oldest first.
    fn take(&mut self) -> Vec<Recent> {
        if self.requests.is_empty() {
            return Vec::new();
        }
        self.requests.rotate_left(self.next);
        self.next = 0;
        std::mem::replace(&mut self.requests, Vec::with_capacity(self.capacity))
    }
}

impl Traced {
    /// The fields of its head that are not to be sent on.
    pub(super) fn dropped(&self) -> Seen {
        self.dropped
    }

    /// Writes the context into the head that goes to the upstream, and the request's id.
    pub(super) fn write(&mut self, head: &mut Vec<u8>) {
        let Some(hop) = &self.hop else { return };
        self.places = hop.write(head);
        if self.names_request {
            hop.write_request_id(head);
        }
    }

    /// Makes a copy of that head the `nth` attempt's, counted from 0.
    pub(super) fn write_attempt(&self, head: &mut [u8], nth: u32) {
        if let Some(hop) = &self.hop {
            hop.write_attempt(&self.places, head, nth);
        }
    }

    /// For whoever has to find the request again: what it is called, and its trace.
    pub(super) fn ids(&self) -> Ids {
        Ids { request: self.request_id, trace: self.hop.as_ref().map(Hop::trace) }
    }
}

/// By what a request is found in logs, lists and collectors.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    /// Empty: the client sent none.
    pub(super) request: Text<REQUEST_ID_BYTES>,
    pub(super) trace: Option<TraceId>,
}

impl Ids {
    /// Of what is no request yet.
    pub(super) const NONE: Ids = Ids { request: Text::EMPTY, trace: None };
}

impl std::fmt::Display for Ids {
    /// The request's id: the client's, or else the trace's.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.request.is_empty(), self.trace) {
            (true, Some(trace)) => trace.fmt(out),
            _ => out.write_str(self.request.as_str()),
        }
    }
}

impl Context {
    /// A head is complete.
    pub(super) fn trace(&self, arrival: &Arrival<'_, '_, '_>) -> Traced {
        let mut rng = self.rng.borrow_mut();
        let (traced, malformed) = self.tracer.borrow_mut().begin(arrival, &mut rng);
        if malformed > 0 {
            self.record(|recorder| recorder.malformed_context(arrival.server, malformed));
        }
        traced
    }

    /// A request is over, at `now`; its trace, where that was recorded.
    pub(super) fn traced(
        &self,
        traced: &mut Traced,
        now: Duration,
        end: &RequestEnd,
    ) -> Option<TraceId> {
        let layout = || self.layout();
        let is_recorded = self.tracer.borrow_mut().end(traced, now, end, layout);
        traced.hop.as_ref().map(Hop::trace).filter(|_| is_recorded)
    }

    /// Gives spans and recent requests to the telemetry thread, however few there are.
    pub(super) fn hand_over_spans(&self) {
        if self.reporter.is_some() {
            self.tracer.borrow_mut().hand_over(self.layout());
        }
    }

    fn layout(&self) -> Arc<Layout> {
        self.reporter.as_ref().map(|reporter| reporter.layout()).unwrap_or_default()
    }
}

/// What the client calls its request.
fn request_id<'b>(request: &Request<'b, '_>) -> Option<&'b [u8]> {
    if !request.facts.seen.has(FieldName::RequestId) {
        return None;
    }
    let is_it = |field: &&crate::http::Field<'b>| field.kind == FieldName::RequestId;
    request.fields.iter().find(is_it).map(|field| field.value)
}

fn form_of(form: Propagation) -> Form {
    match form {
        Propagation::B3Single => Form::B3Single,
        Propagation::B3Multi => Form::B3Multi,
        Propagation::W3c => Form::W3c,
        Propagation::Linkerd => Form::Linkerd,
    }
}
