//! What the tasks of a core share: connections, who of them is idle, what waits, the record.
//!
//! Invariants: a request that is due is in exactly one place: waiting, on a connection, or ended
//! and counted. `under_way` is how many connections carry one. An index in `idle` is that of a
//! connection which is open and carries none. Connections take turns (the one that is idle longest
//! is next), so that a thousand of them are a thousand to the server at any rate.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use ringlane::policy::Rng;
use ringlane::ring::Ring;

use super::connection::Connection;
use super::job::{Kind, Settings};
use crate::record::{Failure, Record};

/// Of a core: what is due beyond is given up at once. 32 MB.
const MAX_WAITING: usize = 1 << 20;

/// A `Kind` as a core sends it.
pub(super) struct Wire {
    pub(super) bytes: Rc<[u8]>,
    pub(super) last: Rc<[u8]>,
    pub(super) number_at: Option<usize>,
    pub(super) is_head: bool,
    pub(super) target: usize,
    weight: u32,
    /// Of the weights of all kinds, those up to this one.
    up_to: u32,
}

/// One address.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) idle: VecDeque<usize>,
    pub(super) waiting: VecDeque<Due>,
    /// Connections that are open.
    pub(super) open: usize,
    /// Why the last attempt to connect failed; an errno.
    pub(super) refused: Option<i32>,
}

/// A request that is due.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub(super) at: Duration,
    pub(super) kind: usize,
    /// It is not the warm-up's.
    pub(super) recorded: bool,
}

/// What an idle connection does next.
#[derive(Clone, Copy)]
pub(super) enum Loop {
    /// Takes what waits.
    Open,
    /// Begins a request at once, so many in all.
    Closed { left: u64 },
}

pub(super) struct State {
    pub(super) ring: Ring,
    pub(super) settings: Settings,
    pub(super) wires: Vec<Wire>,
    pub(super) targets: Vec<Target>,
    pub(super) connections: Vec<Connection>,
    pub(super) next: Loop,
    /// What is due before is not recorded.
    pub(super) record_from: Duration,
    pub(super) record: Record,
    /// Requests on connections, and requests in all `waiting`.
    pub(super) under_way: usize,
    pub(super) waiting: usize,
    /// Of requests that bear one.
    pub(super) number: u64,
    pub(super) last_sent: Duration,
    pub(super) last_ended: Duration,
    /// Tasks of connections that have not ended; there are no more connections once `is_over`.
    pub(super) tasks: usize,
    pub(super) is_over: bool,
    /// Whom to wake when a connection was made or refused, nothing is under way any more, or the
    /// last task has ended.
    pub(super) main: Option<Waker>,
    rng: Rng,
}

impl State {
    pub(super) fn new(ring: Ring, kinds: &[Kind], settings: Settings) -> State {
        let mut targets: Vec<Target> = Vec::new();
        let mut up_to = 0;
        let wires = kinds.iter().map(|kind| {
            let known = targets.iter().position(|target| target.address == kind.address);
            let target = known.unwrap_or_else(|| {
                targets.push(Target::new(kind.address));
                targets.len() - 1
            });
            up_to += kind.weight;
            Wire {
                bytes: kind.bytes.as_slice().into(),
                last: kind.last.as_slice().into(),
                number_at: kind.number_at,
                is_head: kind.is_head,
                target,
                weight: kind.weight,
                up_to,
            }
        });
        State {
            wires: wires.collect(),
            targets,
            connections: Vec::new(),
            next: Loop::Open,
            record_from: Duration::ZERO,
            record: Record::new(),
            under_way: 0,
            waiting: 0,
            number: settings.first_number,
            last_sent: Duration::ZERO,
            last_ended: Duration::ZERO,
            tasks: 0,
            is_over: false,
            main: None,
            rng: Rng::new(settings.seed),
            ring,
            settings,
        }
    }

    /// A request is due: it goes to the connection that is idle longest, or waits.
    pub(super) fn offer(&mut self, at: Duration, now: Duration) {
        let due = self.due(at);
        let target = &mut self.targets[self.wires[due.kind].target];
        match target.idle.pop_front() {
            Some(index) => self.send(index, due, now),
            None if self.waiting < MAX_WAITING => {
                target.waiting.push_back(due);
                self.waiting += 1;
            }
            None => self.never_sent(due),
        }
    }

