//! The HTTP client of exporters that push: HTTP/1.1 over TCP or TLS, connections kept.
//!
//! It is what the exporters of the OpenTelemetry crates are given to send with. Those tell of an
//! answer nothing but a text, so the client remembers what the last request came to, for whoever
//! decides whether to try again.
//!
//! - A request may take `timeout`, the answer's body included.
//! - Of the body up to `MOST_OF_A_BODY` is read. A status has decided by then: a body that is
//!   longer, stalls or breaks off is cut there, its connection is not used again, and the answer
//!   counts all the same, since what was taken must not be sent twice.
//! - Redirects are answers like others.
//! - Of the request's fields only `content-type` is sent: the others would come from `OTEL_*`
//!   variables, or advertise the crate.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::Uri;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::error::OTelSdkResult;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};

use super::Verdict;
use super::settings::TLS_CA;

const OURSELVES: &str = concat!("ringlane/", env!("CARGO_PKG_VERSION"));

/// Answers are empty, or a few words.
const MOST_OF_A_BODY: usize = 64 << 10;
/// The longest that a collector is let postpone the next try.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Clones are one client, of one collector.
#[derive(Clone)]
pub(in super::super) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    /// What the last request came to.
    last: Arc<Mutex<Option<Last>>>,
}

#[derive(Debug)]
struct Last {
    verdict: Verdict,
    body: Bytes,
}

impl Client {
    /// For an endpoint; or says what is wrong with `tls_ca`. An empty one: the platform's roots.
    pub(super) fn new(endpoint: &Uri, tls_ca: &str, timeout: Duration) -> Result<Client, String> {
        let is_https = endpoint.scheme_str() == Some("https");
        let tls = tls(is_https, tls_ca)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        // One request is under way at a time.
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Client { inner, timeout, last: Arc::default() })
    }

    /// What follows from what an exporter of a crate says it came to, with what was read of the
    /// answer's body.
    pub(in super::super) fn verdict(&self, sent: OTelSdkResult) -> (Verdict, Bytes) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (verdict, body) = last.map_or((None, Bytes::new()), |it| (Some(it.verdict), it.body));
        let verdict = match (sent, verdict) {
            (Ok(()), _) => Verdict::TAKEN,
            (Err(_), Some(verdict)) if verdict != Verdict::TAKEN => verdict,
            // It failed before it asked or after it was answered, and will again.
            (Err(error), _) => Verdict::Refused(error.to_string()),
        };
        (verdict, body)
    }

    /// Without an answer, why: in words, and for whoever decides what follows from it.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, (String, Verdict)> {
        let by = Instant::now() + self.timeout;
        let (mut head, body) = request.into_parts();
        let content_type = head.headers.remove(CONTENT_TYPE);
        head.headers.clear();
        head.headers.extend(content_type.map(|it| (CONTENT_TYPE, it)));
        head.headers.insert(USER_AGENT, HeaderValue::from_static(OURSELVES));
        let request = Request::from_parts(head, Full::new(body));
        let sent = timeout_at(by, self.inner.request(request)).await;
        let answer = match sent {
            Ok(answer) => answer.map_err(|error| {
                let why = reason(&error);
                (why.clone(), Verdict::unreached(why))
            })?,
            Err(_) => {
                let why = format!("no answer within {} ms", self.timeout.as_millis());
                return Err((why.clone(), Verdict::late(why)));
            }
        };
        let (head, mut body) = answer.into_parts();
        let mut read = Vec::new();
        while let Ok(Some(Ok(frame))) = timeout_at(by, body.frame()).await {
            let Ok(data) = frame.into_data() else { continue };
            let room = MOST_OF_A_BODY - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                break;
            }
        }
        Ok(Response::from_parts(head, read.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request).await;
        let last = match &answer {
            Ok(answer) => Last {
                verdict: Verdict::of_status(answer.status(), retry_after(answer)),
                body: answer.body().clone(),
            },
            Err((_, verdict)) => Last { verdict: verdict.clone(), body: Bytes::new() },
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        answer.map_err(|(why, _)| HttpError::from(why))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// In seconds; a date says little between clocks that differ.
fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

/// An error with what is behind it: "client error (Connect)" alone says nothing.
fn reason(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Certificates are read where they are needed.
fn tls(is_https: bool, tls_ca: &str) -> Result<ClientConfig, String> {
    let builder =
        ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let builder = if !tls_ca.is_empty() {
        builder.with_root_certificates(authorities(tls_ca)?)
    } else if is_https {
        let unread = |error| format!("the platform's root certificates cannot be read: {error}");
        builder.with_native_roots().map_err(unread)?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

fn authorities(path: &str) -> Result<RootCertStore, String> {
    let refused =
        |why: &dyn fmt::Display| format!("tls_ca is {path:?}: {why}; allowed: {}", TLS_CA);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(Path::new(path)).map_err(|it| refused(&it))? {
        let certificate = certificate.map_err(|error| refused(&error))?;
        roots.add(certificate).map_err(|error| refused(&error))?;
    }
    if roots.is_empty() { Err(refused(&"there is no certificate in it")) } else { Ok(roots) }
}
