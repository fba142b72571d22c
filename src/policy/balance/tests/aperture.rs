//! `aperture`: a width that follows the load, and an order that shards agree on.

use super::*;

const TICK: Duration = Duration::from_millis(100);

/// A process of so many shards, each with the same endpoints, whose load is set by hand.
struct Process {
    shards: Vec<Balancer>,
    under_way: Vec<Vec<usize>>,
    rng: Rng,
    now: Duration,
}

impl Process {
    fn new(kind: Kind, endpoints: usize, shards: usize, seed: u64) -> Process {
        let shard = |_| made(kind, &vec![1; endpoints]);
        Process {
            shards: (0..shards).map(shard).collect(),
            under_way: vec![Vec::new(); shards],
            rng: Rng::new(seed),
            now: ms(0),
        }
    }

    /// Starts or ends attempts until so many are under way, replacing some of them, and refreshes.
    fn tick(&mut self, load: usize) {
        self.now += TICK;
        let shards = self.shards.len();
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let own = load / shards + usize::from(at < load % shards);
            let mine = &mut self.under_way[at];
            let ended = mine.len() / 2 + mine.len().saturating_sub(own).div_ceil(2);
            for _ in 0..ended.min(mine.len()) {
                let slot = mine.swap_remove(self.rng.below(mine.len()));
                shard.finished(slot, self.now, None);
            }
            while mine.len() > own {
                shard.finished(mine.pop().unwrap(), self.now, None);
            }
            while mine.len() < own {
                let slot = shard.pick(&super::at(self.now), &mut self.rng).unwrap();
                shard.started(slot);
                mine.push(slot);
            }
        }
        let count = self.shards[0].len();
        let pending: Vec<Vec<u32>> = self.shards.iter().map(|shard| loads(shard, count)).collect();
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let others = pending.iter().enumerate().filter(|(other, _)| *other != at);
            let mut totals = vec![0; count];
            for (_, loads) in others {
                totals.iter_mut().zip(loads).for_each(|(total, load)| *total += load);
            }
            shard.refresh(self.now, Some(&totals));
        }
    }

    fn ticks(&mut self, seconds: u64, load: usize) {
        (0..seconds * 10).for_each(|_| self.tick(load));
    }

    /// The same on all shards.
    fn width(&self) -> usize {
        let widths = self.shards.iter().map(|shard| shard.width().unwrap());
        assert!(widths.clone().all(|width| Some(width) == widths.clone().next()));
        self.shards[0].width().unwrap().endpoints
    }
}

/// Settles five times as fast as is usual.
fn fast(min: usize) -> Kind {
    Kind::Aperture { decay: Duration::from_secs(1), low: 0.5, high: 2.0, min }
}

fn loads(shard: &Balancer, count: usize) -> Vec<u32> {
    (0..count).map(|slot| shard.pending(slot)).collect()
}

#[test]
fn the_load_of_each_stays_within_the_band() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let shards = 1 + rng.below(3);
        let mut process = Process::new(fast(1), 40, shards, seed);
        for _ in 0..2 {
            let load = 1 + rng.below(75);
            process.ticks(6, load);
            let each = load as f64 / process.width() as f64;
            assert!((0.45..=2.05).contains(&each), "seed {seed}: {each} each of {load}");
            let mut used: Vec<usize> = process.under_way.iter().flatten().copied().collect();
            used.sort_unstable();
            used.dedup();
            assert!(used.len() <= process.width(), "seed {seed}: {used:?}");
        }
    }
}

#[test]
fn it_narrows_when_idle_and_no_further_than_it_may() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let (min, count) = (rng.below(6), 1 + rng.below(20));
        let kind = fast(min);
        let fewest = min.max(1).min(count);
        let mut process = Process::new(kind, count, 1 + rng.below(2), seed);
        assert_eq!(process.width(), fewest, "seed {seed}: it starts narrow");
        process.ticks(6, 100);
        assert_eq!(process.width(), count, "seed {seed}: it takes all");
        process.ticks(12, 0);
        assert_eq!(process.width(), fewest, "seed {seed}: it is narrow again");
        let seen = process.shards[0].width().unwrap();
        assert_eq!(seen.widenings > 0, count > fewest, "seed {seed}: {seen:?}");
        assert_eq!(seen.narrowings > 0, count > fewest, "seed {seed}: {seen:?}");
    }
}

