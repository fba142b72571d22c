//! Bodies that can be checked wherever they are cut, and random numbers that can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// Prime, so that no buffer size of anybody divides it: a piece that is lost, doubled or moved
/// shows.
const PERIOD: usize = 1_048_573;
/// The longest piece that is handed out or compared in one go.
const LONGEST: usize = 1 << 20;

/// Endless bytes, of which each place is known.
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        let mut rng = Rng(seed | 1);
        let mut bytes = Vec::with_capacity(PERIOD + LONGEST + 8);
        while bytes.len() < PERIOD {
            bytes.extend_from_slice(&rng.next().to_le_bytes());
        }
        bytes.truncate(PERIOD);
        bytes.extend_from_within(..LONGEST.min(PERIOD));
        bytes.extend_from_within(..LONGEST.saturating_sub(PERIOD));
        Pattern { bytes }
    }

    /// The bytes from `offset` on: `len` of them, or fewer where that is much.
    pub fn at(&self, offset: u64, len: u64) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        let len = len.min((self.bytes.len() - start) as u64).min(LONGEST as u64) as usize;
        &self.bytes[start..start + len]
    }

    /// Asserts that `data` is what stands at `offset`.
    #[track_caller]
    pub fn check(&self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let expected = self.at(offset, data.len() as u64);
            let (head, rest) = data.split_at(expected.len());
            if head != expected {
                let at = head.iter().zip(expected).take_while(|(a, b)| a == b).count();
                panic!("byte {} of the body is wrong", offset + at as u64);
            }
            offset += expected.len() as u64;
            data = rest;
        }
    }
}

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From `RINGLANE_SEED`, else from the clock; printed, so that a failure can be had again.
    pub fn seeded() -> Rng {
        let given = std::env::var("RINGLANE_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = given.unwrap_or_else(|| clock.map_or(1, |now| now.as_nanos() as u64));
        eprintln!("RINGLANE_SEED={seed}");
        Rng(seed | 1)
    }

    pub fn from(seed: u64) -> Rng {
        Rng(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 1 to `most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        1 + self.next() % most
    }
}
