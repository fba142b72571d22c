//! Requests to a collector, one for each name of this hop: the name of a service belongs to all of
//! a request, and an exporter of the crate's has one.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use prost::Message;

use super::data::data;
use crate::telemetry::exporters::push::{Client, Collector, Request, Settings, Verdict};
use crate::telemetry::exporters::told::{Names, Told};
use crate::telemetry::spans::Batch;

/// Names are few: one for each router, or for each service. When there are so many, those of
/// configurations that are gone go too.
const MOST_EXPORTERS: usize = 1_000;

pub(super) struct Upload {
    settings: Settings,
    /// By the name of the service.
    exporters: BTreeMap<String, SpanExporter>,
}

/// Spans under one name.
pub(super) struct Named {
    name: String,
    /// By their batch and their place there.
    spans: Vec<(Arc<Batch>, usize)>,
}

impl Upload {
    pub(super) fn new(settings: Settings) -> Upload {
        Upload { settings, exporters: BTreeMap::new() }
    }

    fn exporter(&mut self, name: &str) -> Result<&SpanExporter, String> {
        if !self.exporters.contains_key(name) {
            if self.exporters.len() >= MOST_EXPORTERS {
                self.exporters.clear();
            }
            self.exporters.insert(name.to_owned(), exporter(&self.settings, name)?);
        }
        Ok(&self.exporters[name])
    }
}

/// What is not set here would be taken from the environment.
fn exporter(settings: &Settings, name: &str) -> Result<SpanExporter, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(settings.client.clone())
        .with_endpoint(settings.endpoint.to_string())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(settings.timeout)
        .with_retry_policy(RetryPolicy::disabled())
        .build();
    let mut exporter = exporter.map_err(|error| error.to_string())?;
    let resource = Resource::builder_empty().with_service_name(name.to_owned()).build();
    opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource);
    Ok(exporter)
}

impl Collector for Upload {
    type Body = Named;

    fn requests(&self, batches: Vec<Arc<Batch>>) -> Vec<Request<Named>> {
        let naming = &self.settings.naming;
        let mut by_name: BTreeMap<String, Vec<(Arc<Batch>, usize)>> = BTreeMap::new();
        for batch in &batches {
            for (at, span) in batch.spans.iter().enumerate() {
                let names = Names::of(span, &batch.layout);
                let name = naming.local(names.router, names.service);
                by_name.entry(name).or_default().push((batch.clone(), at));
            }
        }
        let request = |(name, spans): (String, Vec<_>)| Request {
            spans: spans.len(),
            body: Named { name, spans },
        };
        by_name.into_iter().map(request).collect()
    }

    async fn post(&mut self, named: &Named) -> Verdict {
        let client: Client = self.settings.client.clone();
        let naming = self.settings.naming.clone();
        let told =
            |(batch, at): &(Arc<Batch>, usize)| data(&batch.spans[*at], &Told::of(batch, &naming));
        let spans = named.spans.iter().map(told).collect();
        let exporter = match self.exporter(&named.name) {
            Ok(exporter) => exporter,
            Err(why) => return Verdict::Refused(why),
        };
        let sent = exporter.export(spans).await;
        match client.verdict(sent) {
            (Verdict::Taken { .. }, answer) => Verdict::Taken { unwanted: unwanted(&answer) },
            (verdict, _) => verdict,
        }
    }
}

/// `ExportTraceServiceResponse`, of which the crate only logs what it says.
#[derive(Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

/// What is no such message says nothing: the status has said that all was taken.
fn unwanted(answer: &[u8]) -> u64 {
    let answer = Answer::decode(answer).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |it| it.rejected_spans);
    u64::try_from(rejected).unwrap_or_default()
}
