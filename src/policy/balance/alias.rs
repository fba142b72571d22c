//! Drawing by weight in constant time: the alias method (Walker 1977, built as in Vose 1991).

use crate::policy::Rng;

/// Draws indices `0..n` in proportion to their weights.
#[derive(Debug, Default)]
pub(super) struct AliasTable {
    /// With this probability a slot stands for itself, else for its alias.
    slots: Vec<(f64, u32)>,
}

impl AliasTable {
    /// Weights are not 0.
    pub(super) fn new(weights: impl ExactSizeIterator<Item = u32> + Clone) -> AliasTable {
        let count = weights.len();
        let total: f64 = weights.clone().map(f64::from).sum();
        let mut scaled: Vec<f64> =
            weights.map(|weight| f64::from(weight) * count as f64 / total).collect();
        let mut slots: Vec<(f64, u32)> = (0..count as u32).map(|at| (1.0, at)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|&at| scaled[at] < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            slots[less] = (scaled[less], more as u32);
            scaled[more] -= 1.0 - scaled[less];
            if scaled[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left is 1 but for rounding, and stands for itself.
        AliasTable { slots }
    }

    /// An index; none where there are none.
    pub(super) fn draw(&self, rng: &mut Rng) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = rng.below(self.slots.len());
        let (own, alias) = self.slots[slot];
        Some(if own >= 1.0 || rng.unit() < own { slot } else { alias as usize })
    }
}
