//! Scripts right and wrong, which phase it is at a moment, and what is drawn.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn parse(text: &str) -> Script {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn one(text: &str) -> Phase {
    let script = parse(text);
    let [phase] = script.phases() else { panic!("{text}: {script:?}") };
    phase.clone()
}

#[test]
fn each_word_is_read() {
    assert_eq!(parse(""), Script::default());
    assert_eq!(parse("  "), Script::default());
    assert_eq!(one("size=128"), Phase::default());
    assert_eq!(one("size=64k").size, Size::Constant(65_536));
    assert_eq!(one("size=0").size, Size::Constant(0));
    assert_eq!(one("size=1k..1m").size, Size::Uniform(1_024, 1_048_576));
    assert_eq!(one("latency=2ms").latency, Latency::Constant(2 * MS));
    assert_eq!(one("latency=1.5ms..5ms").latency, Latency::Uniform(MS * 3 / 2, 5 * MS));
    assert_eq!(one("latency=250us").latency, Latency::Constant(MS / 4));
    assert_eq!(one("latency=exp:2ms").latency, Latency::Exponential { mean: 2 * MS });
    let log = Latency::LogNormal { median: 2 * MS, sigma: 0.5 };
    assert_eq!(one("latency=lognormal:2ms:0.5").latency, log);
    let errors = one("errors=1%:503 reset=2% cut=0.5%");
    assert_eq!((errors.error_share, errors.error_status), (0.01, 503));
    assert_eq!((errors.reset_share, errors.cut_share), (0.02, 0.005));
    assert_eq!(one("errors=100%").error_status, 500);
    assert_eq!(one("rate=64k/s").bytes_per_second, Some(65_536));
    assert!(one("chunked").chunked && one("stall").stall && one("1s stall").stall);
    assert_eq!(one("close_after=100").close_after, Some(100));
    let script = parse("9s latency=1ms; 500ms stall ;size=1");
    let lasts: Vec<_> = script.phases().iter().map(|phase| phase.lasts).collect();
    assert_eq!(lasts, [Some(9_000 * MS), Some(500 * MS), None]);
}

#[test]
fn errors_say_where_what_and_what_is_allowed() {
    let cases = [
        ("siz=1", 1, "`siz` is no word"),
        ("1s  fast", 5, "`fast` is no word"),
        ("9", 1, "`9` is no duration"),
        ("0.5ms stall", 1, "`0.5ms` is no duration"),
        ("9h stall", 1, "`9h` is no duration"),
        ("stall; size=1", 1, "a phase without a duration is not the last"),
        ("1s size=1;", 11, "a phase is missing"),
        ("; 1s size=1", 1, "a phase is missing"),
        ("1s size=1; \u{b5}", 12, "`\u{b5}` is no word"),
        ("size=1 size=2", 8, "`size` for the second time"),
        ("size=1 stall", 8, "`stall` with other words"),
        ("1s stall latency=1ms", 10, "`stall` with other words"),
        ("size=", 6, "`` is no value of `size`"),
        ("size=1kb", 6, "`1kb` is no value of `size`"),
        ("size=65m", 6, "`65m` is no value of `size`"),
        ("size=4k..1k", 6, "`4k..1k` is no value of `size`"),
        ("size=-1", 6, "`-1` is no value of `size`"),
        ("size=99999999999999999999k", 6, "is no value of `size`"),
        ("size=18446744073709551615m", 6, "is no value of `size`"),
        ("latency=2", 9, "`2` is no value of `latency`"),
        ("latency=2h", 9, "`2h` is no value of `latency`"),
        ("latency=3601s", 9, "`3601s` is no value of `latency`"),
        ("latency=exp:", 9, "`exp:` is no value of `latency`"),
        ("latency=lognormal:2ms", 9, "`lognormal:2ms` is no value of `latency`"),
        ("latency=lognormal:2ms:11", 9, "is no value of `latency`"),
        ("latency=5ms..1ms", 9, "`5ms..1ms` is no value of `latency`"),
        ("errors=1", 8, "`1` is no value of `errors`"),
        ("errors=101%", 8, "`101%` is no value of `errors`"),
        ("errors=1%:200", 8, "`1%:200` is no value of `errors`"),
        ("errors=50% reset=30% cut=30%", 22, "110.0% of answers are spoilt"),
        ("rate=64k", 6, "`64k` is no value of `rate`"),
        ("rate=0/s", 6, "`0/s` is no value of `rate`"),
        ("close_after=0", 13, "`0` is no value of `close_after`"),
        ("chunked=1", 1, "`chunked` is no word"),
        ("close_after", 1, "`close_after` is no word"),
    ];
    for (text, column, what) in cases {
        let error = text.parse::<Script>().expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
        assert!(!error.allowed.is_empty(), "{text}: {error}");
    }
    let error = "1s stall; latency=2".parse::<Script>().expect_err("no unit").to_string();
    assert!(
        error.starts_with("column 19: `2` is no value of `latency`; allowed: 2ms, "),
        "{error}"
    );
}

