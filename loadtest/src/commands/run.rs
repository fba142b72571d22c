//! `run`: one load on one or several URLs, shown while it goes and judged at its end.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use http::Method;
use ringlane_loadtest::engine::{self, Plan, PlannedLoad, Stop};
use ringlane_loadtest::report::interval_log::IntervalLog;
use ringlane_loadtest::report::{self, hgrm, json};
use ringlane_loadtest::request::{Field, Shape, Target, made_body};
use ringlane_loadtest::run::{Asked, Run};
use ringlane_loadtest::schedule::{Arrivals, Share};
use ringlane_loadtest::thresholds::Thresholds;
use ringlane_loadtest::{plot, values};

use super::{check_files, print, write};

/// A rate that a laptop's origin holds.
const DEFAULT_RATE: f64 = 1_000.0;
const MAX_BODY_BYTES: usize = 1 << 30;
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const MAX_SLACK: Duration = Duration::from_millis(100);
/// A run that missed a threshold, or whose figures cannot be had.
pub(super) const MISSED: u8 = 2;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    load: LoadArguments,

    #[command(flatten)]
    pub(crate) common: CommonArguments,

    /// Fail the run (exit code 2) where one of these holds: p99>5ms,errors>0,rate<0.99
    #[arg(long, value_name = "CONDITIONS")]
    fail_if: Option<Thresholds>,

    /// Where to write the whole result as JSON; - is stdout, in place of the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where to write the latencies' percentiles as HdrHistogram's plotter reads them
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,

    /// Where to write one histogram a second, as HdrHistogram's log tools read them
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Where to write latency over percentiles as an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// No line each second
    #[arg(long)]
    quiet: bool,
}

/// When requests are sent.
#[derive(clap::Args)]
struct LoadArguments {
    /// Requests a second, whatever comes of them (open loop) [default: 1k]; FROM..TO with --ramp
    #[arg(short, long, value_name = "RATE", value_parser = rates, conflicts_with = "closed")]
    rate: Option<(f64, f64)>,

    /// Over what time the rate goes from FROM to TO
    #[arg(long, value_name = "TIME", value_parser = values::some_time, requires = "rate")]
    ramp: Option<Duration>,

    /// Random, independent arrivals in place of evenly spaced ones
    #[arg(long, conflicts_with_all = ["closed", "ramp"])]
    poisson: bool,

    /// Closed loop: each connection sends its next request when it has the answer
    #[arg(long)]
    closed: bool,

    /// How long requests are sent for, warm-up not counted [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = values::some_time)]
    duration: Option<Duration>,

    /// How many requests are sent in all, the warm-up's among them
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = values::count)]
    requests: Option<u64>,

    /// Before all that, sent and not recorded
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = values::duration)]
    warmup: Duration,
}

/// What is sent, and over what: the same for `run`, `sweep` and `capacity`.
#[derive(clap::Args)]
pub(crate) struct CommonArguments {
    /// What to ask for; several are mixed evenly, or by weight: 3@http://127.0.0.1:8080/. In a
    /// closed loop weights hold among those of one address
    #[arg(required = true, value_name = "URL")]
    pub(crate) urls: Vec<Target>,

    /// Connections in all
    #[arg(short, long, value_name = "COUNT", default_value = "64", value_parser = values::count)]
    pub(crate) connections: u64,

    /// Threads, each with a ring and connections of its own
    #[arg(short, long, value_name = "COUNT", default_value = "1",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,

    /// Which cores the threads are pinned to, in turn: 0,2,5-7
    #[arg(long, value_name = "CORES", value_parser = some_cores)]
    pub(crate) pin: Option<Cores>,

    /// Requests a connection carries before it is closed and made anew
    #[arg(long, value_name = "COUNT", value_parser = values::count)]
    churn: Option<u64>,

    /// How long a request may wait for a connection, and then for its answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::some_time)]
    pub(crate) timeout: Duration,

    /// How late the kernel may wake a thread, so that what is due within goes out at once: more of
    /// it takes less CPU per request, and shows in `lateness of sends`; up to 100ms
    #[arg(long, value_name = "TIME", default_value = "0us", value_parser = slack)]
    slack: Duration,

