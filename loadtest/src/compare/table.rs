//! The table for people: as text in columns, and as Markdown. Only shows.

use std::collections::BTreeMap;

use super::ratio::Ratio;
use super::summary::{self, Row, WorkSummary};
use super::{Compared, Rates};
use crate::report::units;

/// One table, before it is text or Markdown: what is above it, its cells, what is below it.
struct Table {
    title: String,
    head: Vec<String>,
    lines: Vec<Vec<String>>,
    notes: Vec<String>,
}

/// Who has the figure that the others of the line are compared with.
const BEST: &str = "=";

pub fn text(compared: &Compared, command_line: &str) -> String {
    let mut out = header(compared, command_line).join("\n") + "\n";
    for table in tables(compared) {
        out += &format!("\n{}\n", table.title);
        let widths = table.widths();
        for line in [&table.head].into_iter().chain(&table.lines) {
            out += &aligned(line, &widths);
        }
        for note in &table.notes {
            out += &format!("{note}\n");
        }
    }
    out
}

pub fn markdown(compared: &Compared, command_line: &str) -> String {
    let mut out = String::new();
    for line in header(compared, command_line) {
        out += &format!("- {}\n", escaped(&line));
    }
    for table in tables(compared) {
        out += &format!("\n**{}**\n\n", escaped(&table.title));
        let row = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        out += &row(&table.head);
        out += &format!("|---|{}\n", "---:|".repeat(table.head.len() - 1));
        table.lines.iter().for_each(|line| out += &row(line));
        for note in &table.notes {
            out += &format!("\n{}\n", escaped(note));
        }
    }
    out
}

