//! Rules against what is counted by hand, and random histories of ejections against their log.

use super::*;
use crate::policy::{EjectionBackoff, Rng};

const BACKOFF: EjectionBackoff =
    EjectionBackoff { min: Duration::from_secs(5), max: Duration::from_secs(300) };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn watch(accrual: Accrual) -> Watch {
    accrual.watch().expect("a rule about a rate")
}

#[test]
fn so_many_failures_in_a_row() {
    let five = Accrual::ConsecutiveFailures { failures: 5 };
    assert_eq!([0, 4, 5, 6].map(|it| five.is_exceeded_by(it)), [false, false, true, true]);
    let none = Accrual::ConsecutiveFailures { failures: 0 };
    assert_eq!([0, 1].map(|it| none.is_exceeded_by(it)), [false, true]);
    let rate = Accrual::SuccessRate { rate: 0.9, requests: 5 };
    assert!(![rate, Accrual::None].iter().any(|rule| rule.is_exceeded_by(u32::MAX)));
    assert!(![five, Accrual::None].iter().any(|rule| rule.watch().is_some()));
}

/// One request at a time, this is Finagle's: the average of before, times `exp(-1 / requests)`.
#[test]
fn a_moving_average_over_requests() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let requests = 1 + rng.below(50) as u32;
        let (bound, true_rate) = (rng.unit(), rng.unit());
        let mut watch = watch(Accrual::SuccessRate { rate: bound, requests });
        let keep = (-1.0 / f64::from(requests)).exp();
        let mut average = None;
        for seen in 1..=200 {
            let good = rng.unit() < true_rate;
            let value = f64::from(u8::from(good));
            let mixed = average.map_or(value, |average| average * keep + value * (1.0 - keep));
            average = Some(mixed);
            let wanting = watch.observe(u64::from(good), u64::from(!good), Duration::ZERO);
            let found = watch.success_rate(Duration::ZERO).unwrap();
            assert!((found - mixed).abs() < 1e-9, "seed {seed}: {found} and {mixed}");
            let expected = !good && seen >= requests.max(5) && mixed < bound;
            assert_eq!(wanting, expected, "seed {seed}, request {seen}");
        }
    }
}

#[test]
fn many_requests_at_once_are_as_many_with_their_mean() {
    let rule = Accrual::SuccessRate { rate: 0.9, requests: 100 };
    let (mut at_once, mut apart) = (watch(rule), watch(rule));
    at_once.observe(10, 0, Duration::ZERO);
    apart.observe(10, 0, Duration::ZERO);
    at_once.observe(60, 60, Duration::ZERO);
    // By twos, so that each has the mean of all.
    for _ in 0..60 {
        apart.observe(1, 1, Duration::ZERO);
    }
    let rates = [at_once, apart].map(|mut watch| watch.success_rate(Duration::ZERO).unwrap());
    let expected = (-1.2_f64).exp() + 0.5 * (1.0 - (-1.2_f64).exp());
    assert!(rates.iter().all(|rate| (rate - expected).abs() < 1e-9), "{rates:?}");
}

/// The counts are those of whole buckets, taken from a list.
#[test]
fn a_rate_over_a_window_of_time() {
    const BOUNDS: [f64; 4] = [0.5, 0.8, 0.95, 1.0];
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let bound = BOUNDS[rng.below(BOUNDS.len())];
        let rule = Accrual::SuccessRateWindowed { rate: bound, window: secs(10), min_requests: 5 };
        let mut watch = watch(rule);
        let mut seen: Vec<(u64, u64, u64)> = Vec::new();
        let mut now_ms = 0;
        for _ in 0..100 {
            now_ms += rng.below(1_500) as u64;
            let (good, bad) = (rng.below(12) as u64, rng.below(3) as u64);
            seen.push((now_ms / 1_000, good, bad));
            let oldest = (now_ms / 1_000).saturating_sub(9);
            let kept = seen.iter().filter(|(bucket, ..)| *bucket >= oldest);
            let (good_sum, bad_sum) = kept.fold((0, 0), |sum, it| (sum.0 + it.1, sum.1 + it.2));
            let total = good_sum + bad_sum;
            let is_low = total > 0 && (good_sum as f64 / total as f64) < bound;
            let wanting = watch.observe(good, bad, Duration::from_millis(now_ms));
            let expected = bad > 0 && total >= 5 && is_low;
            assert_eq!(wanting, expected, "seed {seed} at {now_ms} ms: {good_sum} of {total}");
        }
    }
}

