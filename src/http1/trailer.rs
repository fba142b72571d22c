//! Trailer fields: collected line by line, and which of them may go on.
//!
//! RFC 9110 section 6.5.1: fields for framing, routing, request modifiers, authentication, response
//! control and content format are never taken from a trailer, since whoever processed the head has
//! acted without them. Those are dropped; malformed ones are an error. What `Connection` names is
//! not known here: `BodyDecoder::dropping_trailers`.

use super::decode::BodyError;
use super::encode;
use crate::http::{FieldName, trim};

/// All lines of a trailer section together.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// A trailer section on its way in.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// `name: value` lines with CRLF that may go on, spelt as the fields of a head are.
    kept: Vec<u8>,
    /// Of all lines so far, dropped ones too.
    bytes: usize,
}

impl Trailers {
    /// Takes bytes up to the end of the section; how many, and whether the section ended.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), BodyError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let lf = memchr::memchr(b'\n', rest);
            let piece = &rest[..lf.map_or(rest.len(), |lf| lf + 1)];
            self.bytes += piece.len();
            // The empty line that ends the section is no part of it.
            if self.bytes > MAX_TRAILER_BYTES + 2 {
                return Err(BodyError::TrailerTooLarge);
            }
            self.line.extend_from_slice(piece);
            at += piece.len();
            if lf.is_none() {
                // A CR that more than an LF follows never becomes a line end.
                let bare = memchr::memchr(b'\r', &self.line);
                if bare.is_some_and(|cr| cr + 1 < self.line.len()) {
                    return Err(BodyError::Malformed);
                }
                break;
            }
            let Some(line) = self.line.strip_suffix(b"\r\n") else {
                return Err(BodyError::Malformed);
            };
            if line.is_empty() {
                return Ok((at, true));
            }
            let (name, value) = field_of(line)?;
            if !is_forbidden(name) {
                encode::field(&mut self.kept, name, value);
            }
            self.line.clear();
        }
        Ok((at, false))
    }

    /// The lines that may go on, if there are any.
    pub(super) fn into_kept(self) -> Option<Box<[u8]>> {
        (!self.kept.is_empty()).then(|| self.kept.into_boxed_slice())
    }
}

/// The name and value of a well-formed line.
fn field_of(line: &[u8]) -> Result<(&[u8], &[u8]), BodyError> {
    let colon = memchr::memchr(b':', line).ok_or(BodyError::Malformed)?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    let well_formed = !name.is_empty()
        && name.iter().all(|&byte| is_token(byte))
        && value.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7F));
    if !well_formed {
        return Err(BodyError::Malformed);
    }
    Ok((name, value))
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_forbidden(name: &[u8]) -> bool {
    // Every field that the proxy acts on belongs in a head.
    if FieldName::of(name) != FieldName::Other {
        return true;
    }
    const FORBIDDEN: [&[u8]; 24] = [
        b"accept-encoding",
        b"age",
        b"cache-control",
        b"content-encoding",
        b"content-location",
        b"content-range",
        b"content-type",
        b"expires",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"location",
        b"origin",
        b"pragma",
        b"range",
        b"retry-after",
        b"sec-websocket-accept",
        b"set-cookie",
        b"vary",
        b"warning",
        b"x-http-method-override",
        b"x-real-ip",
    ];
    FORBIDDEN.iter().any(|it| name.eq_ignore_ascii_case(it))
}