fn header(compared: &Compared, command_line: &str) -> Vec<String> {
    let (asked, machine) = (&compared.asked, &compared.machine);
    let mut lines = vec![
        format!("{}, {} cores, Linux {}", machine.cpu, machine.cores, machine.kernel),
        format!("{command_line} ({} {})", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
        format!(
            "{} rounds, turns of {:?}; proxies on core {}, load and origins on core {}",
            compared.measured.rounds, asked.turn, asked.proxy_core, asked.load_core
        ),
    ];
    let versions = asked.candidates.iter().zip(&compared.versions).zip(&compared.peak_bytes);
    lines.extend(versions.map(|((candidate, version), peak)| {
        let peak = units::bytes(*peak as f64);
        format!("{}: {version} ({candidate}); at most {peak} of memory", candidate.name)
    }));
    let to = match asked.candidates.iter().any(|candidate| candidate.peer.is_some()) {
        true => "the best peer of the line",
        false => asked.candidates.first().map_or("", |first| &first.name),
    };
    lines.push(format!(
        "medians over all rounds; beside them the ratio to {to} ({BEST}), the median of the \
         rounds' ratios, and its standard error: of the rounds, not of starting a proxy anew"
    ));
    if let Rates::PercentOfSlowest(shares) = &asked.rates {
        let shares: Vec<String> = shares.iter().map(f64::to_string).collect();
        let shares = shares.join(", ");
        lines.push(format!("rates: {shares} % of what the slowest reached in warm rounds"));
    }
    lines
}

fn tables(compared: &Compared) -> Vec<Table> {
    let names: Vec<&str> = compared.asked.candidates.iter().map(|it| &*it.name).collect();
    let ours = compared.asked.candidates.iter().filter(|it| it.peer.is_none()).count();
    let mut tables = Vec::new();
    for summary in summary::works(compared) {
        tables.push(work_table(&summary, &names));
        if ours > 1 && ours < names.len() {
            tables.push(builds_table(&summary, &names[..ours]));
        }
    }
    tables.extend(whole_table(compared, &names));
    tables.extend(idle_table(compared, &names));
    tables
}

fn cells(row: &Row, label: String) -> Vec<String> {
    let cell = |lane: usize| {
        let Some(median) = row.medians[lane] else { return "-".to_owned() };
        let beside = match row.to_best[lane] {
            Some(ratio) => show(ratio),
            None if row.best == Some(lane) => BEST.to_owned(),
            None => String::new(),
        };
        format!("{}  {beside:>RATIO_WIDTH$}", row.figure.show(median))
    };
    [label].into_iter().chain((0..row.medians.len()).map(cell)).collect()
}

/// What is done once a second is in no turn's median.
fn whole_table(compared: &Compared, names: &[&str]) -> Option<Table> {
    let row = summary::whole(compared)?;
    Some(Table {
        title: "whole rounds: all works, and what is done between turns".to_owned(),
        head: head(names),
        lines: vec![cells(&row, "CPU per request".to_owned())],
        notes: Vec::new(),
    })
}

fn work_table(summary: &WorkSummary, names: &[&str]) -> Table {
    let line = |row: &Row| cells(row, row.label(&summary.rates));
    Table {
        title: title(summary),
        head: head(names),
        lines: summary.rows.iter().map(line).collect(),
        notes: names.iter().zip(&summary.faults).filter_map(|(name, it)| fault(name, it)).collect(),
    }
}

/// As wide as a ratio with its error.
const RATIO_WIDTH: usize = 13;

/// Our own to the first of them.
fn builds_table(summary: &WorkSummary, names: &[&str]) -> Table {
    let rows = summary.rows.iter().filter(|row| row.figure.more_is_better().is_some());
    let line = |row: &Row| {
        let cells = row.to_first[1..names.len()].iter();
        let cells = cells.map(|ratio| ratio.map_or("-".to_owned(), show));
        [row.label(&summary.rates)].into_iter().chain(cells).collect()
    };
    Table {
        title: format!("{}: ratios to {}", title(summary), names[0]),
        head: head(&names[1..]),
        lines: rows.map(line).collect(),
        notes: Vec::new(),
    }
}

fn idle_table(compared: &Compared, names: &[&str]) -> Option<Table> {
    let (bytes, best) = summary::idle(compared);
    let best_bytes = best.and_then(|best| bytes[best]);
    let cell = |(lane, bytes): (usize, &Option<f64>)| {
        let Some(bytes) = bytes else { return "-".to_owned() };
        let beside = match best_bytes {
            _ if best == Some(lane) => BEST.to_owned(),
            Some(best) if best > 0.0 => format!("{:.3}", bytes / best),
            _ => String::new(),
        };
        format!("{bytes:.0} B  {beside:>RATIO_WIDTH$}")
    };
    let cells: Vec<String> = bytes.iter().enumerate().map(cell).collect();
    let connections = units::count(compared.asked.idle_connections as u64);
    let grown = compared.idle.iter().map(|idle| {
        let (_, bytes) = idle.steps.last().copied().unwrap_or_default();
        units::bytes(bytes.max(0.0))
    });
    let line = |label: &str, cells: Vec<String>| [vec![label.to_owned()], cells].concat();
    (!bytes.is_empty()).then(|| Table {
        title: format!("memory (Pss) of {connections} idle connections; measured once, no error"),
        head: head(names),
        lines: vec![
            line("each of the last three quarters", cells),
            line("all of them", grown.collect()),
        ],
        notes: Vec::new(),
    })
}

fn title(summary: &WorkSummary) -> String {
    let (bytes, connections) = (summary.work.body_bytes, summary.work.connections);
    format!("{} of body, {connections} connections", units::bytes(bytes as f64))
}

fn head(names: &[&str]) -> Vec<String> {
    [""].iter().chain(names).map(|name| (*name).to_owned()).collect()
}

fn fault(name: &str, faults: &BTreeMap<String, u64>) -> Option<String> {
    let faults: Vec<String> =
        faults.iter().map(|(kind, count)| format!("{kind}: {}", units::count(*count))).collect();
    (!faults.is_empty()).then(|| format!("! {name} was not right: {}", faults.join(", ")))
}

/// `0.563 ±0.008`.
fn show(ratio: Ratio) -> String {
    match ratio.error {
        Some(error) => format!("{:.3} \u{b1}{error:.3}", ratio.median),
        None => format!("{:.3} \u{b1}?", ratio.median),
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        line += &match at {
            0 => format!("{cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        };
    }
    line.trim_end().to_owned() + "\n"
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

impl Table {
    fn widths(&self) -> Vec<usize> {
        let widest = |column: usize| {
            let cells = [&self.head].into_iter().chain(&self.lines).map(|line| &line[column]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.head.len()).map(widest).collect()
    }
}
