//! The real proxy between a client and an origin that follow a case's steps, byte for byte.
//!
//! Each worker has an origin, a service and a router of each kind, so that several
//! run at once against one process. What the origin hears comes as events; connections are told
//! apart by number, since the proxy may use a pooled one or make its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};

use super::super::common::{DEADLINE, Origin, Proxy, Wire};
use super::super::strict::{self, Kind, Message, Read};
use super::case::{Case, Router, Step};
use super::shown;

/// What an origin without a script answers.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ANSWER_TO_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
/// Shows that both connections are where the next message begins.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n";

/// How what is sent is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Whole,
    ByByte,
    /// In two, at that place of each sending, or what remains of it over the sending's length.
    Split(usize),
}

impl Way {
    fn pieces(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self {
            Way::Whole => vec![bytes],
            Way::ByByte => bytes.chunks(1).collect(),
            Way::Split(at) => {
                let (first, second) = bytes.split_at(at % (bytes.len() + 1));
                vec![first, second]
            }
        }
    }
}

enum Event {
    Accepted(usize, Wire),
    Bytes(usize, Vec<u8>),
    Ended(usize),
}

struct Link {
    wire: Wire,
    /// Heard and not taken for a message yet.
    heard: Vec<u8>,
}

/// A worker's origin and the ways to it.
pub struct Worker {
    addresses: [SocketAddr; Router::ALL.len()],
    events: Receiver<Event>,
    links: BTreeMap<usize, Link>,
    _origin: Origin,
}

/// A proxy for so many workers.
pub fn start(workers: usize) -> (Proxy, Vec<Worker>) {
    let mut yaml = String::from("routers:\n");
    let mut services = String::from("services:\n");
    let mut origins = Vec::new();
    for worker in 0..workers {
        let (tell, events) = mpsc::channel();
        let tell = Mutex::new(tell);
        let origin = Origin::start(move |mut wire, number| {
            let tell = tell.lock().expect("nobody panics").clone();
            let _ = tell.send(Event::Accepted(number, wire.twin()));
            while let Ok(bytes) = wire.some()
                && !bytes.is_empty()
            {
                let _ = tell.send(Event::Bytes(number, bytes));
            }
            let _ = tell.send(Event::Ended(number));
        });
        for router in Router::ALL {
            let (its_own, service) = router.yaml(worker, origin.address);
            yaml.push_str(&its_own);
            services.push_str(&service);
        }
        origins.push((origin, events));
    }
    let proxy = Proxy::start(&(yaml + &services), "0");
    let made = origins.into_iter().enumerate().map(|(at, (origin, events))| Worker {
        addresses: std::array::from_fn(|router| proxy.addresses[at * Router::ALL.len() + router]),
        events,
        links: BTreeMap::new(),
        _origin: origin,
    });
    let workers = made.collect();
    (proxy, workers)
}

/// What was got, without the `Date` that the proxy adds to an answer which came without one (RFC
/// 9110 section 6.6.1): cases do not know what time it is.
fn as_dated(got: &[u8], expected: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"\r\nDate: ";
    const VALUE_BYTES: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();
    let find = |bytes: &[u8]| bytes.windows(NAME.len()).position(|it| it == NAME);
    match find(got) {
        Some(at) if find(expected).is_none() => {
            let end = (at + NAME.len() + VALUE_BYTES).min(got.len());
            [&got[..at], &got[end..]].concat()
        }
        _ => got.to_vec(),
    }
}

/// A client on its way through a case.
struct Run<'w> {
    worker: &'w mut Worker,
    client: Wire,
    /// Read of the client's connection and not taken for a message yet.
    got: Vec<u8>,
    /// The client's connection has come to its end; with a reset or not.
    ended: Option<bool>,
    /// The origin's connection that the last message came on.
    link: Option<usize>,
    /// Requests whose answers the client still waits for: whether they are HEAD.
    asked: Vec<bool>,
}

impl Worker {
    /// Follows a case's steps.
    ///
    /// # Errors
    /// What was not as the case says.
    pub fn run(&mut self, case: &Case, way: Way) -> Result<(), String> {
        let address = self.addresses[case.router as usize];
        let mut run = Run {
            worker: self,
            client: Wire::connect(address),
            got: Vec::new(),
            ended: None,
            link: None,
            asked: Vec::new(),
        };
        for step in &case.steps {
            run.step(step, case, way)?;
        }
        run.check_ends(case, address)
    }

