//! Responses and what must come of them: whole, byte by byte, and at every split.

use super::*;

/// What one response on a connection comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) heads: Vec<Head>,
    pub(super) body: Vec<u8>,
    /// The response, or why there is none.
    pub(super) end: Result<Message, BadResponse>,
    /// Bytes that were there and belong to no response.
    pub(super) left: usize,
}

/// Feeds pieces of a connection that ends after them. Panics where the reader breaks its word.
pub(super) fn outcome(reader: &mut Reader, pieces: &[&[u8]], to_head: bool) -> Outcome {
    reader.reset();
    reader.begin(to_head);
    let end = Err(BadResponse::Unasked);
    let mut found = Outcome { heads: vec![], body: vec![], end, left: 0 };
    let all: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut taken_in_all = 0;
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match reader.step(rest) {
                Ok(step) => step,
                Err(error) => {
                    assert_eq!(reader.step(b"x"), Err(error), "errors are terminal");
                    assert_eq!(reader.end(), Err(error), "errors are terminal");
                    return Outcome { end: Err(error), left: 0, ..found };
                }
            };
            assert!(step.taken <= rest.len(), "{} of {} taken", step.taken, rest.len());
            taken_in_all += step.taken;
            let before = rest;
            rest = &rest[step.taken..];
            match step.event {
                Event::More => {
                    assert!(rest.is_empty(), "more is asked for, and {} are left", rest.len());
                    break;
                }
                Event::Head(head) => found.heads.push(head),
                Event::Body(piece) => {
                    assert!(!piece.is_empty() && before[..step.taken].ends_with(piece));
                    found.body.extend_from_slice(piece);
                }
                Event::Complete(message) => {
                    return Outcome { end: Ok(message), left: all - taken_in_all, ..found };
                }
            }
        }
    }
    found.end = reader.end().map(|message| message.expect("one was owed"));
    found
}

/// The outcome, which must be the same whole, byte by byte and at every split.
fn at_every_split(text: &[u8], to_head: bool) -> Outcome {
    let mut reader = Reader::new();
    let whole = outcome(&mut reader, &[text], to_head);
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(outcome(&mut reader, &bytes, to_head), whole, "byte by byte: {}", show(text));
    for at in 0..=text.len() {
        let (before, after) = text.split_at(at);
        let split = outcome(&mut reader, &[before, after], to_head);
        assert_eq!(split, whole, "split at {at}: {}", show(text));
    }
    whole
}

