//! A client: it asks for this and that in any way that HTTP/1.1 allows, and in rough weather in
//! ways that it does not; what it is told must be an answer to what it asked.

use std::collections::VecDeque;
use std::time::Duration;

use super::books::{Books, answer_body, is_from, request_body};
use super::script::{Next, Part, Script, next};
use super::wire::{Event, Framing, Head, Reader};
use crate::ring::simulated::{Network, Peer, Random, Read};

/// Services that are configured, as hosts.
const HOSTS: [&str; 3] = ["plain", "retrying", "limited"];
/// Of a head that was not complete in time. Whether its method came to be known is the kernel's
/// secret, and with it whether the refusal has content.
const PART_OF_HEAD: &str = "a part of HEAD";
const METHODS: [&str; 7] = ["GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"];
const SIZES: [u64; 8] = [0, 1, 17, 300, 5_000, 40_000, 90_000, 200_000];
/// How long a client waits for 100.
const PATIENCE: Duration = Duration::from_secs(3);

/// A request that has an answer to come.
struct Awaited {
    /// 0: what was no request.
    number: u64,
    /// Which answer it is that comes, and how much of it has.
    answer: Option<Coming>,
}

#[derive(Debug)]
struct Coming {
    /// `None`: of the proxy's own.
    number: Option<usize>,
    bytes: u64,
    /// What its head says of its body, whether or not one follows.
    announced: Option<Framing>,
    closes: bool,
}

pub(super) struct Client {
    peer: Peer,
    is_rough: bool,
    /// It may be told that there is no room.
    is_crowded: bool,
    is_1_0: bool,
    /// How many requests it lets run ahead of their answers.
    ahead: usize,
    to_ask: usize,
    script: Script,
    /// Does not go on before it is told to, or before that time.
    holds_body: Option<Duration>,
    awaited: VecDeque<Awaited>,
    reader: Reader,
    /// An answer said that it is the last.
    told_close: bool,
    sent_nonsense: bool,
    /// Its last request is for a tunnel, in which nothing is nonsense.
    wants_tunnel: bool,
    /// Half-closes when all has left.
    ends_with_script: bool,
    sleeps_until: Duration,
    half_closed: bool,
    pub(super) is_over: bool,
}

impl Client {
    pub(super) fn connect(network: &mut Network, is_rough: bool, is_crowded: bool) -> Client {
        let is_1_0 = network.random.chance(15);
        Client {
            peer: network.dial(),
            is_rough,
            is_crowded,
            is_1_0,
            ahead: if is_1_0 { 1 } else { network.random.between(1, 4) },
            to_ask: if is_1_0 { 1 } else { network.random.between(1, 6) },
            script: Script::default(),
            holds_body: None,
            awaited: VecDeque::new(),
            reader: Reader::default(),
            told_close: false,
            sent_nonsense: false,
            wants_tunnel: false,
            ends_with_script: false,
            sleeps_until: Duration::ZERO,
            half_closed: false,
            is_over: false,
        }
    }

    pub(super) fn act(&mut self, network: &mut Network, books: &mut Books) {
        if self.is_over || network.now < self.sleeps_until {
            return;
        }
        if self.is_rough && network.random.chance(2) {
            return self.misbehave(network, books);
        }
        match next(network, &mut self.sleeps_until) {
            Next::Write => self.write(network, books),
            Next::Read => self.read(network, books),
            Next::Nothing => {}
        }
    }

    fn misbehave(&mut self, network: &mut Network, books: &mut Books) {
        match network.random.below(8) {
            0 => {
                network.reset(self.peer);
                self.leave(books);
            }
            1 => {
                network.close(self.peer);
                self.leave(books);
            }
            2 => {
                network.shutdown(self.peer);
                self.half_closed = true;
                self.script.clear();
                self.to_ask = 0;
            }
            3 if self.script.is_empty() && !self.wants_tunnel => {
                let nonsense = *network.random.pick(&[
                    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                    "POST / HTTP/1.1\r\nHost: plain\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
                    "GET / HTTP/1.1\nHost: plain\r\n\r\n",
                    "GET /incompl",
                    "\0",
                ]);
                network.write(self.peer, nonsense.as_bytes());
                self.sent_nonsense = true;
                self.to_ask = 0;
            }
            // Neither writes nor reads for longer than anybody waits.
            4 => self.sleeps_until = network.now + Duration::from_secs(20),
            _ => {}
        }
    }

    fn write(&mut self, network: &mut Network, books: &mut Books) {
        if self.script.is_empty()
            && self.to_ask > 0
            && self.awaited.len() < self.ahead
            && !self.told_close
        {
            self.ask(network, books);
        }
        if self.holds_body.is_some_and(|until| network.now < until) {
            return;
        }
        let most = network.random.between(1, 30_000);
        let written = self.script.write(network, self.peer, most, |part, bytes| match part {
            Part::Frame => {}
            Part::Data(number) => books.request(number).written_bytes += bytes as u64,
            Part::Last(number) => books.request(number).is_written = true,
        });
        if written.is_none() {
            self.script.clear();
            self.to_ask = 0;
        } else if self.script.is_empty() && std::mem::take(&mut self.ends_with_script) {
            network.shutdown(self.peer);
        }
    }

