//! The bytes of a connection as the protocol sees them: plain today, TLS one day.
//!
//! What was received is looked at where it lies, in the ring's buffer, and what is left of it is
//! kept in memory of the connection's own (the spill), so that no ring buffer is held across a
//! wait. An idle connection has no spill.

use std::ops::Range;
use std::task::Waker;

use crate::ring::{Charge, Chunk, End, Lease, Progress, Ring, Socket};

pub(super) struct Transport {
    socket: Socket,
    ring: Ring,
    /// Received and not consumed: `spill[start..]`.
    spill: Vec<u8>,
    start: usize,
    charge: Option<Box<Charge>>,
}

impl Transport {
    pub(super) fn new(ring: &Ring, socket: Socket) -> Transport {
        Transport { socket, ring: ring.clone(), spill: Vec::new(), start: 0, charge: None }
    }

    pub(super) fn progress(&self) -> Progress {
        self.socket.progress()
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn set_owner(&self, waker: &Waker) {
        self.socket.set_owner(waker);
    }

    pub(super) fn send(&self, chunk: Chunk) {
        self.socket.send(chunk);
    }

    /// Bytes kept here, not counting what the ring still holds.
    pub(super) fn spilled_bytes(&self) -> usize {
        self.spill.len() - self.start
    }

    pub(super) fn has_input(&self) -> bool {
        self.spilled_bytes() > 0 || self.progress().has_piece
    }

    /// The peer has ended or failed, and all that came before is consumed.
    pub(super) fn has_ended(&self) -> Option<End> {
        let progress = self.progress();
        let open = progress.end == End::Open || progress.has_piece || progress.has_filled;
        (!open && self.spilled_bytes() == 0).then_some(progress.end)
    }

    /// Shows what came, in one run, to `look`, which says how much of it is done with. Without any
    /// input `look` sees nothing.
    pub(super) fn with_input<T>(&mut self, look: impl FnOnce(&mut [u8]) -> (usize, T)) -> T {
        if self.spilled_bytes() == 0
            && let Some(mut piece) = self.socket.take_piece()
        {
            let (consumed, value) = look(&mut piece);
            if consumed < piece.len() {
                self.keep(&piece[consumed..]);
            }
            return value;
        }
        self.absorb();
        let (consumed, value) = look(&mut self.spill[self.start..]);
        self.consume(consumed);
        value
    }

    /// Moves what the ring holds for this connection into its own memory.
    pub(super) fn absorb(&mut self) {
        while let Some(piece) = self.socket.take_piece() {
            self.keep(&piece);
        }
    }

    /// Keeps what has come, and lets no more come for now.
    pub(super) fn hold_back(&mut self) {
        self.absorb();
        self.socket.stop_receiving();
    }

    /// Drops what has come, and lets no more come for now.
    pub(super) fn discard(&mut self) {
        self.hold_back();
        self.consume(self.spilled_bytes());
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.spill.capacity() == 0 {
            self.spill = self.ring.buffer();
        } else if self.start > self.spill.len() / 2 {
            // A stream of which something is always left would grow for ever; this way each byte
            // is moved once at most for each that was consumed.
            self.spill.drain(..self.start);
            self.start = 0;
        }
        self.spill.extend_from_slice(bytes);
        self.account();
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.spill.len() {
            self.start = 0;
            self.ring.recycle(std::mem::take(&mut self.spill));
            self.account();
        }
    }

    /// A buffer of the usual size is on the house; what grows beyond it is charged.
    fn account(&mut self) {
        const FREE_BYTES: usize = 2048;
        let held = self.spill.capacity();
        if held > FREE_BYTES {
            self.charge.get_or_insert_with(|| Box::new(self.ring.charge())).set(held);
        } else {
            self.charge = None;
        }
    }

    /// What `fill` brought.
    pub(super) fn take_filled(&self) -> Option<(Lease, Range<usize>)> {
        self.socket.take_filled()
    }
}
