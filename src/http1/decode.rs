//! Takes the framing off a body, in place (RFC 9112 section 6.3 and 7.1).
//!
//! Chunked coding is read strictly: a size is 1 to 16 hexadecimal digits, directly followed by an
//! extension or CRLF; data is followed by CRLF; a bare CR or LF is an error wherever it stands.
//! Extensions are skipped and dropped, as RFC 9112 section 7.1.1 has it for those not understood;
//! they must be well-formed all the same, and without the white space of old, since where one ends
//! is what attacks make peers disagree about.
//! Bytes behind the end of the body belong to the next message and are not consumed.

use super::trailer::{Trailers, is_token};
use crate::http::Framing;
use std::ops::Range;

/// Digits of a chunk size; more cannot be counted in 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;
/// Of one chunk. Nobody is known to use extensions between hops; some attacks do.
const MAX_EXTENSION_BYTES: u16 = 256;

/// Why a body cannot be read further. Terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    Malformed,
    /// Over `max_body_bytes`.
    TooLarge,
    TrailerTooLarge,
    /// The connection closed before the body ended.
    Truncated,
}

/// What one call of [`BodyDecoder::decode`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that are done with; all of it unless the body ended.
    pub consumed: usize,
    /// The payload is now `bytes[..data]`.
    pub data: usize,
    pub ended: bool,
}

/// What one call of [`BodyDecoder::decode_in_place`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Bytes of the input that are done with; all of it unless the body ended.
    pub consumed: usize,
    /// Where the payload lies now; it starts where its first byte came.
    pub data: Range<usize>,
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of a `Length` body are to come.
    Length(u64),
    UntilClose,
    /// In a chunk size; with how many digits so far.
    Size {
        size: u64,
        digits: u8,
    },
    /// In the extensions of a size line, of which so many bytes came.
    Extension {
        size: u64,
        bytes: u16,
        part: Part,
    },
    /// After the CR of a size line.
    SizeLf(u64),
    /// So many bytes of a chunk are to come, more than none.
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    Ended,
}

/// `chunk-ext = *( ";" name [ "=" ( token / quoted-string ) ] )`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    /// After a backslash within quotes.
    Escaped,
    /// After the closing quote.
    QuotedEnd,
}

impl Part {
    fn next(self, byte: u8) -> Option<Part> {
        match (self, byte) {
            (Part::Name | Part::Value | Part::QuotedEnd, b';') => Some(Part::NameStart),
            (Part::NameStart | Part::Name, _) if is_token(byte) => Some(Part::Name),
            (Part::Name, b'=') => Some(Part::ValueStart),
            (Part::ValueStart, b'"') => Some(Part::Quoted),
            (Part::ValueStart | Part::Value, _) if is_token(byte) => Some(Part::Value),
            (Part::Quoted, b'"') => Some(Part::QuotedEnd),
            (Part::Quoted, b'\\') => Some(Part::Escaped),
            (Part::Quoted | Part::Escaped, b'\t' | 0x20..=0x7E | 0x80..) => Some(Part::Quoted),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Part::Name | Part::Value | Part::QuotedEnd)
    }
}

const CHUNK_START: State = State::Size { size: 0, digits: 0 };

/// Decodes one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Payload that may still come; counted down.
    allowed_bytes: u64,
    declared_too_large: bool,
    drops_trailers: bool,
    trailers: Option<Box<Trailers>>,
}

