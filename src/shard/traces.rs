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
use crate::policy::sampler::{Asked, Keep, Kept, Outcome, Rate, Sampler};
use crate::telemetry::collect::{Handed, SpanOutlet};
use crate::telemetry::layout::Layout;
use crate::telemetry::record::RequestEnd;
use crate::telemetry::trace::{
    Form, Forms, Hop, Incoming, Places, REQUEST_ID_BYTES, Recent, Said, Spans, Text, TraceId, Trail,
};

/// Spans of a batch: 94 KB, which a core's second cache holds beside everything else.
const BATCH: usize = 256;
/// Fields by which a request has a trace or an id, wherever it came from.
const TELLING: Seen = Seen::TRACING.with(FieldName::RequestId);
/// Of the boxes, how many are kept for use by later requests.
const SPARE: usize = 64;

/// A shard's.
pub(super) struct Tracer {
    shard: usize,
    shards: u32,
    /// In what a trace goes on that begins here.
    propagate: Forms,
    sampler: Sampler,
    /// No other shard's, in whatever process: 64 bits of state alone would repeat themselves among
    /// some billions of traces.
    salt: u64,
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
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    spare_known: Vec<Box<Known>>,
}

/// The latest requests since the last flush.
#[derive(Default)]
struct Latest {
    capacity: usize,
    /// A ring once it is full; `next` is the oldest then.
    requests: Vec<Recent>,
    next: usize,
}

/// A request's trace, for as long as it is under way. Small where there is none: it is moved about
/// with everything else that is known of a request.
#[derive(Default)]
pub(super) struct Traced {
    /// `None`: nothing came, and no trace begins here.
    known: Option<Box<Known>>,
    is_recorded: bool,
    /// It is counted among those that the cap had no room for.
    is_capped: bool,
    pub(super) trail: Option<Box<Trail>>,
}

struct Known {
    hop: Hop,
    request_id: Text<REQUEST_ID_BYTES>,
    /// The upstream is told an id for the request, since the client sent none.
    names_request: bool,
    places: Places,
}

/// What a head comes to.
pub(super) struct Begun {
    pub(super) traced: Traced,
    /// Fields that do not go on as they came.
    pub(super) dropped: Seen,
    /// How much of its context could not be read.
    malformed: u32,
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
    /// `salt`: random.
    pub(super) fn new(
        shard: usize,
        shards: usize,
        salt: u64,
        outlet: Option<SpanOutlet>,
    ) -> Tracer {
        Tracer {
            shard,
            shards: shards as u32,
            propagate: Forms::default(),
            sampler: Sampler::OFF,
            salt,
            spans: Spans::new(if outlet.is_some() { BATCH } else { 0 }),
            lost: 0,
            capped: 0,
            latest: Latest::default(),
            outlet,
            spare: Vec::new(),
            spare_known: Vec::new(),
        }
    }

    /// Goes by other settings from the next request on.
    pub(super) fn apply(&mut self, settings: &config::Tracing) {
        let is_on = settings.sample_rate.is_some() && self.outlet.is_some();
        let rate = Rate::new(settings.sample_rate.unwrap_or(0.0));
        let keep = Keep {
            failed: settings.keep_failed,
            retried: settings.keep_retried,
            slower_than: settings.keep_slower_than,
        };
        self.sampler.set(is_on, rate, keep);
        self.sampler.set_cap(settings.max_spans_per_sec, self.shards);
        // A trace that is said not to be sampled is lost to whoever would have begun it behind us.
        self.propagate = Forms::default();
        if is_on {
            settings.propagate.iter().for_each(|form| self.propagate.add(form_of(*form)));
        }
        self.latest.resize(settings.recent_requests);
    }

