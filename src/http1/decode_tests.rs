//! Bodies of every framing: each whole, byte by byte, at every split.

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    consumed: usize,
    ended: bool,
    trailers: Option<Vec<u8>>,
}

fn decode_in(framing: Framing, max: Option<u64>, pieces: &[&[u8]]) -> Result<Body, BodyError> {
    let mut decoder = BodyDecoder::new(framing, max);
    let mut body =
        Body { data: Vec::new(), consumed: 0, ended: decoder.is_ended(), trailers: None };
    let mut pieces = pieces.to_vec();
    // A receive of no bytes changes nothing.
    pieces.insert(0, b"");
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let decoded = decoder.decode(&mut bytes)?;
        body.data.extend_from_slice(&bytes[..decoded.data]);
        body.consumed += decoded.consumed;
        body.ended = decoded.ended;
        if !decoded.ended {
            assert_eq!(decoded.consumed, piece.len());
        }
    }
    if body.ended {
        assert_eq!(decoder.finish_on_close(), Ok(()));
        body.trailers = decoder.take_trailers().map(Vec::from);
    }
    Ok(body)
}

fn decode_max(framing: Framing, max: Option<u64>, bytes: &[u8]) -> Result<Body, BodyError> {
    let whole = decode_in(framing, max, &[bytes]);
    let singles: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(decode_in(framing, max, &singles), whole, "{}", bytes.escape_ascii());
    for at in 0..bytes.len() {
        let (a, b) = bytes.split_at(at);
        assert_eq!(decode_in(framing, max, &[a, b]), whole, "{}", bytes.escape_ascii());
    }
    whole
}

fn chunked(bytes: &[u8]) -> Result<Body, BodyError> {
    decode_max(Framing::Chunked, None, bytes)
}

#[test]
fn chunks_become_data() {
    let wire = b"5\r\nhello\r\n00A;ext=1;q=\"a;\\\" b\"\r\n0123456789\r\n0\r\n\r\nGET /";
    let body = chunked(wire).unwrap();
    assert_eq!(body.data, b"hello0123456789");
    assert_eq!(body.consumed, wire.len() - 5, "surplus bytes belong to the next message");
    assert!(body.ended && body.trailers.is_none());
    let body = chunked(b"0000000000000003\r\nabc\r\n").unwrap();
    assert!(!body.ended);
}

#[test]
fn bad_chunks_are_refused() {
    let long_extension = [b"1;".to_vec(), vec![b'a'; 256], b"\r\nx\r\n0\r\n\r\n".to_vec()].concat();
    let bad: [&[u8]; 32] = [
        b"\r\n",
        b";a\r\n",
        b"g\r\n",
        b"0x5\r\n",
        b"+5\r\n",
        b"-5\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"5\t\r\n",
        b"5 ;a\r\n",
        b"5;\r\n",
        b"5; a\r\n",
        b"5;a =b\r\n",
        b"5;a=\r\n",
        b"5;a=\"b\r\nhello",
        b"5;a=\"b\"c\r\n",
        b"5;a\nhello",
        b"5;a\0\r\n",
        b"5,5\r\n",
        b"5\nhello",
        b"5\rhello",
        b"5\r\nhello\n",
        b"5\r\nhelloX",
        b"5\r\nhello\rX",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\n\r\n",
        b"00000000000000005\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\n\r\n",
        &long_extension,
    ];
    for bytes in bad {
        assert_eq!(chunked(bytes), Err(BodyError::Malformed), "{}", bytes.escape_ascii());
    }
}

#[test]
fn trailers_that_may_go_on() {
    let body = chunked(
        b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nhost: x\r\nTransfer-Encoding: chunked\r\n\
          Authorization: b\r\nSet-Cookie: c\r\nConnection: close\r\nX_Forwarded_For: 1\r\n\
          Content-Type: t\r\ngrpc-status:0\r\n\r\n",
    );
    assert_eq!(body.unwrap().trailers.unwrap(), b"X-Sum: 1\r\ngrpc-status: 0\r\n");
    assert_eq!(chunked(b"0\r\nHost: x\r\n\r\n").unwrap().trailers, None);
}

#[test]
fn no_trailer_goes_on_where_connection_names_fields() {
    for nominates in [true, false] {
        let mut decoder = BodyDecoder::new(Framing::Chunked, None).dropping_trailers(nominates);
        let mut bytes = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\nnext".to_vec();
        let found = decoder.decode(&mut bytes).unwrap();
        assert_eq!((found.data, found.ended, &bytes[found.consumed..]), (2, true, &b"next"[..]));
        assert_eq!(decoder.take_trailers().is_none(), nominates);
    }
    let mut decoder = BodyDecoder::new(Framing::Chunked, None).dropping_trailers(true);
    let malformed = decoder.decode(&mut b"0\r\nX-Sum : 1\r\n\r\n".to_vec());
    assert_eq!(malformed, Err(BodyError::Malformed));
}

