//! Comparisons in small: what comes of the rounds, of a proxy that is not right, of a signal. The
//! proxies here are origins that answer by themselves; the real one needs a release build.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use ringlane_loadtest::compare::peers::{self, Candidate};
use ringlane_loadtest::compare::summary::{self, Figure};
use ringlane_loadtest::compare::turns::LoadAt;
use ringlane_loadtest::compare::{self, Asked, CompareError, Compared, Rates, Work, table};
use ringlane_loadtest::engine::Stop;

/// Something that answers by a script on the first port of the configuration that it is given.
fn scripted(name: &str, script: &str) -> Candidate {
    let find_port = "port=$(sed -n 's/.*port: \\([0-9]*\\).*/\\1/p' \"$1\")";
    let program = env!("CARGO_BIN_EXE_ringlane-loadtest");
    let line =
        format!("{find_port}; exec {program} origin --listen 127.0.0.1:$port --script '{script}'");
    let command = ["sh", "-c", &line, "sh", peers::CONFIG].map(str::to_owned);
    Candidate { name: name.to_owned(), peer: None, command: command.into() }
}

fn asked(candidates: Vec<Candidate>) -> Asked {
    Asked {
        candidates,
        works: vec![Work { body_bytes: 128, connections: 4 }],
        rates: Rates::PerSecond(vec![1_000.0]),
        turn: Duration::from_millis(100),
        rounds: 3,
        idle_connections: 0,
        proxy_core: 0,
        load_core: thread::available_parallelism().map_or(0, |cores| cores.get() - 1),
    }
}

fn run(asked: Asked) -> Result<Compared, CompareError> {
    compare::run(asked, &Stop::default(), |line| eprintln!("{line}"))
}

#[test]
fn each_proxy_has_its_turns_in_each_round() {
    let slow = scripted("slow", "size=128 latency=5ms");
    let mut asked = asked(vec![scripted("quick", "size=128"), slow]);
    asked.idle_connections = 20;
    let compared = run(asked).expect("a comparison");
    let turns = &compared.measured.turns;
    assert_eq!(compared.measured.rounds, 3);
    // Two loads for each of two proxies.
    assert_eq!(turns.len(), 3 * 2 * 2);
    for turn in turns {
        assert!(turn.faults.is_empty(), "{turn:?}");
        assert!(turn.cpu_ns > 0 && turn.load_cpu_ns > 0, "{turn:?}");
        match turn.load {
            LoadAt::Saturation => assert!(turn.answered >= 4, "{turn:?}"),
            LoadAt::Rate(_) => assert_eq!(turn.answered, 100, "{turn:?}"),
        }
    }
    // Who is first changes.
    let firsts: Vec<usize> = turns.iter().step_by(2).map(|turn| turn.lane).collect();
    assert!(firsts.contains(&0) && firsts.contains(&1), "{firsts:?}");
    let cpu = &compared.measured.round_cpu_ns;
    assert!(cpu.len() == 3 && cpu.iter().flatten().all(|nanos| *nanos > 0), "{cpu:?}");
    let works = summary::works(&compared);
    let p50 = works[0].rows.iter().find(|row| row.figure == Figure::P50).expect("a row");
    assert!(p50.medians[1].expect("a median") >= 5e6, "{p50:?}");
    assert!(p50.to_best[1].expect("a ratio").median > 1.0, "{p50:?}");
    assert_eq!(compared.idle.len(), 2);
    assert_eq!(compared.idle[0].steps.last().map(|step| step.0), Some(20));
    let text = table::text(&compared, "a test");
    assert!(text.contains("latency p99, 1,000/s") && text.contains("idle connections"), "{text}");
}

#[test]
fn what_goes_wrong_is_in_the_turns_and_in_the_table() {
    // Those that ask whether it answers at all are through when it begins to fail.
    let failing = scripted("failing", "2s size=128; size=128 errors=50%:503");
    let mut asked = asked(vec![failing]);
    (asked.turn, asked.rates) = (Duration::from_millis(500), Rates::PerSecond(vec![400.0]));
    let compared = run(asked).expect("a comparison");
    let last = compared.measured.turns.last().expect("turns");
    assert!(last.faults.contains_key("status 503"), "{last:?}");
    let text = table::text(&compared, "a test");
    assert!(text.contains("! failing was not right: ") && text.contains("status 503"), "{text}");
}

#[test]
fn a_proxy_that_does_not_pass_on_what_the_origin_sends_is_refused() {
    let wrong = |script: &str| run(asked(vec![scripted("wrong", script)]));
    for (script, expected) in [
        ("size=129", "its body has 129 bytes"),
        ("size=128 errors=100%:502", "status 502"),
        ("size=128 close_after=1", "closes the connection"),
        ("size=none", "it has ended"),
    ] {
        let error = wrong(script).expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains("wrong"), "{script}: {error}");
    }
}

#[test]
fn who_is_asked_to_stop_shows_the_rounds_that_are_complete() {
    static STOP: OnceLock<Stop> = OnceLock::new();
    let mut asked = asked(vec![scripted("one", "size=128")]);
    asked.rounds = 100_000;
    let ask_in_the_third = |line: &str| {
        if line.starts_with("round 2 of") {
            STOP.get_or_init(Stop::default).ask();
        }
    };
    let stop = STOP.get_or_init(Stop::default);
    let compared = compare::run(asked.clone(), stop, ask_in_the_third).expect("two rounds");
    assert_eq!(compared.measured.rounds, 2);
    assert_eq!(compared.measured.turns.len(), 2 * 2);
    assert!(compared.measured.turns.iter().all(|turn| turn.round < 2));
    let none = compare::run(asked, stop, |_| {});
    assert!(matches!(none, Err(CompareError::Stopped)), "{none:?}");
}

/// The same release build twice is one, and fails nothing.
#[test]
#[ignore = "needs a release build of ringlane, and two cores"]
fn a_proxy_is_as_good_as_itself() {
    let program = peers::ringlane_beside().expect("a build");
    let candidates = ["ringlane", "again"].map(|name| Candidate::ringlane(name, &program));
    let mut asked = asked(candidates.into());
    asked.works[0].connections = 64;
    asked.rates = Rates::PercentOfSlowest(vec![50.0]);
    (asked.turn, asked.rounds) = (Duration::from_millis(200), 30);
    let compared = run(asked).expect("a comparison");
    println!("{}", table::text(&compared, "a test"));
    for turn in &compared.measured.turns {
        assert!(turn.faults.is_empty(), "{turn:?}");
    }
    for row in &summary::works(&compared)[0].rows {
        if matches!(row.figure, Figure::Cpu | Figure::Throughput) {
            let ratio = row.to_first[1].expect("a ratio");
            // Two processes differ by more than chance has it within each: memory lies elsewhere.
            let error = ratio.error.expect("thirty rounds");
            assert!(error < 0.2, "a machine on which nothing can be measured: {row:?}");
            assert!((ratio.median - 1.0).abs() <= (5.0 * error).max(0.05), "{row:?}");
        }
    }
}
