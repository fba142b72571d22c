//! A comparison as JSON, for programs: what was asked, what came of it, and every turn. Keys are
//! stable and end in their unit; what there is none of is null.

use serde_json::{Map, Value, json};

use super::ratio::Ratio;
use super::summary::{self, Row, WorkSummary};
use super::turns::{LoadAt, Turn};
use super::{Compared, Rates};

/// Changes when a key goes or means something else; keys that come leave it.
pub const FORMAT: u32 = 1;

pub fn value(compared: &Compared, command_line: &str) -> Value {
    let (asked, machine) = (&compared.asked, &compared.machine);
    let names: Vec<&str> = asked.candidates.iter().map(|it| &*it.name).collect();
    let proxies = asked.candidates.iter().zip(&compared.versions).zip(&compared.peak_bytes);
    let proxies = proxies.map(|((candidate, version), peak_bytes)| {
        json!({
            "name": candidate.name,
            "is_peer": candidate.peer.is_some(),
            "version": version,
            "command": candidate.command,
            "peak_bytes": peak_bytes,
        })
    });
    let shares = match &asked.rates {
        Rates::PercentOfSlowest(shares) => Some(shares),
        Rates::PerSecond(_) => None,
    };
    json!({
        "format": FORMAT,
        "tool": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
        "command_line": command_line,
        "machine": { "cpu": machine.cpu, "cores": machine.cores, "kernel": machine.kernel },
        "turn_s": asked.turn.as_secs_f64(),
        "rounds": compared.measured.rounds,
        "proxy_core": asked.proxy_core,
        "load_core": asked.load_core,
        "rates_percent_of_slowest": shares,
        "proxies": proxies.collect::<Vec<_>>(),
        "works": summary::works(compared).iter().map(|it| work(it, &names)).collect::<Vec<_>>(),
        "whole_rounds": summary::whole(compared).map(|it| row(&it, &[], &names)),
        "round_cpu_ns": compared.measured.round_cpu_ns,
        "idle": idle(compared, &names),
        "turns": compared.measured.turns.iter().map(|it| turn(it, compared)).collect::<Vec<_>>(),
    })
}

/// Indented, with a line's end.
pub fn text(compared: &Compared, command_line: &str) -> String {
    format!("{:#}\n", value(compared, command_line))
}

fn work(summary: &WorkSummary, names: &[&str]) -> Value {
    let faults = names.iter().zip(&summary.faults);
    json!({
        "body_bytes": summary.work.body_bytes,
        "connections": summary.work.connections,
        "rates_per_second": summary.rates,
        "figures": summary.rows.iter().map(|it| row(it, &summary.rates, names)).collect::<Vec<_>>(),
        "faults": faults.map(|(name, it)| ((*name).to_owned(), json!(it))).collect::<Map<_, _>>(),
    })
}

fn row(row: &Row, rates: &[f64], names: &[&str]) -> Value {
    let proxies = names.iter().enumerate().map(|(lane, name)| {
        let value = json!({
            "median": row.medians[lane],
            "to_best": row.to_best[lane].map(ratio),
            "to_first": row.to_first[lane].map(ratio),
        });
        ((*name).to_owned(), value)
    });
    json!({
        "figure": row.figure.name(),
        "rate_per_second": rate(row.load, rates),
        "best": row.best.map(|best| names[best]),
        "proxies": proxies.collect::<Map<_, _>>(),
    })
}

fn ratio(ratio: Ratio) -> Value {
    json!({ "median": ratio.median, "standard_error": ratio.error, "rounds": ratio.rounds })
}

/// `None`: at saturation.
fn rate(load: LoadAt, rates: &[f64]) -> Option<f64> {
    match load {
        LoadAt::Saturation => None,
        LoadAt::Rate(number) => rates.get(number).copied(),
    }
}

fn idle(compared: &Compared, names: &[&str]) -> Value {
    let (bytes, best) = summary::idle(compared);
    if bytes.is_empty() {
        return Value::Null;
    }
    let proxies = names.iter().zip(&compared.idle).zip(&bytes);
    let proxies = proxies.map(|((name, idle), bytes)| {
        let value = json!({ "bytes_per_connection": bytes, "grown_bytes": idle.steps });
        ((*name).to_owned(), value)
    });
    json!({
        "connections": compared.asked.idle_connections,
        "best": best.map(|best| names[best]),
        "proxies": proxies.collect::<Map<_, _>>(),
    })
}

fn turn(turn: &Turn, compared: &Compared) -> Value {
    json!({
        "round": turn.round,
        "work": compared.asked.works[turn.work].to_string(),
        "proxy": compared.asked.candidates[turn.lane].name,
        "rate_per_second": rate(turn.load, &compared.measured.rates[turn.work]),
        "answered": turn.answered,
        "wall_ns": turn.wall.as_nanos() as u64,
        "cpu_ns": turn.cpu_ns,
        "load_cpu_ns": turn.load_cpu_ns,
        "p50_ns": turn.p50_ns,
        "p99_ns": turn.p99_ns,
        "faults": turn.faults,
    })
}
