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

use std::io::Write as _;
use std::net::IpAddr;

use crate::telemetry::exporters::told::{self, Names, Told, Value, name};
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
    let mut is_first = true;
    for (spans, told) in batches {
        for span in spans {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            let mut object = Object::begin(out);
            write_span(&mut object, span, &told);
            object.end();
        }
    }
    out.push(b']');
}

fn write_span(object: &mut Object<'_>, span: &Span, told: &Told<'_>) {
    let names = Names::of(span, told.layout);
    let digits = span.trace.all_digits();
    let from = if span.trace.high() == 0 { 16 } else { 0 };
    object.text("traceId", ascii(&digits[from..]));
    if let Some(parent) = span.parent {
        object.text("parentId", ascii(&parent.digits()));
    }
    object.text("id", ascii(&span.id.digits()));
    object.text(
        "kind",
        match span.role {
            Role::Server { .. } => "SERVER",
            Role::Client(_) => "CLIENT",
        },
    );
    object.text("name", &name(span, names.service));
    object.number("timestamp", told.micros(span.began));
    object.number("duration", span.ended.saturating_sub(span.began).as_micros().max(1) as u64);
    if span.debug {
        object.raw("debug", b"true");
    }
    let local = told.naming.local(names.router, names.service);
    let listens = names.listens.map(|address| (address.ip(), address.port()));
    endpoint(object, "localEndpoint", &local, listens);
    match &span.role {
        Role::Server { peer, .. } => {
            endpoint(object, "remoteEndpoint", "", peer.ip.map(|ip| (ip, peer.port)));
        }
        Role::Client(client) => {
            let remote = told.naming.remote(names.router, names.service);
            let address = client.address.map(|address| (address.ip(), address.port()));
            endpoint(object, "remoteEndpoint", &remote, address);
        }
    }
    annotations(object, span, told);
    object.inner("tags", |tags| {
        told::tags(span, &names, |key, value| match value {
            Value::Text(text) => tags.text(key, text),
            Value::Number(number) => tags.number_as_text(key, number),
        });
    });
}

/// Left out where nothing is known of it.
fn endpoint(object: &mut Object<'_>, key: &str, name: &str, address: Option<(IpAddr, u16)>) {
    let ip = address.map(|(ip, _)| ip.to_canonical()).filter(|ip| !ip.is_unspecified());
    let port = address.map(|(_, port)| port).filter(|&port| port != 0);
    if name.is_empty() && ip.is_none() {
        return;
    }
    object.inner(key, |inner| {
        if !name.is_empty() {
            inner.text("serviceName", name);
        }
        match ip {
            Some(IpAddr::V4(ip)) => inner.text("ipv4", &ip.to_string()),
            Some(IpAddr::V6(ip)) => inner.text("ipv6", &ip.to_string()),
            None => {}
        }
        if let Some(port) = port {
            inner.number("port", u64::from(port));
        }
    });
}

fn annotations(object: &mut Object<'_>, span: &Span, told: &Told<'_>) {
    object.key("annotations");
    object.out.push(b'[');
    for (nth, (at, value)) in told::annotations(span).enumerate() {
        if nth > 0 {
            object.out.push(b',');
        }
        let mut inner = Object::begin(object.out);
        inner.number("timestamp", told.micros(at));
        inner.text("value", value);
        inner.end();
    }
    object.out.push(b']');
}

fn ascii(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

/// A JSON object that is being written. Keys are ours, and need no escapes.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> Object<'o> {
    fn begin(out: &'o mut Vec<u8>) -> Object<'o> {
        out.push(b'{');
        Object { out, is_empty: true }
    }

    fn key(&mut self, key: &str) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn raw(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.out.extend_from_slice(value);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        // Writing to memory cannot fail, nor can text be no JSON.
        let written = serde_json::to_writer(&mut *self.out, value);
        debug_assert!(written.is_ok());
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let written = write!(self.out, "{value}");
        debug_assert!(written.is_ok());
    }

    /// Tags are text, whatever they say.
    fn number_as_text(&mut self, key: &str, value: u64) {
        self.key(key);
        let written = write!(self.out, "\"{value}\"");
        debug_assert!(written.is_ok());
    }

    fn inner(&mut self, key: &str, write: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        let mut inner = Object::begin(self.out);
        write(&mut inner);
        inner.end();
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
