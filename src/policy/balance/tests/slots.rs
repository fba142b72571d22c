//! Slots: histories of endpoints that come and go while attempts are under way.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_slot_is_kept_while_attempts_are_under_way() {
    for kind in KINDS {
        let mut balancer = made(kind, &[1, 1, 1]);
        balancer.started(1);
        balancer.started(1);
        balancer.remove(1);
        balancer.remove(2);
        assert_eq!(balancer.slots().collect::<Vec<_>>(), [0], "{kind:?}");
        assert_eq!((balancer.len(), balancer.available(), balancer.pending(1)), (1, 1, 2));
        assert_eq!(balancer.add(1, key_of(7), ms(0), true), 2, "{kind:?}: nothing held it");
        assert_eq!(balancer.add(1, key_of(8), ms(0), true), 3, "{kind:?}: 1 is still held");
        balancer.finished(1, ms(1), Some(ms(1)));
        assert_eq!(balancer.add(1, key_of(9), ms(0), true), 4, "{kind:?}: 1 is still held");
        balancer.finished(1, ms(1), None);
        assert_eq!(balancer.add(1, key_of(10), ms(0), true), 1, "{kind:?}: it is free");
        assert_eq!(balancer.pending(1), 0);
    }
}

/// What a balancer must agree with.
#[derive(Default)]
struct Model {
    /// Which endpoint each slot is, by the number that it was given when it came.
    live: BTreeMap<usize, u64>,
    standing: BTreeMap<usize, Standing>,
    /// Attempts under way: slot, and the endpoint's number.
    under_way: Vec<(usize, u64)>,
    /// All slots that are still somebody's.
    owner: BTreeMap<usize, u64>,
}

impl Model {
    fn check(&self, balancer: &Balancer) {
        balancer.check_invariants();
        assert!(balancer.slots().eq(self.live.keys().copied()));
        assert_eq!(balancer.len(), self.live.len());
        let available = self.standing.values().filter(|&&it| it == Standing::Available);
        assert_eq!(balancer.available(), available.count());
        for (&slot, &standing) in &self.standing {
            assert_eq!(balancer.standing(slot), standing);
        }
        for &slot in self.owner.keys() {
            let held = self.under_way.iter().filter(|it| it.0 == slot).count();
            assert_eq!(balancer.pending(slot) as usize, held, "slot {slot}");
        }
    }
}

fn step(balancer: &mut Balancer, model: &mut Model, rng: &mut Rng, number: u64, now: Duration) {
    let live: Vec<usize> = model.live.keys().copied().collect();
    let some_live = live.get(rng.below(live.len().max(1))).copied();
    match (rng.below(20), some_live) {
        (0..2, _) | (2..20, None) => {
            let weight = rng.below(5) as u32;
            let slot = balancer.add(weight, key_of(number), now, rng.below(2) == 0);
            assert_eq!(balancer.weight(slot), weight.max(1));
            let held = model.under_way.iter().any(|it| it.0 == slot);
            assert!(!held && !model.live.contains_key(&slot), "slot {slot} was somebody's");
            model.live.insert(slot, number);
            model.owner.insert(slot, number);
            model.standing.insert(slot, Standing::Available);
        }
        (2, Some(slot)) => {
            balancer.remove(slot);
            model.live.remove(&slot);
            model.standing.remove(&slot);
        }
        (3, Some(slot)) => balancer.set_weight(slot, rng.below(9) as u32),
        (4..6, Some(slot)) => {
            let all = [Standing::Available, Standing::Out, Standing::Drained];
            let standing = all[rng.below(3)];
            balancer.set_standing(slot, standing, now);
            model.standing.insert(slot, standing);
        }
        (6, _) => {
            let totals: Vec<u32> = (0..rng.below(12)).map(|_| rng.below(9) as u32).collect();
            balancer.refresh(now, Some(&totals[..]).filter(|it| !it.is_empty()));
        }
        (7, _) => balancer.rebuild(now),
        (8, _) => balancer.set_slow_start([None, Some(ms(300))][rng.below(2)]),
        (9..14, _) if !model.under_way.is_empty() => {
            let which = rng.below(model.under_way.len());
            let (slot, number) = model.under_way.swap_remove(which);
            assert_eq!(model.owner[&slot], number, "slot {slot} changed hands");
            let rtt = Duration::from_micros(rng.below(100_000) as u64);
            balancer.finished(slot, now, Some(rtt).filter(|_| rng.below(5) > 0));
        }
        _ => {
            let key = Some(rng.below(10) as u64).filter(|key| key % 2 == 0);
            let avoid = some_live.filter(|_| rng.below(3) == 0);
            let picked = balancer.pick(&Ask { now, key, avoid }, rng);
            let in_service = |it: &&Standing| **it != Standing::Drained;
            let choices = model.standing.values().filter(in_service).count();
            assert_eq!(picked.is_some(), choices > 0);
            if let Some(slot) = picked {
                assert_ne!(model.standing[&slot], Standing::Drained, "slot {slot}");
                balancer.started(slot);
                model.under_way.push((slot, model.live[&slot]));
            }
        }
    }
}

#[test]
fn random_histories_keep_every_promise() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let kind = KINDS[rng.below(KINDS.len())];
        let history = std::panic::catch_unwind(move || {
            let mut balancer = Balancer::new(kind, seed);
            let mut model = Model::default();
            let mut now = ms(0);
            for number in 0..150 {
                now += Duration::from_micros(rng.below(50_000) as u64);
                step(&mut balancer, &mut model, &mut rng, number, now);
                model.check(&balancer);
            }
        });
        assert!(history.is_ok(), "seed {seed}, {kind:?}");
    }
}
