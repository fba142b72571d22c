//! The HTTP/1.1 codec (RFC 9112): bytes to heads, bodies and trailers, and back.
//!
//! Pure: no socket, clock, metric or runtime; no allocation but into the caller's buffer, a head
//! of more than 32 fields, and trailers. Whoever sends ambiguous framing is refused, never guessed
//! at; what is written is always in one unambiguous form. Every error is terminal for the
//! connection that it came on.
//!
//! - [`RequestParser`], [`ResponseParser`]: an incremental scan finds the end of a head, httparse
//!   takes it apart once, `facts` settles framing and persistence.
//! - [`BodyDecoder`]: takes chunked framing off in place; keeps trailers.
//! - [`BodyEncoder`]: puts framing around data in place.
//! - [`encode`]: heads for the next hop, and answers made here.

mod body;
pub mod decode;
pub mod encode;
mod facts;
mod local;
#[cfg(test)]
mod mutation_tests;
mod parse;
mod scan;
mod trailer;

pub use body::BodyEncoder;
pub use decode::{BodyDecoder, BodyError, Decoded, Payload};
pub use encode::{ResponseContext, outgoing_framing};
pub use parse::{FieldStorage, RequestParser, ResponseParser};
pub use scan::{MAX_FIELDS, MAX_HEAD_BYTES, MAX_START_LINE_BYTES};
pub use trailer::MAX_TRAILER_BYTES;
