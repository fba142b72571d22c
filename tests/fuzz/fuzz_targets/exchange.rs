//! A client's bytes and its origins': what is made of them is read in the same way by all readers
//! of the re-framing oracle (`tests/reframing`), the strict one among them.
//!
//! Input: what the client sends, and after each `%%%%` what an origin answers. A line of `%10` at
//! the beginning makes it a client of HTTP/1.0 as far as answers are concerned.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlane::http::Version;

#[path = "../../reframing/agreement.rs"]
mod agreement;
#[path = "../../reframing/forward.rs"]
mod forward;
#[path = "../../reframing/leniency.rs"]
mod leniency;
#[path = "../../reframing/readers.rs"]
mod readers;

use forward::{Asked, End};
use leniency::READERS;
use readers::Answers;

const NEXT: &[u8] = b"%%%%";
const OLD_CLIENT: &[u8] = b"%10\n";

fuzz_target!(|data: &[u8]| {
    let (version, data) = match data.strip_prefix(OLD_CLIENT) {
        Some(rest) => (Version::Http10, rest),
        None => (Version::Http11, data),
    };
    let mut parts = split(data).into_iter();
    let client = parts.next().unwrap_or_default();
    let mut at = 0;
    let mut cut = |left: usize| {
        at = (at + 7) % data.len().max(1);
        if data.len() % 3 == 0 { left } else { 1 + usize::from(data[at] % 11) }
    };
    let sent = forward::requests(client, &mut cut);
    let came = || client.escape_ascii().to_string();
    for reader in &READERS {
        agreement::agree(reader, &came, &sent, reader.requests(&sent.bytes));
    }
    let method = |start: &[u8]| if start.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let asked: Vec<Asked> =
        sent.messages.iter().map(|it| Asked { method: method(&it.start), version }).collect();
    let answers: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    let back = forward::responses(&asked, &answers, &mut cut);
    let methods: Vec<&str> = asked.iter().map(|it| it.method).collect();
    let ends_cleanly = version == Version::Http10 && matches!(back.end, End::Open | End::Closed);
    let came = || answers.concat().escape_ascii().to_string();
    for reader in &READERS {
        let expected = Answers { methods: &methods, ends_cleanly };
        agreement::agree(reader, &came, &back, reader.responses(&back.bytes, expected));
    }
});

fn split(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = data.windows(NEXT.len()).position(|bytes| bytes == NEXT) {
        parts.push(&data[..at]);
        data = &data[at + NEXT.len()..];
    }
    parts.push(data);
    parts
}
