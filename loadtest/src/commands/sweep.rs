//! `sweep`: the latency-throughput curve, from low rates to past saturation.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ringlane_loadtest::engine::{self, Stop};
use ringlane_loadtest::run::Run;
use ringlane_loadtest::schedule::Arrivals;
use ringlane_loadtest::{plot, sweep, values};

use super::run::CommonArguments;
use super::{print, write};

const DEFAULT_STEPS: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: CommonArguments,

    #[command(flatten)]
    step: StepArguments,

    /// The rates: a list, 1k,2k,5k, or ten from one to another, 1k..20k [default: from 5 % to 120 %
    /// of what a closed loop reaches]
    #[arg(short, long, value_name = "RATES", value_parser = rates)]
    rates: Option<Rates>,

    /// Where to write the curve as an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Where to write all runs as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How each rate is tried.
#[derive(clap::Args)]
pub(crate) struct StepArguments {
    /// How long each rate is sent and recorded
    #[arg(short, long, value_name = "TIME", default_value = "5s", value_parser = values::some_time)]
    pub(crate) duration: Duration,

    /// Before that, sent and not recorded
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    pub(crate) warmup: Duration,

    /// Random, independent arrivals in place of evenly spaced ones
    #[arg(long)]
    poisson: bool,
}

/// In a type of its own, or clap takes each number for an argument.
#[derive(Debug, Clone)]
pub(crate) struct Rates(Vec<f64>);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let stop = Stop::default();
    super::stop_on_signals(&stop)?;
    print(&format!("{}\n", sweep::heading()));
    let mut saturation = None;
    let rates = match &arguments.rates {
        Some(Rates(rates)) => rates.clone(),
        None => {
            let closed = arguments.step.run(&arguments.common, None, &stop)?;
            print(&format!("{}\n", sweep::row(&closed)));
            saturation = sweep::saturation(&closed);
            sweep::rates(saturation.ok_or("a closed loop had no answer at all")?)
        }
    };
    let mut runs = Vec::new();
    let mut ended_early = None;
    for rate in rates {
        match arguments.step.run(&arguments.common, Some(rate), &stop) {
            Ok(run) if !stop.is_asked() => {
                print(&format!("{}\n", sweep::row(&run)));
                runs.push(run);
            }
            Ok(_) => ended_early = Some("stopped".to_owned()),
            Err(error) => ended_early = Some(error),
        }
        if ended_early.is_some() {
            break;
        }
    }
    if let Some(path) = &arguments.json {
        write(path, sweep::json(saturation, &runs).as_bytes())?;
    }
    if let Some(path) = arguments.plot.as_ref().filter(|_| !runs.is_empty()) {
        let title = runs.first().map_or("", |run| run.asked.target.as_str());
        let chart = sweep::chart(&format!("{title}, latency from the intended start"), &runs);
        let svg = plot::svg(&chart).map_err(|error| error.to_string())?;
        write(path, svg.as_bytes())?;
    }
    match ended_early {
        Some(why) => Err(why.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

impl StepArguments {
    /// One rate; `None` is a closed loop.
    pub(crate) fn run(
        &self,
        common: &CommonArguments,
        per_second: Option<f64>,
        stop: &Stop,
    ) -> Result<Run, String> {
        let arrivals = per_second.map(|per_second| match self.poisson {
            true => Arrivals::Poisson { per_second },
            false => Arrivals::Constant { per_second },
        });
        let mut plan = common.plan(arrivals)?;
        (plan.warmup, plan.duration) = (self.warmup, Some(self.warmup + self.duration));
        plan.asked.per_second = per_second;
        engine::run(&plan, stop, |_, _| {}).map_err(|error| error.to_string())
    }
}

/// `1k,2k,5k`, or `1k..20k`.
fn rates(text: &str) -> Result<Rates, String> {
    let rates = match text.split_once("..") {
        Some((from, to)) => sweep::between(values::rate(from)?, values::rate(to)?, DEFAULT_STEPS),
        None => text.split(',').map(|rate| values::rate(rate.trim())).collect::<Result<_, _>>()?,
    };
    match rates.iter().find(|rate| **rate <= 0.0) {
        Some(rate) => Err(format!("a rate of {rate}; allowed: more than 0")),
        None => Ok(Rates(rates)),
    }
}
