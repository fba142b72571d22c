//! Protobuf: `io.prometheus.client.MetricFamily`, each with its length before it.
//!
//! Prometheus takes native histograms in no other format. A histogram carries its classic buckets
//! too, for servers that do not store native ones. The messages are those of `metrics.proto` in
//! prometheus/client_model, as far as anything here has them, so that no protoc is needed.

use prost::Message;

use super::native::{self, Native};
use super::series::{self, Buckets, Labels, Number, Writer};
use crate::telemetry::distribution;
use crate::telemetry::distribution::Distribution;
use crate::telemetry::names::{Info, Kind, Unit};
use crate::telemetry::state::{Scope, State};

pub(super) fn render(state: &State) -> Vec<u8> {
    let mut families = Families::default();
    series::write(state, &mut families);
    families.end();
    families.out
}

#[derive(Default)]
struct Families {
    out: Vec<u8>,
    /// The one that series are being added to, without them.
    family: Option<MetricFamily>,
    /// Its series as they come in the message, so that they are not kept twice.
    series: Vec<u8>,
}

impl Families {
    fn end(&mut self) {
        let Some(family) = self.family.take() else { return };
        let length = family.encoded_len() + self.series.len();
        prost::encode_length_delimiter(length, &mut self.out).expect("a Vec grows");
        family.encode_raw(&mut self.out);
        self.out.append(&mut self.series);
    }

    fn push(&mut self, labels: &Labels<'_>, metric: Metric) {
        let pair = |(name, value): (&str, &str)| LabelPair {
            name: Some(name.to_owned()),
            value: Some(value.to_owned()),
        };
        let metric = Metric { label: labels.iter().map(pair).collect(), ..metric };
        prost::encoding::message::encode(METRIC_TAG, &metric, &mut self.series);
    }
}

impl Writer for Families {
    fn family(&mut self, info: &'static Info, _: &Scope) {
        self.end();
        let kind = match info.kind {
            Kind::Counter | Kind::Split(_) => MetricType::Counter,
            Kind::Gauge | Kind::Info(_) => MetricType::Gauge,
            Kind::Histogram(_) => MetricType::Histogram,
        };
        let name = info.family.strip_suffix("_total").unwrap_or(info.family);
        self.family = Some(MetricFamily {
            name: Some(info.family.to_owned()),
            help: Some(info.help.to_owned()),
            r#type: Some(kind as i32),
            metric: Vec::new(),
            unit: series::unit(name).map(str::to_owned),
        });
    }

    fn number(&mut self, _info: &'static Info, labels: &Labels<'_>, number: Number) {
        let counter = |value| Metric {
            counter: Some(Counter { value: Some(value), exemplar: None }),
            ..Metric::default()
        };
        let metric = match number {
            Number::Counter(count) => counter(count as f64),
            Number::TimeCounter(seconds) => counter(seconds),
            Number::Gauge(value) => {
                Metric { gauge: Some(Gauge { value: Some(value) }), ..Metric::default() }
            }
        };
        self.push(labels, metric);
    }

    fn histogram(
        &mut self,
        info: &'static Info,
        labels: &Labels<'_>,
        distribution: &Distribution,
        buckets: &Buckets,
    ) {
        let histogram = Some(histogram(info, distribution, buckets));
        self.push(labels, Metric { histogram, ..Metric::default() });
    }
}

fn histogram(info: &Info, distribution: &Distribution, buckets: &Buckets) -> Histogram {
    let Kind::Histogram(bounds) = info.kind else { return Histogram::default() };
    let native = Native::of(distribution, info.unit);
    let bounds = bounds.iter().map(|bound| series::scaled(*bound as f64, info.unit));
    // Who takes native histograms has one series for all of them, and some (Prometheus 2.42) look
    // for exemplars among the buckets: the newest alone is newer than all before it.
    let newest = buckets.exemplars.iter().flatten().map(distribution::Exemplar::at_ms).max();
    let exemplars = buckets.exemplars.iter();
    let exemplars = exemplars.map(|it| it.filter(|it| Some(it.at_ms()) == newest));
    let counts = buckets.cumulative.iter().zip(exemplars);
    let bucket = |(bound, (count, exemplar)): (f64, (&u64, Option<_>))| Bucket {
        cumulative_count: Some(*count),
        upper_bound: Some(bound),
        exemplar: exemplar.as_ref().map(|it| message(it, info.unit)),
    };
    let mut in_order: Vec<_> = distribution.exemplars().collect();
    in_order.sort_by_key(|it| it.at_ms());
    let span =
        |span: &native::Span| BucketSpan { offset: Some(span.offset), length: Some(span.length) };
    Histogram {
        sample_count: Some(distribution.count()),
        sample_sum: Some(series::scaled(distribution.sum() as f64, info.unit)),
        bucket: bounds.chain([f64::INFINITY]).zip(counts).map(bucket).collect(),
        schema: Some(native::SCHEMA),
        zero_threshold: Some(native::ZERO_THRESHOLD),
        zero_count: Some(native.zero_count),
        negative_span: Vec::new(),
        negative_delta: Vec::new(),
        positive_span: native.spans.iter().map(span).collect(),
        positive_delta: native.deltas,
        exemplars: in_order.into_iter().map(|it| message(it, info.unit)).collect(),
    }
}

fn message(exemplar: &distribution::Exemplar, unit: Unit) -> Exemplar {
    let at_ms = exemplar.at_ms();
    Exemplar {
        label: vec![LabelPair {
            name: Some("trace_id".to_owned()),
            value: Some(format!("{:032x}", exemplar.trace_id)),
        }],
        value: Some(series::scaled(exemplar.value as f64, unit)),
        timestamp: Some(Timestamp {
            seconds: at_ms.div_euclid(1000),
            nanos: at_ms.rem_euclid(1000) as i32 * 1_000_000,
        }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

/// Of `metric` in `MetricFamily`.
const METRIC_TAG: u32 = 4;

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub(super) r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    pub(super) unit: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(super) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Gauge {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Counter {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
    #[prost(message, optional, tag = "2")]
    pub(super) exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(super) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "9")]
    pub(super) negative_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "10")]
    pub(super) negative_delta: Vec<i64>,
    #[prost(message, repeated, tag = "12")]
    pub(super) positive_span: Vec<BucketSpan>,
    /// Not packed: the file is proto2, which has them one by one.
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub(super) positive_delta: Vec<i64>,
    #[prost(message, repeated, tag = "16")]
    pub(super) exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(super) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(super) exemplar: Option<Exemplar>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub(super) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    pub(super) label: Vec<LabelPair>,
    #[prost(double, optional, tag = "2")]
    pub(super) value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(super) timestamp: Option<Timestamp>,
}

/// google.protobuf.Timestamp, which is proto3.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}
