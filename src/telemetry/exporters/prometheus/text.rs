//! The text format, version 0.0.4.
//!
//! Counters, gauges and their HELP and TYPE are the crate's: `metrics-exporter-prometheus` with a
//! recorder of its own for each rendering, so that what went is not shown any more, and nothing is
//! global. Three kinds of family are written here, after what it wrote:
//!
//! - Histograms. The crate takes samples one at a time and reads a clock for each; a merged
//!   distribution of a million samples cannot be played back to it.
//! - Counters of time. They are fractions of a second, and the crate's counters are whole numbers.
//! - Families of services, clients and endpoints, whose series grow with the configuration. The
//!   crate copies every label several times: 14,000 series (200 services of five endpoints each)
//!   took it 60 ms of the 50 that a scrape may take (`benches/scrapes.rs`), and 8 ms here.
//!
//! The crate takes a backslash in a label's value for the beginning of an escape where it could be
//! one. Doubled ones it understands, so they are doubled before it gets them.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::lines::Lines;
use super::series::{self, Buckets, Labels, Number, Writer};
use crate::telemetry::distribution::Distribution;
use crate::telemetry::names::{Info, Kind, Unit};
use crate::telemetry::state::{Scope, State};

/// The crate does not look at it.
static METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, None);

pub(super) fn render(state: &State) -> Vec<u8> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let mut text = Text { recorder, lines: Lines::default(), is_crates: false };
    series::write(state, &mut text);
    let mut document = Vec::new();
    text.recorder.handle().render_to_write(&mut document).expect("a Vec grows");
    document.extend_from_slice(&text.lines.finish());
    document
}

struct Text {
    recorder: PrometheusRecorder,
    /// What the crate does not write.
    lines: Lines,
    /// The family that is being written is the crate's.
    is_crates: bool,
}

impl Writer for Text {
    fn family(&mut self, info: &'static Info, scope: &Scope) {
        let grows = matches!(scope.kind(), "service" | "client" | "endpoint");
        let is_of_time = info.unit != Unit::Plain;
        let name = KeyName::from_const_str(info.family);
        let help = SharedString::const_str(info.help);
        self.is_crates = true;
        match info.kind {
            Kind::Counter | Kind::Split(_) if !is_of_time && !grows => {
                self.recorder.describe_counter(name, None, help);
            }
            Kind::Gauge | Kind::Info(_) if !grows => {
                self.recorder.describe_gauge(name, None, help);
            }
            Kind::Counter | Kind::Split(_) => self.begin(info, "counter"),
            Kind::Gauge | Kind::Info(_) => self.begin(info, "gauge"),
            Kind::Histogram(_) => self.begin(info, "histogram"),
        }
    }

    fn number(&mut self, info: &'static Info, labels: &Labels<'_>, number: Number) {
        match number {
            Number::Counter(count) if self.is_crates => {
                self.recorder.register_counter(&key(info, labels), &METADATA).absolute(count);
            }
            Number::Gauge(value) if self.is_crates => {
                self.recorder.register_gauge(&key(info, labels), &METADATA).set(value);
            }
            Number::Counter(count) => self.lines.integer(info.family, "", labels, count),
            Number::Gauge(value) | Number::TimeCounter(value) => {
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
        self.lines.histogram(info, labels, distribution, buckets, false);
    }
}

impl Text {
    fn begin(&mut self, info: &'static Info, kind: &str) {
        self.is_crates = false;
        let help = info.help.replace('\\', "\\\\").replace('\n', "\\n");
        self.lines.metadata("HELP", info.family, &help);
        self.lines.metadata("TYPE", info.family, kind);
        self.lines.set_bounds(info);
    }
}

fn key(info: &'static Info, labels: &Labels<'_>) -> Key {
    let value = |value: &str| match value.contains('\\') {
        true => value.replace('\\', "\\\\"),
        false => value.to_owned(),
    };
    let labels: Vec<Label> =
        labels.iter().map(|(name, text)| Label::new(name, value(text))).collect();
    Key::from_parts(info.family, labels)
}
