//! Spans as lines of the log, one for each: for machines without a collector, and for whoever looks
//! for one request with `grep`.
//!
//! Lines are of level info and of the target `ringlane::trace`, so that a filter can let them alone
//! through or leave them out. What the log cannot take as fast as it comes is left out: the oldest
//! first, and only here.

use std::sync::Arc;

use tokio::time::{Duration, timeout};

use super::{Ends, Exporter, Kind, Task};
use crate::config::{ExporterKey, ExporterSettings, ExporterSpec, Shape};
use crate::telemetry::feed::Feed;
use crate::telemetry::layout::{Layout, OTHER};
use crate::telemetry::record::Cause;
use crate::telemetry::spans::{Batch, Queue};
use crate::telemetry::trace::{Role, Span};

/// Spans that wait for the log.
const MOST_WAITING: usize = 10_000;
/// For the spans of the last flush, when the process ends.
const LAST_LINES: Duration = Duration::from_millis(100);

pub const KIND: Kind = Kind {
    spec: &ExporterSpec {
        kind: "trace_log",
        keys: &[ExporterKey { name: "sample_rate", shape: Shape::Share { default: 0.001 } }],
        by_default: false,
    },
    make,
};

fn make(_settings: &ExporterSettings) -> Result<Box<dyn Exporter>, String> {
    Ok(Box::new(TraceLog))
}

struct TraceLog;

impl Exporter for TraceLog {
    fn task(self: Box<Self>, feed: Feed, ends: Ends) -> Option<Task> {
        Some(Box::pin(run(feed.watch_spans(MOST_WAITING), ends)))
    }
}

async fn run(queue: Arc<Queue>, mut ends: Ends) {
    loop {
        tokio::select! {
            batch = queue.next() => write(&batch),
            _ = ends.wait_for(|ends| *ends) => break,
        }
        // Between two batches others have their turn.
        tokio::task::yield_now().await;
    }
    while let Ok(batch) = timeout(LAST_LINES, queue.next()).await {
        write(&batch);
    }
}

fn write(batch: &Batch) {
    batch.spans.iter().for_each(|span| write_span(span, &batch.layout));
}

fn write_span(span: &Span, layout: &Layout) {
    let target = span.target.and_then(|id| layout.targets.get(id as usize)?.as_ref());
    let server = layout.servers.get(span.server as usize).and_then(Option::as_ref);
    let router = target.map(|it| &it.router).or(server.map(|it| &it.router));
    let took = span.ended.saturating_sub(span.began);
    let (kind, remote, attempt) = match &span.role {
        Role::Server { peer, .. } => ("server", peer.ip.map(|ip| ip.to_string()), None),
        Role::Client(client) => {
            let known = layout.endpoints.get(client.endpoint as usize).and_then(Option::as_ref);
            let known = known.map(|it| it.address.clone()).filter(|address| address != OTHER);
            let address = || client.address.map(|address| address.to_string());
            ("client", known.or_else(address), Some(client.attempt.word()))
        }
    };
    let request_id = match &span.role {
        Role::Server { request_id, .. } if !request_id.is_empty() => Some(request_id.as_str()),
        _ => None,
    };
    tracing::info!(
        target: "ringlane::trace",
        trace_id = %span.trace,
        span_id = %span.id,
        parent_id = span.parent.map(tracing::field::display),
        request_id,
        kind,
        router,
        service = target.map(|it| &it.service),
        remote,
        attempt,
        method = span.method.as_str(),
        path = span.path.as_str(),
        status = span.status,
        error = span.failure.map(|cause| Cause::label(cause.index())),
        duration_us = took.as_micros() as u64,
    );
}
