//! Traces of single samples, as a shard notes them between two flushes: few, and at little cost.
//!
//! A table of one entry for each place that series and magnitude hash to, so that a slow request
//! keeps its entry beside thousands of fast ones. What comes later takes the place of what was
//! there: newer is better, and an entry that two series share is one of them less for a second.

use super::distribution::Exemplar;
use super::samples::Series;

const PLACES: usize = 128;

#[derive(Debug, Default)]
pub struct Exemplars {
    /// Empty until there is one.
    places: Vec<Option<(Series, Exemplar)>>,
}

impl Exemplars {
    pub fn note(&mut self, series: Series, exemplar: Exemplar) {
        if self.places.is_empty() {
            self.places.resize(PLACES, None);
        }
        let magnitude = 64 - exemplar.value.leading_zeros() as usize;
        let place = (series.0 as usize).wrapping_mul(31).wrapping_add(magnitude / 2) % PLACES;
        self.places[place] = Some((series, exemplar));
    }

    pub fn drain(&mut self) -> impl Iterator<Item = (Series, Exemplar)> {
        self.places.drain(..).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sample_keeps_its_place_beside_fast_ones() {
        let mut exemplars = Exemplars::default();
        for value in (0..1_000).chain([1 << 20]).chain(0..1_000) {
            let trace_id = u128::from(value) + 1;
            exemplars.note(Series(3), Exemplar { trace_id, value, at_secs: 1.0 });
        }
        let kept: Vec<u64> = exemplars.drain().map(|(_, it)| it.value).collect();
        assert!(kept.contains(&(1 << 20)) && kept.contains(&999), "{kept:?}");
        assert_eq!(exemplars.drain().count(), 0);
    }
}
