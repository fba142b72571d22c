//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018), as HAProxy
//! (`hash-balance-factor`) and Envoy have it, on a ring of points as in ketama.
//!
//! A key belongs to the endpoint of the first point at or after its own place on the ring. Where
//! that endpoint may not be picked, or has its fill, the key goes to the next point's, and comes
//! back once it can. An endpoint has its fill when it has as many attempts under way, in the whole
//! process, as `bound` times its share of all by weight, rounded up. So a key that everybody asks
//! for is spread over several endpoints, and the others stay where they are.
//!
//! An endpoint's points follow from its key alone, so that all shards and all processes have the
//! same ring, and an endpoint that comes or goes moves only keys of its own. One that warms up has
//! all its keys, which would else move twice; its bound is lower meanwhile, as its weight is.
//!
//! Without a key an endpoint is drawn by weight.

use super::alias::AliasTable;
use super::endpoints::Endpoints;
use crate::policy::Rng;

/// Points of an endpoint of mean weight, at least: their number's square root is what makes the
/// shares of the ring even, here to about 8 % (standard deviation).
const POINTS: u64 = 160;

/// A point's low bits are its slot, the rest its place. There are more places than 10^12, so that
/// of 10,000 endpoints' points a few in all share theirs (and the lower slot has it).
const SLOT_BITS: u32 = 24;

/// Points looked at until a key is given up to two choices. With a bound of 1.25 four fifths of the
/// ring may be full, so that a walk is 5 points long and 128 do not suffice once in 10^12 walks.
const MAX_STEPS: usize = 128;

/// An endpoint with fewer attempts under way has room whatever its share is: with so little to do,
/// that a key stays is worth more than evenness. And what other shards have under way is known as
/// of a tenth of a second ago, when the one request of a quiet service may have been there.
const FEW: u64 = 4;

/// A load that has reached its bound but for rounding has reached it.
const ROUNDING: f64 = 1e-9;

#[derive(Debug)]
pub(super) struct ConsistentHash {
    bound: f64,
    ring: Ring,
    /// For attempts without a key, and for those that find no room.
    table: AliasTable,
}

impl ConsistentHash {
    /// A bound below 1 would leave no room for some.
    pub(super) fn new(bound: f64) -> ConsistentHash {
        ConsistentHash {
            bound: bound.max(1.0),
            ring: Ring::default(),
            table: AliasTable::default(),
        }
    }

    pub(super) fn pick(
        &self,
        endpoints: &Endpoints,
        key: Option<u64>,
        rng: &mut Rng,
        avoid: Option<usize>,
    ) -> Option<usize> {
        let Some(key) = key else {
            return self.table.one(rng, avoid);
        };
        let total = endpoints.eligible_load() + 1;
        let mean = total as f64 / endpoints.eligible().len().max(1) as f64;
        // A whole number is below a bound rounded up exactly when it is below the bound.
        let has_room = |slot: usize| {
            let it = endpoints.get(slot);
            let room = self.bound * mean * it.share - ROUNDING;
            it.eligible && (it.load() < FEW || (it.load() as f64) < room)
        };
        let mut walk = self.ring.walk(key).take(MAX_STEPS);
        walk.find(|&slot| Some(slot) != avoid && has_room(slot)).or_else(|| {
            let load = |slot: usize| {
                let it = endpoints.get(slot);
                it.load() as f64 / it.share
            };
            self.table.lesser_of_two(rng, avoid, load)
        })
    }

    /// Takes in who is eligible now, and with what weight.
    pub(super) fn rebuild(&mut self, endpoints: &Endpoints) {
        self.ring.rebuild(endpoints);
        self.table = AliasTable::new(endpoints.weighted(endpoints.eligible()));
    }

    /// O(points). Called when nothing changed since `rebuild`.
    pub(super) fn check_invariants(&self, endpoints: &Endpoints) {
        self.ring.check_invariants(endpoints);
    }
}

/// The points of all endpoints in service, whether they may be picked or not.
#[derive(Debug, Default)]
struct Ring {
    /// In order.
    points: Vec<u64>,
    /// For each value of a place's top bits, the first point that is not below it; so looking up
    /// costs the same however many there are.
    first: Vec<u32>,
    /// What is not top bits.
    shift: u32,
    /// Key and number of points of each slot.
    placed: Vec<(u64, u64)>,
    generation: u64,
}

impl Ring {
    /// Slots in the order of their points from a key's place on, once around.
    fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let place = Rng::new(key).next_u64();
        let mut at = self.points.len();
        if let Some(&first) = self.first.get((place >> self.shift) as usize) {
            let below = self.points[first as usize..].iter().take_while(|&&point| point < place);
            at = first as usize + below.count();
        }
        self.points[at..].iter().chain(&self.points[..at]).map(|&point| slot_of(point))
    }

    /// Costs what changed, and a pass over all points.
    fn rebuild(&mut self, endpoints: &Endpoints) {
        if self.generation == endpoints.generation() {
            return;
        }
        self.generation = endpoints.generation();
        let unit = unit(endpoints);
        let count = |weight: u32| ((u64::from(weight) * POINTS + unit / 2) / unit).max(1);
        let wanted = endpoints.all().iter().map(|it| match it.is_in_service() {
            true => (it.key, count(it.weight)),
            false => (0, 0),
        });
        let before = std::mem::replace(&mut self.placed, wanted.collect());
        let changed = |slot: usize| before.get(slot) != Some(&self.placed[slot]);
        let changed: Vec<bool> = (0..self.placed.len()).map(changed).collect();
        self.points.retain(|&point| !changed[slot_of(point)]);
        for (slot, &(key, count)) in self.placed.iter().enumerate().filter(|it| changed[it.0]) {
            debug_assert!(slot < 1 << SLOT_BITS);
            // Mixed once, so that points of keys which follow each other have nothing in common.
            let mut places = Rng::new(Rng::new(key).next_u64());
            let point = |_| places.next_u64() >> SLOT_BITS << SLOT_BITS | slot as u64;
            self.points.extend((0..count).map(point));
        }
        // What is in order already, most of it as a rule, this sort only merges.
        self.points.sort();
        self.index();
    }

    fn index(&mut self) {
        let buckets = (self.points.len() / 2).next_power_of_two().max(2);
        self.shift = u64::BITS - buckets.ilog2();
        self.first.clear();
        for (at, point) in (0..).zip(&self.points) {
            let bucket = (point >> self.shift) as usize;
            if self.first.len() <= bucket {
                self.first.resize(bucket + 1, at);
            }
        }
        self.first.resize(buckets, self.points.len() as u32);
    }

    fn check_invariants(&self, endpoints: &Endpoints) {
        let mut counts = vec![0; endpoints.all().len()];
        self.points.iter().for_each(|&point| counts[slot_of(point)] += 1);
        for (slot, it) in endpoints.all().iter().enumerate() {
            assert_eq!(counts[slot] > 0, it.is_in_service(), "slot {slot}");
        }
        assert!(self.points.is_sorted());
    }
}

/// The weight that has [`POINTS`]: the power of two at or below the mean. Were it the mean itself,
/// an endpoint that comes would change the number of everybody's points, and move their keys.
fn unit(endpoints: &Endpoints) -> u64 {
    let weights = endpoints.all().iter().filter(|it| it.is_in_service());
    let (total, count) =
        weights.fold((0, 0), |(total, count), it| (total + u64::from(it.weight), count + 1));
    1 << total.checked_div(count).map_or(0, u64::ilog2)
}

fn slot_of(point: u64) -> usize {
    (point & ((1 << SLOT_BITS) - 1)) as usize
}
