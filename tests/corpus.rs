//! The project's own corpus of hostile and correct bytes: `tests/corpus/*.md`, over DESIGN section
//! 5 and what RFC 9112 asks of an intermediary.
//!
//! Each case is run over the codec alone, whole, byte by byte and at every split (at drawn places
//! where it is long), and over sockets against the real proxy, whole, byte by byte and split at a
//! drawn place. What comes out on either side is judged by a strict reader that shares no code with
//! the proxy, and is to be, byte for byte, what the case says.

mod common;
#[path = "common/corpora.rs"]
mod corpora;
#[path = "common/corpus/mod.rs"]
mod corpus;
#[path = "common/strict.rs"]
mod strict;

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use corpus::answers::{self, Event as Sent};
use corpus::requests::{self, Asked, Event};
use corpus::sockets::{self, Way, Worker};
use corpus::{Case, Step, case, shown};
use strict::{Kind, Read};

/// Clients at once: mostly they wait for each other.
const WORKERS: usize = 8;

#[test]
fn every_case_comes_out_as_it_says() {
    let cases = cases();
    let mut failures = Vec::new();
    let mut split_count = 0;
    for case in cases.iter().filter(|case| !case.only_sockets) {
        match over_the_codec(case) {
            Ok(splits) => split_count += splits,
            Err(problem) => failures.push(format!("{}: codec: {problem}", case.place)),
        }
    }
    let (over_sockets, wrong) = over_sockets(&cases);
    split_count += over_sockets;
    failures.extend(wrong);
    println!("corpus: {} cases, {split_count} splits, {} failures", cases.len(), failures.len());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(cases.len() >= FEWEST_CASES, "only {} cases were found", cases.len());
}

/// So that a reader that overlooks cases shows.
const FEWEST_CASES: usize = 800;

