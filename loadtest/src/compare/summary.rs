//! What the turns come to: of each work and metric the proxies' medians, and their ratios to the
//! best peer and to the first proxy, by round. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ratio::{self, ByRound, Ratio};
use super::turns::{LoadAt, Turn};
use super::{Compared, Work};
use crate::report::units;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// CPU time of the proxy for a request, in nanoseconds.
    Cpu,
    /// Answers per second.
    Throughput,
    /// Latencies from the intended start, in nanoseconds.
    P50,
    P99,
    /// Part of the time in which the proxy's core was the proxy's, in percent; that in which the
    /// load's was the load's or the origins'. Who has less than all of its core is not who limits.
    ProxyBusy,
    LoadBusy,
}

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub figure: Figure,
    pub load: LoadAt,
    /// By proxy, as all that follow; `None`: it has no figure.
    pub medians: Vec<Option<f64>>,
    /// Who the ratios are to: the best peer, or without peers the first proxy.
    pub best: Option<usize>,
    pub to_best: Vec<Option<Ratio>>,
    pub to_first: Vec<Option<Ratio>>,
}

#[derive(Debug, Clone)]
pub struct WorkSummary {
    pub work: Work,
    pub rates: Vec<f64>,
    pub rows: Vec<Row>,
    /// By proxy, over all rounds.
    pub faults: Vec<BTreeMap<String, u64>>,
}

impl Figure {
    pub fn name(self) -> &'static str {
        match self {
            Figure::Cpu => "cpu_ns_per_request",
            Figure::Throughput => "requests_per_second",
            Figure::P50 => "p50_ns",
            Figure::P99 => "p99_ns",
            Figure::ProxyBusy => "proxy_core_busy_percent",
            Figure::LoadBusy => "load_core_busy_percent",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Figure::Cpu => "CPU per request",
            Figure::Throughput => "requests per second",
            Figure::P50 => "latency p50",
            Figure::P99 => "latency p99",
            Figure::ProxyBusy => "proxy's part of its core",
            Figure::LoadBusy => "load's part of its core",
        }
    }

    /// `None`: more or less of it is neither better nor worse.
    pub fn more_is_better(self) -> Option<bool> {
        match self {
            Figure::Throughput => Some(true),
            Figure::Cpu | Figure::P50 | Figure::P99 => Some(false),
            Figure::ProxyBusy | Figure::LoadBusy => None,
        }
    }

    pub fn show(self, value: f64) -> String {
        match self {
            Figure::Throughput => units::count(value.round() as u64),
            Figure::Cpu | Figure::P50 | Figure::P99 => time(value),
            Figure::ProxyBusy | Figure::LoadBusy => format!("{value:.0} %"),
        }
    }

    fn of(self, turn: &Turn) -> Option<f64> {
        let wall_ns = turn.wall.as_nanos() as f64;
        let value = match self {
            Figure::Cpu => turn.cpu_ns as f64 / turn.answered as f64,
            Figure::Throughput => turn.answered_per_second(),
            Figure::P50 => turn.p50_ns as f64,
            Figure::P99 => turn.p99_ns as f64,
            Figure::ProxyBusy => turn.cpu_ns as f64 * 100.0 / wall_ns,
            Figure::LoadBusy => turn.load_cpu_ns as f64 * 100.0 / wall_ns,
        };
        (turn.answered > 0 && value > 0.0).then_some(value)
    }
}

