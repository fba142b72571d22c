//! Decisions over many traces, hops and seconds. Seeds are printed.

use super::*;
use crate::policy::Rng;

const SECOND: Duration = Duration::from_secs(1);

fn sampler(share: f64) -> Sampler {
    Sampler::new(Rate::new(share), Keep::NOTHING, None, 1)
}

fn began(trace_low: u64) -> Asked {
    Asked { trace_low, came: None, rate: None }
}

fn came(trace_low: u64, came: Sampling) -> Asked {
    Asked { came: Some(came), ..began(trace_low) }
}

fn decided(recorded: bool, passed_on: Sampling) -> Decision {
    Decision { recorded, passed_on, capped: false }
}

#[test]
fn a_rate_is_the_share_of_random_traces() {
    for (seed, share) in (0..).zip([0.0, 0.001, 0.1, 0.5, 0.999, 1.0]) {
        let (mut rng, rate) = (Rng::new(seed), Rate::new(share));
        let traces = 1_000_000;
        let sampled = (0..traces).filter(|_| rate.has(rng.next_u64())).count() as f64;
        let expected = share * f64::from(traces);
        // Five standard deviations: one run in a million would fail by chance, and seeds are fixed.
        let margin = 5.0 * (expected * (1.0 - share)).sqrt();
        assert!((sampled - expected).abs() <= margin, "seed {seed}: {sampled} of {expected}");
    }
}

#[test]
fn the_ends_of_a_rate_are_all_and_none() {
    for low in [0, 1, u64::MAX / 2, u64::MAX] {
        assert!(Rate::new(1.0).has(low) && Rate::new(7.0).has(low));
        assert!(!Rate::new(0.0).has(low) && !Rate::new(-1.0).has(low));
        assert!(!Rate::new(f64::NAN).has(low));
        assert_eq!(Rate::new(0.5).has(low), low < 1 << 63);
    }
    // The smallest share that a double can tell from none: one id of 2^64.
    assert!(Rate::new(2_f64.powi(-64)).has(0) && !Rate::new(2_f64.powi(-64)).has(1));
}

#[test]
fn every_hop_makes_the_same_choice_and_a_higher_rate_has_them_all() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (low, high) = (rng.unit() * 0.5, 0.5 + rng.unit() * 0.5);
        let (mut first, mut second, mut third) = (sampler(low), sampler(low), sampler(high));
        for _ in 0..10_000 {
            let trace = rng.next_u64();
            let one = first.decide(&came(trace, Sampling::Undecided), SECOND);
            let two = second.decide(&came(trace, one.passed_on), SECOND);
            let three = third.decide(&came(trace, two.passed_on), SECOND);
            assert_eq!(one, two, "seed {seed}");
            assert!(three.recorded || !one.recorded, "seed {seed}: a hole");
            assert_eq!(three.passed_on, Sampling::Undecided, "seed {seed}");
        }
    }
}

#[test]
fn who_decides() {
    use Sampling::{Debug, No, Undecided, Yes};
    let (small, large) = (1, u64::MAX);
    let mut half = sampler(0.5);
    let mut at = |asked: Asked| half.decide(&asked, SECOND);
    assert_eq!(at(began(small)), decided(true, Yes));
    assert_eq!(at(began(large)), decided(false, No));
    for trace in [small, large] {
        assert_eq!(at(came(trace, Yes)), decided(true, Yes));
        assert_eq!(at(came(trace, No)), decided(false, No));
        assert_eq!(at(came(trace, Debug)), decided(true, Debug));
    }
    assert_eq!(at(came(small, Undecided)), decided(true, Undecided));
    assert_eq!(at(came(large, Undecided)), decided(false, Undecided));
    // A rate of its own goes before ours and before a decision, but not before debugging.
    for came in [None, Some(Undecided), Some(No), Some(Yes)] {
        let asked = |rate| Asked { trace_low: large, came, rate: Some(rate) };
        assert_eq!(at(asked(1.0)), decided(true, Yes), "{came:?}");
        assert_eq!(at(asked(0.0)), decided(false, No), "{came:?}");
        assert_eq!(at(asked(0.9)), decided(false, No), "{came:?}");
    }
    let asked = Asked { rate: Some(0.0), ..came(large, Debug) };
    assert_eq!(at(asked), decided(true, Debug));
}

