//! B3 in one field and in several (openzipkin/b3-propagation).
//!
//! Digits are taken in either case, since some senders have always written capitals, and written in
//! lower case. Ids have 16 digits, or 32 for a trace's; older fragments of other lengths cannot be
//! told from damage. `true` and `false` in `x-b3-sampled` are of before the specification, which
//! asks to take them. Any `x-b3-flags` but `1` means nothing.

use super::context::{Context, Ids, Malformed};
use super::ids::{DIGITS, SpanId, TraceId};
use crate::http::Sampling;

/// `{trace}-{span}-{decision}-{parent}`.
const LONGEST: usize = 32 + 1 + DIGITS + 2 + 1 + DIGITS;

/// A value of `b3`, and where in it the span's id stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single {
    text: [u8; LONGEST],
    len: usize,
    pub(super) span_at: usize,
}

/// The fields of several, as they came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Multi<'b> {
    pub(super) trace: Option<&'b [u8]>,
    pub(super) span: Option<&'b [u8]>,
    pub(super) parent: Option<&'b [u8]>,
    pub(super) sampled: Option<&'b [u8]>,
    pub(super) flags: Option<&'b [u8]>,
}

/// `{trace}-{span}`, with `-{decision}` and `-{parent}` where they are known, or a decision alone.
pub(super) fn parse_single(value: &[u8]) -> Result<Context, Malformed> {
    if let [letter] = value {
        return Ok(Context { ids: None, sampling: decision(*letter)? });
    }
    let mut parts = value.split(|&byte| byte == b'-');
    let trace = parts.next().and_then(TraceId::parse).ok_or(Malformed)?;
    let span = parts.next().and_then(SpanId::parse).ok_or(Malformed)?;
    let (third, fourth) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(Malformed);
    }
    let (sampling, parent) = match (third, fourth) {
        (None, _) => (Sampling::Undecided, None),
        (Some([letter]), parent) => (decision(*letter)?, parent),
        // An open decision leaves its place out.
        (parent, None) => (Sampling::Undecided, parent),
        (Some(_), Some(_)) => return Err(Malformed),
    };
    let parent = parent.map(parent_of).transpose()?.flatten();
    Ok(Context { ids: Some(Ids { trace, span, parent }), sampling })
}

fn decision(letter: u8) -> Result<Sampling, Malformed> {
    match letter {
        b'0' => Ok(Sampling::No),
        b'1' => Ok(Sampling::Yes),
        b'd' => Ok(Sampling::Debug),
        _ => Err(Malformed),
    }
}

/// Some senders write zeros for the parent of a trace's first span.
fn parent_of(text: &[u8]) -> Result<Option<SpanId>, Malformed> {
    if text.len() != DIGITS {
        return Err(Malformed);
    }
    super::ids::number(text).map(SpanId::new).ok_or(Malformed)
}

impl Multi<'_> {
    /// The ids are both there or neither is; the decision may stand alone.
    pub(super) fn parse(&self) -> Result<Context, Malformed> {
        let ids = match (self.trace, self.span, self.parent) {
            (None, None, None) => None,
            (Some(trace), Some(span), parent) => Some(Ids {
                trace: TraceId::parse(trace).ok_or(Malformed)?,
                span: SpanId::parse(span).ok_or(Malformed)?,
                parent: parent.map(parent_of).transpose()?.flatten(),
            }),
            _ => return Err(Malformed),
        };
        let sampled = match self.sampled {
            None => Sampling::Undecided,
            Some(b"1") => Sampling::Yes,
            Some(b"0") => Sampling::No,
            Some(word) if word.eq_ignore_ascii_case(b"true") => Sampling::Yes,
            Some(word) if word.eq_ignore_ascii_case(b"false") => Sampling::No,
            Some(_) => return Err(Malformed),
        };
        let sampling = if self.flags == Some(b"1") { Sampling::Debug } else { sampled };
        Ok(Context { ids, sampling })
    }
}

impl Single {
    pub(super) fn new(ids: &Ids, sampling: Sampling) -> Single {
        let mut single = Single { text: [0; LONGEST], len: 0, span_at: 0 };
        let (trace, count) = ids.trace.digits();
        single.push(&trace[trace.len() - count..]);
        single.push(b"-");
        single.span_at = single.len;
        single.push(&ids.span.digits());
        single.push(match sampling {
            // Readers who take the third part for the decision would not know the parent there.
            Sampling::Undecided => return single,
            Sampling::No => b"-0",
            Sampling::Yes => b"-1",
            Sampling::Debug => b"-d",
        });
        if let Some(parent) = ids.parent {
            single.push(b"-");
            single.push(&parent.digits());
        }
        single
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text[..self.len]
    }

    fn push(&mut self, piece: &[u8]) {
        self.text[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
    }
}
