//! What goes over the wire, read back with OTLP's own messages.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::*;
use crate::config::ExporterSettings;
use crate::telemetry::exporters::push::rig::{
    Act, Counted, EPOCH, Received, Running, Server, batch, real,
};
use crate::telemetry::sample;

fn settings(server: &Server) -> ExporterSettings {
    ExporterSettings::defaults(KIND.spec).with_text("endpoint", &server.url("http", "/v1/traces"))
}

/// The name of the service, and the spans under it.
fn read(received: &Received) -> (String, Vec<Span>) {
    let message = ExportTraceServiceRequest::decode(received.body.as_slice()).unwrap();
    let [resource] = <[_; 1]>::try_from(message.resource_spans).unwrap();
    let named = resource.resource.unwrap().attributes;
    let [scope] = <[_; 1]>::try_from(resource.scope_spans).unwrap();
    assert_eq!(scope.scope.unwrap().name, "ringlane");
    assert_eq!(named.len(), 1, "{named:?}");
    (texts(&named)["service.name"].clone(), scope.spans)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().and_then(|it| it.value.as_ref());
        let value = match value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    let all: BTreeMap<_, _> = attributes.iter().map(text).collect();
    assert_eq!(all.len(), attributes.len(), "a name is there twice");
    all
}

fn spans(received: &Received) -> Vec<Span> {
    read(received).1
}

#[test]
fn spans_arrive_as_they_are() {
    real(async {
        let mut server = Server::new([]);
        let running = Running::new(KIND, &settings(&server));
        let told = sample::spans();
        running.offer(&batch(told.clone()));
        let received = server.next().await;
        assert!(received.head.starts_with("post /v1/traces http/1.1\r\n"));
        assert!(received.head.contains("content-type: application/x-protobuf\r\n"));
        // None of those that the crate would add, of its own or from the environment.
        let fields = received.head.lines().filter_map(|line| line.split_once(": "));
        let fields: BTreeSet<&str> = fields.map(|(name, _)| name).collect();
        assert!(fields.iter().eq(&["content-length", "content-type", "host", "user-agent"]));
        assert!(received.head.contains("user-agent: ringlane/"));
        let (service, spans) = read(&received);
        assert_eq!((service.as_str(), spans.len()), ("http", told.len()));
        for (span, told) in spans.iter().zip(&told) {
            let trace = [told.trace.high().to_be_bytes(), told.trace.low().to_be_bytes()];
            assert_eq!(span.trace_id, trace.concat());
            assert_eq!(span.span_id, told.id.get().to_be_bytes());
            let parent = told.parent.map_or(Vec::new(), |it| it.get().to_be_bytes().to_vec());
            assert_eq!(span.parent_span_id, parent);
            let nanos = |at: std::time::Duration| (EPOCH + at).as_nanos() as u64;
            assert_eq!(span.start_time_unix_nano, nanos(told.began));
            assert_eq!(span.end_time_unix_nano, nanos(told.ended));
            let status = span.status.as_ref().unwrap();
            // 2: STATUS_CODE_ERROR.
            assert_eq!(status.code, if told.failure.is_some() { 2 } else { 0 });
            assert_eq!(status.message.is_empty(), told.failure.is_none());
        }
        assert_eq!(spans[0].trace_id[0], 0x80, "128 bits");
        let narrow = told.iter().position(|it| it.trace.high() == 0).unwrap();
        assert_eq!(spans[narrow].trace_id[..8], [0; 8]);
        assert_eq!(running.end().await.sent, told.len() as u64);
    });
}

