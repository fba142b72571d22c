//! `prometheus`: the whole state, pulled in whichever of three formats a scraper prefers.
//!
//! ```text
//!   State --> series --> text          text 0.0.4, as everything understands it
//!               |------> openmetrics   with units and exemplars
//!               `------> protobuf      with exemplars and native histograms
//! ```
//!
//! What is exported is decided in `series`, once for all formats; how it is written is theirs, with
//! what the two texts share in `lines`. A test holds them equal.

mod accept;
mod lines;
mod native;
mod openmetrics;
mod protobuf;
mod series;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;

use self::accept::Format;
use super::page::Page;
use super::{Exporter, Kind};
use crate::config::ExporterSpec;
use crate::telemetry::feed::Feed;

pub const KIND: Kind = Kind {
    spec: &ExporterSpec { kind: "prometheus", keys: &[], by_default: true },
    make: |_| Ok(Box::new(Prometheus)),
};

/// The first is beside the other documents of the admin server, the second where scrapers look.
const PATHS: [&str; 2] = ["/admin/metrics/prometheus", "/metrics"];

struct Prometheus;

impl Exporter for Prometheus {
    fn routes(&self, feed: &Feed) -> Router {
        let page = Arc::new(Page::default());
        PATHS.into_iter().fold(Router::new(), |router, path| {
            let (feed, page) = (feed.clone(), page.clone());
            router.route(path, get(async move |headers| answer(&feed, &page, &headers)))
        })
    }
}

fn answer(feed: &Feed, page: &Page, headers: &HeaderMap) -> Response {
    let format = Format::preferred(headers);
    let render = match format {
        Format::Text => text::render,
        Format::OpenMetrics1 | Format::OpenMetrics0 => openmetrics::render,
        Format::Protobuf => protobuf::render,
    };
    let mut response = page.answer(feed, format.key(), headers, format.content_type(), render);
    let varies = HeaderValue::from_static("Accept, Accept-Encoding");
    response.headers_mut().insert(header::VARY, varies);
    response
}