#[test]
fn a_steady_load_leaves_the_width_alone() {
    for seed in 0..100 {
        let load = 1 + Rng::new(seed).below(75);
        let mut process = Process::new(fast(1), 40, 2, seed);
        process.ticks(12, load);
        let settled = process.shards[0].width();
        process.ticks(3, load);
        assert_eq!(process.shards[0].width(), settled, "seed {seed}: {load}");
    }
}

/// The slots of the aperture, as found by picking.
fn open(balancer: &mut Balancer) -> Vec<usize> {
    let mut rng = Rng::new(5);
    let picks = (0..200).map(|_| balancer.pick(&at(ms(0)), &mut rng).unwrap());
    let mut found: Vec<usize> = picks.collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn shards_agree_on_the_order_and_processes_do_not() {
    let mut differ = 0;
    for seed in 0..200 {
        let keys: Vec<u64> = (0..20).map(|at| key_of(seed * 100 + at)).collect();
        // By key, since slots depend on who came when.
        let opened = |seed: u64, keys: &[u64]| -> Vec<u64> {
            let mut balancer = Balancer::new(fast(4), seed);
            keys.iter().for_each(|&key| _ = balancer.add(1, key, ms(0), false));
            let mut found: Vec<u64> = open(&mut balancer).iter().map(|&slot| keys[slot]).collect();
            found.sort_unstable();
            found
        };
        let reversed: Vec<u64> = keys.iter().rev().copied().collect();
        let one = opened(seed, &keys);
        assert_eq!(one.len(), 4, "seed {seed}");
        assert_eq!(one, opened(seed, &reversed), "seed {seed}");
        differ += u32::from(one != opened(seed + 1, &keys));
    }
    assert!(differ > 190, "{differ} of 200 processes differ from the one before");
}

#[test]
fn those_that_are_out_are_replaced_by_the_next() {
    for seed in 0..100 {
        let mut balancer = Balancer::new(fast(3), seed);
        for key in 0..12 {
            balancer.add(1, key_of(key), ms(0), false);
        }
        let before = open(&mut balancer);
        balancer.set_standing(before[1], Standing::Out, ms(0));
        let after = open(&mut balancer);
        assert_eq!(after.len(), 3, "seed {seed}");
        let stayed = [before[0], before[2]];
        assert!(stayed.iter().all(|slot| after.contains(slot)), "seed {seed}");
        assert!(!after.contains(&before[1]), "seed {seed}");
        balancer.set_standing(before[1], Standing::Available, ms(0));
        assert_eq!(open(&mut balancer), before, "seed {seed}");
    }
}

#[test]
fn the_less_loaded_within_it_is_picked_wherever_its_load_comes_from() {
    let mut balancer = made(fast(2), &[1; 2]);
    let mut rng = Rng::new(1);
    balancer.refresh(ms(0), Some(&[0, 1]));
    assert!((0..50).all(|_| balancer.pick(&at(ms(0)), &mut rng) == Some(0)));
    balancer.started(0);
    balancer.started(0);
    assert!((0..50).all(|_| balancer.pick(&at(ms(0)), &mut rng) == Some(1)));
    balancer.refresh(ms(0), Some(&[]));
    balancer.finished(0, ms(0), None);
    assert!((0..50).all(|_| balancer.pick(&at(ms(0)), &mut rng) == Some(1)));
}

#[test]
fn an_aperture_of_one_to_avoid_lets_the_next_stand_in() {
    for seed in 0..50 {
        let mut balancer = Balancer::new(fast(1), seed);
        for key in 0..5 {
            balancer.add(1, key_of(key), ms(0), false);
        }
        let [only] = open(&mut balancer)[..] else { panic!("seed {seed}: not one") };
        let mut rng = Rng::new(seed);
        let next = balancer.pick(&avoiding(only), &mut rng);
        assert!(next.is_some_and(|slot| slot != only), "seed {seed}");
        assert_eq!(balancer.pick(&avoiding(only), &mut rng), next, "seed {seed}");
    }
}
