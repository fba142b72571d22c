//! Clients that do nothing wrong: each of their requests must be answered, whole and right.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use super::Load;
use super::common::{Answer, Head, Pattern, Rng, Wire};
use super::narrow::narrow;
use super::origins::{SWITCH, pour, pour_chunks};

/// Between the reads of a slow reader.
const SLOWLY: Duration = Duration::from_millis(3);

/// One round of some kind of client: how many requests were answered, or what went wrong.
pub(crate) type Outcome = Result<u64, String>;

fn lost(what: &str, error: &io::Error) -> String {
    format!("{what}: {error}")
}

/// An answer that must be a 200 with so many bytes of the pattern.
fn whole(answer: io::Result<Answer>, pattern: &Pattern, bytes: u64, what: &str) -> Outcome {
    let answer = answer.map_err(|error| lost(what, &error))?;
    if answer.status() != 200 {
        return Err(format!("{what}: {} {:?}", answer.status(), answer.head.reason()));
    }
    let same = answer.body == pattern.at(0, bytes);
    if same { Ok(1) } else { Err(format!("{what}: {} bytes, not {bytes}", answer.body.len())) }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: soak\r\n\r\n")
}

/// Small answers, over a connection that stays.
pub(crate) fn keep_alive(load: &Load, wire: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let wire = wire.get_or_insert_with(|| Wire::connect(load.address));
    let bytes = rng.up_to(3_000);
    let kind = if rng.up_to(4) == 1 { "c" } else { "n" };
    let sent = wire.try_send(request(&format!("/web/{kind}/{bytes}")));
    let answer = sent.and_then(|()| wire.try_answer_to("GET"));
    whole(answer, &load.pattern, bytes, "keep-alive")
}

/// Large bodies, down or up, with a length or in chunks.
pub(crate) fn bodies(load: &Load, wire: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let wire = wire.get_or_insert_with(|| Wire::connect(load.address));
    // What can be compared in one go.
    let bytes = rng.up_to(1 << 20);
    let chunked = rng.up_to(2) == 1;
    if rng.up_to(2) == 1 {
        let kind = if chunked { "c" } else { "n" };
        let sent = wire.try_send(request(&format!("/web/{kind}/{bytes}")));
        let answer = sent.and_then(|()| wire.try_answer_to("GET"));
        return whole(answer, &load.pattern, bytes, "download");
    }
    upload(load, wire, bytes, chunked, "")
}

fn upload(load: &Load, wire: &mut Wire, bytes: u64, chunked: bool, more: &str) -> Outcome {
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {bytes}"),
    };
    let head = format!("POST /web/u HTTP/1.1\r\nHost: h\r\n{framing}\r\n{more}\r\n");
    let poured = match (wire.try_send(head), chunked) {
        (Err(_), _) => None,
        (Ok(()), true) => pour_chunks(wire, &load.pattern, bytes),
        (Ok(()), false) => pour(wire, &load.pattern, bytes),
    };
    poured.ok_or("upload: refused")?;
    let answer = wire.try_answer_to("POST").map_err(|error| lost("upload", &error))?;
    match answer.status() == 200 && answer.text() == bytes.to_string() {
        true => Ok(1),
        false => Err(format!("upload of {bytes}: {} {:?}", answer.status(), answer.text())),
    }
}

/// Many requests in one write.
pub(crate) fn pipelined(load: &Load, wire: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let wire = wire.get_or_insert_with(|| Wire::connect(load.address));
    let sizes: Vec<u64> = (0..rng.up_to(12)).map(|_| rng.up_to(9_000)).collect();
    let all: String = sizes.iter().map(|bytes| request(&format!("/web/n/{bytes}"))).collect();
    wire.try_send(all).map_err(|error| lost("pipelined", &error))?;
    for bytes in &sizes {
        whole(wire.try_answer_to("GET"), &load.pattern, *bytes, "pipelined")?;
    }
    Ok(sizes.len() as u64)
}

/// A connection for one to three requests.
pub(crate) fn churn(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = Wire::connect(load.address);
    let requests = rng.up_to(3);
    for number in 1..=requests {
        let says = if number == requests { "Connection: close\r\n" } else { "" };
        let head = format!("GET /web/n/100 HTTP/1.1\r\nHost: h\r\n{says}\r\n");
        let answer = wire.try_send(head).and_then(|()| wire.try_answer_to("GET"));
        whole(answer, &load.pattern, 100, "churn")?;
    }
    ended(&mut wire, "churn").map(|_| requests)
}

fn ended(wire: &mut Wire, what: &str) -> Outcome {
    match wire.some() {
        Ok(rest) if rest.is_empty() => Ok(0),
        Ok(rest) => Err(format!("{what}: {} bytes too many", rest.len())),
        Err(error) => Err(lost(what, &error)),
    }
}

