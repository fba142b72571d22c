//! The rounds: each proxy's turns, one after the other on one ring.
//!
//! Within a round come the works, within a work the loads, within a load the proxies, so that those
//! figures which are compared lie as close in time as they can, in an order that is drawn anew each
//! time. A proxy's connections for a work stay open from the first turn to the last. CPU time is
//! read while nothing is under way, after a moment for what a proxy does once it has answered; and
//! once more at the end of each round, for what a proxy does now and then and seldom in its own
//! turns.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use ringlane::policy::Rng;
use ringlane::ring::{self, Ring};

use super::usage::Cpu;
use super::{CompareError, Rates, Work, usage};
use crate::engine::{Engine, Go, Load, Settings, Stop};
use crate::record::{Failure, Record};
use crate::report::units;
use crate::request::{Shape, Target};
use crate::schedule::{Arrivals, End, Schedule, Share};

/// Rounds before the first: connections and pools fill in one, saturation is found in the others.
const WARM_ROUNDS: u32 = 4;
/// Of the order of turns.
const SEED: u64 = 1;
/// Between the last answer and the reading of CPU time.
const SETTLES: Duration = Duration::from_millis(3);
const TIMEOUT: Duration = Duration::from_secs(5);
/// By how much the heads of two answers may differ: digits of times and dates.
const HEAD_SLACK_BYTES: u64 = 64;

/// A proxy that runs.
#[derive(Debug, Clone)]
pub struct Lane {
    pub name: String,
    pub pid: u32,
    /// Each size of bodies.
    pub sites: Vec<Site>,
}

#[derive(Debug, Clone, Copy)]
pub struct Site {
    pub body_bytes: usize,
    pub listen: SocketAddr,
    /// Of a whole answer.
    pub answer_bytes: u64,
}

/// What all turns of a column have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoadAt {
    /// A closed loop.
    Saturation,
    /// An open loop at one of the work's rates.
    Rate(usize),
}

/// One proxy's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub round: u32,
    pub work: usize,
    pub lane: usize,
    pub load: LoadAt,
    pub answered: u64,
    pub wall: Duration,
    /// Of the proxy's threads, and of those of this program: load and origins.
    pub cpu_ns: u64,
    pub load_cpu_ns: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    /// What was not as it should be, and how often.
    pub faults: BTreeMap<String, u64>,
}

/// What all rounds came to.
#[derive(Debug, Clone)]
pub struct Measured {
    /// By work, the rates of its open loops per second.
    pub rates: Vec<Vec<f64>>,
    /// Rounds that are complete.
    pub rounds: u32,
    pub turns: Vec<Turn>,
    /// By round and proxy, its CPU time from the end of the round before to the end of this one.
    pub round_cpu_ns: Vec<Vec<u64>>,
}

pub(super) struct Job {
    pub(super) lanes: Vec<Lane>,
    pub(super) works: Vec<Work>,
    pub(super) rates: Rates,
    pub(super) turn: Duration,
    pub(super) rounds: u32,
    pub(super) stop: Stop,
    pub(super) say: fn(&str),
}

impl Lane {
    pub(super) fn usage(&self, error: io::Error) -> CompareError {
        CompareError::Usage { name: self.name.clone(), error }
    }

    fn site(&self, work: Work) -> Site {
        let found = self.sites.iter().find(|site| site.body_bytes == work.body_bytes);
        *found.expect("a site for each size")
    }
}

impl Turn {
    pub fn answered_per_second(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }
}

impl Job {
    pub(super) async fn run(self, ring: Ring) -> Result<Measured, CompareError> {
        let mut engines = Vec::new();
        for work in &self.works {
            let mut of_work = Vec::new();
            for lane in &self.lanes {
                of_work.push(connect(&ring, lane, *work).await?);
            }
            engines.push(of_work);
        }
        let mut rounds = Rounds {
            rates: vec![Vec::new(); self.works.len()],
            turns: Vec::new(),
            round_cpu_ns: Vec::new(),
            rng: Rng::new(SEED),
            job: self,
            ring,
            engines,
        };
        let complete = rounds.all().await;
        let Rounds { rates, turns, round_cpu_ns, engines, .. } = rounds;
        for engine in engines.into_iter().flatten() {
            engine.end().await;
        }
        complete.map(|complete| Measured { rates, rounds: complete, turns, round_cpu_ns })
    }
}

