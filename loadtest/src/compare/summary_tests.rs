//! A comparison made by hand, and what is shown of it: figures, table, Markdown, JSON, plots.

use std::path::Path;

use super::*;
use crate::compare::idle::Idle;
use crate::compare::peers::{Candidate, Peer};
use crate::compare::turns::Measured;
use crate::compare::{Asked, Machine, Rates, json, plots, table};
use crate::plot;

/// CPU time per request in us: ours, ours again, haproxy, nginx. The machine slows down from round
/// to round, for all of them alike.
const CPU_US: [f64; 4] = [10.0, 10.0, 20.0, 25.0];
const ROUNDS: u32 = 7;

fn turn(round: u32, lane: usize, load: LoadAt) -> Turn {
    let slower = f64::from(round + 1);
    let answered = 1_000;
    let cpu_us = CPU_US[lane] * slower * answered as f64;
    Turn {
        round,
        work: 0,
        lane,
        load,
        answered,
        wall: Duration::from_nanos((cpu_us * 1_250.0) as u64),
        cpu_ns: (cpu_us * 1_000.0) as u64,
        load_cpu_ns: (cpu_us * 500.0) as u64,
        p50_ns: (cpu_us * 3.0) as u64,
        // nginx has the shortest.
        p99_ns: if lane == 3 { 1_000 } else { (cpu_us * 9.0) as u64 },
        faults: BTreeMap::new(),
    }
}

fn sample() -> Compared {
    let ours = Candidate::ringlane("ringlane", Path::new("/x/ringlane"));
    let again = Candidate { name: "again".into(), ..ours.clone() };
    let peers = [Peer::Haproxy, Peer::Nginx].map(|peer| peer.candidate(Path::new("/x/peer")));
    let mut turns = Vec::new();
    for round in 0..ROUNDS {
        for lane in 0..CPU_US.len() {
            for load in [LoadAt::Saturation, LoadAt::Rate(0)] {
                turns.push(turn(round, lane, load));
            }
        }
    }
    turns[2].faults = BTreeMap::from([("status 503".to_owned(), 1_234)]);
    let idle = |bytes: f64| Idle { steps: vec![(500, bytes * 500.0), (1_000, bytes * 1_000.0)] };
    Compared {
        asked: Asked {
            candidates: vec![ours, again, peers[0].clone(), peers[1].clone()],
            works: vec![Work { body_bytes: 128, connections: 64 }],
            rates: Rates::PercentOfSlowest(vec![50.0]),
            turn: Duration::from_millis(200),
            rounds: ROUNDS,
            idle_connections: 1_000,
            proxy_core: 0,
            load_core: 1,
        },
        machine: Machine { cpu: "A CPU".into(), cores: 2, kernel: "6.18".into() },
        versions: ["ringlane 1", "ringlane 1", "HAProxy 2", "nginx 1"].map(String::from).into(),
        peak_bytes: vec![3 << 20; 4],
        idle: [600.0, 600.0, 3_000.0, 1_200.0].map(idle).into(),
        measured: Measured {
            rates: vec![vec![20_000.0]],
            rounds: ROUNDS,
            // 2,000 answers in each round, at a tenth more than in their turns.
            round_cpu_ns: (0..ROUNDS)
                .map(|round| CPU_US.map(|us| (us * f64::from(round + 1) * 2.2e6) as u64).into())
                .collect(),
            turns,
        },
    }
}

fn find(rows: &[Row], figure: Figure, load: LoadAt) -> &Row {
    let found = rows.iter().find(|row| row.figure == figure && row.load == load);
    found.unwrap_or_else(|| panic!("no {figure:?} at {load:?}"))
}

#[test]
fn each_figure_is_compared_with_its_best_peer() {
    let works = works(&sample());
    let rows = &works[0].rows;
    for load in [LoadAt::Saturation, LoadAt::Rate(0)] {
        let cpu = find(rows, Figure::Cpu, load);
        assert_eq!(cpu.medians[0], Some(40_000.0));
        assert_eq!(cpu.best, Some(2));
        let ratios: Vec<_> = cpu.to_best.iter().map(|it| it.map(|it| it.median)).collect();
        assert_eq!(ratios, [Some(0.5), Some(0.5), None, Some(1.25)]);
        let again = cpu.to_first[1].expect("a ratio");
        assert_eq!((again.median, again.error, again.rounds), (1.0, Some(0.0), 7));
        assert_eq!(find(rows, Figure::P99, load).best, Some(3));
    }
    let throughput = find(rows, Figure::Throughput, LoadAt::Saturation);
    assert_eq!(throughput.best, Some(2), "more is better");
    assert!((throughput.to_best[0].expect("a ratio").median - 2.0).abs() < 1e-9);
    let busy = find(rows, Figure::ProxyBusy, LoadAt::Saturation);
    assert!((busy.medians[3].expect("a share") - 80.0).abs() < 0.01);
    assert_eq!(busy.best, None);
}

#[test]
fn without_peers_the_first_is_what_ratios_are_to() {
    let mut compared = sample();
    compared.asked.candidates.truncate(2);
    compared.measured.turns.retain(|turn| turn.lane < 2);
    compared.versions.truncate(2);
    compared.idle.truncate(2);
    let works = works(&compared);
    let cpu = find(&works[0].rows, Figure::Cpu, LoadAt::Saturation);
    assert_eq!((cpu.best, cpu.to_best[0]), (Some(0), None));
    assert!(cpu.to_best[1].is_some_and(|ratio| ratio.median == 1.0));
    assert_eq!(idle(&compared), (vec![Some(600.0); 2], Some(0)));
    assert!(table::text(&compared, "x").contains("the ratio to ringlane (=)"));
}

