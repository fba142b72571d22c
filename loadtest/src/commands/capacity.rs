//! `capacity`: the highest rate that holds an objective.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ringlane_loadtest::capacity::Search;
use ringlane_loadtest::engine::Stop;
use ringlane_loadtest::report::units;
use ringlane_loadtest::run::Run;
use ringlane_loadtest::thresholds::Thresholds;
use ringlane_loadtest::{sweep, values};

use super::run::{CommonArguments, MISSED};
use super::sweep::StepArguments;
use super::{print, write};

/// Of what was due, the part that must be sent in its time and answered: or a queue only grows.
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
    let mut ended_early = None;
    while let Some(rate) = search.next().filter(|_| !search.is_hopeless(first)) {
        let rate = sweep::three_digits(rate);
        let run = match arguments.step.run(&arguments.common, Some(rate), &stop) {
            Ok(_) if stop.is_asked() => {
                ended_early = Some("stopped before it was found".to_owned());
                break;
            }
            Ok(run) => run,
            Err(error) => {
                ended_early = Some(error);
                break;
            }
        };
        let missed = missed(&run, &arguments.slo, arguments.step.duration);
        let verdict = missed.as_ref().map_or_else(|| "holds".into(), |why| format!("fails: {why}"));
        print(&format!("{}  {verdict}\n", sweep::row(&run)));
        search.told(missed.is_none());
        runs.push(run);
    }
    if let Some(path) = &arguments.json {
        write(path, sweep::json(search.found(), &runs).as_bytes())?;
    }
    if let Some(why) = ended_early {
        return Err(why.into());
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
fn missed(run: &Run, objective: &Thresholds, asked_for: Duration) -> Option<String> {
    let total = &run.total;
    let lost = total.errors() + total.never_sent_total();
    let due = (total.answered_total() + lost).max(1) as f64;
    // Percentiles are of answers: what has none may be no more than they leave out.
    let may_be_lost = objective.strictest_percentile().map_or(1.0, |percent| 1.0 - percent / 100.0);
    if lost as f64 > due * may_be_lost.min(1.0 - KEPT_PACE) {
        return Some(format!(
            "{} of {} not answered",
            units::count(lost),
            units::count(due as u64)
        ));
    }
    if run.elapsed.as_secs_f64() * KEPT_PACE > asked_for.as_secs_f64() {
        return Some(format!("sent in {} only", units::time(run.elapsed)));
    }
    let verdicts = objective.judge(run);
    let failed = verdicts.into_iter().find(|verdict| verdict.failed);
    failed.map(|verdict| format!("{} is {}", verdict.text, verdict.actual))
}
