//! The latency-throughput curve: at which rates a server is asked, and what came of each.
//!
//! Rates are shares of the saturation that a closed loop has found, closer to each other where the
//! curve bends, and past it. Pure: runs in, text, JSON and a chart out.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plot::{self, Chart, Point};
use crate::report::{json as report_json, units};
use crate::run::Run;

/// Of saturation.
const SHARES: [f64; 13] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2];
/// What the table and the chart show.
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// From low to past saturation, in three digits: a rate that can be said.
pub fn rates(saturation: f64) -> Vec<f64> {
    let mut rates: Vec<f64> =
        SHARES.iter().map(|share| three_digits(saturation * share).max(1.0)).collect();
    rates.dedup();
    rates
}

/// `steps` rates from one to the other, evenly.
pub fn between(from: f64, to: f64, steps: u32) -> Vec<f64> {
    let last = f64::from(steps.max(2) - 1);
    (0..steps.max(2)).map(|step| from + (to - from) * f64::from(step) / last).collect()
}

/// The nearest number of three digits and zeros.
pub fn three_digits(number: f64) -> f64 {
    if !(number > 0.0 && number < f64::MAX) {
        return 0.0;
    }
    let scale = 10_f64.powi(number.log10().floor() as i32 - 2);
    // In whole digits first, so that 12,300 does not become 12,299.999.
    let digits = (number / scale).round();
    if scale >= 1.0 { digits * scale.round() } else { digits / (1.0 / scale).round() }
}

/// The head of the table that `row`s stand under.
pub fn heading() -> String {
    let mut out = format!("{:>14} {:>14} {:>10}", "asked", "answered", "errors");
    for percent in PERCENTILES {
        let _ = write!(out, " {:>12}", format!("p{percent}"));
    }
    out + "          max"
}

/// One rate's line.
pub fn row(run: &Run) -> String {
    let asked = run.asked.per_second.map_or_else(|| "closed loop".into(), units::rate);
    let errors = units::count(run.total.errors() + run.total.never_sent_total());
    let mut out =
        format!("{asked:>14} {:>14} {errors:>10}", units::rate(run.answered_per_second()));
    let latency = run.total.latency();
    let shown = |nanos: u64| match latency.is_empty() {
        true => "-".to_owned(),
        false => units::nanos(nanos),
    };
    for percent in PERCENTILES {
        let _ = write!(out, " {:>12}", shown(latency.value_at_quantile(percent / 100.0)));
    }
    out + &format!(" {:>12}", shown(latency.max()))
}

/// Latency from the intended start over answers per second.
pub fn chart(title: &str, runs: &[Run]) -> Chart {
    let point = |run: &Run| {
        let latency = run.total.latency();
        let at = |percent: f64| {
            let nanos = latency.value_at_quantile(percent / 100.0);
            (percent, Duration::from_nanos(nanos))
        };
        let percentiles = if latency.is_empty() { &[][..] } else { &PERCENTILES[..] };
        Point {
            answered_per_second: run.answered_per_second(),
            percentiles: percentiles.iter().map(|percent| at(*percent)).collect(),
        }
    };
    plot::latency_by_throughput(title, &runs.iter().map(point).collect::<Vec<_>>())
}

/// All of it, each rate as `run` reports it.
pub fn json(saturation: Option<f64>, runs: &[Run]) -> String {
    let runs: Vec<Value> = runs.iter().map(|run| report_json::value(run, &[])).collect();
    let all = json!({
        "format": report_json::FORMAT,
        "saturation_per_second": saturation,
        "runs": runs,
    });
    format!("{all:#}\n")
}

/// What a closed loop answered, if it answered anything: the scale of all that is tried.
pub fn saturation(closed: &Run) -> Option<f64> {
    Some(closed.answered_per_second()).filter(|answered| *answered > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    #[test]
    fn rates_go_from_low_to_past_saturation() {
        let rates = rates(43_210.0);
        assert_eq!(rates.first(), Some(&2_160.0));
        assert_eq!(rates.last(), Some(&51_900.0));
        assert!(rates.is_sorted());
        assert!(rates.contains(&43_200.0));
        assert_eq!(super::rates(3.0), [1.0, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0, 3.3, 3.6]);
        assert_eq!(between(100.0, 500.0, 5), [100.0, 200.0, 300.0, 400.0, 500.0]);
        assert_eq!(between(100.0, 500.0, 0), [100.0, 500.0]);
    }

    #[test]
    fn three_digits_of_a_number() {
        let numbers = [12_345.0, 999.9, 0.12345, 1.0, 0.0, f64::INFINITY, f64::NAN];
        let expected = [12_300.0, 1_000.0, 0.123, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(numbers.map(three_digits), expected);
    }

    #[test]
    fn what_is_shown_of_a_rate() {
        let run = run::tests::sample();
        let (heading, row) = (heading(), row(&run));
        assert_eq!(heading.chars().count(), row.chars().count(), "\n{heading}\n{row}");
        // 4 errors and 2 never sent in each of two seconds.
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..3], ["1,000.0/s", "995.0/s", "12"], "{row}");
        let chart = chart("title", std::slice::from_ref(&run));
        assert_eq!(chart.series.len(), PERCENTILES.len());
        assert_eq!(chart.series[0].points[0].0, 995.0);
        let json: Value = serde_json::from_str(&json(Some(5.0), &[run])).expect("json");
        assert_eq!(json["saturation_per_second"], 5.0);
        assert_eq!(json["runs"][0]["answered_total"], 1_990);
    }

    #[test]
    fn a_rate_without_answers_has_no_latency() {
        let mut run = run::tests::sample();
        run.total.clear();
        assert!(row(&run).trim_end().ends_with('-'));
        assert!(chart("title", std::slice::from_ref(&run)).series.is_empty());
        assert_eq!(saturation(&run), None);
    }
}
