//! The endpoints of a service, each in a slot that stays its own as long as somebody holds it.
//!
//! An endpoint that is removed keeps its slot until the attempts under way on it have ended, so
//! that whoever holds the slot for an attempt always means the endpoint that it picked. Then the
//! slot is free, and the next endpoint that is added may have it.
//!
//! Here, too, is who may be picked, for all kinds alike: those available; or, when more than half
//! of those not drained are out, all that are not drained. And what weight each has: its own, less
//! while it warms up. After Envoy's slow start with an aggression of 1, that is the share of the
//! period that has passed, but never less than a tenth.
//!
//! Invariants: a slot is live, or retired with attempts under way, or free and listed as such
//! once. Eligible endpoints are live and not drained. They are as of the last `apply`.

use std::time::Duration;

use crate::policy::Rng;

/// What an endpoint starts with, as a share of its weight: enough to be noticed.
const COLDEST: f64 = 0.1;

/// Whether an endpoint may be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Available,
    /// Ejected or unhealthy: picked only when most are.
    Out,
    /// Taken out by the operator: never picked.
    Drained,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) key: u64,
    pub(super) weight: u32,
    /// Attempts under way on this shard.
    pub(super) pending: u32,
    /// Attempts under way on the process's other shards, as last told.
    others: u32,
    pub(super) standing: Standing,
    life: Life,
    pub(super) eligible: bool,
    warming_since: Option<Duration>,
    /// The weight that it is picked by.
    pub(super) effective: f64,
    /// That over the mean of the eligible: what a share of load is measured by.
    pub(super) share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Live,
    /// Removed, with attempts under way.
    Retired,
    Free,
}

impl Endpoint {
    /// Attempts under way in the process.
    pub(super) fn load(&self) -> u64 {
        u64::from(self.pending) + u64::from(self.others)
    }

    /// Live, and not drained by the operator.
    pub(super) fn is_in_service(&self) -> bool {
        self.life == Life::Live && self.standing != Standing::Drained
    }
}

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    slots: Vec<Endpoint>,
    free: Vec<u32>,
    /// Slots that are picked from, in order; empty only where all are drained, or none is there.
    eligible: Vec<u32>,
    live: usize,
    available: usize,
    out: usize,
    /// Attempts under way on this shard, those on retired slots too.
    pending: u64,
    /// Attempts under way in the process on eligible endpoints.
    eligible_load: u64,
    /// How often the endpoints in service, their keys or their own weights changed.
    generation: u64,
}

