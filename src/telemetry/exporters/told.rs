//! What is told of a span, in whatever format: its name, who took part, its annotations, its tags.
//!
//! Zipkin and OTLP say the same, so that a trace reads alike wherever it is looked at.
//!
//! - The name is method and service in lower case; few names, which say what was called.
//! - Annotations are `wr` and `ws` (the last bytes that came in and went out), `connect start`,
//!   `connect end` and `first byte`, in the order in which they happened.
//! - Tags are as in [`labels`] and [`tags`] below.

use std::net::SocketAddr;
use std::time::Duration;

use super::push::Naming;
use crate::http::Method;
use crate::telemetry::layout::Layout;
use crate::telemetry::record::Cause;
use crate::telemetry::spans::Batch;
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

impl<'a> Told<'a> {
    pub(super) fn of(batch: &'a Batch, naming: &'a Naming) -> Told<'a> {
        Told { layout: &batch.layout, epoch: batch.epoch, naming }
    }

    pub(super) fn micros(&self, at: Duration) -> u64 {
        (self.epoch + at).as_micros() as u64
    }
}

/// The value of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// What ids stand for; they may be gone when the span is told, which then says less.
pub(super) struct Names<'a> {
    pub(super) router: &'a str,
    pub(super) service: Option<&'a str>,
    /// The server's address.
    pub(super) listens: Option<SocketAddr>,
    pub(super) endpoint: Option<&'a str>,
}

impl<'a> Names<'a> {
    pub(super) fn of(span: &Span, layout: &'a Layout) -> Names<'a> {
        let server = layout.server(span.server);
        let target = span.target.and_then(|target| layout.target(target));
        let endpoint = match span.role {
            Role::Client(Client { endpoint, .. }) => layout.endpoint(endpoint),
            Role::Server { .. } => None,
        };
        let router = target.map(|target| &target.router).or(server.map(|server| &server.router));
        Names {
            router: router.map_or("unknown", String::as_str),
            service: target.map(|target| target.service.as_str()),
            listens: server.map(|server| server.address),
            endpoint: endpoint.map(|it| it.address.as_str()),
        }
    }
}

/// Method and service.
pub(super) fn name(span: &Span, service: Option<&str>) -> String {
    let method = method(span.method.as_str()).to_lowercase();
    match service {
        Some(service) => format!("{method} {}", service.to_lowercase()),
        None => method,
    }
}

/// Anybody can make up methods; a name is one of few.
pub(super) fn method(method: &str) -> &str {
    match Method::from_bytes(method.as_bytes()) {
        Method::Other => "other",
        _ => method,
    }
}

/// In the order in which they happened.
pub(super) fn annotations(span: &Span) -> impl Iterator<Item = (Duration, &'static str)> {
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
    all.into_iter().filter_map(|(at, value)| Some((at?, value)))
}

/// The tags that are the same for all spans of these names.
pub(super) fn labels(span: &Span, names: &Names<'_>, mut tag: impl FnMut(&'static str, Value<'_>)) {
    tag("router.label", Value::Text(names.router));
    if let Some(service) = names.service {
        tag("service", Value::Text(service));
    }
    if let Role::Client(client) = &span.role {
        if let Some(endpoint) = names.endpoint {
            tag("client", Value::Text(endpoint));
        } else if let Some(address) = client.address {
            tag("client", Value::Text(&address.to_string()));
        }
    }
}

/// Those that are a span's own.
pub(super) fn tags(span: &Span, mut tag: impl FnMut(&'static str, Value<'_>)) {
    if let Role::Client(client) = &span.role {
        tag("attempt", Value::Text(client.attempt.word()));
    }
    tag("http.method", Value::Text(span.method.as_str()));
    tag("http.path", Value::Text(span.path.as_str()));
    if let Some(status) = span.status {
        tag("http.status_code", Value::Number(u64::from(status)));
    }
    tag("http.request.size", Value::Number(span.request_bytes));
    tag("http.response.size", Value::Number(span.response_bytes));
    if let Role::Server { retries, request_id, .. } = &span.role {
        tag("retries", Value::Number(u64::from(*retries)));
        if !request_id.is_empty() {
            tag("l5d-reqid", Value::Text(request_id.as_str()));
        }
    }
    if let Some(failure) = span.failure {
        tag("error", Value::Text(Cause::label(failure.index())));
    }
}