fn show(text: &[u8]) -> String {
    text.escape_ascii().to_string()
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// Text with `|` for CRLF, status, framing, keep-alive, body, bytes left over.
type Right = (&'static str, u16, Framing, bool, &'static str, usize);

const RIGHT: &[Right] = &[
    ("HTTP/1.1 200 OK|Content-Length: 5||hello", 200, Framing::Length(5), true, "hello", 0),
    ("HTTP/1.1 200 |content-length:0||", 200, Framing::Length(0), true, "", 0),
    (
        "HTTP/1.1 404 Not Found é|CONTENT-LENGTH: \t 2 ||noHTTP",
        404,
        Framing::Length(2),
        true,
        "no",
        4,
    ),
    (
        "HTTP/1.1 200 OK|Content-Length: 1|Connection: x, Close||a",
        200,
        Framing::Length(1),
        false,
        "a",
        0,
    ),
    (
        "HTTP/1.1 200 OK|Connection: keep-alive||all of it",
        200,
        Framing::UntilClose,
        false,
        "all of it",
        0,
    ),
    ("HTTP/1.1 200 OK||", 200, Framing::UntilClose, false, "", 0),
    ("HTTP/1.0 200 OK|Content-Length: 1||a", 200, Framing::Length(1), false, "a", 0),
    (
        "HTTP/1.0 200 OK|Content-Length: 1|Connection: Keep-Alive||a",
        200,
        Framing::Length(1),
        true,
        "a",
        0,
    ),
    (
        "HTTP/1.0 200 OK|Content-Length: 1|Connection: close, keep-alive||a",
        200,
        Framing::Length(1),
        false,
        "a",
        0,
    ),
    ("HTTP/1.1 204 No Content||", 204, Framing::None, true, "", 0),
    ("HTTP/1.1 204 No Content|Connection: close||x", 204, Framing::None, false, "", 1),
    ("HTTP/1.1 304 Not Modified|Content-Length: 7||", 304, Framing::None, true, "", 0),
    ("HTTP/1.1 304 Not Modified|Transfer-Encoding: chunked||", 304, Framing::None, true, "", 0),
    (
        "HTTP/1.1 101 Switching Protocols|Upgrade: x|Connection: upgrade||frames",
        101,
        Framing::None,
        false,
        "",
        6,
    ),
    (
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|hello|0||",
        200,
        Framing::Chunked,
        true,
        "hello",
        0,
    ),
    (
        "HTTP/1.1 200 OK|transfer-encoding: Chunked||\
         000A ;a=\"b c\"|0123456789|1;x|\n|00;last|A: b|C:||next",
        200,
        Framing::Chunked,
        true,
        "0123456789\n",
        4,
    ),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||", 200, Framing::Chunked, true, "", 0),
    (
        "HTTP/1.1 200 OK|X-Empty:|!#$%&'*+-.^_`~:\tv\t|Content-Length: 0||",
        200,
        Framing::Length(0),
        true,
        "",
        0,
    ),
    ("HTTP/1.1 599 |Content-Length: 0||", 599, Framing::Length(0), true, "", 0),
];

#[test]
fn right_responses_at_every_split() {
    for (text, status, framing, keep_alive, body, left) in RIGHT {
        let text = text.replace('|', "\r\n");
        let found = at_every_split(text.as_bytes(), false);
        let head = Head { status: *status, framing: *framing, keep_alive: *keep_alive };
        let message = Message { head, body_bytes: body.len() as u64, interim: 0 };
        assert_eq!((found.heads, found.end), (vec![head], Ok(message)), "{text}");
        assert_eq!(found.left, *left, "{text}");
        assert_eq!(found.body, body.as_bytes(), "{text}");
    }
}

#[test]
fn names_are_tokens() {
    let signs = "!#$%&'*+-.^_`|~azAZ09";
    for byte in 0..=255_u8 {
        let mut text = OK.as_bytes().to_vec();
        text.extend([b'N', byte, b'N']);
        text.extend(b": value\r\nContent-Length: 0\r\n\r\n");
        let right = signs.as_bytes().contains(&byte) || byte.is_ascii_alphanumeric();
        // A colon ends the name early, which leaves a right one.
        let right = right || byte == b':';
        let end = outcome(&mut Reader::new(), &[&text], false).end;
        assert_eq!(end.is_ok(), right, "{byte:#x}: {end:?}");
    }
}

#[test]
fn answers_to_head_have_no_body() {
    let fields = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""];
    for field in fields {
        let text = format!("{OK}{field}\r\nHTTP/1.1");
        let found = at_every_split(text.as_bytes(), true);
        let message = found.end.expect(field);
        assert_eq!((message.head.framing, message.head.keep_alive), (Framing::None, true));
        assert_eq!((message.body_bytes, found.left), (0, 8));
    }
}

#[test]
fn interim_responses_are_passed_over() {
    let text = format!(
        "HTTP/1.1 100 Continue\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: <x>\r\nConnection: close\r\n\r\n\
         {OK}Content-Length: 1\r\n\r\na"
    );
    let found = at_every_split(text.as_bytes(), false);
    let message = found.end.expect("a response");
    assert_eq!((message.interim, message.head.status, message.head.keep_alive), (2, 200, true));
    assert_eq!(found.heads.len(), 1);

    let many = "HTTP/1.1 100 \r\n\r\n".repeat(usize::from(MAX_INTERIM) + 1);
    assert_eq!(at_every_split(many.as_bytes(), false).end, Err(BadResponse::TooManyInterim));
    let cut = "HTTP/1.1 100 \r\n\r\n";
    assert_eq!(at_every_split(cut.as_bytes(), false).end, Err(BadResponse::EndInHead));
}

