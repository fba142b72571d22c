//! An origin's end of one connection: it checks what it is asked, and answers in any framing; in
//! rough weather too early, in part, or not at all.

use std::time::Duration;

use super::books::{Books, answer_body, is_from, request_body};
use super::script::{Next, Part, Script, next};
use super::wire::{Event, Framing, Head, Reader};
use crate::ring::simulated::{Network, Peer, Read};

const SIZES: [u64; 8] = [0, 2, 100, 1_000, 4_090, 30_000, 100_000, 300_000];

/// How an answer goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Before all of the request has come.
    Early,
    /// Before that, and broken off.
    EarlyReset,
    Reset,
    Close,
    /// Nothing more is said.
    Stall,
}

impl Fault {
    fn is_early(self) -> bool {
        matches!(self, Fault::Early | Fault::EarlyReset)
    }
}

/// The request that is being read.
struct Current {
    number: u64,
    bytes: u64,
}

pub(super) struct Origin {
    peer: Peer,
    is_rough: bool,
    reader: Reader,
    script: Script,
    current: Option<Current>,
    /// The answer that is being written.
    answer: usize,
    fault: Fault,
    /// Ends with the answer that is being written.
    closes: bool,
    /// And that ends with it: whatever has been written when it closes is all there was.
    until_close: bool,
    has_closed: bool,
    sleeps_until: Duration,
    pub(super) is_over: bool,
}

impl Origin {
    pub(super) fn accept(network: &mut Network, peer: Peer, is_rough: bool) -> Origin {
        network.pick_up(peer);
        Origin {
            peer,
            is_rough,
            reader: Reader::default(),
            script: Script::default(),
            current: None,
            answer: 0,
            fault: Fault::None,
            closes: false,
            until_close: false,
            has_closed: false,
            sleeps_until: Duration::ZERO,
            is_over: false,
        }
    }

    pub(super) fn act(&mut self, network: &mut Network, books: &mut Books) {
        if self.is_over || network.now < self.sleeps_until {
            return;
        }
        if self.is_rough && network.random.chance(1) {
            // Also while it is idle, in a race with the next request.
            match network.random.chance(50) {
                true => self.close(network, books),
                false => self.reset(network),
            }
            return;
        }
        match next(network, &mut self.sleeps_until) {
            Next::Write => self.write(network, books),
            Next::Read => self.read(network, books),
            Next::Nothing => {}
        }
    }

    fn read(&mut self, network: &mut Network, books: &mut Books) {
        let most = network.random.between(1, 30_000);
        match network.read(self.peer, most) {
            Read::Nothing => {}
            Read::Bytes(bytes) => {
                self.reader.push(&bytes);
                self.take_in(network, books);
            }
            Read::End => {
                if self.reader.ends_here()
                    && let Some(Current { number, bytes }) = self.current.take()
                {
                    let asked = books.request(number);
                    let is_whole = asked.is_written && Some(bytes) == asked.body_bytes;
                    assert!(is_whole || self.is_rough, "the tunnel {number} ended early");
                }
                // A client's half-close, passed on: the answer is still wanted.
                if self.script.is_empty() {
                    self.close(network, books);
                }
            }
            Read::Reset => self.is_over = true,
        }
    }

    fn take_in(&mut self, network: &mut Network, books: &mut Books) {
        while let Some(event) = self.reader.next(|head| head.framing().unwrap_or(Framing::None)) {
            match event {
                Event::Head(head) => self.begun(&head, network, books),
                Event::Data(data) => {
                    let current = self.current.as_mut().expect("data behind a head");
                    let number = current.number;
                    let stretch = |from, len| request_body(number, from, len);
                    assert!(is_from(&data, current.bytes, stretch), "not the bytes of {number}");
                    current.bytes += data.len() as u64;
                    let written_bytes = books.request(number).written_bytes;
                    assert!(current.bytes <= written_bytes, "bytes that {number} never had");
                }
                Event::End(trailers) => {
                    assert!(trailers.iter().all(|name| name == "X-Trailer"), "{trailers:?}");
                    let Current { number, bytes } = self.current.take().expect("a head");
                    let asked = books.request(number);
                    assert!(
                        asked.is_written || asked.is_tunnel,
                        "{number} ended before its client said so"
                    );
                    let wanted = asked.body_bytes.filter(|_| !asked.is_tunnel);
                    assert_eq!(bytes, wanted.unwrap_or(0), "{number}");
                    if books.request(number).is_tunnel {
                        self.switch(number, network, books);
                    } else if !self.fault.is_early() {
                        self.prepare(number, network, books);
                    }
                }
            }
        }
    }