    /// The next thing that an origin hears.
    fn hear(&mut self) -> Result<(), String> {
        let event = self.events.recv_timeout(DEADLINE);
        self.note(event.map_err(|_| "the origin hears nothing")?);
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Accepted(number, wire) => {
                self.links.insert(number, Link { wire, heard: Vec::new() });
            }
            Event::Bytes(number, bytes) => {
                if let Some(link) = self.links.get_mut(&number) {
                    link.heard.extend(bytes);
                }
            }
            Event::Ended(number) => {
                self.links.remove(&number);
            }
        }
    }

    /// A whole message, on whatever connection.
    fn message(&mut self) -> Result<Option<(usize, Message)>, String> {
        for (number, link) in &mut self.links {
            if let Read::Whole(message) = strict::read(&link.heard, Kind::Request, false)? {
                link.heard.drain(..message.len);
                return Ok(Some((*number, message)));
            }
        }
        Ok(None)
    }

    fn await_message(&mut self) -> Result<(usize, Message), String> {
        loop {
            match self.message()? {
                Some(found) => return Ok(found),
                None => self.hear()?,
            }
        }
    }

    fn await_part(&mut self, part: &[u8]) -> Result<usize, String> {
        loop {
            let found = self.links.iter().find(|(_, link)| is_same_part(&link.heard, part));
            match found {
                Some((number, _)) => return Ok(*number),
                None => self.hear()?,
            }
        }
    }

    /// # Errors
    /// A message has come that no step expects.
    fn expect_no_message(&mut self) -> Result<(), String> {
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
        match self.message()? {
            None => Ok(()),
            Some((_, message)) => Err(format!("the origin has also got {}", shown(&message.bytes))),
        }
    }
}

