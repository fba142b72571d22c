//! `telemetry.tracing`: how a trace goes on, and which requests are recorded besides those sampled.
//!
//! The share of requests that is sampled belongs to the exporters that take spans (`sample_rate`).
//! A trace is recorded or it is not, so the highest of them holds for all.

use super::errors::Path;
use super::exporters::ExporterSettings;
use super::leaves::Check;
use super::raw::{self, Leaf};
use super::{Propagation, Tracing};

const PROPAGATE: [Propagation; 2] = [Propagation::B3Multi, Propagation::W3c];
const FORMS: [(&str, Propagation); 4] = [
    ("b3_single", Propagation::B3Single),
    ("b3_multi", Propagation::B3Multi),
    ("w3c", Propagation::W3c),
    ("linkerd", Propagation::Linkerd),
];
/// Some 5,000 requests a second: enough to see everything of most processes, and no flood.
const MAX_SPANS_PER_SEC: u64 = 10_000;
const KEEP_FAILED: bool = true;
const KEEP_RETRIED: bool = true;
/// 0: none is kept for that.
const KEEP_SLOWER_THAN_MS: u64 = 0;

/// `exporters`: those of the same section, defaults included.
pub(super) fn tracing(
    raw: &raw::Tracing,
    at: &Path,
    exporters: &[ExporterSettings],
    check: &mut Check,
) -> Tracing {
    let key = |name| at.key(name);
    let rates = exporters.iter().filter_map(|it| it.share("sample_rate"));
    let cap = check.number(
        &key("max_spans_per_sec"),
        &raw.max_spans_per_sec,
        MAX_SPANS_PER_SEC,
        0..=10_000_000,
    );
    Tracing {
        propagate: propagate(raw.propagate.as_deref(), &key("propagate"), check),
        sample_rate: rates.reduce(f64::max),
        max_spans_per_sec: (cap > 0).then_some(cap as u32),
        keep_failed: check.flag(&key("keep_failed"), &raw.keep_failed, KEEP_FAILED),
        keep_retried: check.flag(&key("keep_retried"), &raw.keep_retried, KEEP_RETRIED),
        keep_slower_than: check.millis_or_none(
            &key("keep_slower_than_ms"),
            &raw.keep_slower_than_ms,
            KEEP_SLOWER_THAN_MS,
        ),
        recent_requests: exporters.iter().filter_map(ExporterSettings::recents).max().unwrap_or(0),
    }
}

fn propagate(raw: Option<&[Leaf]>, at: &Path, check: &mut Check) -> Vec<Propagation> {
    let Some(raw) = raw else { return PROPAGATE.to_vec() };
    let mut forms: Vec<Propagation> = Vec::new();
    for (i, leaf) in raw.iter().enumerate() {
        let at = at.index(i);
        if leaf.is_none() {
            check.missing(&at, "b3_single, b3_multi, w3c, linkerd");
        }
        let form = check.word(&at, leaf, PROPAGATE[0], &FORMS);
        if !forms.contains(&form) {
            forms.push(form);
        }
    }
    forms
}

impl Propagation {
    /// As it is written.
    pub fn name(self) -> &'static str {
        FORMS.iter().find(|(_, form)| *form == self).map_or("", |(name, _)| name)
    }
}
