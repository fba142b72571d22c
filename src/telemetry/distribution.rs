//! A merged distribution: everything since the start, and the last minute of it.
//!
//! The whole is an HdrHistogram; the minute is a ring of what each merge brought, as (bucket,
//! count) pairs, and is added up when somebody asks. Count, sum, minimum and maximum are exact;
//! percentiles are read at the median of a bucket, so that they err by less than 0.5 %.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::buckets::{self, INDEX_BITS};
use super::samples::Moments;

/// How far back the recent view looks, in seconds.
pub const RECENT_SECS: u64 = 60;

/// The percentiles that are exported, with the names that Linkerd 1.x gave them.
pub const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p9990", 0.999), ("p9999", 0.9999)];

/// In the unit that was recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub sum: u64,
    /// 0 where nothing was recorded, as all that follow.
    pub min: u64,
    pub max: u64,
    pub avg: f64,
    pub stddev: f64,
    /// In the order of `QUANTILES`.
    pub quantiles: [f64; QUANTILES.len()],
}

/// The trace of one sample, so that it can be looked up (OpenMetrics calls it an exemplar).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace_id: u128,
    pub value: u64,
    /// Seconds since 1970.
    pub at_secs: f64,
}

impl Exemplar {
    /// When it was seen, in whole milliseconds since 1970, which every format can say.
    pub fn at_ms(&self) -> i64 {
        (self.at_secs * 1e3).round() as i64
    }

    /// Of those that are kept, which one it takes the place of.
    fn place(&self) -> usize {
        ((64 - self.value.leading_zeros() as usize) / 2).min(EXEMPLARS - 1)
    }

    /// The least and the greatest value that takes the same place.
    pub fn reach(&self) -> (u64, u64) {
        let place = self.place();
        let least = if place == 0 { 0 } else { 1 << (2 * place - 1) };
        let most = if place == EXEMPLARS - 1 { u64::MAX } else { (1 << (2 * place + 1)) - 1 };
        (least, most)
    }
}

/// Exemplars kept: one for each power of four, so that slow samples have theirs too.
const EXEMPLARS: usize = 20;

#[derive(Debug)]
pub struct Distribution {
    /// `None` until something is recorded: most series of most processes never are.
    total: Option<Histogram<u64>>,
    /// Its buckets that are not empty, in order: they are some hundred of thousands.
    touched: Vec<u16>,
    moments: Moments,
    recent: VecDeque<Delta>,
    exemplars: Vec<Option<Exemplar>>,
}

#[derive(Debug, PartialEq)]
struct Delta {
    at_secs: u64,
    moments: Moments,
    /// In order of their buckets.
    counts: Box<[Packed]>,
}

/// A bucket in 12 bits and a count in 20; a larger count is several of these. A busy minute of
/// 1,000 endpoints is millions of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Packed(u32);

impl Packed {
    const MOST: u32 = (1 << (32 - INDEX_BITS)) - 1;

    fn bucket(self) -> u32 {
        self.0 & (buckets::BUCKETS - 1)
    }

    fn count(self) -> u32 {
        self.0 >> INDEX_BITS
    }
}

fn pack(counts: &[(u32, u32)]) -> Box<[Packed]> {
    let mut packed = Vec::with_capacity(counts.len());
    for &(bucket, mut count) in counts {
        while count > 0 {
            let part = count.min(Packed::MOST);
            packed.push(Packed(bucket | part << INDEX_BITS));
            count -= part;
        }
    }
    packed.into()
}

/// The sum of two lists, both in order.
fn together(packed: &[Packed], counts: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let (mut packed, mut counts) = (packed.iter().peekable(), counts.iter().peekable());
    let mut sums: Vec<(u32, u32)> = Vec::with_capacity(packed.len() + counts.len());
    loop {
        let next = match (packed.peek(), counts.peek()) {
            (Some(old), Some(new)) if old.bucket() > new.0 => counts.next().copied(),
            (None, _) => counts.next().copied(),
            _ => packed.next().map(|old| (old.bucket(), old.count())),
        };
        let Some((bucket, count)) = next else { return sums };
        match sums.last_mut() {
            Some(last) if last.0 == bucket => last.1 = last.1.saturating_add(count),
            _ => sums.push((bucket, count)),
        }
    }
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution {
            total: None,
            touched: Vec::new(),
            moments: Moments::NONE,
            recent: VecDeque::new(),
            exemplars: Vec::new(),
        }
    }
}

impl Distribution {
    /// Adds (bucket, count) pairs, each bucket once and in order, and what they do not say, as part
    /// of the second `now_secs`.
    pub fn add(&mut self, counts: &[(u32, u32)], moments: &Moments, now_secs: u64) {
        if counts.is_empty() {
            return;
        }
        self.add_to_total(counts);
        self.moments.merge(moments);
        match self.recent.back_mut() {
            // Several flushes in a second are one delta, or the minute would grow with their rate.
            Some(last) if last.at_secs == now_secs => {
                last.counts = pack(&together(&last.counts, counts));
                last.moments.merge(moments);
            }
            _ => self.recent.push_back(Delta {
                at_secs: now_secs,
                moments: *moments,
                counts: pack(counts),
            }),
        }
    }