    /// A connection carries nothing: what it does next is the loop's to say.
    pub(super) fn ready(&mut self, index: usize, now: Duration) {
        let at = self.connections[index].target;
        match self.next {
            Loop::Closed { left: 1.. } => {
                let due = self.due_to(now, at);
                self.spend();
                return self.send(index, due, now);
            }
            Loop::Closed { .. } => {}
            Loop::Open => {
                while let Some(due) = self.targets[at].waiting.pop_front() {
                    self.waiting -= 1;
                    if now.saturating_sub(due.at) <= self.settings.timeout {
                        return self.send(index, due, now);
                    }
                    self.never_sent(due);
                }
            }
        }
        self.targets[at].idle.push_back(index);
        self.tell_if_quiet();
    }

    /// No connection to a target can be had: what waits for one was never sent. A closed loop has
    /// tried one request.
    pub(super) fn refuse(&mut self, target: usize) {
        if self.targets[target].open == 0 {
            while let Some(due) = self.targets[target].waiting.pop_front() {
                self.waiting -= 1;
                if due.recorded {
                    self.record.failed(Failure::Connect);
                }
            }
        }
        if let Loop::Closed { left: 1.. } = self.next {
            self.spend();
            if self.ring.elapsed() >= self.record_from {
                self.record.failed(Failure::Connect);
            }
        }
        self.tell_if_quiet();
    }

    /// Gives up what has waited for too long, or everything.
    pub(super) fn give_up_waiting(&mut self, now: Duration, everything: bool) {
        for at in 0..self.targets.len() {
            while let Some(due) = self.targets[at].waiting.front().copied() {
                if !everything && now.saturating_sub(due.at) <= self.settings.timeout {
                    break;
                }
                self.targets[at].waiting.pop_front();
                self.waiting -= 1;
                self.never_sent(due);
            }
        }
        self.tell_if_quiet();
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.under_way == 0 && self.waiting == 0
    }

    pub(super) fn tell_if_quiet(&self) {
        if self.is_quiet() {
            self.tell_main();
        }
    }

    pub(super) fn tell_main(&self) {
        if let Some(main) = &self.main {
            self.ring.wake(main);
        }
    }

    fn never_sent(&mut self, due: Due) {
        if due.recorded {
            self.record.never_sent(1);
        }
    }

    fn spend(&mut self) {
        if let Loop::Closed { left } = &mut self.next {
            *left -= 1;
            if *left == 0 {
                self.tell_main();
            }
        }
    }

    fn due(&mut self, at: Duration) -> Due {
        Due { at, kind: self.kind(), recorded: at >= self.record_from }
    }

    /// Of the kinds for one target: the others have connections of their own.
    fn due_to(&mut self, at: Duration, target: usize) -> Due {
        let mut due = self.due(at);
        if self.targets.len() > 1 {
            let of_target = || self.wires.iter().filter(|wire| wire.target == target);
            let all: u32 = of_target().map(|wire| wire.weight).sum();
            let mut drawn = self.rng.below(all as usize) as u32;
            let kinds = (0..self.wires.len()).filter(|kind| self.wires[*kind].target == target);
            for kind in kinds {
                due.kind = kind;
                match drawn.checked_sub(self.wires[kind].weight) {
                    Some(left) => drawn = left,
                    None => break,
                }
            }
        }
        due
    }

    /// Each as often as its weight says.
    fn kind(&mut self) -> usize {
        match self.wires.as_slice() {
            [_] => 0,
            wires => {
                let all = wires.last().map_or(1, |wire| wire.up_to);
                let drawn = self.rng.below(all as usize) as u32;
                wires.partition_point(|wire| wire.up_to <= drawn)
            }
        }
    }
}

impl Target {
    fn new(address: SocketAddr) -> Target {
        Target { address, idle: VecDeque::new(), waiting: VecDeque::new(), open: 0, refused: None }
    }
}
