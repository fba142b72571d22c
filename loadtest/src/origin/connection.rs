//! One connection: requests in, answers out in their order, and what became of each.
//!
//! One task. Answers that are due at once gather in a batch, which leaves when there is nothing
//! more to read, one send at a time; an answer counts as given when the send that carried its end
//! has completed, which is looked at when the connection has something to do anyway, or when
//! somebody asks for the counts. So an answer costs no wake of its own.
//!
//! Memory is bounded whatever the client does: a batch that is full waits for the client to read,
//! and who waits takes in what has come, up to a limit at which it stops receiving. A provided
//! buffer is never held while the task waits.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use ringlane::ring::{self, Chunk, End, Piece, Progress, Socket, Whose};

use super::answer::{Encoder, Form};
use super::counts::Tally;
use super::house::{House, Site};
use super::request::{BadRequest, Event, Method, Reader, Request};
use super::script::Outcome;

/// Of answers that leave together. A prepared answer that is longer leaves alone.
const BATCH_BYTES: u64 = 64 << 10;
/// Received and not read yet: beyond it, receiving stops. What is under way comes on top.
const HELD_BYTES: usize = 64 << 10;
/// Of a slow body, as far as its rate is in bytes: 10 ms are less than anyone measures a rate in.
const PIECES_PER_SECOND: u64 = 100;
/// How long what a client still sends is taken in after the last answer: a close with bytes unread
/// would be a reset, which may take the answer from the client.
const LINGER: Duration = Duration::from_secs(2);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection's socket, and what is on its way out of it.
pub(super) struct Wire {
    socket: Socket,
    flight: RefCell<Flight>,
}

#[derive(Default)]
struct Flight {
    /// Requests that came whole, of which nothing has become yet.
    owed: u64,
    /// Statuses of answers whose end is in the send under way, and their bodies' bytes.
    statuses: Vec<u16>,
    body_bytes: u64,
}

/// The connection has failed, or was reset by us: nothing more is to be said on it.
struct Gone;

struct Connection {
    house: Rc<House>,
    site: Rc<Site>,
    wire: Rc<Wire>,
    number: u64,
    waker: Waker,
    reader: Reader,
    /// What the reader is in the midst of, in this order; then what the socket has.
    held: Vec<u8>,
    held_read: usize,
    piece: Option<(Piece, usize)>,
    /// Answers that are to leave next: one that is shared, or the bytes of several.
    alone: Option<Rc<[u8]>>,
    batch: Vec<u8>,
    /// Statuses of those which end there, and their bodies' bytes.
    ends: Vec<u16>,
    end_bytes: u64,
    /// Of this connection.
    answers: u64,
    /// It is among `connections`, unless it has only asked for counts.
    counted: bool,
    wakes_when_sent: bool,
}

/// What there is to do next.
enum Next {
    Event(Event),
    Bad(BadRequest),
    /// The client has sent all that it will.
    End,
}

impl Wire {
    /// Counts the answers that have left, and says how the socket stands.
    pub(super) fn settle(&self, tally: &mut Tally) -> Progress {
        let progress = self.socket.progress();
        let mut flight = self.flight.borrow_mut();
        if progress.all_sent && progress.send_error.is_none() && !flight.statuses.is_empty() {
            flight.owed -= flight.statuses.len() as u64;
            flight.statuses.drain(..).for_each(|status| tally.answered(status));
            tally.served.body_bytes_out += std::mem::take(&mut flight.body_bytes);
        }
        progress
    }

    pub(super) fn owed(&self) -> u64 {
        self.flight.borrow().owed
    }
}

