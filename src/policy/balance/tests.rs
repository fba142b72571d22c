//! Histories replayed: shares, peaks, avoidance, endpoints that come and go.

use super::*;

const DECAY: Duration = Duration::from_secs(10);
const EWMA: Kind = Kind::Ewma { decay: DECAY };
const KINDS: [Kind; 3] = [Kind::RoundRobin, Kind::LeastLoaded, EWMA];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sequential requests, each finished before the next, all equally fast.
fn shares(balancer: &mut Balancer, picks: usize, rtt: Option<Duration>) -> Vec<usize> {
    let mut rng = Rng::new(7);
    let mut counts = vec![0; balancer.len()];
    for at in 0..picks {
        let now = ms(at as u64);
        let picked = balancer.pick(now, &mut rng, None).unwrap();
        counts[picked] += 1;
        balancer.started(picked);
        balancer.finished(picked, now, rtt);
    }
    counts
}

#[test]
fn round_robin_is_smooth() {
    let mut balancer = Balancer::new(Kind::RoundRobin, &[5, 1, 1]);
    let mut rng = Rng::new(1);
    let order: Vec<usize> = (0..7).map(|_| balancer.pick(ms(0), &mut rng, None).unwrap()).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn idle_endpoints_share_by_weight() {
    let total = 100_000;
    let counts = shares(&mut Balancer::new(Kind::RoundRobin, &[1, 2, 3, 4, 0]), 11_000, None);
    assert_eq!(counts, [1000, 2000, 3000, 4000, 1000]);
    // Nothing pending and no latency known: the first of the two drawn wins.
    for kind in [Kind::LeastLoaded, EWMA] {
        let counts = shares(&mut Balancer::new(kind, &[1, 2, 3, 4]), total, None);
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
        let mut balancer = Balancer::new(kind, &[4, 2, 1]);
        let mut rng = Rng::new(3);
        for at in 0..3 {
            balancer.started(at);
            balancer.finished(at, ms(0), Some(ms(10)));
        }
        for _ in 0..70 {
            let picked = balancer.pick(ms(0), &mut rng, None).unwrap();
            balancer.started(picked);
        }
        let pending: Vec<u32> = (0..3).map(|at| balancer.pending(at)).collect();
        for (at, expected) in [40_u32, 20, 10].into_iter().enumerate() {
            assert!(pending[at].abs_diff(expected) <= 4, "{kind:?} {pending:?}");
        }
    }
}

#[test]
fn the_less_loaded_of_two_wins() {
    let mut balancer = Balancer::new(Kind::LeastLoaded, &[1, 1]);
    let mut rng = Rng::new(1);
    balancer.started(0);
    assert!((0..100).all(|_| balancer.pick(ms(0), &mut rng, None) == Some(1)));
    balancer.finished(0, ms(1), None);
    balancer.started(1);
    assert!((0..100).all(|_| balancer.pick(ms(1), &mut rng, None) == Some(0)));
}

#[test]
fn a_peak_is_felt_at_once_and_forgotten_slowly() {
    let mut balancer = Balancer::new(EWMA, &[1, 1]);
    let mut rng = Rng::new(1);
    let mut answer = |balancer: &mut Balancer, at: usize, now: Duration, rtt: Duration| {
        balancer.started(at);
        balancer.finished(at, now, Some(rtt));
        balancer.pick(now, &mut rng, None).unwrap()
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
fn one_attempt_finds_out_about_a_new_endpoint() {
    let mut balancer = Balancer::new(EWMA, &[1, 1]);
    let mut rng = Rng::new(1);
    balancer.started(0);
    balancer.finished(0, ms(0), Some(ms(500)));
    let mut picked = Vec::new();
    for _ in 0..20 {
        let at = balancer.pick(ms(1), &mut rng, None).unwrap();
        balancer.started(at);
        picked.push(at);
    }
    assert_eq!(picked[0], 1);
    assert!(picked[1..].iter().all(|&at| at == 0), "{picked:?}");
}

#[test]
fn a_failure_does_not_make_an_endpoint_look_fast() {
    let mut balancer = Balancer::new(EWMA, &[1, 1]);
    for at in 0..2 {
        balancer.started(at);
        balancer.finished(at, ms(0), Some(ms(10)));
    }
    balancer.started(0);
    balancer.finished(0, ms(0), None);
    assert_eq!(balancer.latency(0, ms(0)), Some(ms(10)));
}

#[test]
fn an_endpoint_to_avoid_is_picked_only_where_there_is_no_other() {
    for kind in KINDS {
        let mut rng = Rng::new(1);
        let mut balancer = Balancer::new(kind, &[1000, 1, 1]);
        for _ in 0..1000 {
            assert_ne!(balancer.pick(ms(0), &mut rng, Some(0)), Some(0), "{kind:?}");
        }
        let mut two = Balancer::new(kind, &[1, 1000]);
        for _ in 0..100 {
            assert_eq!(two.pick(ms(0), &mut rng, Some(1)), Some(0), "{kind:?}");
        }
        let mut one = Balancer::new(kind, &[1]);
        assert_eq!(one.pick(ms(0), &mut rng, Some(0)), Some(0), "{kind:?}");
        assert_eq!(Balancer::new(kind, &[]).pick(ms(0), &mut rng, None), None);
        // Left out or to be avoided, whichever is the lesser evil.
        balancer.set_available(1, false);
        balancer.set_available(2, false);
        balancer.set_available(0, true);
        assert_ne!(balancer.pick(ms(0), &mut rng, Some(0)), Some(0), "most are out: all again");
    }
}

#[test]
fn what_is_not_available_is_left_out_unless_most_are() {
    for kind in KINDS {
        let mut rng = Rng::new(1);
        let mut balancer = Balancer::new(kind, &[1, 1, 1, 1]);
        let mut picked = |balancer: &mut Balancer| {
            let mut found = [false; 4];
            for _ in 0..200 {
                found[balancer.pick(ms(0), &mut rng, None).unwrap()] = true;
            }
            found
        };
        balancer.set_available(1, false);
        balancer.set_available(1, false);
        assert_eq!(picked(&mut balancer), [true, false, true, true], "{kind:?}");
        balancer.set_available(2, false);
        assert_eq!(picked(&mut balancer), [true, false, false, true], "{kind:?}");
        balancer.set_available(3, false);
        assert_eq!(balancer.available(), 1);
        assert_eq!(picked(&mut balancer), [true; 4], "{kind:?}");
        for at in 1..4 {
            balancer.set_available(at, true);
        }
        assert_eq!(picked(&mut balancer), [true; 4], "{kind:?}");
        assert!(balancer.is_available(3));
    }
}

#[test]
fn a_slow_endpoint_of_many_gets_little() {
    // Nine answer in 1 ms, one in 100 ms; 16 requests under way at any time.
    let mut balancer = Balancer::new(EWMA, &[1; 10]);
    let mut rng = Rng::new(42);
    let mut under_way: Vec<(Duration, usize, Duration)> = Vec::new();
    let (mut now, mut counts) = (ms(0), [0_u32; 10]);
    for _ in 0..20_000 {
        if under_way.len() == 16 {
            under_way.sort_unstable_by(|a, b| b.cmp(a));
            let (end, at, rtt) = under_way.pop().unwrap();
            now = end;
            balancer.finished(at, now, Some(rtt));
        }
        let at = balancer.pick(now, &mut rng, None).unwrap();
        balancer.started(at);
        counts[at] += 1;
        let rtt = if at == 7 { ms(100) } else { ms(1) };
        under_way.push((now + rtt, at, rtt));
    }
    assert!(counts[7] < 200, "a fair share would be 2,000: {counts:?}");
}
