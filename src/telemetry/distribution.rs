//! A merged distribution: everything since the start, and the last minute of it.
//!
//! The whole is an HdrHistogram; the minute is a ring of what each merge brought, as (bucket,
//! count) pairs, and is added up when somebody asks. Count, sum, minimum and maximum are exact;
//! percentiles are read at the median of a bucket, so that they err by less than 0.5 %.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::buckets;
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

/// Exemplars kept: one for each power of four, so that slow samples have theirs too.
const EXEMPLARS: usize = 20;

#[derive(Debug)]
pub struct Distribution {
    /// `None` until something is recorded: most series of most processes never are.
    total: Option<Histogram<u64>>,
    moments: Moments,
    recent: VecDeque<Delta>,
    /// What came in since `settle`: (bucket, count), in any order.
    arrived: Vec<(u16, u32)>,
    arrived_moments: Moments,
    exemplars: Vec<Option<Exemplar>>,
}

#[derive(Debug)]
struct Delta {
    at_secs: u64,
    moments: Moments,
    counts: Box<[(u16, u32)]>,
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution {
            total: None,
            moments: Moments::NONE,
            recent: VecDeque::new(),
            arrived: Vec::new(),
            arrived_moments: Moments::NONE,
            exemplars: Vec::new(),
        }
    }
}

impl Distribution {
    /// Adds `count` samples of one bucket; part of the minute after `settle`.
    pub fn add(&mut self, bucket: u32, count: u32) {
        self.arrived.push((bucket as u16, count));
    }

    /// Adds what the buckets that are being added do not say.
    pub fn add_moments(&mut self, moments: &Moments) {
        self.arrived_moments.merge(moments);
    }

    pub fn set_exemplar(&mut self, exemplar: Exemplar) {
        self.exemplars.resize(EXEMPLARS, None);
        let at = (64 - exemplar.value.leading_zeros() as usize) / 2;
        self.exemplars[at.min(EXEMPLARS - 1)] = Some(exemplar);
    }

    pub fn exemplars(&self) -> impl Iterator<Item = &Exemplar> {
        self.exemplars.iter().flatten()
    }

    /// Whether anything has come since the last `settle`.
    pub fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Makes what has come part of the whole and of the second `now_secs`.
    pub fn settle(&mut self, now_secs: u64) {
        if self.arrived.is_empty() {
            return;
        }
        self.arrived.sort_unstable_by_key(|(bucket, _)| *bucket);
        self.arrived.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        record_all(self.total.get_or_insert_with(histogram), &self.arrived);
        let moments = std::mem::replace(&mut self.arrived_moments, Moments::NONE);
        self.moments.merge(&moments);
        let counts = self.arrived.as_slice().into();
        self.recent.push_back(Delta { at_secs: now_secs, moments, counts });
        self.arrived.clear();
        // What a burst needed is not kept for ever.
        self.arrived.shrink_to(256);
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
        self.total.iter().flat_map(|total| {
            total.iter_recorded().map(|step| {
                let value = total.median_equivalent(step.value_iterated_to());
                (value, step.count_at_value())
            })
        })
    }

    /// Since the start.
    pub fn total(&self) -> Summary {
        summarize(self.count(), self.buckets(), &self.moments)
    }

    /// Over the last minute.
    pub fn recent(&self) -> Summary {
        let ends =
            self.recent.iter().filter_map(|delta| delta.counts.first().zip(delta.counts.last()));
        let ends = ends.map(|(least, most)| (least.0, most.0));
        let Some((least, most)) = ends.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
        else {
            return Summary::default();
        };
        // Dense, since exporters ask this of every series: with an HdrHistogram, which finds each
        // bucket anew and grows on the way, a whole JSON document took nearly twice as long.
        let mut counts = vec![0u64; usize::from(most - least) + 1];
        let mut moments = Moments::NONE;
        for delta in &self.recent {
            moments.merge(&delta.moments);
            for &(bucket, count) in &delta.counts {
                counts[usize::from(bucket - least)] += u64::from(count);
            }
        }
        let mut buckets = Vec::new();
        for (bucket, count) in (u32::from(least)..).zip(&counts) {
            if *count > 0 {
                buckets.push((buckets::median(bucket), *count));
            }
        }
        summarize(counts.iter().sum(), buckets.into_iter(), &moments)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(2).expect("two digits are allowed")
}

fn record_all(histogram: &mut Histogram<u64>, counts: &[(u16, u32)]) {
    for &(bucket, count) in counts {
        // The histogram grows with its values, so nothing is ever out of its range.
        let recorded = histogram.record_n(buckets::lowest(u32::from(bucket)), u64::from(count));
        debug_assert!(recorded.is_ok());
    }
}

/// One pass over the buckets: (median, how many), in order.
fn summarize(count: u64, buckets: impl Iterator<Item = (u64, u64)>, moments: &Moments) -> Summary {
    if count == 0 {
        return Summary::default();
    }
    let avg = moments.sum as f64 / count as f64;
    let mut summary = Summary {
        count,
        sum: moments.sum,
        min: moments.min,
        max: moments.max,
        avg,
        ..Summary::default()
    };
    // The rank of a quantile: the least number of samples that makes its share (nearest rank).
    // Less a hair, since 0.9999 times 10,000 is a little more than 9,999 in binary.
    let rank = |quantile: f64| ((quantile * count as f64 - 1e-6).ceil() as u64).clamp(1, count);
    let ranks = QUANTILES.map(|(_, quantile)| rank(quantile));
    let (mut seen, mut next, mut squares) = (0, 0, 0.0);
    for (median, in_bucket) in buckets {
        // A bucket's median may lie outside of what was recorded; its ends were not.
        let value = median.clamp(moments.min, moments.max) as f64;
        seen += in_bucket;
        squares += (value - avg).powi(2) * in_bucket as f64;
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

    fn record(distribution: &mut Distribution, values: impl IntoIterator<Item = u64>, at: u64) {
        let mut moments = Moments::NONE;
        for value in values {
            distribution.add(buckets::index(value), 1);
            moments.merge(&Moments { sum: value, min: value, max: value });
        }
        distribution.add_moments(&moments);
        distribution.settle(at);
    }

    #[test]
    fn percentiles_of_known_values_err_by_less_than_half_a_percent() {
        // From 1 us up: 10,000 values of which each percentile is known.
        for step in [1, 13, 997] {
            let mut distribution = Distribution::default();
            record(&mut distribution, (1..=10_000).map(|n| n * step), 0);
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
        record(&mut distribution, [100; 10], 0);
        record(&mut distribution, [5_000; 5], 30);
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
    fn nothing_recorded_is_nothing_but_zeros() {
        let distribution = Distribution::default();
        assert_eq!(distribution.total(), Summary::default());
        assert_eq!(distribution.buckets().count(), 0);
    }

    #[test]
    fn slow_samples_keep_an_exemplar_beside_fast_ones() {
        let mut distribution = Distribution::default();
        for value in [900, 1_000, 90_000] {
            let trace_id = u128::from(value);
            distribution.set_exemplar(Exemplar { trace_id, value, at_secs: 1.0 });
        }
        let kept: Vec<u64> = distribution.exemplars().map(|exemplar| exemplar.value).collect();
        assert_eq!(kept, [1_000, 90_000]);
    }
}
