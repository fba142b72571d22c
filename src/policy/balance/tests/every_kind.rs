//! What holds whatever the kind: who is avoided, passed over, never picked.

use super::*;

/// Which of the slots are picked in many tries, with a key or without.
fn picked(balancer: &mut Balancer, rng: &mut Rng) -> Vec<usize> {
    let mut found = [false; 16];
    for _ in 0..400 {
        let ask = Ask { key: Some(rng.next_u64()).filter(|key| key % 2 == 0), ..at(ms(0)) };
        if let Some(slot) = balancer.pick(&ask, rng) {
            found[slot] = true;
        }
    }
    (0..16).filter(|&slot| found[slot]).collect()
}

/// An aperture that takes in everybody, so that all kinds can be held to the same.
fn wide(kind: Kind) -> Kind {
    match kind {
        Kind::Aperture { decay, low, high, .. } => Kind::Aperture { decay, low, high, min: 16 },
        other => other,
    }
}

#[test]
fn an_endpoint_to_avoid_is_picked_only_where_there_is_no_other() {
    for kind in KINDS {
        let mut rng = Rng::new(1);
        let mut balancer = made(kind, &[1000, 1, 1]);
        for key in 0..1000 {
            let ask = Ask { key: Some(key_of(key)), ..avoiding(0) };
            assert_ne!(balancer.pick(&ask, &mut rng), Some(0), "{kind:?}");
            assert_ne!(balancer.pick(&avoiding(0), &mut rng), Some(0), "{kind:?}");
        }
        let mut two = made(kind, &[1, 1000]);
        for _ in 0..100 {
            assert_eq!(two.pick(&avoiding(1), &mut rng), Some(0), "{kind:?}");
        }
        let mut equal = made(kind, &[1, 1]);
        for _ in 0..100 {
            assert_eq!(equal.pick(&avoiding(1), &mut rng), Some(0), "{kind:?}");
        }
        let mut one = made(kind, &[1]);
        assert_eq!(one.pick(&avoiding(0), &mut rng), Some(0), "{kind:?}");
        assert_eq!(made(kind, &[]).pick(&keyed(1), &mut rng), None, "{kind:?}");
        // Left out or to be avoided, whichever is the lesser evil.
        balancer.set_standing(1, Standing::Out, ms(0));
        balancer.set_standing(2, Standing::Out, ms(0));
        assert_ne!(balancer.pick(&avoiding(0), &mut rng), Some(0), "most are out: all again");
    }
}

#[test]
fn one_that_is_out_is_better_than_the_only_one_which_has_just_failed() {
    for kind in KINDS {
        let mut rng = Rng::new(1);
        let mut balancer = made(kind, &[1, 1, 5]);
        balancer.set_standing(0, Standing::Out, ms(0));
        balancer.set_standing(2, Standing::Drained, ms(0));
        for key in 0..50 {
            let ask = Ask { key: Some(key), ..at(ms(0)) };
            assert_eq!(balancer.pick(&ask, &mut rng), Some(1), "{kind:?}: only one is in");
            let ask = Ask { key: Some(key), ..avoiding(1) };
            assert_eq!(balancer.pick(&ask, &mut rng), Some(0), "{kind:?}");
        }
        balancer.set_standing(0, Standing::Drained, ms(0));
        assert_eq!(balancer.pick(&avoiding(1), &mut rng), Some(1), "{kind:?}: nobody else at all");
    }
}

#[test]
fn what_is_out_is_passed_over_unless_most_are() {
    for kind in KINDS.map(wide) {
        let mut rng = Rng::new(1);
        let mut balancer = made(kind, &[1, 1, 1, 1]);
        balancer.set_standing(1, Standing::Out, ms(0));
        balancer.set_standing(1, Standing::Out, ms(0));
        assert_eq!(picked(&mut balancer, &mut rng), [0, 2, 3], "{kind:?}");
        balancer.set_standing(2, Standing::Out, ms(0));
        assert_eq!(picked(&mut balancer, &mut rng), [0, 3], "{kind:?}");
        balancer.set_standing(3, Standing::Out, ms(0));
        assert_eq!(balancer.available(), 1);
        assert_eq!(picked(&mut balancer, &mut rng), [0, 1, 2, 3], "{kind:?}");
        for slot in 1..4 {
            balancer.set_standing(slot, Standing::Available, ms(0));
        }
        assert_eq!(picked(&mut balancer, &mut rng), [0, 1, 2, 3], "{kind:?}");
        assert_eq!(balancer.standing(3), Standing::Available);
    }
}

#[test]
fn the_drained_are_never_picked_and_do_not_count() {
    for kind in KINDS.map(wide) {
        let mut rng = Rng::new(1);
        let mut balancer = made(kind, &[1, 1, 1, 1, 1]);
        balancer.set_standing(0, Standing::Drained, ms(0));
        balancer.set_standing(1, Standing::Drained, ms(0));
        balancer.set_standing(2, Standing::Out, ms(0));
        assert_eq!(picked(&mut balancer, &mut rng), [3, 4], "{kind:?}: one of three is out");
        balancer.set_standing(3, Standing::Out, ms(0));
        assert_eq!(picked(&mut balancer, &mut rng), [2, 3, 4], "{kind:?}: two of three are out");
        assert_eq!((balancer.len(), balancer.available()), (5, 1));
        for slot in 2..5 {
            balancer.set_standing(slot, Standing::Drained, ms(0));
        }
        assert!(picked(&mut balancer, &mut rng).is_empty(), "{kind:?}: all are drained");
        balancer.set_standing(1, Standing::Available, ms(0));
        assert_eq!(picked(&mut balancer, &mut rng), [1], "{kind:?}");
    }
}

#[test]
fn whoever_may_be_picked_is_as_the_rule_says() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let kind = wide(KINDS[rng.below(KINDS.len())]);
        let count = 1 + rng.below(8);
        let mut balancer = made(kind, &vec![1; count]);
        let standings = [Standing::Available, Standing::Out, Standing::Drained];
        for _ in 0..2 * count {
            let standing = standings[rng.below(3)];
            balancer.set_standing(rng.below(count), standing, ms(0));
        }
        let with = |standing: Standing| -> Vec<usize> {
            (0..count).filter(|&slot| balancer.standing(slot) == standing).collect()
        };
        let (available, out) = (with(Standing::Available), with(Standing::Out));
        let mut expected = available.clone();
        if out.len() > available.len() {
            expected.extend(&out);
            expected.sort_unstable();
        }
        let found = picked(&mut balancer, &mut rng);
        assert_eq!(found, expected, "seed {seed}, {kind:?}");
    }
}

#[test]
fn weights_can_change() {
    for kind in [Kind::RoundRobin, Kind::LeastLoaded, EWMA, wide(APERTURE), CONSISTENT_HASH] {
        let mut rng = Rng::new(1);
        let mut balancer = made(kind, &[1, 1]);
        balancer.set_weight(1, 3);
        assert_eq!(balancer.weight(1), 3);
        balancer.rebuild(ms(0));
        let total = 8000;
        let of_1 = (0..total).filter(|_| balancer.pick(&at(ms(0)), &mut rng) == Some(1)).count();
        assert!(of_1.abs_diff(total * 3 / 4) < total / 40, "{kind:?}: {of_1}");
    }
}