#[test]
fn a_rate_at_its_bound_is_good_enough_and_quiet_ejects_nobody() {
    let rule = |rate| Accrual::SuccessRateWindowed { rate, window: secs(10), min_requests: 5 };
    assert!(!watch(rule(0.8)).observe(4, 1, secs(1)));
    assert!(!watch(rule(0.07)).observe(7, 93, secs(1)));
    assert!(watch(rule(0.8)).observe(3, 2, secs(1)));
    assert!(!watch(rule(0.8)).observe(0, 4, secs(1)), "too few");
    let mut fading = watch(rule(0.8));
    assert!(!fading.observe(95, 0, secs(1)));
    assert!(!fading.observe(0, 5, secs(5)));
    // The successes leave the window; the failures alone are no news.
    assert!(!fading.observe(0, 0, secs(12)));
    assert_eq!(fading.success_rate(secs(12)), Some(0.0));
    assert!(!fading.observe(1, 0, secs(13)));
    assert!(fading.observe(0, 1, secs(13)));
}

#[test]
fn a_revived_endpoint_begins_anew() {
    let over_time = Accrual::SuccessRateWindowed { rate: 0.8, window: secs(10), min_requests: 5 };
    for rule in [over_time, Accrual::SuccessRate { rate: 0.8, requests: 5 }] {
        let mut watch = watch(rule);
        assert_eq!(watch.success_rate(secs(0)), None);
        assert!(watch.observe(0, 5, secs(1)));
        assert!(watch.observe(0, 1, secs(1)), "until it is ejected");
        watch.reset();
        assert_eq!(watch.success_rate(secs(1)), None);
        assert!(!watch.observe(0, 4, secs(1)));
        assert!(watch.observe(0, 1, secs(1)));
    }
}