/// The task of a connection.
pub(super) async fn serve(house: Rc<House>, site: Rc<Site>, fd: OwnedFd) {
    let waker = ring::current_waker().await;
    let socket = Socket::adopt(&house.ring, fd, Whose::Client, waker.clone());
    let wire = Rc::new(Wire { socket, flight: RefCell::default() });
    let number = site.remember(wire.clone());
    site.tally.borrow_mut().served.connections += 1;
    let mut connection = Connection {
        house,
        site,
        wire,
        number,
        waker,
        reader: Reader::default(),
        held: Vec::new(),
        held_read: 0,
        piece: None,
        alone: None,
        batch: Vec::new(),
        ends: Vec::new(),
        end_bytes: 0,
        answers: 0,
        counted: true,
        wakes_when_sent: false,
    };
    if connection.run().await.is_ok() {
        connection.linger().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut tally = self.site.tally.borrow_mut();
        self.wire.settle(&mut tally);
        tally.served.lost += self.wire.owed();
        self.site.forget(self.number);
        if self.house.stopping.get() {
            self.house.ring.wake(&self.house.waker);
        }
    }
}

impl Connection {
    /// Until the last answer has left.
    async fn run(&mut self) -> Result<(), Gone> {
        loop {
            let goes_on = match self.next().await? {
                Next::Event(Event::More) => true,
                Next::Event(Event::Continue) => {
                    self.gate().await?;
                    self.bytes().extend_from_slice(CONTINUE);
                    true
                }
                Next::Event(Event::Request(request)) if request.asks_counts => {
                    self.tell_counts(request).await?
                }
                Next::Event(Event::Request(request)) => self.answer(request).await?,
                Next::Bad(error) => {
                    self.gate().await?;
                    self.refuse(error);
                    false
                }
                Next::End => false,
            };
            if !goes_on {
                return self.sent().await;
            }
        }
    }

    /// What comes next of the requests, once it has come.
    async fn next(&mut self) -> Result<Next, Gone> {
        loop {
            let read = if !self.held.is_empty() {
                let read = self.reader.read(&self.held[self.held_read..]);
                self.held_read += read.map_or(0, |step| step.taken);
                if self.held_read == self.held.len() {
                    self.held_read = 0;
                    self.house.ring.recycle(std::mem::take(&mut self.held));
                }
                read
            } else if let Some((piece, from)) = &mut self.piece {
                let read = self.reader.read(&piece[*from..]);
                *from += read.map_or(0, |step| step.taken);
                if *from == piece.len() {
                    self.piece = None;
                }
                read
            } else if let Some(piece) = self.wire.socket.take_piece() {
                self.piece = Some((piece, 0));
                continue;
            } else {
                self.flush().await?;
                let progress = self.look()?;
                if !self.held.is_empty() || progress.has_piece {
                    continue;
                }
                if progress.end != End::Open {
                    return Ok(Next::End);
                }
                self.wire.socket.receive(true);
                ring::wait().await;
                continue;
            };
            match read.map(|step| step.event) {
                Ok(Event::More) => {}
                Ok(event) => return Ok(Next::Event(event)),
                Err(error) => return Ok(Next::Bad(error)),
            }
        }
    }

    /// Whether the connection may go on.
    async fn answer(&mut self, request: Request) -> Result<bool, Gone> {
        self.note(&request);
        let site = self.site.clone();
        let at = self.gate().await?;
        let (phase, prepared) = (site.phase(at), site.prepared(at));
        let (outcome, latency, body_bytes) = {
            let rng = &mut site.rng.borrow_mut();
            (phase.outcome(rng), phase.latency.draw(rng), phase.size.draw(rng))
        };
        if !latency.is_zero() {
            let due = self.house.ring.elapsed() + latency;
            self.flush().await?;
            self.until(due).await?;
            self.gate().await?;
        }
        self.answers += 1;
        let close = request.close || phase.close_after.is_some_and(|last| self.answers >= last);
        let head_only = request.method == Method::Head;
        let chunked = phase.chunked && !request.is_old;
        let form = Form { status: 200, body_bytes, chunked, head_only, close };
        match outcome {
            Outcome::Reset => {
                self.sent().await?;
                self.wire.socket.reset_on_close();
                self.spoilt(|tally| tally.served.resets += 1);
                return Err(Gone);
            }
            Outcome::Cut => {
                self.stream(form, phase.bytes_per_second, true).await?;
                self.sent().await?;
                self.spoilt(|tally| tally.served.cuts += 1);
                return Ok(false);
            }
            Outcome::Error(status) => {
                self.queue(prepared.error(status, close)).await?;
                self.ends.push(status);
            }
            Outcome::Answer => {
                match prepared.answer(phase, form) {
                    Some(bytes) => self.queue(bytes).await?,
                    None => self.stream(form, phase.bytes_per_second, false).await?,
                }
                self.ends.push(form.status);
                self.end_bytes += if head_only { 0 } else { body_bytes };
            }
        }
        Ok(!close)
    }

