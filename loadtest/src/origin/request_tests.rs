//! Requests right and wrong: whole, byte by byte, and at every split.

use super::*;

/// All events of `input`, fed in the pieces that `ends` divide it into.
fn events(input: &[u8], ends: &[usize]) -> Result<Vec<Event>, BadRequest> {
    let mut reader = Reader::default();
    let mut events = Vec::new();
    let mut start = 0;
    for end in ends.iter().copied().chain([input.len()]) {
        loop {
            let step = reader.read(&input[start..end])?;
            start += step.taken;
            if step.event == Event::More {
                assert_eq!(start, end, "all is taken");
                break;
            }
            events.push(step.event);
        }
    }
    Ok(events)
}

/// The same whatever the split.
fn read(input: &[u8]) -> Result<Vec<Event>, BadRequest> {
    let whole = events(input, &[]);
    for end in 0..=input.len() {
        assert_eq!(events(input, &[end]), whole, "{:?} at {end}", String::from_utf8_lossy(input));
    }
    let each: Vec<usize> = (0..input.len()).collect();
    assert_eq!(events(input, &each), whole, "{:?}", String::from_utf8_lossy(input));
    whole
}

fn request(input: &str) -> Request {
    match read(input.as_bytes()) {
        Ok(events) if events.len() == 1 => match events[0] {
            Event::Request(request) => request,
            other => panic!("{input:?}: {other:?}"),
        },
        other => panic!("{input:?}: {other:?}"),
    }
}

const GET: Request = Request { method: Method::Get, ..NOTHING };

