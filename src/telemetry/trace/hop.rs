//! This hop's place in a trace, and what the next hop is told of it.

use super::b3::Single;
use super::context::{Form, Forms, Ids};
use super::ids::{DIGITS, Digits, SpanId, TraceId};
use super::incoming::Incoming;
use super::l5d::{self, OtherFlags};
use super::w3c;
use crate::http::Sampling;

/// All forms together, with all that each may say.
const MOST_BYTES: usize = 512;

/// One request's. It is the same for all attempts, each of which has a span of its own under it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hop {
    trace: TraceId,
    /// The span that called; none where the trace begins here.
    caller: Option<Caller>,
    /// This hop's SERVER span, recorded or not.
    server: SpanId,
    sampling: Sampling,
    /// In which the context goes on.
    forms: Forms,
    /// The next hop is given spans of this one for parents.
    is_seen: bool,
    other_flags: OtherFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    span: SpanId,
    parent: Option<SpanId>,
}

/// Where in a head the id of the attempt's span stands: the rest of the head is every attempt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Places {
    /// In digits; the first `count` are in use.
    digits: [u32; 3],
    count: u8,
    /// In base64, where that form goes on.
    linkerd: Option<u32>,
}

impl Hop {
    /// `propagate` is what a trace goes on in that came in no form; `random` is asked for the ids
    /// that did not come.
    #[inline]
    pub fn begin(incoming: &Incoming, propagate: Forms, mut random: impl FnMut() -> u64) -> Hop {
        let server = SpanId::begin(random());
        let trace = match incoming.ids {
            Some(ids) => ids.trace,
            None => TraceId::begin(random(), random()),
        };
        let caller = incoming.ids.map(|ids| Caller { span: ids.span, parent: ids.parent });
        let forms = if incoming.forms.is_empty() { propagate } else { incoming.forms };
        Hop {
            trace,
            caller,
            server,
            sampling: incoming.sampling.unwrap_or_default(),
            forms,
            is_seen: true,
            other_flags: incoming.other_flags,
        }
    }

    /// What the sampler says: what goes on, and whether this hop's spans are recorded or might yet
    /// be. Where they are not, the next hop is given the caller's span for a parent.
    #[inline]
    pub fn decided(&mut self, sampling: Sampling, may_be_recorded: bool) {
        self.sampling = sampling;
        self.is_seen = may_be_recorded;
    }

    pub fn trace(&self) -> TraceId {
        self.trace
    }

    /// Of this hop's SERVER span.
    pub fn server(&self) -> SpanId {
        self.server
    }

    /// The SERVER span's parent.
    pub fn caller(&self) -> Option<SpanId> {
        self.caller.map(|caller| caller.span)
    }

    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Whether the next hop is told anything.
    pub fn goes_on(&self) -> bool {
        !self.forms.is_empty()
    }

    /// Of the CLIENT span of the `nth` attempt, counted from 0.
    pub fn attempt(&self, nth: u32) -> SpanId {
        self.server.child(nth)
    }

    /// What the next hop is told that the first attempt reaches.
    fn told(&self) -> Ids {
        let (span, parent) = match (self.is_seen, self.caller) {
            (true, _) => (self.attempt(0), Some(self.server)),
            (false, Some(caller)) => (caller.span, caller.parent),
            (false, None) => (self.server, None),
        };
        Ids { trace: self.trace, span, parent }
    }

    /// Appends the context to a head, for the first attempt.
    pub fn write(&self, head: &mut Vec<u8>) -> Places {
        let mut places = Places::default();
        if self.forms.is_empty() {
            return places;
        }
        head.reserve(MOST_BYTES);
        let (ids, sampling) = (self.told(), self.sampling);
        let digits = Digits { trace: ids.trace.all_digits(), span: ids.span.digits() };
        if self.forms.has(Form::B3Single) {
            let single = Single::new(&ids, sampling);
            places.add(write_field(head, b"b3: ", single.text()) + single.span_at);
        }
        if self.forms.has(Form::B3Multi) {
            places.add(write_multi(head, &ids, &digits, sampling));
        }
        if self.forms.has(Form::W3c) {
            places.add(w3c::write(head, &digits, sampling));
        }
        if self.forms.has(Form::Linkerd) {
            let (text, len) = l5d::text(&ids, sampling, self.other_flags);
            places.linkerd = Some(write_field(head, b"l5d-ctx-trace: ", &text[..len]) as u32);
        }
        places
    }

    /// Appends the trace's id as that of the request, for who knows no traces.
    pub fn write_request_id(&self, head: &mut Vec<u8>) {
        let (digits, count) = self.trace.digits();
        write_field(head, b"l5d-reqid: ", &digits[digits.len() - count..]);
    }

    /// Makes a head that was written for the first attempt that of the `nth`, counted from 0.
    pub fn write_attempt(&self, places: &Places, head: &mut [u8], nth: u32) {
        if nth == 0 || !self.is_seen {
            return;
        }
        let span = self.attempt(nth);
        let digits = span.digits();
        for &at in &places.digits[..usize::from(places.count)] {
            put(head, at, &digits);
        }
        if let Some(at) = places.linkerd {
            put(head, at, &l5d::span_text(span, self.server));
        }
    }
}

/// Says at which byte the value stands.
fn write_field(head: &mut Vec<u8>, name: &[u8], value: &[u8]) -> usize {
    head.extend_from_slice(name);
    let at = head.len();
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
    at
}

/// Where the span's id stands. Whole lines of a length that the compiler knows, filled in: field by
/// field from slices, all that an unsampled request costs was 84 ns and not 35.
fn write_multi(head: &mut Vec<u8>, ids: &Ids, digits: &Digits, sampling: Sampling) -> usize {
    if ids.trace.is_wide() {
        let mut line = *b"x-b3-traceid: 00000000000000000000000000000000\r\n";
        line[14..46].copy_from_slice(&digits.trace);
        head.extend_from_slice(&line);
    } else {
        let mut line = *b"x-b3-traceid: 0000000000000000\r\n";
        line[14..30].copy_from_slice(&digits.trace[DIGITS..]);
        head.extend_from_slice(&line);
    }
    let span_at = head.len() + 13;
    let mut line = *b"x-b3-spanid: 0000000000000000\r\n";
    line[13..29].copy_from_slice(&digits.span);
    head.extend_from_slice(&line);
    if let Some(parent) = ids.parent {
        let mut line = *b"x-b3-parentspanid: 0000000000000000\r\n";
        line[19..35].copy_from_slice(&parent.digits());
        head.extend_from_slice(&line);
    }
    match sampling {
        Sampling::Undecided => {}
        Sampling::No => head.extend_from_slice(b"x-b3-sampled: 0\r\n"),
        Sampling::Yes => head.extend_from_slice(b"x-b3-sampled: 1\r\n"),
        // It implies the decision, which is not sent beside it.
        Sampling::Debug => head.extend_from_slice(b"x-b3-flags: 1\r\n"),
    }
    span_at
}

impl Places {
    fn add(&mut self, at: usize) {
        self.digits[usize::from(self.count)] = at as u32;
        self.count += 1;
    }
}

fn put(head: &mut [u8], at: u32, text: &[u8]) {
    let place = head.get_mut(at as usize..).and_then(|rest| rest.get_mut(..text.len()));
    debug_assert!(place.is_some(), "not the head that was written");
    if let Some(place) = place {
        place.copy_from_slice(text);
    }
}
