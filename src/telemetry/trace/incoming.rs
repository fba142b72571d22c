//! What a request brings of its trace, read once when its head is complete.
//!
//! A request that brings nothing costs one comparison: the head's parser has noted which known
//! fields there are.

use super::b3::{self, Multi};
use super::context::{Context, Form, Forms, Ids, Malformed};
use super::l5d::{self, OtherFlags};
use super::w3c;
use crate::http::{Field, FieldName, Sampling, Seen};

/// What came, and what of it stays behind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incoming {
    pub(super) ids: Option<Ids>,
    pub(super) forms: Forms,
    pub(super) other_flags: OtherFlags,
    /// `None`: no context came that could be read.
    pub sampling: Option<Sampling>,
    /// The rate that `l5d-sample` asks for, from 0 to 1.
    pub rate: Option<f64>,
    /// How many forms, and other fields, could not be read.
    pub malformed: u32,
    /// The fields that are not to be sent on: they are written anew or stay behind.
    pub dropped: Seen,
}

/// The fields by name; a form of which one came twice cannot be read.
#[derive(Debug, Default)]
struct Came<'b> {
    single: Option<&'b [u8]>,
    multi: Multi<'b>,
    trace_parent: Option<&'b [u8]>,
    linkerd: Option<&'b [u8]>,
    sample: Option<&'b [u8]>,
    twice: Seen,
}

const MULTI: Seen = Seen::of(&[
    FieldName::B3Flags,
    FieldName::B3ParentSpanId,
    FieldName::B3Sampled,
    FieldName::B3SpanId,
    FieldName::B3TraceId,
]);

impl Incoming {
    const NOTHING: Incoming = Incoming {
        ids: None,
        forms: Forms::of(&[]),
        other_flags: OtherFlags::NONE,
        sampling: None,
        rate: None,
        malformed: 0,
        dropped: Seen::TRACING,
    };

    /// `seen`: the known fields among them.
    #[inline]
    pub fn read(fields: &[Field<'_>], seen: Seen) -> Incoming {
        let tracing = seen.and(Seen::TRACING);
        if tracing.is_empty() { Incoming::NOTHING } else { read(fields, tracing) }
    }
}

fn read(fields: &[Field<'_>], seen: Seen) -> Incoming {
    let came = gather(fields);
    let mut incoming = Incoming::NOTHING;
    let once = |kind| !came.twice.has(kind);
    if let Some(value) = came.single {
        let read = if once(FieldName::B3) { b3::parse_single(value) } else { Err(Malformed) };
        incoming.take(Form::B3Single, read);
    }
    if !seen.and(MULTI).is_empty() {
        let is_whole = came.twice.and(MULTI).is_empty();
        incoming.take(Form::B3Multi, if is_whole { came.multi.parse() } else { Err(Malformed) });
    }
    let parent = came.trace_parent.map(|value| match once(FieldName::TraceParent) {
        true => w3c::parse(value),
        false => Err(Malformed),
    });
    if let Some(read) = parent {
        incoming.take(Form::W3c, read);
    }
    if let Some(value) = came.linkerd {
        let read = if once(FieldName::CtxTrace) { l5d::parse(value) } else { Err(Malformed) };
        if let Ok((_, flags)) = read {
            incoming.other_flags = flags;
        }
        incoming.take(Form::Linkerd, read.map(|(context, _)| context));
    }
    if let Some(value) = came.sample {
        incoming.rate = rate(value).filter(|_| once(FieldName::Sample));
        incoming.malformed += u32::from(incoming.rate.is_none());
    }
    if seen.has(FieldName::TraceState) && incoming.goes_on_with(parent) {
        let states = fields.iter().filter(|field| field.kind == FieldName::TraceState);
        if w3c::is_state(states.map(|field| field.value)) {
            incoming.dropped = Seen::TRACING.without(Seen::of(&[FieldName::TraceState]));
        } else {
            incoming.malformed += 1;
        }
    }
    incoming
}

fn gather<'b>(fields: &[Field<'b>]) -> Came<'b> {
    let mut came = Came::default();
    for field in fields {
        let place = match field.kind {
            FieldName::B3 => &mut came.single,
            FieldName::B3Flags => &mut came.multi.flags,
            FieldName::B3ParentSpanId => &mut came.multi.parent,
            FieldName::B3Sampled => &mut came.multi.sampled,
            FieldName::B3SpanId => &mut came.multi.span,
            FieldName::B3TraceId => &mut came.multi.trace,
            FieldName::TraceParent => &mut came.trace_parent,
            FieldName::CtxTrace => &mut came.linkerd,
            FieldName::Sample => &mut came.sample,
            _ => continue,
        };
        if place.replace(field.value).is_some() {
            came.twice.add(field.kind);
        }
    }
    came
}

impl Incoming {
    /// What the next form says, in the order of their precedence.
    fn take(&mut self, form: Form, read: Result<Context, Malformed>) {
        match read {
            Ok(context) => {
                self.forms.add(form);
                self.ids = self.ids.or(context.ids);
                self.sampling = self.sampling.or(Some(context.sampling));
            }
            Err(Malformed) => self.malformed += 1,
        }
    }

    /// Whether the trace that goes on is the one that `traceparent` names: `tracestate` is of it.
    fn goes_on_with(&self, parent: Option<Result<Context, Malformed>>) -> bool {
        let parent = parent.and_then(Result::ok).and_then(|context| context.ids);
        parent.zip(self.ids).is_some_and(|(parent, ours)| {
            (parent.trace.high(), parent.trace.low()) == (ours.trace.high(), ours.trace.low())
        })
    }
}

/// A number, of which Linkerd takes what is below 0 for 0 and what is over 1 for 1.
fn rate(value: &[u8]) -> Option<f64> {
    let number: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(number.clamp(0.0, 1.0))
}