#[test]
fn a_head_says_what_is_to_be_done() {
    assert_eq!(request("GET / HTTP/1.1\r\n\r\n"), GET);
    assert_eq!(request("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), GET);
    let head = request("HEAD /a?b=c HTTP/1.1\r\n\r\n");
    assert_eq!(head.method, Method::Head);
    assert_eq!(request("DELETE * HTTP/1.1\r\n\r\n").method, Method::Other);
    let old = request("GET / HTTP/1.0\r\n\r\n");
    assert!(old.is_old && old.close);
    assert!(request("GET / HTTP/1.1\r\nConnection: x , CLOSE\r\n\r\n").close);
    assert!(!request("GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n").close);
    assert!(request("GET /loadtest/counts HTTP/1.1\r\n\r\n").asks_counts);
    assert!(!request("PUT /loadtest/counts HTTP/1.1\r\n\r\n").asks_counts);
    assert!(!request("GET /loadtest/counts2 HTTP/1.1\r\n\r\n").asks_counts);
    let id = request("GET / HTTP/1.1\r\nX-LoadTest-Id:  00ff00000000AbCd \r\n\r\n").id;
    assert_eq!(id, Some(0x00ff_0000_0000_abcd));
}

#[test]
fn bodies_are_counted_and_left_behind() {
    let put = "PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(request(put).body_bytes, 5);
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
                   5\r\nhello\r\nA ;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
    assert_eq!(request(chunked).body_bytes, 15);
    let both = format!("{put}{chunked}GET / HTTP/1.1\r\n\r\n");
    let events = read(both.as_bytes()).expect("three requests");
    let bodies: Vec<u64> = events
        .iter()
        .map(|event| match event {
            Event::Request(request) => request.body_bytes,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bodies, [5, 15, 0]);
}

#[test]
fn who_waits_for_100_continue_is_told_of_once() {
    let waits = "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi";
    let events = read(waits.as_bytes()).expect("right");
    assert_eq!(events[0], Event::Continue);
    assert_eq!(events.len(), 2);
    // Not where there is no body, nor for a client of HTTP/1.0.
    request("GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n");
    request("PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
}

#[test]
fn bad_requests_are_told_apart() {
    let field = |field: &str| format!("GET / HTTP/1.1\r\n{field}\r\n\r\n");
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("GET /\r\n\r\n".to_owned(), BadRequest::RequestLine),
        ("GET  / HTTP/1.1\r\n\r\n".into(), BadRequest::Version),
        (" GET / HTTP/1.1\r\n\r\n".into(), BadRequest::Version),
        ("GET /\x01 HTTP/1.1\r\n\r\n".into(), BadRequest::RequestLine),
        ("G\u{e4}T / HTTP/1.1\r\n\r\n".into(), BadRequest::RequestLine),
        ("GET / HTTP/2.0\r\n\r\n".into(), BadRequest::Version),
        ("CONNECT a:1 HTTP/1.1\r\n\r\n".into(), BadRequest::Connect),
        ("GET / HTTP/1.1\n\n".into(), BadRequest::BareLineFeed),
        (field("no colon"), BadRequest::Field),
        (field("a : b"), BadRequest::Field),
        (field(" folded: line"), BadRequest::Field),
        (field("a: \x01"), BadRequest::Field),
        (field(": b"), BadRequest::Field),
        (field("Content-Length: 5, 5"), BadRequest::ContentLength),
        (field("Content-Length: +5"), BadRequest::ContentLength),
        (field("Content-Length:"), BadRequest::ContentLength),
        (field("Content-Length: 18446744073709551616"), BadRequest::ContentLength),
        (field("Content-Length: 5\r\nContent-Length: 5"), BadRequest::ContentLength),
        (field("Transfer-Encoding: gzip, chunked"), BadRequest::TransferEncoding),
        (field("Content-Length: 5\r\nTransfer-Encoding: chunked"), BadRequest::TransferEncoding),
        (field("Transfer-Encoding: chunked\r\nContent-Length: 5"), BadRequest::ContentLength),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), {
            BadRequest::TransferEncoding
        }),
        (field("x-loadtest-id: 12"), BadRequest::Id),
        (field("x-loadtest-id: 000000000000000g"), BadRequest::Id),
        (field("x-loadtest-id: 0000000000000001\r\nx-loadtest-id: 0000000000000001"), {
            BadRequest::Id
        }),
        (format!("{chunked}g\r\n"), BadRequest::ChunkSize),
        (format!("{chunked}\r\n"), BadRequest::ChunkSize),
        (format!("{chunked}11112222333344445\r\n"), BadRequest::ChunkSize),
        (format!("{chunked}1\r\nab\r\n"), BadRequest::ChunkEnd),
        (format!("{chunked}0\r\nno colon\r\n\r\n"), BadRequest::Field),
    ];
    for (input, error) in cases {
        assert_eq!(read(input.as_bytes()), Err(error), "{input:?}");
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn nothing_grows_beyond_its_limit() {
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(MAX_HEAD_BYTES);
    let field = "a: b\r\n".repeat(MAX_HEAD_BYTES / 6 + 1);
    let inputs = [
        format!("GET /{long}"),
        format!("GET / HTTP/1.1\r\n{field}"),
        "\r\n".repeat(MAX_HEAD_BYTES / 2 + 1),
        format!("{chunked}1;{}", &long[..MAX_CHUNK_LINE_BYTES]),
        format!("{chunked}1\r\na{}", &long[..MAX_CHUNK_LINE_BYTES + 1]),
        format!("{chunked}0\r\n{field}"),
    ];
    for input in inputs {
        let bytes = input.as_bytes();
        let each: Vec<usize> = (0..bytes.len()).collect();
        for ends in [&[][..], &[20], &each] {
            assert_eq!(events(bytes, ends), Err(BadRequest::TooLong), "{:?}", &input[..40]);
        }
    }
    // Chunks whose sizes are more than 64 bits can count.
    let mut reader = Reader::default();
    let huge = format!("{chunked}ffffffffffffffff\r\nabc");
    let step = reader.read(huge.as_bytes()).expect("a chunk that never ends");
    assert_eq!(step, Step { taken: huge.len(), event: Event::More });
    // An error is terminal.
    let mut reader = Reader::default();
    assert!(reader.read(b"\n").is_err());
    assert_eq!(reader.read(b"GET / HTTP/1.1\r\n\r\n"), Err(BadRequest::BareLineFeed));
}
