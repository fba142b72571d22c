//! A span as OpenTelemetry has it.
//!
//! Attributes are Zipkin's tags under their names, so that a question that was asked of Zipkin can
//! be asked here, and beside them what OpenTelemetry's semantic conventions for HTTP call the same.
//! Annotations are events, a failure is the status. An id of 64 bits is filled up with zeros.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::http::Method;
use crate::telemetry::exporters::told::{self, Names, Told, Value};
use crate::telemetry::record::Cause;
use crate::telemetry::trace::{Role, Span};

/// Who says all this.
static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder("ringlane").with_version(env!("CARGO_PKG_VERSION")).build()
});

/// What the exporters of the OpenTelemetry crates take.
pub fn data(span: &Span, told: &Told<'_>) -> SpanData {
    let names = Names::of(span, told.layout);
    let moment = |at: Duration| SystemTime::UNIX_EPOCH + told.epoch + at;
    let trace = u128::from(span.trace.high()) << 64 | u128::from(span.trace.low());
    let span_context = SpanContext::new(
        TraceId::from(trace),
        SpanId::from(span.id.get()),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    let event = |(at, name)| Event::new(name, moment(at), Vec::new(), 0);
    let mut events = SpanEvents::default();
    events.events.extend(told::annotations(span).map(event));
    let is_server = matches!(span.role, Role::Server { .. });
    SpanData {
        span_context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.get())),
        // An attempt's is the request's, which is told here as well.
        parent_span_is_remote: is_server && span.parent.is_some(),
        span_kind: if is_server { SpanKind::Server } else { SpanKind::Client },
        name: told::name(span, names.service).into(),
        start_time: moment(span.began),
        end_time: moment(span.ended),
        attributes: attributes(span, &names, told),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: match span.failure {
            Some(failure) => Status::error(Cause::label(failure.index())),
            None => Status::Unset,
        },
        instrumentation_scope: SCOPE.clone(),
    }
}

fn attributes(span: &Span, names: &Names<'_>, told: &Told<'_>) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(24);
    let mut tag = |key, value: Value<'_>| {
        all.push(match value {
            Value::Text(text) => KeyValue::new(key, text.to_owned()),
            Value::Number(number) => KeyValue::new(key, number as i64),
        });
    };
    told::labels(span, names, &mut tag);
    told::tags(span, tag);
    let method = span.method.as_str();
    match Method::from_bytes(method.as_bytes()) {
        Method::Other => {
            all.push(KeyValue::new("http.request.method", "_OTHER"));
            all.push(KeyValue::new("http.request.method_original", method.to_owned()));
        }
        _ => all.push(KeyValue::new("http.request.method", method.to_owned())),
    }
    all.push(KeyValue::new("url.path", span.path.as_str().to_owned()));
    if let Some(status) = span.status {
        all.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    if let Some(failure) = span.failure {
        all.push(KeyValue::new("error.type", Cause::label(failure.index())));
    }
    match &span.role {
        Role::Server { peer, .. } => {
            address(&mut all, SERVER, names.listens.map(parts));
            address(&mut all, PEER, peer.ip.map(|ip| (ip, peer.port)));
            if let Some(ip) = peer.ip {
                all.push(KeyValue::new("client.address", ip.to_canonical().to_string()));
            }
        }
        Role::Client(client) => {
            address(&mut all, SERVER, client.address.map(parts));
            address(&mut all, PEER, client.address.map(parts));
            if let Some(path) = names.endpoint.and_then(|it| it.strip_prefix("unix:")) {
                all.push(KeyValue::new(SERVER.0, path.to_owned()));
            }
            let remote = told.naming.remote(names.router, names.service);
            if !remote.is_empty() {
                all.push(KeyValue::new("peer.service", remote));
            }
        }
    }
    all
}

/// The names of an address and of its port.
type Pair = (&'static str, &'static str);

const SERVER: Pair = ("server.address", "server.port");
const PEER: Pair = ("network.peer.address", "network.peer.port");

fn parts(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

/// Left out where it is not known, or is any.
fn address(all: &mut Vec<KeyValue>, (name, port_name): Pair, address: Option<(IpAddr, u16)>) {
    let Some((ip, port)) = address else { return };
    let ip = ip.to_canonical();
    if !ip.is_unspecified() {
        all.push(KeyValue::new(name, ip.to_string()));
    }
    if port != 0 {
        all.push(KeyValue::new(port_name, i64::from(port)));
    }
}
