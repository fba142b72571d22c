//! A body on its way from one connection to the other: received, decoded, framed anew, sent.
//!
//! Backpressure: the next receive follows the last send, so a stream holds one buffer and what its
//! peer has not taken. Small bodies come in the ring's pieces and are copied; a body of which much
//! is to come is received into a leased buffer, framed where it lies and sent from there. With the
//! budget used up it goes on in pieces: beyond the budget a stream holds two of them at most.

use std::ops::Range;

use super::transport::Transport;
use crate::http::Framing;
use crate::http1::{BodyDecoder, BodyEncoder, BodyError};
use crate::ring::{Charge, Chunk, End, Lease, PIECE_BYTES, Ring};

/// Up to here a body is received in pieces even though its length is known.
const SMALL_BODY_BYTES: u64 = 4 * PIECE_BYTES as u64;

/// What a body of unknown length is received into at first.
const USUAL_BYTES: usize = 120 << 10;

/// What is sent at once of what came in pieces. A client may have sent much behind its head: where
/// that waits it counts against the budget, and on its way to an endpoint that does not read it
/// would not.
const MAX_INPUT_BYTES: usize = 16 << 10;

/// The most that is read of an answer which nobody wants, framing included. About what an endpoint
/// sends before it waits for the first acknowledgement (RFC 6928: ten segments), so that it is on
/// its way already; to receive it costs four pieces, where a new connection costs a round trip.
const DRAIN_BYTES: usize = 16 << 10;

/// What framing takes of a lease.
const ROOM: usize = BodyEncoder::HEADROOM + BodyEncoder::TAILROOM;

/// Beyond that a copy counts against the shard's budget.
const LARGE_BYTES: usize = 2 * PIECE_BYTES;

/// A copy of what is sent on, to be sent again: whole up to its limit, and none beyond it.
pub(super) struct Copy {
    bytes: Vec<u8>,
    left_bytes: usize,
    is_whole: bool,
    /// Of what it begins with, which each attempt sends a copy of: on its way it is there twice.
    sent_bytes: usize,
    /// Beyond `LARGE_BYTES`.
    charge: Option<Charge>,
}

impl Copy {
    /// Begins with `bytes`, and takes `limit_bytes` more.
    pub(super) fn new(bytes: Vec<u8>, limit_bytes: usize) -> Copy {
        Copy { bytes, left_bytes: limit_bytes, is_whole: true, sent_bytes: 0, charge: None }
    }

