//! W3C Trace Context: `traceparent` and `tracestate`.
//!
//! Of the flags only `sampled` has a meaning, so an open decision and a debugged trace are rounded:
//! to not sampled, and to sampled. A version that is not known is read as far as 00 goes (section
//! 3.2.4 asks for that); what is written is 00.

use super::context::{Context, Ids, Malformed};
use super::ids::{DIGITS, Digits, SpanId, TraceId, number};
use crate::http::Sampling;

/// `00-{trace}-{span}-{flags}`.
const BYTES: usize = 2 + 1 + 32 + 1 + DIGITS + 1 + 2;
const TRACE_AT: usize = 3;
const SPAN_AT: usize = 36;
const FLAGS_AT: usize = 53;

const _: () = assert!(FLAGS_AT + 2 == BYTES && SPAN_AT + DIGITS + 1 == FLAGS_AT);

/// Section 3.3.1.1: a list has no more members than that.
const MAX_MEMBERS: usize = 32;

pub(super) fn parse(value: &[u8]) -> Result<Context, Malformed> {
    let (known, rest) = value.split_at_checked(BYTES).ok_or(Malformed)?;
    let version = number(&known[..2]).ok_or(Malformed)?;
    let goes_on = match (version, rest) {
        (0xFF, _) => false,
        (_, []) => true,
        (0, _) => false,
        (_, [first, ..]) => *first == b'-',
    };
    let dashes = [TRACE_AT - 1, SPAN_AT - 1, FLAGS_AT - 1];
    let has_dashes = dashes.iter().all(|&at| known[at] == b'-');
    if !goes_on || !has_dashes || known.iter().any(u8::is_ascii_uppercase) {
        return Err(Malformed);
    }
    let trace = TraceId::parse(&known[TRACE_AT..TRACE_AT + 32]).ok_or(Malformed)?;
    let span = SpanId::parse(&known[SPAN_AT..SPAN_AT + DIGITS]).ok_or(Malformed)?;
    let flags = number(&known[FLAGS_AT..]).ok_or(Malformed)?;
    let sampling = if flags & 1 == 1 { Sampling::Yes } else { Sampling::No };
    Ok(Context { ids: Some(Ids { trace, span, parent: None }), sampling })
}

/// Appends `traceparent`; where in the head its span's id stands.
pub(super) fn write(head: &mut Vec<u8>, digits: &Digits, sampling: Sampling) -> usize {
    const NAME: usize = "traceparent: ".len();
    const SAMPLED_AT: usize = NAME + BYTES - 1;
    const DASHES: [u8; NAME + BYTES + 2] =
        *b"traceparent: 00-                                -                -00\r\n";
    let mut line = DASHES;
    line[NAME + TRACE_AT..NAME + TRACE_AT + 32].copy_from_slice(&digits.trace);
    line[NAME + SPAN_AT..NAME + SPAN_AT + DIGITS].copy_from_slice(&digits.span);
    if sampling.decided() == Some(true) {
        line[SAMPLED_AT] = b'1';
    }
    let span_at = head.len() + NAME + SPAN_AT;
    head.extend_from_slice(&line);
    span_at
}

/// Counts the members of one field of `tracestate`; `None`: it cannot be read.
fn members(value: &[u8]) -> Option<usize> {
    let mut count = 0;
    for member in value.split(|&byte| byte == b',').map(crate::http::trim) {
        // Section 3.3.1.1 allows empty members.
        if !member.is_empty() {
            is_member(member).then_some(())?;
            count += 1;
        }
    }
    Some(count)
}

/// Section 3.3.1.2: `key=value`, or `tenant@system=value`. Which characters may come first has
/// changed between the levels of the specification, and is not looked at.
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|&byte| byte == b'=') else { return false };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let of_key =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let of_value = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'=';
    (1..=256).contains(&key.len())
        && key.iter().all(of_key)
        && key.iter().filter(|&&byte| byte == b'@').count() <= 1
        && (1..=256).contains(&value.len())
        && value.iter().all(of_value)
}

/// Whether a list over all fields of `tracestate` can be read.
pub(super) fn is_state<'b>(values: impl Iterator<Item = &'b [u8]>) -> bool {
    let mut all = 0;
    for value in values {
        let Some(count) = members(value) else { return false };
        all += count;
    }
    all <= MAX_MEMBERS
}