    fn add_to_total(&mut self, counts: &[(u32, u32)]) {
        let new = || Histogram::new(2).expect("two digits are allowed");
        let total = self.total.get_or_insert_with(new);
        let before = self.touched.len();
        for &(bucket, count) in counts {
            // The histogram grows with its values, so nothing is ever out of its range.
            let recorded = total.record_n(buckets::lowest(bucket), u64::from(count));
            debug_assert!(recorded.is_ok());
            let bucket = bucket as u16;
            if self.touched[..before].binary_search(&bucket).is_err() {
                self.touched.push(bucket);
            }
        }
        if self.touched.len() > before {
            self.touched.sort_unstable();
        }
    }

    /// The newer one stays: shards' flushes come in no order, and Prometheus takes no exemplar that
    /// is older than the last.
    pub fn set_exemplar(&mut self, exemplar: Exemplar) {
        self.exemplars.resize(EXEMPLARS, None);
        let kept = &mut self.exemplars[exemplar.place()];
        if kept.is_none_or(|kept| kept.at_ms() < exemplar.at_ms()) {
            *kept = Some(exemplar);
        }
    }

    pub fn exemplars(&self) -> impl Iterator<Item = &Exemplar> {
        self.exemplars.iter().flatten()
    }

    /// Forgets what is older than a minute.
    pub fn expire(&mut self, now_secs: u64) {
        while self.recent.front().is_some_and(|delta| delta.at_secs + RECENT_SECS <= now_secs) {
            self.recent.pop_front();
        }
    }

    /// How many were recorded since the start.
    pub fn count(&self) -> u64 {
        self.total.as_ref().map_or(0, Histogram::len)
    }

    /// Their exact sum.
    pub fn sum(&self) -> u64 {
        self.moments.sum
    }

    /// Everything since the start: (median of the bucket, count), in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts().map(|(bucket, count)| (buckets::median(bucket), count))
    }

    /// The buckets that are not empty, in order. Asked one by one: the histogram's own iterator
    /// visits every bucket that there could be.
    fn counts(&self) -> impl Iterator<Item = (u32, u64)> {
        let touched = self.touched.iter().map(|bucket| u32::from(*bucket));
        touched.map(|bucket| {
            let total = self.total.as_ref();
            (bucket, total.map_or(0, |total| total.count_at(buckets::lowest(bucket))))
        })
    }

    /// Since the start.
    pub fn total(&self) -> Summary {
        summarize(self.counts(), self.count(), &self.moments)
    }

    /// Over the last minute.
    pub fn recent(&self) -> Summary {
        let ends =
            self.recent.iter().filter_map(|delta| delta.counts.first().zip(delta.counts.last()));
        let ends = ends.map(|(least, most)| (least.bucket(), most.bucket()));
        let Some((least, most)) = ends.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
        else {
            return Summary::default();
        };
        // Dense, since exporters ask this of every series: with an HdrHistogram, which finds each
        // bucket anew and grows on the way, a whole JSON document took nearly twice as long.
        let mut counts = vec![0u64; (most - least) as usize + 1];
        let (mut moments, mut count) = (Moments::NONE, 0);
        for delta in &self.recent {
            moments.merge(&delta.moments);
            for packed in &delta.counts {
                counts[(packed.bucket() - least) as usize] += u64::from(packed.count());
                count += u64::from(packed.count());
            }
        }
        let counts = (least..).zip(counts).filter(|(_, count)| *count > 0);
        summarize(counts, count, &moments)
    }
}

#[cfg(test)]
impl Distribution {
    /// Adds values one by one, none of them 0.
    pub(super) fn add_values(&mut self, values: impl IntoIterator<Item = u64>, now_secs: u64) {
        let (mut moments, mut counts) = (Moments::NONE, std::collections::BTreeMap::new());
        for value in values {
            *counts.entry(buckets::index(value)).or_default() += 1;
            moments.merge(&Moments { sum: value, min: value, max: value, zeros: 0 });
        }
        let counts: Vec<(u32, u32)> = counts.into_iter().collect();
        self.add(&counts, &moments, now_secs);
    }
}

