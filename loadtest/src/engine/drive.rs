//! One core's engine: its connections, and one load after another on them.
//!
//! The calling task is the pacer. It sleeps on the ring's alarm until the next request is due, and
//! hands over all that are; nothing it waits for is a server.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringlane::ring::{self, Ring, Timer};

use super::connection::{CLOSED, connection};
use super::job::{Kind, Load, Settings};
use super::state::{Loop, State};
use crate::record::Record;
use crate::schedule::Schedule;

/// How often a caller is asked whether to go on; it divides a second.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Requests that are handed over with one reading of the clock.
const AT_ONCE: usize = 256;

/// Connections, and what is sent on them. They stay open from one load to the next; `end` closes
/// them, and has to be called before the ring's task returns.
pub struct Engine {
    ring: Ring,
    state: Rc<RefCell<State>>,
}

/// No connection to an address came about.
#[derive(Debug, Clone)]
pub struct ConnectError {
    pub address: SocketAddr,
    pub errno: i32,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            CLOSED => write!(out, "{} closes connections at once", self.address),
            errno => {
                let why = io::Error::from_raw_os_error(errno);
                write!(out, "cannot connect to {}: {why}", self.address)
            }
        }
    }
}

impl std::error::Error for ConnectError {}

/// When a load's requests were sent and ended, from its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Driven {
    pub last_sent: Duration,
    pub last_ended: Duration,
    /// `None`: it went to its end.
    pub stopped: Option<Duration>,
}

/// Whether a load goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    On,
    /// At once: what waits is given up, what is under way stays so.
    Stop,
}

impl Engine {
    /// Begins to connect. `kinds` is not empty, their weights are 1 or more.
    pub fn new(ring: &Ring, kinds: &[Kind], settings: Settings) -> Engine {
        let state = Rc::new(RefCell::new(State::new(ring.clone(), kinds, settings)));
        let targets = state.borrow().targets.len();
        for number in 0..settings.connections.max(targets) {
            ring.spawn(connection(state.clone(), number % targets));
        }
        Engine { ring: ring.clone(), state }
    }

    /// Until each connection was made or refused; an error where an address has none.
    pub async fn connected(&self) -> Result<(), ConnectError> {
        self.state.borrow_mut().main = Some(ring::current_waker().await);
        loop {
            {
                let state = self.state.borrow();
                let all = state.settings.connections.max(state.targets.len());
                if state.connections.len() == all && state.have_all_tried() {
                    let closed = state.targets.iter().find(|target| target.open == 0);
                    return match closed {
                        None => Ok(()),
                        Some(target) => Err(ConnectError {
                            address: target.address,
                            errno: target.refused.unwrap_or(CLOSED),
                        }),
                    };
                }
            }
            ring::wait().await;
        }
    }

    /// Sends a load, and waits until each of its requests has ended. Moments are offsets from now;
    /// what is due before `record_from` is not recorded. `tick` is called each `TICK`, with which
    /// of them it is and with what was recorded since it last took it.
    pub async fn drive(
        &self,
        load: Load,
        record_from: Duration,
        mut tick: impl FnMut(u32, &mut Record) -> Go,
    ) -> Driven {
        let waker = ring::current_waker().await;
        let mut pace =
            Pace { began: self.ring.elapsed(), timer: self.ring.timer(waker.clone()), ticks: 0 };
        {
            let mut state = self.state.borrow_mut();
            state.main = Some(waker);
            state.record_from = pace.began + record_from;
            (state.last_sent, state.last_ended) = (pace.began, pace.began);
        }
        pace.set_timer();
        let stopped = match load {
            Load::Open(schedule) => self.open(schedule, &mut pace, &mut tick).await,
            Load::Closed { duration, requests } => {
                self.closed(duration, requests, &mut pace, &mut tick).await
            }
        };
        let stopped = stopped == Go::Stop || self.let_end(&mut pace, &mut tick).await == Go::Stop;
        let mut state = self.state.borrow_mut();
        if stopped {
            state.give_up_waiting(Duration::ZERO, true);
        }
        state.main = None;
        let lasted = self.ring.elapsed() - pace.began;
        Driven {
            stopped: stopped.then_some(lasted),
            last_sent: state.last_sent.saturating_sub(pace.began),
            last_ended: state.last_ended.saturating_sub(pace.began),
        }
    }

