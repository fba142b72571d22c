//! What goes over the wire, and that it agrees with what the crate would have sent of the same
//! spans, in all that the crate can express.

// As in `upload`.
#![allow(deprecated)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::trace::SpanExporter as _;
use opentelemetry_zipkin::ZipkinExporter;
use serde_json::{Value, json};

use super::*;
use crate::telemetry::exporters::otlp;
use crate::telemetry::exporters::push::rig::{Counted, EPOCH, Running, Server, batch, real};
use crate::telemetry::sample;
use crate::telemetry::trace::Span;

/// Takes every request.
#[derive(Clone, Debug, Default)]
struct Capture(Arc<Mutex<Bytes>>);

#[async_trait]
impl HttpClient for Capture {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *self.0.lock().unwrap() = request.into_body();
        Ok(Response::new(Bytes::new()))
    }
}

fn told<T>(naming: &Naming, with: impl FnOnce(&Told<'_>) -> T) -> T {
    let batch = batch(Vec::new());
    with(&Told { layout: &batch.layout, epoch: EPOCH, naming })
}

fn ours(spans: &[Span]) -> Vec<Value> {
    let mut out = Vec::new();
    told(&Naming::default(), |told| super::batch(&mut out, spans, told));
    serde_json::from_slice(&out).unwrap()
}

fn theirs(spans: &[Span]) -> Vec<Value> {
    let capture = Capture::default();
    let exporter = ZipkinExporter::builder()
        .with_http_client(capture.clone())
        .with_collector_endpoint("http://127.0.0.1:9411/api/v2/spans")
        .build()
        .unwrap();
    let naming = Naming::default();
    let data = told(&naming, |told| spans.iter().map(|it| otlp::data(it, told)).collect());
    real(exporter.export(data)).unwrap();
    let body = capture.0.lock().unwrap().clone();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn the_crate_would_have_said_the_same_as_far_as_it_can() {
    let spans = sample::spans();
    let (ours, theirs) = (ours(&spans), theirs(&spans));
    assert_eq!((ours.len(), theirs.len()), (spans.len(), spans.len()));
    let mut failures = 0;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for key in ["id", "kind", "name", "timestamp", "annotations"] {
            assert!(!ours[key].is_null());
            assert_eq!(ours[key], theirs[key], "{key}");
        }
        // What we say of both on purpose in another way.
        let wide = format!("{:0>32}", ours["traceId"].as_str().unwrap());
        assert_eq!(theirs["traceId"], wide);
        let parent = ours.get("parentId").cloned().unwrap_or(json!("0000000000000000"));
        assert_eq!(theirs["parentId"], parent);
        let duration = theirs["duration"].as_u64().unwrap().max(1);
        assert_eq!(ours["duration"], duration);
        let tags = ours["tags"].as_object().unwrap();
        assert!(tags.len() >= 7, "{tags:?}");
        for (key, value) in tags {
            assert_eq!(&theirs["tags"][key], value, "{key}");
        }
        failures += usize::from(tags.contains_key("error"));
        assert_eq!(theirs["localEndpoint"], json!({}), "or it could do without us");
    }
    assert_eq!(failures, 4);
}

#[test]
fn spans_arrive_as_they_are_told() {
    real(async {
        let mut server = Server::new([]);
        let settings = ExporterSettings::defaults(KIND.spec)
            .with_text("endpoint", &server.url("http", "/api/v2/spans?a=b"))
            .with_text("local_service", "edge");
        let running = Running::new(KIND, &settings);
        let spans = sample::spans();
        // Both are there before anything is sent: they go in one request.
        running.offer(&batch(spans[..3].to_vec()));
        running.offer(&batch(spans[3..].to_vec()));
        let received = server.next().await;
        assert!(received.head.starts_with("post /api/v2/spans?a=b http/1.1\r\n"));
        let fields: BTreeMap<&str, &str> =
            received.head.lines().filter_map(|line| line.split_once(": ")).collect();
        assert_eq!(fields["content-type"], "application/json");
        let told = ours(&spans);
        let list: Vec<Value> = serde_json::from_slice(&received.body).unwrap();
        assert_eq!(list.len(), spans.len());
        for (received, mut told) in list.into_iter().zip(told) {
            told["localEndpoint"]["serviceName"] = json!("edge");
            assert_eq!(received, told);
        }
        let sent = spans.len() as u64;
        assert_eq!(running.end().await, Counted { sent, dropped: 0, failures: 0 });
    });
}