    /// Seed of what is random
    #[arg(long, default_value_t = 1)]
    seed: u64,

    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: Method,

    /// A header field, `Name: value`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<Field>,

    /// Send a body of this size: 100, 64k, 1m
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    body_size: Option<usize>,

    /// Send what is in this file as the body
    #[arg(long, value_name = "FILE", conflicts_with = "body_size")]
    body_file: Option<PathBuf>,

    /// Send the body in chunks of this size
    #[arg(long, value_name = "BYTES", num_args = 0..=1, default_missing_value = "4k",
          value_parser = values::bytes)]
    chunked: Option<usize>,

    /// Give each request a number in a field x-loadtest-id, by which `origin` counts repeats
    #[arg(long)]
    number: bool,
}

/// In a type of its own, or clap takes each number for an argument.
#[derive(Debug, Clone)]
pub(crate) struct Cores(Vec<usize>);

fn some_cores(text: &str) -> Result<Cores, String> {
    values::cores(text).map(Cores)
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let plan = plan(arguments)?;
    let mut log = arguments.log.as_deref().map(Log::create).transpose()?;
    let stop = Stop::default();
    super::stop_on_signals(&stop)?;
    let mut wrong = None;
    let run = engine::run(&plan, &stop, |row, record| {
        if !arguments.quiet {
            eprintln!("{}", report::progress(row));
        }
        if let Some(log) = &mut log {
            wrong = wrong.take().or(log.write(row.second, record.latency()).err());
        }
    });
    let run = run.map_err(|error| error.to_string())?;
    let verdicts = arguments.fail_if.as_ref().map_or(Vec::new(), |all| all.judge(&run));
    match &arguments.json {
        Some(path) if path.as_os_str() == "-" => print(&json::text(&run, &verdicts)),
        Some(path) => {
            print(&report::text(&run, &verdicts));
            write(path, json::text(&run, &verdicts).as_bytes())?;
        }
        None => print(&report::text(&run, &verdicts)),
    }
    if let Some(path) = &arguments.hgrm {
        write(path, hgrm::text(run.total.latency()).as_bytes())?;
    }
    if let Some(path) = &arguments.plot {
        let histograms = [
            ("from the intended start", run.total.latency()),
            ("from the send", run.total.service()),
        ];
        let chart = plot::latency_by_percentile(&run.asked.target, &histograms);
        let svg = plot::svg(&chart).map_err(|error| error.to_string())?;
        write(path, svg.as_bytes())?;
    }
    if let Some(why) = wrong {
        return Err(why.into());
    }
    Ok(exit_code(&run, verdicts.iter().any(|verdict| verdict.failed)))
}

fn exit_code(run: &Run, missed: bool) -> ExitCode {
    let nothing = run.total.sent_total() == 0;
    if missed || nothing { ExitCode::from(MISSED) } else { ExitCode::SUCCESS }
}

fn plan(arguments: &Arguments) -> Result<Plan, String> {
    let load = &arguments.load;
    let timed = load.duration.or(load.requests.is_none().then_some(DEFAULT_DURATION));
    if load.ramp.is_some() && timed.is_none() {
        return Err(
            "--requests on a ramp says nothing of its rate; allowed: with --duration".into()
        );
    }
    let duration = timed.map(|duration| duration + load.warmup);
    let arrivals = arrivals(load)?;
    let mut plan = arguments.common.plan(arrivals)?;
    (plan.warmup, plan.duration, plan.request_count) = (load.warmup, duration, load.requests);
    plan.asked.per_second = arrivals.map(|arrivals| match timed {
        Some(timed) => {
            let until = |time| arrivals.expected_by(time);
            (until(load.warmup + timed) - until(load.warmup)) / timed.as_secs_f64()
        }
        None => arrivals.expected_by(Duration::from_secs(1)),
    });
    Ok(plan)
}