#[test]
fn a_proxy_that_answered_nothing_has_no_figures() {
    let mut compared = sample();
    for turn in compared.measured.turns.iter_mut().filter(|turn| turn.lane == 2) {
        turn.answered = 0;
    }
    let works = works(&compared);
    let cpu = find(&works[0].rows, Figure::Cpu, LoadAt::Saturation);
    assert_eq!((cpu.medians[2], cpu.best), (None, Some(3)));
    assert!((cpu.to_best[0].expect("a ratio").median - 0.4).abs() < 1e-9);
}

/// A 503 costs little.
#[test]
fn a_peer_that_is_not_right_is_no_measure() {
    let mut compared = sample();
    compared.measured.turns[4].faults = BTreeMap::from([("status 503".to_owned(), 1)]);
    let works = works(&compared);
    let cpu = find(&works[0].rows, Figure::Cpu, LoadAt::Saturation);
    assert_eq!((cpu.best, cpu.medians[2]), (Some(3), Some(80_000.0)));
}

#[test]
fn whole_rounds_have_what_is_done_between_turns() {
    let row = whole(&sample()).expect("rounds");
    let round = |value: Option<f64>| value.map(f64::round);
    assert_eq!(round(row.medians[0]), Some(44_000.0));
    assert_eq!(row.best, Some(2));
    assert!((row.to_best[0].expect("a ratio").median - 0.5).abs() < 1e-6);
}

#[test]
fn the_table_says_all_of_it() {
    let text = table::text(&sample(), "ringlane-loadtest compare --twice");
    for expected in [
        "A CPU, 2 cores, Linux 6.18",
        "ringlane-loadtest compare --twice",
        "7 rounds, turns of 200ms; proxies on core 0, load and origins on core 1",
        "haproxy: HAProxy 2 (/x/peer -db -f {config}); at most 3.00 MiB of memory",
        "the ratio to the best peer of the line (=)",
        "128 B of body, 64 connections",
        "! again was not right: status 503: 1,234",
        "128 B of body, 64 connections: ratios to ringlane",
    ] {
        assert!(text.contains(expected), "no `{expected}` in\n{text}");
    }
    let line = |begins: &str| {
        let found = text.lines().find(|line| line.starts_with(begins));
        found
            .unwrap_or_else(|| panic!("no {begins}\n{text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    let cpu = line("CPU per request, 20,000/s").join(" ");
    let ours = "40.0 \u{b5}s 0.500 \u{b1}0.000";
    let peers = "80.0 \u{b5}s = 100 \u{b5}s 1.250 \u{b1}0.000";
    assert!(cpu.ends_with(&format!("{ours} {ours} {peers}")), "{cpu}");
    let whole = line("CPU per request  ").join(" ");
    assert!(whole.contains("0.500") && whole.contains("88.0 \u{b5}s ="), "{whole}");
    let idle = line("each of the last").join(" ");
    assert_eq!(
        idle,
        "each of the last three quarters 600 B 0.500 600 B 0.500 3000 B 2.500 1200 B ="
    );
}

#[test]
fn markdown_has_rows_as_long_as_its_head() {
    let mut compared = sample();
    compared.asked.candidates[2].command.push("a|b".into());
    let text = table::markdown(&compared, "x | y");
    assert!(text.contains("x \\| y") && text.contains("a\\|b"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "{text}");
    for row in rows {
        let cells = row.matches('|').count();
        assert!(cells == 6 || cells == 3, "{row}");
    }
}

#[test]
fn json_has_each_turn() {
    let text = json::text(&sample(), "x");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["turns"].as_array().map(Vec::len), Some(56));
    assert_eq!(value["turns"][1]["rate_per_second"], 20_000.0);
    assert_eq!(value["turns"][2]["faults"]["status 503"], 1_234);
    assert_eq!(value["works"][0]["figures"][0]["best"], "haproxy");
    let cpu = &value["works"][0]["figures"][1];
    assert_eq!(cpu["figure"], "cpu_ns_per_request");
    assert_eq!(cpu["proxies"]["ringlane"]["to_best"]["median"], 0.5);
    assert_eq!(cpu["proxies"]["haproxy"]["to_best"], serde_json::Value::Null);
    assert_eq!(value["whole_rounds"]["best"], "haproxy");
    assert_eq!(value["round_cpu_ns"].as_array().map(Vec::len), Some(7));
    assert_eq!(value["idle"]["proxies"]["nginx"]["bytes_per_connection"], 1_200.0);
}

#[test]
fn each_metric_has_a_plot_with_all_proxies() {
    let charts = plots::charts(&sample());
    let names: Vec<&str> = charts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["cpu-128x64", "p50-128x64", "p99-128x64", "throughput-128x64", "memory"]);
    for (name, chart) in &charts {
        let points: Vec<usize> = chart.series.iter().map(|series| series.points.len()).collect();
        let expected = if name.starts_with("throughput") { ROUNDS as usize } else { 2 };
        assert_eq!(points, [expected; 4], "{name}");
        let svg = plot::svg(chart).expect("a plot");
        for proxy in ["ringlane", "again", "haproxy", "nginx"] {
            assert!(svg.contains(proxy), "{name} without {proxy}");
        }
    }
}

#[test]
fn times_have_three_digits() {
    let shown = [1.0, 9.994, 12.34, 999.4, 1_234.0, 99_960.0, 1.5e6, 2e9].map(time);
    let micro = ["1.23 \u{b5}s", "100 \u{b5}s"];
    let expected =
        ["1.00 ns", "9.99 ns", "12.3 ns", "999 ns", micro[0], micro[1], "1.50 ms", "2.00 s"];
    assert_eq!(shown, expected);
}
