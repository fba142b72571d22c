//! The bytes of an answer: its head, and a body by length or in chunks, as much at a time as is
//! asked for. Pure.

use std::cell::OnceCell;
use std::rc::Rc;

use super::script::{Phase, Size};

/// Of a chunk's data, but for the last.
const CHUNK_BYTES: u64 = 16 << 10;
/// The same in hexadecimal digits.
const CHUNK_DIGITS: u64 = 4;
/// What bodies are made of, again and again: letters, whose number is no power of two, so that a
/// piece that is lost, doubled or moved shows.
const PATTERN: [u8; 4096] = pattern();
const LETTERS: usize = 26;

const _: () = assert!(CHUNK_BYTES.ilog(16) as u64 + 1 == CHUNK_DIGITS);

const fn pattern() -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = b'a' + (at % LETTERS) as u8;
        at += 1;
    }
    bytes
}

/// What an answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub status: u16,
    pub body_bytes: u64,
    pub chunked: bool,
    /// To HEAD: without the body that is announced.
    pub head_only: bool,
    /// The last answer of its connection.
    pub close: bool,
}

/// One answer, from which bytes are taken until there are none left.
#[derive(Debug)]
pub struct Encoder {
    /// The head, or a chunk's framing, and how much of it was taken.
    framing: Vec<u8>,
    at: usize,
    /// Of the body, or of the chunk at hand, without framing.
    data_left: u64,
    /// Which letter is next.
    letter: usize,
    /// Of the body, in chunks to come. `None`: the last chunk was announced, or there are none.
    chunks_left: Option<u64>,
    /// What ends the chunk before.
    before: &'static str,
    head_bytes: u64,
    left_bytes: u64,
}

impl Encoder {
    pub fn new(form: Form) -> Encoder {
        let framing = head(form);
        let head_bytes = framing.len() as u64;
        let body = form.body_bytes;
        let (data_left, chunks_left) = match (form.head_only, form.chunked) {
            (true, _) => (0, None),
            (false, true) => (0, Some(body)),
            (false, false) => (body, None),
        };
        let encoded = chunks_left.map_or(data_left, |body| body + framing_bytes(body));
        Encoder {
            framing,
            at: 0,
            data_left,
            letter: 0,
            chunks_left,
            before: "",
            head_bytes,
            left_bytes: head_bytes + encoded,
        }
    }

    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }

    /// That have not been taken.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Where an answer is cut: in the middle of its body, or before the end of its head if there is
    /// none.
    pub fn cut_bytes(&self) -> u64 {
        let body = self.left_bytes - self.head_bytes;
        if body == 0 { self.head_bytes - 1 } else { self.head_bytes + body / 2 }
    }

    /// Appends the next bytes, `max_bytes` of them unless the answer ends before.
    pub fn fill(&mut self, out: &mut Vec<u8>, max_bytes: u64) {
        let mut room = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        while room > 0 {
            let framing = &self.framing[self.at..];
            let taken = if !framing.is_empty() {
                let taken = room.min(framing.len());
                out.extend_from_slice(&framing[..taken]);
                self.at += taken;
                taken
            } else if self.data_left > 0 {
                let pattern = &PATTERN[self.letter..];
                let taken = pattern.len().min(room).min(self.data_left as usize);
                out.extend_from_slice(&pattern[..taken]);
                self.letter = (self.letter + taken) % LETTERS;
                self.data_left -= taken as u64;
                taken
            } else if let Some(left) = self.chunks_left {
                self.next_chunk(left);
                0
            } else {
                break;
            };
            room -= taken;
            self.left_bytes -= taken as u64;
        }
    }

    fn next_chunk(&mut self, left: u64) {
        let bytes = left.min(CHUNK_BYTES);
        let after = if bytes == 0 { "\r\n" } else { "" };
        self.framing = format!("{}{bytes:x}\r\n{after}", self.before).into_bytes();
        self.at = 0;
        self.data_left = bytes;
        self.chunks_left = (bytes > 0).then_some(left - bytes);
        self.before = "\r\n";
    }
}

/// What a body's chunks have around their data.
fn framing_bytes(body: u64) -> u64 {
    let last = "0\r\n\r\n".len() as u64;
    let around = 2 * "\r\n".len() as u64;
    let rest = body % CHUNK_BYTES;
    let partial = if rest > 0 { u64::from(rest.ilog(16)) + 1 + around } else { 0 };
    body / CHUNK_BYTES * (CHUNK_DIGITS + around) + partial + last
}

