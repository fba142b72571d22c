//! What the metrics are called and how they are read: `tables` has them all, by scope.
//!
//! A row reads its value by a function, so that a metric is one row there and one field in `state`.

mod tables;

use tables::{
    BALANCER, BUDGET, CLIENT, ENDPOINT, HEAP, NODE, PROCESS, SERVER, SERVICE, SHARD, TELEMETRY,
};

use super::distribution::Distribution;
use super::state::{Scope, ServiceStats, Split, State};

/// What a value counts in, and so how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As it is: a count, bytes, a ratio.
    Plain,
    /// Kept in microseconds; milliseconds in the tree, seconds in Prometheus.
    Millis,
    /// Kept in microseconds, and so in the tree; seconds in Prometheus.
    Micros,
}

impl Unit {
    /// How many of what is kept make one in the tree. To be divided by: 235 times a thousandth is
    /// no 0.235 in binary.
    pub fn per_tree(self) -> f64 {
        match self {
            Unit::Plain | Unit::Micros => 1.0,
            Unit::Millis => 1e3,
        }
    }

    /// How many of what is kept make one in Prometheus.
    pub fn per_prometheus(self) -> f64 {
        match self {
            Unit::Plain => 1.0,
            Unit::Millis | Unit::Micros => 1e6,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its classic buckets, in the unit that is kept.
    Histogram(&'static [u64]),
    /// A counter for each value of this label.
    Split(&'static str),
    /// Always 1; what it says is the value of this label.
    Info(&'static str),
}

/// A metric apart from its value.
#[derive(Debug, PartialEq)]
pub struct Info {
    /// Below the path of its scope.
    pub key: &'static str,
    /// The family's full name; empty for what is in the tree alone, because the family of its
    /// parts adds up to it.
    pub family: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub unit: Unit,
}

/// A metric's value, by its kind.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Counter(u64),
    Gauge(f64),
    Histogram(&'a Distribution),
    Split(&'a Split),
    Info(&'static str),
}

/// A row of a table.
pub struct Metric<S> {
    pub info: Info,
    read: for<'a> fn(&'a S) -> Value<'a>,
}

/// Receives metrics.
pub trait Visitor {
    fn visit(&mut self, info: &'static Info, scope: &Scope, value: Value<'_>);
}

impl<F: FnMut(&'static Info, &Scope, Value<'_>)> Visitor for F {
    fn visit(&mut self, info: &'static Info, scope: &Scope, value: Value<'_>) {
        self(info, scope, value);
    }
}

impl State {
    /// Every value, family by family, which is the order that Prometheus needs.
    pub fn by_family(&self, visitor: &mut dyn Visitor) {
        families(SERVER, &|| Box::new(self.servers()), |it| &it.scope, visitor);
        families(SERVICE, &|| Box::new(self.targets()), |it| &it.service_scope, visitor);
        families(CLIENT, &|| Box::new(self.targets()), |it| &it.client_scope, visitor);
        families(BALANCER, &|| Box::new(self.services.iter()), |it| &it.scope, visitor);
        families(BUDGET, &|| Box::new(self.services.iter()), |it| &it.service_scope, visitor);
        families(ENDPOINT, &|| Box::new(self.endpoints()), |it| &it.scope, visitor);
        let nodes = || self.services.iter().flat_map(ServiceStats::series);
        families(NODE, &|| Box::new(nodes()), |it| &it.scope, visitor);
        families(SHARD, &|| Box::new(self.shards.iter()), |it| &it.scope, visitor);
        families(PROCESS, &|| Box::new([&self.process].into_iter()), |it| &it.scope, visitor);
        let heap = || [&self.process].into_iter().filter(|process| process.heap.is_some());
        families(HEAP, &|| Box::new(heap()), |it| &it.heap_scope, visitor);
        families(TELEMETRY, &|| Box::new([&self.telemetry].into_iter()), |it| &it.scope, visitor);
    }

    /// Every value, scope by scope, which is how a reader of the tree wants them.
    pub fn by_scope(&self, visitor: &mut dyn Visitor) {
        self.servers().for_each(|it| row(SERVER, it, &it.scope, visitor));
        self.targets().for_each(|it| row(SERVICE, it, &it.service_scope, visitor));
        self.targets().for_each(|it| row(CLIENT, it, &it.client_scope, visitor));
        for service in &self.services {
            row(BALANCER, service, &service.scope, visitor);
            row(BUDGET, service, &service.service_scope, visitor);
            service.series().for_each(|it| row(NODE, it, &it.scope, visitor));
        }
        self.endpoints().for_each(|it| row(ENDPOINT, it, &it.scope, visitor));
        self.shards.iter().for_each(|it| row(SHARD, it, &it.scope, visitor));
        row(PROCESS, &self.process, &self.process.scope, visitor);
        if self.process.heap.is_some() {
            row(HEAP, &self.process, &self.process.heap_scope, visitor);
        }
        row(TELEMETRY, &self.telemetry, &self.telemetry.scope, visitor);
    }
}

type Each<'a, S> = Box<dyn Iterator<Item = &'a S> + 'a>;

fn families<'a, S: 'a>(
    table: &'static [Metric<S>],
    each: &dyn Fn() -> Each<'a, S>,
    scope: fn(&S) -> &Scope,
    visitor: &mut dyn Visitor,
) {
    for metric in table {
        for it in each() {
            visitor.visit(&metric.info, scope(it), (metric.read)(it));
        }
    }
}

fn row<S>(table: &'static [Metric<S>], it: &S, scope: &Scope, visitor: &mut dyn Visitor) {
    for metric in table {
        visitor.visit(&metric.info, scope, (metric.read)(it));
    }
}

/// Every metric there is.
pub fn all() -> impl Iterator<Item = &'static Info> {
    fn infos<S>(table: &'static [Metric<S>]) -> impl Iterator<Item = &'static Info> {
        table.iter().map(|metric| &metric.info)
    }
    let traffic = infos(SERVER).chain(infos(SERVICE)).chain(infos(CLIENT)).chain(infos(BALANCER));
    let endpoints = infos(ENDPOINT).chain(infos(NODE)).chain(infos(SHARD));
    let traffic = traffic.chain(infos(BUDGET));
    traffic.chain(endpoints).chain(infos(PROCESS)).chain(infos(HEAP)).chain(infos(TELEMETRY))
}

const fn counter<S>(
    key: &'static str,
    family: &'static str,
    help: &'static str,
    read: for<'a> fn(&'a S) -> Value<'a>,
) -> Metric<S> {
    Metric { info: Info { key, family, help, kind: Kind::Counter, unit: Unit::Plain }, read }
}

const fn gauge<S>(
    key: &'static str,
    family: &'static str,
    help: &'static str,
    read: for<'a> fn(&'a S) -> Value<'a>,
) -> Metric<S> {
    Metric { info: Info { key, family, help, kind: Kind::Gauge, unit: Unit::Plain }, read }
}

const fn split<S>(
    key: &'static str,
    family: &'static str,
    help: &'static str,
    label: &'static str,
    read: for<'a> fn(&'a S) -> Value<'a>,
) -> Metric<S> {
    Metric { info: Info { key, family, help, kind: Kind::Split(label), unit: Unit::Plain }, read }
}

const fn histogram<S>(
    key: &'static str,
    family: &'static str,
    help: &'static str,
    bounds: &'static [u64],
    read: for<'a> fn(&'a S) -> Value<'a>,
) -> Metric<S> {
    let kind = Kind::Histogram(bounds);
    Metric { info: Info { key, family, help, kind, unit: Unit::Plain }, read }
}

/// A time in milliseconds, or in seconds for Prometheus.
const fn millis<S>(mut metric: Metric<S>) -> Metric<S> {
    metric.info.unit = Unit::Millis;
    metric
}

/// A time in microseconds, or in seconds for Prometheus.
const fn micros<S>(mut metric: Metric<S>) -> Metric<S> {
    metric.info.unit = Unit::Micros;
    metric
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn families_are_named_as_prometheus_recommends() {
        let mut seen = HashSet::new();
        for info in all().filter(|info| !info.family.is_empty()) {
            let family = info.family;
            assert!(seen.insert(family), "{family} twice");
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(family.bytes().all(plain), "{family}");
            let is_counter = matches!(info.kind, Kind::Counter | Kind::Split(_));
            assert_eq!(family.ends_with("_total"), is_counter, "{family}");
            if info.unit != Unit::Plain {
                assert!(family.contains("_seconds"), "{family} is a time");
                assert!(info.key.ends_with("_ms") || info.key.ends_with("_us"), "{}", info.key);
            }
            assert!(info.help.ends_with('.') && info.help.len() > 8, "{family}: {}", info.help);
            if let Kind::Histogram(bounds) = info.kind {
                assert!(bounds.is_sorted(), "{family}");
            }
        }
        assert!(seen.len() > 90, "{}", seen.len());
    }
}
