//! Random numbers of a seed (xorshift64*), and what tests make of them.

use std::ops::Range;
use std::sync::OnceLock;

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        // Seeds are small and close together; the state is neither, and never 0.
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 up to `bound`, which is excluded.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// True in so many of a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'t, T>(&mut self, among: &'t [T]) -> &'t T {
        &among[self.below(among.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }
}

/// Longest stretch of a pattern.
pub(crate) const PATTERN_BYTES: usize = 1 << 16;

/// What a stream has from a place on: bytes in which no two places, and no two streams, look alike.
/// The same each time; up to `PATTERN_BYTES`.
pub(crate) fn pattern(stream: u64, from: u64, len: usize) -> &'static [u8] {
    static TWICE: OnceLock<Vec<u8>> = OnceLock::new();
    let twice = TWICE.get_or_init(|| {
        let mut random = Random::new(0);
        let once: Vec<u8> = (0..PATTERN_BYTES).map(|_| random.next() as u8).collect();
        once.repeat(2)
    });
    let start = stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let start = start.wrapping_add(from) as usize % PATTERN_BYTES;
    &twice[start..start + len]
}

/// The seeds to run: so many, or as many as `RINGLANE_SEEDS` says, or the one that `RINGLANE_SEED`
/// names.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    match number("RINGLANE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGLANE_SEEDS").unwrap_or(usual),
    }
}