/// `None`: a closed loop.
fn arrivals(load: &LoadArguments) -> Result<Option<Arrivals>, String> {
    let (from, to) = load.rate.unwrap_or((DEFAULT_RATE, DEFAULT_RATE));
    match (load.closed, load.ramp) {
        (true, _) => Ok(None),
        (false, Some(over)) if from != to => {
            Ok(Some(Arrivals::Ramp { from_per_second: from, to_per_second: to, over }))
        }
        (false, Some(_)) => Err("--ramp needs two rates; allowed: --rate FROM..TO".into()),
        (false, None) if from != to => {
            Err("--rate FROM..TO needs to know over what time; allowed: --ramp TIME".into())
        }
        (false, None) if load.poisson => Ok(Some(Arrivals::Poisson { per_second: to })),
        (false, None) => Ok(Some(Arrivals::Constant { per_second: to })),
    }
}

impl CommonArguments {
    /// A plan without its times. `arrivals`: `None` is a closed loop.
    pub(crate) fn plan(&self, arrivals: Option<Arrivals>) -> Result<Plan, String> {
        let shape = self.shape()?;
        let mut requests = Vec::new();
        for url in &self.urls {
            let address = url.resolve().map_err(|error| error.to_string())?;
            requests.push(url.kind(address, &shape));
        }
        let mut addresses: Vec<_> = requests.iter().map(|kind| kind.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        // Each thread has one to each address at least.
        let cores = u32::from(self.threads);
        let of_core = |core| Share { core, cores }.of(self.connections) as usize;
        let connections = (0..cores).map(|core| of_core(core).max(addresses.len())).sum();
        let threads = usize::from(self.threads);
        check_files(connections, threads)?;
        let cores =
            |number| self.pin.as_ref().map(|Cores(cores)| cores[usize::from(number) % cores.len()]);
        Ok(Plan {
            asked: Asked {
                target: self.urls.iter().map(|url| &*url.text).collect::<Vec<_>>().join(" "),
                kind: kind(arrivals).into(),
                per_second: None,
                cores: u32::from(self.threads),
                connections: connections as u32,
            },
            requests,
            threads: (0..self.threads).map(cores).collect(),
            load: arrivals.map_or(PlannedLoad::Closed, PlannedLoad::Open),
            warmup: Duration::ZERO,
            duration: None,
            request_count: None,
            connections: self.connections as usize,
            timeout: self.timeout,
            churn: self.churn,
            slack: self.slack,
            seed: self.seed,
        })
    }

    fn shape(&self) -> Result<Shape, String> {
        let body = match (&self.body_file, self.body_size) {
            (Some(path), _) => {
                fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            (None, bytes) => made_body(bytes.unwrap_or(0).min(MAX_BODY_BYTES + 1)),
        };
        if body.len() > MAX_BODY_BYTES {
            return Err(format!("a body of {} bytes; allowed: up to 1g", body.len()));
        }
        if self.chunked == Some(0) {
            return Err("--chunked 0: a chunk of nothing ends a body; allowed: from 1".into());
        }
        Ok(Shape {
            method: self.method.clone(),
            fields: self.headers.clone(),
            body,
            chunked: self.chunked,
            numbered: self.number,
        })
    }
}

fn kind(arrivals: Option<Arrivals>) -> &'static str {
    match arrivals {
        None => "closed loop",
        Some(Arrivals::Constant { .. }) => "open loop, constant",
        Some(Arrivals::Poisson { .. }) => "open loop, Poisson",
        Some(Arrivals::Ramp { .. }) => "open loop, ramp",
    }
}

/// Longer, and a core would not look at anything else either.
fn slack(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        slack if slack <= MAX_SLACK => Ok(slack),
        _ => Err(format!("`{text}` is too long; allowed: up to 100ms")),
    }
}

/// `10k`, or `100..10k`.
fn rates(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    Ok((values::rate(from)?, values::rate(to)?))
}

struct Log {
    path: PathBuf,
    file: File,
    log: IntervalLog,
}

impl Log {
    fn create(path: &Path) -> Result<Log, String> {
        let (log, beginning) = IntervalLog::new(SystemTime::now());
        let file = File::create(path).and_then(|mut file| {
            file.write_all(&beginning)?;
            Ok(file)
        });
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Log { path: path.to_owned(), file, log })
    }

    fn write(&mut self, second: u64, latency: &hdrhistogram::Histogram<u64>) -> Result<(), String> {
        let (from, length) = (Duration::from_secs(second), Duration::from_secs(1));
        let lines = self.log.interval(from, length, None, latency);
        self.file.write_all(&lines).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