#[test]
fn phases_follow_each_other_and_repeat() {
    let at = |script: &Script, ms: u32| {
        let (phase, ends) = script.at(MS * ms);
        (phase, ends.map(|ends| ends.as_millis()))
    };
    let repeats = parse("90ms latency=1ms; 10ms stall");
    let moments = [0, 89, 90, 99, 100, 190, 1_095].map(|ms| at(&repeats, ms));
    let ends = [(0, 90), (0, 90), (1, 100), (1, 100), (0, 190), (1, 200), (1, 1_100)];
    assert_eq!(moments, ends.map(|(phase, ends)| (phase, Some(ends))));
    let stays = parse("90ms latency=1ms; 10ms stall; size=1");
    let moments = [0, 95, 100, 100_000].map(|ms| at(&stays, ms));
    assert_eq!(moments, [(0, Some(90)), (1, Some(100)), (2, None), (2, None)]);
    assert_eq!(at(&Script::default(), 5), (0, None));
}

#[test]
fn what_is_drawn_is_spread_as_written() {
    let mut rng = Rng::new(1);
    let mut mean_and_max = |text: &str| {
        let latency = one(text).latency;
        let drawn: Vec<f64> =
            (0..20_000).map(|_| latency.draw(&mut rng).as_secs_f64() * 1e3).collect();
        let mut sorted = drawn.clone();
        sorted.sort_by(f64::total_cmp);
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        (mean, sorted[10_000], sorted[0], sorted[19_999])
    };
    let (mean, _, least, most) = mean_and_max("latency=1ms..5ms");
    assert!((2.95..3.05).contains(&mean) && least >= 1.0 && most <= 5.0, "{mean} {least} {most}");
    let (mean, median, ..) = mean_and_max("latency=exp:2ms");
    assert!((1.9..2.1).contains(&mean) && (1.33..1.44).contains(&median), "{mean} {median}");
    let (mean, median, ..) = mean_and_max("latency=lognormal:2ms:0.5");
    // The mean of a log-normal distribution is its median times e^(sigma^2 / 2).
    assert!((1.95..2.05).contains(&median) && (2.2..2.33).contains(&mean), "{mean} {median}");
    // No end of a distribution is beyond what a clock can count.
    let widest = one("latency=lognormal:3600s:10").latency;
    assert!((0..10_000).all(|_| widest.draw(&mut rng) <= MAX_LATENCY));

    let phase = one("errors=10%:503 reset=20% cut=30%");
    let mut counts = [0; 4];
    for _ in 0..10_000 {
        let at = match phase.outcome(&mut rng) {
            Outcome::Error(503) => 0,
            Outcome::Reset => 1,
            Outcome::Cut => 2,
            _ => 3,
        };
        counts[at] += 1;
    }
    let expected: [i32; 4] = [1_000, 2_000, 3_000, 4_000];
    let near = counts.iter().zip(expected).all(|(count, wanted)| (count - wanted).abs() < 200);
    assert!(near, "{counts:?}");
    let sizes: Vec<u64> = (0..1_000).map(|_| one("size=3..5").size.draw(&mut rng)).collect();
    assert!([3, 4, 5].iter().all(|size| sizes.iter().filter(|drawn| *drawn == size).count() > 250));
    let all = one("errors=100%");
    assert!((0..100).all(|_| all.outcome(&mut rng) == Outcome::Error(500)));
}