    /// What was recorded since a `tick` last took it.
    pub fn take_record(&self) -> Record {
        self.state.borrow_mut().record.take(Record::new())
    }

    /// Closes all connections, and waits until their tasks have ended: a task that waits when its
    /// ring ends stays where it is, and what it owns with it.
    pub async fn end(self) {
        self.state.borrow_mut().main = Some(ring::current_waker().await);
        self.state.borrow_mut().end();
        while self.state.borrow().tasks > 0 {
            ring::wait().await;
        }
        self.state.borrow_mut().main = None;
    }

    async fn open(
        &self,
        mut schedule: Schedule,
        pace: &mut Pace,
        tick: &mut impl FnMut(u32, &mut Record) -> Go,
    ) -> Go {
        self.state.borrow_mut().next = Loop::Open;
        let waker = ring::current_waker().await;
        loop {
            {
                let mut state = self.state.borrow_mut();
                let now = self.ring.elapsed();
                let due = std::iter::from_fn(|| schedule.take_due(now - pace.began));
                for at in due.take(AT_ONCE) {
                    state.offer(pace.began + at, now);
                }
            }
            match schedule.peek() {
                // More is due already, and others have to run before.
                Some(next) if pace.began + next <= self.ring.elapsed() => self.ring.wake(&waker),
                Some(next) => self.ring.set_alarm(pace.began + next, waker.clone()),
                None => return Go::On,
            }
            ring::wait().await;
            if self.tick(pace, tick) == Go::Stop {
                return Go::Stop;
            }
        }
    }

    async fn closed(
        &self,
        duration: Option<Duration>,
        requests: Option<u64>,
        pace: &mut Pace,
        tick: &mut impl FnMut(u32, &mut Record) -> Go,
    ) -> Go {
        let waker = ring::current_waker().await;
        let ends = duration.map(|duration| pace.began + duration);
        {
            let mut state = self.state.borrow_mut();
            state.next = Loop::Closed { left: requests.unwrap_or(u64::MAX) };
            for target in 0..state.targets.len() {
                for _ in 0..state.targets[target].idle.len() {
                    if let Some(index) = state.targets[target].idle.pop_front() {
                        let now = self.ring.elapsed();
                        state.ready(index, now);
                    }
                }
            }
        }
        let mut went = Go::On;
        while went == Go::On {
            let is_over = ends.is_some_and(|ends| self.ring.elapsed() >= ends);
            if is_over || matches!(self.state.borrow().next, Loop::Closed { left: 0 }) {
                break;
            }
            if let Some(ends) = ends {
                self.ring.set_alarm(ends, waker.clone());
            }
            ring::wait().await;
            went = self.tick(pace, tick);
        }
        self.state.borrow_mut().next = Loop::Closed { left: 0 };
        went
    }

    /// Nothing more is due: waits for what is under way.
    async fn let_end(&self, pace: &mut Pace, tick: &mut impl FnMut(u32, &mut Record) -> Go) -> Go {
        while !self.state.borrow().is_quiet() {
            ring::wait().await;
            if self.tick(pace, tick) == Go::Stop {
                return Go::Stop;
            }
        }
        Go::On
    }

    fn tick(&self, pace: &mut Pace, tick: &mut impl FnMut(u32, &mut Record) -> Go) -> Go {
        if !pace.timer.has_fired() {
            return Go::On;
        }
        pace.ticks += 1;
        pace.set_timer();
        let mut state = self.state.borrow_mut();
        let now = self.ring.elapsed();
        state.give_up_waiting(now, false);
        tick(pace.ticks, &mut state.record)
    }
}

/// Where a load stands in time.
struct Pace {
    began: Duration,
    timer: Timer,
    ticks: u32,
}

impl Pace {
    fn set_timer(&self) {
        self.timer.set(self.began + TICK * (self.ticks + 1));
    }
}
