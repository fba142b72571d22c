//! Ratios of two proxies' figures, paired by round, with their standard error. Pure.
//!
//! Within a round two proxies meet the same machine; from one round to the next it may be another
//! one. So the figure is the median of the rounds' ratios, and not the ratio of two medians. Its
//! standard error is McKean's and Schrader's ("A comparison of methods for studentizing the sample
//! median", 1984): how far apart the two ratios are between which the median lies in 95 of 100
//! cases, by their order alone. A round that was disturbed moves neither by much, and nothing is
//! assumed of how ratios are spread.

use std::collections::BTreeMap;

/// A figure of each round.
pub type ByRound = BTreeMap<u32, f64>;

/// With fewer, the median lies between the two ratios at the ends in less than 95 of 100 cases.
const LEAST_ROUNDS: usize = 6;
/// Standard errors between the median and either end of its interval of 95 %.
const Z: f64 = 1.96;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub median: f64,
    /// `None`: so few rounds do not say how far off it is.
    pub error: Option<f64>,
    pub rounds: usize,
}

/// Ours over theirs, in the rounds that have both. `None`: there are none.
pub fn paired(ours: &ByRound, theirs: &ByRound) -> Option<Ratio> {
    let both = ours.iter().filter_map(|(round, our)| Some(our / theirs.get(round)?));
    let mut ratios: Vec<f64> = both.filter(|ratio| ratio.is_finite()).collect();
    let median = median_of(&mut ratios)?;
    Some(Ratio { median, error: error_of_median(&ratios), rounds: ratios.len() })
}

pub fn median(figures: &ByRound) -> Option<f64> {
    median_of(&mut figures.values().copied().collect::<Vec<_>>())
}

fn median_of(figures: &mut [f64]) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let count = figures.len();
    match count {
        0 => None,
        _ if count % 2 == 1 => Some(figures[count / 2]),
        _ => Some(f64::midpoint(figures[count / 2 - 1], figures[count / 2])),
    }
}

fn error_of_median(sorted: &[f64]) -> Option<f64> {
    let count = sorted.len();
    if count < LEAST_ROUNDS {
        return None;
    }
    // From either end, beginning with 1; with few rounds it is the ends themselves.
    let nth = (count as f64 + 1.0) / 2.0 - Z * (count as f64 / 4.0).sqrt();
    let nth = nth.round().max(1.0) as usize;
    Some((sorted[count - nth] - sorted[nth - 1]) / (2.0 * Z))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(figures: &[f64]) -> ByRound {
        (0..).zip(figures.iter().copied()).collect()
    }

    fn ratio(ours: &[f64], theirs: &[f64]) -> Ratio {
        paired(&rounds(ours), &rounds(theirs)).expect("rounds that have both")
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-12
    }

    #[test]
    fn a_slow_round_is_slow_for_both() {
        // The medians are 2 and 3; in each round it is one half or less.
        let found = ratio(&[1.0, 2.0, 30.0], &[2.0, 5.0, 60.0]);
        assert_eq!((found.median, found.rounds), (0.5, 3));
        assert_eq!(found.error, None, "three rounds do not say");
        // 3.5 - 1.96 * 1.225 = 1.1, so the ends: (0.5 - 0.4) / 3.92.
        let found = ratio(&[1.0, 2.0, 30.0, 1.0, 1.0, 1.0], &[2.0, 5.0, 60.0, 2.0, 2.0, 2.0]);
        assert!(near(found.error.expect("six rounds"), 0.1 / 3.92), "{found:?}");
    }

    #[test]
    fn the_error_is_of_ratios_in_the_middle() {
        // Of twelve, 6.5 - 1.96 * 1.732 = 3.1: the third and the tenth, 1.02 and 1.09.
        let ours: Vec<f64> = (0..12).map(|at| 1.0 + f64::from(at) / 100.0).collect();
        let found = ratio(&ours, &[1.0; 12]);
        assert!(near(found.median, 1.055), "{found:?}");
        assert!(near(found.error.expect("twelve rounds"), 0.07 / 3.92), "{found:?}");
        // What two rounds at either end say is of no matter.
        let mut wild = ours.clone();
        (wild[0], wild[1], wild[10], wild[11]) = (1e-9, 0.0, 7.0, 1e9);
        assert_eq!(ratio(&wild, &[1.0; 12]), found);
    }

    #[test]
    fn rounds_that_only_one_has_do_not_count() {
        let ours = ByRound::from([(1, 4.0), (2, 9.0), (5, 8.0)]);
        let theirs = ByRound::from([(1, 2.0), (3, 9.0), (5, 2.0), (6, 0.0)]);
        let found = paired(&ours, &theirs).expect("two");
        assert_eq!((found.median, found.rounds), (3.0, 2));
        assert_eq!(paired(&ours, &ByRound::from([(9, 1.0)])), None);
        // Nothing over nothing is no ratio.
        assert_eq!(paired(&rounds(&[0.0]), &rounds(&[0.0])), None);
    }

    #[test]
    fn few_rounds_have_no_error() {
        let found = ratio(&[3.0; 5], &[3.0; 5]);
        assert_eq!((found.median, found.error), (1.0, None));
        // The ends, since 3.5 - 1.96 * 1.225 = 1.1.
        let found = ratio(&[1.02, 1.02, 1.03, 1.03, 1.04, 1.04], &[1.0; 6]);
        assert!(near(found.error.expect("six rounds"), 0.02 / 3.92), "{found:?}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&rounds(&[])), None);
        assert_eq!(median(&rounds(&[9.0, 1.0, 2.0])), Some(2.0));
        assert_eq!(median(&rounds(&[9.0, 1.0, 2.0, 4.0])), Some(3.0));
    }
}
