//! A run: an engine on each thread, and their seconds added up on the calling one.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use ringlane::policy::Rng;
use ringlane::ring::{self, Ring};

use super::drive::{ConnectError, Driven, Engine, Go, TICK};
use super::job::{Load, Plan, PlannedLoad, Settings};
use crate::record::{Record, Row};
use crate::run::Run;
use crate::schedule::{Arrivals, End, Schedule, ScheduleError, Share};
use crate::threads;

const TICKS_PER_SECOND: u32 = (1_000 / TICK.as_millis()) as u32;

/// Ends a run from another thread.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// What is set by `ask`, for whoever can set a flag and nothing more.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn go(&self) -> Go {
        if self.is_asked() { Go::Stop } else { Go::On }
    }
}

/// Why a run has no result.
#[derive(Debug)]
pub enum RunError {
    Schedule(ScheduleError),
    Connect(ConnectError),
    Core { core: usize, error: io::Error },
    Ring(ring::RunError),
}

impl fmt::Display for RunError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Schedule(error) => write!(out, "{error}"),
            RunError::Connect(error) => write!(out, "{error}"),
            RunError::Core { core, error } => write!(out, "cannot run on core {core}: {error}"),
            RunError::Ring(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for RunError {}

/// What a core says to whoever adds up.
enum Told {
    Second(Record),
    Done { record: Record, driven: Driven },
    Failed(RunError),
}

/// What a core has besides the plan.
struct Core {
    number: u32,
    /// Of this process: requests of two runs have different numbers.
    run_number: u64,
    told: Sender<(usize, Told)>,
    spare: Receiver<Record>,
    /// All begin at once, when all have connected.
    start: Arc<Barrier>,
    /// One of them cannot, so that none does.
    failed: Arc<AtomicBool>,
    /// This one has passed `start`.
    began: Arc<AtomicBool>,
    stop: Stop,
}

/// Runs a plan. `each_second` is shown each second's row and record when all cores are through it.
pub fn run(
    plan: &Plan,
    stop: &Stop,
    mut each_second: impl FnMut(&Row, &Record),
) -> Result<Run, RunError> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run_number = RUNS.fetch_add(1, Ordering::Relaxed) & 0xFFFF;
    let (told, tells) = unbounded();
    let start = Arc::new(Barrier::new(plan.threads.len()));
    let failed = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(plan.clone());
    let mut spares = Vec::new();
    let threads = (0..plan.threads.len()).map(|number| {
        let (give, spare) = bounded(2);
        spares.push(give);
        let core = Core {
            number: number as u32,
            run_number,
            told: told.clone(),
            spare,
            start: start.clone(),
            failed: failed.clone(),
            began: Arc::new(AtomicBool::new(false)),
            stop: stop.clone(),
        };
        let plan = shared.clone();
        thread::spawn(move || core.run(plan))
    });
    let threads: Vec<_> = threads.collect();
    drop(told);
    let result = Sum::new(plan, spares).add_up(&tells, &mut each_second);
    for thread in threads {
        let _ = thread.join();
    }
    result
}

/// A thread that ends before it has begun, be it by a panic, is waited for by the others; after one
/// that panicked they need not go on.
struct FreeOthers {
    start: Arc<Barrier>,
    failed: Arc<AtomicBool>,
    began: Arc<AtomicBool>,
    stop: Stop,
}

impl Drop for FreeOthers {
    fn drop(&mut self) {
        if thread::panicking() {
            self.stop.ask();
        }
        if !self.began.load(Ordering::SeqCst) {
            self.failed.store(true, Ordering::SeqCst);
            self.start.wait();
        }
    }
}

impl Core {
    fn run(self, plan: Arc<Plan>) {
        let (number, told) = (self.number as usize, self.told.clone());
        let _others = FreeOthers {
            start: self.start.clone(),
            failed: self.failed.clone(),
            began: self.began.clone(),
            stop: self.stop.clone(),
        };
        let settings = ring::Settings { gather: plan.slack, ..Default::default() };
        let prepared = prepare(plan.threads[number], plan.slack);
        let ran = prepared.and_then(|()| {
            ring::run(&settings, move |ring| self.load(ring, plan)).map_err(RunError::Ring)?
        });
        if let Err(error) = ran {
            let _ = told.send((number, Told::Failed(error)));
        }
    }

    async fn load(self, ring: Ring, plan: Arc<Plan>) -> Result<(), RunError> {
        let share = Share { core: self.number, cores: plan.threads.len() as u32 };
        let load = load_of(&plan, share).map_err(RunError::Schedule)?;
        let settings = Settings {
            connections: share.of(plan.connections as u64) as usize,
            timeout: plan.timeout,
            churn: plan.churn,
            core: self.number as u16,
            first_number: self.run_number << 32,
            seed: plan.seed.wrapping_add(u64::from(self.number)),
        };
        let engine = Engine::new(&ring, &plan.requests, settings);
        let connected = engine.connected().await;
        self.failed.fetch_or(connected.is_err(), Ordering::SeqCst);
        self.start.wait();
        self.began.store(true, Ordering::SeqCst);
        if self.failed.load(Ordering::SeqCst) {
            engine.end().await;
            return connected.map_err(RunError::Connect);
        }
        let first = ticks_in(plan.warmup);
        let (stop, told, spare, number) = (self.stop, self.told, self.spare, self.number as usize);
        let driven = engine
            .drive(load, plan.warmup, |ticks, record| {
                if ticks > first && (ticks - first).is_multiple_of(TICKS_PER_SECOND) {
                    let empty = spare.try_recv().unwrap_or_default();
                    let _ = told.send((number, Told::Second(record.take(empty))));
                }
                stop.go()
            })
            .await;
        let _ = told.send((number, Told::Done { record: engine.take_record(), driven }));
        engine.end().await;
        Ok(())
    }
}

