//! What the generator claims of itself, beside wrk on the same server: it sees what wrk misses, it
//! keeps the rate that was asked, and costs no more. Needs wrk, and a release build that has the
//! machine for itself.

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use common::{constant, origins, plan};
use ringlane_loadtest::engine::{self, PlannedLoad, Stop};

const SECOND: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 16;

/// The server stands still for one second in ten. Of requests that are due at any time a tenth
/// falls into it and waits for what is left of it: evenly spread up to a second, so that 99 % wait
/// for less than 0.9 s. wrk's few connections wait once, and it counts sixteen long ones.
#[test]
#[ignore = "needs wrk, and takes 20 s"]
fn a_server_that_stops_cannot_hide() {
    let origins = origins(&["9s size=128; 1s stall"]);
    let address = origins.addresses()[0];
    let mut plan = plan(&[address], constant(2_000.0), 10 * SECOND);
    plan.connections = CONNECTIONS;
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    let p99 = Duration::from_nanos(run.total.latency().value_at_quantile(0.99));
    let service = Duration::from_nanos(run.total.service().value_at_quantile(0.99));
    let wrk = wrk_p99(address);
    println!("p99 {p99:?} from the intended start, {service:?} from the send; wrk's {wrk:?}");
    assert!(p99 > Duration::from_millis(850) && p99 < Duration::from_millis(950), "{p99:?}");
    assert!(wrk < Duration::from_millis(100), "{wrk:?}");
    assert_eq!(run.total.errors() + run.total.never_sent_total(), 0);
}

#[test]
#[ignore = "measures, and takes 20 s"]
fn the_rate_is_kept_up_to_four_fifths_of_saturation() {
    let origins = origins(&[""]);
    let closed = plan(origins.addresses(), PlannedLoad::Closed, 2 * SECOND);
    let closed = engine::run(&closed, &Stop::default(), |_, _| {}).expect("a run");
    let saturation = closed.answered_per_second();
    for share in [0.2, 0.5, 0.8] {
        let rate = (saturation * share).round();
        let plan = plan(origins.addresses(), constant(rate), 4 * SECOND);
        let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
        let achieved = run.rate_achieved().expect("an open loop");
        println!("{rate} of {saturation:.0} a second: {achieved}");
        assert!((achieved - 1.0).abs() < 0.001, "{achieved} at {rate}");
        assert_eq!(run.total.errors() + run.total.never_sent_total(), 0);
    }
}

fn wrk_p99(address: SocketAddr) -> Duration {
    let url = format!("http://{address}/");
    let connections = format!("-c{CONNECTIONS}");
    let ran = Command::new("wrk").args(["-t1", &connections, "-d10s", "--latency", &url]).output();
    let ran = ran.expect("wrk");
    let text = String::from_utf8_lossy(&ran.stdout);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("99%"));
    let value = line.unwrap_or_else(|| panic!("wrk said: {text}")).trim();
    let digits = value.find(|c: char| c.is_ascii_alphabetic()).expect("a unit");
    let scale = match &value[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        unit => panic!("wrk's unit {unit}"),
    };
    Duration::from_secs_f64(value[..digits].parse::<f64>().expect("a number") * scale)
}
