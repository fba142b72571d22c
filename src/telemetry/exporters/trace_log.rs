//! Spans as lines of the log, one for each: for machines without a collector, and for whoever looks
//! for one request with `grep`.
//!
//! Lines are of level info and of the target `ringlane::trace`, so that a filter can let them alone
//! through or leave them out. They are written by a thread of their own, since whoever reads them
//! may be slow. What the log cannot take as fast as it comes is dropped, the oldest first, and
//! counted.

use std::sync::Arc;

use tokio::time::{Duration, timeout};

use super::told::Names;
use super::{Ends, Exporter, Kind, Task};
use crate::config::{ExporterKey, ExporterSettings, ExporterSpec, Shape};
use crate::telemetry::feed::Feed;
use crate::telemetry::layout::Layout;
use crate::telemetry::record::Cause;
use crate::telemetry::spans::Queue;
use crate::telemetry::trace::{Role, Span};

/// Spans that wait for the log.
const MOST_WAITING: usize = 10_000;
const MOST_AT_ONCE: usize = 1_000;
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
        Some(Box::pin(run(feed, ends)))
    }
}

async fn run(feed: Feed, mut ends: Ends) {
    let queue = feed.collect_spans(MOST_WAITING);
    loop {
        tokio::select! {
            () = queue.filled() => {}
            _ = ends.wait_for(|ends| *ends) => break,
        }
        write(&feed, &queue).await;
    }
    while timeout(LAST_LINES, queue.filled()).await.is_ok() {
        write(&feed, &queue).await;
    }
}

async fn write(feed: &Feed, queue: &Arc<Queue>) {
    for batch in queue.hold(MOST_AT_ONCE) {
        let count = batch.spans.len();
        let lines = move || batch.spans.iter().for_each(|span| write_span(span, &batch.layout));
        // It cannot fail: a panic ends the process.
        let _ = tokio::task::spawn_blocking(lines).await;
        queue.settle(count);
        feed.sent(queue, count as u64);
    }
}

fn write_span(span: &Span, layout: &Layout) {
    let names = Names::of(span, layout);
    let took = span.ended.saturating_sub(span.began);
    let (kind, remote, attempt) = match &span.role {
        Role::Server { peer, .. } => {
            ("server", peer.ip.map(|ip| ip.to_canonical().to_string()), None)
        }
        Role::Client(client) => {
            let address = || client.address.map(|address| address.to_string());
            let known = names.endpoint.map(str::to_owned);
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
        router = names.router,
        service = names.service,
        remote,
        attempt,
        method = span.method.as_str(),
        path = span.path.as_str(),
        status = span.status,
        error = span.failure.map(|cause| Cause::label(cause.index())),
        duration_us = took.as_micros() as u64,
    );
}
