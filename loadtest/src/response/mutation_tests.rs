//! Damaged responses in random pieces: the reader never panics, never takes more than there is, and
//! finds the same whatever the split.

use ringlane::policy::Rng;

use super::tests::outcome;
use super::*;

const SEEDS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n\
      hello\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nServer: x\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
];
/// What a mutation likes to put in.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b":",
    b";",
    b"0",
    b"ffffffffffffffff",
    b"HTTP/1.1 ",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"18446744073709551615",
    b"\xFF",
];
const ROUNDS: usize = 60_000;

#[test]
fn damage_never_panics_and_never_depends_on_the_split() {
    let seed = std::env::var("RINGLANE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(0x10AD_7E57);
    println!("RINGLANE_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut reader = Reader::new();
    let mut byte_reader = Reader::new();
    let (mut right, mut wrong) = (0, 0);
    for round in 0..ROUNDS {
        let mut text = SEEDS[rng.below(SEEDS.len())].to_vec();
        for _ in 0..rng.below(4) {
            mutate(&mut text, &mut rng);
        }
        let to_head = rng.below(10) == 0;
        let whole = outcome(&mut reader, &[&text], to_head);
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + rng.below(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let split = outcome(&mut byte_reader, &pieces, to_head);
        assert_eq!(split, whole, "round {round}: {} in {pieces:?}", text.escape_ascii());
        if whole.end.is_ok() { right += 1 } else { wrong += 1 }
    }
    println!("{right} right, {wrong} wrong");
    // Both sides of the reader were visited.
    assert!(right > ROUNDS / 10 && wrong > ROUNDS / 10, "{right} right, {wrong} wrong");
}

fn mutate(text: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(text.len() + 1);
    match rng.below(5) {
        0 => text.truncate(at),
        1 => {
            let piece = PIECES[rng.below(PIECES.len())];
            text.splice(at..at, piece.iter().copied());
        }
        2 if at < text.len() => text[at] = rng.next_u64() as u8,
        3 if at < text.len() => text[at] ^= 1 << rng.below(8),
        _ => {
            let end = at + rng.below(text.len() - at + 1).min(12);
            text.drain(at..end);
        }
    }
}
