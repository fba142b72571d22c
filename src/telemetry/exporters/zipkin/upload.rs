//! Our JSON, in requests of the crate's.

// Its authors have deprecated all of it in favour of OTLP, which is there too (`otlp`); a Zipkin
// that is there already goes on being served.
#![allow(deprecated)]

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::trace::SpanExporter as _;
use opentelemetry_zipkin::ZipkinExporter;

use super::json::batches;
use crate::telemetry::exporters::push::{self, Client, Collector, Naming, Settings, Verdict};
use crate::telemetry::exporters::told::Told;
use crate::telemetry::spans::Batch;

pub(super) struct Upload {
    exporter: ZipkinExporter,
    substitute: Substitute,
    naming: Naming,
}

/// Sends what it is told to in the place of what it is given.
#[derive(Clone, Debug)]
struct Substitute {
    client: Client,
    body: Arc<Mutex<Bytes>>,
}

impl Upload {
    pub(super) fn new(settings: &Settings) -> Result<Upload, String> {
        let substitute = Substitute { client: settings.client.clone(), body: Arc::default() };
        let exporter = ZipkinExporter::builder()
            .with_http_client(substitute.clone())
            .with_collector_endpoint(settings.endpoint.to_string())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Upload { exporter, substitute, naming: settings.naming.clone() })
    }
}

impl Collector for Upload {
    type Body = Bytes;

    fn requests(&self, list: Vec<Arc<Batch>>) -> Vec<push::Request<Bytes>> {
        let naming = &self.naming;
        let mut out = Vec::new();
        batches(&mut out, list.iter().map(|it| (it.spans.as_slice(), Told::of(it, naming))));
        let spans = list.iter().map(|it| it.spans.len()).sum();
        vec![push::Request { spans, body: out.into() }]
    }

    async fn post(&mut self, body: &Bytes) -> Verdict {
        self.substitute.replace(body.clone());
        // Spans of its kind would be encoded for nothing.
        let sent = self.exporter.export(Vec::new()).await;
        self.substitute.client.verdict(sent).0
    }
}

impl Substitute {
    fn replace(&self, body: Bytes) -> Bytes {
        let mut place = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, body)
    }
}

#[async_trait]
impl HttpClient for Substitute {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let body = self.replace(Bytes::new());
        self.client.send_bytes(request.map(|_| body)).await
    }
}