    /// Of no meaning where it is not whole.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For what is part of the copy before anything is sent, whatever its size.
    pub(super) fn beginning(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Counts what it begins with against the budget, where that is large with the bytes that wait
    /// to follow it. `false`: there is no memory left for it.
    pub(super) fn may_stay(&mut self, waiting_bytes: usize, ring: &Ring) -> bool {
        // What is in it and not what it has room for: the buffer may be one that was used before.
        if self.bytes.len() + waiting_bytes <= LARGE_BYTES {
            return true;
        }
        self.sent_bytes = self.bytes.len();
        self.account(ring);
        !ring.is_out_of_budget()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// It is not needed any more, or cannot be had whole.
    pub(super) fn forget(&mut self, ring: &Ring) {
        self.is_whole = false;
        self.charge = None;
        ring.recycle(std::mem::take(&mut self.bytes));
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn add(&mut self, bytes: &[u8], ring: &Ring) {
        if !self.is_whole || bytes.is_empty() {
            return;
        }
        if bytes.len() > self.left_bytes || ring.is_out_of_budget() {
            return self.forget(ring);
        }
        self.left_bytes -= bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.account(ring);
    }

    fn account(&mut self, ring: &Ring) {
        let held = self.bytes.capacity() + self.sent_bytes;
        if held > LARGE_BYTES {
            self.charge.get_or_insert_with(|| ring.charge()).set(held);
        }
    }
}

/// Where a pump stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Until the source has more or the sink has room.
    Waiting,
    Ended,
    /// The source sent what is no body, or too much of it.
    Refused(BodyError),
    /// The source closed or failed before the body ended.
    SourceLost,
    SinkLost,
}

pub(super) struct Pump {
    decoder: BodyDecoder,
    encoder: BodyEncoder,
    /// Its length is known, so that a receive can stop at its end.
    exact: bool,
    /// Much is to come: lease.
    large: bool,
    /// The last lease came back full.
    filled: bool,
    ended: bool,
    pub(super) moved_bytes: u64,
}

impl Pump {
    /// `from` as it comes, `to` as it leaves.
    pub(super) fn new(from: Framing, to: Framing, max_body_bytes: Option<u64>) -> Pump {
        let decoder = BodyDecoder::new(from, max_body_bytes);
        Pump {
            encoder: BodyEncoder::new(to),
            exact: matches!(from, Framing::Length(_)),
            large: matches!(from, Framing::Length(bytes) if bytes > SMALL_BODY_BYTES),
            filled: false,
            ended: decoder.is_ended(),
            moved_bytes: 0,
            decoder,
        }
    }

    /// The head names fields in `Connection`: `BodyDecoder::dropping_trailers`.
    pub(super) fn dropping_trailers(mut self, nominates: bool) -> Pump {
        self.decoder = self.decoder.dropping_trailers(nominates);
        self
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// What is to come of a body that nobody wants, unless that is known to be much. The pump is
    /// not used any more then.
    pub(super) fn rest(&mut self) -> Option<Rest> {
        if self.decoder.hint().is_some_and(|left| left > DRAIN_BYTES as u64) {
            return None;
        }
        let none = BodyDecoder::new(Framing::Empty, None);
        let decoder = std::mem::replace(&mut self.decoder, none);
        Some(Rest { decoder, left_bytes: DRAIN_BYTES })
    }

    /// Appends what `bytes` has of the body to `out`, framed, and says how much that was: not all
    /// of it at once where it is much.
    pub(super) fn take(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, BodyError> {
        if self.ended {
            return Ok(0);
        }
        let some = bytes.len().min(MAX_INPUT_BYTES);
        let bytes = &mut bytes[..some];
        let full = bytes.len() >= PIECE_BYTES;
        let payload = self.decoder.decode_in_place(bytes)?;
        self.moved_bytes += payload.data.len() as u64;
        self.ended = payload.ended;
        let trailers = self.take_trailers();
        let data = &bytes[payload.data];
        self.encoder.encode_into(out, data, self.ended, trailers.as_deref());
        // A full piece: more is waiting than a piece can hold.
        self.large |= full && !self.ended;
        Ok(payload.consumed)
    }

    /// Moves what can be moved, and adds it to a copy.
    pub(super) fn step(
        &mut self,
        from: &mut Transport,
        to: &Transport,
        mut copy: Option<&mut Copy>,
        ring: &Ring,
    ) -> Pumped {
        if self.ended {
            return Pumped::Ended;
        }
        loop {
            let sink = to.progress();
            if sink.send_error.is_some() {
                return Pumped::SinkLost;
            }
            if !sink.can_send {
                from.hold_back();
                break;
            }
            let moved = match from.take_filled() {
                Some((lease, range)) => {
                    self.forward_lease((lease, range), from, to, copy.as_deref_mut(), ring)
                }
                None if from.has_input() => self.forward_input(from, to, copy.as_deref_mut(), ring),
                None => break,
            };
            if let Err(error) = moved {
                return Pumped::Refused(error);
            }
            if self.ended {
                return Pumped::Ended;
            }
        }
        match from.has_ended() {
            Some(End::Closed) if self.decoder.finish_on_close().is_ok() => {
                self.ended = true;
                let mut out = ring.buffer();
                self.encoder.encode_into(&mut out, &[], true, None);
                to.send(Chunk::heap(out));
                return Pumped::Ended;
            }
            Some(_) => return Pumped::SourceLost,
            None => {}
        }
        to.socket().wake_when_sent(true);
        self.arm(from, to, ring);
        Pumped::Waiting
    }

    fn forward_input(
        &mut self,
        from: &mut Transport,
        to: &Transport,
        copy: Option<&mut Copy>,
        ring: &Ring,
    ) -> Result<(), BodyError> {
        let mut out = ring.buffer();
        from.with_input(|bytes| match self.take(bytes, &mut out) {
            Ok(consumed) => (consumed, Ok(())),
            Err(error) => (bytes.len(), Err(error)),
        })?;
        if let Some(copy) = copy {
            copy.add(&out, ring);
        }
        to.send(Chunk::heap(out));
        Ok(())
    }

    fn forward_lease(
        &mut self,
        (mut lease, range): (Lease, Range<usize>),
        from: &mut Transport,
        to: &Transport,
        mut copy: Option<&mut Copy>,
        ring: &Ring,
    ) -> Result<(), BodyError> {
        // What comes in small amounts again does not need a large buffer to wait in.
        self.large = self.exact || range.len() >= PIECE_BYTES;
        self.filled = range.end + BodyEncoder::TAILROOM == lease.len();
        let payload = self.decoder.decode_in_place(&mut lease[range.clone()])?;
        self.moved_bytes += payload.data.len() as u64;
        self.ended = payload.ended;
        let surplus = range.start + payload.consumed..range.end;
        if !surplus.is_empty() {
            // Before the framing is written: it may overwrite what follows the data.
            from.keep(&lease[surplus]);
        }
        let trailers = self.take_trailers();
        let data = range.start + payload.data.start..range.start + payload.data.end;
        let framed = self.encoder.encode(&mut lease, data, self.ended, trailers.as_deref());
        if let Some(copy) = &mut copy {
            copy.add(&lease[framed.clone()], ring);
        }
        if !framed.is_empty() {
            to.send(Chunk::Lease { lease, start: framed.start, end: framed.end });
        }
        if trailers.is_some() {
            let mut out = Vec::new();
            self.encoder.encode_into(&mut out, &[], true, trailers.as_deref());
            if let Some(copy) = copy {
                copy.add(&out, ring);
            }
            to.send(Chunk::heap(out));
        }
        Ok(())
    }

    fn take_trailers(&mut self) -> Option<Box<[u8]>> {
        if self.ended { self.decoder.take_trailers() } else { None }
    }

    /// Asks for more, where nothing is under way and the sink keeps up.
    fn arm(&mut self, from: &mut Transport, to: &Transport, ring: &Ring) {
        if self.large && from.progress().receiving_many {
            from.socket().stop_receiving();
        }
        let source = from.progress();
        // A head or a piece under way does not hold the body up; a lease does.
        let sink = to.progress();
        let busy = source.receiving || source.has_filled;
        if busy || source.end != End::Open || sink.sending_lease || !sink.can_send {
            return;
        }
        if from.socket().take_recalled() {
            // It rests: a piece will show when it goes on.
            self.large = false;
        }
        let left = match self.exact {
            true => self.decoder.hint().map_or(usize::MAX, |left| left as usize),
            // What fills a buffer of this size is likely to fill the largest.
            false if self.filled => usize::MAX - ROOM,
            false => USUAL_BYTES,
        };
        let lease = if self.large { ring.lease(left.saturating_add(ROOM)) } else { None };
        match lease {
            Some(lease) => {
                let room = lease.len() - ROOM;
                from.socket().fill(lease, BodyEncoder::HEADROOM, room.min(left));
            }
            None => from.socket().receive(false),
        }
    }
}

/// The end of a body, read for the sake of what may follow it on the same connection.
pub(super) struct Rest {
    decoder: BodyDecoder,
    /// What may still come before it is too much.
    left_bytes: usize,
}

impl Rest {
    /// Drops what has come, and asks for more where that is not the end.
    pub(super) fn step(&mut self, from: &mut Transport) -> Pumped {
        while !self.decoder.is_ended() {
            let dropped = match from.take_filled() {
                Some((mut lease, range)) => {
                    let dropped = self.drop_from(&mut lease[range.clone()]);
                    if let Ok(taken) = dropped
                        && taken < range.len()
                    {
                        from.keep(&lease[range.start + taken..range.end]);
                    }
                    dropped.map(drop)
                }
                None if from.has_input() => from.with_input(|bytes| match self.drop_from(bytes) {
                    Ok(taken) => (taken, Ok(())),
                    Err(error) => (bytes.len(), Err(error)),
                }),
                None if from.has_ended().is_some() => return Pumped::SourceLost,
                None => {
                    from.socket().receive(false);
                    return Pumped::Waiting;
                }
            };
            if let Err(error) = dropped {
                return Pumped::Refused(error);
            }
        }
        Pumped::Ended
    }

    fn drop_from(&mut self, bytes: &mut [u8]) -> Result<usize, BodyError> {
        let taken = self.decoder.decode_in_place(bytes)?.consumed;
        self.left_bytes = self.left_bytes.checked_sub(taken).ok_or(BodyError::TooLarge)?;
        Ok(taken)
    }
}
