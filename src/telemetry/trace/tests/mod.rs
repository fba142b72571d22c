//! From the fields of a request to those of the next, over the real parser of nothing: fields are
//! made here, and what is written is read as text.

mod forms;
mod table;

use super::{Forms, Hop, Incoming, Places};
use crate::http::{Field, Sampling, Seen};

/// "name: value" for each field.
pub(super) fn read(lines: &[&str]) -> Incoming {
    let (mut fields, mut seen) = (Vec::new(), Seen::default());
    for line in lines {
        let (name, value) = line.split_once(':').expect("a field");
        let field = Field::new(name.as_bytes(), value.trim().as_bytes());
        seen.add(field.kind);
        fields.push(field);
    }
    Incoming::read(&fields, seen)
}

/// Random numbers that can be told apart: 0x...01, 0x...02 and so on.
pub(super) fn numbered() -> impl FnMut() -> u64 {
    let mut last = 0xAAAA_AAAA_AAAA_AA00_u64;
    move || {
        last += 1;
        last
    }
}

/// The first of [`numbered`]: the SERVER span.
pub(super) const SERVER: &str = "aaaaaaaaaaaaaa01";
/// The second and third: a trace that begins here.
pub(super) const BEGUN: &str = "aaaaaaaaaaaaaa02aaaaaaaaaaaaaa03";

pub(super) fn hop(incoming: &Incoming) -> Hop {
    Hop::begin(incoming, Forms::DEFAULT, numbered())
}

/// The head, and where the span's id stands in it.
pub(super) fn written(hop: &Hop) -> (Vec<u8>, Places) {
    let mut out = b"GET / HTTP/1.1\r\n".to_vec();
    let places = hop.write(&mut out);
    (out, places)
}

/// The fields that go on, one for each line.
pub(super) fn lines(head: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(head).expect("text");
    text.lines().skip(1).map(str::to_owned).collect()
}

/// What goes on in the first attempt of a request that brought these fields, with its decision.
pub(super) fn passed_on(fields: &[&str]) -> Vec<String> {
    let incoming = read(fields);
    let mut hop = hop(&incoming);
    hop.decided(incoming.sampling.unwrap_or(Sampling::No), true);
    lines(&written(&hop).0)
}
