//! Whatever the proxy sends on, everybody reads in the same way: as many messages as were meant,
//! with the bodies that were meant, whether one keeps to the letter of RFC 9112 or has any of the
//! leniencies that request smuggling lives on.
//!
//! Client bytes come from a seeded grammar (`RINGLANE_SEED`), go through the codec as a connection
//! uses it, whole or in random pieces, and what comes out is read by all of `readers`. The same for
//! what origins answer.

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod forward;
mod grammar;
mod leniency;
mod readers;

use agreement::agree;
use common::Rng;
use forward::{End, Sent};
use grammar::Grammar;
use leniency::READERS;
use readers::Answers;
use ringlane::http::Version;
use std::ops::AddAssign;
use std::thread;

/// Streams with broken requests.
const REQUESTS: usize = 100_000;
/// Client connections with broken answers.
const RESPONSES: usize = 20_000;
/// Parts of the work, each with a seed of its own, so that any number of threads does the same.
const PARTS: usize = 10;

/// What became of what came.
#[derive(Clone, Copy, Default)]
struct Counts {
    whole: usize,
    refused: usize,
    /// They end within a message.
    cut_short: usize,
    messages: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.whole += other.whole;
        self.refused += other.refused;
        self.cut_short += other.cut_short;
        self.messages += other.messages;
    }
}

impl Counts {
    fn add(&mut self, sent: &Sent) {
        self.messages += sent.messages.len();
        match sent.end {
            End::Open | End::Closed if sent.answered_here > 0 => self.refused += 1,
            End::Open | End::Closed => self.whole += 1,
            End::Refused => self.refused += 1,
            End::Within => self.cut_short += 1,
        }
    }
}

/// Has every part done by one thread or another.
fn in_parts(part: impl Fn(Grammar) -> Counts + Sync) -> Counts {
    let seed = std::env::var("RINGLANE_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(1);
    println!("RINGLANE_SEED={seed}");
    let mut seeds = Rng::from(seed);
    let seeds: Vec<u64> = (0..PARTS).map(|_| seeds.next()).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(PARTS);
    let mut all = Counts::default();
    thread::scope(|scope| {
        let (seeds, part) = (&seeds, &part);
        let run = |first: usize| {
            let own = seeds.iter().skip(first).step_by(threads);
            own.fold(Counts::default(), |mut sum, seed| {
                sum += part(Grammar::new(Rng::from(*seed)));
                sum
            })
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || run(first))).collect();
        for thread in running {
            all += thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    all
}

/// Says what was counted, for CI to show.
fn told(all: usize, what: &str, counts: Counts) -> Counts {
    let Counts { whole, refused, cut_short, .. } = &counts;
    println!(
        "reframing: {all} mutated {what}, {whole} forwarded, {refused} refused, {cut_short} cut \
         short, {} parsers, 0 disagreements",
        READERS.len()
    );
    counts
}

#[test]
fn requests_end_where_everybody_thinks_they_end() {
    let counts = in_parts(|mut grammar| {
        let mut counts = Counts::default();
        for _ in 0..REQUESTS / PARTS {
            let stream = grammar.stream();
            let whole = grammar.is(2);
            let sent = forward::requests(&stream, &mut grammar.cut(whole));
            for reader in &READERS {
                let came = || stream.escape_ascii().to_string();
                let seen = reader.requests(&sent.bytes);
                agree(reader, &came, &sent, seen);
            }
            if grammar.is(8) {
                let other = forward::requests(&stream, &mut grammar.cut(!whole));
                let came = stream.escape_ascii();
                assert_eq!(sent.messages, other.messages, "pieces change what is sent: {came}");
                assert_eq!(sent.end, other.end, "{came}");
            }
            counts.add(&sent);
        }
        counts
    });
    let Counts { whole, refused, messages, .. } = told(REQUESTS, "requests", counts);
    assert!(whole > REQUESTS / 5 && refused > REQUESTS / 5, "{whole} and {refused}");
    assert!(messages > REQUESTS / 2, "{messages} messages");
}

#[test]
fn responses_end_where_everybody_thinks_they_end() {
    let counts = in_parts(|mut grammar| {
        let mut counts = Counts::default();
        for _ in 0..RESPONSES / PARTS {
            let (asked, answers) = grammar.answers();
            let whole = grammar.is(2);
            let sent = forward::responses(&asked, &answers, &mut grammar.cut(whole));
            let methods: Vec<&str> = asked.iter().map(|it| it.method).collect();
            let until_close = asked.iter().any(|it| it.version == Version::Http10);
            let ends_cleanly = until_close && matches!(sent.end, End::Open | End::Closed);
            for reader in &READERS {
                let came = || format!("{asked:?} {}", answers.concat().escape_ascii());
                let answers = Answers { methods: &methods, ends_cleanly };
                agree(reader, &came, &sent, reader.responses(&sent.bytes, answers));
            }
            counts.add(&sent);
        }
        counts
    });
    let Counts { whole, refused, messages, .. } = told(RESPONSES, "responses", counts);
    assert!(whole > RESPONSES / 3 && refused > RESPONSES / 10, "{whole} and {refused}");
    assert!(messages > RESPONSES / 2, "{messages} messages");
}