impl Endpoints {
    pub(super) fn add(&mut self, weight: u32, key: u64, warming_since: Option<Duration>) -> usize {
        let endpoint = Endpoint {
            key,
            weight: weight.max(1),
            pending: 0,
            others: 0,
            standing: Standing::Available,
            life: Life::Live,
            eligible: false,
            warming_since,
            effective: f64::from(weight.max(1)),
            share: 1.0,
        };
        self.live += 1;
        self.available += 1;
        self.generation += 1;
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = endpoint;
                slot as usize
            }
            None => {
                self.slots.push(endpoint);
                self.slots.len() - 1
            }
        }
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let it = &mut self.slots[slot];
        debug_assert_eq!(it.life, Life::Live, "removed twice: {slot}");
        if it.life != Life::Live {
            return;
        }
        let standing = it.standing;
        it.life = if it.pending > 0 { Life::Retired } else { Life::Free };
        if it.life == Life::Free {
            self.free.push(slot as u32);
        }
        self.live -= 1;
        self.generation += 1;
        self.count(standing, usize::wrapping_sub);
    }

    pub(super) fn set_weight(&mut self, slot: usize, weight: u32) {
        self.slots[slot].weight = weight.max(1);
        self.generation += 1;
    }

    /// What the standing was before.
    pub(super) fn set_standing(&mut self, slot: usize, standing: Standing) -> Standing {
        let it = &mut self.slots[slot];
        debug_assert_eq!(it.life, Life::Live, "no endpoint in {slot}");
        let before = std::mem::replace(&mut it.standing, standing);
        if it.life == Life::Live {
            self.count(before, usize::wrapping_sub);
            self.count(standing, usize::wrapping_add);
        }
        if (before == Standing::Drained) != (standing == Standing::Drained) {
            self.generation += 1;
        }
        before
    }

    pub(super) fn warm_up(&mut self, slot: usize, since: Duration) {
        self.slots[slot].warming_since = Some(since);
    }

    fn count(&mut self, standing: Standing, by: fn(usize, usize) -> usize) {
        match standing {
            Standing::Available => self.available = by(self.available, 1),
            Standing::Out => self.out = by(self.out, 1),
            Standing::Drained => {}
        }
    }

    /// Works out who is eligible and with what weight; whether some are still warming up.
    pub(super) fn apply(&mut self, now: Duration, slow_start: Option<Duration>) -> bool {
        let most_are_out = 2 * self.out > self.available + self.out;
        let mut warming = false;
        let (mut weight, mut load) = (0.0, 0);
        self.eligible.clear();
        for (slot, it) in (0..).zip(&mut self.slots) {
            it.effective = f64::from(it.weight) * it.warmth(now, slow_start);
            warming |= it.is_in_service() && it.warming_since.is_some();
            it.eligible =
                it.is_in_service() && (most_are_out || it.standing == Standing::Available);
            if it.eligible {
                self.eligible.push(slot);
                weight += it.effective;
                load += it.load();
            }
        }
        self.eligible_load = load;
        let mean = weight / self.eligible.len().max(1) as f64;
        for &slot in &self.eligible {
            let it = &mut self.slots[slot as usize];
            it.share = it.effective / mean;
        }
        warming
    }

    /// Attempts under way on the process's other shards, by slot; 0 beyond the end.
    pub(super) fn set_others(&mut self, totals: &[u32]) {
        let totals = totals.iter().copied().chain(std::iter::repeat(0));
        self.eligible_load = 0;
        for (it, total) in self.slots.iter_mut().zip(totals) {
            it.others = if it.life == Life::Live { total } else { 0 };
            if it.eligible {
                self.eligible_load += it.load();
            }
        }
    }

    pub(super) fn started(&mut self, slot: usize) {
        let it = &mut self.slots[slot];
        debug_assert_ne!(it.life, Life::Free, "started where there is no endpoint: {slot}");
        it.pending += 1;
        self.pending += 1;
        self.eligible_load += u64::from(it.eligible);
    }

    pub(super) fn finished(&mut self, slot: usize) {
        let it = &mut self.slots[slot];
        debug_assert!(it.pending > 0, "finished without started");
        if it.pending == 0 {
            return;
        }
        it.pending -= 1;
        self.pending -= 1;
        self.eligible_load -= u64::from(it.eligible);
        if it.pending == 0 && it.life == Life::Retired {
            it.life = Life::Free;
            self.free.push(slot as u32);
        }
    }

    pub(super) fn get(&self, slot: usize) -> &Endpoint {
        &self.slots[slot]
    }

    /// All slots, also those that nobody has.
    pub(super) fn all(&self) -> &[Endpoint] {
        &self.slots
    }

    /// Slots with an endpoint.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, it)| it.life == Life::Live).map(|(slot, _)| slot)
    }

    pub(super) fn eligible(&self) -> &[u32] {
        &self.eligible
    }

    /// One of those that are out, at random. O(n): for when nobody else is left.
    pub(super) fn any_out(&self, rng: &mut Rng) -> Option<usize> {
        let out = || self.live().filter(|&slot| self.slots[slot].standing == Standing::Out);
        match out().count() {
            0 => None,
            count => out().nth(rng.below(count)),
        }
    }

    /// Slots with what they weigh, as a table for drawing is made of.
    pub(super) fn weighted(
        &self,
        slots: &[u32],
    ) -> impl ExactSizeIterator<Item = (u32, f64)> + Clone {
        slots.iter().map(|&slot| (slot, self.slots[slot as usize].effective))
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn available(&self) -> usize {
        self.available
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Attempts under way on this shard, those on retired slots too.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// Attempts under way in the process.
    pub(super) fn load(&self) -> u64 {
        self.pending + self.slots.iter().map(|it| u64::from(it.others)).sum::<u64>()
    }

    /// Of these, those on endpoints that may be picked.
    pub(super) fn eligible_load(&self) -> u64 {
        self.eligible_load
    }

    /// O(n). `applied`: nothing changed since.
    pub(super) fn check_invariants(&self, applied: bool) {
        let has = |standing| {
            let live = self.slots.iter().filter(|it| it.life == Life::Live);
            live.filter(|it| it.standing == standing).count()
        };
        assert_eq!(self.available, has(Standing::Available));
        assert_eq!(self.out, has(Standing::Out));
        assert_eq!(self.live, self.available + self.out + has(Standing::Drained));
        let pending: u64 = self.slots.iter().map(|it| u64::from(it.pending)).sum();
        assert_eq!(self.pending, pending);
        let mut listed = vec![0; self.slots.len()];
        self.free.iter().for_each(|&slot| listed[slot as usize] += 1);
        for (slot, it) in self.slots.iter().enumerate() {
            assert_eq!(listed[slot], usize::from(it.life == Life::Free), "slot {slot}");
            match it.life {
                Life::Live => {}
                Life::Retired => assert!(it.pending > 0, "slot {slot} is kept for nobody"),
                Life::Free => assert_eq!(it.pending, 0, "slot {slot} is still held"),
            }
            let listed = self.eligible.binary_search(&(slot as u32)).is_ok();
            assert!(!applied || listed == it.eligible, "slot {slot}");
            assert!(!applied || !it.eligible || it.is_in_service(), "slot {slot}");
        }
        let load = |&slot: &u32| self.slots[slot as usize].load();
        let load: u64 = self.eligible.iter().map(load).sum();
        assert!(!applied || self.eligible_load == load);
        assert!(!applied || self.eligible.is_empty() == (self.available + self.out == 0));
    }
}

impl Endpoint {
    /// How much of its weight it has by now. Forgets that it was cold once it no longer is.
    fn warmth(&mut self, now: Duration, slow_start: Option<Duration>) -> f64 {
        if let (Some(since), Some(period)) = (self.warming_since, slow_start) {
            let elapsed = now.saturating_sub(since);
            if elapsed < period {
                return (elapsed.as_secs_f64() / period.as_secs_f64()).max(COLDEST);
            }
        }
        self.warming_since = None;
        1.0
    }
}
