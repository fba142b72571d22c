//! A request's place in its trace: the context that it brings, the one that is passed on, and the
//! spans that are recorded of it.
//!
//! ```text
//!   Incoming::read --> Hop::begin --> policy::Sampler --> Hop::decided --> Hop::write --> Places
//!   (the fields)       (ids)          (rates, caps)                        (the head)
//! ```
//!
//! A [`Trail`] gathers what is learnt of a request that is recorded, or may yet be kept for what
//! comes of it, and turns it into one SERVER [`Span`] and a CLIENT span for each attempt.
//!
//! Four forms are read: `b3`, `x-b3-*`, `traceparent` with `tracestate`, and Linkerd's
//! `l5d-ctx-trace`. What came is passed on in the forms that it came in, else in those that are
//! configured. Where several came, each fact is taken from the first form that states it, in that
//! order: the ids from the first with ids, the decision from the first at all. B3 goes first since
//! it alone of the two public forms can leave the decision open or ask for debugging, which
//! `traceparent` beside it can only round; and `b3` before `x-b3-*`, as B3 demands.
//!
//! What cannot be read is as good as not there: it is counted, and never sent on. A form is read
//! whole or not at all; a field that comes twice cannot be read. `tracestate` goes on as it came
//! where its `traceparent` is of the trace that goes on, and stays behind otherwise.
//!
//! Where a hop records nothing, and would keep nothing whatever came of the request, the next hop
//! is given the caller's span for a parent: a trace that others record has no hole here.

mod b3;
mod context;
mod hop;
mod ids;
mod incoming;
mod l5d;
mod recent;
mod span;
#[cfg(test)]
mod tests;
mod trail;
mod w3c;

pub use context::{Form, Forms};
pub use hop::{Hop, Places};
pub use ids::{SpanId, TraceId};
pub use incoming::Incoming;
pub use recent::Recent;
pub use span::{
    Client, Connection, METHOD_BYTES, PATH_BYTES, REQUEST_ID_BYTES, Role, Span, Spans, Text,
};
pub use trail::{Said, Trail};