#[test]
fn an_attempt_and_its_request_say_what_they_were() {
    real(async {
        let mut server = Server::new([]);
        let running = Running::new(KIND, &settings(&server));
        running.offer(&batch(sample::spans()));
        let spans = spans(&server.next().await);
        let (request, attempt) = (&spans[0], &spans[1]);
        // 2: SPAN_KIND_SERVER, 3: SPAN_KIND_CLIENT; 0x300: the parent is known to be remote.
        assert_eq!((request.kind, attempt.kind), (2, 3));
        assert_eq!((request.flags, attempt.flags), (0x301, 0x101));
        assert_eq!((request.name.as_str(), attempt.name.as_str()), ("post web", "post web"));
        let events: Vec<&str> = attempt.events.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(events, ["connect start", "connect end", "ws", "first byte", "wr"]);
        assert_eq!(attempt.status.as_ref().unwrap().message, "upstream_status");
        let expected = [
            ("http.request.method", "POST"),
            ("http.method", "POST"),
            ("url.path", "/a%20\"b"),
            ("router.label", "http"),
            ("service", "web"),
            ("server.port", "4140"),
            ("server.address", "127.0.0.1"),
            ("client.address", "192.0.2.7"),
            ("network.peer.address", "192.0.2.7"),
            ("network.peer.port", "50123"),
            ("http.response.status_code", "200"),
            ("retries", "1"),
            ("l5d-reqid", "1-2"),
        ];
        let all = texts(&request.attributes);
        expected.iter().for_each(|(key, value)| assert_eq!(all[*key], *value, "{key}"));
        assert!(!all.contains_key("peer.service") && !all.contains_key("error.type"));
        let expected = [
            ("server.address", "127.0.0.1"),
            ("server.port", "8080"),
            ("network.peer.port", "8080"),
            ("client", "127.0.0.1:8080"),
            ("attempt", "first"),
            ("http.response.status_code", "503"),
            ("error", "upstream_status"),
            ("error.type", "upstream_status"),
            ("peer.service", "web"),
        ];
        let all = texts(&attempt.attributes);
        expected.iter().for_each(|(key, value)| assert_eq!(all[*key], *value, "{key}"));
        let unix = texts(&spans[2].attributes);
        assert_eq!(
            (unix["server.address"].as_str(), unix.get("server.port")),
            ("/run/web.sock", None)
        );
        let odd = texts(&spans.last().unwrap().attributes);
        let methods = ["http.request.method", "http.request.method_original", "http.method"];
        assert_eq!(methods.map(|it| odd[it].as_str()), ["_OTHER", "BREW", "BREW"]);
        running.end().await;
    });
}

/// Each name has a request of its own, and only what failed goes again.
#[test]
fn services_have_requests_of_their_own() {
    real(async {
        let mut server = Server::new([Act::Answer(200), Act::Answer(503)]);
        let settings = settings(&server)
            .with_text("local_service", "by {service}")
            .with_text("remote_service", "");
        let running = Running::new(KIND, &settings);
        let told = sample::spans();
        let routed = told.iter().filter(|it| it.target.is_some()).count();
        running.offer(&batch(told.clone()));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (name, spans) = read(&server.next().await);
            let named = |it: &Span| texts(&it.attributes).contains_key("peer.service");
            assert!(!spans.iter().any(named));
            seen.push((name, spans.len()));
        }
        let (with, without) =
            (("by web".to_owned(), routed), ("by ".to_owned(), told.len() - routed));
        assert_eq!(seen, [without, with.clone(), with]);
        let sent = told.len() as u64;
        assert_eq!(running.end().await, Counted { sent, dropped: 0, failures: 1 });
        assert!(server.try_next().is_none());
    });
}

#[test]
fn what_a_collector_does_not_want_is_dropped() {
    let answer = |rejected_spans| {
        let error_message = "no".to_owned();
        let partial_success = ExportTracePartialSuccess { rejected_spans, error_message };
        let partial_success = Some(partial_success);
        Act::Say(ExportTraceServiceResponse { partial_success }.encode_to_vec())
    };
    let cases = [(2, 2), (0, 0), (-1, 0), (i64::MAX, 7)];
    for (rejected, dropped) in cases {
        real(async {
            let mut server = Server::new([answer(rejected)]);
            let running = Running::new(KIND, &settings(&server));
            running.offer(&batch(sample::spans()));
            server.next().await;
            let counted = running.end().await;
            assert_eq!((counted.sent, counted.dropped), (7 - dropped, dropped), "{rejected}");
        });
    }
    // What is no such message says nothing.
    real(async {
        let mut server = Server::new([Act::Say(b"thanks".to_vec()), Act::Answer(400)]);
        let running = Running::new(KIND, &settings(&server));
        running.offer(&batch(sample::spans()));
        server.next().await;
        running.offer(&batch(sample::spans()));
        server.next().await;
        assert_eq!(running.end().await, Counted { sent: 7, dropped: 7, failures: 1 });
    });
}
