//! `least_loaded` and `ewma`: shares, peaks, and latency as it is known.

use super::*;

/// Sequential requests, each finished before the next, all equally fast.
fn shares(balancer: &mut Balancer, picks: usize, rtt: Option<Duration>) -> Vec<usize> {
    let mut rng = Rng::new(7);
    let mut counts = vec![0; balancer.len()];
    for pick in 0..picks {
        let now = ms(pick as u64);
        let picked = balancer.pick(&at(now), &mut rng).unwrap();
        counts[picked] += 1;
        balancer.started(picked);
        balancer.finished(picked, now, rtt);
    }
    counts
}

#[test]
fn idle_endpoints_share_by_weight() {
    let total = 100_000;
    // Nothing pending and no latency known: the first of the two drawn wins. Without a key,
    // consistent hashing draws by weight, too.
    for kind in [Kind::LeastLoaded, EWMA, CONSISTENT_HASH] {
        let counts = shares(&mut made(kind, &[1, 2, 3, 4]), total, None);
        for (at, count) in counts.iter().enumerate() {
            let expected = (at + 1) * total / 10;
            assert!(count.abs_diff(expected) < total / 100, "{kind:?} {counts:?}");
        }
    }
}

#[test]
fn equal_load_keeps_concurrency_by_weight() {
    // 70 attempts under way for weights 4, 2, 1: about 40, 20, 10.
    for kind in [Kind::LeastLoaded, EWMA] {
        let mut balancer = made(kind, &[4, 2, 1]);
        let mut rng = Rng::new(3);
        for slot in 0..3 {
            balancer.started(slot);
            balancer.finished(slot, ms(0), Some(ms(10)));
        }
        for _ in 0..70 {
            let picked = balancer.pick(&at(ms(0)), &mut rng).unwrap();
            balancer.started(picked);
        }
        let pending: Vec<u32> = (0..3).map(|slot| balancer.pending(slot)).collect();
        for (slot, expected) in [40_u32, 20, 10].into_iter().enumerate() {
            assert!(pending[slot].abs_diff(expected) <= 4, "{kind:?} {pending:?}");
        }
    }
}

#[test]
fn the_less_loaded_of_two_wins() {
    let mut balancer = made(Kind::LeastLoaded, &[1, 1]);
    let mut rng = Rng::new(1);
    balancer.started(0);
    assert!((0..100).all(|_| balancer.pick(&at(ms(0)), &mut rng) == Some(1)));
    balancer.finished(0, ms(1), None);
    balancer.started(1);
    assert!((0..100).all(|_| balancer.pick(&at(ms(1)), &mut rng) == Some(0)));
}

#[test]
fn a_peak_is_felt_at_once_and_forgotten_slowly() {
    let mut balancer = made(EWMA, &[1, 1]);
    let mut rng = Rng::new(1);
    let mut answer = |balancer: &mut Balancer, slot: usize, now: Duration, rtt: Duration| {
        balancer.started(slot);
        balancer.finished(slot, now, Some(rtt));
        balancer.pick(&at(now), &mut rng).unwrap()
    };
    answer(&mut balancer, 0, ms(0), ms(10));
    assert_eq!(answer(&mut balancer, 1, ms(0), ms(20)), 0);
    // The peak replaces the average.
    assert_eq!(answer(&mut balancer, 0, ms(1), ms(1000)), 1);
    assert_eq!(balancer.latency(0, ms(1)), Some(ms(1000)));
    // After one decay without a sample 1/e is left; a fast answer then weighs 1 - 1/e.
    let later = ms(1) + DECAY;
    let left = balancer.latency(0, later).unwrap().as_secs_f64();
    assert!((left - 0.3679).abs() < 0.001, "{left}");
    answer(&mut balancer, 0, later, ms(10));
    let mixed = balancer.latency(0, later).unwrap().as_secs_f64();
    assert!((mixed - (0.3679 + 0.01 * 0.6321)).abs() < 0.001, "{mixed}");
}

