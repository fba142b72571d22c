//! Spans in Zipkin's v2 JSON.
//!
//! - `name`: method and service in lower case; few names, which say what was called.
//! - `localEndpoint`: the server's address, and this hop's name.
//! - `remoteEndpoint`: of a SERVER span the client's address, of a CLIENT span the endpoint's and
//!   the service's name.
//! - `annotations`: `wr` and `ws` (the last bytes that came in and went out), `connect start`,
//!   `connect end`, `first byte`.
//! - `tags`: as in `tags` below.
//!
//! A trace's id of which the high half is zero is written with 16 digits: senders differ in whether
//! they fill it up, and one trace must not become two. Nothing is `shared`: each hop has spans of
//! its own.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::naming::Naming;
use crate::http::Method;
use crate::telemetry::layout::{Layout, OTHER};
use crate::telemetry::record::{Attempt, Cause};
use crate::telemetry::trace::{Client, Connection, Role, Span};

/// What is known of all spans of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// By whose ids they speak.
    pub layout: &'a Layout,
    /// When the process's clock began, since 1970.
    pub epoch: Duration,
    pub naming: &'a Naming,
}

/// Appends an array of spans.
pub fn batch(out: &mut Vec<u8>, spans: &[Span], told: &Told<'_>) {
    out.push(b'[');
    for (at, span) in spans.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut object = Object::begin(out);
        write_span(&mut object, span, told);
        object.end();
    }
    out.push(b']');
}

fn write_span(object: &mut Object<'_>, span: &Span, told: &Told<'_>) {
    let names = Names::of(span, told);
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
    object.inner("tags", |inner| tags(inner, span, &names));
}

/// Method and service.
fn name(span: &Span, service: Option<&str>) -> String {
    let method = match Method::from_bytes(span.method.as_str().as_bytes()) {
        // Anybody can make up methods; a name is one of few.
        Method::Other => "other".to_owned(),
        _ => span.method.as_str().to_lowercase(),
    };
    match service {
        Some(service) => format!("{method} {}", service.to_lowercase()),
        None => method,
    }
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

/// In the order in which they happened.
fn annotations(object: &mut Object<'_>, span: &Span, told: &Told<'_>) {
    let none = (None, "");
    let first_byte = (span.first_byte, "first byte");
    let all = match &span.role {
        Role::Server { .. } => {
            [(Some(span.began), "wr"), first_byte, (Some(span.ended), "ws"), none, none]
        }
        Role::Client(client) => {
            let answered = (span.first_byte.map(|_| span.ended), "wr");
            let began = Some(span.began);
            match client.connection {
                Connection::Pooled => [(began, "ws"), first_byte, answered, none, none],
                Connection::Made { at } => {
                    let at = Some(at);
                    let connect = [(began, "connect start"), (at, "connect end")];
                    [connect[0], connect[1], (at, "ws"), first_byte, answered]
                }
                Connection::Failed => [(began, "connect start"), none, none, none, none],
            }
        }
    };
    object.key("annotations");
    object.out.push(b'[');
    let mut is_first = true;
    for (at, value) in all {
        let Some(at) = at else { continue };
        if !is_first {
            object.out.push(b',');
        }
        is_first = false;
        let mut inner = Object::begin(object.out);
        inner.number("timestamp", told.micros(at));
        inner.text("value", value);
        inner.end();
    }
    object.out.push(b']');
}

fn tags(tags: &mut Object<'_>, span: &Span, names: &Names<'_>) {
    tags.text("router.label", names.router);
    if let Some(service) = names.service {
        tags.text("service", service);
    }
    if let Role::Client(client) = &span.role {
        if let Some(endpoint) = names.endpoint {
            tags.text("client", endpoint);
        } else if let Some(address) = client.address {
            tags.text("client", &address.to_string());
        }
        tags.text(
            "attempt",
            match client.attempt {
                Attempt::First => "first",
                Attempt::Requeue => "requeue",
                Attempt::Retry => "retry",
            },
        );
    }
    tags.text("http.method", span.method.as_str());
    tags.text("http.path", span.path.as_str());
    if let Some(status) = span.status {
        tags.number_as_text("http.status_code", u64::from(status));
    }
    tags.number_as_text("http.request.size", span.request_bytes);
    tags.number_as_text("http.response.size", span.response_bytes);
    if let Role::Server { retries, request_id, .. } = &span.role {
        tags.number_as_text("retries", u64::from(*retries));
        if !request_id.is_empty() {
            tags.text("l5d-reqid", request_id.as_str());
        }
    }
    if let Some(failure) = span.failure {
        tags.text("error", Cause::label(failure.index()));
    }
}

/// What ids stand for; they may be gone when the span is told, which then says less.
struct Names<'a> {
    router: &'a str,
    service: Option<&'a str>,
    listens: Option<SocketAddr>,
    endpoint: Option<&'a str>,
}

impl<'a> Names<'a> {
    fn of(span: &Span, told: &Told<'a>) -> Names<'a> {
        let layout = told.layout;
        let server = named(&layout.servers, span.server);
        let target = span.target.and_then(|target| named(&layout.targets, target));
        let endpoint = match span.role {
            Role::Client(Client { endpoint, .. }) => named(&layout.endpoints, endpoint),
            Role::Server { .. } => None,
        };
        let router = target.map(|target| &target.router).or(server.map(|server| &server.router));
        Names {
            router: router.map_or("unknown", String::as_str),
            service: target.map(|target| target.service.as_str()),
            listens: server.map(|server| server.address),
            endpoint: endpoint.map(|it| it.address.as_str()).filter(|address| *address != OTHER),
        }
    }
}

fn named<N>(names: &[Option<N>], id: u32) -> Option<&N> {
    names.get(id as usize)?.as_ref()
}

impl Told<'_> {
    fn micros(&self, at: Duration) -> u64 {
        (self.epoch + at).as_micros() as u64
    }
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