async fn connect(ring: &Ring, lane: &Lane, work: Work) -> Result<Engine, CompareError> {
    let site = lane.site(work);
    let target: Target =
        format!("http://{}/", site.listen).parse().expect("an address makes a URL");
    let shape = Shape {
        method: Method::GET,
        fields: Vec::new(),
        body: Vec::new(),
        chunked: None,
        numbered: false,
    };
    let settings = Settings {
        connections: work.connections,
        timeout: TIMEOUT,
        churn: None,
        core: 0,
        first_number: 0,
        seed: 1,
    };
    let engine = Engine::new(ring, &[target.kind(site.listen, &shape)], settings);
    let connected = engine.connected().await;
    connected.map_err(|error| CompareError::Connect { name: lane.name.clone(), error })?;
    Ok(engine)
}

struct Rounds {
    job: Job,
    ring: Ring,
    /// By work and lane.
    engines: Vec<Vec<Engine>>,
    rates: Vec<Vec<f64>>,
    turns: Vec<Turn>,
    round_cpu_ns: Vec<Vec<u64>>,
    rng: Rng,
}

impl Rounds {
    /// How many are complete.
    async fn all(&mut self) -> Result<u32, CompareError> {
        for warm in 0..WARM_ROUNDS {
            if warm == 1 {
                self.turns.clear();
            }
            self.round(0).await?;
        }
        self.set_rates();
        self.turns.clear();
        let mut before = self.cpu()?;
        for round in 0..self.job.rounds {
            match self.round(round).await {
                Ok(()) => {
                    let after = self.cpu()?;
                    let used = after.iter().zip(&before).map(|(after, before)| after.since(before));
                    self.round_cpu_ns.push(used.collect());
                    before = after;
                    self.tell(round);
                }
                Err(CompareError::Stopped) if round > 0 => {
                    self.turns.retain(|turn| turn.round < round);
                    return Ok(round);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.job.rounds)
    }

    async fn round(&mut self, round: u32) -> Result<(), CompareError> {
        for work in 0..self.job.works.len() {
            let rates = (0..self.rates[work].len()).map(LoadAt::Rate);
            for load in [LoadAt::Saturation].into_iter().chain(rates).collect::<Vec<_>>() {
                for lane in self.order() {
                    let turn = self.turn(round, work, lane, load).await?;
                    self.turns.push(turn);
                }
            }
        }
        Ok(())
    }

    /// Each proxy once; whom one follows is not always the same.
    fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.job.lanes.len()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, self.rng.below(last + 1));
        }
        order
    }

    fn cpu(&self) -> Result<Vec<Cpu>, CompareError> {
        let cpu = |lane: &Lane| usage::cpu(lane.pid).map_err(|error| lane.usage(error));
        self.job.lanes.iter().map(cpu).collect()
    }

    async fn turn(
        &self,
        round: u32,
        work: usize,
        at: usize,
        load: LoadAt,
    ) -> Result<Turn, CompareError> {
        let (lane, stop) = (&self.job.lanes[at], self.job.stop.clone());
        let cpu = || usage::cpu(lane.pid).map_err(|error| lane.usage(error));
        let own = || usage::own_cpu().map_err(|error| lane.usage(error));
        let engine = &self.engines[work][at];
        let planned = self.load(work, load)?;
        let (before, own_before) = (cpu()?, own()?);
        let go = move || if stop.is_asked() { Go::Stop } else { Go::On };
        let driven = engine.drive(planned, Duration::ZERO, |_, _| go()).await;
        let own_used = own()?.since(&own_before);
        self.settle().await;
        let used = cpu()?.since(&before);
        if driven.stopped.is_some() || self.job.stop.is_asked() {
            return Err(CompareError::Stopped);
        }
        let record = engine.take_record();
        let wall = match load {
            LoadAt::Saturation => driven.last_ended,
            LoadAt::Rate(_) => driven.last_ended.max(self.job.turn),
        };
        let percentile = |percent| record.latency().value_at_percentile(percent);
        Ok(Turn {
            round,
            work,
            lane: at,
            load,
            answered: record.answered_total(),
            wall: wall.max(Duration::from_nanos(1)),
            cpu_ns: used,
            load_cpu_ns: own_used,
            p50_ns: percentile(50.0),
            p99_ns: percentile(99.0),
            faults: faults(&record, lane.site(self.job.works[work])),
        })
    }

    fn load(&self, work: usize, load: LoadAt) -> Result<Load, CompareError> {
        let LoadAt::Rate(number) = load else {
            return Ok(Load::Closed { duration: Some(self.job.turn), requests: None });
        };
        let arrivals = Arrivals::Constant { per_second: self.rates[work][number] };
        let end = End { after: Some(self.job.turn), requests: None };
        let share = Share { core: 0, cores: 1 };
        let schedule = Schedule::new(arrivals, end, share, Rng::new(1));
        schedule.map(Load::Open).map_err(CompareError::Rate)
    }

    async fn settle(&self) {
        let timer = self.ring.timer(ring::current_waker().await);
        timer.set(self.ring.now() + SETTLES);
        while !timer.has_fired() {
            ring::wait().await;
        }
    }

    /// From what the warm rounds came to, by their medians.
    fn set_rates(&mut self) {
        for (work, rates) in self.rates.iter_mut().enumerate() {
            let reached = (0..self.job.lanes.len()).filter_map(|lane| {
                let turns = self.turns.iter().filter(|turn| (turn.work, turn.lane) == (work, lane));
                let mut rates: Vec<f64> =
                    turns.filter(|turn| turn.answered > 0).map(Turn::answered_per_second).collect();
                rates.sort_by(f64::total_cmp);
                rates.get(rates.len() / 2).copied()
            });
            let slowest = reached.fold(f64::INFINITY, f64::min);
            *rates = match &self.job.rates {
                Rates::PerSecond(rates) => rates.clone(),
                Rates::PercentOfSlowest(_) if slowest.is_infinite() => Vec::new(),
                Rates::PercentOfSlowest(shares) => {
                    shares.iter().map(|share| two_digits(slowest * share / 100.0)).collect()
                }
            };
        }
    }

    /// What a round came to in its first work, at saturation.
    fn tell(&self, round: u32) {
        let mut line = format!("round {} of {}", round + 1, self.job.rounds);
        for (at, lane) in self.job.lanes.iter().enumerate() {
            let turn = self.turns.iter().rev().find(|turn| {
                let load = (turn.work, turn.load);
                turn.lane == at && turn.round == round && load == (0, LoadAt::Saturation)
            });
            let per_second = turn.map_or(0.0, Turn::answered_per_second);
            line += &format!("  {} {}/s", lane.name, units::count(per_second as u64));
        }
        (self.job.say)(&line);
    }
}