/// One pass over the buckets that are not empty, in order.
fn summarize(counts: impl Iterator<Item = (u32, u64)>, count: u64, moments: &Moments) -> Summary {
    if count == 0 {
        return Summary::default();
    }
    let avg = moments.sum as f64 / count as f64;
    let mut summary = Summary {
        count,
        sum: moments.sum,
        min: moments.least(),
        max: moments.max,
        avg,
        ..Summary::default()
    };
    // The rank of a quantile: the least number of samples that makes its share (nearest rank).
    // Less a hair, since 0.9999 times 10,000 is a little more than 9,999 in binary.
    let rank = |quantile: f64| ((quantile * count as f64 - 1e-6).ceil() as u64).clamp(1, count);
    let ranks = QUANTILES.map(|(_, quantile)| rank(quantile));
    let (mut seen, mut next, mut squares) = (0, 0, 0.0);
    for (bucket, of_bucket) in counts {
        let median = buckets::median(bucket);
        // A bucket's median may lie outside of what was recorded; its ends were not.
        let value = median.clamp(moments.least(), moments.max) as f64;
        seen += of_bucket;
        squares += (value - avg).powi(2) * of_bucket as f64;
        while next < QUANTILES.len() && seen >= ranks[next] {
            summary.quantiles[next] = value;
            next += 1;
        }
    }
    summary.stddev = (squares / count as f64).sqrt();
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_of_one_second_are_one_delta() {
        let (mut often, mut once) = (Distribution::default(), Distribution::default());
        let values = |from: u64| (from..2_000).step_by(7).map(|value| value * value);
        (1..50).for_each(|from| often.add_values(values(from), 3));
        once.add_values((1..50).flat_map(values), 3);
        assert_eq!(often.recent(), once.recent());
        assert_eq!(often.recent, once.recent, "and take as much memory");
        often.add_values(values(1), 4);
        assert_eq!(often.recent.len(), 2);
    }

    #[test]
    fn percentiles_of_known_values_err_by_less_than_half_a_percent() {
        // From 1 us up: 10,000 values of which each percentile is known.
        for step in [1, 13, 997] {
            let mut distribution = Distribution::default();
            distribution.add_values((1..=10_000).map(|n| n * step), 0);
            let summary = distribution.recent();
            for (at, (name, quantile)) in QUANTILES.iter().enumerate() {
                let exact = (quantile * 10_000.0) * step as f64;
                let found = summary.quantiles[at];
                assert!((found - exact).abs() <= 0.005 * exact, "{name}: {found} for {exact}");
            }
            assert_eq!((summary.min, summary.max), (step, 10_000 * step));
            assert_eq!(summary.sum, step * 10_000 * 10_001 / 2);
            let deviation = step as f64 * 2886.75;
            assert!((summary.stddev - deviation).abs() < 0.005 * deviation, "{}", summary.stddev);
        }
    }

    #[test]
    fn the_minute_moves_on_and_the_whole_stays() {
        let mut distribution = Distribution::default();
        distribution.add_values([100; 10], 0);
        distribution.add_values([5_000; 5], 30);
        distribution.expire(59);
        assert_eq!(distribution.recent().count, 15);
        distribution.expire(60);
        let recent = distribution.recent();
        assert_eq!((recent.count, recent.min, recent.sum), (5, 5_000, 25_000));
        distribution.expire(90);
        assert_eq!(distribution.recent(), Summary::default());
        let total = distribution.total();
        assert_eq!((total.count, total.min, total.max, total.sum), (15, 100, 5_000, 26_000));
    }

    #[test]
    fn a_count_of_any_size_stays_whole_in_the_minute() {
        let mut distribution = Distribution::default();
        let moments = Moments { sum: 9, min: 9, max: 9, zeros: 0 };
        distribution.add(&[(9, u32::MAX), (10, 1)], &moments, 0);
        assert_eq!(distribution.recent().count, u64::from(u32::MAX) + 1);
        assert_eq!(distribution.total().count, u64::from(u32::MAX) + 1);
    }

    #[test]
    fn nothing_recorded_is_nothing_but_zeros() {
        let distribution = Distribution::default();
        assert_eq!(distribution.total(), Summary::default());
        assert_eq!(distribution.buckets().count(), 0);
    }

    #[test]
    fn an_exemplar_gives_way_to_a_newer_one_alone() {
        let mut distribution = Distribution::default();
        for at_secs in [2.0, 1.0, 3.0, 2.5] {
            distribution.set_exemplar(Exemplar { trace_id: 1, value: 100, at_secs });
        }
        let kept: Vec<f64> = distribution.exemplars().map(|it| it.at_secs).collect();
        assert_eq!(kept, [3.0]);
    }

    #[test]
    fn slow_samples_keep_an_exemplar_beside_fast_ones() {
        let mut distribution = Distribution::default();
        for value in [900, 1_000, 90_000] {
            let trace_id = u128::from(value);
            // Each a little later than the one before.
            let at_secs = 1.0 + value as f64 / 1e3;
            distribution.set_exemplar(Exemplar { trace_id, value, at_secs });
        }
        let kept: Vec<u64> = distribution.exemplars().map(|exemplar| exemplar.value).collect();
        assert_eq!(kept, [1_000, 90_000]);
    }
}