    fn ask(&mut self, network: &mut Network, books: &mut Books) {
        self.to_ask -= 1;
        if self.to_ask == 0 && !self.is_1_0 && network.random.chance(20) {
            return self.ask_for_tunnel(network, books);
        }
        let random = &mut network.random;
        let method = match *random.pick(&METHODS) {
            // Who is told that there is no room is told so unread, with a body.
            "HEAD" if self.is_crowded => "GET",
            method => method,
        };
        let may_have_body = matches!(method, "POST" | "PUT");
        let body_bytes = (may_have_body && random.chance(80)).then(|| *random.pick(&SIZES));
        let chunked = body_bytes.is_some() && !self.is_1_0 && random.chance(50);
        let number = books.ask(method, body_bytes);
        let version = if self.is_1_0 { "1.0" } else { "1.1" };
        let host = random.pick(&HOSTS);
        let mut head = format!("{method} /{number} HTTP/{version}\r\nHost: {host}\r\n");
        match body_bytes {
            None => {}
            Some(_) if chunked => head += "Transfer-Encoding: chunked\r\n",
            Some(bytes) => head += &format!("Content-Length: {bytes}\r\n"),
        }
        let waits = body_bytes.is_some_and(|it| it > 0) && !self.is_1_0 && random.chance(20);
        if waits {
            head += "Expect: 100-continue\r\n";
            self.holds_body = Some(network.now + PATIENCE);
        }
        if random.chance(5) {
            head += "Connection: close\r\n";
            self.to_ask = 0;
        }
        head +=
            &"X-Pad: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(random.below(40));
        // A head alone, though its body is held.
        let mut script = Script::default();
        std::mem::swap(&mut script, &mut self.script);
        self.script.add(head + "\r\n", Part::Frame);
        if waits {
            let _ = self.script.write(network, self.peer, usize::MAX, |_, _| {});
        }
        let random = &mut network.random;
        let trailers = if random.chance(30) { "X-Trailer: 1\r\n" } else { "" };
        self.script.add_body(
            number,
            body_bytes.unwrap_or(0),
            chunked.then_some(trailers),
            |from, len| request_body(number, from, len),
            || random.between(1, 20_000),
        );
        self.awaited.push_back(Awaited { number, answer: None });
    }

    fn ask_for_tunnel(&mut self, network: &mut Network, books: &mut Books) {
        self.wants_tunnel = true;
        let bytes = *network.random.pick(&SIZES);
        let number = books.ask("GET", None);
        let asked = books.request(number);
        (asked.is_tunnel, asked.body_bytes) = (true, Some(bytes));
        let head = format!(
            "GET /{number} HTTP/1.1\r\nHost: plain\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\n\r\n"
        );
        self.script.add(head, Part::Frame);
        self.awaited.push_back(Awaited { number, answer: None });
    }

    /// The bytes that a tunnel is for.
    fn switch(&mut self, number: u64, bytes: u64, random: &mut Random) {
        let stretch = |from, len| request_body(number, from, len);
        self.script.add_body(number, bytes, None, stretch, || random.between(1, 20_000));
        self.ends_with_script = true;
    }