    fn note(&mut self, request: &Request) {
        let mut tally = self.site.tally.borrow_mut();
        tally.served.requests += 1;
        tally.served.connections += u64::from(!std::mem::replace(&mut self.counted, true));
        let bytes_in = &mut tally.served.body_bytes_in;
        *bytes_in = bytes_in.saturating_add(request.body_bytes);
        if let Some(id) = request.id {
            tally.ids.note(id);
        }
        self.wire.flight.borrow_mut().owed += 1;
    }

    fn spoilt(&self, count: impl FnOnce(&mut Tally)) {
        self.wire.flight.borrow_mut().owed -= 1;
        count(&mut self.site.tally.borrow_mut());
    }

    fn refuse(&mut self, error: BadRequest) {
        self.site.tally.borrow_mut().served.bad_requests += 1;
        let why = error.to_string();
        let head = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{why}\n",
            why.len() + 1
        );
        self.bytes().extend_from_slice(head.as_bytes());
    }

    /// At once, whatever the script says, and without a trace among what is counted.
    async fn tell_counts(&mut self, request: Request) -> Result<bool, Gone> {
        self.flush().await?;
        if self.answers == 0 && std::mem::replace(&mut self.counted, false) {
            self.site.tally.borrow_mut().served.connections -= 1;
        }
        let body = self.house.counts().json().to_string();
        let close = if request.close { "Connection: close\r\n" } else { "" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             {close}\r\n{body}\n",
            body.len() + 1
        );
        self.bytes().extend_from_slice(answer.as_bytes());
        Ok(!request.close)
    }

    /// Waits until answers are given at all; the phase then.
    async fn gate(&mut self) -> Result<usize, Gone> {
        loop {
            let (phase, ends) = self.site.now(&self.house.ring);
            if !self.site.phase(phase).stall {
                return Ok(phase);
            }
            match ends {
                Some(ends) => {
                    self.until(ends).await?;
                    // The phase is that of the turn, which may have begun before its end.
                    while self.house.ring.now() < ends {
                        self.house.ring.wake(&self.waker);
                        self.pause().await?;
                    }
                }
                // It waits for nothing but its client's end.
                None if self.look()?.end == End::Closed => return Err(Gone),
                None => self.pause().await?,
            }
        }
    }

    /// Sends an answer, or the beginning of one that is cut, piece by piece. What is left in the
    /// batch is its end.
    async fn stream(&mut self, form: Form, rate: Option<u64>, cut: bool) -> Result<(), Gone> {
        let mut encoder = Encoder::new(form);
        let mut left = if cut { encoder.cut_bytes() } else { encoder.left_bytes() };
        let head = encoder.head_bytes().min(left);
        encoder.fill(self.bytes(), head);
        left -= head;
        let began = self.house.ring.elapsed();
        let piece = rate.map_or(BATCH_BYTES, |rate| rate / PIECES_PER_SECOND).clamp(1, BATCH_BYTES);
        let mut sent = 0;
        while left > 0 {
            let bytes = piece.min(left);
            sent += bytes;
            left -= bytes;
            if let Some(rate) = rate {
                self.flush().await?;
                let after_ns = u128::from(sent) * 1_000_000_000 / u128::from(rate);
                self.until(began + Duration::from_nanos(after_ns as u64)).await?;
                self.gate().await?;
            } else if self.batch.len() as u64 >= BATCH_BYTES {
                self.flush().await?;
            }
            encoder.fill(self.bytes(), bytes);
        }
        Ok(())
    }

    /// Adds an answer to those that are to leave.
    async fn queue(&mut self, answer: &Rc<[u8]>) -> Result<(), Gone> {
        let queued = self.batch.len() + self.alone.as_ref().map_or(0, |alone| alone.len());
        if queued > 0 && (queued + answer.len()) as u64 > BATCH_BYTES {
            self.flush().await?;
        }
        if self.batch.is_empty() && self.alone.is_none() {
            self.alone = Some(answer.clone());
        } else {
            self.bytes().extend_from_slice(answer);
        }
        Ok(())
    }

    /// The batch, to add to.
    fn bytes(&mut self) -> &mut Vec<u8> {
        if self.batch.capacity() == 0 {
            self.batch = self.house.ring.buffer();
        }
        if let Some(alone) = self.alone.take() {
            self.batch.extend_from_slice(&alone);
        }
        &mut self.batch
    }

    /// Sends the batch, once what was sent before has left.
    async fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() && self.alone.is_none() {
            return Ok(());
        }
        self.idle().await?;
        let chunk = match self.alone.take() {
            Some(bytes) => Chunk::shared(bytes),
            None => Chunk::heap(std::mem::take(&mut self.batch)),
        };
        let mut flight = self.wire.flight.borrow_mut();
        debug_assert!(flight.statuses.is_empty(), "one send at a time");
        std::mem::swap(&mut flight.statuses, &mut self.ends);
        flight.body_bytes = std::mem::take(&mut self.end_bytes);
        drop(flight);
        self.wire.socket.send(chunk);
        Ok(())
    }

    /// Until all has left.
    async fn sent(&mut self) -> Result<(), Gone> {
        self.flush().await?;
        self.idle().await
    }

    /// Until nothing is on its way out.
    async fn idle(&mut self) -> Result<(), Gone> {
        while !self.look()?.all_sent {
            if !std::mem::replace(&mut self.wakes_when_sent, true) {
                self.wire.socket.wake_when_sent(true);
            }
            self.pause().await?;
        }
        if std::mem::replace(&mut self.wakes_when_sent, false) {
            self.wire.socket.wake_when_sent(false);
        }
        Ok(())
    }

    /// Until a moment by `Ring::elapsed`.
    async fn until(&mut self, moment: Duration) -> Result<(), Gone> {
        let _due = self.house.alarms.set(moment, self.waker.clone());
        while self.house.ring.elapsed() < moment {
            self.pause().await?;
        }
        Ok(())
    }

    fn look(&self) -> Result<Progress, Gone> {
        let progress = self.wire.settle(&mut self.site.tally.borrow_mut());
        let failed = progress.send_error.is_some() || matches!(progress.end, End::Failed(_));
        if failed || self.house.stopping.get() { Err(Gone) } else { Ok(progress) }
    }

    /// Waits for whatever comes next, and takes in what the client sends meanwhile.
    async fn pause(&mut self) -> Result<(), Gone> {
        self.hold();
        if self.held.len() - self.held_read < HELD_BYTES {
            self.wire.socket.receive(true);
        } else {
            self.wire.socket.stop_receiving();
        }
        ring::wait().await;
        self.look().map(drop)
    }

    /// Frees the provided buffers.
    fn hold(&mut self) {
        if self.held_read > self.held.len() / 2 {
            self.held.drain(..self.held_read);
            self.held_read = 0;
        }
        let unread = self.piece.take();
        let unread = unread.iter().map(|(piece, from)| &piece[*from..]);
        unread.for_each(|bytes| self.held.extend_from_slice(bytes));
        while let Some(piece) = self.wire.socket.take_piece() {
            self.held.extend_from_slice(&piece);
        }
    }

    /// Ends the connection so that the client can read to its end.
    async fn linger(&mut self) {
        self.piece = None;
        self.held = Vec::new();
        let socket = &self.wire.socket;
        socket.shutdown_write();
        let until = self.house.ring.elapsed() + LINGER;
        let _due = self.house.alarms.set(until, self.waker.clone());
        while self.house.ring.elapsed() < until
            && socket.progress().end == End::Open
            && !self.house.stopping.get()
        {
            while socket.take_piece().is_some() {}
            socket.receive(true);
            ring::wait().await;
        }
    }
}
