//! What of a message goes to the next hop, and what the proxy adds (RFC 9110 section 7.6).
//!
//! - Fields of this connection go no further: `Connection` and what it names, `Close`,
//!   `Keep-Alive`, `Proxy-Connection`, `TE`, `Transfer-Encoding`, `Upgrade`, `HTTP2-Settings`.
//!   Framing, `TE` and `Upgrade` are written anew where the next hop needs them.
//! - `Connection` cannot name away what routing and framing were decided by (`Host`,
//!   `Content-Length`, `Expect`, `Max-Forwards`): a client that could would make the origin read
//!   another message than we did. RFC 9110 section 7.6.1 forbids senders to name such fields.
//! - `Proxy-Authorization` and `Proxy-Authenticate` stop here. They are between a client and the
//!   proxy that asks for them (RFC 9110 section 11.7); this one never asks, an origin must not be
//!   handed credentials that were meant for another hop, nor demand them in a proxy's name.
//! - `Trailer` is end-to-end (RFC 9110 section 6.6.2) and stays.
//! - `Date` and `Server` stay as the origin set them; an answer that came without `Date` gets one
//!   (RFC 9110 section 6.6.1).
//!
//! This module knows values, not how a version of HTTP spells a field.

use super::{Field, FieldName};
use std::fmt::Write as _;
use std::net::IpAddr;

/// What happens to one family of forwarding fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Passed as they came; nothing is added.
    #[default]
    Off,
    /// What came is trusted and added to.
    Append,
    /// What came is replaced.
    Overwrite,
}

/// What the proxy says about itself and the client, per router.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardRules {
    /// The pseudonym in `Via`; none: no `Via` is added.
    pub via: Option<String>,
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    pub x_forwarded: Mode,
    /// `Forwarded` (RFC 7239).
    pub forwarded: Mode,
}

/// The client's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// None for a Unix socket.
    pub ip: Option<IpAddr>,
    pub port: u16,
}

/// The longest text of an IPv6 address, which is never IPv4-mapped here.
const IP_TEXT_BYTES: usize = 39;

/// A peer's address as text, made once per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerText {
    text: [u8; IP_TEXT_BYTES],
    len: u8,
    is_v6: bool,
}

impl PeerText {
    pub fn new(peer: Peer) -> PeerText {
        let mut made = PeerText { text: [0; IP_TEXT_BYTES], len: 0, is_v6: false };
        if let Some(ip) = peer.ip {
            // A dual-stack listener sees IPv4 clients as ::ffff:a.b.c.d; origins know them plain.
            let ip = ip.to_canonical();
            made.is_v6 = ip.is_ipv6();
            let fitted = write!(made, "{ip}");
            debug_assert!(fitted.is_ok());
        }
        made
    }