impl BodyDecoder {
    /// A body longer than `max_body_bytes` is `TooLarge` as soon as its length is known.
    pub fn new(framing: Framing, max_body_bytes: Option<u64>) -> BodyDecoder {
        let allowed_bytes = max_body_bytes.unwrap_or(u64::MAX);
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => CHUNK_START,
            Framing::UntilClose => State::UntilClose,
        };
        let declared_too_large = matches!(framing, Framing::Length(it) if it > allowed_bytes);
        BodyDecoder {
            state,
            allowed_bytes,
            declared_too_large,
            drops_trailers: false,
            trailers: None,
        }
    }

    /// With `nominates` of the head's facts no trailer goes on: RFC 9110 section 7.6.1 has those
    /// that `Connection` names removed, section 6.5.1 lets all be dropped, and so nobody has to
    /// keep the names until the body ends.
    #[must_use]
    pub fn dropping_trailers(self, nominates: bool) -> BodyDecoder {
        BodyDecoder { drops_trailers: nominates, ..self }
    }

    /// Whether `Content-Length` alone is over the limit: 413 before a byte of the body.
    pub fn is_declared_too_large(&self) -> bool {
        self.declared_too_large
    }

    /// Whether the end of the body has been seen.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Payload bytes that are certainly still to come, where that is known.
    pub fn hint(&self) -> Option<u64> {
        match self.state {
            State::Length(left) | State::Data(left) => Some(left),
            State::Ended => Some(0),
            State::UntilClose
            | State::Size { .. }
            | State::Extension { .. }
            | State::SizeLf(_)
            | State::DataCr
            | State::DataLf
            | State::Trailers => None,
        }
    }

    /// Decodes what came, and moves the payload to the start of `bytes`.
    ///
    /// # Errors
    /// Any [`BodyError`] but `Truncated`; the payload of this call is lost.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BodyError> {
        let Payload { consumed, data, ended } = self.decode_in_place(bytes)?;
        let len = data.len();
        if data.start > 0 {
            bytes.copy_within(data, 0);
        }
        Ok(Decoded { consumed, data: len, ended })
    }

    /// As [`BodyDecoder::decode`], but leaves the first run of payload where it came, so that a
    /// buffer within one chunk is not moved at all.
    ///
    /// # Errors
    /// As [`BodyDecoder::decode`].
    pub fn decode_in_place(&mut self, bytes: &mut [u8]) -> Result<Payload, BodyError> {
        if self.declared_too_large {
            return Err(BodyError::TooLarge);
        }
        let mut at = 0;
        let mut data = 0..0;
        while at < bytes.len() && self.state != State::Ended {
            match self.payload_left() {
                Some(left) => {
                    let run = run_length(left, bytes.len() - at);
                    self.count(run as u64)?;
                    if data.is_empty() {
                        data = at..at + run;
                    } else {
                        bytes.copy_within(at..at + run, data.end);
                        data.end += run;
                    }
                    at += run;
                }
                None if self.state == State::Trailers => {
                    let trailers = self.trailers.get_or_insert_default();
                    let (taken, ended) = trailers.take(&bytes[at..])?;
                    at += taken;
                    if ended {
                        self.state = State::Ended;
                    }
                }
                None => {
                    self.state = self.step(bytes[at])?;
                    at += 1;
                }
            }
        }
        Ok(Payload { consumed: at, data, ended: self.is_ended() })
    }

    /// The connection ended. Right for a close-delimited body, and for one that ended before.
    ///
    /// # Errors
    /// `Truncated` for every other body.
    pub fn finish_on_close(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Ended => {
                self.state = State::Ended;
                Ok(())
            }
            State::Length(_)
            | State::Size { .. }
            | State::Extension { .. }
            | State::SizeLf(_)
            | State::Data(_)
            | State::DataCr
            | State::DataLf
            | State::Trailers => Err(BodyError::Truncated),
        }
    }

    /// Trailer fields that may go on, as lines with CRLF. Once, after the end.
    pub fn take_trailers(&mut self) -> Option<Box<[u8]>> {
        debug_assert!(self.is_ended() || self.trailers.is_none());
        let trailers = self.trailers.take().filter(|_| !self.drops_trailers);
        trailers.and_then(|trailers| trailers.into_kept())
    }

    /// How much payload may follow directly.
    fn payload_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) | State::Data(left) => Some(left),
            State::UntilClose => Some(u64::MAX),
            _ => None,
        }
    }

    /// Counts a run of payload against the limit and what is left.
    fn count(&mut self, run: u64) -> Result<(), BodyError> {
        self.state = match self.state {
            State::Length(left) if left == run => State::Ended,
            State::Length(left) => State::Length(left - run),
            State::Data(left) if left == run => State::DataCr,
            State::Data(left) => State::Data(left - run),
            State::UntilClose => {
                self.allowed_bytes =
                    self.allowed_bytes.checked_sub(run).ok_or(BodyError::TooLarge)?;
                State::UntilClose
            }
            other => other,
        };
        Ok(())
    }

    /// One byte of chunked framing.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(BodyError::Malformed);
                }
                let digit = (byte as char).to_digit(16).ok_or(BodyError::Malformed)?;
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Size { size, digits: 1.. }, b'\r') => Ok(State::SizeLf(size)),
            (State::Size { size, digits: 1.. }, b';') => {
                Ok(State::Extension { size, bytes: 1, part: Part::NameStart })
            }
            (State::Extension { size, part, .. }, b'\r') if part.may_end() => {
                Ok(State::SizeLf(size))
            }
            (State::Extension { bytes: MAX_EXTENSION_BYTES, .. }, _) => Err(BodyError::Malformed),
            (State::Extension { size, bytes, part }, _) => {
                let part = part.next(byte).ok_or(BodyError::Malformed)?;
                Ok(State::Extension { size, bytes: bytes + 1, part })
            }
            (State::SizeLf(0), b'\n') => Ok(State::Trailers),
            (State::SizeLf(size), b'\n') => {
                self.allowed_bytes =
                    self.allowed_bytes.checked_sub(size).ok_or(BodyError::TooLarge)?;
                Ok(State::Data(size))
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(CHUNK_START),
            _ => Err(BodyError::Malformed),
        }
    }
}

fn run_length(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
