//! The buckets of an HdrHistogram with two significant digits, as numbers: which bucket a value
//! falls into, and what a bucket stands for.
//!
//! `hdrhistogram` keeps its indices to itself. A shard needs them, since it counts in one sparse
//! table (`samples`) and not in a dense histogram per series; a test holds the two to each other.
//! Values up to 255 have a bucket of their own; above that each power of two has 128 of them, so
//! the median of a bucket errs by less than 0.4 %.

/// An index is less than this, so that it fits into 12 bits.
pub const BUCKETS: u32 = 1 << INDEX_BITS;
pub(super) const INDEX_BITS: u32 = 12;

/// Larger values count as this one (in microseconds three days, in bytes 256 GiB). Sums and
/// maxima are kept apart and stay exact.
pub const MAX_VALUE: u64 = (1 << 38) - 1;

/// Values below this are their own index.
const EXACT: u64 = 256;
const HALF: u64 = EXACT / 2;

const _: () = assert!(index(MAX_VALUE) == BUCKETS - 1);

/// The bucket of a value.
#[inline]
pub const fn index(value: u64) -> u32 {
    let value = if value > MAX_VALUE { MAX_VALUE } else { value };
    if value < EXACT {
        return value as u32;
    }
    let doublings = 64 - value.leading_zeros() as u64 - EXACT.trailing_zeros() as u64;
    (doublings * HALF + (value >> doublings)) as u32
}

/// The least value of a bucket.
pub const fn lowest(index: u32) -> u64 {
    let index = index as u64;
    if index < EXACT {
        return index;
    }
    let doublings = index / HALF - 1;
    (index - doublings * HALF) << doublings
}

/// The value in the middle of a bucket, which is what it is read as.
pub const fn median(index: u32) -> u64 {
    let index = index as u64;
    match index < EXACT {
        true => index,
        false => lowest(index as u32) + (1 << (index / HALF - 1)) / 2,
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    #[test]
    fn buckets_are_those_of_hdrhistogram() {
        let histogram = Histogram::<u64>::new_with_bounds(1, MAX_VALUE, 2).unwrap();
        for bits in 0..38 {
            for offset in [0, 1, 2, 3, 77, 100, 127, 128, 129] {
                let value = ((1u64 << bits) + offset).min(MAX_VALUE);
                let at = index(value);
                assert_eq!(lowest(at), histogram.lowest_equivalent(value), "{value}");
                assert_eq!(median(at), histogram.median_equivalent(value), "{value}");
                assert_eq!(index(lowest(at)), at);
                assert_eq!(index(histogram.highest_equivalent(value)), at, "{value}");
            }
        }
    }

    #[test]
    fn a_median_errs_by_less_than_half_a_percent() {
        for value in (1..2_000_000).step_by(7) {
            let read = median(index(value));
            assert!(read.abs_diff(value) as f64 <= 0.004 * value as f64, "{value} reads {read}");
        }
    }

    #[test]
    fn what_is_too_large_falls_into_the_last_bucket() {
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        assert_eq!(index(MAX_VALUE + 1), BUCKETS - 1);
    }
}