    fn begun(&mut self, head: &Head, network: &mut Network, books: &mut Books) {
        assert!(self.script.is_empty() || self.is_rough, "a request before the last was answered");
        let mut parts = head.start.split(' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        assert_eq!((version, parts.next()), (Some("HTTP/1.1"), None), "{head:?}");
        if target == Some("/") {
            // Nonsense, whose body is found to be none when the head has gone on already: it must
            // neither have data nor end.
            self.current = None;
            return;
        }
        let number = target.and_then(|it| it.strip_prefix('/')).and_then(|it| it.parse().ok());
        let number: u64 = number.unwrap_or_else(|| panic!("no number: {head:?}"));
        let asked = books.request(number);
        asked.heads_seen += 1;
        assert_eq!(method, Some(asked.method), "{head:?}");
        assert!(
            asked.method != "POST" || asked.heads_seen == 1,
            "{number} was sent twice, and must not be"
        );
        assert!(head.field("Host").is_some(), "{head:?}");
        let has_body = asked.body_bytes.is_some() && !asked.is_tunnel;
        assert_eq!(head.framing().is_some(), has_body, "{head:?}");
        assert_eq!(head.field("Upgrade").is_some(), asked.is_tunnel, "{head:?}");
        self.current = Some(Current { number, bytes: 0 });
        self.fault = match (self.is_rough, network.random.below(20)) {
            (true, 0) => Fault::Early,
            (true, 1) => Fault::Reset,
            (true, 2) => Fault::Close,
            (true, 3) => Fault::Stall,
            (true, 4..8) if has_body => Fault::EarlyReset,
            _ => Fault::None,
        };
        if head.field("Expect").is_some() && network.random.chance(60) {
            network.write(self.peer, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.fault.is_early() && !books.request(number).is_tunnel {
            self.prepare(number, network, books);
        }
    }

    /// Grants a tunnel: bytes of its own, and what the client has.
    fn switch(&mut self, number: u64, network: &mut Network, books: &mut Books) {
        let random = &mut network.random;
        let bytes = *random.pick(&SIZES);
        self.answer = books.answer(number, 101, bytes);
        let answer = self.answer;
        let head = format!(
            "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             X-Answer: {answer}\r\n\r\n"
        );
        self.script.add(head, Part::Frame);
        let stretch = |from, len| answer_body(answer, from, len);
        self.script.add_body(answer as u64, bytes, None, stretch, || random.between(1, 40_000));
        // Its end is told by a half-close.
        (self.closes, self.until_close) = (true, true);
        self.reader.switch();
        self.current = Some(Current { number, bytes: 0 });
    }

    /// Writes the answer to a request into the script.
    fn prepare(&mut self, number: u64, network: &mut Network, books: &mut Books) {
        let random = &mut network.random;
        let method = books.request(number).method;
        let status = match random.below(12) {
            0 => 204,
            1 => 304,
            2 => 404,
            3 if self.is_rough => 503,
            _ => 200,
        };
        let has_none = matches!(status, 204 | 304) || method == "HEAD";
        let body_bytes = if has_none { 0 } else { *random.pick(&SIZES) };
        self.answer = books.answer(number, status, body_bytes);
        let mut head = String::new();
        if random.chance(10) {
            head += "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n";
        }
        head += &format!("HTTP/1.1 {status} Because\r\nX-Answer: {}\r\n", self.answer);
        // Cut short, an answer shows that it is by its framing; only a reset shows it otherwise.
        let framing = if self.fault == Fault::EarlyReset { 2 } else { random.below(3) };
        let chunked = framing == 1 && !has_none;
        // Where the peer's end says how long it is, only the close can.
        let until_close = framing == 2 && !has_none;
        match status {
            204 | 304 => {}
            _ if chunked => head += "Transfer-Encoding: chunked\r\n",
            _ if until_close => {}
            _ => head += &format!("Content-Length: {body_bytes}\r\n"),
        }
        self.until_close = until_close;
        self.closes = until_close || random.chance(10);
        if self.closes {
            head += "Connection: close\r\n";
        }
        self.script.add(head + "\r\n", Part::Frame);
        let answer = self.answer;
        self.script.add_body(
            answer as u64,
            body_bytes,
            chunked.then_some("Etag: 1\r\n"),
            |from, len| answer_body(answer, from, len),
            || random.between(1, 40_000),
        );
    }

    fn write(&mut self, network: &mut Network, books: &mut Books) {
        if self.script.is_empty() {
            if self.closes && !std::mem::replace(&mut self.has_closed, true) {
                network.shutdown(self.peer);
            }
            return;
        }
        if network.random.chance(30) {
            match self.fault {
                Fault::None | Fault::Early => {}
                Fault::Stall => return,
                Fault::Reset | Fault::EarlyReset => return self.reset(network),
                Fault::Close => return self.close(network, books),
            }
        }
        let most = network.random.between(1, 30_000);
        let answer = self.answer;
        let written = self.script.write(network, self.peer, most, |part, bytes| {
            if let Part::Data(_) = part {
                books.answers[answer].written_bytes += bytes as u64;
            }
        });
        if written.is_none() {
            self.reset(network);
        }
    }

    fn close(&mut self, network: &mut Network, books: &mut Books) {
        self.is_over = true;
        let is_clean = network.close(self.peer);
        if is_clean && self.until_close {
            let answer = &mut books.answers[self.answer];
            answer.body_bytes = answer.written_bytes;
        }
    }

    fn reset(&mut self, network: &mut Network) {
        self.is_over = true;
        network.reset(self.peer);
    }
}