/// What follows the status line, and the error.
const WRONG: &[(&str, BadResponse)] = &[
    ("Content-Length: 1\n\r\na", BadResponse::BareLineFeed),
    ("\n", BadResponse::BareLineFeed),
    ("No colon\r\n\r\n", BadResponse::BadFieldName),
    (": value\r\n\r\n", BadResponse::BadFieldName),
    ("Space : value\r\n\r\n", BadResponse::BadFieldName),
    ("N\u{e9}: value\r\n\r\n", BadResponse::BadFieldName),
    ("Name: a\rb\r\n\r\n", BadResponse::BadFieldValue),
    ("Name: a\0b\r\n\r\n", BadResponse::BadFieldValue),
    ("Name: a\x7F\r\n\r\n", BadResponse::BadFieldValue),
    ("Name: a\r\n folded\r\n\r\n", BadResponse::FoldedField),
    ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BadResponse::LengthAndEncoding),
    ("Content-Length: 1\r\nContent-Length: 2\r\n\r\n", BadResponse::DifferingLengths),
    ("Content-Length: 1\r\nContent-Length: 1\r\n\r\n", BadResponse::RepeatedLength),
    ("Content-Length: 1, 1\r\n\r\n", BadResponse::BadContentLength),
    ("Content-Length: +1\r\n\r\n", BadResponse::BadContentLength),
    ("Content-Length: -1\r\n\r\n", BadResponse::BadContentLength),
    ("Content-Length: 0x1\r\n\r\n", BadResponse::BadContentLength),
    ("Content-Length:\r\n\r\n", BadResponse::BadContentLength),
    ("Content-Length: 18446744073709551616\r\n\r\n", BadResponse::BadContentLength),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n", BadResponse::BadTransferEncoding),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n", BadResponse::BadTransferEncoding),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        BadResponse::BadTransferEncoding,
    ),
    ("Transfer-Encoding: identity\r\n\r\n", BadResponse::BadTransferEncoding),
    ("Content-Length: 5\r\n\r\nhell", BadResponse::EndInBody { missing_bytes: 1 }),
    ("Content-Length: 5\r\n\r\n", BadResponse::EndInBody { missing_bytes: 5 }),
    ("Content-Length: 5\r\n", BadResponse::EndInHead),
    ("", BadResponse::EndInHead),
];

/// What follows a head that says chunked, and the error.
const WRONG_CHUNKS: &[(&str, BadResponse)] = &[
    ("x\r\n", BadResponse::BadChunkSize),
    ("\r\n", BadResponse::BadChunkSize),
    (" 1\r\na\r\n", BadResponse::BadChunkSize),
    ("0x1\r\na\r\n", BadResponse::BadChunkSize),
    ("1 x\r\na\r\n", BadResponse::BadChunkSize),
    ("1 \r\na\r\n", BadResponse::BadChunkSize),
    ("1;a\0b\r\na\r\n", BadResponse::BadChunkSize),
    ("10000000000000000\r\n", BadResponse::BadChunkSize),
    ("1\na\r\n", BadResponse::BareLineFeed),
    ("1\r\nab\r\n", BadResponse::ChunkWithoutEnd),
    ("1\r\na\n0\r\n", BadResponse::ChunkWithoutEnd),
    ("1\r\na\r0\r\n", BadResponse::ChunkWithoutEnd),
    ("0\r\nContent-Length: 5\r\n\r\n", BadResponse::FramingInTrailer),
    ("0\r\nno trailer\r\n\r\n", BadResponse::BadFieldName),
    ("0\r\n", BadResponse::EndInChunks),
    ("0\r\nA: b\r\n", BadResponse::EndInChunks),
    ("5\r\nhell", BadResponse::EndInChunks),
    ("5\r\nhello", BadResponse::EndInChunks),
    ("5\r\nhello\r", BadResponse::EndInChunks),
    ("5\r\nhello\r\n", BadResponse::EndInChunks),
    ("5", BadResponse::EndInChunks),
    ("", BadResponse::EndInChunks),
];

#[test]
fn wrong_responses_at_every_split() {
    for (rest, error) in WRONG {
        let found = at_every_split(format!("{OK}{rest}").as_bytes(), false);
        assert_eq!(found.end, Err(*error), "{}", show(rest.as_bytes()));
    }
    for (rest, error) in WRONG_CHUNKS {
        let text = format!("{OK}Transfer-Encoding: chunked\r\n\r\n{rest}");
        let found = at_every_split(text.as_bytes(), false);
        assert_eq!(found.end, Err(*error), "{}", show(rest.as_bytes()));
        assert_eq!(found.heads.len(), 1);
    }
}

