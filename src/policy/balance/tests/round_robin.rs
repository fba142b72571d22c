//! `round_robin`: exact shares, smooth, and turns that outlive changes.

use super::*;

/// How far the counts are off the ideal shares, at worst over the picks.
fn worst_deviation(weights: &[u32], picks: usize, seed: u64) -> f64 {
    let mut balancer = made(Kind::RoundRobin, weights);
    let mut rng = Rng::new(seed);
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let mut counts = vec![0; weights.len()];
    let mut worst: f64 = 0.0;
    for pick in 1..=picks {
        counts[balancer.pick(&at(ms(0)), &mut rng).unwrap()] += 1;
        for (&count, &weight) in counts.iter().zip(weights) {
            let ideal = pick as f64 * f64::from(weight) / total;
            worst = worst.max((f64::from(count) - ideal).abs());
        }
    }
    worst
}

#[test]
fn the_heavy_one_does_not_come_in_a_row() {
    for seed in 0..200 {
        let mut balancer = made(Kind::RoundRobin, &[5, 1, 1]);
        let mut rng = Rng::new(seed);
        let order: Vec<usize> =
            (0..70).map(|_| balancer.pick(&at(ms(0)), &mut rng).unwrap()).collect();
        for round in order.windows(7) {
            let count = |slot| round.iter().filter(|&&it| it == slot).count();
            assert_eq!([count(0), count(1), count(2)], [5, 1, 1], "seed {seed}: {order:?}");
        }
        for four in order.windows(5) {
            assert_ne!(four, [0; 5], "seed {seed}: {order:?}");
        }
        for two in order.windows(2) {
            assert!(two.contains(&0), "seed {seed}: {order:?}");
        }
    }
}

#[test]
fn shares_are_exact_in_every_round() {
    let mut balancer = made(Kind::RoundRobin, &[1, 2, 3, 4, 0]);
    let mut rng = Rng::new(7);
    let mut counts = [0; 5];
    for _ in 0..11_000 {
        counts[balancer.pick(&at(ms(0)), &mut rng).unwrap()] += 1;
    }
    assert_eq!(counts, [1000, 2000, 3000, 4000, 1000]);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let count = 1 + rng.below(12);
        let weights = random_weights(&mut rng, count, 9);
        let mut balancer = made(Kind::RoundRobin, &weights);
        let total: u32 = weights.iter().sum();
        for round in 0..70 {
            let mut counts = vec![0; count];
            for _ in 0..total {
                counts[balancer.pick(&at(ms(0)), &mut rng).unwrap()] += 1;
            }
            assert_eq!(counts, weights, "seed {seed}, round {round}");
        }
    }
}

#[test]
fn nobody_is_ever_far_from_the_ideal_share() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let count = 1 + rng.below(20);
        let most = 1 + rng.below(40);
        let weights = random_weights(&mut rng, count, most);
        let worst = worst_deviation(&weights, 300, seed);
        assert!(worst < 1.5, "seed {seed}: {worst} off with {weights:?}");
        assert!(worst_deviation(&vec![7; count], 100, seed) < 1.0, "seed {seed}");
    }
    // One that weighs as much as all others together has every other turn.
    let mut weights = vec![1; 100];
    weights.push(100);
    for seed in 0..20 {
        let worst = worst_deviation(&weights, 1000, seed);
        assert!(worst < 2.0, "seed {seed}: {worst} off");
    }
}

#[test]
fn shards_do_not_march_in_step() {
    for weights in [&[1; 16][..], &[1, 2, 3, 4, 5, 6]] {
        let mut first = vec![0; weights.len()];
        for seed in 0..400 {
            let mut balancer = made(Kind::RoundRobin, weights);
            first[balancer.pick(&at(ms(0)), &mut Rng::new(seed)).unwrap()] += 1;
        }
        assert!(first.iter().all(|&count| count > 0), "{first:?}");
    }
}

#[test]
fn one_that_is_avoided_keeps_its_turn() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let count = 2 + rng.below(6);
        let most = 1 + rng.below(5);
        let weights = random_weights(&mut rng, count, most);
        let total: u32 = weights.iter().sum();
        let mut balancer = made(Kind::RoundRobin, &weights);
        let (mut counts, mut last) = (vec![0_u32; count], None);
        let picks = 60 * total;
        for pick in 0..picks {
            // Retries: now and then whoever was picked before is avoided.
            let avoid = last.filter(|_| pick % 16 == 0);
            let picked = balancer.pick(&Ask { avoid, ..at(ms(0)) }, &mut rng).unwrap();
            assert_ne!(Some(picked), avoid, "seed {seed}");
            counts[picked] += 1;
            last = Some(picked);
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let off = count.abs_diff(60 * weight);
            assert!(off <= 2, "seed {seed}: {counts:?} by {weights:?}");
        }
    }
}

#[test]
fn one_that_was_avoided_for_long_does_not_get_it_all_back() {
    for weights in [[1, 1, 1], [1, 2, 2]] {
        let mut balancer = made(Kind::RoundRobin, &weights);
        let mut rng = Rng::new(1);
        (0..1000).for_each(|_| assert_ne!(balancer.pick(&avoiding(0), &mut rng), Some(0)));
        let next: Vec<_> = (0..6).map(|_| balancer.pick(&at(ms(0)), &mut rng).unwrap()).collect();
        let of_0 = next.iter().filter(|&&slot| slot == 0).count();
        assert!((1..=3).contains(&of_0), "{weights:?}: {next:?}");
    }
}

#[test]
fn changes_leave_the_others_their_turns() {
    // Somebody comes or goes every few picks; those that stay are served by weight all the same.
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let most = 1 + rng.below(3);
        let weights = random_weights(&mut rng, 6, most);
        let mut balancer = made(Kind::RoundRobin, &weights);
        let mut guest: Option<usize> = None;
        let mut counts = vec![0_u32; 8];
        for pick in 0..2000 {
            if pick % 7 == 0 {
                match guest.take() {
                    Some(slot) => balancer.remove(slot),
                    None => guest = Some(balancer.add(1, key_of(99), ms(0), false)),
                }
            }
            counts[balancer.pick(&at(ms(0)), &mut rng).unwrap()] += 1;
        }
        let served: u32 = counts[..6].iter().sum();
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let ideal = f64::from(served * weight) / f64::from(total);
            let off = (f64::from(*count) - ideal).abs() / ideal;
            assert!(off < 0.03, "seed {seed}: {counts:?} by {weights:?}");
        }
    }
}