#[test]
fn switched_off_it_changes_nobodys_decision() {
    use Sampling::{Debug, No, Undecided, Yes};
    let mut sampler = sampler(1.0);
    let keep = Keep { failed: true, retried: true, slower_than: Some(Duration::ZERO) };
    sampler.set(false, Rate::new(1.0), keep);
    for mut off in [Sampler::OFF, sampler.clone()] {
        for word in [Undecided, No, Yes, Debug] {
            assert_eq!(off.decide(&came(0, word), SECOND), decided(false, word));
        }
        assert_eq!(off.decide(&began(0), SECOND), decided(false, Undecided));
        let asks = Asked { rate: Some(1.0), ..came(0, Yes) };
        assert_eq!(off.decide(&asks, SECOND), decided(false, Yes), "nor by the rate that is asked");
        let worst = Outcome { failed: true, retried: true, took: SECOND };
        assert!(!off.may_keep() && off.keeps(&worst, 2, SECOND) == Kept::No);
    }
    sampler.set(true, Rate::NEVER, keep);
    assert!(sampler.may_keep());
    assert_eq!(sampler.decide(&began(0), SECOND), decided(false, No));
    sampler.set(true, Rate::new(1.0), keep);
    assert_eq!(sampler.decide(&began(0), SECOND), decided(true, Yes));
}

#[test]
fn what_is_kept_for_its_outcome() {
    let fine = Outcome { failed: false, retried: false, took: Duration::from_millis(5) };
    let failed = Outcome { failed: true, ..fine };
    let retried = Outcome { retried: true, ..fine };
    let slow = Outcome { took: Duration::from_millis(11), ..fine };
    let at_the_limit = Outcome { took: Duration::from_millis(10), ..fine };
    let kept = |keep: Keep| {
        let mut sampler = Sampler::new(Rate::NEVER, keep, None, 1);
        [fine, failed, retried, slow, at_the_limit]
            .map(|it| sampler.keeps(&it, 2, SECOND) == Kept::Yes)
    };
    assert_eq!(kept(Keep::NOTHING), [false; 5]);
    let keep = Keep { failed: true, ..Keep::NOTHING };
    assert_eq!(kept(keep), [false, true, false, false, false]);
    let keep = Keep { retried: true, ..Keep::NOTHING };
    assert_eq!(kept(keep), [false, false, true, false, false]);
    let keep = Keep { slower_than: Some(Duration::from_millis(10)), ..Keep::NOTHING };
    assert_eq!(kept(keep), [false, false, false, true, false]);
}

#[test]
fn nobody_elses_decision_is_changed_for_want_of_room() {
    use Sampling::{Debug, No, Undecided, Yes};
    let mut sampler = Sampler::new(Rate::new(1.0), Keep::NOTHING, Some(2), 1);
    assert_eq!(sampler.decide(&began(1), SECOND), decided(true, Yes));
    let capped = |passed_on| Decision { recorded: false, passed_on, capped: true };
    assert_eq!(sampler.decide(&began(1), SECOND), capped(No));
    assert_eq!(sampler.decide(&came(1, Yes), SECOND), capped(Yes));
    assert_eq!(sampler.decide(&came(1, Undecided), SECOND), capped(Undecided));
    assert_eq!(sampler.decide(&came(1, No), SECOND), decided(false, No));
    assert_eq!(sampler.decide(&came(1, Debug), SECOND), decided(true, Debug));
    // Debugging is charged for too: its two spans are those of a second.
    assert_eq!(sampler.decide(&began(1), 2 * SECOND), capped(No));
    assert_eq!(sampler.decide(&began(1), 3 * SECOND), decided(true, Yes));
}