/// Reads a large answer slowly, over a narrow path.
pub(crate) fn slow_reader(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = narrow(load.address);
    let bytes = 100_000 + rng.up_to(200_000);
    wire.try_send(request(&format!("/web/n/{bytes}"))).map_err(|error| lost("slow", &error))?;
    let head = head_of(&mut wire, "slow reader")?;
    let (mut seen, pattern) = (0, &load.pattern);
    let read = wire.body(head.answer_framing("GET"), &mut |data| {
        pattern.check(seen, data);
        seen += data.len() as u64;
        thread::park_timeout(SLOWLY);
    });
    match read {
        Ok(_) if seen == bytes => Ok(1),
        Ok(_) => Err(format!("slow reader: {seen} of {bytes}")),
        Err(error) => Err(lost("slow reader", &error)),
    }
}

fn head_of(wire: &mut Wire, what: &str) -> Result<Head, String> {
    match wire.try_head() {
        Ok(Some(head)) => Ok(head),
        Ok(None) => Err(format!("{what}: closed")),
        Err(error) => Err(lost(what, &error)),
    }
}

/// Says that nothing more will come, and is answered all the same; or speaks HTTP/1.0.
pub(crate) fn half_close(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = Wire::connect(load.address);
    let bytes = rng.up_to(60_000);
    let old = rng.up_to(2) == 1;
    let version = if old { "1.0" } else { "1.1" };
    let kind = if rng.up_to(2) == 1 { "c" } else { "n" };
    let head = format!("GET /web/{kind}/{bytes} HTTP/{version}\r\nHost: h\r\n\r\n");
    wire.try_send(head).map_err(|error| lost("half-close", &error))?;
    if !old {
        wire.finish();
    }
    whole(wire.try_answer_to("GET"), &load.pattern, bytes, "half-close")?;
    ended(&mut wire, "half-close").map(|_| 1)
}

/// A WebSocket as the proxy sees one: bytes both ways until the client ends it.
pub(crate) fn tunnel(load: &Load, _: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let mut wire = Wire::connect(load.address);
    let head = "GET /web/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    wire.try_send(format!("{head}\r\n")).map_err(|error| lost("tunnel", &error))?;
    let head = head_of(&mut wire, "tunnel")?;
    if !SWITCH.starts_with(&head.start) {
        return Err(format!("tunnel: {}", head.start));
    }
    for _ in 0..rng.up_to(10) {
        let message = load.pattern.at(0, rng.up_to(20_000));
        let echoed = wire.try_send(message).and_then(|()| wire.take(message.len()));
        if echoed.map_err(|error| lost("tunnel", &error))? != message {
            return Err("tunnel: another echo".to_owned());
        }
    }
    wire.finish();
    let bye = wire.take(3).map_err(|error| lost("tunnel's end", &error))?;
    if bye != b"bye" {
        return Err(format!("tunnel's end: {bye:?}"));
    }
    ended(&mut wire, "tunnel").map(|_| 1)
}

/// Waits for a 100 before it sends its body; or is sent hints before its answer.
pub(crate) fn interim(load: &Load, wire: &mut Option<Wire>, rng: &mut Rng) -> Outcome {
    let wire = wire.get_or_insert_with(|| Wire::connect(load.address));
    let hints = rng.up_to(2) == 1;
    let bytes = rng.up_to(50_000);
    let head = match hints {
        true => request("/web/hints"),
        false => format!(
            "POST /web/u HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
             Content-Length: {bytes}\r\n\r\n"
        ),
    };
    wire.try_send(head).map_err(|error| lost("interim", &error))?;
    let head = head_of(wire, "interim")?;
    if head.status() != if hints { 103 } else { 100 } {
        return Err(format!("interim: {}", head.start));
    }
    if !hints {
        pour(wire, &load.pattern, bytes).ok_or("interim: refused")?;
    }
    let answer = wire.try_answer_to("POST").map_err(|error| lost("interim", &error))?;
    let expected = if hints { "fine".to_owned() } else { bytes.to_string() };
    match answer.text() == expected {
        true => Ok(1),
        false => Err(format!("interim: {} {}", answer.status(), answer.text())),
    }
}

/// By the listener that comes and goes: who got a connection there is answered.
pub(crate) fn second_listener(load: &Load, _: &mut Option<Wire>, _: &mut Rng) -> Outcome {
    let Some(address) = load.second() else { return Ok(0) };
    let Some(mut wire) = connect(address) else { return Ok(0) };
    let head = "GET /web/n/500 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = wire.try_send(head).and_then(|()| wire.try_answer_to("GET"));
    whole(answer, &load.pattern, 500, "second listener")
}

/// `None`: nobody listens there any more.
fn connect(address: SocketAddr) -> Option<Wire> {
    let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    // Where nobody listens, a port of our own may have been connected to itself.
    let itself = stream.local_addr().ok()? == stream.peer_addr().ok()?;
    (!itself).then(|| Wire::new(stream))
}