#[test]
fn wrong_status_lines() {
    let lines = [
        "hello",
        "\r\n",
        "HTTP/2 200 OK\r\n",
        "HTTP/1.2 200 OK\r\n",
        "http/1.1 200 OK\r\n",
        "HTTP/1.1  200 OK\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 099 \r\n",
        "HTTP/1.1 600 \r\n",
        "HTTP/1.1 2x0 \r\n",
        "HTTP/1.1 200 a\0b\r\n",
        "HTTP/1.1\t200 OK\r\n",
        " HTTP/1.1 200 OK\r\n",
        "ICY 200 OK\r\n",
        "HTTP/1.1 200 O\rK\r\n",
    ];
    for line in lines {
        let found = at_every_split(line.as_bytes(), false);
        assert_eq!(found.end, Err(BadResponse::BadStatusLine), "{}", show(line.as_bytes()));
    }
    // Found without waiting for a line's end that may never come.
    let mut reader = Reader::new();
    reader.begin(false);
    assert_eq!(reader.step(b"SSH-2.0"), Err(BadResponse::BadStatusLine));
}

#[test]
fn framing_where_none_may_be() {
    for status in [100, 101, 204] {
        for field in ["Content-Length: 0", "Transfer-Encoding: chunked"] {
            let text = format!("HTTP/1.1 {status} \r\n{field}\r\n\r\n");
            let found = at_every_split(text.as_bytes(), false);
            assert_eq!(found.end, Err(BadResponse::FramingNotAllowed { status }), "{text}");
        }
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(at_every_split(old.as_bytes(), false).end, Err(BadResponse::EncodingInHttp10));
}

#[test]
fn sections_have_limits_whatever_the_split() {
    let both = |text: &[u8]| {
        let mut reader = Reader::new();
        let whole = outcome(&mut reader, &[text], false);
        for bytes in [1, 7, 4_096] {
            let pieces: Vec<&[u8]> = text.chunks(bytes).collect();
            assert_eq!(outcome(&mut reader, &pieces, false), whole);
        }
        whole.end
    };
    let field = |bytes: usize| format!("A:{}\r\n", "x".repeat(bytes - 4));
    // The whole head at the limit, and one byte beyond.
    let rest = OK.len() + "Content-Length: 0\r\n\r\n".len() + 1_000;
    for (bytes, right) in [(MAX_HEAD_BYTES - rest, true), (MAX_HEAD_BYTES - rest + 1, false)] {
        let text = format!("{OK}{}{}Content-Length: 0\r\n\r\n", field(1_000), field(bytes));
        let end = both(text.as_bytes());
        assert_eq!(end.is_ok(), right, "{end:?}");
        assert!(right || end == Err(BadResponse::HeadTooLong));
    }
    let endless = format!("{OK}{}", "x".repeat(70_000));
    assert_eq!(both(endless.as_bytes()), Err(BadResponse::HeadTooLong));
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    let line = format!("{chunked}1;{}\r\na\r\n", "x".repeat(MAX_CHUNK_LINE_BYTES));
    assert_eq!(both(line.as_bytes()), Err(BadResponse::ChunkLineTooLong));
    let trailers = format!("{chunked}0\r\n{}\r\n", field(1_000).repeat(66));
    assert_eq!(both(trailers.as_bytes()), Err(BadResponse::TrailersTooLong));
}

#[test]
fn one_response_after_the_other_and_none_unasked() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 204 \r\n\r\nHTTP";
    let mut reader = Reader::new();
    let mut rest = &text[..];
    for (status, body) in [(200, "ab"), (204, "")] {
        reader.begin(false);
        let mut found = Vec::new();
        let read = reader.read(rest, |piece| found.extend_from_slice(piece)).expect("right");
        let message = read.complete.expect("whole");
        assert_eq!((message.head.status, message.body_bytes), (status, body.len() as u64));
        assert_eq!(found, body.as_bytes());
        rest = &rest[read.taken..];
    }
    assert_eq!(rest, b"HTTP");
    assert_eq!(reader.end(), Ok(None));
    assert_eq!(reader.step(rest), Err(BadResponse::Unasked));
    reader.reset();
    reader.begin(false);
    assert!(!reader.has_begun());
    assert_eq!(reader.step(b"H").map(|step| step.event), Ok(Event::More));
    assert!(reader.has_begun());
    assert_eq!(reader.end(), Err(BadResponse::EndInHead));
    reader.reset();
    reader.begin(false);
    assert_eq!(reader.end(), Err(BadResponse::EndBeforeHead));
}
