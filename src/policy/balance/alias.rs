//! Drawing by weight in constant time: the alias method (Walker 1977, built as in Vose 1991).
//!
//! And power of two choices over such draws (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing", 2001): by weight, so that idle endpoints share by weight, and the one that
//! costs less of the two wins. Entries name slots and not positions in a list of them, so that a
//! draw among very many costs one line of memory and not two.

use crate::policy::Rng;

/// Draws until two choices differ and none is to be avoided; then the nearest one is taken. With
/// equal weights, 8 draws among two fail 1 time in 256.
const MAX_DRAWS: usize = 8;

/// Draws slots in proportion to their weights.
#[derive(Debug, Default)]
pub(super) struct AliasTable {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// An entry stands for its own slot with this probability, in 2^-32, else for its alias. One
    /// that always stands for itself is its own alias.
    own: u32,
    slot: u32,
    alias: u32,
}

impl AliasTable {
    /// Slots and their weights, which are above 0.
    pub(super) fn new(weighted: impl ExactSizeIterator<Item = (u32, f64)> + Clone) -> AliasTable {
        let count = weighted.len();
        let total: f64 = weighted.clone().map(|(_, weight)| weight).sum();
        let mut scaled: Vec<f64> =
            weighted.clone().map(|(_, weight)| weight * count as f64 / total).collect();
        let mut entries: Vec<Entry> =
            weighted.map(|(slot, _)| Entry { own: u32::MAX, slot, alias: slot }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|&at| scaled[at] < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            entries[less].own = (scaled[less] * (1_u64 << 32) as f64) as u32;
            entries[less].alias = entries[more].slot;
            scaled[more] -= 1.0 - scaled[less];
            if scaled[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left is 1 but for rounding, and stands for itself.
        AliasTable { entries }
    }

    /// A slot that is not to be avoided; none where there is no other.
    pub(super) fn one(&self, rng: &mut Rng, avoid: Option<usize>) -> Option<usize> {
        self.draw_another(rng, avoid, None)
    }

    /// Of two different slots drawn, neither to be avoided, the one that costs less; the only one
    /// where there are not two, and none where there is none.
    pub(super) fn lesser_of_two(
        &self,
        rng: &mut Rng,
        avoid: Option<usize>,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let a = self.draw_another(rng, avoid, None)?;
        match self.draw_another(rng, avoid, Some(a)) {
            Some(b) if cost(b) < cost(a) => Some(b),
            _ => Some(a),
        }
    }

    fn draw_another(
        &self,
        rng: &mut Rng,
        avoid: Option<usize>,
        other: Option<usize>,
    ) -> Option<usize> {
        let fits = |slot: usize| Some(slot) != avoid && Some(slot) != other;
        if let [only] = &self.entries[..] {
            return Some(only.slot as usize).filter(|&slot| fits(slot));
        }
        let mut at = 0;
        for _ in 0..MAX_DRAWS {
            let slot;
            (at, slot) = self.draw(rng)?;
            if fits(slot) {
                return Some(slot);
            }
        }
        // At most two do not fit, so this ends within three steps.
        let mut next = self.entries[at..].iter().chain(&self.entries[..at]);
        next.find(|entry| fits(entry.slot as usize)).map(|entry| entry.slot as usize)
    }

    /// An entry, and the slot that it stood for. The high half of one product is the entry, the
    /// low half what decides between slot and alias.
    fn draw(&self, rng: &mut Rng) -> Option<(usize, usize)> {
        let product = u128::from(rng.next_u64()) * self.entries.len() as u128;
        let at = (product >> 64) as usize;
        let entry = self.entries.get(at)?;
        let fraction = (product as u64 >> 32) as u32;
        let slot = if fraction < entry.own { entry.slot } else { entry.alias };
        Some((at, slot as usize))
    }
}
