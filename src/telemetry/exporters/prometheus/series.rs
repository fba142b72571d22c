//! The one pass over the state that every format is written from.
//!
//! Which series there are, their labels, values and buckets is decided here, so that formats
//! differ in their writing alone. Left out are metrics without a family (the sum of a family's
//! series would count them twice) and histograms that never saw a sample: most of most processes
//! never do, and each would be twenty lines of zeros. A family without any series is left out
//! whole.
//!
//! Invariant: the series of a family come one after the other, and `family` comes before them.

use std::ptr;

use crate::telemetry::distribution::{Distribution, Exemplar};
use crate::telemetry::names::{Info, Kind, Unit, Value};
use crate::telemetry::state::{Scope, State};

/// Writes what it is handed, in the order in which it is handed it.
pub(super) trait Writer {
    /// A family begins; at least one series of it follows, the first of this scope and the others
    /// of scopes of its kind.
    fn family(&mut self, info: &'static Info, scope: &Scope);

    fn number(&mut self, info: &'static Info, labels: &Labels<'_>, number: Number);

    /// `buckets` are the classic ones, of the same samples as the distribution.
    fn histogram(
        &mut self,
        info: &'static Info,
        labels: &Labels<'_>,
        distribution: &Distribution,
        buckets: &Buckets,
    );
}

/// A value of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Counter(u64),
    /// In seconds.
    TimeCounter(f64),
    /// The 1 of an info, too.
    Gauge(f64),
}

/// A scope's labels, and the one that tells the parts of a family from each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Labels<'a> {
    scope: &'a [(&'static str, String)],
    part: Option<(&'static str, &'a str)>,
}

impl<'a> Labels<'a> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let scope = self.scope.iter().map(|(name, value)| (*name, value.as_str()));
        scope.chain(self.part)
    }
}

/// Classic buckets: one for each bound of the family, and +Inf.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// How many samples are no greater than the bound. The last is all of them.
    pub(super) cumulative: Vec<u64>,
    /// An exemplar between the bound before and this one, if it is the newest of all that may have
    /// taken the place of one in this bucket: so that none is ever followed by an older one, which
    /// Prometheus would refuse.
    pub(super) exemplars: Vec<Option<Exemplar>>,
}

impl Buckets {
    /// Samples are booked where the median of their HDR bucket is, which errs by less than 0.5 %.
    fn fill(&mut self, bounds: &[u64], distribution: &Distribution) {
        self.cumulative.clear();
        let mut below = 0;
        for (median, count) in distribution.buckets() {
            while bounds.get(self.cumulative.len()).is_some_and(|bound| *bound < median) {
                self.cumulative.push(below);
            }
            below += count;
        }
        self.cumulative.resize(bounds.len() + 1, below);
        self.exemplars.clear();
        self.exemplars.resize(bounds.len() + 1, None);
        for exemplar in distribution.exemplars() {
            let (least, most) = exemplar.reach();
            let bucket = |value| bounds.partition_point(|bound| *bound < value);
            for kept in &mut self.exemplars[bucket(least)..=bucket(most)] {
                if kept.is_none_or(|kept| kept.at_ms() < exemplar.at_ms()) {
                    *kept = Some(*exemplar);
                }
            }
        }
        for (at, kept) in self.exemplars.iter_mut().enumerate() {
            *kept = kept.filter(|it| bounds.partition_point(|bound| *bound < it.value) == at);
        }
    }
}

/// Hands everything there is to a writer.
pub(super) fn write(state: &State, writer: &mut impl Writer) {
    let mut begun: Option<&'static Info> = None;
    let mut buckets = Buckets::default();
    state.by_family(&mut |info: &'static Info, scope: &Scope, value: Value<'_>| {
        if info.family.is_empty() || !has_series(&value) {
            return;
        }
        if !begun.is_some_and(|begun| ptr::eq(begun, info)) {
            begun = Some(info);
            writer.family(info, scope);
        }
        let labels = |part| Labels { scope: &scope.labels, part };
        match (value, info.kind) {
            (Value::Counter(count), _) if info.unit == Unit::Plain => {
                writer.number(info, &labels(None), Number::Counter(count));
            }
            (Value::Counter(count), _) => {
                let seconds = scaled(count as f64, info.unit);
                writer.number(info, &labels(None), Number::TimeCounter(seconds));
            }
            (Value::Gauge(value), _) => {
                writer.number(info, &labels(None), Number::Gauge(scaled(value, info.unit)));
            }
            (Value::Split(split), Kind::Split(label)) => {
                for (part, count) in split.iter() {
                    writer.number(info, &labels(Some((label, part))), Number::Counter(count));
                }
            }
            (Value::Info(word), Kind::Info(label)) => {
                writer.number(info, &labels(Some((label, word))), Number::Gauge(1.0));
            }
            (Value::Histogram(distribution), Kind::Histogram(bounds)) => {
                buckets.fill(bounds, distribution);
                writer.histogram(info, &labels(None), distribution, &buckets);
            }
            (value, kind) => debug_assert!(false, "{}: {value:?} is no {kind:?}", info.family),
        }
    });
}

fn has_series(value: &Value<'_>) -> bool {
    match value {
        Value::Histogram(distribution) => distribution.count() > 0,
        Value::Split(split) => split.iter().next().is_some(),
        Value::Counter(_) | Value::Gauge(_) | Value::Info(_) => true,
    }
}

/// A kept value in Prometheus's unit. Divided by the whole number that the unit's factor is one
/// part of: 300 times 1e-6 is 0.0003 less a hair, which nobody wants to read in a bound.
pub(super) fn scaled(value: f64, unit: Unit) -> f64 {
    value / unit.per_prometheus()
}

/// The unit at the end of a family's name, where there is one; `name` has no `_total` any more.
pub(super) fn unit(name: &str) -> Option<&'static str> {
    ["seconds", "bytes"]
        .into_iter()
        .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}
