//! Slow start: the share that an endpoint has while it warms up.

use super::*;

const PERIOD: Duration = Duration::from_secs(30);

/// The share of picks that go to a slot, by many picks at one moment. No kind knows of any load.
fn share_of(slot: usize, balancer: &mut Balancer, rng: &mut Rng, now: Duration) -> f64 {
    let picks = 4000;
    let hits = (0..picks).filter(|_| balancer.pick(&at(now), rng) == Some(slot)).count();
    hits as f64 / f64::from(picks)
}

/// What an endpoint of weight 1 among four gets when it weighs so much.
fn of_four(weight: f64) -> f64 {
    weight / (3.0 + weight)
}

/// Those kinds in which shares at rest are by weight.
fn kinds() -> [Kind; 5] {
    let min = 4;
    let aperture = Kind::Aperture { decay: PERIOD, low: 0.5, high: 2.0, min };
    [Kind::RoundRobin, Kind::LeastLoaded, EWMA, aperture, CONSISTENT_HASH]
}

fn follows_the_ramp(kind: Kind, balancer: &mut Balancer, slot: usize, start: Duration) {
    let mut rng = Rng::new(11);
    for (seconds, weight) in
        [(0, 0.1), (2, 0.1), (6, 0.2), (15, 0.5), (24, 0.8), (30, 1.0), (500, 1.0)]
    {
        let now = start + Duration::from_secs(seconds);
        balancer.refresh(now, None);
        let share = share_of(slot, balancer, &mut rng, now);
        let expected = of_four(weight);
        let off = (share - expected).abs();
        assert!(off < 0.025, "{kind:?}: {share} after {seconds} s, not {expected}");
    }
    assert!(!balancer.warming, "{kind:?}");
}

#[test]
fn a_new_endpoint_warms_up() {
    for kind in kinds() {
        let mut balancer = made(kind, &[1, 1, 1]);
        balancer.set_slow_start(Some(PERIOD));
        let start = Duration::from_secs(100);
        let slot = balancer.add(1, key_of(3), start, true);
        follows_the_ramp(kind, &mut balancer, slot, start);
        assert_eq!(balancer.weight(slot), 1);
    }
}

#[test]
fn an_endpoint_that_is_back_warms_up() {
    for kind in kinds() {
        let mut balancer = made(kind, &[1; 4]);
        balancer.set_slow_start(Some(PERIOD));
        balancer.set_standing(2, Standing::Out, ms(1));
        balancer.rebuild(ms(1));
        let back = Duration::from_secs(7);
        balancer.set_standing(2, Standing::Available, back);
        follows_the_ramp(kind, &mut balancer, 2, back);
    }
}

#[test]
fn who_was_there_before_or_was_drained_is_warm() {
    for kind in kinds() {
        let mut balancer = made(kind, &[1; 4]);
        balancer.set_slow_start(Some(PERIOD));
        balancer.set_standing(2, Standing::Drained, ms(1));
        balancer.rebuild(ms(1));
        balancer.set_standing(2, Standing::Available, ms(2));
        let share = share_of(2, &mut balancer, &mut Rng::new(11), ms(3));
        assert!((share - 0.25).abs() < 0.025, "{kind:?}: {share}");
        assert!(!balancer.warming, "{kind:?}");
    }
}

#[test]
fn without_slow_start_nobody_is_cold() {
    for kind in kinds() {
        let mut balancer = made(kind, &[1; 3]);
        let slot = balancer.add(1, key_of(3), ms(5), true);
        let share = share_of(slot, &mut balancer, &mut Rng::new(11), ms(5));
        assert!((share - 0.25).abs() < 0.025, "{kind:?}: {share}");
        // One that is switched off lets whoever was cold have all of its weight.
        balancer.set_slow_start(Some(PERIOD));
        let slot = balancer.add(1, key_of(4), ms(6), true);
        balancer.rebuild(ms(6));
        assert!(balancer.warming, "{kind:?}");
        balancer.set_slow_start(None);
        balancer.rebuild(ms(7));
        assert!(!balancer.warming && balancer.weight(slot) == 1, "{kind:?}");
    }
}
