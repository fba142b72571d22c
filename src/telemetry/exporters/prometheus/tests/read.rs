//! Readers of the three formats, stricter than any scraper: they panic at whatever a format does
//! not allow, and at what it allows but nothing here should write.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::super::protobuf::{self, MetricFamily};

/// By the name that samples of counters and infos have; other names are the family's own.
pub(super) type Families = BTreeMap<String, Family>;

pub(super) type LabelSet = BTreeMap<String, String>;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Family {
    /// As the text format has it: an info is a gauge.
    pub(super) kind: String,
    pub(super) help: String,
    pub(super) unit: Option<String>,
    pub(super) series: BTreeMap<LabelSet, Reading>,
    pub(super) exemplars: Vec<Exemplar>,
    /// Of protobuf alone: those that no bucket has.
    pub(super) native_exemplars: Vec<Exemplar>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    Number(f64),
    /// Buckets by their bounds, cumulative.
    Histogram {
        count: u64,
        sum: f64,
        buckets: Vec<(f64, u64)>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exemplar {
    /// Of the bucket that it is on.
    pub(super) bound: f64,
    pub(super) id: String,
    pub(super) value: f64,
    pub(super) at_ms: i64,
}

/// The value of the series with these labels.
pub(super) fn series<'a>(
    families: &'a Families,
    name: &str,
    labels: &[(&str, &str)],
) -> &'a Reading {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let labels: LabelSet = labels.iter().map(own).collect();
    let family = families.get(name).unwrap_or_else(|| panic!("no family {name}"));
    family.series.get(&labels).unwrap_or_else(|| panic!("{name} has no series {labels:?}"))
}

pub(super) fn text(document: &str) -> Families {
    let mut reader = Reader::new(false);
    assert!(document.ends_with('\n'));
    document.lines().filter(|line| !line.is_empty()).for_each(|line| reader.line(line));
    reader.finish()
}

pub(super) fn openmetrics(document: &str) -> Families {
    let mut reader = Reader::new(true);
    let body = document.strip_suffix("# EOF\n").expect("the end is marked");
    assert!(body.ends_with('\n'));
    body.lines().for_each(|line| reader.line(line));
    reader.finish()
}

/// A histogram of which lines are still to come.
#[derive(Debug)]
struct Open {
    labels: LabelSet,
    buckets: Vec<(f64, u64)>,
    sum: Option<f64>,
}

struct Reader {
    is_open_metrics: bool,
    families: Families,
    /// Names of families that have begun, so that none begins twice.
    begun: BTreeSet<String>,
    name: String,
    kind: Option<String>,
    help: Option<String>,
    unit: Option<String>,
    histogram: Option<Open>,
}

impl Reader {
    fn new(is_open_metrics: bool) -> Reader {
        Reader {
            is_open_metrics,
            families: Families::new(),
            begun: BTreeSet::new(),
            name: String::new(),
            kind: None,
            help: None,
            unit: None,
            histogram: None,
        }
    }

    fn finish(mut self) -> Families {
        self.end_family();
        self.families
    }

    fn line(&mut self, line: &str) {
        match line.strip_prefix("# ") {
            Some(metadata) => self.metadata(metadata),
            None => self.sample(line),
        }
    }

    fn metadata(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (what, name) = (words.next().unwrap(), words.next().expect("a name"));
        let text = words.next().expect("a text");
        if name != self.name {
            self.end_family();
            assert!(self.begun.insert(name.to_owned()), "{name} begins twice");
            self.name = name.to_owned();
        }
        assert!(!self.families.contains_key(&self.key()), "{line} after samples");
        let place = match what {
            "HELP" => &mut self.help,
            "TYPE" => &mut self.kind,
            "UNIT" if self.is_open_metrics => &mut self.unit,
            _ => panic!("what is {line}"),
        };
        assert_eq!(*place, None, "{line} comes twice");
        *place = Some(text.to_owned());
    }

