//! Counts over a sliding window of time, kept in buckets: exact sums at a constant cost.
//!
//! - Buckets begin at multiples of their width since the start, so two windows of one width turn
//!   over at the same moments.
//! - The sum covers the bucket of `now` and the `BUCKETS - 1` before it: between `BUCKETS - 1` and
//!   `BUCKETS` widths of time.
//! - A time before the newest bucket counts as that bucket: the clock's reader may be late.

use std::time::Duration;

#[derive(Debug, Clone)]
pub(super) struct Window<const BUCKETS: usize> {
    width_nanos: u64,
    /// Number of the newest bucket: time since the start over the width.
    newest: u64,
    /// Bucket `n` is at `n % BUCKETS`.
    counts: [u64; BUCKETS],
    sum: u64,
}

impl<const BUCKETS: usize> Window<BUCKETS> {
    /// A width of 0 counts as 1 ns.
    pub(super) fn new(width: Duration) -> Window<BUCKETS> {
        Window { width_nanos: nanos(width).max(1), newest: 0, counts: [0; BUCKETS], sum: 0 }
    }

    pub(super) fn add(&mut self, count: u64, now: Duration) {
        self.advance(now);
        self.counts[(self.newest % BUCKETS as u64) as usize] += count;
        self.sum += count;
    }

    pub(super) fn sum(&mut self, now: Duration) -> u64 {
        self.advance(now);
        self.sum
    }

    pub(super) fn clear(&mut self) {
        self.counts = [0; BUCKETS];
        self.sum = 0;
    }

    /// Empties the buckets that time has come round to again, at most all of them.
    fn advance(&mut self, now: Duration) {
        let to = nanos(now) / self.width_nanos;
        let passed = to.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 1..=passed {
            let at = ((self.newest + step) % BUCKETS as u64) as usize;
            self.sum -= self.counts[at];
            self.counts[at] = 0;
        }
        self.newest = self.newest.max(to);
        debug_assert_eq!(self.sum, self.counts.iter().sum::<u64>());
    }
}

/// 2^64 ns are 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rng;

    #[test]
    fn sums_equal_a_list_of_times() {
        const WIDTH_MS: u64 = 100;
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut window = Window::<10>::new(Duration::from_millis(WIDTH_MS));
            let mut added: Vec<(u64, u64)> = Vec::new();
            let mut now_ms = 0;
            for _ in 0..200 {
                let pause = if rng.below(20) == 0 { 3000 } else { 60 };
                now_ms += rng.below(pause) as u64;
                let count = rng.below(5) as u64;
                added.push((now_ms / WIDTH_MS, count));
                window.add(count, Duration::from_millis(now_ms));
                let oldest = (now_ms / WIDTH_MS).saturating_sub(9);
                let kept = added.iter().filter(|(bucket, _)| *bucket >= oldest);
                let expected: u64 = kept.map(|(_, count)| count).sum();
                let found = window.sum(Duration::from_millis(now_ms));
                assert_eq!(found, expected, "seed {seed} at {now_ms} ms");
            }
        }
    }

    #[test]
    fn a_late_reader_counts_in_the_newest_bucket() {
        let mut window = Window::<2>::new(Duration::from_secs(1));
        window.add(1, Duration::from_secs(5));
        window.add(1, Duration::from_secs(3));
        assert_eq!(window.sum(Duration::from_secs(6)), 2);
        assert_eq!(window.sum(Duration::from_secs(7)), 0);
        window.add(1, Duration::from_secs(7));
        window.clear();
        assert_eq!(window.sum(Duration::from_secs(7)), 0);
    }
}
