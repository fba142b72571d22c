//! A histogram as text: one row for each step of 1, 2, 5, 10, and so on, and a bar of blocks.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

use super::units;

/// Of the longest bar.
const BAR_CHARS: u64 = 40;
const EIGHTHS: [&str; 8] =
    ["", "\u{258f}", "\u{258e}", "\u{258d}", "\u{258c}", "\u{258b}", "\u{258a}", "\u{2589}"];

/// How many values were in (`above`, `up_to`], in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub above_ns: u64,
    pub up_to_ns: u64,
    pub count: u64,
}

/// From the first bucket that holds something to the last.
pub fn buckets(histogram: &Histogram<u64>) -> Vec<Bucket> {
    let mut found: Vec<Bucket> = Vec::new();
    let mut bounds = bounds();
    let (mut above_ns, mut up_to_ns) = (0, bounds.next().unwrap_or(u64::MAX));
    for value in histogram.iter_recorded() {
        // The least of those that the histogram takes for one, so that 1 ms is no more than 1 ms.
        let nanos = histogram.lowest_equivalent(value.value_iterated_to());
        while nanos > up_to_ns {
            if !found.is_empty() {
                push(&mut found, Bucket { above_ns, up_to_ns, count: 0 });
            }
            (above_ns, up_to_ns) = (up_to_ns, bounds.next().unwrap_or(u64::MAX));
        }
        push(&mut found, Bucket { above_ns, up_to_ns, count: value.count_at_value() });
    }
    found
}

/// Adds to the last bucket if it is the same one.
fn push(found: &mut Vec<Bucket>, bucket: Bucket) {
    match found.last_mut() {
        Some(last) if last.up_to_ns == bucket.up_to_ns => last.count += bucket.count,
        _ => found.push(bucket),
    }
}

fn bounds() -> impl Iterator<Item = u64> {
    let decades = (0..19).map(|power| 10_u64.pow(power));
    decades.flat_map(|decade| [decade, decade * 2, decade * 5])
}

/// One line for each bucket.
pub fn write(out: &mut String, histogram: &Histogram<u64>) -> fmt::Result {
    let buckets = buckets(histogram);
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1).max(1);
    for bucket in buckets {
        let bar = bar(bucket.count, most);
        let padding = (BAR_CHARS as usize).saturating_sub(bar.chars().count());
        let share = bucket.count as f64 * 100.0 / histogram.len() as f64;
        writeln!(
            out,
            "  \u{2264} {:>10} |{bar}{:padding$}| {:>13} {share:>8.3} %",
            units::nanos(bucket.up_to_ns),
            "",
            units::count(bucket.count),
        )?;
    }
    Ok(())
}

/// What is not nothing shows.
fn bar(count: u64, most: u64) -> String {
    let eighths = u128::from(count) * u128::from(BAR_CHARS * 8) / u128::from(most);
    let eighths = (eighths as usize).max(usize::from(count > 0));
    "\u{2588}".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("three digits");
        for value in values {
            histogram.record(*value).expect("it grows");
        }
        histogram
    }

    #[test]
    fn buckets_step_by_one_two_five() {
        let found = buckets(&of(&[1_000_000, 1_500_000, 1_500_000, 30_000_000]));
        let rows: Vec<_> = found.iter().map(|row| (row.up_to_ns / 1_000, row.count)).collect();
        let expected = [(1_000, 1), (2_000, 2), (5_000, 0), (10_000, 0), (20_000, 0), (50_000, 1)];
        assert_eq!(rows, expected);
        assert!(found.windows(2).all(|pair| pair[0].up_to_ns == pair[1].above_ns));
        assert_eq!(buckets(&of(&[])), []);
        assert_eq!(buckets(&of(&[0, 1])).len(), 1);
        let wide: Vec<u64> = (0..60).map(|bit| 1 << bit).collect();
        let all: u64 = buckets(&of(&wide)).iter().map(|bucket| bucket.count).sum();
        assert_eq!(all, 60);
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(100, 100), "\u{2588}".repeat(40));
        assert_eq!(bar(50, 100), "\u{2588}".repeat(20));
        assert_eq!(bar(1, 320), "\u{258f}");
        assert_eq!(bar(1, 1_000_000), "\u{258f}");
        assert_eq!(bar(0, 100), "");
        assert_eq!(bar(u64::MAX, u64::MAX).chars().count(), 40);
    }
}
