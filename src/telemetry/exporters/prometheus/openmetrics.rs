//! OpenMetrics 1.0.
//!
//! Besides the text format's it has units, types for what is only told (`info`), and exemplars. A
//! family's name there is without the suffix that its samples have: `_total`, `_info`. Written here
//! alone, since the crate that the text format uses knows none of this.

use super::lines::Lines;
use super::series::{self, Buckets, Labels, Number, Writer};
use crate::telemetry::distribution::Distribution;
use crate::telemetry::names::{Info, Kind};
use crate::telemetry::state::{Scope, State};

pub(super) fn render(state: &State) -> Vec<u8> {
    let mut lines = Lines::default();
    series::write(state, &mut OpenMetrics { lines: &mut lines });
    let mut document = lines.finish();
    document.extend_from_slice(b"# EOF\n");
    document
}

struct OpenMetrics<'a> {
    lines: &'a mut Lines,
}

impl Writer for OpenMetrics<'_> {
    fn family(&mut self, info: &'static Info, _: &Scope) {
        let name = name(info);
        let kind = match info.kind {
            Kind::Counter | Kind::Split(_) => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
            Kind::Info(_) => "info",
        };
        self.lines.metadata("TYPE", name, kind);
        if let Some(unit) = series::unit(name) {
            self.lines.metadata("UNIT", name, unit);
        }
        let help = info.help.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        self.lines.metadata("HELP", name, &help);
        self.lines.set_bounds(info);
    }

    fn number(&mut self, info: &'static Info, labels: &Labels<'_>, number: Number) {
        match number {
            Number::Counter(count) => self.lines.integer(info.family, "", labels, count),
            Number::TimeCounter(value) | Number::Gauge(value) => {
                self.lines.float(info.family, "", labels, value);
            }
        }
    }

    fn histogram(
        &mut self,
        info: &'static Info,
        labels: &Labels<'_>,
        distribution: &Distribution,
        buckets: &Buckets,
    ) {
        self.lines.histogram(info, labels, distribution, buckets, true);
    }
}

/// A family's name: that of its samples without their suffix.
fn name(info: &'static Info) -> &'static str {
    let suffix = match info.kind {
        Kind::Counter | Kind::Split(_) => "_total",
        Kind::Info(_) => "_info",
        Kind::Gauge | Kind::Histogram(_) => "",
    };
    info.family.strip_suffix(suffix).unwrap_or(info.family)
}
