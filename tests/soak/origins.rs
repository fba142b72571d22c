//! What stands behind the proxy: two origins that do as the path says and never fail, one that
//! fails in every way, and a collector of spans that is sometimes away.
//!
//! Paths are `/<service>/<what>/<number>...`; bodies are a pattern of which each byte is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::common::{Framing, Head, Origin, Pattern, Wire, ok};

pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                                 Upgrade: websocket\r\n\r\n";
const CHUNK_BYTES: u64 = 5_000;

/// Always well, and slow only where the path asks for it.
pub(crate) fn steady(pattern: &Arc<Pattern>) -> Origin {
    let pattern = pattern.clone();
    Origin::start(move |mut wire, _| {
        while let Ok(Some(head)) = wire.try_head() {
            if answer(&mut wire, &head, &pattern).is_none() {
                return;
            }
        }
    })
}

/// The parts of a path behind the service.
fn parts(target: &str) -> (&str, u64, u64) {
    let mut parts = target.split('/').skip(2);
    let what = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|it| it.parse().ok()).unwrap_or(0);
    (what, number(), number())
}

/// `None`: the connection is over.
fn answer(wire: &mut Wire, head: &Head, pattern: &Pattern) -> Option<()> {
    let (what, first, second) = parts(head.target());
    if head.get("upgrade").is_some() {
        return echo(wire);
    }
    if head.get("expect").is_some() {
        wire.try_send("HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut offset = 0;
    let framing = head.request_framing();
    wire.body(framing, &mut |data| {
        pattern.check(offset, data);
        offset += data.len() as u64;
    })
    .ok()?;
    match what {
        "n" => {
            wire.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {first}\r\n\r\n")).ok()?;
            pour(wire, pattern, first)
        }
        "c" => {
            wire.try_send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            pour_chunks(wire, pattern, first)
        }
        "d" => {
            // Works for a while: that is no waiting for something to happen.
            thread::park_timeout(Duration::from_millis(first));
            wire.try_send(ok(pattern.at(0, second))).ok()
        }
        "hints" => {
            let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
            wire.try_send(hint).ok()?;
            wire.try_send(ok("fine")).ok()
        }
        "u" => wire.try_send(ok(offset.to_string())).ok(),
        _ => wire.try_send(ok("fine")).ok(),
    }
}

pub(crate) fn pour(wire: &mut Wire, pattern: &Pattern, bytes: u64) -> Option<()> {
    let mut offset = 0;
    while offset < bytes {
        let piece = pattern.at(offset, bytes - offset);
        wire.try_send(piece).ok()?;
        offset += piece.len() as u64;
    }
    Some(())
}

pub(crate) fn pour_chunks(wire: &mut Wire, pattern: &Pattern, bytes: u64) -> Option<()> {
    let mut offset = 0;
    while offset < bytes {
        let piece = pattern.at(offset, CHUNK_BYTES.min(bytes - offset));
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        wire.try_send(chunk).ok()?;
        offset += piece.len() as u64;
    }
    wire.try_send("0\r\n\r\n").ok()
}

/// A tunnel that sends back what comes.
fn echo(wire: &mut Wire) -> Option<()> {
    wire.try_send(SWITCH).ok()?;
    while let Ok(data) = wire.some() {
        if data.is_empty() || wire.try_send(data).is_err() {
            break;
        }
    }
    let _ = wire.try_send("bye");
    None
}

/// Fails as the path says, and answers what it does not know.
pub(crate) fn failing(pattern: &Arc<Pattern>) -> Origin {
    let pattern = pattern.clone();
    Origin::start(move |mut wire, _| {
        while let Ok(Some(head)) = wire.try_head() {
            let (what, ..) = parts(head.target());
            let framing = head.request_framing();
            if what != "early" && wire.body(framing, &mut |_| ()).is_err() {
                return;
            }
            let sent = match what {
                "503" => wire.try_send("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"),
                "500" => wire.try_send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
                "none" => return,
                "reset" => return wire.reset(),
                "garbage" => wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx"),
                "head" => wire.try_send("HTTP/1.1 200 OK\r\nContent-Le"),
                "half" => {
                    let _ = wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n");
                    let _ = wire.try_send(pattern.at(0, 45_000));
                    return wire.reset();
                }
                // Until the proxy gives up.
                "stall" => return drop(wire.some()),
                "early" => {
                    let _ = wire.try_send(ok("enough"));
                    while wire.some().is_ok_and(|data| !data.is_empty()) {}
                    return;
                }
                _ => wire.try_send(ok("fine")),
            };
            if sent.is_err() {
                return;
            }
        }
    })
}

/// Takes spans, and every so often none for a while.
pub(crate) fn collector(batches: &Arc<AtomicU64>) -> Origin {
    let batches = batches.clone();
    Origin::start(move |mut wire, _| {
        while let Ok(Some(head)) = wire.try_head() {
            let framing = match head.get("transfer-encoding") {
                Some(_) => Framing::Chunked,
                None => head.request_framing(),
            };
            if wire.body(framing, &mut |_| ()).is_err() {
                return;
            }
            let number = batches.fetch_add(1, Ordering::SeqCst);
            let answer = match number % 500 {
                200 => "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
                400 => return,
                _ => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
            };
            if wire.try_send(answer).is_err() {
                return;
            }
        }
    })
}