    fn end_family(&mut self) {
        assert!(self.histogram.is_none(), "{} has half a histogram", self.name);
        if self.name.is_empty() {
            return;
        }
        let key = self.key();
        assert!(self.families.contains_key(&key), "{key} has no series");
        (self.kind, self.help, self.unit) = (None, None, None);
    }

    /// The family's name as `Families` has it.
    fn key(&self) -> String {
        let suffix = match self.kind.as_deref() {
            Some("counter") if self.is_open_metrics => "_total",
            Some("info") => "_info",
            _ => "",
        };
        format!("{}{suffix}", self.name)
    }

    fn sample(&mut self, line: &str) {
        let key = self.key();
        let kind = self.kind.clone().expect("a type before its samples");
        let help = self.help.clone().expect("help before its samples");
        assert!(help.ends_with('.') && !help.contains('\\'), "{help}");
        let mut rest = line;
        let name = take(&mut rest, |c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
        let mut labels = labels(&mut rest);
        rest = rest.strip_prefix(' ').expect("a space before the value");
        let (value, exemplar) = match rest.split_once(" # ") {
            Some((value, exemplar)) => (value, Some(exemplar)),
            None => (rest, None),
        };
        let family = self.families.entry(key.clone()).or_insert_with(|| Family {
            kind: if kind == "info" { "gauge".to_owned() } else { kind.clone() },
            help,
            unit: self.unit.clone(),
            ..Family::default()
        });
        if kind != "histogram" {
            assert_eq!(name, key, "{line}");
            assert_eq!(exemplar, None);
            let number = Reading::Number(number(value));
            assert_eq!(family.series.insert(labels, number), None, "{line} comes twice");
            return;
        }
        let bound = labels.remove("le");
        let open = self.histogram.get_or_insert_with(|| Open {
            labels: labels.clone(),
            buckets: Vec::new(),
            sum: None,
        });
        assert_eq!(open.labels, labels, "{line} within another histogram");
        match (name.strip_prefix(&key).expect("the family's name"), bound) {
            ("_bucket", Some(bound)) => {
                let bound = if bound == "+Inf" { f64::INFINITY } else { number(&bound) };
                let before = open.buckets.last().copied();
                family.exemplars.extend(exemplar.map(|it| read_exemplar(it, before, bound)));
                open.buckets.push((bound, value.parse().expect("a count")));
            }
            ("_sum", None) => assert_eq!(open.sum.replace(number(value)), None),
            ("_count", None) => {
                let Open { labels, buckets, sum } = self.histogram.take().unwrap();
                let count = value.parse().expect("a count");
                let sum = sum.expect("a sum before the count");
                let reading = histogram(count, sum, buckets);
                assert_eq!(family.series.insert(labels, reading), None, "{line} comes twice");
            }
            other => panic!("{line}: what is {other:?}"),
        }
    }
}

fn histogram(count: u64, sum: f64, buckets: Vec<(f64, u64)>) -> Reading {
    assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)));
    Reading::Histogram { count, sum, buckets }
}

