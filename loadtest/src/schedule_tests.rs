//! Schedules: rates met over any window, Poisson's moments, and the ramp's integral.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn whole(arrivals: Arrivals, end: End) -> Schedule {
    share(arrivals, end, 0, 1)
}

fn share(arrivals: Arrivals, end: End, core: u32, cores: u32) -> Schedule {
    let rng = Rng::new(u64::from(core) + 17);
    Schedule::new(arrivals, end, Share { core, cores }, rng).expect("a right schedule")
}

fn for_seconds(seconds: u64) -> End {
    End { after: Some(SECOND * seconds as u32), requests: None }
}

fn for_requests(requests: u64) -> End {
    End { after: None, requests: Some(requests) }
}

/// All cores' moments, in order.
fn together(arrivals: Arrivals, end: End, cores: u32) -> Vec<Duration> {
    let all = (0..cores).flat_map(|core| share(arrivals, end, core, cores));
    let mut moments: Vec<Duration> = all.collect();
    moments.sort();
    moments
}

#[test]
fn the_kth_of_a_constant_rate_starts_at_k_over_the_rate() {
    let first: Vec<_> = whole(Arrivals::Constant { per_second: 3.0 }, for_requests(4)).collect();
    let expected = [0, 333_333_333, 666_666_667, 1_000_000_000].map(Duration::from_nanos);
    assert_eq!(first, expected);
}

#[test]
fn no_error_adds_up_over_hours() {
    // Ten hours at a rate whose gap is no whole number of nanoseconds.
    for per_second in [7_u64, 30_000, 65_537, 123_457] {
        let arrivals = Arrivals::Constant { per_second: per_second as f64 };
        for second in [1, 60, 3_600, 36_000] {
            let at_ns = arrivals.moment_ns(second * per_second);
            assert_eq!(at_ns, Some(second * 1_000_000_000), "{per_second}/s, {second} s");
        }
        let exact = (12_345_678_901_u128 * 1_000_000_000 / u128::from(per_second)) as u64;
        let at_ns = arrivals.moment_ns(12_345_678_901).expect("a moment");
        assert!(at_ns.abs_diff(exact) <= 1 + (exact >> 52), "{per_second}/s: {at_ns} {exact}");
    }
}

#[test]
fn a_constant_rate_is_met_within_one_request_over_any_window() {
    let seed = 0x5EED_0001;
    println!("seed {seed:#x}");
    let mut rng = Rng::new(seed);
    for _ in 0..50 {
        let per_second = 1.0 + rng.unit() * 20_000.0;
        let cores = 1 + rng.below(8) as u32;
        let moments = together(Arrivals::Constant { per_second }, for_seconds(2), cores);
        for _ in 0..50 {
            let from = SECOND.mul_f64(rng.unit());
            let width = SECOND.mul_f64(rng.unit());
            let within = |at: &&Duration| (from..from + width).contains(*at);
            let found = moments.iter().filter(within).count() as f64;
            let expected = per_second * width.as_secs_f64();
            // A nanosecond of rounding at either side is no request.
            assert!((found - expected).abs() <= 1.001, "{per_second}/s: {found} {expected}");
        }
    }
}

#[test]
fn cores_share_one_sequence_without_gap_or_double() {
    let ramp = Arrivals::Ramp { from_per_second: 10.0, to_per_second: 2_000.0, over: SECOND };
    for arrivals in [Arrivals::Constant { per_second: 777.0 }, ramp] {
        let alone: Vec<_> = whole(arrivals, for_seconds(2)).collect();
        for cores in [1, 2, 3, 7] {
            assert_eq!(together(arrivals, for_seconds(2), cores), alone, "{cores} cores");
        }
    }
}

#[test]
fn runs_end_by_duration_or_count_whichever_is_first() {
    let constant = Arrivals::Constant { per_second: 100.0 };
    let poisson = Arrivals::Poisson { per_second: 100.0 };
    assert_eq!(whole(constant, for_seconds(3)).count(), 300);
    for arrivals in [constant, poisson] {
        for cores in [1, 3, 7] {
            assert_eq!(together(arrivals, for_requests(100), cores).len(), 100);
        }
        let both = End { after: Some(SECOND), requests: Some(10) };
        assert_eq!(whole(arrivals, both).count(), 10);
        let short = End { after: Some(SECOND), requests: Some(100_000) };
        let moments = together(arrivals, short, 2);
        assert!(moments.iter().all(|at| *at < SECOND));
        assert!((60..150).contains(&moments.len()), "{}", moments.len());
    }
    assert_eq!(whole(constant, for_requests(0)).peek(), None);
    let mut ended = whole(constant, for_requests(1));
    assert_eq!((ended.next(), ended.next(), ended.next()), (Some(Duration::ZERO), None, None));
}

