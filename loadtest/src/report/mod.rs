//! A finished run for people (`text`), for programs (`json`) and for HdrHistogram's own tools
//! (`hgrm`, `interval_log`). All of them only show: nothing is counted or judged here.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

use crate::record::{Failure, Row};
use crate::run::Run;
use crate::thresholds::Verdict;

pub mod blocks;
pub mod hgrm;
pub mod interval_log;
pub mod json;
pub mod units;

/// Of each latency that is shown, in percent.
pub const PERCENTILES: [f64; 8] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];

/// What the terminal shows at the end of a run.
pub fn text(run: &Run, verdicts: &[Verdict]) -> String {
    let mut out = String::new();
    // Writing to memory cannot fail.
    let written = write_all(&mut out, run, verdicts);
    debug_assert!(written.is_ok());
    out
}

/// What it shows each second of one.
pub fn progress(row: &Row) -> String {
    format!(
        "{:>6} s  sent {:>9}  answered {:>9}  errors {:>6}  in flight {:>6}  \
         p50 {:>10}  p99 {:>10}  max {:>10}",
        row.second + 1,
        units::count(row.sent),
        units::count(row.answered),
        units::count(row.errors),
        row.in_flight,
        units::nanos(row.p50_ns),
        units::nanos(row.p99_ns),
        units::nanos(row.max_ns),
    )
}

fn write_all(out: &mut String, run: &Run, verdicts: &[Verdict]) -> fmt::Result {
    write_totals(out, run)?;
    write_latency(out, run)?;
    if !run.total.latency().is_empty() {
        writeln!(out, "\nlatency from the intended start")?;
        blocks::write(out, run.total.latency())?;
    }
    write_outcomes(out, run)?;
    if !verdicts.is_empty() {
        writeln!(out, "\nthresholds")?;
    }
    for verdict in verdicts {
        writeln!(out, "  {verdict}")?;
    }
    Ok(())
}

fn write_totals(out: &mut String, run: &Run) -> fmt::Result {
    let (asked, total) = (&run.asked, &run.total);
    writeln!(out, "{}", asked.target)?;
    writeln!(
        out,
        "{}, {} cores, {} connections, {}",
        asked.kind,
        asked.cores,
        asked.connections,
        units::time(run.elapsed)
    )?;
    let asked_rate = asked.per_second.map_or("as fast as it goes".into(), units::rate);
    write!(out, "\nrate       asked {asked_rate}, sent {}", units::rate(run.sent_per_second()))?;
    if let Some(share) = run.rate_achieved() {
        write!(out, " ({:.3} %)", share * 100.0)?;
    }
    writeln!(out, ", answered {}", units::rate(run.answered_per_second()))?;
    writeln!(
        out,
        "requests   sent {} = answered {} + failed {} + in flight {}; never sent {}",
        units::count(total.sent_total()),
        units::count(total.answered_total()),
        units::count(total.sent_and_failed()),
        total.in_flight(),
        units::count(total.never_sent_total()),
    )?;
    let elapsed_s = run.elapsed.as_secs_f64();
    let per_second = |bytes: f64| if elapsed_s > 0.0 { bytes / elapsed_s } else { 0.0 };
    let bytes = |bytes: u64| {
        let bytes = bytes as f64;
        format!("{} ({}/s)", units::bytes(bytes), units::bytes(per_second(bytes)))
    };
    writeln!(out, "bytes      in {}, out {}", bytes(total.bytes_in()), bytes(total.bytes_out()))
}

fn write_latency(out: &mut String, run: &Run) -> fmt::Result {
    let total = &run.total;
    let columns = [total.latency(), total.service(), total.lateness()];
    writeln!(
        out,
        "\n{:<9} {:>20} {:>20} {:>20}",
        "latency", "from intended start", "from actual send", "lateness of sends"
    )?;
    let mut line = |name: &str, figure: &dyn Fn(&Histogram<u64>) -> u64| {
        write!(out, "{name:<9}")?;
        for histogram in columns {
            let shown = match histogram.is_empty() {
                true => "-".to_owned(),
                false => units::nanos(figure(histogram)),
            };
            write!(out, " {shown:>20}")?;
        }
        writeln!(out)
    };
    for percent in PERCENTILES {
        line(&format!("{percent} %"), &|histogram| histogram.value_at_quantile(percent / 100.0))?;
    }
    line("max", &Histogram::max)?;
    line("mean", &|histogram| histogram.mean() as u64)
}

fn write_outcomes(out: &mut String, run: &Run) -> fmt::Result {
    let total = &run.total;
    let share = |count: u64, of: u64| count as f64 * 100.0 / of.max(1) as f64;
    if total.answered_total() > 0 {
        writeln!(out, "\nstatus")?;
    }
    for (status, count) in total.statuses() {
        let percent = share(count, total.answered_total());
        writeln!(out, "  {status:<13} {:>13} {percent:>8.3} %", units::count(count))?;
    }
    let errors = units::count(total.errors() + total.never_sent_total());
    let percent = run.error_percent();
    writeln!(out, "\nerrors          {errors:>13} {percent:>8.3} %")?;
    for failure in Failure::ALL {
        let count = total.failures(failure);
        if count > 0 {
            writeln!(out, "  {:<13} {:>13}", failure.name(), units::count(count))?;
        }
    }
    if total.never_sent_total() > 0 {
        let count = units::count(total.never_sent_total());
        writeln!(out, "  {:<13} {count:>13}", "never sent")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