#[test]
fn the_cap_keeps_a_share_in_service() {
    // The most that may be out, for 0 to 10 endpoints.
    let table = [
        (0, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (10, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (50, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]),
        (67, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6]),
        (100, [0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (500, [0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ];
    for (max_percent, most) in table {
        for (total, most) in most.into_iter().enumerate() {
            let found = (0..20).take_while(|&out| may_eject(out, total, max_percent)).count();
            assert_eq!(found, most, "{max_percent} % of {total}");
        }
    }
}

#[test]
fn out_and_back() {
    let mut rng = Rng::new(1);
    let mut endpoint = Ejection::new(BACKOFF);
    assert!(!endpoint.try_probe(secs(0)), "alive endpoints need no probe");
    assert_eq!(endpoint.report(Report::Failed, secs(0), &mut rng), EjectionState::Alive);
    let until = endpoint.eject(secs(100), &mut rng).unwrap();
    assert!((secs(105)..=secs(110)).contains(&until));
    assert_eq!(endpoint.eject(secs(101), &mut rng), None, "out already");
    assert_eq!(endpoint.state(), EjectionState::Ejected { until });
    assert!(!endpoint.try_probe(until - Duration::from_nanos(1)));
    assert!(endpoint.try_probe(until));
    assert!(!endpoint.try_probe(until + secs(9)), "one at a time");
    assert_eq!(endpoint.eject(until, &mut rng), None);
    let state = endpoint.report(Report::Lost, until + secs(1), &mut rng);
    assert_eq!(state, EjectionState::Ejected { until: until + secs(1) });
    assert!(endpoint.try_probe(until + secs(1)));
    let out_for = until + secs(2) - secs(100);
    assert_eq!(endpoint.counts(until + secs(2)).removed_for, out_for);
    assert_eq!(endpoint.report(Report::Succeeded, until + secs(2), &mut rng), EjectionState::Alive);
    let expected = Counts { removals: 1, revivals: 1, probes: 2, removed_for: out_for };
    assert_eq!(endpoint.counts(secs(9_999)), expected);
}

#[test]
fn the_first_ejection_is_short_however_early() {
    for seed in 0..100 {
        let until = Ejection::new(BACKOFF).eject(secs(0), &mut Rng::new(seed)).unwrap();
        assert!((secs(5)..=secs(10)).contains(&until), "seed {seed}: {until:?}");
    }
}

#[test]
fn ejections_in_a_row_grow_until_a_revival_sticks() {
    let mut rng = Rng::new(7);
    let mut endpoint = Ejection::new(BACKOFF);
    let mut out_at = secs(50);
    let mut until = endpoint.eject(out_at, &mut rng).unwrap();
    // Fails every probe, or soon after each revival: the lower bounds are 10, 20, 40, 80, 150 s.
    for (at, low) in [10, 20, 40, 80, 150, 150].into_iter().enumerate() {
        let last = until - out_at;
        assert!(endpoint.try_probe(until));
        if at % 2 == 0 {
            out_at = until;
            let state = endpoint.report(Report::Failed, out_at, &mut rng);
            let EjectionState::Ejected { until: next } = state else { panic!("{state:?}") };
            until = next;
        } else {
            endpoint.report(Report::Succeeded, until, &mut rng);
            out_at = until + last;
            until = endpoint.eject(out_at, &mut rng).unwrap();
        }
        assert!((secs(low)..=secs(low * 2)).contains(&(until - out_at)), "{low} {out_at:?}");
    }
    let last = until - out_at;
    assert!(endpoint.try_probe(until));
    endpoint.report(Report::Succeeded, until, &mut rng);
    out_at = until + last + Duration::from_nanos(1);
    let length = endpoint.eject(out_at, &mut rng).unwrap() - out_at;
    assert!((secs(5)..=secs(10)).contains(&length), "it stuck: {length:?}");
}

/// What a simulation saw happen to one endpoint.
#[derive(Debug, Default)]
struct Log {
    out_since: Option<Duration>,
    until: Duration,
    probing: bool,
    length: Duration,
    in_a_row: u32,
    back_at: Option<Duration>,
    counts: Counts,
}

impl Log {
    fn stays_out(&mut self, now: Duration, until: Duration, in_a_row: u32, seed: u64) {
        self.length = until - now;
        let low = (BACKOFF.min * 2_u32.pow(in_a_row.min(10))).min(BACKOFF.max / 2);
        let high = (BACKOFF.min * 2_u32.pow(in_a_row.min(10) + 1)).min(BACKOFF.max);
        assert!((low..=high).contains(&self.length), "seed {seed}: {self:?}");
        (self.until, self.in_a_row) = (until, in_a_row);
    }

    fn ejected(&mut self, now: Duration, until: Duration, seed: u64) {
        assert_eq!(self.out_since, None, "seed {seed}: only the living are ejected");
        let again = self.back_at.is_some_and(|back_at| now - back_at <= self.length);
        self.stays_out(now, until, if again { self.in_a_row + 1 } else { 0 }, seed);
        self.out_since = Some(now);
        self.counts.removals += 1;
    }

    fn asked(&mut self, now: Duration, is_probe: bool, seed: u64) {
        let expected = self.out_since.is_some() && !self.probing && now >= self.until;
        assert_eq!(is_probe, expected, "seed {seed} at {now:?}: {self:?}");
        self.probing |= is_probe;
        self.counts.probes += u64::from(is_probe);
    }

    fn reported(&mut self, report: Report, now: Duration, state: EjectionState, seed: u64) {
        self.probing = false;
        match (report, state) {
            (Report::Succeeded, EjectionState::Alive) => {
                self.counts.revivals += 1;
                self.counts.removed_for += now - self.out_since.take().expect("was out");
                self.back_at = Some(now);
            }
            (Report::Failed, EjectionState::Ejected { until }) => {
                self.stays_out(now, until, self.in_a_row + 1, seed);
            }
            (Report::Lost, EjectionState::Ejected { until }) => self.until = until.min(now),
            _ => panic!("seed {seed}: {report:?} made {state:?}"),
        }
    }
}

#[test]
fn random_histories() {
    const REPORTS: [Report; 3] = [Report::Succeeded, Report::Failed, Report::Lost];
    for seed in 0..1_000 {
        let mut rng = Rng::new(seed);
        let total = 1 + rng.below(6);
        let max_percent = [10, 50, 100][rng.below(3)];
        let most = (total * max_percent as usize / 100).max(1).min(total);
        let mut endpoints = vec![Ejection::new(BACKOFF); total];
        let mut logs: Vec<Log> = (0..total).map(|_| Log::default()).collect();
        let mut now = Duration::ZERO;
        for _ in 0..200 {
            let pause_ms = [10, 3_000, 60_000][rng.below(3)];
            now += Duration::from_millis(rng.below(pause_ms) as u64);
            let at = rng.below(total);
            let (endpoint, log) = (&mut endpoints[at], &mut logs[at]);
            match rng.below(3) {
                0 => log.asked(now, endpoint.try_probe(now), seed),
                1 if log.probing => {
                    let report = REPORTS[rng.below(3)];
                    let state = endpoint.report(report, now, &mut rng);
                    log.reported(report, now, state, seed);
                }
                1 => {
                    let before = endpoint.state();
                    let state = endpoint.report(REPORTS[rng.below(3)], now, &mut rng);
                    assert_eq!(state, before, "seed {seed}: nobody probes");
                }
                _ => {
                    let out = logs.iter().filter(|log| log.out_since.is_some()).count();
                    if may_eject(out, total, max_percent)
                        && let Some(until) = endpoints[at].eject(now, &mut rng)
                    {
                        logs[at].ejected(now, until, seed);
                    }
                }
            }
            let is_out = |it: &&Ejection| it.state() != EjectionState::Alive;
            let out = endpoints.iter().filter(is_out).count();
            assert!(out <= most && (total > 1 || out == 0), "seed {seed}: {out} of {total}");
            for (endpoint, log) in endpoints.iter().zip(&logs) {
                let lasting = log.out_since.map_or(Duration::ZERO, |since| now - since);
                let removed_for = log.counts.removed_for + lasting;
                let expected = Counts { removed_for, ..log.counts };
                assert_eq!(endpoint.counts(now), expected, "seed {seed} at {now:?}");
                let is_probing = endpoint.state() == EjectionState::Probing;
                assert_eq!(is_probing, log.probing, "seed {seed} at {now:?}");
            }
        }
    }
}