/// Requests of one to four attempts, sampled or kept, at random times: over any stretch of time the
/// spans stay within the cap, what one second saves up, and what one request may go over.
#[test]
fn spans_per_second_stay_within_the_cap() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let (cap, shards) = (1 + rng.below(200) as u32, 1 + rng.below(4) as u32);
        let keep = Keep { failed: true, ..Keep::NOTHING };
        let mut sampler = Sampler::new(Rate::new(0.5), keep, Some(cap), shards);
        let (mut now, mut spans) = (SECOND, Vec::new());
        let pause_us = [10, 1_000, 50_000][rng.below(3)];
        for _ in 0..2_000 {
            now += Duration::from_micros(rng.below(pause_us) as u64);
            let attempts = 1 + rng.below(4) as u32;
            if sampler.decide(&began(rng.next_u64()), now).recorded {
                sampler.attempts_were(attempts, now);
                spans.push((now, attempts + 1));
            } else {
                let outcome = Outcome { failed: rng.below(4) == 0, retried: false, took: SECOND };
                if sampler.keeps(&outcome, attempts + 1, now) == Kept::Yes {
                    spans.push((now, attempts + 1));
                }
            }
        }
        let per_sec = f64::from(cap) / f64::from(shards);
        for from in (0..spans.len()).step_by(37) {
            let mut sum = 0;
            for (at, count) in &spans[from..] {
                sum += count;
                let allowed = ((*at - spans[from].0).as_secs_f64() + 1.0) * per_sec + 5.0;
                assert!(f64::from(sum) <= allowed + 1e-3, "seed {seed}: {sum} of {allowed}");
            }
        }
        let total: u32 = spans.iter().map(|(_, count)| count).sum();
        let over = (now - SECOND).as_secs_f64();
        let wanted = 2_000.0 * 0.5 * 2.0_f64;
        let least = wanted.min(over * per_sec) * 0.5;
        assert!(f64::from(total) >= least, "seed {seed}: {total} of {least}: the cap is used");
    }
}

#[test]
fn after_much_debugging_others_wait_for_some_seconds() {
    let mut sampler = Sampler::new(Rate::new(1.0), Keep::NOTHING, Some(100), 1);
    for _ in 0..100_000 {
        assert!(sampler.decide(&came(1, Sampling::Debug), SECOND).recorded);
    }
    assert!(sampler.decide(&began(1), 9 * SECOND).capped);
    assert!(sampler.decide(&began(1), 12 * SECOND).recorded);
}

#[test]
fn the_ends_of_time_overflow_nothing() {
    let mut sampler = Sampler::new(Rate::new(1.0), Keep::NOTHING, Some(1), u32::MAX);
    let year = Duration::from_secs(365 * 86_400);
    for now in [Duration::ZERO, year, 100 * year, Duration::ZERO] {
        sampler.decide(&came(0, Sampling::Debug), now);
        sampler.attempts_were(u32::MAX, now);
    }
    assert!(sampler.decide(&began(0), Duration::ZERO).capped);
}

#[test]
fn another_cap_holds_at_once_and_the_same_forgives_nothing() {
    let mut sampler = Sampler::new(Rate::new(1.0), Keep::NOTHING, Some(2), 1);
    let recorded = |sampler: &mut Sampler| {
        (0..100).filter(|_| sampler.decide(&began(1), SECOND).recorded).count()
    };
    assert_eq!(recorded(&mut sampler), 1);
    sampler.set_cap(Some(2), 1);
    assert_eq!(recorded(&mut sampler), 0, "what is spent is spent");
    sampler.set_cap(Some(20), 1);
    assert_eq!(recorded(&mut sampler), 10);
    sampler.set_cap(None, 1);
    assert_eq!(recorded(&mut sampler), 100);
    sampler.set_cap(Some(20), 2);
    assert_eq!(recorded(&mut sampler), 5, "half of it on each of two shards");
}

#[test]
fn a_storm_of_failures_leaves_room_for_those_that_are_sampled() {
    let keep = Keep { failed: true, ..Keep::NOTHING };
    let mut sampler = Sampler::new(Rate::new(1.0), keep, Some(100), 1);
    let failed = Outcome { failed: true, retried: false, took: SECOND };
    let kept = (0..1_000).filter(|_| sampler.keeps(&failed, 2, SECOND) == Kept::Yes).count();
    assert_eq!(kept, 25, "half of what a second saves up");
    assert_eq!(sampler.keeps(&failed, 2, SECOND), Kept::NoRoom);
    let sampled = (0..1_000).filter(|_| sampler.decide(&began(1), SECOND).recorded).count();
    assert_eq!(sampled, 25);
}
