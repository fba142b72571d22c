//! What every version of HTTP shares: methods, fields, targets, framing, reasons, forwarding rules.
//!
//! Everything here is a view into bytes that the caller holds, or a plain value. Nothing in this
//! module reads a socket or a clock, and nothing knows how HTTP/1 spells a message: that is
//! `http1/`. Checks that hold for every version (`Host`, the target, which fields go no further)
//! are made here once.

mod deadline;
mod exchange;
mod field;
mod forward;
mod host;
mod message;
mod method;
pub mod proxy_protocol;
mod reason;
mod sampling;
mod target;

pub use deadline::{Deadline, TimeLeft};
pub use exchange::{Exchange, Verdict};
pub use field::{Field, FieldName, Seen, trim};
pub use forward::{ForwardRules, Mode, Peer, PeerText, goes_no_further, is_nominated};
pub(crate) use forward::{append_forwarded, append_list};
pub use host::{Authority, host_is_valid, split_authority};
pub use message::{Framing, Request, RequestFacts, Response, ResponseFacts, UpgradeToken};
pub use method::{Method, Version};
pub use reason::{Reason, Retry};
pub use sampling::Sampling;
pub use target::{Form, Target};
