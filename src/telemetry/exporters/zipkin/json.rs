//! Spans in Zipkin's v2 JSON.
//!
//! - `localEndpoint`: the server's address, and this hop's name.
//! - `remoteEndpoint`: of a SERVER span the client's address, of a CLIENT span the endpoint's and
//!   the service's name.
//! - `name`, `annotations`, `tags`: as in `told`.
//!
//! A trace's id of which the high half is zero is written with 16 digits: senders differ in whether
//! they fill it up, and one trace must not become two. Nothing is `shared`: each hop has spans of
//! its own.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::telemetry::exporters::told::{self, Names, Told, Value};
use crate::telemetry::trace::{Role, Span};

/// Appends an array of spans.
pub fn batch(out: &mut Vec<u8>, spans: &[Span], told: &Told<'_>) {
    batches(out, [(spans, *told)].into_iter());
}

/// The same, of spans that speak by different layouts.
pub(super) fn batches<'b>(
    out: &mut Vec<u8>,
    batches: impl Iterator<Item = (&'b [Span], Told<'b>)>,
) {
    out.push(b'[');
    let begin = out.len();
    for (spans, told) in batches {
        // Ids mean what they do under one layout.
        let mut known: HashMap<Who, Parts> = HashMap::new();
        for span in spans {
            if out.len() > begin {
                out.push(b',');
            }
            let parts = known.entry(Who::of(span)).or_insert_with(|| Parts::of(span, &told));
            write_span(out, span, &told, parts);
        }
    }
    out.push(b']');
}

/// Spans of which most of the text is the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Who {
    server: u32,
    target: Option<u32>,
    /// `None`: a SERVER span. The address too: beyond `max_series` endpoints share an id.
    endpoint: Option<(u32, Option<SocketAddr>)>,
}

impl Who {
    fn of(span: &Span) -> Who {
        let endpoint = match &span.role {
            Role::Server { .. } => None,
            Role::Client(client) => Some((client.endpoint, client.address)),
        };
        Who { server: span.server, target: span.target, endpoint }
    }
}

/// Text that is the same for all of them: names are looked up, filled in and escaped once for a
/// batch. With that, and numbers by itoa, a span takes
/// 0.5 us and not 2.
struct Parts {
    /// What the name says after the method: ` web`, or nothing.
    service: Vec<u8>,
    /// `,"localEndpoint":{...}`, and of a CLIENT span its `remoteEndpoint` too.
    endpoints: Vec<u8>,
    /// The first tags.
    labels: Vec<u8>,
}

impl Parts {
    fn of(span: &Span, told: &Told<'_>) -> Parts {
        let names = Names::of(span, told.layout);
        let mut service = Vec::new();
        if let Some(name) = names.service {
            service.push(b' ');
            escaped(&mut service, &name.to_lowercase());
        }
        let mut endpoints = Vec::new();
        let local = told.naming.local(names.router, names.service);
        endpoint(&mut endpoints, "localEndpoint", &local, names.listens);
        if let Role::Client(client) = &span.role {
            let remote = told.naming.remote(names.router, names.service);
            endpoint(&mut endpoints, "remoteEndpoint", &remote, client.address);
        }
        let mut labels = Vec::new();
        told::labels(span, &names, |key, value| {
            if !labels.is_empty() {
                labels.push(b',');
            }
            tag(&mut labels, key, value);
        });
        Parts { service, endpoints, labels }
    }
}

fn write_span(out: &mut Vec<u8>, span: &Span, told: &Told<'_>, parts: &Parts) {
    let digits = span.trace.all_digits();
    let from = if span.trace.high() == 0 { 16 } else { 0 };
    out.extend_from_slice(b"{\"traceId\":\"");
    out.extend_from_slice(&digits[from..]);
    if let Some(parent) = span.parent {
        out.extend_from_slice(b"\",\"parentId\":\"");
        out.extend_from_slice(&parent.digits());
    }
    out.extend_from_slice(b"\",\"id\":\"");
    out.extend_from_slice(&span.id.digits());
    out.extend_from_slice(match span.role {
        Role::Server { .. } => b"\",\"kind\":\"SERVER\",\"name\":\"",
        Role::Client(_) => b"\",\"kind\":\"CLIENT\",\"name\":\"",
    });
    out.extend(told::method(span.method.as_str()).bytes().map(|byte| byte.to_ascii_lowercase()));
    out.extend_from_slice(&parts.service);
    out.extend_from_slice(b"\",\"timestamp\":");
    number(out, told.micros(span.began));
    out.extend_from_slice(b",\"duration\":");
    number(out, span.ended.saturating_sub(span.began).as_micros().max(1) as u64);
    if span.debug {
        out.extend_from_slice(b",\"debug\":true");
    }
    out.extend_from_slice(&parts.endpoints);
    if let Role::Server { peer, .. } = &span.role
        && let Some(ip) = peer.ip
    {
        endpoint(out, "remoteEndpoint", "", Some(SocketAddr::new(ip, peer.port)));
    }
    annotations(out, span, told);
    out.extend_from_slice(b",\"tags\":{");
    out.extend_from_slice(&parts.labels);
    told::tags(span, |key, value| {
        out.push(b',');
        tag(out, key, value);
    });
    out.extend_from_slice(b"}}");
}

/// With a comma before it; nothing where nothing is known of it.
fn endpoint(out: &mut Vec<u8>, key: &str, name: &str, address: Option<SocketAddr>) {
    let ip = address.map(|it| it.ip().to_canonical()).filter(|ip| !ip.is_unspecified());
    let port = address.map(|it| it.port()).filter(|&port| port != 0);
    if name.is_empty() && ip.is_none() {
        return;
    }
    // Into memory, which takes everything.
    let _ = write!(out, ",\"{key}\":{{");
    let mut separator = "";
    if !name.is_empty() {
        out.extend_from_slice(b"\"serviceName\":\"");
        escaped(out, name);
        out.push(b'"');
        separator = ",";
    }
    let family = match ip {
        Some(IpAddr::V4(_)) => "ipv4",
        _ => "ipv6",
    };
    if let Some(ip) = ip {
        let _ = write!(out, "{separator}\"{family}\":\"{ip}\"");
        separator = ",";
    }
    if let Some(port) = port {
        let _ = write!(out, "{separator}\"port\":{port}");
    }
    out.push(b'}');
}

fn annotations(out: &mut Vec<u8>, span: &Span, told: &Told<'_>) {
    out.extend_from_slice(b",\"annotations\":[");
    let mut separator: &[u8] = b"{\"timestamp\":";
    for (at, value) in told::annotations(span) {
        out.extend_from_slice(separator);
        number(out, told.micros(at));
        out.extend_from_slice(b",\"value\":\"");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\"}");
        separator = b",{\"timestamp\":";
    }
    out.push(b']');
}

/// Tags are text, whatever they say.
fn tag(out: &mut Vec<u8>, key: &str, value: Value<'_>) {
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":\"");
    match value {
        Value::Text(text) => escaped(out, text),
        Value::Number(value) => number(out, value),
    }
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// What stands between the quotes of a JSON string.
fn escaped(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    // Text can always be written to memory.
    let quoted = serde_json::to_vec(text).unwrap_or_default();
    out.extend_from_slice(quoted.get(1..quoted.len().max(2) - 1).unwrap_or_default());
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
