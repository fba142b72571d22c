//! Spans as shards hand them over: plain data of one size, by ids. Names, and moments on a
//! calendar, are for whoever tells them, by the layout that holds at the handing over: of a request
//! that is under way while a reload removes its service, that name is gone by then.
//!
//! A SERVER span lasts from the complete head to the last byte of the answer; a CLIENT span from
//! the moment at which an endpoint was picked, connecting included, to the attempt's last byte.
//! Text is cut at a bound: a path of any length must not make a shard allocate.

use std::net::SocketAddr;
use std::time::Duration;

use super::ids::{SpanId, TraceId};
use crate::http::Peer;
use crate::telemetry::record::{Attempt, Cause};

/// What of a method is kept; the longest that is registered has 17 letters (RFC 3253).
pub const METHOD_BYTES: usize = 20;
/// What of a path is kept.
pub const PATH_BYTES: usize = 128;

/// What of a client's request id is kept.
pub const REQUEST_ID_BYTES: usize = 64;

const _: () = assert!(PATH_BYTES <= u8::MAX as usize);

/// Text of up to `N` bytes.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Text<N> {
    pub const EMPTY: Text<N> = Text { bytes: [0; N], len: 0 };

    /// As much of it as there is room for, and is UTF-8.
    pub fn new(text: &[u8]) -> Text<N> {
        let mut made = Text { bytes: [0; N], len: 0 };
        made.push(text);
        made
    }

    /// The same in the place of what was there. What is beyond the text stays: nobody looks.
    pub fn set(&mut self, text: &[u8]) {
        self.len = 0;
        self.push(text);
    }

    pub fn push(&mut self, more: &[u8]) {
        let start = usize::from(self.len);
        let more = &more[..more.len().min(N - start)];
        let valid = match std::str::from_utf8(more) {
            Ok(all) => all.len(),
            Err(error) => error.valid_up_to(),
        };
        self.bytes[start..start + valid].copy_from_slice(&more[..valid]);
        self.len += valid as u8;
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Text<N>) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<const N: usize> Eq for Text<N> {}

impl<const N: usize> Default for Text<N> {
    fn default() -> Text<N> {
        Text::EMPTY
    }
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(out)
    }
}

/// One span. Moments are of the process's clock, as shards read it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    /// `None`: the trace begins with it.
    pub parent: Option<SpanId>,
    /// The request asked for debugging.
    pub debug: bool,
    pub began: Duration,
    pub ended: Duration,
    /// The server that the request came to.
    pub server: u32,
    /// `None`: the request was answered before it had a service.
    pub target: Option<u32>,
    pub method: Text<METHOD_BYTES>,
    /// Without its query.
    pub path: Text<PATH_BYTES>,
    /// `None`: nothing was answered.
    pub status: Option<u16>,
    pub failure: Option<Cause>,
    /// Of the bodies.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// When the answer's head came.
    pub first_byte: Option<Duration>,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    Server {
        peer: Peer,
        /// The client's (`l5d-reqid`); empty: it sent none, and the trace's id is it.
        request_id: Text<REQUEST_ID_BYTES>,
        retries: u32,
    },
    Client(Client),
}

/// What an attempt's span has beside that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Client {
    /// Or `NO_ENDPOINT`.
    pub endpoint: u32,
    /// `None`: a Unix socket.
    pub address: Option<SocketAddr>,
    pub attempt: Attempt,
    pub connection: Connection,
}

/// How the attempt came to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It was there.
    Pooled,
    Made {
        at: Duration,
    },
    /// It never was.
    Failed,
}

/// How many spans one shard gathers between two flushes is bounded; those that do not fit are
/// dropped, all of one request or none, and counted.
#[derive(Debug)]
pub struct Spans {
    list: Vec<Span>,
    most: usize,
    dropped: u64,
}

impl Spans {
    pub fn new(most: usize) -> Spans {
        Spans { list: Vec::with_capacity(most), most, dropped: 0 }
    }

    /// The spans of one request.
    pub(super) fn add(&mut self, count: usize, spans: impl Iterator<Item = Span>) {
        if self.is_full(count) {
            self.dropped += count as u64;
            return;
        }
        let before = self.list.len();
        self.list.extend(spans);
        debug_assert_eq!(self.list.len() - before, count);
    }

    /// Whether so many more would be dropped.
    pub fn is_full(&self, more: usize) -> bool {
        self.list.len() + more > self.most
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.dropped == 0
    }

    /// What was gathered, and how many were dropped, since this was last asked; `empty` is used
    /// from here on, so that buffers go round.
    pub fn take(&mut self, mut empty: Vec<Span>) -> (Vec<Span>, u64) {
        empty.clear();
        empty.reserve(self.most);
        (std::mem::replace(&mut self.list, empty), std::mem::take(&mut self.dropped))
    }
}
