//! A request that is over, as a line in a list of recent ones: whether it was recorded or not.

use std::time::Duration;

use super::ids::{SpanId, TraceId};
use super::span::{METHOD_BYTES, PATH_BYTES, REQUEST_ID_BYTES, Text};
use crate::http::Peer;
use crate::telemetry::record::Cause;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recent {
    pub trace: TraceId,
    pub span: SpanId,
    /// Of the client's; empty: it sent none.
    pub request_id: Text<REQUEST_ID_BYTES>,
    /// Its spans were recorded.
    pub is_recorded: bool,
    /// When its head was complete, by the process's clock.
    pub began: Duration,
    pub took: Duration,
    pub peer: Peer,
    pub server: u32,
    /// `None`: it was answered before it had a service.
    pub target: Option<u32>,
    /// Of the last attempt; or `NO_ENDPOINT`, or there was none.
    pub endpoint: Option<u32>,
    pub method: Text<METHOD_BYTES>,
    pub path: Text<PATH_BYTES>,
    pub status: u16,
    pub failure: Option<Cause>,
    pub attempts: u32,
    pub retries: u32,
    pub request_bytes: u64,
    pub response_bytes: u64,
}
