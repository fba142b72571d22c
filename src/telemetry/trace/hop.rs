//! This hop's place in a trace, and what the next hop is told of it.

use super::b3::Single;
use super::context::{Form, Forms, Ids};
use super::ids::{SpanId, TraceId};
use super::incoming::Incoming;
use super::l5d::{self, OtherFlags};
use super::w3c;
use crate::http::Sampling;

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

    /// Writes the context, for the first attempt. `field` takes a name and a value, and says at
    /// which byte of the head the value begins.
    pub fn write(&self, mut field: impl FnMut(&[u8], &[u8]) -> usize) -> Places {
        let (ids, sampling) = (self.told(), self.sampling);
        let mut places = Places::default();
        if self.forms.has(Form::B3Single) {
            let single = Single::new(&ids, sampling);
            places.add(field(b"b3", single.text()) + single.span_at);
        }
        if self.forms.has(Form::B3Multi) {
            places.add(write_multi(&ids, sampling, &mut field));
        }
        if self.forms.has(Form::W3c) {
            let at = field(b"traceparent", &w3c::text(&ids, sampling));
            places.add(at + w3c::SPAN_AT);
        }
        if self.forms.has(Form::Linkerd) {
            let (text, len) = l5d::text(&ids, sampling, self.other_flags);
            places.linkerd = Some(field(b"l5d-ctx-trace", &text[..len]) as u32);
        }
        places
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

/// Where the span's id stands.
fn write_multi(
    ids: &Ids,
    sampling: Sampling,
    field: &mut impl FnMut(&[u8], &[u8]) -> usize,
) -> usize {
    let (trace, count) = ids.trace.digits();
    field(b"x-b3-traceid", &trace[trace.len() - count..]);
    let span_at = field(b"x-b3-spanid", &ids.span.digits());
    if let Some(parent) = ids.parent {
        field(b"x-b3-parentspanid", &parent.digits());
    }
    match sampling {
        Sampling::Undecided => {}
        Sampling::No => {
            field(b"x-b3-sampled", b"0");
        }
        Sampling::Yes => {
            field(b"x-b3-sampled", b"1");
        }
        // It implies the decision, which is not sent beside it.
        Sampling::Debug => {
            field(b"x-b3-flags", b"1");
        }
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
