//! The project's own corpus: cases in markdown, the codec driven as a connection drives it, and the
//! real proxy between a client and an origin that follow a case's steps. The format is described in
//! tests/corpus/README.md.

#![allow(unreachable_pub)]

pub mod answers;
pub mod case;
pub mod requests;
pub mod sockets;

pub use case::{Case, Router, Step};

use std::net::SocketAddr;

use ringlane::http::{ForwardRules, Mode};
use ringlane::http1::{BodyDecoder, BodyEncoder, BodyError};

/// The router's limit on bodies, here as there.
pub const MAX_BODY_BYTES: u64 = 100_000;
/// What the router passes on of `Upgrade`, here as there.
pub const UPGRADE: &str = "websocket";

/// Moves what there is of a body from `bytes` to `sent`, in the framing of the next hop.
fn reframe(
    decoder: &mut BodyDecoder,
    encoder: &mut BodyEncoder,
    bytes: &mut Vec<u8>,
    sent: &mut Vec<u8>,
) -> Result<(), BodyError> {
    if decoder.is_ended() {
        return Ok(());
    }
    let decoded = decoder.decode(bytes)?;
    let trailers = if decoded.ended { decoder.take_trailers() } else { None };
    encoder.encode_into(sent, &bytes[..decoded.data], decoded.ended, trailers.as_deref());
    bytes.drain(..decoded.consumed);
    Ok(())
}

impl Router {
    pub const ALL: [Router; 4] =
        [Router::Plain, Router::Append, Router::Overwrite, Router::Impatient];

    /// The mode of `x_forwarded` and `forwarded`, as the configuration spells it.
    fn mode(self) -> &'static str {
        match self {
            Router::Plain | Router::Impatient => "off",
            Router::Append => "append",
            Router::Overwrite => "overwrite",
        }
    }

    /// The configuration of a worker's own router of this kind, and of its service.
    pub fn yaml(self, worker: usize, origin: SocketAddr) -> (String, String) {
        let (name, mode, rules) = (format!("w{worker}-{self:?}"), self.mode(), self.rules());
        let via = rules.via.as_deref().unwrap_or("off");
        let (timeouts, expect_ms) = match self {
            Router::Impatient => {
                ("{head_timeout_ms: 150, idle_timeout_ms: 150, stall_timeout_ms: 300}", 150)
            }
            _ => ("{}", 60_000),
        };
        let router = format!(
            "- label: {name}\n  servers: [{{port: 0}}]\n  routes: [{{service: {name}}}]\n  \
             timeouts: {timeouts}\n  max_body_bytes: {MAX_BODY_BYTES}\n  \
             upgrades: [{UPGRADE}]\n  forwarding: {{via: \"{via}\", x_forwarded: \"{mode}\", \
             forwarded: \"{mode}\"}}\n"
        );
        let service = format!(
            "  {name}:\n    endpoints: [\"{origin}\"]\n    failure_accrual: {{kind: none}}\n    \
             timeouts: {{expect_timeout_ms: {expect_ms}}}\n"
        );
        (router, service)
    }

    pub fn rules(self) -> ForwardRules {
        let mode = match self {
            Router::Plain | Router::Impatient => return ForwardRules::default(),
            Router::Append => Mode::Append,
            Router::Overwrite => Mode::Overwrite,
        };
        ForwardRules { via: Some("ringlane".to_owned()), x_forwarded: mode, forwarded: mode }
    }
}

/// Bytes for somebody to read, without the middle of what is long.
pub fn shown(bytes: &[u8]) -> String {
    const ENDS: usize = 200;
    if bytes.len() <= 3 * ENDS {
        return bytes.escape_ascii().to_string();
    }
    let (start, end) = (&bytes[..ENDS], &bytes[bytes.len() - ENDS..]);
    format!("{} ({} bytes) {}", start.escape_ascii(), bytes.len(), end.escape_ascii())
}
