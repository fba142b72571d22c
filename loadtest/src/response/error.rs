//! What can be wrong with a response, as one closed list.

use std::fmt;

use super::{MAX_CHUNK_LINE_BYTES, MAX_HEAD_BYTES, MAX_INTERIM};

/// Why bytes are no response, in the order in which a response is read. Terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadResponse {
    /// Bytes came while no response was owed.
    Unasked,
    BadStatusLine,
    /// A line ended in LF without CR.
    BareLineFeed,
    /// No colon, no name, or a name that is no token.
    BadFieldName,
    /// A control character, CR among them.
    BadFieldValue,
    /// A line that began with white space: RFC 9112 section 5.2 forbids servers to send those.
    FoldedField,
    BadContentLength,
    /// More than one, of the same value.
    RepeatedLength,
    DifferingLengths,
    /// Anything but `chunked`, once: no request of ours asks for another coding.
    BadTransferEncoding,
    LengthAndEncoding,
    /// RFC 9112 section 6.1: faulty framing.
    EncodingInHttp10,
    /// Content-Length or Transfer-Encoding where a server must not send it: 1xx and 204.
    FramingNotAllowed {
        status: u16,
    },
    HeadTooLong,
    TooManyInterim,
    BadChunkSize,
    ChunkLineTooLong,
    /// No CRLF where the chunk's data should end.
    ChunkWithoutEnd,
    /// Content-Length or Transfer-Encoding after the body.
    FramingInTrailer,
    TrailersTooLong,
    /// The server closed before the first byte: likely a kept connection whose time was up.
    EndBeforeHead,
    EndInHead,
    EndInBody {
        missing_bytes: u64,
    },
    EndInChunks,
}

impl fmt::Display for BadResponse {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            BadResponse::Unasked => "bytes came that no request asked for",
            BadResponse::BadStatusLine => {
                "bad status line; allowed: HTTP/1.0 or HTTP/1.1, space, 100 to 599, space, reason"
            }
            BadResponse::BareLineFeed => "a line ends in LF without CR",
            BadResponse::BadFieldName => "bad field: its name is no token followed by a colon",
            BadResponse::BadFieldValue => "bad field: a control character in its value",
            BadResponse::FoldedField => "bad field: folded over two lines",
            BadResponse::BadContentLength => "bad Content-Length; allowed: digits, up to 2^64 - 1",
            BadResponse::RepeatedLength => "more than one Content-Length",
            BadResponse::DifferingLengths => "two Content-Length that differ",
            BadResponse::BadTransferEncoding => "bad Transfer-Encoding; allowed: chunked, once",
            BadResponse::LengthAndEncoding => "both Content-Length and Transfer-Encoding",
            BadResponse::EncodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            BadResponse::FramingNotAllowed { status } => {
                return write!(out, "Content-Length or Transfer-Encoding in a response {status}");
            }
            BadResponse::HeadTooLong => {
                return write!(out, "a head of more than {MAX_HEAD_BYTES} bytes");
            }
            BadResponse::TooManyInterim => {
                return write!(out, "more than {MAX_INTERIM} interim responses");
            }
            BadResponse::BadChunkSize => "bad chunk size; allowed: hexadecimal, up to 2^64 - 1",
            BadResponse::ChunkLineTooLong => {
                return write!(out, "a chunk's line of more than {MAX_CHUNK_LINE_BYTES} bytes");
            }
            BadResponse::ChunkWithoutEnd => "chunk data without CRLF after it",
            BadResponse::FramingInTrailer => "Content-Length or Transfer-Encoding among trailers",
            BadResponse::TrailersTooLong => {
                return write!(out, "trailers of more than {MAX_HEAD_BYTES} bytes");
            }
            BadResponse::EndBeforeHead => "closed before the first byte of a response",
            BadResponse::EndInHead => "unexpected end within the head",
            BadResponse::EndInBody { missing_bytes } => {
                return write!(
                    out,
                    "unexpected end, {missing_bytes} bytes before that of the body"
                );
            }
            BadResponse::EndInChunks => "unexpected end within a chunked body",
        };
        out.write_str(text)
    }
}

impl std::error::Error for BadResponse {}
