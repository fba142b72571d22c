//! One connection: connects, carries one request at a time, and starts again when it must.
//!
//! ```text
//!   connecting --open--> idle --request--> busy --answer--> idle
//!       |  ^                                 |
//!    refused '--closed, broken, timed out, last of its requests
//!       '--> resting --> connecting
//! ```
//!
//! Why a request failed is what came first: an answer that breaks the rules, the server's close,
//! a reset, or the time.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use ringlane::ring::{self, Chunk, End, Socket, Timer};
use rustix::io::Errno;
use socket2::SockAddr;

use super::state::{Due, State};
use crate::record::{Answer, Failure};
use crate::request::NUMBER_DIGITS;
use crate::response::{Message, Reader};

/// Between an attempt to connect that failed and the next.
const REST: Duration = Duration::from_millis(50);
/// No errno: what it says is that the server closed at once.
pub(super) const CLOSED: i32 = 0;
/// Of a number, the lower part: whose it is stands above.
const NUMBER_BITS: u32 = 48;

pub(super) struct Connection {
    /// Of `State::targets`.
    pub(super) target: usize,
    stage: Stage,
    socket: Option<Socket>,
    reader: Reader,
    /// Of a connect, a request or a rest; what it says of an idle connection is of no interest.
    timer: Timer,
    waker: Waker,
    /// Requests that were sent on this socket.
    sent: u64,
    /// Whether an attempt to connect has had its result.
    tried: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    Connecting,
    Resting,
    Idle,
    Busy { due: Due, sent: Duration },
}

/// Adds a connection and starts its task, which begins to connect.
pub(super) async fn connection(state: Rc<RefCell<State>>, target: usize) {
    let waker = ring::current_waker().await;
    let index = {
        let mut state = state.borrow_mut();
        if state.is_over {
            return;
        }
        state.tasks += 1;
        let timer = state.ring.timer(waker.clone());
        let index = state.connections.len();
        state.connections.push(Connection {
            target,
            stage: Stage::Resting,
            socket: None,
            reader: Reader::new(),
            timer,
            waker,
            sent: 0,
            tried: false,
        });
        state.connect(index);
        index
    };
    loop {
        ring::wait().await;
        let mut state = state.borrow_mut();
        if state.is_over {
            break;
        }
        state.look(index);
    }
    let mut state = state.borrow_mut();
    state.tasks -= 1;
    state.tell_main();
}

impl State {
    /// Whether each connection has learned once if it can be made.
    pub(super) fn have_all_tried(&self) -> bool {
        self.connections.iter().all(|connection| connection.tried)
    }

