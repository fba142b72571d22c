//! The PROXY protocol, versions 1 and 2, as its receiver (HAProxy's `proxy-protocol.txt`): what a
//! balancer in front says about a client, before the client's first byte.
//!
//! - [`announced`] is shown all bytes so far, and decides as early as they allow. What is no such
//!   header, or too long for one, is an error and stays one: there is no resynchronizing, and who
//!   went on without it would take a client's word for a balancer's.
//! - Version 1 is a line of 107 bytes at most. Of version 2 no more than [`MAX_BYTES`] are taken;
//!   its TLVs are skipped.
//! - Only what is said about the client is used. Where the balancer speaks for itself (`LOCAL`,
//!   `UNKNOWN`), the socket's own address holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Of a whole header, TLVs included. The largest that is usual carries a TLS certificate's names;
/// the format would allow 64 KiB.
pub const MAX_BYTES: usize = 4096;

/// The longest line of version 1, CRLF included.
const MAX_LINE_BYTES: usize = 107;
const LINE_BEGINS: &[u8] = b"PROXY ";

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = SIGNATURE.len() + 4;

const _: () = assert!(MAX_LINE_BYTES < MAX_BYTES && FIXED_BYTES < MAX_BYTES);

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The balancer's own, or that of somebody it cannot name: the socket's address holds.
    Nobody,
    Client(SocketAddr),
    /// A client on a Unix socket, which has no address.
    Unix,
}

/// It is no header of this protocol. Terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnnounced;

/// What `bytes`, which are all so far, say, and how many of them the header took. `None`: more must
/// come.
///
/// # Errors
/// Malformed, or longer than may be.
pub fn announced(bytes: &[u8]) -> Result<Option<(Announced, usize)>, NotAnnounced> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => text_line(bytes),
        Some(_) => binary(bytes),
    }
}

/// Version 1: `PROXY TCP4 client proxy client-port proxy-port` and CRLF.
fn text_line(bytes: &[u8]) -> Result<Option<(Announced, usize)>, NotAnnounced> {
    if !begins(bytes, LINE_BEGINS) {
        return Err(NotAnnounced);
    }
    let within = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let Some(lf) = memchr::memchr(b'\n', within) else {
        // A CR that something else follows never becomes the end.
        let bare = memchr::memchr(b'\r', within).is_some_and(|cr| cr + 1 < within.len());
        let hopeless = bare || within.len() == MAX_LINE_BYTES;
        return if hopeless { Err(NotAnnounced) } else { Ok(None) };
    };
    let line = within[LINE_BEGINS.len()..lf].strip_suffix(b"\r").ok_or(NotAnnounced)?;
    if line.contains(&b'\r') {
        return Err(NotAnnounced);
    }
    // The rest of that line is to be ignored, whatever it is.
    let who = match line.strip_prefix(b"UNKNOWN") {
        Some([] | [b' ', ..]) => Announced::Nobody,
        _ => addresses(std::str::from_utf8(line).map_err(|_| NotAnnounced)?)?,
    };
    Ok(Some((who, lf + 1)))
}

fn addresses(text: &str) -> Result<Announced, NotAnnounced> {
    let mut parts = text.split(' ');
    let family = parts.next();
    let [Some(client), Some(proxy), Some(client_port), Some(proxy_port), None] =
        [(); 5].map(|()| parts.next())
    else {
        return Err(NotAnnounced);
    };
    let ip = |text: &str| -> Result<IpAddr, NotAnnounced> {
        match family {
            Some("TCP4") => text.parse().map(IpAddr::V4).map_err(|_| NotAnnounced),
            Some("TCP6") => text.parse().map(IpAddr::V6).map_err(|_| NotAnnounced),
            _ => Err(NotAnnounced),
        }
    };
    let client = SocketAddr::new(ip(client)?, port(client_port)?);
    // What we have no use for must be right all the same.
    ip(proxy)?;
    port(proxy_port)?;
    Ok(Announced::Client(client))
}

/// Decimal digits without a sign and without zeros in front.
fn port(text: &str) -> Result<u16, NotAnnounced> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(NotAnnounced);
    }
    text.parse().map_err(|_| NotAnnounced)
}

/// Version 2: fixed part, addresses by family, TLVs.
fn binary(bytes: &[u8]) -> Result<Option<(Announced, usize)>, NotAnnounced> {
    if !begins(bytes, SIGNATURE) {
        return Err(NotAnnounced);
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        // As much as is there must be right.
        let said = &bytes[SIGNATURE.len().min(bytes.len())..];
        let command = said.first().map(|it| is_local(*it)).transpose()?;
        if let (Some(false), Some(family)) = (command, said.get(1)) {
            Family::of(*family)?;
        }
        return Ok(None);
    };
    let [command, family, high, low] = [12, 13, 14, 15].map(|at| fixed[at]);
    let is_local = is_local(command)?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    // Of a connection of the balancer's own the family is of no meaning.
    let family = if is_local { Family::Unspecified } else { Family::of(family)? };
    if FIXED_BYTES + len > MAX_BYTES || len < family.address_bytes() {
        return Err(NotAnnounced);
    }
    let Some(block) = rest.get(..len) else { return Ok(None) };
    Ok(Some((family.client(block), FIXED_BYTES + len)))
}

/// Version 2, and whether the command is `LOCAL`, not `PROXY`.
fn is_local(byte: u8) -> Result<bool, NotAnnounced> {
    match byte {
        0x20 => Ok(true),
        0x21 => Ok(false),
        _ => Err(NotAnnounced),
    }
}

#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

impl Family {
    /// The high half is the address family, the low one the transport: either of stream and
    /// datagram, since a balancer may well speak HTTP/3 to the client and TCP to us.
    fn of(byte: u8) -> Result<Family, NotAnnounced> {
        match byte {
            0x00 => Ok(Family::Unspecified),
            0x11 | 0x12 => Ok(Family::Inet),
            0x21 | 0x22 => Ok(Family::Inet6),
            0x31 | 0x32 => Ok(Family::Unix),
            _ => Err(NotAnnounced),
        }
    }

    /// Both addresses, and both ports.
    fn address_bytes(self) -> usize {
        match self {
            Family::Unspecified => 0,
            Family::Inet => 12,
            Family::Inet6 => 36,
            Family::Unix => 216,
        }
    }

    /// The client's part of a block that is long enough.
    fn client(self, block: &[u8]) -> Announced {
        let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
        match self {
            Family::Unspecified => Announced::Nobody,
            Family::Unix => Announced::Unix,
            Family::Inet => {
                let [a, b, c, d] = [0, 1, 2, 3].map(|at| block[at]);
                Announced::Client(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port(8)))
            }
            Family::Inet6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&block[..16]);
                Announced::Client(SocketAddr::new(Ipv6Addr::from(octets).into(), port(32)))
            }
        }
    }
}

/// Whether what is there of a beginning is right.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let common = bytes.len().min(with.len());
    bytes[..common] == with[..common]
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
