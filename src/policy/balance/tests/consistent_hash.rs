//! `consistent_hash`: even shares, few keys that move, and loads within their bound.

use super::*;

const KEYS: u64 = 2000;

/// Where each key belongs, with nothing under way.
fn homes(balancer: &mut Balancer, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let mut keys = Rng::new(seed ^ 0xABCD);
    (0..KEYS).map(|_| balancer.pick(&keyed(keys.next_u64()), &mut rng).unwrap()).collect()
}

fn with_keys(weights: &[u32], seed: u64) -> Balancer {
    let mut balancer = Balancer::new(CONSISTENT_HASH, 1);
    let mut keys = Rng::new(seed);
    for &weight in weights {
        balancer.add(weight, keys.next_u64(), ms(0), false);
    }
    balancer.rebuild(ms(0));
    balancer
}

#[test]
fn keys_are_spread_evenly() {
    // The worst of 10 endpoints, in the mean over rings, and the worst ring of all.
    let (mut sum, rings) = (0.0, 60);
    for seed in 0..rings {
        let mut balancer = with_keys(&[1; 10], seed);
        let mut counts = [0_u32; 10];
        homes(&mut balancer, seed).iter().for_each(|&slot| counts[slot] += 1);
        let worst = f64::from(counts.into_iter().max().unwrap()) * 10.0 / KEYS as f64;
        assert!(worst < 1.4, "seed {seed}: {counts:?}");
        sum += worst;
    }
    assert!(sum / f64::from(rings as u32) < 1.25, "{sum}");
}

#[test]
fn keys_are_spread_by_weight() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let weights = random_weights(&mut rng, 8, 10);
        let mut balancer = with_keys(&weights, seed);
        let mut counts = [0_u32; 8];
        homes(&mut balancer, seed).iter().for_each(|&slot| counts[slot] += 1);
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let ideal = KEYS as f64 * f64::from(*weight) / f64::from(total);
            // What its points make likely, four times over, and what counting keys does.
            let likely = 4.0 * ideal / (f64::from(*weight) * 160.0 / 8.0).sqrt();
            let off = (f64::from(*count) - ideal).abs();
            assert!(off < likely + 4.0 * ideal.sqrt(), "seed {seed}: {counts:?} by {weights:?}");
        }
    }
}

#[test]
fn removing_one_moves_its_own_keys_alone() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let count = 2 + rng.below(10);
        let weights = random_weights(&mut rng, count, 3);
        let mut balancer = with_keys(&weights, seed);
        let before = homes(&mut balancer, seed);
        let gone = rng.below(count);
        // Out, drained or removed: its keys have the same successors, and come back.
        balancer.set_standing(gone, Standing::Drained, ms(0));
        let drained = homes(&mut balancer, seed);
        if count > 2 {
            balancer.set_standing(gone, Standing::Out, ms(0));
            let out = homes(&mut balancer, seed);
            same_unit(&weights, gone).then(|| assert_eq!(out, drained, "seed {seed}"));
            let moved = before.iter().zip(&out).filter(|(a, b)| a != b);
            assert!(moved.clone().all(|(&a, &b)| a == gone && b != gone), "seed {seed}");
        }
        balancer.set_standing(gone, Standing::Available, ms(0));
        assert_eq!(homes(&mut balancer, seed), before, "seed {seed}: all are back");
        balancer.remove(gone);
        let after = homes(&mut balancer, seed);
        assert_eq!(after, drained, "seed {seed}");
        if same_unit(&weights, gone) {
            for (&a, &b) in before.iter().zip(&after) {
                assert_eq!(a != b, a == gone, "seed {seed}: from {a} to {b}");
            }
        }
    }
}

/// Whether the mean stays between the same powers of two: else points are counted anew.
fn same_unit(weights: &[u32], gone: usize) -> bool {
    let total: u32 = weights.iter().sum();
    let count = weights.len() as u32;
    (total / count).ilog2() == ((total - weights[gone]) / (count - 1)).ilog2()
}

#[test]
fn adding_one_moves_its_share_and_to_it_alone() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let count = 1 + rng.below(12);
        let mut balancer = with_keys(&vec![1; count], seed);
        let before = homes(&mut balancer, seed);
        let new = balancer.add(1, key_of(seed + 1_000_000), ms(0), true);
        let after = homes(&mut balancer, seed);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
        assert!(moved.clone().all(|(_, &to)| to == new), "seed {seed}");
        let share = moved.count() as f64 * (count + 1) as f64 / KEYS as f64;
        assert!((0.5..1.5).contains(&share), "seed {seed}: {share} of its share");
    }
}

