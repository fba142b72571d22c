//! Which ids of requests were seen, and which of them more than once.
//!
//! An id is 64 bits: a core in the upper 16, a number in the lower 48. Each core counts up from
//! somewhere, so ids are dense, and a bit each in pages that are made when the first of their ids
//! comes is a hundredth of what a set of hashes would hold: 12 MB for the 100 million of an hour at
//! 28,000/s. Ids spread on purpose would cost a page each: there is a limit to the pages, and an id
//! beyond it is counted as one that was not tracked.

use std::collections::HashMap;

/// Of ids of a page: 2^15, whose bits are 4 KiB.
const PAGE_BITS: u32 = 15;
const WORDS: usize = 1 << (PAGE_BITS - 6);
/// A thousand million dense ids; 128 MiB, and as much again if each comes twice.
const MAX_PAGES: usize = 1 << 15;
/// Pages found without the map: one of each core that sends, as a rule.
const RECENT: usize = 16;

/// What is told of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdCounts {
    /// Requests that carried one.
    pub total: u64,
    pub different: u64,
    /// Different ones that came more than once.
    pub repeated: u64,
    /// Requests whose id was too far from the others to be remembered. Anything but 0: `different`
    /// and `repeated` are too low.
    pub untracked: u64,
}

type Bits = Box<[u64; WORDS]>;

struct Page {
    key: u64,
    seen: Bits,
    again: Option<Bits>,
}

/// The ids of one origin.
#[derive(Default)]
pub struct Ids {
    counts: IdCounts,
    pages: Vec<Page>,
    by_key: HashMap<u64, usize>,
    /// Indexes into `pages`, which may be any page's.
    recent: [usize; RECENT],
}

impl Ids {
    pub fn note(&mut self, id: u64) {
        self.counts.total += 1;
        let Some(page) = self.page(id >> PAGE_BITS) else {
            self.counts.untracked += 1;
            return;
        };
        let at = (id as usize >> 6) % WORDS;
        let bit = 1 << (id & 63);
        if page.seen[at] & bit == 0 {
            page.seen[at] |= bit;
            self.counts.different += 1;
            return;
        }
        let again = page.again.get_or_insert_with(empty);
        if again[at] & bit == 0 {
            again[at] |= bit;
            self.counts.repeated += 1;
        }
    }

    pub fn counts(&self) -> IdCounts {
        self.counts
    }

    /// Of several origins as if they were one: an id that each of two saw once came twice.
    pub fn together<'a>(all: impl Iterator<Item = &'a Ids>) -> IdCounts {
        let mut counts = IdCounts::default();
        let mut pages: HashMap<u64, Vec<&Page>> = HashMap::new();
        for ids in all {
            counts.total += ids.counts.total;
            counts.untracked += ids.counts.untracked;
            ids.pages.iter().for_each(|page| pages.entry(page.key).or_default().push(page));
        }
        for pages in pages.values() {
            for at in 0..WORDS {
                let (mut seen, mut again) = (0_u64, 0_u64);
                for page in pages {
                    again |= seen & page.seen[at];
                    again |= page.again.as_ref().map_or(0, |bits| bits[at]);
                    seen |= page.seen[at];
                }
                counts.different += u64::from(seen.count_ones());
                counts.repeated += u64::from(again.count_ones());
            }
        }
        counts
    }

    fn page(&mut self, key: u64) -> Option<&mut Page> {
        // The core's bits and the number's lowest ones.
        let slot = ((key >> (48 - PAGE_BITS)) ^ key) as usize % RECENT;
        let mut at = self.recent[slot];
        if self.pages.get(at).is_none_or(|page| page.key != key) {
            at = match self.by_key.get(&key) {
                Some(at) => *at,
                None if self.pages.len() == MAX_PAGES => return None,
                None => {
                    self.by_key.insert(key, self.pages.len());
                    self.pages.push(Page { key, seen: empty(), again: None });
                    self.pages.len() - 1
                }
            };
            self.recent[slot] = at;
        }
        self.pages.get_mut(at)
    }
}

fn empty() -> Bits {
    Box::new([0; WORDS])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(all: impl IntoIterator<Item = u64>) -> Ids {
        let mut ids = Ids::default();
        all.into_iter().for_each(|id| ids.note(id));
        ids
    }

    fn counts(total: u64, different: u64, repeated: u64) -> IdCounts {
        IdCounts { total, different, repeated, untracked: 0 }
    }

    #[test]
    fn each_id_is_one_and_a_repeated_one_is_told() {
        let cores = (0..40_u64).flat_map(|n| (0..70_000).map(move |k| n << 48 | (k * 40 + n)));
        let all = ids(cores.clone());
        assert_eq!(all.counts(), counts(2_800_000, 2_800_000, 0));
        let mut all = ids(cores);
        for _ in 0..3 {
            all.note(7 << 48 | 7);
            all.note(0);
        }
        all.note(u64::MAX);
        assert_eq!(all.counts(), counts(2_800_007, 2_800_001, 2));
        assert_eq!(Ids::together([&all].into_iter()), all.counts());
    }

    #[test]
    fn two_origins_together() {
        let (one, other) = (ids([1, 2, 2, 1 << 50]), ids([2, 3, 1 << 50, 4, 4, 4]));
        assert_eq!(one.counts(), counts(4, 3, 1));
        assert_eq!(other.counts(), counts(6, 4, 1));
        // 2 and 2^50 came to both, 4 three times to one.
        let together = Ids::together([&one, &other].into_iter());
        assert_eq!(together, counts(10, 5, 3));
        assert_eq!(Ids::together([&one, &other, &one].into_iter()), counts(14, 5, 4));
    }

    #[test]
    fn ids_spread_on_purpose_cost_no_more_than_the_limit() {
        let apart = (0..MAX_PAGES as u64 + 10).map(|n| n << PAGE_BITS);
        let mut ids = ids(apart);
        let all = MAX_PAGES as u64;
        let expected = IdCounts { total: all + 10, different: all, repeated: 0, untracked: 10 };
        assert_eq!(ids.counts(), expected);
        ids.note(0);
        assert_eq!(ids.counts().repeated, 1, "what is remembered goes on to be");
    }
}