#[test]
fn poisson_gaps_have_the_mean_and_variance_of_an_exponential() {
    for (core, cores) in [(0, 1), (1, 4)] {
        let per_second = 5_000.0;
        let schedule = share(Arrivals::Poisson { per_second }, for_requests(800_000), core, cores);
        let moments: Vec<f64> = schedule.map(|at| at.as_secs_f64()).collect();
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        let expected = f64::from(cores) / per_second;
        // Standard errors: 1/sqrt(n) of the mean, sqrt(8/n) of the variance; five of each.
        let off = (mean / expected - 1.0).abs();
        assert!(off < 5.0 / n.sqrt(), "mean {mean} for {expected}");
        let off = (variance / expected.powi(2) - 1.0).abs();
        assert!(off < 5.0 * (8.0 / n).sqrt(), "variance {variance}");
        // An exponential has no memory: 36.8 % of the gaps are longer than the mean.
        let longer = gaps.iter().filter(|gap| **gap > expected).count() as f64 / n;
        assert!((longer - (-1.0_f64).exp()).abs() < 0.005, "{longer}");
    }
}

#[test]
fn cores_draw_apart_and_a_seed_draws_again() {
    let arrivals = Arrivals::Poisson { per_second: 1_000.0 };
    let [one, again, other] =
        [0, 0, 1].map(|core| share(arrivals, for_requests(100), core, 2).collect::<Vec<_>>());
    assert_eq!(one, again);
    assert!(one.iter().all(|at| !other.contains(at)));
}

#[test]
fn the_ramps_integral_is_the_number() {
    let cases = [(0.0, 10_000.0), (10_000.0, 0.0), (500.0, 5_000.0), (1_000.0, 1_000.0)];
    for (from_per_second, to_per_second) in cases {
        let over = SECOND * 4;
        let arrivals = Arrivals::Ramp { from_per_second, to_per_second, over };
        let mut count = 0;
        for (k, at) in whole(arrivals, for_seconds(6)).enumerate() {
            let integral = arrivals.expected_by(at);
            // The moment was rounded down by up to a nanosecond.
            assert!((integral - k as f64).abs() < 1e-4, "{arrivals:?}: {k} at {at:?}: {integral}");
            count += 1;
        }
        let all = arrivals.expected_by(SECOND * 6);
        let by_hand = (from_per_second + to_per_second) * 2.0 + to_per_second * 2.0;
        assert!((all - by_hand).abs() < 1e-6);
        assert!((f64::from(count) - all).abs() <= 1.0, "{arrivals:?}: {count} of {all}");
    }
}

#[test]
fn what_has_come_is_due_and_nothing_else() {
    let seed = 0x5EED_0002;
    println!("seed {seed:#x}");
    let mut rng = Rng::new(seed);
    let ramp = Arrivals::Ramp { from_per_second: 0.0, to_per_second: 900.0, over: SECOND * 2 };
    let kinds = [Arrivals::Constant { per_second: 300.0 }, Arrivals::Poisson { per_second: 300.0 }];
    for arrivals in kinds.into_iter().chain([ramp]) {
        for end in [for_seconds(3), for_requests(500), End::default()] {
            let mut schedule = share(arrivals, end, 1, 2);
            let mut now = Duration::ZERO;
            for _ in 0..40 {
                now += Duration::from_millis(rng.below(200) as u64);
                let due = schedule.clone().take_while(|at| *at <= now).count();
                let mut found = 0;
                while let Some(at) = schedule.take_due(now) {
                    assert!(at <= now);
                    found += 1;
                }
                assert_eq!(due, found, "{arrivals:?} {end:?} at {now:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_scheduled_is_refused() {
    let refused = |arrivals, share| {
        Schedule::new(arrivals, End::default(), share, Rng::new(1)).expect_err("wrong").to_string()
    };
    let one = Share { core: 0, cores: 1 };
    for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY, 2e9] {
        let said = refused(Arrivals::Constant { per_second }, one);
        assert!(said.contains("allowed: more than 0"), "{said}");
        refused(Arrivals::Poisson { per_second }, one);
    }
    let ramp = |from_per_second, to_per_second, over| Arrivals::Ramp {
        from_per_second,
        to_per_second,
        over,
    };
    refused(ramp(0.0, 0.0, SECOND), one);
    assert!(refused(ramp(1.0, 2.0, Duration::ZERO), one).contains("a ramp over no time"));
    let said = refused(ramp(1.0, 2.0, SECOND), Share { core: 2, cores: 2 });
    assert!(said.contains("core 2 of 2"), "{said}");
}