/// One core's part of a plan.
fn load_of(plan: &Plan, share: Share) -> Result<Load, ScheduleError> {
    match plan.load {
        PlannedLoad::Open(arrivals) => {
            let end = End { after: plan.duration, requests: plan.request_count };
            // Not the seed that kinds are drawn by.
            let seed = plan.seed.wrapping_mul(2).wrapping_add(u64::from(share.core));
            Schedule::new(arrivals, end, share, Rng::new(seed)).map(Load::Open)
        }
        PlannedLoad::Closed => Ok(Load::Closed {
            duration: plan.duration,
            requests: plan.request_count.map(|all| share.of(all)),
        }),
    }
}

fn prepare(core: Option<usize>, slack: Duration) -> Result<(), RunError> {
    threads::wake_within(slack);
    let pin = |core| threads::pin(core).map_err(|error| RunError::Core { core, error });
    core.map_or(Ok(()), pin)
}

/// Rounded down; rows begin with the first whole tick that is recorded.
fn ticks_in(time: Duration) -> u32 {
    (time.as_millis() / TICK.as_millis()) as u32
}

/// Seconds of all cores, added up as they come.
struct Sum<'a> {
    plan: &'a Plan,
    run: Run,
    spares: Vec<Sender<Record>>,
    /// For each core, what it has told and the others have not.
    ahead: Vec<VecDeque<Record>>,
    done: Vec<bool>,
    last_sent: Duration,
    last_ended: Duration,
    stopped: Option<Duration>,
}

impl<'a> Sum<'a> {
    fn new(plan: &'a Plan, spares: Vec<Sender<Record>>) -> Sum<'a> {
        let cores = spares.len();
        Sum {
            plan,
            run: Run::new(plan.asked.clone()),
            spares,
            ahead: (0..cores).map(|_| VecDeque::new()).collect(),
            done: vec![false; cores],
            last_sent: Duration::ZERO,
            last_ended: Duration::ZERO,
            stopped: None,
        }
    }

    fn add_up(
        mut self,
        tells: &Receiver<(usize, Told)>,
        each_second: &mut impl FnMut(&Row, &Record),
    ) -> Result<Run, RunError> {
        let mut failure = None;
        for (core, told) in tells {
            match told {
                Told::Second(record) => self.ahead[core].push_back(record),
                Told::Done { record, driven } => {
                    self.ahead[core].push_back(record);
                    self.done[core] = true;
                    self.last_sent = self.last_sent.max(driven.last_sent);
                    self.last_ended = self.last_ended.max(driven.last_ended);
                    self.stopped = self.stopped.max(driven.stopped);
                }
                Told::Failed(error) => failure = failure.or(Some(error)),
            }
            self.whole_seconds(each_second);
        }
        match failure {
            Some(error) => Err(error),
            None if self.done.contains(&false) => Err(RunError::Ring(ring::RunError::Panicked)),
            None => {
                self.run.elapsed = self.elapsed();
                Ok(self.run)
            }
        }
    }

    /// Seconds that every core is through.
    fn whole_seconds(&mut self, each_second: &mut impl FnMut(&Row, &Record)) {
        let through = |(records, done): (&VecDeque<Record>, &bool)| *done || !records.is_empty();
        while self.ahead.iter().any(|records| !records.is_empty())
            && self.ahead.iter().zip(&self.done).all(through)
        {
            let mut second = Record::new();
            for (records, spares) in self.ahead.iter_mut().zip(&self.spares) {
                if let Some(record) = records.pop_front() {
                    second.merge(&record);
                    let _ = spares.try_send(record);
                }
            }
            // What came after the last whole second: often nothing.
            if second.is_empty() && !self.done.contains(&false) {
                continue;
            }
            let row = self.run.add_second(&second);
            each_second(&row, &second);
        }
    }

    /// Without the warm-up. A generator that lags behind its schedule takes longer than was asked;
    /// one whose requests were counted and not timed ends when the next would have begun.
    fn elapsed(&self) -> Duration {
        let planned = match (self.stopped, self.plan.load) {
            (Some(stopped), _) => stopped,
            // Without those that hung on after the end.
            (None, PlannedLoad::Closed) => {
                self.last_ended.min(self.plan.duration.unwrap_or(Duration::MAX))
            }
            (None, PlannedLoad::Open(arrivals)) => self.scheduled(arrivals),
        };
        planned.max(self.last_sent).saturating_sub(self.plan.warmup)
    }

    fn scheduled(&self, arrivals: Arrivals) -> Duration {
        let counted = match (arrivals, self.plan.request_count) {
            (_, None) => Duration::MAX,
            (
                Arrivals::Constant { per_second } | Arrivals::Poisson { per_second },
                Some(requests),
            ) => {
                let counted = Duration::try_from_secs_f64(requests as f64 / per_second);
                counted.unwrap_or(Duration::MAX)
            }
            // Its last one's moment has to do.
            (Arrivals::Ramp { .. }, Some(_)) => Duration::ZERO,
        };
        counted.min(self.plan.duration.unwrap_or(Duration::MAX))
    }
}
