//! `capacity`: the highest rate that holds an objective.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use ringlane_loadtest::capacity::Search;
use ringlane_loadtest::engine::Stop;
use ringlane_loadtest::report::units;
use ringlane_loadtest::run::Run;
use ringlane_loadtest::thresholds::Thresholds;
use ringlane_loadtest::{sweep, values};

use super::run::{CommonArguments, MISSED};
use super::sweep::StepArguments;
use super::{print, write};

/// Of the rate asked for, what must be sent and answered: or the queue in between only grows.
const KEPT_PACE: f64 = 0.99;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: CommonArguments,

    #[command(flatten)]
    step: StepArguments,

    /// What must hold: p99=5ms, or several: p50=1ms,p99.9=20ms,errors=0
    #[arg(long, value_name = "OBJECTIVE", value_parser = Thresholds::objective)]
    slo: Thresholds,

    /// The rate to try first [default: what a closed loop reaches]
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    from: Option<f64>,

    /// How close to the limit, in per cent of it
    #[arg(long, value_name = "PERCENT", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=50))]
    precision: u8,

    /// How often a rate must fail before it has failed
    #[arg(long, value_name = "COUNT", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=10))]
    tries: u32,

    /// Where to write all runs as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let stop = Stop::default();
    super::stop_on_signals(&stop)?;
    print(&format!("{}\n", sweep::heading()));
    let first = match arguments.from {
        Some(rate) if rate > 0.0 => rate,
        Some(rate) => return Err(format!("--from {rate}: allowed: more than 0").into()),
        None => {
            let closed = arguments.step.run(&arguments.common, None, &stop)?;
            print(&format!("{}\n", sweep::row(&closed)));
            sweep::saturation(&closed).ok_or("a closed loop had no answer at all")?
        }
    };
    let mut search = Search::new(first, f64::from(arguments.precision) / 100.0, arguments.tries);
    let mut runs = Vec::new();
    while let Some(rate) = search.next().filter(|_| !search.is_hopeless(first)) {
        let run = arguments.step.run(&arguments.common, Some(sweep::three_digits(rate)), &stop)?;
        if stop.is_asked() {
            return Err("stopped before it was found".into());
        }
        let missed = missed(&run, &arguments.slo);
        let verdict = missed.as_ref().map_or_else(|| "holds".into(), |why| format!("fails: {why}"));
        print(&format!("{}  {verdict}\n", sweep::row(&run)));
        search.told(missed.is_none());
        runs.push(run);
    }
    if let Some(path) = &arguments.json {
        write(path, sweep::json(search.found(), &runs).as_bytes())?;
    }
    match search.found().map(sweep::three_digits) {
        Some(rate) => {
            print(&format!("\ncapacity {}\n", units::rate(rate)));
            Ok(ExitCode::SUCCESS)
        }
        None => {
            print("\nno rate holds the objective\n");
            Ok(ExitCode::from(MISSED))
        }
    }
}

/// Why a run misses the objective. `None`: it holds.
fn missed(run: &Run, objective: &Thresholds) -> Option<String> {
    let asked = run.asked.per_second.unwrap_or_default();
    if run.answered_per_second() < asked * KEPT_PACE {
        return Some(format!("{} answered", units::rate(run.answered_per_second())));
    }
    let verdicts = objective.judge(run);
    let failed = verdicts.into_iter().find(|verdict| verdict.failed);
    failed.map(|verdict| format!("{} is {}", verdict.text, verdict.actual))
}
