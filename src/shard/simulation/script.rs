//! What one side is about to write: pieces that leave in fragments of any size, when it likes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ring::simulated::{Network, Peer};

/// What somebody does next.
pub(super) enum Next {
    Write,
    Read,
    Nothing,
}

/// Decides that; nothing may be for a while.
pub(super) fn next(network: &mut Network, sleeps_until: &mut Duration) -> Next {
    match network.random.below(10) {
        0..4 => Next::Write,
        4..8 => Next::Read,
        8 => {
            let pause = network.random.between(1, 350) as u64;
            *sleeps_until = network.now + Duration::from_millis(pause);
            Next::Nothing
        }
        _ => Next::Nothing,
    }
}

/// A run of bytes, and what it means that it has left.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// How far it has left.
    at: usize,
    pub(super) part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Heads, framing.
    Frame,
    /// Of the body of a message, by its number.
    Data(u64),
    /// The last of a message.
    Last(u64),
}

#[derive(Debug, Default)]
pub(super) struct Script {
    pieces: VecDeque<Piece>,
}

impl Script {
    pub(super) fn add(&mut self, bytes: impl Into<Vec<u8>>, part: Part) {
        self.pieces.push_back(Piece { bytes: bytes.into(), at: 0, part });
    }

    /// A body in the framing that was announced, and the end of its message.
    pub(super) fn add_body(
        &mut self,
        number: u64,
        len: u64,
        chunked: Option<&str>,
        mut stretch: impl FnMut(u64, usize) -> &'static [u8],
        mut size: impl FnMut() -> usize,
    ) {
        let mut at = 0;
        while at < len {
            let piece = size().min((len - at) as usize);
            let data = stretch(at, piece);
            if chunked.is_some() {
                self.add(format!("{piece:x}\r\n"), Part::Frame);
            }
            self.add(data, Part::Data(number));
            if chunked.is_some() {
                self.add("\r\n", Part::Frame);
            }
            at += piece as u64;
        }
        let end = chunked.map_or(String::new(), |trailers| format!("0\r\n{trailers}\r\n"));
        self.add(end, Part::Last(number));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Writes up to `most` bytes, and tells what has left. `None`: the connection takes no more.
    pub(super) fn write(
        &mut self,
        network: &mut Network,
        peer: Peer,
        mut most: usize,
        mut left: impl FnMut(Part, usize),
    ) -> Option<()> {
        while let Some(piece) = self.pieces.front_mut() {
            let rest = &piece.bytes[piece.at..];
            let taken = network.write(peer, &rest[..rest.len().min(most)])?;
            piece.at += taken;
            most -= taken;
            match piece.part {
                Part::Last(_) if piece.at < piece.bytes.len() => {}
                part => left(part, taken),
            }
            if piece.at < piece.bytes.len() {
                return Some(());
            }
            self.pieces.pop_front();
        }
        Some(())
    }
}
