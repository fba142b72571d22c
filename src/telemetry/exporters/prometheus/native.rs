//! Native histograms: exponential buckets, as `io.prometheus.client.Histogram` has them.
//!
//! Schema 5: each bucket ends 2^(1/32) times as high as the one before, 2.2 %, which is about as
//! wide as a bucket of ours is exact (0.8 %) with room for how ours fall on theirs. Bucket `i` is
//! (2^((i-1)/32), 2^(i/32)], in the family's unit. An HDR bucket is booked where its median is. 0
//! has a bucket of its own; there is nothing below it.

use std::sync::LazyLock;

use super::series;
use crate::telemetry::buckets::{self, BUCKETS};
use crate::telemetry::distribution::Distribution;
use crate::telemetry::names::Unit;

pub(super) const SCHEMA: i32 = 5;

/// What is no greater counts as 0; as wide as the other Prometheus clients have it, since a server
/// that adds up histograms of different width has to widen the narrower.
pub(super) const ZERO_THRESHOLD: f64 = f64::from_bits((1023 - 128) << 52);

/// A gap of so many buckets is cheaper written as zeros than as a span of its own.
const SHORT_GAP: i32 = 2;

/// The buckets that hold anything.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Native {
    pub(super) zero_count: u64,
    pub(super) spans: Vec<Span>,
    /// Each count less the one before it, over all spans.
    pub(super) deltas: Vec<i64>,
}

/// Buckets next to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// From the end of the span before, or where the first one begins.
    pub(super) offset: i32,
    pub(super) length: u32,
}

impl Native {
    pub(super) fn of(distribution: &Distribution, unit: Unit) -> Native {
        let mut native = Native::default();
        let indices = match unit {
            Unit::Plain => &*PLAIN,
            Unit::Millis | Unit::Micros => &*SECONDS,
        };
        // The bucket that is being filled, and what the last written one held.
        let mut open: Option<(i32, u64)> = None;
        let mut written = None;
        for (median, count) in distribution.buckets() {
            if median == 0 {
                native.zero_count += count;
                continue;
            }
            let at = indices[buckets::index(median) as usize];
            match &mut open {
                Some((same, sum)) if *same == at => *sum += count,
                _ => {
                    written = open.map(|bucket| native.push(bucket, written)).or(written);
                    open = Some((at, count));
                }
            }
        }
        if let Some(bucket) = open {
            native.push(bucket, written);
        }
        native
    }

    /// Adds a bucket above all others; gives it back as what was written last.
    fn push(&mut self, bucket: (i32, u64), last: Option<(i32, u64)>) -> (i32, u64) {
        let (at, count) = bucket;
        let mut before = last.map_or(0, |(_, count)| count as i64);
        let gap = last.map(|(last, _)| at - last - 1);
        match (gap, self.spans.last_mut()) {
            (Some(gap), Some(span)) if gap <= SHORT_GAP => {
                for _ in 0..gap {
                    self.deltas.push(-before);
                    before = 0;
                }
                span.length += gap as u32 + 1;
            }
            _ => self.spans.push(Span { offset: gap.unwrap_or(at), length: 1 }),
        }
        self.deltas.push(count as i64 - before);
        bucket
    }
}

/// The native bucket of each HDR bucket: a large state has half a million of those, and their
/// logarithms would take longer than all the rest of a scrape.
static PLAIN: LazyLock<Box<[i32]>> = LazyLock::new(|| indices(Unit::Plain));
static SECONDS: LazyLock<Box<[i32]>> = LazyLock::new(|| indices(Unit::Micros));

/// That of 0 is not used.
fn indices(unit: Unit) -> Box<[i32]> {
    let median = |bucket| series::scaled(buckets::median(bucket) as f64, unit);
    (0..BUCKETS).map(|bucket| index(median(bucket))).collect()
}

