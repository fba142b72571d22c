//! The shadow model: what clients have asked for and origins have answered, by number. Whoever is
//! handed bytes looks here whether they are the right ones.

use std::collections::HashMap;

use crate::ring::simulated::{PATTERN_BYTES, pattern};

/// What a client sends.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: &'static str,
    /// It asks for a tunnel, whose bytes are its body.
    pub(super) is_tunnel: bool,
    /// Of its body; `None`: it has none.
    pub(super) body_bytes: Option<u64>,
    /// How much of that has left the client.
    pub(super) written_bytes: u64,
    /// All of the request has left the client.
    pub(super) is_written: bool,
    /// Origins that have read its head.
    pub(super) heads_seen: u32,
}

/// What an origin sends.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) request: u64,
    pub(super) status: u16,
    pub(super) body_bytes: u64,
    pub(super) written_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    /// An origin's answers that came whole.
    pub(super) answered: u64,
    /// Answers that were made by the proxy.
    pub(super) refused: u64,
    /// Answers that broke off, and requests without any.
    pub(super) lost: u64,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) asked: HashMap<u64, Asked>,
    pub(super) answers: Vec<Answered>,
    pub(super) counts: Counts,
}

impl Books {
    pub(super) fn ask(&mut self, method: &'static str, body_bytes: Option<u64>) -> u64 {
        self.counts.requests += 1;
        let number = self.counts.requests;
        let asked = Asked {
            method,
            is_tunnel: false,
            body_bytes,
            written_bytes: 0,
            is_written: false,
            heads_seen: 0,
        };
        self.asked.insert(number, asked);
        number
    }

    pub(super) fn request(&mut self, number: u64) -> &mut Asked {
        self.asked.get_mut(&number).unwrap_or_else(|| panic!("nobody has asked for {number}"))
    }

    pub(super) fn answer(&mut self, request: u64, status: u16, body_bytes: u64) -> usize {
        self.answers.push(Answered { request, status, body_bytes, written_bytes: 0 });
        self.answers.len() - 1
    }
}

/// The body of request `number`, from a place on.
pub(super) fn request_body(number: u64, from: u64, len: usize) -> &'static [u8] {
    pattern(number << 1, from, len)
}

/// The body of an answer.
pub(super) fn answer_body(answer: usize, from: u64, len: usize) -> &'static [u8] {
    pattern((answer as u64) << 1 | 1, from, len)
}

/// Whether `data` is what `stream` has from `from` on.
pub(super) fn is_from(
    data: &[u8],
    from: u64,
    stream: impl Fn(u64, usize) -> &'static [u8],
) -> bool {
    let mut at = from;
    data.chunks(PATTERN_BYTES).all(|piece| {
        at += piece.len() as u64;
        piece == stream(at - piece.len() as u64, piece.len())
    })
}
