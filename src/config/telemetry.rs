//! `telemetry`: how often shards report, and to whom.

use std::time::Duration;

use super::errors::Path;
use super::exporters::{self, ExporterSpec};
use super::leaves::Check;
use super::{Telemetry, raw, traces};

const FLUSH_INTERVAL_MS: u64 = 1_000;
/// Endpoints of a service, or status codes of a server, beyond which there is `other`.
const MAX_SERIES: u64 = 1_000;
/// Linkerd kept series of what it did not use any more for 10 minutes.
const SERIES_TTL_MS: u64 = 600_000;

/// `None`: `telemetry: off`.
pub(super) fn telemetry(
    raw: &raw::Telemetry,
    at: &Path,
    specs: &[&'static ExporterSpec],
    check: &mut Check,
) -> Option<Telemetry> {
    if check.is_off(raw.word.as_deref(), at) {
        return None;
    }
    let interval_ms = check.number(
        &at.key("flush_interval_ms"),
        &raw.flush_interval_ms,
        FLUSH_INTERVAL_MS,
        10..=60_000,
    );
    let max_series =
        check.number(&at.key("max_series"), &raw.max_series, MAX_SERIES, 10..=100_000) as usize;
    let exporters = raw.exporters.as_deref();
    let exporters = exporters::exporters(exporters, &at.key("exporters"), specs, check);
    Some(Telemetry {
        flush_interval: Duration::from_millis(interval_ms),
        max_series,
        series_ttl: check.millis(&at.key("series_ttl_ms"), &raw.series_ttl_ms, SERIES_TTL_MS),
        tracing: traces::tracing(&raw.tracing.0, &at.key("tracing"), &exporters, check),
        exporters,
    })
}
