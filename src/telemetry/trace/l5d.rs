//! Linkerd's `l5d-ctx-trace`: Finagle's trace id in base64.
//!
//! 32 bytes, big-endian: span, parent, trace, flags; 8 more for the high half of a trace's id of
//! 128 bits. A span that is its own parent has none. Of the flags, bit 0 asks for debugging, bit 1
//! says that there is a decision and bit 2 what it is; the others are of Finagle's tracers and go
//! on as they came. Base64 is that of RFC 4648 section 4; padding may be missing.

use super::context::{Context, Ids, Malformed};
use super::ids::{SpanId, TraceId};
use crate::http::Sampling;

const NARROW_BYTES: usize = 32;
const WIDE_BYTES: usize = 40;
const WIDE_TEXT: usize = encoded_len(WIDE_BYTES);

const DEBUG: u64 = 1;
const KNOWN: u64 = 2;
const SAMPLED: u64 = 4;

/// Characters that depend on the span's id: 9 bytes, of which the last is the parent's first.
pub(super) const SPAN_TEXT: usize = encoded_len(9);

const fn encoded_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Flags that are not ours to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OtherFlags(u64);

impl OtherFlags {
    pub(super) const NONE: OtherFlags = OtherFlags(0);
}

pub(super) fn parse(value: &[u8]) -> Result<(Context, OtherFlags), Malformed> {
    let mut bytes = [0; WIDE_BYTES];
    let count = decode(value, &mut bytes).ok_or(Malformed)?;
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
        u64::from_be_bytes(number)
    };
    let trace = match count {
        NARROW_BYTES => TraceId::narrow(number(2)),
        WIDE_BYTES => TraceId::wide(number(4), number(2)),
        _ => None,
    };
    let trace = trace.ok_or(Malformed)?;
    let span = SpanId::new(number(0)).ok_or(Malformed)?;
    let parent = SpanId::new(number(1)).filter(|parent| *parent != span);
    let flags = number(3);
    let sampling = match flags & (DEBUG | KNOWN | SAMPLED) {
        flags if flags & DEBUG != 0 => Sampling::Debug,
        flags if flags & KNOWN == 0 => Sampling::Undecided,
        flags if flags & SAMPLED == 0 => Sampling::No,
        _ => Sampling::Yes,
    };
    let others = OtherFlags(flags & !(DEBUG | KNOWN | SAMPLED));
    Ok((Context { ids: Some(Ids { trace, span, parent }), sampling }, others))
}

/// The value of the field, and how long it is.
pub(super) fn text(ids: &Ids, sampling: Sampling, others: OtherFlags) -> ([u8; WIDE_TEXT], usize) {
    let flags = match sampling {
        Sampling::Undecided => 0,
        Sampling::No => KNOWN,
        Sampling::Yes => KNOWN | SAMPLED,
        Sampling::Debug => DEBUG | KNOWN | SAMPLED,
    };
    let parent = ids.parent.unwrap_or(ids.span).get();
    let numbers = [ids.span.get(), parent, ids.trace.low(), flags | others.0, ids.trace.high()];
    let mut bytes = [0; WIDE_BYTES];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let count = if ids.trace.is_wide() { WIDE_BYTES } else { NARROW_BYTES };
    let mut text = [0; WIDE_TEXT];
    encode(&bytes[..count], &mut text);
    (text, encoded_len(count))
}

/// The first characters of the value, once more for another span.
pub(super) fn span_text(span: SpanId, parent: SpanId) -> [u8; SPAN_TEXT] {
    let mut bytes = [0; 9];
    bytes[..8].copy_from_slice(&span.get().to_be_bytes());
    bytes[8] = parent.get().to_be_bytes()[0];
    let mut text = [0; SPAN_TEXT];
    encode(&bytes, &mut text);
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What a character is worth; over 63: nothing.
static VALUES: [u8; 256] = {
    let mut values = [0xFF; 256];
    let mut at = 0;
    while at < 64 {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

fn encode(bytes: &[u8], text: &mut [u8]) {
    for (group, out) in bytes.chunks(3).zip(text.chunks_exact_mut(4)) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, out) in out.iter_mut().enumerate() {
            let six = (bits >> (18 - 6 * at)) & 63;
            *out = if at <= group.len() { ALPHABET[six as usize] } else { b'=' };
        }
    }
}

/// How many bytes the text stands for; `None`: it is none, or stands for too many.
fn decode(text: &[u8], bytes: &mut [u8; WIDE_BYTES]) -> Option<usize> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let (digits, rest) = (&text[..text.len() - padding], text.len() % 4);
    let is_padded = padding > 0;
    if padding > 2 || is_padded && rest != 0 || digits.len() % 4 == 1 {
        return None;
    }
    let count = digits.len() * 3 / 4;
    if count > WIDE_BYTES {
        return None;
    }
    for (group, out) in digits.chunks(4).zip(bytes.chunks_mut(3)) {
        let mut bits = 0_u32;
        for at in 0..4 {
            let six = group.get(at).map_or(0, |&digit| VALUES[usize::from(digit)]);
            if six > 63 {
                return None;
            }
            bits = bits << 6 | u32::from(six);
        }
        let [_, first, second, third] = bits.to_be_bytes();
        let known = group.len() - 1;
        // What a short group has no room for is zero, or the text is not what anybody wrote.
        if [first, second, third][known..].iter().any(|&byte| byte != 0) {
            return None;
        }
        for (out, byte) in out.iter_mut().zip([first, second, third]).take(known) {
            *out = byte;
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648 section 10.
        for (plain, text) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = [0; 8];
            encode(plain.as_bytes(), &mut out);
            assert_eq!(&out[..text.len()], text.as_bytes());
            for text in [text, text.trim_end_matches('=')] {
                let mut bytes = [0; WIDE_BYTES];
                let count = decode(text.as_bytes(), &mut bytes);
                assert_eq!(count.map(|count| &bytes[..count]), Some(plain.as_bytes()), "{text}");
            }
        }
        let too_long = "A".repeat(60);
        for wrong in ["A", "=", "====", "Zg=", "Zm9v=", "Zh==", "Zm9=", "Zm9-", "Z g=", &too_long] {
            assert_eq!(decode(wrong.as_bytes(), &mut [0; WIDE_BYTES]), None, "{wrong}");
        }
        assert_eq!(decode(b"", &mut [0; WIDE_BYTES]), Some(0));
    }

    #[test]
    fn every_byte_survives() {
        for byte in 0..=u8::MAX {
            let plain = [byte; NARROW_BYTES];
            let mut text = [0; encoded_len(NARROW_BYTES)];
            encode(&plain, &mut text);
            let mut bytes = [0; WIDE_BYTES];
            assert_eq!(decode(&text, &mut bytes), Some(NARROW_BYTES));
            assert_eq!(bytes[..NARROW_BYTES], plain);
        }
    }
}