/// The tables of the corpus' README name what is there.
#[test]
fn the_cases_that_requirements_name_exist() {
    let cases = case::read(&folder()).unwrap_or_else(|wrong| panic!("\n{wrong}"));
    let names: BTreeSet<String> = cases
        .iter()
        .map(|case| format!("{}: {}", case.file.trim_end_matches(".md"), case.title))
        .collect();
    assert_eq!(names.len(), cases.len(), "two cases of a file have the same title");
    let text = std::fs::read_to_string(folder().join("README.md")).expect("it is there");
    let tables = text.split_once("## What RFC 9112").expect("its tables").1;
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let named =
        rows.filter_map(|row| row.rsplit_once(" | ")).flat_map(|(_, cell)| cell.split("; "));
    let named: Vec<&str> = named.filter(|name| *name != "cases").collect();
    let missing: Vec<&str> = named.iter().copied().filter(|it| !names.contains(*it)).collect();
    assert!(missing.is_empty(), "no such cases:\n{}", missing.join("\n"));
    assert!(named.len() > 100, "only {} cases were found in the tables", named.len());
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn cases() -> Vec<Case> {
    let mut cases = case::read(&folder()).unwrap_or_else(|wrong| panic!("\n{wrong}"));
    // For looking at some: a part of their places.
    if let Ok(wanted) = std::env::var("RINGLANE_CASES") {
        cases.retain(|case| case.place.contains(&wanted));
    }
    cases
}

/// How many splits there were.
fn over_the_codec(case: &Case) -> Result<usize, String> {
    let input = case.request_bytes();
    let cut = case.steps.contains(&Step::Cut);
    let judge = |pieces: &[&[u8]], way: &str| {
        let found = requests::run(pieces, cut, case.router)
            .map_err(|problem| format!("{way}: {problem}"))?;
        match judge_requests(case, &found) {
            Ok(()) => Ok(found.asked),
            Err(problem) => Err(format!("{way}: {problem}")),
        }
    };
    let asked = judge(&[&input], "whole")?;
    let mut count =
        corpora::splits(&input, &mut case.rng(), |pieces, way| judge(pieces, way).map(drop))?;
    if case.is_scripted() {
        count += answers_over_the_codec(case, &asked)?;
    }
    Ok(count)
}

/// What is to come of the client's bytes.
fn judge_requests(case: &Case, found: &requests::Outcome) -> Result<(), String> {
    let scripted = case.is_scripted();
    let mut expected: Vec<String> = Vec::new();
    for step in &case.steps {
        match step {
            Step::Forwarded(message) => expected.push(show("forwarded", &message.bytes)),
            Step::Client { bytes, of_its_own: true } => expected.push(show("answered", bytes)),
            Step::Refused { status, label } if !scripted => {
                expected.push(format!("refused {status} {label}"));
            }
            _ => {}
        }
    }
    let events = found.events.iter().map(|event| match event {
        Event::Forwarded(bytes) => show("forwarded", bytes),
        Event::Answered(bytes) => show("answered", bytes),
        Event::Refused(reason) => format!("refused {} {}", reason.status(), reason.label()),
    });
    let events: Vec<String> = events.collect();
    if events != expected {
        return Err(format!("found\n      {events:#?}\n  not {expected:#?}"));
    }
    if !scripted && found.is_open != case.client_open {
        return Err(format!("the client's connection is open: {}", found.is_open));
    }
    if found.is_within && found.is_open {
        return Err("a message has not ended".into());
    }
    Ok(())
}

fn answers_over_the_codec(case: &Case, asked: &[Asked]) -> Result<usize, String> {
    let (input, closes) = case.origin_bytes();
    let judge = |pieces: &[&[u8]], way: &str| {
        answers::run(asked, pieces, closes, case.router)
            .and_then(|found| judge_answers(case, asked, &found, way == "whole"))
            .map_err(|problem| format!("answers {way}: {problem}"))
    };
    judge(&[&input], "whole")?;
    corpora::splits(&input, &mut case.rng(), |pieces, way| judge(pieces, way))
}

fn judge_answers(
    case: &Case,
    asked: &[Asked],
    found: &answers::Outcome,
    whole: bool,
) -> Result<(), String> {
    let mut expected = Vec::new();
    let mut asked = asked.iter();
    let mut refused = None;
    for step in &case.steps {
        match step {
            Step::Client { bytes, of_its_own: false } => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let is_head = |asked: &Asked| asked.method == ringlane::http::Method::Head;
                    let head = asked.clone().next().is_some_and(is_head);
                    match strict::read(rest, Kind::AnswerTo { head }, true)? {
                        // What comes before it breaks off.
                        Read::Part => break,
                        Read::Whole(message) => {
                            rest = &rest[message.len..];
                            if !message.is_interim() {
                                asked.next();
                            }
                            expected.push(show("sent", &message.bytes));
                        }
                    }
                }
            }
            Step::Refused { label, .. } => {
                refused = Some(label);
                expected.push(format!("refused {label}"));
            }
            Step::Broken { label } => expected.push(format!("broken {label}")),
            _ => {}
        }
    }
    let events = found.events.iter().map(|event| match event {
        Sent::Sent(bytes) => show("sent", bytes),
        Sent::Refused(reason) => format!("refused {}", reason.label()),
        // What can be refused as long as all of it is here cannot once a part has been sent on.
        Sent::Broken(reason) if !whole && refused.is_some_and(|it| it == reason.label()) => {
            format!("refused {}", reason.label())
        }
        Sent::Broken(reason) => format!("broken {}", reason.label()),
    });
    let is_broken = found.events.iter().any(|event| matches!(event, Sent::Broken(_)));
    let events: Vec<String> = events.collect();
    if events != expected {
        return Err(format!("found\n      {events:#?}\n  not {expected:#?}"));
    }
    let open = (found.client_open, Some(found.upstream_open));
    match open == (case.client_open && !is_broken, case.upstream_open) {
        true => Ok(()),
        false => Err(format!("open are the client's and the upstream's connection: {open:?}")),
    }
}

/// For comparing and for reading; what is left out of it differs in its hash.
fn show(what: &str, bytes: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{what} {} #{:x}", shown(bytes), hasher.finish() >> 40)
}

/// How many splits there were, and what failed.
fn over_sockets(cases: &[Case]) -> (usize, Vec<String>) {
    let (proxy, workers) = sockets::start(WORKERS);
    let (next, split_count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for mut worker in workers {
            let (next, split_count, failures) = (&next, &split_count, &failures);
            scope.spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match over_a_socket(&mut worker, case) {
                        Ok(splits) => drop(split_count.fetch_add(splits, Ordering::SeqCst)),
                        Err(problem) => {
                            let problem = format!("{}: sockets: {problem}", case.place);
                            failures.lock().expect("nobody panics").push(problem);
                        }
                    }
                }
            });
        }
    });
    proxy.stop();
    (split_count.into_inner(), failures.into_inner().expect("nobody panics"))
}

fn over_a_socket(worker: &mut Worker, case: &Case) -> Result<usize, String> {
    let split = Way::Split(case.rng().next() as usize >> 1);
    for way in [Way::Whole, Way::ByByte, split] {
        // Byte by byte a long one costs as many system calls.
        if way == Way::ByByte && case.request_bytes().len() > corpora::SPLIT_EVERYWHERE_BYTES {
            continue;
        }
        worker.run(case, way).map_err(|problem| format!("{way:?}: {problem}"))?;
    }
    Ok(2)
}