impl Run<'_> {
    fn step(&mut self, step: &Step, case: &Case, way: Way) -> Result<(), String> {
        match step {
            Step::Request(bytes) => {
                let mut pieces = way.pieces(bytes).into_iter();
                // A proxy that has refused what came so far need not take the rest.
                let _ = pieces.try_for_each(|piece| self.client.try_send(piece));
                Ok(())
            }
            Step::Cut => {
                self.client.finish();
                Ok(())
            }
            Step::Forwarded(expected) => {
                let (link, message) = self.worker.await_message()?;
                self.link = Some(link);
                same("forwarded", &message.bytes, &expected.bytes)?;
                let head = message.is_request_with("HEAD");
                self.asked.push(head);
                if case.is_scripted() { Ok(()) } else { self.answer(head) }
            }
            Step::ForwardedPart(part) => {
                self.link = Some(self.worker.await_part(part)?);
                self.asked.push(part.starts_with(b"HEAD "));
                Ok(())
            }
            Step::Origin { bytes, closes } => {
                let link = self.link.and_then(|link| self.worker.links.get_mut(&link));
                let link = link.ok_or("the origin has no connection to answer on")?;
                // Cut, what is refused while all of it is at hand may be broken off.
                let refused = case.steps.iter().any(|it| matches!(it, Step::Refused { .. }));
                let way = if refused { Way::Whole } else { way };
                let mut pieces = way.pieces(bytes).into_iter();
                let _ = pieces.try_for_each(|piece| link.wire.try_send(piece));
                if *closes {
                    link.wire.finish();
                }
                Ok(())
            }
            Step::Client { bytes, of_its_own } => self.expect_messages(bytes, *of_its_own),
            Step::Refused { status, label } => self.expect_refusal(*status, label),
            Step::Broken { .. } => {
                let clean = self.read_to_end()?;
                let head = self.asked.first().copied().unwrap_or(false);
                match strict::read(&self.got, Kind::AnswerTo { head }, clean)? {
                    Read::Part => Ok(()),
                    Read::Whole(message) => {
                        Err(format!("a whole answer: {}", shown(&message.bytes)))
                    }
                }
            }
        }
    }

    /// As an origin without a script does.
    fn answer(&mut self, head: bool) -> Result<(), String> {
        let answer = if head { ANSWER_TO_HEAD } else { ANSWER };
        let link = self.link.and_then(|link| self.worker.links.get_mut(&link));
        let link = link.ok_or("the origin's connection has gone")?;
        link.wire.try_send(answer).map_err(|error| format!("answering: {error}"))?;
        let message = self.next_message()?;
        match (message.status(), message.bytes.ends_with(b"\r\n\r\nok") != head) {
            (200, true) => Ok(()),
            _ => Err(format!("the client got {}", shown(&message.bytes))),
        }
    }

    /// What stands in a block, message by message.
    fn expect_messages(&mut self, expected: &[u8], of_its_own: bool) -> Result<(), String> {
        let mut rest = expected;
        if of_its_own {
            self.asked.insert(0, false);
        }
        while !rest.is_empty() {
            let head = self.asked.first().copied().unwrap_or(false);
            let Read::Whole(wanted) = strict::read(rest, Kind::AnswerTo { head }, true)? else {
                // Bytes of a tunnel, or the beginning of an answer that does not come whole.
                return self.expect_bytes(rest);
            };
            rest = &rest[wanted.len..];
            let message = self.next_message()?;
            let got = as_dated(&message.bytes, &wanted.bytes);
            same("the client got", &got, &wanted.bytes)?;
        }
        Ok(())
    }

    fn expect_bytes(&mut self, expected: &[u8]) -> Result<(), String> {
        while as_dated(&self.got, expected).len() < expected.len() && self.ended.is_none() {
            self.read()?;
        }
        self.got = as_dated(&self.got, expected);
        let taken = self.got.len().min(expected.len());
        same("the client got", &self.got[..taken], expected)?;
        self.got.drain(..taken);
        Ok(())
    }

    fn expect_refusal(&mut self, status: u16, label: &str) -> Result<(), String> {
        let message = self.next_message()?;
        let found = (message.status(), message.field("ringlane-error").unwrap_or_default());
        match found == (status, label.to_owned()) {
            true => Ok(()),
            false => Err(format!("{status} {label} expected: {}", shown(&message.bytes))),
        }
    }

    fn next_message(&mut self) -> Result<Message, String> {
        let head = self.asked.first().copied().unwrap_or(false);
        loop {
            let clean = self.ended == Some(true);
            if let Read::Whole(message) = strict::read(&self.got, Kind::AnswerTo { head }, clean)? {
                self.got.drain(..message.len);
                if !message.is_interim() && !self.asked.is_empty() {
                    self.asked.remove(0);
                }
                return Ok(message);
            }
            if self.ended.is_some() {
                return Err(format!("the client got no answer but {}", shown(&self.got)));
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<(), String> {
        match self.client.some() {
            Ok(bytes) if bytes.is_empty() => self.ended = Some(true),
            Ok(bytes) => self.got.extend(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                return Err(format!("the client waits, with {}", shown(&self.got)));
            }
            Err(_) => self.ended = Some(false),
        }
        Ok(())
    }

    /// Whether the end was a clean one.
    fn read_to_end(&mut self) -> Result<bool, String> {
        loop {
            if let Some(clean) = self.ended {
                return Ok(clean);
            }
            self.read()?;
        }
    }

    /// What became of both connections.
    fn check_ends(mut self, case: &Case, address: SocketAddr) -> Result<(), String> {
        let broken = case.steps.iter().any(|step| matches!(step, Step::Broken { .. }));
        if !case.client_open && !broken {
            let clean = self.read_to_end().map_err(|error| format!("not closed: {error}"))?;
            if !clean || !self.got.is_empty() {
                let got = shown(&self.got);
                return Err(format!("the client's end: clean {clean}, after {got}"));
            }
        }
        let used = self.link;
        if case.upstream_open == Some(false) {
            while used.is_some_and(|link| self.worker.links.contains_key(&link)) {
                self.worker.hear().map_err(|_| "the origin's connection is still open")?;
            }
        }
        self.worker.expect_no_message()?;
        if !case.client_open {
            self.client = Wire::connect(address);
            self.got.clear();
            self.ended = None;
        }
        self.asked = vec![false];
        self.client.try_send(PROBE).map_err(|error| format!("the client's next: {error}"))?;
        let (link, message) = self.worker.await_message()?;
        if !message.bytes.starts_with(&PROBE[..PROBE.len() - 2]) {
            return Err(format!("the next message is {}", shown(&message.bytes)));
        }
        if case.upstream_open == Some(true) && used != Some(link) {
            return Err("the origin's connection is not used again".into());
        }
        self.link = Some(link);
        self.answer(false).map_err(|error| format!("the next request: {error}"))?;
        match self.got.is_empty() {
            true => Ok(()),
            false => Err(format!("the client has also got {}", shown(&self.got))),
        }
    }
}

/// Whether a message has come as far; where the chunks lie does not matter, as for a whole one.
fn is_same_part(heard: &[u8], part: &[u8]) -> bool {
    let ended =
        |bytes: &[u8]| match strict::read(&[bytes, b"0\r\n\r\n"].concat(), Kind::Request, false) {
            Ok(Read::Whole(message)) => Some(message.bytes),
            Ok(Read::Part) | Err(_) => None,
        };
    heard == part || ended(heard).is_some_and(|heard| ended(part) == Some(heard))
}

fn same(what: &str, found: &[u8], expected: &[u8]) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}\n      {}\n  not {}", shown(found), shown(expected))),
    }
}
