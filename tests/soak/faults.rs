//! Clients and origins that do everything wrong: none of it may leave anything behind.
//!
//! What they are answered is looked at where there is but one right answer.

use std::io::ErrorKind;
use std::time::Duration;

use super::Load;
use super::common::{Rng, Wire};
use super::healthy::Outcome;
use super::narrow::narrow;

/// What is malformed, and what it is answered.
const MALFORMED: [(&str, u16); 14] = [
    ("nonsense\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST /web/u HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
    ("POST /web/u HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
    ("GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404),
];
/// What the failing origin can do to an answer; the first ones to all of a request's attempts.
const FAILURES: [&str; 8] = ["503", "500", "none", "reset", "garbage", "head", "half", "early"];
/// Requests that meet in front of the service of few places.
const CROWD: usize = 12;
const GET: &str = "GET /web/n/5000000 HTTP/1.1\r\nHost: h\r\n\r\n";

fn expect(wire: &mut Wire, status: u16, what: &str) -> Outcome {
    match wire.try_answer_to("GET") {
        Ok(answer) if answer.status() == status => Ok(1),
        Ok(answer) => Err(format!("{what}: {} {:?}", answer.status(), answer.head.reason())),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// A request that is none is refused, and its connection closed.
pub(crate) fn malformed(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let (bytes, status) = MALFORMED[rng.up_to(MALFORMED.len() as u64) as usize - 1];
    let mut wire = Wire::connect(load.address);
    let behind_another = rng.up_to(2) == 1;
    let first = if behind_another { "GET /web/n/2 HTTP/1.1\r\nHost: h\r\n\r\n" } else { "" };
    let _ = wire.try_send(format!("{first}{bytes}"));
    if behind_another {
        expect(&mut wire, 200, "before malformed")?;
    }
    expect(&mut wire, status, bytes)
}

/// Heads with more fields, and more bytes, than there may be.
pub(crate) fn bombs(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut head = "GET / HTTP/1.1\r\nHost: h\r\n".to_owned();
    let (fields, bytes) = if rng.up_to(2) == 1 { (200, 10) } else { (100, 1_000) };
    for number in 0..fields {
        head.push_str(&format!("X-{number}: {}\r\n", "y".repeat(bytes)));
    }
    let mut wire = Wire::connect(load.address);
    let _ = wire.try_send(head + "\r\n");
    expect(&mut wire, 431, "a bomb")
}

/// Goes away in the middle of its request, of its answer, or before either.
pub(crate) fn resets(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = Wire::connect(load.address);
    let upload = "POST /web/u HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n";
    match rng.up_to(8) {
        1 => {}
        2 => drop(wire.try_send("GET /web/n/5 HTTP/1.1\r\nHo")),
        3 => drop(wire.try_send("GET /web/d/20/5 HTTP/1.1\r\nHost: h\r\n\r\n")),
        4 => {
            let _ = wire.try_send(GET);
            let _ = wire.try_head();
        }
        5 => {
            let _ = wire.try_send(upload);
            let _ = wire.try_send(load.pattern.at(0, 100_000));
            // Half of it, and the word that this is all.
            wire.finish();
            let _ = wire.some();
            return Ok(1);
        }
        6 => {
            let head = "GET /web/ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\n";
            let _ = wire.try_send(format!("{head}Upgrade: websocket\r\n\r\n"));
            let _ = wire.try_head();
            let _ = wire.try_send(load.pattern.at(0, 50_000));
        }
        7 => {
            // Many answers on their way to somebody who has gone.
            let _ = wire.try_send("GET /web/n/30000 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20));
            let _ = wire.try_head();
        }
        _ => {
            let _ = wire.try_send(upload);
            let _ = wire.try_send(load.pattern.at(0, 400_000));
        }
    }
    match rng.up_to(2) {
        1 => wire.reset(),
        _ => drop(wire),
    }
    Ok(1)
}

/// The origin fails: what comes of it is an answer, or an end that is not clean.
pub(crate) fn failures(load: &Load, wire: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let what = FAILURES[rng.up_to(FAILURES.len() as u64) as usize - 1];
    let body = if rng.up_to(2) == 1 { 2_000 } else { 200_000 };
    let service = if rng.up_to(3) == 1 { "alone" } else { "flaky" };
    let connection = wire.get_or_insert_with(|| Wire::connect(load.address));
    let head = format!("PUT /{service}/{what} HTTP/1.1\r\nHost: h\r\nContent-Length: {body}\r\n");
    let _ = connection.try_send(format!("{head}\r\n"));
    let _ = connection.try_send(load.pattern.at(0, body));
    match connection.try_answer_to("PUT") {
        Ok(answer) if answer.head.get("connection") == Some("close") => *wire = None,
        Ok(answer) if [200, 500, 502, 503, 504].contains(&answer.status()) => {}
        Ok(answer) => return Err(format!("{what}: {}", answer.status())),
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            return Err(format!("{what}: no answer"));
        }
        Err(_) => *wire = None,
    }
    Ok(1)
}

/// The origin takes longer than it may.
pub(crate) fn timeouts(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = Wire::connect(load.address);
    let path = if rng.up_to(2) == 1 { "/alone/stall" } else { "/hasty/d/1000/5" };
    let _ = wire.try_send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    match wire.try_answer_to("GET") {
        // The endpoint may just be out.
        Ok(answer) if [503, 504].contains(&answer.status()) => Ok(1),
        Ok(answer) => Err(format!("{path}: {}", answer.status())),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// More than a service of few places takes at once.
pub(crate) fn crowds(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut crowd: Vec<Wire> = (0..CROWD).map(|_| Wire::connect(load.address)).collect();
    for wire in &mut crowd {
        let _ = wire.try_send("GET /few/d/30/5 HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    if rng.up_to(3) == 1 {
        // Some do not wait for it.
        crowd.drain(..CROWD / 2).for_each(Wire::reset);
    }
    for wire in &mut crowd {
        match wire.try_answer_to("GET") {
            Ok(answer) if [200, 503].contains(&answer.status()) => {}
            other => return Err(format!("crowd: {other:?}")),
        }
    }
    Ok(crowd.len() as u64)
}

/// Begins something and is silent from then on, until the proxy has had enough.
pub(crate) fn silence(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = match rng.up_to(6) {
        1 => Wire::connect(load.address),
        2 => sent(load, "GET /web/n/5 HTTP/1.1\r\nHost:"),
        3 => sent(load, "POST /web/u HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"),
        4 => {
            let head = "GET /web/ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\n";
            sent(load, &format!("{head}Upgrade: websocket\r\n\r\n"))
        }
        5 => {
            // Takes nothing of its answer.
            let mut wire = narrow(load.address);
            let _ = wire.try_send(GET);
            wire.finish();
            wire
        }
        _ => sent(load, "GET /web/n/2 HTTP/1.1\r\nHost: h\r\n\r\n"),
    };
    while wire.some().is_ok_and(|data| !data.is_empty()) {}
    Ok(1)
}

fn sent(load: &Load, text: &str) -> Wire {
    let mut wire = Wire::connect(load.address);
    let _ = wire.try_send(text);
    wire
}

/// A head that is dribbled, in time and not in time.
pub(crate) fn dribbles(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = Wire::connect(load.address);
    let head = format!("GET /web/n/2 HTTP/1.1\r\nHost: h\r\nPad: {}\r\n\r\n", "p".repeat(9_000));
    let pieces = 2 + rng.up_to(30) as usize;
    for piece in head.as_bytes().chunks(head.len() / pieces + 1) {
        if wire.try_send(piece).is_err() {
            return Err("a dribbled head: refused".to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    expect(&mut wire, 200, "a dribbled head")
}