/// What of a turn was not an answer as the proxy's first were.
fn faults(record: &Record, site: Site) -> BTreeMap<String, u64> {
    let failures = Failure::ALL.map(|kind| (kind.name().to_owned(), record.failures(kind)));
    let statuses = record.statuses().filter(|(status, _)| *status != 200);
    let statuses = statuses.map(|(status, count)| (format!("status {status}"), count));
    let mut faults: BTreeMap<String, u64> = failures.into_iter().chain(statuses).collect();
    faults.insert("never sent".into(), record.never_sent_total());
    faults.retain(|_, count| *count > 0);
    // Whether lengths are as announced is the reader's to say; whether those were announced that
    // the origin sends shows in their sum.
    if faults.is_empty() {
        let answered = record.answered_total();
        let off = record.bytes_in().abs_diff(answered * site.answer_bytes);
        if off > answered * HEAD_SLACK_BYTES {
            faults.insert("bytes too many or too few".into(), off);
        }
    }
    faults
}

/// 12,345 is 12,000: a rate that can be quoted, and not more than was meant.
fn two_digits(rate: f64) -> f64 {
    let unit = 10_f64.powf(rate.log10().floor() - 1.0);
    (rate / unit).floor() * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Answer;

    fn site(answer_bytes: u64) -> Site {
        Site { body_bytes: 128, listen: ([127, 0, 0, 1], 1).into(), answer_bytes }
    }

    fn record(statuses: &[u16]) -> Record {
        let mut record = Record::new();
        for status in statuses {
            let latency = Duration::from_millis(1);
            record.sent(Duration::ZERO);
            record.bytes(300, 40);
            record.answered(Answer { status: *status, latency, service: latency });
        }
        record
    }

    #[test]
    fn rates_are_round() {
        let rounded = [12_345.0, 999.0, 100.0, 7.77, 0.123].map(two_digits);
        for (found, expected) in rounded.into_iter().zip([12_000.0, 990.0, 100.0, 7.7, 0.12]) {
            assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
        }
    }

    #[test]
    fn what_is_not_as_it_should_be() {
        assert!(faults(&record(&[200; 3]), site(300)).is_empty());
        // A Date that has one digit more.
        assert!(faults(&record(&[200; 3]), site(299)).is_empty());
        let off = faults(&record(&[200; 3]), site(172));
        assert_eq!(off, BTreeMap::from([("bytes too many or too few".into(), 3 * 128)]));
        let mut failed = record(&[200, 503, 503, 404]);
        failed.failed(Failure::Connect);
        failed.never_sent(2);
        let expected = [("connect", 1), ("never sent", 2), ("status 404", 1), ("status 503", 2)];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(faults(&failed, site(300)), BTreeMap::from(expected));
    }
}
