//! A slab whose keys go stale: the index names a slot, the generation names its owner.
//!
//! A completion carries the key that its operation was queued under. When the slot has been
//! given to somebody else since, the generation differs and `get_mut` says `None`, so a stale
//! completion can never reach a new owner. Pure: no kernel, no memory but its own, so that random
//! orders of completions can be tried without a ring.

/// Bits of a generation that fit into `user_data` next to an operation and an index.
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
const NO_SLOT: u32 = u32::MAX;

/// Names one owner of one slot. Packs into the low 56 bits of a completion's `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn unpack(bits: u64) -> Key {
        Key { index: bits as u32, generation: (bits >> 32) as u32 & GENERATION_MASK }
    }
}

enum Entry<T> {
    Vacant { next: u32 },
    Taken(T),
}

struct Slot<T> {
    generation: u32,
    entry: Entry<T>,
}

pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Slots<T> {
        Slots { slots: Vec::new(), free: NO_SLOT, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if self.free == NO_SLOT {
            let index = self.slots.len() as u32;
            self.slots.push(Slot { generation: 0, entry: Entry::Taken(value) });
            return Key { index, generation: 0 };
        }
        let index = self.free;
        let slot = &mut self.slots[index as usize];
        if let Entry::Vacant { next } = slot.entry {
            self.free = next;
        }
        slot.entry = Entry::Taken(value);
        Key { index, generation: slot.generation }
    }

    /// The slot's value, unless the key is stale.
    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.index as usize) {
            Some(Slot { generation, entry: Entry::Taken(value) })
                if *generation == key.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// Frees the slot; every key to it is stale from here on.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let slot = &mut self.slots[key.index as usize];
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        let entry = std::mem::replace(&mut slot.entry, Entry::Vacant { next: self.free });
        self.free = key.index;
        self.len -= 1;
        match entry {
            Entry::Taken(value) => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| match &mut slot.entry {
            Entry::Taken(value) => {
                Some((Key { index: index as u32, generation: slot.generation }, value))
            }
            Entry::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_reaches_nobody() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.index, first.index, "the slot is used again");
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn keys_survive_packing() {
        let mut slots = Slots::new();
        let keys: Vec<Key> = (0..100).map(|n| slots.insert(n)).collect();
        for key in &keys[..50] {
            slots.remove(*key);
        }
        let again: Vec<Key> = (0..50).map(|n| slots.insert(1000 + n)).collect();
        for key in keys[50..].iter().chain(&again) {
            assert_eq!(Key::unpack(key.pack()), *key);
            assert!(slots.get_mut(Key::unpack(key.pack())).is_some());
        }
        assert_eq!(slots.iter_mut().count(), 100);
    }

    /// Random inserts and removals against a plain map from key to value.
    #[test]
    fn a_random_history_agrees_with_a_map() {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut slots = Slots::new();
        let mut live = Vec::new();
        let mut dead = Vec::new();
        for n in 0..20_000u64 {
            if live.is_empty() || random() % 5 < 3 {
                live.push((slots.insert(n), n));
            } else {
                let (key, value) = live.swap_remove(random() as usize % live.len());
                assert_eq!(slots.remove(key), Some(value));
                dead.push(key);
            }
            assert_eq!(slots.len(), live.len());
        }
        assert!(live.iter().all(|(key, value)| slots.get_mut(*key) == Some(&mut { *value })));
        assert!(dead.iter().all(|key| slots.get_mut(*key).is_none()));
    }
}