    /// A head is complete.
    pub(super) fn begin(&mut self, arrival: &Arrival<'_, '_, '_>, rng: &mut Rng) -> Begun {
        let Arrival { request, peer, server, now } = *arrival;
        let tells = request.facts.seen.and(TELLING);
        if tells.is_empty() && !self.sampler.is_on() && self.latest.capacity == 0 {
            return Begun { traced: Traced::default(), dropped: Seen::default(), malformed: 0 };
        }
        let incoming = Incoming::read(request.fields, request.facts.seen);
        let salt = self.salt;
        let mut hop = Hop::begin(&incoming, self.propagate, || rng.next_u64() ^ salt);
        let (trace_low, came) = (hop.trace().low(), incoming.sampling);
        let decision = self.sampler.decide(&Asked { trace_low, came, rate: incoming.rate }, now);
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
            let said = Said { server, peer, method, target, request_id };
            match self.spare.pop() {
                Some(mut spare) => {
                    spare.renew(hop, now, &said);
                    spare
                }
                None => Box::new(Trail::begin(hop, now, &said)),
            }
        });
        // A rate is for who records.
        let goes_on = incoming.rate.is_some() && !self.sampler.is_on();
        let kept = if goes_on { Seen::of(&[FieldName::Sample]) } else { Seen::default() };
        let known = self.known(hop, sent_id);
        let traced = Traced {
            known: Some(known),
            is_recorded: decision.recorded,
            is_capped: decision.capped,
            trail,
        };
        let (dropped, malformed) = (incoming.dropped.without(kept), incoming.malformed);
        Begun { traced, dropped, malformed }
    }

    fn known(&mut self, hop: Hop, sent_id: Option<&[u8]>) -> Box<Known> {
        let mut known = self.spare_known.pop().unwrap_or_else(|| {
            let (request_id, places) = (Text::EMPTY, Places::default());
            Box::new(Known { hop, request_id, names_request: false, places })
        });
        known.hop = hop;
        known.request_id.set(sent_id.unwrap_or_default());
        known.names_request = sent_id.is_none() && hop.goes_on();
        known
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
            let (failed, retried) = (end.failure.is_some(), trail.was_retried());
            let outcome = Outcome { failed, retried, took: end.latency };
            let kept = self.sampler.keeps(&outcome, spans, now);
            traced.is_recorded = kept == Kept::Yes;
            self.capped += u64::from(kept == Kept::NoRoom && !traced.is_capped);
        }
        if traced.is_recorded {
            if self.spans.is_full(spans as usize) {
                self.hand_over(layout(), false, Duration::ZERO);
            }
            trail.ended(now, end, &mut self.spans);
        }
        self.latest.add(|| trail.recent(end, traced.is_recorded));
        if self.spare.len() < SPARE {
            self.spare.push(trail);
        }
        traced.is_recorded
    }

    /// Gives spans to the telemetry thread, and at a flush all that has gathered. `layout`: by
    /// whose ids it speaks; `patience`: how long to wait for room, at the shard's end.
    fn hand_over(&mut self, layout: Arc<Layout>, is_flush: bool, patience: Duration) {
        let Some(outlet) = &self.outlet else { return };
        let recents = if is_flush { self.latest.take() } else { Vec::new() };
        let (spans, dropped) = match self.spans.is_empty() {
            true => (Vec::new(), 0),
            false => self.spans.take(outlet.buffer()),
        };
        let dropped = dropped + std::mem::take(&mut self.lost);
        let (shard, capped) = (self.shard, std::mem::take(&mut self.capped));
        if spans.is_empty() && recents.is_empty() && dropped + capped == 0 {
            return;
        }
        let handed = Handed { shard, layout, spans, dropped, capped, recents };
        if let Err(refused) = outlet.send(handed, patience) {
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
        self.requests.rotate_left(self.next);
        self.next = 0;
        // As large as they are: many of them may be kept, and this one is filled again.
        let taken = self.requests.clone();
        self.requests.clear();
        taken
    }
}

impl Traced {
    /// Writes the context into the head that goes to the upstream, and the request's id.
    pub(super) fn write(&mut self, head: &mut Vec<u8>) {
        let Some(known) = &mut self.known else { return };
        known.places = known.hop.write(head);
        if known.names_request {
            known.hop.write_request_id(head);
        }
    }

    /// Makes a copy of that head the `nth` attempt's, counted from 0.
    pub(super) fn write_attempt(&self, head: &mut [u8], nth: u32) {
        if let Some(known) = &self.known {
            known.hop.write_attempt(&known.places, head, nth);
        }
    }

    /// For whoever has to find the request again: what it is called, and its trace.
    pub(super) fn ids(&self) -> Ids {
        self.known.as_ref().map_or(Ids::NONE, |known| Ids {
            request: known.request_id,
            trace: Some(known.hop.trace()),
        })
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
    pub(super) fn trace(&self, arrival: &Arrival<'_, '_, '_>) -> Begun {
        let mut rng = self.rng.borrow_mut();
        let begun = self.tracer.borrow_mut().begin(arrival, &mut rng);
        if begun.malformed > 0 {
            self.record(|recorder| recorder.malformed_context(arrival.server, begun.malformed));
        }
        begun
    }

    /// Nobody asks for it any more.
    pub(super) fn forget_trace(&self, traced: &mut Traced) {
        let Some(known) = traced.known.take() else { return };
        let spare = &mut self.tracer.borrow_mut().spare_known;
        if spare.len() < SPARE {
            spare.push(known);
        }
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
        traced.known.as_ref().map(|known| known.hop.trace()).filter(|_| is_recorded)
    }

    /// Gives spans and recent requests to the telemetry thread, however few there are.
    pub(super) fn hand_over_spans(&self, patience: Duration) {
        if self.reporter.is_some() {
            self.tracer.borrow_mut().hand_over(self.layout(), true, patience);
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