#[test]
fn latency_follows_its_definition() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let decay = ms(1 + rng.below(20_000) as u64);
        let mut balancer = made(Kind::Ewma { decay }, &[1, 1]);
        let mut now = ms(0);
        // Seconds, and since when nothing was added to them.
        let mut model: Option<(f64, Duration)> = None;
        let left = |since: Duration, now: Duration| {
            (-(now - since).as_secs_f64() / decay.as_secs_f64()).exp()
        };
        for _ in 0..40 {
            now += Duration::from_micros(rng.below(3_000_000) as u64);
            let rtt = Duration::from_micros(1 + rng.below(1_000_000) as u64);
            let failed = rng.below(4) == 0;
            balancer.started(0);
            balancer.finished(0, now, Some(rtt).filter(|_| !failed));
            if !failed {
                let sample = rtt.as_secs_f64();
                let mixed = model.map_or(sample, |(old, since)| {
                    let keep = left(since, now);
                    if sample > old * keep { sample } else { old * keep + sample * (1.0 - keep) }
                });
                model = Some((mixed, now));
            }
            now += Duration::from_micros(rng.below(1_000_000) as u64);
            let expected = model.map(|(seconds, since)| seconds * left(since, now));
            let seen = balancer.latency(0, now).map(|it| it.as_secs_f64());
            let near = match (seen, expected) {
                (Some(seen), Some(expected)) => (seen - expected).abs() < 1e-6 * expected + 2e-9,
                (seen, expected) => seen == expected,
            };
            assert!(near, "seed {seed}: {seen:?}, expected {expected:?}");
        }
        assert_eq!(balancer.latency(1, now), None, "seed {seed}: nobody asked it");
    }
}

#[test]
fn one_attempt_finds_out_about_a_new_endpoint() {
    let mut balancer = made(EWMA, &[1, 1]);
    let mut rng = Rng::new(1);
    balancer.started(0);
    balancer.finished(0, ms(0), Some(ms(500)));
    let mut picked = Vec::new();
    for _ in 0..20 {
        let slot = balancer.pick(&at(ms(1)), &mut rng).unwrap();
        balancer.started(slot);
        picked.push(slot);
    }
    assert_eq!(picked[0], 1);
    assert!(picked[1..].iter().all(|&slot| slot == 0), "{picked:?}");
}

#[test]
fn a_failure_does_not_make_an_endpoint_look_fast() {
    let mut balancer = made(EWMA, &[1, 1]);
    for slot in 0..2 {
        balancer.started(slot);
        balancer.finished(slot, ms(0), Some(ms(10)));
    }
    balancer.started(0);
    balancer.finished(0, ms(0), None);
    assert_eq!(balancer.latency(0, ms(0)), Some(ms(10)));
}

#[test]
fn whoever_takes_a_slot_over_has_no_latency_yet() {
    let mut balancer = made(EWMA, &[1, 1]);
    balancer.started(1);
    balancer.finished(1, ms(0), Some(ms(500)));
    balancer.remove(1);
    assert_eq!(balancer.add(1, key_of(2), ms(0), false), 1);
    assert_eq!(balancer.latency(1, ms(0)), None);
}

#[test]
fn a_slow_endpoint_of_many_gets_little() {
    // All but one answer in 1 ms, one in 100 ms; 16 requests under way at any time.
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let count = 4 + rng.below(12);
        let slow = rng.below(count);
        let mut balancer = made(EWMA, &vec![1; count]);
        let mut under_way: Vec<(Duration, usize, Duration)> = Vec::new();
        let (mut now, mut counts) = (ms(0), vec![0_usize; count]);
        let total = 1_500;
        for _ in 0..total {
            if under_way.len() == 16 {
                let first = (0..16).min_by_key(|&it| under_way[it].0).unwrap();
                let (end, slot, rtt) = under_way.swap_remove(first);
                now = end;
                balancer.finished(slot, now, Some(rtt));
            }
            let slot = balancer.pick(&at(now), &mut rng).unwrap();
            balancer.started(slot);
            counts[slot] += 1;
            let rtt = if slot == slow { ms(100) } else { ms(1) };
            under_way.push((now + rtt, slot, rtt));
        }
        // Until the first answer it has what chance gives it, and then what comes while it is slow.
        let fair = total / count;
        assert!(counts[slow] < 10 + fair / 10, "seed {seed}: {slow} of {counts:?}");
    }
}