#[test]
fn the_ring_does_not_depend_on_slots() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut one = with_keys(&[1; 6], seed);
        // The same endpoints by another history: the other way round, among some that are gone.
        let mut other = Balancer::new(CONSISTENT_HASH, 2);
        let mut keys = Rng::new(seed);
        let keys: Vec<u64> = (0..6).map(|_| keys.next_u64()).collect();
        let guest = other.add(5, rng.next_u64(), ms(0), false);
        other.rebuild(ms(0));
        let mut slots = [0; 6];
        for at in [5, 4, 3] {
            slots[at] = other.add(1, keys[at], ms(0), false);
        }
        other.rebuild(ms(0));
        other.remove(guest);
        for at in [2, 1, 0] {
            slots[at] = other.add(1, keys[at], ms(0), false);
        }
        let expected: Vec<usize> = homes(&mut one, seed).iter().map(|&at| slots[at]).collect();
        assert_eq!(homes(&mut other, seed), expected, "seed {seed}");
    }
}

#[test]
fn loads_stay_within_the_bound() {
    // Few keys, far too many attempts for their homes, some of them on other shards.
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let count = 2 + rng.below(8);
        let weights = random_weights(&mut rng, count, 4);
        let bound = 1.25 + rng.unit();
        let mut balancer = made(Kind::ConsistentHash { bound }, &weights);
        let total_weight = f64::from(weights.iter().sum::<u32>());
        let others: Vec<u32> = (0..rng.below(count + 1)).map(|_| rng.below(4) as u32).collect();
        balancer.refresh(ms(0), Some(&others));
        let of_others = |slot: usize| others.get(slot).copied().unwrap_or(0);
        let mut under_way = Vec::new();
        for _ in 0..200 {
            if rng.below(3) == 0 && !under_way.is_empty() {
                let slot = under_way.swap_remove(rng.below(under_way.len()));
                balancer.finished(slot, ms(0), None);
                continue;
            }
            let total = under_way.len() as u32 + others.iter().sum::<u32>();
            let slot = balancer.pick(&keyed(rng.below(3) as u64), &mut rng).unwrap();
            let share = f64::from(weights[slot]) / total_weight;
            // Four are always let in.
            let most = (bound * f64::from(total + 1) * share).ceil().max(4.0);
            let load = balancer.pending(slot) + of_others(slot) + 1;
            assert!(f64::from(load) <= most, "seed {seed}: {load} of {most} on {slot}");
            balancer.started(slot);
            under_way.push(slot);
        }
    }
}

#[test]
fn a_key_of_a_quiet_service_stays_at_home() {
    // Other shards had a few attempts there when that was last asked; whether they still have, the
    // balancer cannot know.
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut balancer = made(CONSISTENT_HASH, &[1; 5]);
        let key = keyed(rng.next_u64());
        let home = balancer.pick(&key, &mut rng).unwrap();
        let mut others = [0; 5];
        others[home] = 3;
        balancer.refresh(ms(0), Some(&others));
        assert_eq!(balancer.pick(&key, &mut rng), Some(home), "seed {seed}");
        others[home] = 4;
        balancer.refresh(ms(100), Some(&others));
        assert_ne!(balancer.pick(&key, &mut rng), Some(home), "seed {seed}: that is a load");
    }
}

#[test]
fn a_key_stays_at_home_while_there_is_room() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut balancer = made(CONSISTENT_HASH, &[1; 10]);
        let homes: Vec<usize> =
            (0..50).map(|key| balancer.pick(&keyed(key_of(key)), &mut rng).unwrap()).collect();
        // 50 under way, one for each key: most are at home, as the bound leaves a quarter free.
        let mut at_home = 0;
        for (key, &home) in (0..).zip(&homes) {
            let slot = balancer.pick(&keyed(key_of(key)), &mut rng).unwrap();
            balancer.started(slot);
            at_home += u32::from(slot == home);
        }
        assert!(at_home >= 25, "seed {seed}: {at_home} of 50");
        // All gone again: everybody is at home.
        for slot in 0..10 {
            (0..balancer.pending(slot)).for_each(|_| balancer.finished(slot, ms(0), None));
        }
        for (key, &home) in (0..).zip(&homes) {
            assert_eq!(balancer.pick(&keyed(key_of(key)), &mut rng), Some(home), "seed {seed}");
        }
    }
}

#[test]
fn an_endpoint_to_avoid_sends_its_keys_to_their_successors() {
    let mut rng = Rng::new(1);
    let mut balancer = made(CONSISTENT_HASH, &[1; 5]);
    for key in 0..500 {
        let home = balancer.pick(&keyed(key), &mut rng).unwrap();
        let ask = Ask { avoid: Some(home), ..keyed(key) };
        let next = balancer.pick(&ask, &mut rng);
        assert_ne!(next, Some(home));
        assert_eq!(balancer.pick(&ask, &mut rng), next, "the same each time");
    }
}