fn head(form: Form) -> Vec<u8> {
    let reason = match form.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Failed",
    };
    let framing = match form.chunked {
        true => "Transfer-Encoding: chunked".into(),
        false => format!("Content-Length: {}", form.body_bytes),
    };
    let close = if form.close { "Connection: close\r\n" } else { "" };
    let kind = if form.body_bytes > 0 { "Content-Type: text/plain\r\n" } else { "" };
    format!("HTTP/1.1 {} {reason}\r\n{kind}{framing}\r\n{close}\r\n", form.status).into_bytes()
}

/// The answers of one phase that are the same each time: made when first wanted, kept, and sent as
/// one chunk each.
#[derive(Debug, Default)]
pub struct Prepared {
    /// By `close` and `head_only`.
    answers: [OnceCell<Rc<[u8]>>; 4],
    errors: [OnceCell<Rc<[u8]>>; 2],
}

impl Prepared {
    /// `None`: the phase has answers that differ, or sends them slowly.
    pub fn answer(&self, phase: &Phase, form: Form) -> Option<&Rc<[u8]>> {
        let constant = matches!(phase.size, Size::Constant(_)) && phase.chunked == form.chunked;
        if !constant || phase.bytes_per_second.is_some() {
            return None;
        }
        let kept = &self.answers[usize::from(form.close) * 2 + usize::from(form.head_only)];
        Some(kept.get_or_init(|| whole(form)))
    }

    pub fn error(&self, status: u16, close: bool) -> &Rc<[u8]> {
        self.errors[usize::from(close)].get_or_init(|| whole(empty(status, close)))
    }
}

/// An answer without a body.
pub fn empty(status: u16, close: bool) -> Form {
    Form { status, body_bytes: 0, chunked: false, head_only: false, close }
}

fn whole(form: Form) -> Rc<[u8]> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(form);
    encoder.fill(&mut bytes, u64::MAX);
    debug_assert_eq!(encoder.left_bytes(), 0);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::Reader;

    /// What the load test's own reader of responses makes of an answer.
    fn read(bytes: &[u8], head_only: bool) -> Option<(u16, u64, bool)> {
        let mut reader = Reader::new();
        reader.begin(head_only);
        let read = reader.read(bytes, |_| {}).expect("a right answer");
        let message = read.complete?;
        assert_eq!(read.taken, bytes.len());
        Some((message.head.status, message.body_bytes, message.head.keep_alive))
    }

    #[test]
    fn answers_are_right_in_every_form_and_in_any_pieces() {
        for body_bytes in [0, 1, 15, 16, 128, 16_383, 16_384, 16_385, 100_000] {
            for (chunked, head_only, close) in
                (0..8).map(|bits| (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0))
            {
                let form = Form { status: 200, body_bytes, chunked, head_only, close };
                let bytes = whole(form);
                let body = if head_only { 0 } else { body_bytes };
                assert_eq!(read(&bytes, head_only), Some((200, body, !close)), "{form:?}");
                for max in [1, 7, 4_096, 5_000] {
                    let (mut encoder, mut pieces) = (Encoder::new(form), Vec::new());
                    while encoder.left_bytes() > 0 {
                        encoder.fill(&mut pieces, max);
                    }
                    assert!(pieces[..] == bytes[..], "{form:?} by {max}");
                }
                let mut encoder = Encoder::new(form);
                let (cut, mut part) = (encoder.cut_bytes(), Vec::new());
                encoder.fill(&mut part, cut);
                assert_eq!(read(&part, head_only), None, "{form:?} cut is not whole");
            }
        }
        let error = whole(empty(503, true));
        assert_eq!(read(&error, false), Some((503, 0, false)));
        assert!(error.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
    }

    #[test]
    fn what_is_the_same_each_time_is_kept() {
        let script: super::super::script::Script =
            "1s size=5; 1s rate=1k/s; size=1..2".parse().expect("three");
        let form =
            Form { status: 200, body_bytes: 5, chunked: false, head_only: false, close: false };
        let prepared = Prepared::default();
        let [constant, slow, random] = script.phases() else { panic!("{script:?}") };
        let first = prepared.answer(constant, form).expect("constant").clone();
        assert!(Rc::ptr_eq(&first, prepared.answer(constant, form).expect("constant")));
        let close = prepared.answer(constant, Form { close: true, ..form }).expect("constant");
        assert!(first.ends_with(b"\r\n\r\nabcde") && close.ends_with(b": close\r\n\r\nabcde"));
        assert!(prepared.answer(slow, form).is_none() && prepared.answer(random, form).is_none());
    }
}
