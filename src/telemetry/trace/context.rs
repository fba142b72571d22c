//! What every form of a trace's context comes to.

use super::ids::{SpanId, TraceId};
use crate::http::Sampling;

/// How a context is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Form {
    /// `b3`.
    B3Single,
    /// `x-b3-traceid` and its like.
    B3Multi,
    /// `traceparent` and `tracestate`.
    W3c,
    /// Linkerd's `l5d-ctx-trace`.
    Linkerd,
}

impl Form {
    /// First the one whose word counts most.
    pub const ALL: [Form; 4] = [Form::B3Single, Form::B3Multi, Form::W3c, Form::Linkerd];
}

/// Some of the forms; one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forms(u8);

impl Forms {
    /// What a trace that begins here is passed on in, unless configured otherwise.
    pub const DEFAULT: Forms = Forms::of(&[Form::B3Multi, Form::W3c]);

    pub const fn of(forms: &[Form]) -> Forms {
        let (mut bits, mut at) = (0, 0);
        while at < forms.len() {
            bits |= 1 << forms[at] as u8;
            at += 1;
        }
        Forms(bits)
    }

    pub fn add(&mut self, form: Form) {
        self.0 |= 1 << form as u8;
    }

    pub fn has(self, form: Form) -> bool {
        self.0 & (1 << form as u8) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The caller's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    /// Of the caller's span, where the form has it.
    pub(super) parent: Option<SpanId>,
}

/// What one form says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    /// B3 may state a decision alone.
    pub(super) ids: Option<Ids>,
    pub(super) sampling: Sampling,
}

/// It cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;