    fn read(&mut self, network: &mut Network, books: &mut Books) {
        let most = network.random.between(1, 30_000);
        match network.read(self.peer, most) {
            Read::Nothing => {}
            Read::Bytes(bytes) => {
                self.reader.push(&bytes);
                self.take_in(network, books);
                if self.is_done() && !self.half_closed {
                    network.close(self.peer);
                    self.is_over = true;
                }
            }
            Read::End => {
                if self.reader.ends_here() {
                    self.ended(books);
                }
                assert!(
                    self.reader.is_between()
                        && self.awaited.front().is_none_or(Awaited::is_unheard),
                    "a clean end within an answer: {:?}",
                    self.reader
                );
                if self.ends_with_script {
                    // The other end of a tunnel has said all; this one has not.
                    return;
                }
                let is_fine = self.is_done() || self.told_close;
                assert!(self.is_rough || is_fine, "closed without an answer");
                network.close(self.peer);
                self.leave(books);
            }
            Read::Reset => {
                // Who goes on sending after the last answer is told so.
                assert!(self.is_rough || self.told_close, "reset in fair weather");
                self.leave(books);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.awaited.is_empty() && self.to_ask == 0 && self.script.is_empty()
    }

    /// What has not been answered will not be.
    fn leave(&mut self, books: &mut Books) {
        books.counts.lost += self.awaited.len() as u64;
        self.is_over = true;
    }

    fn take_in(&mut self, network: &mut Network, books: &mut Books) {
        loop {
            let asked = self.awaited.front().filter(|it| it.number > 0);
            let asked = asked.map(|it| books.request(it.number));
            let method = match asked.map(|it| (it.is_written, it.method)) {
                Some((true, method)) => method,
                Some((false, "HEAD")) => PART_OF_HEAD,
                Some((false, _)) | None => "nothing",
            };
            let is_1_0 = self.is_1_0;
            match self.reader.next(|head| framing(head, method, is_1_0)) {
                None => return,
                Some(Event::Head(head)) => self.begun(&head, network, books),
                Some(Event::Data(data)) => self.data(&data, books),
                Some(Event::End(trailers)) => {
                    assert!(trailers.iter().all(|name| name == "Etag"), "{trailers:?}");
                    self.ended(books);
                }
            }
        }
    }

    fn begun(&mut self, head: &Head, network: &mut Network, books: &mut Books) {
        let closes = head.field("Connection").is_some_and(|it| it.contains("close"));
        if head.status() < 200 && head.status() != 101 {
            assert!(!self.is_1_0, "{head:?} for a client of 1.0");
            self.holds_body = None;
            return;
        }
        self.holds_body = None;
        let is_refusal = head.field("ringlane-error").is_some();
        let announced = head.framing();
        let Some(awaited) = self.awaited.front_mut() else {
            let may_be = self.sent_nonsense || self.is_crowded && head.status() == 503;
            assert!(may_be && is_refusal, "nobody asked for {head:?}");
            // For what was no request.
            let answer = Some(Coming { number: None, bytes: 0, announced, closes });
            self.awaited.push_front(Awaited { number: 0, answer });
            return;
        };
        let number = head.field("X-Answer").map(|it| it.parse::<usize>().expect("a number"));
        match number {
            None => assert!(self.is_rough && is_refusal, "{head:?} to {}", awaited.number),
            Some(number) => {
                let answer = &books.answers[number];
                assert_eq!(
                    (answer.request, answer.status),
                    (awaited.number, head.status()),
                    "an answer for somebody else: {head:?}"
                );
            }
        }
        awaited.answer = Some(Coming { number, bytes: 0, announced, closes });
        if head.status() == 101 {
            let number = awaited.number;
            let asked = books.request(number);
            assert!(asked.is_tunnel, "nobody asked for {head:?}");
            let bytes = asked.body_bytes.unwrap_or(0);
            self.switch(number, bytes, &mut network.random);
        }
    }

    fn data(&mut self, data: &[u8], books: &mut Books) {
        let coming = self.awaited.front_mut().and_then(|it| it.answer.as_mut());
        let coming = coming.expect("data behind a head");
        let before = coming.bytes;
        coming.bytes += data.len() as u64;
        if let Some(number) = coming.number {
            let stretch = |from, len| answer_body(number, from, len);
            assert!(is_from(data, before, stretch), "not the bytes of answer {number}");
            let written_bytes = books.answers[number].written_bytes;
            assert!(coming.bytes <= written_bytes, "bytes that answer {number} never had");
        }
    }

    fn ended(&mut self, books: &mut Books) {
        let Some(Awaited { number, answer: Some(coming) }) = self.awaited.pop_front_if_begun()
        else {
            // Of an interim answer.
            return;
        };
        match coming.number {
            None => {
                books.counts.refused += 1;
                let is_whole = coming.announced == Some(Framing::Length(coming.bytes));
                assert!(coming.bytes == 0 || is_whole, "a part of a refusal: {coming:?}");
            }
            Some(answer) => {
                books.counts.answered += 1;
                let is_head = books.request(number).method == "HEAD";
                let wanted = if is_head { 0 } else { books.answers[answer].body_bytes };
                assert_eq!(coming.bytes, wanted, "answer {answer} ended early");
            }
        }
        if coming.closes {
            self.told_close = true;
            self.to_ask = 0;
        }
    }
}

trait PopIfBegun {
    fn pop_front_if_begun(&mut self) -> Option<Awaited>;
}

impl PopIfBegun for VecDeque<Awaited> {
    fn pop_front_if_begun(&mut self) -> Option<Awaited> {
        if self.front().is_some_and(|it| it.answer.is_some()) { self.pop_front() } else { None }
    }
}

impl Awaited {
    fn is_unheard(&self) -> bool {
        self.answer.is_none()
    }
}

fn framing(head: &Head, method: &str, is_1_0: bool) -> Framing {
    let status = head.status();
    if status == 101 {
        return Framing::UntilEnd;
    }
    if status < 200 || status == 204 || status == 304 || method == "HEAD" {
        return Framing::None;
    }
    if method == PART_OF_HEAD {
        return Framing::UntilEnd;
    }
    match head.framing() {
        Some(Framing::Chunked) if is_1_0 => panic!("chunks for a client of 1.0: {head:?}"),
        Some(framing) => framing,
        None => Framing::UntilEnd,
    }
}
