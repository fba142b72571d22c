//! One chart for each metric: over throughput where there are rates, over rounds for throughput
//! itself, over connections for memory. Pure: what was compared in, charts with names out.

use super::Compared;
use super::summary::{self, Figure, WorkSummary};
use super::turns::LoadAt;
use crate::plot::{Axis, Chart, Scale, Series, Unit};

/// Names of files without their ending, and what is in them.
pub fn charts(compared: &Compared) -> Vec<(String, Chart)> {
    let names: Vec<&str> = compared.asked.candidates.iter().map(|it| &*it.name).collect();
    let mut charts = Vec::new();
    for (number, summary) in summary::works(compared).iter().enumerate() {
        let work = summary.work.to_string();
        let file = |metric: &str| format!("{metric}-{}", work.replace('/', "x"));
        let figures = [
            ("cpu", "CPU per request", Figure::Cpu),
            ("p50", "latency, p50", Figure::P50),
            ("p99", "latency, p99", Figure::P99),
        ];
        for (metric, label, figure) in figures {
            let scale = if figure == Figure::Cpu { Scale::Linear } else { Scale::Log };
            let chart = Chart {
                title: format!("{label}; {work}"),
                x: axis("requests per second, the last at saturation", Unit::PerSecond),
                y: Axis { label: label.into(), scale, unit: Unit::Nanos },
                series: by_rate(summary, figure, &names),
            };
            charts.push((file(metric), chart));
        }
        let chart = Chart {
            title: format!("throughput at saturation; {work}"),
            x: axis("round", Unit::Number),
            y: axis("requests per second", Unit::PerSecond),
            series: by_round(compared, number, &names),
        };
        charts.push((file("throughput"), chart));
    }
    if !compared.idle.is_empty() {
        charts.push(("memory".into(), memory(compared, &names)));
    }
    charts
}

fn axis(label: &str, unit: Unit) -> Axis {
    Axis { label: label.into(), scale: Scale::Linear, unit }
}

/// The medians at each rate, and where a closed loop came to.
fn by_rate(summary: &WorkSummary, figure: Figure, names: &[&str]) -> Vec<Series> {
    let median = |figure: Figure, load: LoadAt, lane: usize| {
        let row = summary.rows.iter().find(|row| row.figure == figure && row.load == load)?;
        row.medians[lane]
    };
    let points = |lane: usize| {
        let rates = summary.rates.iter().enumerate();
        let rates = rates.filter_map(|(number, rate)| {
            Some((*rate, median(figure, LoadAt::Rate(number), lane)?))
        });
        let throughput = median(Figure::Throughput, LoadAt::Saturation, lane);
        rates.chain(throughput.zip(median(figure, LoadAt::Saturation, lane))).collect()
    };
    let series =
        |(lane, name): (usize, &&str)| Series { name: (*name).to_owned(), points: points(lane) };
    names.iter().enumerate().map(series).collect()
}

fn by_round(compared: &Compared, work: usize, names: &[&str]) -> Vec<Series> {
    let points = |lane: usize| {
        let turns = compared.measured.turns.iter().filter(|turn| {
            turn.work == work && turn.lane == lane && turn.load == LoadAt::Saturation
        });
        turns.map(|turn| (f64::from(turn.round) + 1.0, turn.answered_per_second())).collect()
    };
    let series =
        |(lane, name): (usize, &&str)| Series { name: (*name).to_owned(), points: points(lane) };
    names.iter().enumerate().map(series).collect()
}

fn memory(compared: &Compared, names: &[&str]) -> Chart {
    let series = names.iter().zip(&compared.idle).map(|(name, idle)| Series {
        name: (*name).to_owned(),
        points: idle.steps.iter().map(|(held, bytes)| (*held as f64, bytes / 1024.0)).collect(),
    });
    Chart {
        title: "memory that idle connections take".into(),
        x: axis("idle connections", Unit::Number),
        y: axis("KiB more than without them", Unit::Number),
        series: series.collect(),
    }
}