#[test]
fn bad_trailers_are_refused() {
    let bad: [&[u8]; 9] = [
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\na : b\r\n\r\n",
        b"0\r\na: b\r\n c\r\n\r\n",
        b"0\r\n a: b\r\n\r\n",
        b"0\r\na: b\n\r\n",
        b"0\r\na: b\rc\r\n\r\n",
        b"0\r\na: b\0\r\n\r\n",
        b"0\r\na(: b\r\n\r\n",
    ];
    for bytes in bad {
        assert_eq!(chunked(bytes), Err(BodyError::Malformed), "{}", bytes.escape_ascii());
    }
    let line =
        |len: usize| [b"0\r\na:".to_vec(), vec![b'b'; len - 4], b"\r\n\r\n".to_vec()].concat();
    let limit = super::super::MAX_TRAILER_BYTES;
    let whole = |bytes: &[u8]| decode_in(Framing::Chunked, None, &[bytes]).map(|it| it.ended);
    assert_eq!(whole(&line(limit)), Ok(true));
    assert_eq!(whole(&line(limit + 1)), Err(BodyError::TrailerTooLarge));
    let endless = [b"0\r\na:".to_vec(), vec![b'b'; limit + 1]].concat();
    assert_eq!(whole(&endless), Err(BodyError::TrailerTooLarge));
}

#[test]
fn lengths_and_limits() {
    let body = decode_max(Framing::Length(5), Some(5), b"hello, more").unwrap();
    assert_eq!((body.data, body.consumed, body.ended), (b"hello".to_vec(), 5, true));
    for framing in [Framing::Empty, Framing::Length(0)] {
        let body = decode_max(framing, Some(0), b"next").unwrap();
        assert_eq!((body.consumed, body.ended), (0, true));
    }
    assert_eq!(decode_max(Framing::Length(6), Some(5), b"h"), Err(BodyError::TooLarge));
    assert!(BodyDecoder::new(Framing::Length(6), Some(5)).is_declared_too_large());
    assert!(!BodyDecoder::new(Framing::Length(5), Some(5)).is_declared_too_large());
    let close = Framing::UntilClose;
    assert_eq!(decode_in(close, Some(5), &[b"hello", b"!"]), Err(BodyError::TooLarge));
    assert!(!decode_max(close, Some(5), b"hello").unwrap().ended);
    let wire = b"3\r\nabc\r\n3\r\n";
    assert_eq!(decode_max(Framing::Chunked, Some(5), wire), Err(BodyError::TooLarge));
    assert!(decode_max(Framing::Chunked, Some(6), wire).is_ok());
    let huge = b"ffffffffffffffff\r\n";
    assert_eq!(decode_max(Framing::Chunked, Some(6), huge), Err(BodyError::TooLarge));
}

#[test]
fn what_a_close_means() {
    let at_close = |framing: Framing, bytes: &[u8]| {
        let mut decoder = BodyDecoder::new(framing, None);
        decoder.decode(&mut bytes.to_vec()).unwrap();
        decoder.finish_on_close()
    };
    assert_eq!(at_close(Framing::UntilClose, b"abc"), Ok(()));
    assert_eq!(at_close(Framing::Length(3), b"abc"), Ok(()));
    assert_eq!(at_close(Framing::Length(3), b"ab"), Err(BodyError::Truncated));
    assert_eq!(at_close(Framing::Chunked, b"0\r\n\r\n"), Ok(()));
    for bytes in [&b""[..], b"3", b"3\r\na", b"3\r\nabc\r\n", b"0\r\n", b"0\r\na: b\r\n"] {
        assert_eq!(at_close(Framing::Chunked, bytes), Err(BodyError::Truncated));
    }
}

#[test]
fn the_first_run_of_payload_stays_where_it_came() {
    let mut decoder = BodyDecoder::new(Framing::Chunked, None);
    let mut bytes = b"5\r\nhello\r\n3\r\nabc\r\n2\r\nx".to_vec();
    let found = decoder.decode_in_place(&mut bytes).unwrap();
    assert_eq!(found.data, 3..12);
    assert_eq!(&bytes[3..12], b"helloabcx");
    assert_eq!(decoder.hint(), Some(1));
    let mut bytes = b"y".to_vec();
    assert_eq!(decoder.decode_in_place(&mut bytes).unwrap().data, 0..1);
    assert_eq!(decoder.hint(), None);
}
