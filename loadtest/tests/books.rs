//! The books of both sides agree: what the generator sent, what came of it, and what an origin
//! counted, whatever goes wrong in between.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use common::{constant, origins, plan, wait_until};
use ringlane_loadtest::engine::{self, PlannedLoad, RunError, Stop};
use ringlane_loadtest::record::{Failure, Record};
use ringlane_loadtest::schedule::Arrivals;

const SECOND: Duration = Duration::from_secs(1);

fn balanced(total: &Record) {
    let ended = total.answered_total() + total.sent_and_failed();
    assert_eq!(total.sent_total() as i64, ended as i64 + total.in_flight());
}

/// Every kind of fault at once, on two threads and two origins, on connections that come and go.
#[test]
fn sent_is_answered_and_failed_and_what_the_origin_counted() {
    let faults = "300ms latency=exp:1ms errors=2%:503 reset=1% cut=1% close_after=50; 100ms stall";
    let origins = origins(&[faults, "size=1..9k chunked latency=200us..3ms close_after=7"]);
    let load = PlannedLoad::Open(Arrivals::Poisson { per_second: 3_000.0 });
    let mut plan = plan(origins.addresses(), load, 2 * SECOND);
    plan.threads = vec![None; 2];
    plan.churn = Some(20);
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    let (total, counted) = (&run.total, origins.counts().total);
    println!("seed {}; {counted:?}", plan.seed);
    balanced(total);
    assert_eq!(total.in_flight(), 0);
    assert_eq!(total.never_sent_total() + total.failures(Failure::Connect), 0);
    assert!(total.sent_total() > 5_000, "{}", total.sent_total());

    assert_eq!(counted.requests, total.sent_total(), "none was lost");
    assert_eq!(counted.ids.different, total.sent_total());
    assert_eq!(counted.ids.repeated, 0, "none came twice");
    assert_eq!(counted.answered, total.answered_total());
    assert_eq!(counted.statuses.get(&503).copied().unwrap_or(0), total.status(503));
    assert_eq!(counted.resets + counted.cuts, total.sent_and_failed());
    assert!(counted.resets > 0 && counted.cuts > 0 && total.status(503) > 0);
    assert_eq!(counted.bad_requests, 0);
}

#[test]
fn a_closed_loop_balances_too_and_ends_on_its_count() {
    let origins = origins(&["latency=exp:300us reset=1% close_after=9"]);
    let mut plan = plan(origins.addresses(), PlannedLoad::Closed, 10 * SECOND);
    plan.request_count = Some(20_000);
    plan.threads = vec![None; 2];
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    let counted = origins.counts().total;
    balanced(&run.total);
    assert_eq!((run.total.sent_total(), run.total.in_flight()), (20_000, 0));
    assert_eq!((counted.requests, counted.ids.repeated), (20_000, 0));
    assert_eq!(counted.answered, run.total.answered_total());
    assert!(run.elapsed < 10 * SECOND, "{:?}", run.elapsed);
}

/// What is under way when somebody ends the run is neither answered nor failed.
#[test]
fn what_is_stopped_is_in_flight() {
    let origins = origins(&["stall"]);
    let plan = plan(origins.addresses(), constant(1_000.0), 60 * SECOND);
    let stop = Stop::default();
    let begun = Instant::now();
    let run = engine::run(&plan, &stop, |row, _| {
        if row.second == 1 {
            stop.ask();
        }
    });
    let run = run.expect("a run");
    assert!(begun.elapsed() < 20 * SECOND);
    balanced(&run.total);
    // Each connection carries one; the others wait for a connection, and are given up.
    assert_eq!((run.total.sent_total(), run.total.in_flight()), (64, 64));
    assert!(run.total.never_sent_total() >= 1_900, "{}", run.total.never_sent_total());
}

#[test]
fn a_request_that_has_no_answer_in_time_has_failed() {
    let origins = origins(&["stall"]);
    let mut plan = plan(origins.addresses(), constant(100.0), SECOND / 5);
    plan.timeout = SECOND / 2;
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    balanced(&run.total);
    assert_eq!(run.total.failures(Failure::Timeout), 20);
    assert_eq!(run.total.sent_total(), 20);
}

/// 500 requests, of which the first 250 are the warm-up's.
#[test]
fn the_warm_up_is_sent_and_not_recorded() {
    let origins = origins(&[""]);
    let mut plan = plan(origins.addresses(), constant(1_000.0), SECOND / 2);
    plan.warmup = SECOND / 4;
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    assert_eq!((run.total.sent_total(), origins.counts().total.requests), (250, 500));
    // A machine that is busy may send the last one late.
    assert!(run.elapsed >= SECOND / 4 && run.elapsed < SECOND, "{:?}", run.elapsed);
}

#[test]
fn urls_are_asked_for_by_their_weights() {
    let origins = origins(&["", ""]);
    let mut plan = plan(origins.addresses(), constant(4_000.0), SECOND);
    plan.requests[1].weight = 3;
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    let counts = origins.counts();
    let served: Vec<u64> = counts.origins.iter().map(|(_, served)| served.requests).collect();
    assert_eq!(served.iter().sum::<u64>(), run.total.sent_total());
    // Of 4,000 drawn, a quarter: +-27 is one standard deviation.
    assert!(served[0].abs_diff(1_000) < 160, "{served:?} with seed {}", plan.seed);
}

/// A server that goes away: requests fail as they are due.
#[test]
fn refused_connections_are_failures_of_requests_that_were_not_sent() {
    let first = origins(&["close_after=1"]);
    let address = first.addresses()[0];
    let plan = plan(&[address], constant(1_000.0), 3 * SECOND);
    let running = thread::spawn(move || engine::run(&plan, &Stop::default(), |_, _| {}));
    wait_until(|| first.counts().total.requests >= 300);
    drop(first);
    let run = running.join().expect("a thread").expect("a run");
    balanced(&run.total);
    assert!(run.total.answered_total() >= 300, "{}", run.total.answered_total());
    assert!(run.total.failures(Failure::Connect) > 1_000, "{:?}", run.total.statuses().last());
    let all = run.total.sent_total() + run.total.failures(Failure::Connect);
    assert_eq!(all + run.total.never_sent_total(), 3_000);
}

/// A server that closes after each answer and does not say so, as one that is shutting down: what
/// is due next goes over a connection of its own.
#[test]
fn a_close_that_comes_with_the_answer_is_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let mut plan = plan(&[address], constant(200.0), SECOND);
    (plan.connections, plan.timeout) = (4, 20 * SECOND);
    let server = thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    // The run is over.
                    _ => return,
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).expect("written");
        }
    });
    let run = engine::run(&plan, &Stop::default(), |_, _| {}).expect("a run");
    server.join().expect("the server");
    balanced(&run.total);
    assert_eq!((run.total.errors(), run.total.answered_total()), (0, 200));
    let most = Duration::from_nanos(run.total.latency().max());
    assert!(most < 10 * SECOND, "{most:?}");
}

#[test]
fn a_server_that_is_not_there_is_said_at_once() {
    let nobody: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address")
    };
    let mut plan = plan(&[nobody], constant(1_000.0), 60 * SECOND);
    plan.threads = vec![None; 2];
    let refused = engine::run(&plan, &Stop::default(), |_, _| {}).expect_err("nobody listens");
    assert!(matches!(refused, RunError::Connect(_)), "{refused}");
    let said = refused.to_string();
    assert!(said.contains(&nobody.to_string()) && said.contains("refused"), "{said}");
}
