//! A coarse timer wheel: four levels of 64 slots, one millisecond wide at the lowest.
//!
//! Each timer has one deadline, and moving it later, as every request does, is a store: the timer
//! stays where it hangs and is hung again when its slot comes up early. Moving it earlier relinks
//! it, which is four stores. There is no allocation, tree or system call per request. Timers fire
//! late by up to two milliseconds, never early. Deadlines beyond the wheel (4.6 hours) hang in
//! its last slot and are hung again from there.
//!
//! Pure: the time is an argument, in milliseconds since an arbitrary start.

use super::slots::{Key, Slots};

const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest that a timer can hang ahead, in milliseconds.
const SPAN_MS: u64 = 1 << (SLOT_BITS * LEVELS as u32);
/// A deadline that never comes.
pub(super) const NEVER_MS: u64 = u64::MAX;

/// One timer. `hung` says which list it is in; `deadline_ms` may be later than that list's time.
struct Timer<W> {
    deadline_ms: u64,
    hung: Option<Place>,
    next: Option<Key>,
    previous: Option<Key>,
    waker: W,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    level: u8,
    slot: u8,
    /// When this list is looked at.
    due_ms: u64,
}

pub(super) struct Wheel<W> {
    now_ms: u64,
    timers: Slots<Timer<W>>,
    heads: [[Option<Key>; SLOTS]; LEVELS],
    /// A bit for each slot that has timers.
    occupied: [u64; LEVELS],
}

