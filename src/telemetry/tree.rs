//! The state as a tree of single values, with the keys that `/admin/metrics.json` shows. statsd
//! and InfluxDB name things by the same tree.

use super::distribution::{Distribution, QUANTILES, Summary};
use super::names::{Info, Unit, Value};
use super::state::{Scope, State};

/// A value at a leaf.
#[derive(Clone, Copy, Debug)]
pub enum Leaf<'a> {
    Counter(u64),
    /// A counter of time, in the tree's unit.
    FloatCounter(f64),
    Gauge(f64),
    /// In the unit that is kept, with how many of those make one in the tree.
    Stat(&'a Distribution, f64),
}

impl State {
    /// Every leaf: its scope, and its key below each of the scope's paths.
    pub fn leaves(&self, each: &mut dyn FnMut(&Scope, &str, Leaf<'_>)) {
        self.by_scope(&mut |info: &'static Info, scope: &Scope, value: Value<'_>| {
            let per = info.unit.per_tree();
            match value {
                Value::Counter(count) if info.unit == Unit::Plain => {
                    each(scope, info.key, Leaf::Counter(count));
                }
                Value::Counter(count) => {
                    each(scope, info.key, Leaf::FloatCounter(count as f64 / per));
                }
                Value::Gauge(value) => each(scope, info.key, Leaf::Gauge(value / per)),
                Value::Histogram(distribution) => {
                    each(scope, info.key, Leaf::Stat(distribution, per));
                }
                Value::Info(word) => {
                    each(scope, &format!("{}/{word}", info.key), Leaf::Gauge(1.0));
                }
                Value::Split(split) => {
                    for (label, count) in split.iter() {
                        each(scope, &format!("{}/{label}", info.key), Leaf::Counter(count));
                    }
                    for (class, count) in split.classes() {
                        each(scope, &format!("{}/{class}XX", info.key), Leaf::Counter(count));
                    }
                }
            }
        });
    }
}

/// Which samples a summary is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last minute, as Linkerd had it, but fresh with every flush.
    Recent,
    /// Since the start.
    Total,
}

/// A distribution's figures, in the tree's unit.
pub fn summary(distribution: &Distribution, window: Window) -> Summary {
    match window {
        Window::Recent => distribution.recent(),
        Window::Total => distribution.total(),
    }
}

/// The names and values of a summary, in the order that they are written; only the count of an
/// empty one.
pub fn figures(summary: &Summary, per: f64, each: &mut dyn FnMut(&'static str, f64)) {
    each("count", summary.count as f64);
    if summary.count == 0 {
        return;
    }
    each("sum", summary.sum as f64 / per);
    each("min", summary.min as f64 / per);
    each("max", summary.max as f64 / per);
    each("avg", summary.avg / per);
    each("stddev", summary.stddev / per);
    for ((name, _), value) in QUANTILES.iter().zip(summary.quantiles) {
        each(name, value / per);
    }
}