/// `{trace_id="..."} value timestamp`, on a bucket above `before` and up to `bound`.
fn read_exemplar(mut text: &str, before: Option<(f64, u64)>, bound: f64) -> Exemplar {
    let labels = labels(&mut text);
    assert_eq!(labels.len(), 1);
    let id = labels["trace_id"].clone();
    assert!(id.len() == 32 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{id}");
    let mut words = text.strip_prefix(' ').expect("a space").split(' ');
    let value = number(words.next().unwrap());
    let (secs, ms) = words.next().expect("a time").split_once('.').expect("a fraction");
    assert_eq!((ms.len(), words.next()), (3, None));
    let at_ms = secs.parse::<i64>().unwrap() * 1000 + ms.parse::<i64>().unwrap();
    assert!(before.is_none_or(|(before, _)| before < value) && value <= bound, "{value}");
    Exemplar { bound, id, value, at_ms }
}

/// `{a="b",c="d"}`, or nothing.
fn labels(rest: &mut &str) -> LabelSet {
    let mut labels = LabelSet::new();
    let Some(mut inner) = rest.strip_prefix('{') else { return labels };
    loop {
        let name = take(&mut inner, |c| c.is_ascii_lowercase() || c == '_');
        assert!(!name.is_empty() && !name.starts_with("__"), "a label's name before {inner}");
        inner = inner.strip_prefix("=\"").expect("a value");
        let mut value = String::new();
        let mut characters = inner.char_indices();
        let end = loop {
            match characters.next().expect("an end of the value") {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next().expect("an escape").1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    other => panic!("\\{other} is no escape"),
                }),
                (_, character) => value.push(character),
            }
        };
        assert_eq!(labels.insert(name.to_owned(), value), None, "{name} comes twice");
        inner = &inner[end + 1..];
        if let Some(after) = inner.strip_prefix('}') {
            *rest = after;
            return labels;
        }
        inner = inner.strip_prefix(',').expect("a comma between labels");
    }
}

fn take<'a>(rest: &mut &'a str, wanted: fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

fn number(text: &str) -> f64 {
    let number: f64 = text.parse().unwrap_or_else(|_| panic!("{text} is no number"));
    assert!(number.is_finite(), "{text}");
    number
}

pub(super) fn messages(mut bytes: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !bytes.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut bytes).expect("a family"));
    }
    families
}

pub(super) fn protobuf(bytes: &[u8]) -> Families {
    let mut families = Families::new();
    for message in messages(bytes) {
        let mut family = Family {
            kind: match message.r#type() {
                protobuf::MetricType::Counter => "counter",
                protobuf::MetricType::Gauge => "gauge",
                protobuf::MetricType::Histogram => "histogram",
            }
            .to_owned(),
            help: message.help().to_owned(),
            unit: message.unit.clone(),
            ..Family::default()
        };
        for metric in &message.metric {
            let pairs = metric.label.iter();
            let labels: LabelSet =
                pairs.map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
            assert_eq!(labels.len(), metric.label.len(), "a label comes twice");
            let reading = reading(metric, &mut family);
            let duplicate = family.series.insert(labels, reading);
            assert_eq!(duplicate, None, "{} has a series twice", message.name());
        }
        assert!(!family.series.is_empty(), "{} is empty", message.name());
        let name = message.name().to_owned();
        assert!(families.insert(name, family).is_none(), "{} comes twice", message.name());
    }
    families
}

fn told_exemplar(it: &protobuf::Exemplar, bound: f64) -> Exemplar {
    let at = it.timestamp.expect("a time");
    Exemplar {
        bound,
        id: it.label[0].value().to_owned(),
        value: it.value(),
        at_ms: at.seconds * 1000 + i64::from(at.nanos / 1_000_000),
    }
}

fn reading(metric: &protobuf::Metric, family: &mut Family) -> Reading {
    match (&metric.counter, &metric.gauge, &metric.histogram) {
        (Some(counter), None, None) if family.kind == "counter" => Reading::Number(counter.value()),
        (None, Some(gauge), None) if family.kind == "gauge" => Reading::Number(gauge.value()),
        (None, None, Some(it)) if family.kind == "histogram" => {
            let mut buckets = Vec::new();
            for bucket in &it.bucket {
                let bound = bucket.upper_bound();
                let told = bucket.exemplar.as_ref().map(|it| told_exemplar(it, bound));
                family.exemplars.extend(told);
                buckets.push((bound, bucket.cumulative_count()));
            }
            let native = it.exemplars.iter().map(|it| {
                let bound = buckets.iter().map(|(bound, _)| *bound).find(|at| it.value() <= *at);
                told_exemplar(it, bound.expect("infinity"))
            });
            family.native_exemplars.extend(native);
            histogram(it.sample_count(), it.sample_sum(), buckets)
        }
        _ => panic!("{metric:?} is no {}", family.kind),
    }
}
