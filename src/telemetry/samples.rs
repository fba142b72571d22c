//! What one shard counted by value between two flushes: latencies, sizes, status codes, reasons.
//!
//! One open-addressed table maps (series, bucket) to a count; beside it each series has its exact
//! sum, least and greatest value. A dense HdrHistogram for each series, as DESIGN section 7 has it,
//! costs about the same per sample (`cargo bench --bench telemetry` has both). What decides is the
//! rest: 1,000 endpoints with up to 10 KB each, twice per shard, are more than a gigabyte on 64
//! shards, and a merge would visit every bucket of them. The table holds what was touched and
//! nothing else, so it is also what is sent.
//!
//! Invariants: a key is never 0, which marks a free entry; at least half of the entries are free.

use super::buckets::{self, INDEX_BITS};

/// The least table: 8 KiB, more than one service's samples of a second need.
const LEAST_ENTRIES: usize = 1024;

/// Which distribution or set of counters a sample belongs to; `Layout` deals them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series(pub u32);

impl Series {
    /// Ids beyond this do not fit into a key.
    pub const MAX: u32 = (1 << (32 - INDEX_BITS)) - 2;
}

/// A series and what was counted in it: a bucket, a status code, a reason. Sorts by series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub u32);

impl Key {
    pub fn new(series: Series, which: u32) -> Key {
        Key(series.0 << INDEX_BITS | which)
    }

    pub fn series(self) -> Series {
        Series(self.0 >> INDEX_BITS)
    }

    pub fn which(self) -> u32 {
        self.0 & (buckets::BUCKETS - 1)
    }
}

/// A count beside its key; 8 bytes, so that eight share a cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: u32,
    count: u32,
}

/// What a histogram's buckets cannot say exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    pub sum: u64,
    /// Of what is not 0.
    pub min: u64,
    pub max: u64,
    /// Samples of 0, which have no entry in the table: most requests have no body and no retry.
    pub zeros: u64,
}

impl Moments {
    pub const NONE: Moments = Moments { sum: 0, min: u64::MAX, max: 0, zeros: 0 };

    #[inline]
    fn add(&mut self, value: u64) {
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    pub fn merge(&mut self, other: &Moments) {
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.zeros += other.zeros;
    }

    /// The least of all samples, zeros included.
    pub fn least(&self) -> u64 {
        if self.zeros > 0 { 0 } else { self.min }
    }
}

#[derive(Debug)]
pub struct Samples {
    /// A power of two.
    table: Vec<Entry>,
    /// What a hash is shifted by to be an index.
    shift: u32,
    used: usize,
    /// By series.
    moments: Vec<Moments>,
}

impl Samples {
    pub fn new(series: usize) -> Samples {
        Samples {
            table: vec![Entry::default(); LEAST_ENTRIES],
            shift: shift_for(LEAST_ENTRIES),
            used: 0,
            moments: vec![Moments::NONE; series],
        }
    }

    /// A value of a distribution.
    #[inline]
    pub fn record(&mut self, series: Series, value: u64) {
        let moments = &mut self.moments[series.0 as usize];
        if value == 0 {
            moments.zeros += 1;
            return;
        }
        moments.add(value);
        self.count(series, buckets::index(value), 1);
    }

    /// One of a set of counters, such as a status code; `which` is less than `BUCKETS`.
    #[inline]
    pub fn count(&mut self, series: Series, which: u32, by: u32) {
        debug_assert!(which < buckets::BUCKETS && series.0 <= Series::MAX);
        let key = (series.0 + 1) << INDEX_BITS | which;
        let mask = self.table.len() - 1;
        let mut at = slot(key, self.shift);
        loop {
            let entry = &mut self.table[at];
            if entry.key == key {
                // Full only after a day of 50,000 a second in one bucket with nobody to take it.
                entry.count = entry.count.saturating_add(by);
                return;
            }
            if entry.key == 0 {
                *entry = Entry { key, count: by };
                break;
            }
            at = (at + 1) & mask;
        }
        self.used += 1;
        if self.used * 2 > self.table.len() {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![Entry::default(); self.table.len() * 2];
        let old = std::mem::replace(&mut self.table, larger);
        self.shift = shift_for(self.table.len());
        let mask = self.table.len() - 1;
        for entry in old.into_iter().filter(|entry| entry.key != 0) {
            let mut at = slot(entry.key, self.shift);
            while self.table[at].key != 0 {
                at = (at + 1) & mask;
            }
            self.table[at] = entry;
        }
    }

    /// Everything counted but zeros, in no order: a key, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (Key, u32)> {
        let used = self.table.iter().filter(|entry| entry.key != 0);
        used.map(|entry| (Key(entry.key - (1 << INDEX_BITS)), entry.count))
    }

    /// By series; `Moments::NONE` where nothing was recorded.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Forgets everything but the memory, for `series` series from now on.
    pub fn reset(&mut self, series: usize) {
        if self.used > 0 {
            self.table.fill(Entry::default());
            self.used = 0;
        }
        self.moments.clear();
        self.moments.resize(series, Moments::NONE);
    }
}

/// Entries that share a cache line.
const LINE: u32 = 8;

/// Where a key's search begins: Fibonacci hashing (Knuth, TAOCP 6.4) of its line, so that buckets
/// beside each other share one.
#[inline]
fn slot(key: u32, shift: u32) -> usize {
    let line = (key / LINE).wrapping_mul(0x9E37_79B9) >> shift;
    (line * LINE + key % LINE) as usize
}

fn shift_for(entries: usize) -> u32 {
    32 - (entries as u32 / LINE).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A small generator (Marsaglia's xorshift), so that the seed tells the case.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn counts_what_a_map_counts() {
        for seed in 1..40 {
            let mut state = seed;
            let mut samples = Samples::new(500);
            let mut model: BTreeMap<(u32, u32), u32> = BTreeMap::new();
            for _ in 0..5_000 {
                let series = random(&mut state) % 500;
                let value = random(&mut state) % (1 << (random(&mut state) % 40));
                samples.record(Series(series as u32), value);
                *model.entry((series as u32, buckets::index(value))).or_default() += 1;
            }
            let found: BTreeMap<(u32, u32), u32> =
                samples.iter().map(|(key, count)| ((key.series().0, key.which()), count)).collect();
            let zeros: u64 = samples.moments().iter().map(|moments| moments.zeros).sum();
            let expected: u32 = model.iter().filter(|(key, _)| key.1 == 0).map(|it| it.1).sum();
            assert_eq!(zeros, u64::from(expected), "seed {seed}");
            model.retain(|(_, bucket), _| *bucket > 0);
            assert_eq!(found, model, "seed {seed}");
        }
    }

    #[test]
    fn moments_are_exact() {
        let mut samples = Samples::new(2);
        for value in [7, 0, 1_000_003, 250_000] {
            samples.record(Series(1), value);
        }
        assert_eq!(samples.moments()[0], Moments::NONE);
        assert_eq!(
            samples.moments()[1],
            Moments { sum: 1_250_010, min: 7, max: 1_000_003, zeros: 1 }
        );
        assert_eq!(samples.moments()[1].least(), 0);
    }

    #[test]
    fn a_reset_forgets_all_of_it() {
        let mut samples = Samples::new(1);
        (0..3_000).for_each(|value| samples.record(Series(0), value * value));
        samples.reset(2);
        assert_eq!(samples.iter().count(), 0);
        assert_eq!(samples.moments(), [Moments::NONE; 2]);
        samples.count(Series(1), 404, 2);
        assert_eq!(samples.iter().collect::<Vec<_>>(), [(Key::new(Series(1), 404), 2)]);
    }
}