impl<W> Wheel<W> {
    pub(super) fn new(now_ms: u64) -> Wheel<W> {
        Wheel {
            now_ms,
            timers: Slots::new(),
            heads: [[None; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// A timer that does not fire until it is set.
    pub(super) fn insert(&mut self, waker: W) -> Key {
        self.timers.insert(Timer {
            deadline_ms: NEVER_MS,
            hung: None,
            next: None,
            previous: None,
            waker,
        })
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<W> {
        self.unhang(key);
        self.timers.remove(key).map(|timer| timer.waker)
    }

    /// Fires at `deadline_ms`, and no more at what was set before.
    pub(super) fn set(&mut self, key: Key, deadline_ms: u64) {
        let now_ms = self.now_ms;
        let Some(timer) = self.timers.get_mut(key) else {
            return;
        };
        timer.deadline_ms = deadline_ms;
        let wanted_ms = deadline_ms.clamp(now_ms + 1, now_ms + SPAN_MS - 1);
        match timer.hung {
            Some(place) if place.due_ms <= wanted_ms => {}
            _ if deadline_ms == NEVER_MS => {}
            _ => {
                self.unhang(key);
                self.hang(key, wanted_ms);
            }
        }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut W> {
        self.timers.get_mut(key).map(|timer| &mut timer.waker)
    }

    /// When `advance` next has something to look at, in milliseconds from now.
    pub(super) fn next_ms(&self) -> Option<u64> {
        (0..LEVELS)
            .filter_map(|level| {
                let shift = SLOT_BITS * level as u32;
                let current = self.now_ms >> shift;
                let ahead = self.occupied[level].rotate_right((current % SLOTS as u64) as u32);
                // The current slot of a level was looked at when it was entered.
                let ahead = ahead & !1;
                (ahead != 0)
                    .then(|| ((current + u64::from(ahead.trailing_zeros())) << shift) - self.now_ms)
            })
            .min()
    }

    /// Moves to `now_ms` and hands over the waker and the deadline of each timer whose time has
    /// come. A fired timer stays, unset.
    pub(super) fn advance(&mut self, now_ms: u64, mut fire: impl FnMut(&mut W, u64)) {
        while let Some(step_ms) = self.next_ms() {
            if self.now_ms + step_ms > now_ms {
                break;
            }
            self.now_ms += step_ms;
            for level in 0..LEVELS {
                let shift = SLOT_BITS * level as u32;
                if self.now_ms & ((1 << shift) - 1) == 0 {
                    self.empty(level, (self.now_ms >> shift) as usize % SLOTS, &mut fire);
                }
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    fn empty(&mut self, level: usize, slot: usize, fire: &mut impl FnMut(&mut W, u64)) {
        while let Some(key) = self.heads[level][slot] {
            self.unhang(key);
            let now_ms = self.now_ms;
            let Some(timer) = self.timers.get_mut(key) else {
                break;
            };
            if timer.deadline_ms <= now_ms {
                let deadline_ms = std::mem::replace(&mut timer.deadline_ms, NEVER_MS);
                fire(&mut timer.waker, deadline_ms);
            } else if timer.deadline_ms != NEVER_MS {
                let wanted_ms = timer.deadline_ms.min(now_ms + SPAN_MS - 1);
                self.hang(key, wanted_ms);
            }
        }
    }

    /// Links a timer that hangs nowhere into the list that is looked at by `due_ms`.
    fn hang(&mut self, key: Key, due_ms: u64) {
        let ahead = due_ms - self.now_ms;
        debug_assert!(ahead > 0 && ahead < SPAN_MS);
        let mut level = ((63 - ahead.leading_zeros()) / SLOT_BITS) as usize;
        // The slot of the current moment has been looked at: one lap further would be too late.
        if (due_ms >> (SLOT_BITS * level as u32)) - (self.now_ms >> (SLOT_BITS * level as u32))
            >= SLOTS as u64
        {
            level += 1;
        }
        let level = level.min(LEVELS - 1);
        let shift = SLOT_BITS * level as u32;
        let tick = (due_ms >> shift).min((self.now_ms >> shift) + SLOTS as u64 - 1);
        let slot = tick as usize % SLOTS;
        let head = self.heads[level][slot].replace(key);
        self.occupied[level] |= 1 << slot;
        if let Some(timer) = self.timers.get_mut(key) {
            timer.hung =
                Some(Place { level: level as u8, slot: slot as u8, due_ms: tick << shift });
            timer.next = head;
            timer.previous = None;
        }
        if let Some(next) = head.and_then(|head| self.timers.get_mut(head)) {
            next.previous = Some(key);
        }
    }

    fn unhang(&mut self, key: Key) {
        let Some(timer) = self.timers.get_mut(key) else {
            return;
        };
        let Some(place) = timer.hung.take() else {
            return;
        };
        let (next, previous) = (timer.next.take(), timer.previous.take());
        if let Some(next) = next.and_then(|next| self.timers.get_mut(next)) {
            next.previous = previous;
        }
        match previous.and_then(|previous| self.timers.get_mut(previous)) {
            Some(previous) => previous.next = next,
            None => {
                let (level, slot) = (place.level as usize, place.slot as usize);
                self.heads[level][slot] = next;
                if next.is_none() {
                    self.occupied[level] &= !(1 << slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel<u64>, now_ms: u64) -> Vec<u64> {
        let mut found = Vec::new();
        wheel.advance(now_ms, |n, _| found.push(*n));
        found
    }

    #[test]
    fn fires_once_and_on_time() {
        let mut wheel = Wheel::new(1_000_003);
        for after_ms in [1u64, 2, 63, 64, 65, 4_095, 4_096, 60_000, 300_000, SPAN_MS - 1] {
            let key = wheel.insert(after_ms);
            let start_ms = wheel.now_ms();
            wheel.set(key, start_ms + after_ms);
            assert!(fired(&mut wheel, start_ms + after_ms - 1).is_empty(), "{after_ms} early");
            assert_eq!(fired(&mut wheel, start_ms + after_ms), [after_ms]);
            assert!(fired(&mut wheel, start_ms + after_ms + 10).is_empty());
        }
    }

    #[test]
    fn beyond_the_wheel_is_not_early() {
        let mut wheel = Wheel::new(7);
        let key = wheel.insert(1);
        wheel.set(key, 7 + 3 * SPAN_MS);
        assert!(fired(&mut wheel, 6 + 3 * SPAN_MS).is_empty());
        assert_eq!(fired(&mut wheel, 7 + 3 * SPAN_MS), [1]);
    }

    #[test]
    fn moved_later_earlier_and_away() {
        let mut wheel = Wheel::new(0);
        let (later, earlier, unset, gone) =
            (wheel.insert(1), wheel.insert(2), wheel.insert(3), wheel.insert(4));
        for key in [later, earlier, unset, gone] {
            wheel.set(key, 1_000);
        }
        wheel.set(later, 2_000);
        wheel.set(earlier, 100);
        wheel.set(unset, NEVER_MS);
        wheel.remove(gone);
        assert!(fired(&mut wheel, 99).is_empty());
        assert_eq!(fired(&mut wheel, 100), [2]);
        assert!(fired(&mut wheel, 1_999).is_empty());
        assert_eq!(fired(&mut wheel, 2_000), [1]);
        assert_eq!(wheel.next_ms(), None, "nothing is left hanging");
    }

    #[test]
    fn a_fired_timer_can_be_set_again() {
        let mut wheel = Wheel::new(0);
        let key = wheel.insert(9);
        for round in 1..200 {
            wheel.set(key, round * 10);
            assert_eq!(fired(&mut wheel, round * 10), [9]);
        }
    }

    /// Random deadlines, moves and steps of time against a plain list.
    #[test]
    fn a_random_history_agrees_with_a_list() {
        let mut state = 0xD1B5_4A32_D192_ED03u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut wheel = Wheel::new(123);
        let keys: Vec<Key> = (0..64).map(|n| wheel.insert(n)).collect();
        let mut model = [NEVER_MS; 64];
        let mut now_ms = 123;
        for _ in 0..50_000 {
            let n = random(64) as usize;
            let scale = [10, 100, 5_000, 400_000][random(4) as usize];
            let deadline_ms = now_ms + 1 + random(scale);
            wheel.set(keys[n], deadline_ms);
            model[n] = deadline_ms;
            let step_ms = [2, 3, 70, 5_000][random(4) as usize];
            now_ms += random(step_ms);
            let mut got = fired(&mut wheel, now_ms);
            got.sort_unstable();
            let due: Vec<u64> = (0..64).filter(|n| model[*n as usize] <= now_ms).collect();
            due.iter().for_each(|n| model[*n as usize] = NEVER_MS);
            assert_eq!(got, due, "at {now_ms}");
        }
    }
}
