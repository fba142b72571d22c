//! `discovery` of a service: who says which endpoints it has, where they are not written down.
//!
//! Names are checked for their letters alone; whether anybody answers to them is found out later.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::errors::Path;
use super::leaves::Check;
use super::of_kind::OfKind;
use super::raw;
use super::resilience::span;

/// How often an answer that is valid for no time at all is asked for again.
const MIN_TTL_MS: u64 = 1_000;
/// A name is asked for at least this often, so that one with a TTL of a day can still move.
const MAX_TTL_MS: u64 = 60_000;
const TIMEOUT_MS: u64 = 2_000;

/// What a domain name and each of its labels may take (RFC 1035 2.3.4), without the closing dot.
const NAME_MAX_BYTES: usize = 253;
const LABEL_MAX_BYTES: usize = 63;

const PATH: &str = "the absolute path of a file, such as /etc/ringlane/web.txt";
const NAME_WITH_PORT: &str = "a domain name and a port from 1 to 65535, such as api.internal:8080";
const NAME: &str = "a domain name without port, such as _http._tcp.web.service.consul";
const RESOLVER: &str = "an IP address with a port, such as 10.0.0.2:53 or [fd00::2]:53";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// One endpoint a line. The path is absolute and names a file.
    File { path: PathBuf },
    /// The addresses (A and AAAA) of a name, all with one port.
    Dns { name: String, port: u16, asking: Asking },
    /// The targets (SRV) of a name, each with its port and weight.
    DnsSrv { name: String, asking: Asking },
}

/// How a name is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// Empty: as /etc/resolv.conf has it.
    pub resolvers: Vec<SocketAddr>,
    /// Between two questions at least, whatever the TTL.
    pub min_ttl: Duration,
    /// Between two questions at most; at least `min_ttl`.
    pub max_ttl: Duration,
    /// For each question.
    pub timeout: Duration,
}

impl Discovery {
    /// As it is written in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Discovery::File { .. } => FILE,
            Discovery::Dns { .. } => DNS,
            Discovery::DnsSrv { .. } => DNS_SRV,
        }
    }
}

const FILE: &str = "file";
const DNS: &str = "dns";
const DNS_SRV: &str = "dns_srv";

/// `None`: it was reported.
pub(super) fn discovery(raw: &raw::Discovery, at: &Path, check: &mut Check) -> Option<Discovery> {
    let kinds = [FILE, DNS, DNS_SRV].map(|kind| (kind, Some(kind)));
    let kind_at = at.key("kind");
    if raw.kind.is_none() {
        check.missing(&kind_at, [FILE, DNS, DNS_SRV].join(", "));
    }
    // Without a kind nothing can be said of the other keys.
    let kind = check.word(&kind_at, &raw.kind, None, &kinds)?;
    let of = OfKind { at, key: "kind", kind };
    let both = [DNS, DNS_SRV];
    of.has(check, &[FILE], ("path", &raw.path));
    of.has(check, &both, ("name", &raw.name));
    of.is_missing(check, &both, ("resolvers", raw.resolvers.is_some()));
    for key in [
        ("min_ttl_ms", &raw.min_ttl_ms),
        ("max_ttl_ms", &raw.max_ttl_ms),
        ("timeout_ms", &raw.timeout_ms),
    ] {
        of.has(check, &both, key);
    }
    if kind == FILE {
        return path(raw, &at.key("path"), check).map(|path| Discovery::File { path });
    }
    let asking = asking(raw, at, check);
    let allowed = if kind == DNS { NAME_WITH_PORT } else { NAME };
    let name_at = at.key("name");
    if raw.name.is_none() {
        check.missing(&name_at, allowed);
    }
    let text = check.text(&name_at, &raw.name, allowed)?;
    let read = match kind {
        DNS => name_with_port(text).map(|(name, port)| Discovery::Dns {
            name: name.to_owned(),
            port,
            asking,
        }),
        _ => is_name(text).then(|| Discovery::DnsSrv { name: text.to_owned(), asking }),
    };
    if read.is_none() {
        check.report.value(&name_at, format!("no such name ({text:?})"), allowed);
    }
    read
}

fn path(raw: &raw::Discovery, at: &Path, check: &mut Check) -> Option<PathBuf> {
    if raw.path.is_none() {
        check.missing(at, PATH);
    }
    let text = check.text(at, &raw.path, PATH)?;
    let path = PathBuf::from(text);
    // `/etc/..` and `/` have no file name.
    let names_a_file = path.file_name().is_some() && !text.ends_with('/') && !text.contains('\0');
    if !path.is_absolute() || !names_a_file {
        check.report.value(at, format!("not a path to a file ({text:?})"), PATH);
        return None;
    }
    Some(path)
}

fn asking(raw: &raw::Discovery, at: &Path, check: &mut Check) -> Asking {
    let least = ("min_ttl_ms", &raw.min_ttl_ms, MIN_TTL_MS);
    let (min_ttl, max_ttl) = span(check, at, least, ("max_ttl_ms", &raw.max_ttl_ms, MAX_TTL_MS));
    Asking {
        resolvers: resolvers(raw, &at.key("resolvers"), check),
        min_ttl,
        max_ttl,
        timeout: check.millis(&at.key("timeout_ms"), &raw.timeout_ms, TIMEOUT_MS),
    }
}

fn resolvers(raw: &raw::Discovery, at: &Path, check: &mut Check) -> Vec<SocketAddr> {
    let Some(raw) = raw.resolvers.as_deref() else {
        return Vec::new();
    };
    if raw.is_empty() {
        check.missing(at, "a list of at least one address, or null for those of /etc/resolv.conf");
    }
    let mut resolvers: Vec<SocketAddr> = Vec::new();
    for (i, leaf) in raw.iter().enumerate() {
        let at = at.index(i);
        if leaf.is_none() {
            check.missing(&at, RESOLVER);
        }
        let Some(text) = check.text(&at, leaf, RESOLVER) else {
            continue;
        };
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                check.report.value(&at, format!("bad address ({text:?})"), RESOLVER);
            }
            Ok(address) if resolvers.contains(&address) => {
                check.report.value(&at, format!("duplicate resolver ({text})"), "each once");
            }
            Ok(address) => resolvers.push(address),
            Err(_) => check.report.value(&at, format!("bad address ({text:?})"), RESOLVER),
        }
    }
    resolvers
}

fn name_with_port(text: &str) -> Option<(&str, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    // `parse` would take a sign.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    is_name(name).then_some((name, port))
}

/// With a dot at its end or without. An address is none: it needs no discovery.
fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=LABEL_MAX_BYTES).contains(&label.len()) && label.bytes().all(plain)
    };
    // As in URLs, a name whose last label is a number is an address, or was meant to be one.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= NAME_MAX_BYTES && name.split('.').all(is_label) && !numeric
}