    /// Without brackets; empty for a Unix socket.
    pub fn ip(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

impl std::fmt::Write for PeerText {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        let start = usize::from(self.len);
        let room = self.text.get_mut(start..start + piece.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(piece.as_bytes());
        self.len += piece.len() as u8;
        Ok(())
    }
}

/// Whether a field belongs to this connection alone.
pub fn goes_no_further(name: FieldName) -> bool {
    match name {
        FieldName::Close
        | FieldName::Connection
        | FieldName::Http2Settings
        | FieldName::KeepAlive
        | FieldName::ProxyAuthenticate
        | FieldName::ProxyAuthenticationInfo
        | FieldName::ProxyAuthorization
        | FieldName::ProxyConnection
        | FieldName::Te
        | FieldName::TransferEncoding
        | FieldName::Upgrade => true,
        FieldName::Other
        | FieldName::Authorization
        | FieldName::B3
        | FieldName::B3Flags
        | FieldName::B3ParentSpanId
        | FieldName::B3Sampled
        | FieldName::B3SpanId
        | FieldName::B3TraceId
        | FieldName::ContentLength
        | FieldName::Cookie
        | FieldName::CtxDeadline
        | FieldName::CtxTrace
        | FieldName::Date
        | FieldName::Expect
        | FieldName::Forwarded
        | FieldName::Host
        | FieldName::MaxForwards
        | FieldName::RequestId
        | FieldName::Sample
        | FieldName::TraceParent
        | FieldName::TraceState
        | FieldName::Trailer
        | FieldName::Via
        | FieldName::WwwAuthenticate
        | FieldName::XForwardedFor
        | FieldName::XForwardedHost
        | FieldName::XForwardedProto
        | FieldName::FramingTwin
        | FieldName::ForwardedTwin => false,
    }
}

/// Fields that `Connection` cannot name away: those that we decided by, and those of this
/// connection, which have rules of their own (naming `Transfer-Encoding` must not lose framing).
fn cannot_be_nominated(name: FieldName) -> bool {
    let decides = matches!(
        name,
        FieldName::Host | FieldName::ContentLength | FieldName::Expect | FieldName::MaxForwards
    );
    decides || goes_no_further(name)
}

/// Whether `Connection` names this field. Asked only where the head's `nominates` is set.
pub fn is_nominated(fields: &[Field<'_>], field: &Field<'_>) -> bool {
    !cannot_be_nominated(field.kind)
        && fields
            .iter()
            .filter(|it| it.kind == FieldName::Connection)
            .any(|it| it.members().any(|name| name.eq_ignore_ascii_case(field.name)))
}

/// Appends a list value: all that came under that name, then the proxy's own element.
pub(crate) fn append_list(
    out: &mut Vec<u8>,
    came: &[Field<'_>],
    kind: FieldName,
    own: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    for field in came.iter().filter(|it| it.kind == kind && !it.value.is_empty()) {
        separate(out, start);
        out.extend_from_slice(field.value);
    }
    let before_own = out.len();
    separate(out, start);
    let own_start = out.len();
    own(out);
    if out.len() == own_start {
        out.truncate(before_own);
    }
}

fn separate(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.extend_from_slice(b", ");
    }
}

/// Appends this hop's element of `Forwarded` (RFC 7239 section 4). The host is valid, so it needs
/// quotes for its colon at most, never an escape.
pub(crate) fn append_forwarded(out: &mut Vec<u8>, peer: &PeerText, host: &[u8]) {
    match (peer.ip(), peer.is_v6) {
        ([], _) => out.extend_from_slice(b"for=unknown"),
        (ip, false) => {
            out.extend_from_slice(b"for=");
            out.extend_from_slice(ip);
        }
        (ip, true) => {
            out.extend_from_slice(b"for=\"[");
            out.extend_from_slice(ip);
            out.extend_from_slice(b"]\"");
        }
    }
    if !host.is_empty() {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=http");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: Option<&str>) -> PeerText {
        PeerText::new(Peer { ip: ip.map(|text| text.parse().unwrap()), port: 1 })
    }

    #[test]
    fn a_peer_as_text() {
        assert_eq!(peer(Some("10.0.0.1")).ip(), b"10.0.0.1");
        assert_eq!(peer(Some("::ffff:10.0.0.1")).ip(), b"10.0.0.1");
        let longest = "2001:db8:1111:2222:3333:4444:5555:6666";
        assert_eq!(peer(Some(longest)).ip(), longest.as_bytes());
        assert_eq!(peer(None).ip(), b"");
    }

    #[test]
    fn elements_of_forwarded() {
        let made = |ip, host: &str| {
            let mut out = Vec::new();
            append_forwarded(&mut out, &peer(ip), host.as_bytes());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(made(Some("1.2.3.4"), "h:80"), "for=1.2.3.4;host=\"h:80\";proto=http");
        assert_eq!(made(Some("::1"), ""), "for=\"[::1]\";proto=http");
        assert_eq!(made(None, "h"), "for=unknown;host=\"h\";proto=http");
    }

    #[test]
    fn lists_are_joined() {
        let came = [
            Field::new(b"X-Forwarded-For", b"a"),
            Field::new(b"Other", b"x"),
            Field::new(b"x-forwarded-for", b""),
            Field::new(b"x-forwarded-for", b"b, c"),
        ];
        let joined = |own: &[u8]| {
            let mut out = b"> ".to_vec();
            let kind = FieldName::XForwardedFor;
            append_list(&mut out, &came, kind, |out| out.extend_from_slice(own));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(joined(b"d"), "> a, b, c, d");
        assert_eq!(joined(b""), "> a, b, c");
    }

    #[test]
    fn connection_cannot_name_away_framing_and_routing() {
        let fields = [
            Field::new(b"Connection", b"close, X-A, Host, content-length"),
            Field::new(b"Connection", b"x-b, transfer-encoding, upgrade"),
            Field::new(b"Host", b"h"),
            Field::new(b"Content-Length", b"1"),
            Field::new(b"Transfer-Encoding", b"chunked"),
            Field::new(b"Upgrade", b"x"),
            Field::new(b"x-a", b"1"),
            Field::new(b"X-B", b"1"),
            Field::new(b"X-C", b"1"),
        ];
        let named: Vec<bool> = fields[2..].iter().map(|it| is_nominated(&fields, it)).collect();
        assert_eq!(named, [false, false, false, false, true, true, false]);
    }
}