/// Three digits, which are more than the figures are worth.
fn time(nanos: f64) -> String {
    let (scaled, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        ..1e6 => (nanos / 1e3, "\u{b5}s"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    match scaled {
        ..9.995 => format!("{scaled:.2} {unit}"),
        ..99.95 => format!("{scaled:.1} {unit}"),
        _ => format!("{scaled:.0} {unit}"),
    }
}

impl Row {
    pub fn label(&self, rates: &[f64]) -> String {
        let at = match self.load {
            LoadAt::Saturation => "saturation".to_owned(),
            LoadAt::Rate(number) => format!("{}/s", units::count(rates[number].round() as u64)),
        };
        format!("{}, {at}", self.figure.label())
    }
}

/// Each work's table.
pub fn works(compared: &Compared) -> Vec<WorkSummary> {
    let lanes = compared.asked.candidates.len();
    let is_peer: Vec<bool> = compared.asked.candidates.iter().map(|it| it.peer.is_some()).collect();
    let summary = |(number, work): (usize, &Work)| {
        let turns = compared.measured.turns.iter().filter(|turn| turn.work == number);
        let turns: Vec<&Turn> = turns.collect();
        let mut faults = vec![BTreeMap::new(); lanes];
        for turn in &turns {
            for (name, count) in &turn.faults {
                *faults[turn.lane].entry(name.clone()).or_default() += count;
            }
        }
        let rates = compared.measured.rates[number].clone();
        let rows = shown(rates.len());
        // Who answers wrong may do so at little cost, and is nobody's measure.
        let is_measure: Vec<bool> =
            is_peer.iter().zip(&faults).map(|(peer, faults)| *peer && faults.is_empty()).collect();
        let rows = rows.into_iter().map(|(figure, load)| row(figure, load, &turns, &is_measure));
        WorkSummary { work: *work, rows: rows.collect(), rates, faults }
    };
    compared.asked.works.iter().enumerate().map(summary).collect()
}

/// Which figures are shown of which loads.
fn shown(rates: usize) -> Vec<(Figure, LoadAt)> {
    let loads: Vec<LoadAt> =
        [LoadAt::Saturation].into_iter().chain((0..rates).map(LoadAt::Rate)).collect();
    let mut shown = vec![(Figure::Throughput, LoadAt::Saturation)];
    for figure in [Figure::Cpu, Figure::P50, Figure::P99] {
        shown.extend(loads.iter().map(|load| (figure, *load)));
    }
    for figure in [Figure::ProxyBusy, Figure::LoadBusy] {
        shown.extend(loads.iter().map(|load| (figure, *load)));
    }
    shown
}

/// CPU time for a request over whole rounds, all works together: with what a proxy does now and
/// then and seldom in its own turns. `None`: there was no round.
pub fn whole(compared: &Compared) -> Option<Row> {
    let is_peer: Vec<bool> = compared.asked.candidates.iter().map(|it| it.peer.is_some()).collect();
    let by_round = |lane: usize| -> ByRound {
        let rounds = (0..).zip(&compared.measured.round_cpu_ns);
        let figure = |(round, cpu_ns): (u32, &Vec<u64>)| {
            let turns = compared.measured.turns.iter();
            let of_round = turns.filter(|turn| (turn.round, turn.lane) == (round, lane));
            let answered: u64 = of_round.map(|turn| turn.answered).sum();
            (answered > 0).then(|| (round, cpu_ns[lane] as f64 / answered as f64))
        };
        rounds.filter_map(figure).collect()
    };
    let rounds: Vec<ByRound> = (0..is_peer.len()).map(by_round).collect();
    let any = rounds.iter().any(|figures| !figures.is_empty());
    any.then(|| compared_row(Figure::Cpu, LoadAt::Saturation, &rounds, &is_peer))
}

fn row(figure: Figure, load: LoadAt, turns: &[&Turn], is_peer: &[bool]) -> Row {
    let by_round = |lane| -> ByRound {
        let turns = turns.iter().filter(|turn| turn.lane == lane && turn.load == load);
        turns.filter_map(|turn| Some((turn.round, figure.of(turn)?))).collect()
    };
    let rounds: Vec<ByRound> = (0..is_peer.len()).map(by_round).collect();
    compared_row(figure, load, &rounds, is_peer)
}

fn compared_row(figure: Figure, load: LoadAt, rounds: &[ByRound], is_peer: &[bool]) -> Row {
    let medians: Vec<Option<f64>> = rounds.iter().map(ratio::median).collect();
    let best = figure.more_is_better().and_then(|more| best(&medians, is_peer, more));
    let to = |other: Option<usize>, lane: usize| {
        other
            .filter(|other| *other != lane)
            .and_then(|other| ratio::paired(&rounds[lane], &rounds[other]))
    };
    let first = figure.more_is_better().map(|_| 0);
    Row {
        figure,
        load,
        best,
        to_best: (0..rounds.len()).map(|lane| to(best, lane)).collect(),
        to_first: (0..rounds.len()).map(|lane| to(first, lane)).collect(),
        medians,
    }
}

/// The best of the peers; without any, the first proxy. Nothing is no figure, and less than that of
/// memory neither.
fn best(medians: &[Option<f64>], is_peer: &[bool], more_is_better: bool) -> Option<usize> {
    let peers = (0..medians.len()).filter(|lane| is_peer[*lane]);
    let peers = peers.filter_map(|lane| Some((lane, medians[lane].filter(|it| *it > 0.0)?)));
    let order = |left: &(usize, f64), right: &(usize, f64)| match more_is_better {
        true => right.1.total_cmp(&left.1),
        false => left.1.total_cmp(&right.1),
    };
    match peers.min_by(order) {
        Some((lane, _)) => Some(lane),
        None if is_peer.contains(&true) => None,
        None => medians.first().copied().flatten().map(|_| 0),
    }
}

/// Bytes per idle connection by proxy, and who of the peers needs least.
pub fn idle(compared: &Compared) -> (Vec<Option<f64>>, Option<usize>) {
    let bytes: Vec<Option<f64>> =
        compared.idle.iter().map(|idle| idle.bytes_per_connection()).collect();
    let is_peer: Vec<bool> = compared.asked.candidates.iter().map(|it| it.peer.is_some()).collect();
    let best = if bytes.is_empty() { None } else { best(&bytes, &is_peer, false) };
    (bytes, best)
}

/// How long all turns of a round take at least.
pub fn least_round(works: usize, rates: usize, lanes: usize, turn: Duration) -> Duration {
    turn * (works * (rates + 1) * lanes) as u32
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
