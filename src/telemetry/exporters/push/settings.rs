//! What is configured of an exporter that pushes spans, and what of it is checked.

use std::time::Duration;

use axum::http::Uri;

use super::{Client, Naming};
use crate::config::{ExporterKey, ExporterSettings, Shape, without_secrets};

const ENDPOINT: &str =
    "an http or https URL with a host, such as http://collector.example:9411/api/v2/spans";
pub(super) const TLS_CA: &str =
    "a file of PEM certificates that a collector's is signed by; or \"\" for the platform's roots";

const SAMPLE_RATE: ExporterKey =
    ExporterKey { name: "sample_rate", shape: Shape::Share { default: 0.001 } };
const LOCAL_SERVICE: ExporterKey =
    name_of("local_service", "{router}", "a name, in which {router} and {service} are filled in");
const REMOTE_SERVICE: ExporterKey = name_of(
    "remote_service",
    "{service}",
    "a name, in which {router} and {service} are filled in; or \"\" for none",
);
const QUEUE_SPANS: ExporterKey = ExporterKey {
    name: "queue_spans",
    shape: Shape::Number { default: 10_000, least: 100, most: 1_000_000 },
};
const TIMEOUT_MS: ExporterKey = ExporterKey {
    name: "timeout_ms",
    shape: Shape::Number { default: 5_000, least: 10, most: 600_000 },
};
const CA: ExporterKey = name_of("tls_ca", "", TLS_CA);

const fn name_of(name: &'static str, default: &'static str, allowed: &'static str) -> ExporterKey {
    ExporterKey { name, shape: Shape::Text { default: Some(default), allowed } }
}

/// Their keys, which differ in the default of where they push to.
pub(in super::super) const fn keys(default: &'static str) -> [ExporterKey; 7] {
    [
        name_of("endpoint", default, ENDPOINT),
        SAMPLE_RATE,
        LOCAL_SERVICE,
        REMOTE_SERVICE,
        QUEUE_SPANS,
        TIMEOUT_MS,
        CA,
    ]
}

/// What all of them need; `sample_rate` is for the shards.
#[derive(Clone, Debug)]
pub(in super::super) struct Settings {
    pub(in super::super) endpoint: Uri,
    pub(in super::super) timeout: Duration,
    pub(in super::super) queue_spans: usize,
    pub(in super::super) naming: Naming,
    pub(in super::super) client: Client,
}

impl Settings {
    pub(in super::super) fn new(settings: &ExporterSettings) -> Result<Settings, String> {
        let endpoint = settings.text("endpoint");
        let shown = without_secrets(endpoint);
        let refused = |why: &str| format!("endpoint is {shown:?}: {why}; allowed: {ENDPOINT}");
        let uri: Uri = endpoint.parse().map_err(|_| refused("not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(refused("neither http nor https"));
        }
        let authority = uri.authority().ok_or_else(|| refused("it has no host"))?;
        if authority.host().is_empty() {
            return Err(refused("it has no host"));
        }
        if authority.as_str().contains('@') {
            return Err(refused("it has a user"));
        }
        // Of what is no port `http` says that there is none.
        let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(refused("its port is none"));
        }
        let timeout = Duration::from_millis(settings.number("timeout_ms"));
        let client = Client::new(&uri, settings.text("tls_ca"), timeout)?;
        let queue_spans = settings.number("queue_spans") as usize;
        let naming = Naming {
            local: settings.text("local_service").to_owned(),
            remote: settings.text("remote_service").to_owned(),
        };
        Ok(Settings { endpoint: uri, timeout, queue_spans, naming, client })
    }
}