    /// Closes all connections and wakes their tasks, which end.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        for connection in self.connections.drain(..) {
            self.ring.wake(&connection.waker);
        }
    }

    /// Sends a request on a connection that is idle, and in no list of those any more.
    pub(super) fn send(&mut self, index: usize, due: Due, now: Duration) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return };
        let wire = &self.wires[due.kind];
        connection.sent += 1;
        let is_last = self.settings.churn.is_some_and(|churn| connection.sent >= churn);
        let bytes = if is_last { &wire.last } else { &wire.bytes };
        let sent_bytes = bytes.len() as u64;
        // The kernel may have ended the last one with what it brought.
        socket.receive(true);
        socket.send(match wire.number_at {
            None => Chunk::shared(bytes.clone()),
            Some(at) => {
                let mut numbered = self.ring.buffer();
                numbered.extend_from_slice(bytes);
                let number = u64::from(self.settings.core) << NUMBER_BITS | self.number;
                self.number += 1;
                write_hex(number, &mut numbered[at..at + NUMBER_DIGITS]);
                Chunk::heap(numbered)
            }
        });
        connection.reader.begin(wire.is_head);
        connection.timer.set(now + self.settings.timeout);
        connection.stage = Stage::Busy { due, sent: now };
        self.under_way += 1;
        self.last_sent = now;
        if due.recorded {
            self.record.sent(now.saturating_sub(due.at));
            self.record.bytes(0, sent_bytes);
        }
    }

    /// What has come of what the connection waited for.
    fn look(&mut self, index: usize) {
        match self.connections[index].stage {
            Stage::Connecting => self.look_at_connect(index),
            Stage::Resting if self.connections[index].timer.has_fired() => self.connect(index),
            Stage::Resting => {}
            Stage::Idle | Stage::Busy { .. } => self.look_at_answer(index),
        }
    }

    fn connect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let address = SockAddr::from(self.targets[connection.target].address);
        match Socket::connect(&self.ring, &address, connection.waker.clone()) {
            Ok(socket) => {
                connection.socket = Some(socket);
                connection.stage = Stage::Connecting;
                connection.timer.set(self.ring.elapsed() + self.settings.timeout);
            }
            Err(error) => self.refused(index, error.raw_os_error().unwrap_or_default()),
        }
    }

    fn look_at_connect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return };
        let progress = socket.progress();
        match progress.end {
            End::Open if !progress.connecting => {
                socket.receive(true);
                connection.stage = Stage::Idle;
                connection.tried = true;
                let target = connection.target;
                self.targets[target].open += 1;
                self.tell_main();
                let now = self.ring.elapsed();
                self.ready(index, now);
            }
            End::Open if connection.timer.has_fired() => {
                self.refused(index, Errno::TIMEDOUT.raw_os_error());
            }
            End::Open => {}
            End::Closed => self.refused(index, CLOSED),
            End::Failed(errno) => self.refused(index, errno),
        }
    }

    fn refused(&mut self, index: usize, errno: i32) {
        let connection = &mut self.connections[index];
        connection.tried = true;
        self.rest(index);
        let target = self.connections[index].target;
        self.targets[target].refused = Some(errno);
        self.refuse(target);
        self.tell_main();
    }

    fn rest(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.socket = None;
        connection.stage = Stage::Resting;
        connection.timer.set(self.ring.elapsed() + REST);
    }

    fn look_at_answer(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return };
        while let Some(piece) = socket.take_piece() {
            let Stage::Busy { due, .. } = connection.stage else {
                // Nobody asked: the connection is of no more use.
                drop(piece);
                return self.start_again(index);
            };
            if due.recorded {
                self.record.bytes(piece.len() as u64, 0);
            }
            match connection.reader.read(&piece, |_| {}) {
                Ok(read) => {
                    if let Some(message) = read.complete {
                        let surplus = read.taken < piece.len();
                        drop(piece);
                        return self.answered(index, message, surplus);
                    }
                }
                Err(_) => {
                    drop(piece);
                    return self.failed(index, Failure::BadResponse);
                }
            }
        }
        socket.receive(true);
        let progress = socket.progress();
        let is_busy = matches!(connection.stage, Stage::Busy { .. });
        match progress.end {
            End::Open if progress.send_error.is_some() => self.failed(index, Failure::Reset),
            End::Open if is_busy && connection.timer.has_fired() => {
                self.failed(index, Failure::Timeout);
            }
            End::Open => {}
            End::Failed(_) => self.failed(index, Failure::Reset),
            End::Closed => match connection.reader.end() {
                Ok(Some(message)) => self.answered(index, message, false),
                _ => self.failed(index, Failure::ClosedEarly),
            },
        }
    }

    /// `surplus`: more bytes came than the answer has, which makes it wrong.
    fn answered(&mut self, index: usize, message: Message, surplus: bool) {
        if surplus {
            return self.failed(index, Failure::BadResponse);
        }
        let now = self.ring.elapsed();
        let connection = &mut self.connections[index];
        let Stage::Busy { due, sent } = connection.stage else { return };
        connection.stage = Stage::Idle;
        self.under_way -= 1;
        self.last_ended = now;
        if due.recorded {
            let (latency, service) = (now.saturating_sub(due.at), now.saturating_sub(sent));
            self.record.answered(Answer { status: message.head.status, latency, service });
        }
        let is_over = self.settings.churn.is_some_and(|churn| connection.sent >= churn);
        let may_stay = message.head.keep_alive && !is_over;
        // Neither is one of use whose server has closed, or sent more than was asked for, or has
        // answered what was not sent to its end.
        let is_fit = connection.socket.as_ref().is_some_and(Socket::is_quiet);
        match may_stay && is_fit {
            true => self.ready(index, now),
            false => self.start_again(index),
        }
    }

    /// The request of a connection, if it carries one, has no answer; the connection has to go.
    fn failed(&mut self, index: usize, failure: Failure) {
        if let Stage::Busy { due, .. } = self.connections[index].stage {
            self.under_way -= 1;
            self.last_ended = self.ring.elapsed();
            if due.recorded {
                self.record.failed(failure);
            }
        }
        self.start_again(index);
    }

    fn start_again(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let target = &mut self.targets[connection.target];
        target.open -= 1;
        // There are few idle ones where connections end, and it is seldom.
        target.idle.retain(|idle| *idle != index);
        connection.socket = None;
        connection.reader.reset();
        // A server that closes what it has just accepted is not asked again at once.
        match std::mem::take(&mut connection.sent) {
            0 => self.rest(index),
            _ => self.connect(index),
        }
        self.tell_if_quiet();
    }
}

fn write_hex(number: u64, digits: &mut [u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (at, digit) in digits.iter_mut().rev().enumerate() {
        *digit = HEX[(number >> (4 * at)) as usize & 0xF];
    }
}
