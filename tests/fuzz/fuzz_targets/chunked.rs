//! Chunked bodies: in pieces they are what they are as a whole, and framed anew they are the same.
//!
//! Input: a body, and perhaps bytes of the next message behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlane::http::Framing;
use ringlane::http1::{BodyDecoder, BodyEncoder, BodyError};

/// What may come of a body, so that the bound is met too.
const MOST: u64 = 4096;

#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    consumed: usize,
    ended: bool,
    trailers: Option<Box<[u8]>>,
}

fuzz_target!(|data: &[u8]| {
    let whole = decode(data, |_| usize::MAX);
    let small = decode(data, |at| 1 + usize::from(data[at] % 5));
    match (&whole, &small) {
        (Err(_), Err(_)) => {}
        _ => assert_eq!(whole, small),
    }
    let Ok(body) = whole else { return };
    if !body.ended {
        assert_eq!(body.consumed, data.len());
        return;
    }
    let mut encoder = BodyEncoder::new(Framing::Chunked);
    let mut framed = Vec::new();
    for piece in body.data.chunks(1 + data.len() / 3) {
        in_place(&mut encoder, piece, &mut framed);
    }
    encoder.encode_into(&mut framed, &[], true, body.trailers.as_deref());
    let len = framed.len();
    framed.extend_from_slice(&data[body.consumed..]);
    assert_eq!(decode(&framed, |_| usize::MAX), Ok(Body { consumed: len, ..body }));
});

fn decode(data: &[u8], cut: impl Fn(usize) -> usize) -> Result<Body, BodyError> {
    let mut decoder = BodyDecoder::new(Framing::Chunked, Some(MOST));
    let mut body = Body { data: Vec::new(), consumed: 0, ended: false, trailers: None };
    while body.consumed < data.len() && !decoder.is_ended() {
        let from = body.consumed;
        let end = from.saturating_add(cut(from)).min(data.len());
        let mut piece = data[from..end].to_vec();
        let payload = decoder.decode_in_place(&mut piece)?;
        body.data.extend_from_slice(&piece[payload.data]);
        body.consumed += payload.consumed;
        assert!(payload.ended || payload.consumed == piece.len());
    }
    assert!(body.data.len() as u64 <= MOST);
    body.ended = decoder.is_ended();
    assert_eq!(decoder.finish_on_close().is_ok(), body.ended);
    body.trailers = if body.ended { decoder.take_trailers() } else { None };
    Ok(body)
}

/// As the shard does it: within the buffer that the data came in.
fn in_place(encoder: &mut BodyEncoder, piece: &[u8], out: &mut Vec<u8>) {
    let start = BodyEncoder::HEADROOM;
    let mut buf = vec![0; start + piece.len() + BodyEncoder::TAILROOM];
    buf[start..start + piece.len()].copy_from_slice(piece);
    let framed = encoder.encode(&mut buf, start..start + piece.len(), false, None);
    out.extend_from_slice(&buf[framed]);
}