/// The bucket of a value above 0. A power of two is the end of its bucket exactly, as `log2` is
/// exact there; every other end is irrational, so no value that is counted falls on one.
fn index(value: f64) -> i32 {
    (value.log2() * f64::from(1 << SCHEMA)).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::distribution::QUANTILES;

    fn distribution(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut distribution = Distribution::default();
        distribution.add_values(values, 0);
        distribution
    }

    /// Every bucket of the spans: index and count.
    fn expanded(native: &Native) -> Vec<(i32, u64)> {
        let (mut at, mut count) = (0, 0);
        let mut deltas = native.deltas.iter();
        let mut found = Vec::new();
        for span in &native.spans {
            at += span.offset;
            for _ in 0..span.length {
                count += deltas.next().expect("as many deltas as buckets");
                found.push((at, count as u64));
                at += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        found
    }

    /// As Prometheus's `histogram_quantile` does it: exponentially within a bucket, since that is
    /// how buckets grow.
    fn quantile(native: &Native, quantile: f64) -> f64 {
        let buckets = expanded(native);
        let count: u64 = native.zero_count + buckets.iter().map(|(_, count)| count).sum::<u64>();
        let rank = quantile * count as f64;
        let mut below = native.zero_count as f64;
        for (at, count) in buckets {
            if count > 0 && below + count as f64 >= rank {
                let share = (rank - below) / count as f64;
                return 2f64.powf((f64::from(at - 1) + share) / f64::from(1 << SCHEMA));
            }
            below += count as f64;
        }
        unreachable!("the last bucket has everything below it")
    }

    /// Two uniform numbers to a normal one (Box and Muller, 1958), and that to the value.
    fn lognormal(seed: u64, median: f64, sigma: f64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        let mut uniform = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON
        };
        std::iter::from_fn(move || {
            let (a, b) = (uniform(), uniform());
            let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            Some((median * (sigma * normal).exp()).round() as u64)
        })
    }

    #[test]
    fn a_quantile_of_the_buckets_is_that_of_the_samples() {
        for seed in [1, 7, 42] {
            for (unit, median, sigma) in [
                (Unit::Millis, 5_000.0, 1.0),
                (Unit::Micros, 40_000.0, 0.3),
                (Unit::Plain, 3e6, 2.0),
            ] {
                let all = distribution(lognormal(seed, median, sigma).take(200_000));
                let native = Native::of(&all, unit);
                for (at, (name, share)) in QUANTILES.iter().enumerate() {
                    let exact = series::scaled(all.total().quantiles[at], unit);
                    let found = quantile(&native, *share);
                    let error = (found - exact).abs() / exact;
                    assert!(error < 0.03, "seed {seed}, {unit:?} {name}: {found} for {exact}");
                }
            }
        }
    }

    #[test]
    fn a_bucket_holds_what_lies_between_its_ends() {
        for value in (1..200_000u64).step_by(37) {
            let value = value as f64 * 1e-6;
            let end = |at: i32| 2f64.powf(f64::from(at) / f64::from(1 << SCHEMA));
            let at = index(value);
            assert!(end(at - 1) < value && value <= end(at), "{value} in {at}");
        }
        for power in [-20, -1, 0, 1, 8, 30] {
            assert_eq!(index(2f64.powi(power)), power * 32, "an end belongs to its bucket");
        }
        assert_eq!(ZERO_THRESHOLD, 2f64.powi(-128));
    }

    #[test]
    fn spans_have_every_sample() {
        // 1 and 2 are 32 buckets apart, 100 and 104 are three.
        let native = Native::of(&distribution([0, 0, 1, 1, 1, 2, 100, 104, 104]), Unit::Plain);
        assert_eq!(native.zero_count, 2);
        let spans: Vec<_> = native.spans.iter().map(|span| (span.offset, span.length)).collect();
        assert_eq!(spans, [(0, 1), (31, 1), (180, 3)]);
        assert_eq!(native.deltas, [3, -2, 0, -1, 2]);
        let found: Vec<_> = expanded(&native).into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [(0, 3), (32, 1), (213, 1), (215, 2)]);
        assert_eq!(Native::of(&distribution([]), Unit::Plain), Native::default());
        assert_eq!(Native::of(&distribution([0]), Unit::Millis).zero_count, 1);
    }

    #[test]
    fn every_sample_is_in_a_bucket() {
        let all = distribution(lognormal(3, 800.0, 3.0).take(50_000));
        let native = Native::of(&all, Unit::Millis);
        let buckets: u64 = expanded(&native).into_iter().map(|(_, count)| count).sum();
        assert_eq!(buckets + native.zero_count, all.count());
    }
}
