//! Puts framing around a body, in place where the data lies or by copying it.
//!
//! In place, the caller keeps [`BodyEncoder::HEADROOM`] bytes free before the data and
//! [`BodyEncoder::TAILROOM`] behind it, so that a received buffer leaves as one chunk in one send.

use crate::http::Framing;
use std::ops::Range;

/// Hexadecimal digits of a 64-bit size, and CRLF.
const MAX_SIZE_LINE_BYTES: usize = 16 + 2;
const CRLF: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How the body of an outgoing message is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoder {
    /// `Content-Length` says where it ends; also for no body.
    Length,
    Chunked,
    /// Closing the connection ends it.
    Raw,
}

impl BodyEncoder {
    /// Bytes that [`BodyEncoder::encode`] may write before the data.
    pub const HEADROOM: usize = MAX_SIZE_LINE_BYTES;
    /// Bytes that [`BodyEncoder::encode`] may write behind the data.
    pub const TAILROOM: usize = CRLF.len() + LAST_CHUNK.len();

    pub fn new(framing: Framing) -> BodyEncoder {
        match framing {
            Framing::Empty | Framing::Length(_) => BodyEncoder::Length,
            Framing::Chunked => BodyEncoder::Chunked,
            Framing::UntilClose => BodyEncoder::Raw,
        }
    }

    /// Frames `buf[data]` in place and says what of `buf` to send.
    ///
    /// With `last` the body ends, unless there are trailers: those do not fit, so only the data is
    /// framed, and the caller then sends what `encode_into(out, &[], true, trailers)` writes.
    pub fn encode(
        &mut self,
        buf: &mut [u8],
        data: Range<usize>,
        last: bool,
        trailers: Option<&[u8]>,
    ) -> Range<usize> {
        if *self != BodyEncoder::Chunked {
            return data;
        }
        let Range { mut start, mut end } = data;
        if start < end {
            let mut line = [0; MAX_SIZE_LINE_BYTES];
            let line = size_line(&mut line, end - start);
            start -= line.len();
            buf[start..start + line.len()].copy_from_slice(line);
            buf[end..end + CRLF.len()].copy_from_slice(CRLF);
            end += CRLF.len();
        }
        if last && trailers.is_none() {
            buf[end..end + LAST_CHUNK.len()].copy_from_slice(LAST_CHUNK);
            end += LAST_CHUNK.len();
        }
        start..end
    }

    /// Appends framed data; with `last` also the end of the body. Trailers are lines with CRLF;
    /// only chunked framing can carry them.
    pub fn encode_into(
        &mut self,
        out: &mut Vec<u8>,
        data: &[u8],
        last: bool,
        trailers: Option<&[u8]>,
    ) {
        if *self != BodyEncoder::Chunked {
            out.extend_from_slice(data);
            return;
        }
        if !data.is_empty() {
            let mut line = [0; MAX_SIZE_LINE_BYTES];
            out.extend_from_slice(size_line(&mut line, data.len()));
            out.extend_from_slice(data);
            out.extend_from_slice(CRLF);
        }
        if last {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers.unwrap_or_default());
            out.extend_from_slice(CRLF);
        }
    }
}

/// `size` in hexadecimal and CRLF, at the end of `line`.
fn size_line(line: &mut [u8; MAX_SIZE_LINE_BYTES], mut size: usize) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = MAX_SIZE_LINE_BYTES - CRLF.len();
    line[at..].copy_from_slice(CRLF);
    while size > 0 {
        at -= 1;
        line[at] = DIGITS[size & 0xF];
        size >>= 4;
    }
    &line[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_place_and_copied_are_the_same() {
        let sizes = [0, 1, 9, 15, 16, 17, 255, 256, 4095, 65536, 131_072];
        for framing in [Framing::Chunked, Framing::Length(1), Framing::UntilClose] {
            for (size, last) in sizes.iter().flat_map(|&size| [(size, false), (size, true)]) {
                let data = vec![b'x'; size];
                let mut copied = Vec::new();
                BodyEncoder::new(framing).encode_into(&mut copied, &data, last, None);
                let start = BodyEncoder::HEADROOM;
                let mut buf = [vec![0; start], data, vec![0; BodyEncoder::TAILROOM]].concat();
                let mut encoder = BodyEncoder::new(framing);
                let sent = encoder.encode(&mut buf, start..start + size, last, None);
                assert_eq!(buf[sent], copied);
            }
        }
    }

    #[test]
    fn chunks_as_they_look() {
        let mut out = Vec::new();
        let mut encoder = BodyEncoder::Chunked;
        encoder.encode_into(&mut out, b"0123456789abcdef!", false, None);
        encoder.encode_into(&mut out, b"", false, None);
        encoder.encode_into(&mut out, b"z", true, Some(b"a: b\r\n"));
        assert_eq!(out, b"11\r\n0123456789abcdef!\r\n1\r\nz\r\n0\r\na: b\r\n\r\n");
    }

    #[test]
    fn trailers_follow_what_was_framed_in_place() {
        let mut buf = [vec![0; 18], b"data".to_vec(), vec![0; 7]].concat();
        let mut encoder = BodyEncoder::Chunked;
        let sent = encoder.encode(&mut buf, 18..22, true, Some(b"a: b\r\n"));
        let mut wire = buf[sent].to_vec();
        encoder.encode_into(&mut wire, b"", true, Some(b"a: b\r\n"));
        assert_eq!(wire, b"4\r\ndata\r\n0\r\na: b\r\n\r\n");
    }
}
