//! The corpus of nodejs/llhttp (MIT), which this project did not write and does not contain:
//! messages in markdown, each with the events that llhttp's strict mode sees in it.
//!
//! What llhttp refuses is refused, and what it takes is taken, with as many heads and as many body
//! bytes. A proxy is stricter than a parser in places; each such case is listed with the reason.
//! Read from `../shared/corpora/llhttp` or `$RINGLANE_CORPORA/llhttp`; where that is missing,
//! nothing is tested and a line says so.

mod common;
#[path = "common/corpora.rs"]
mod corpora;
#[path = "common/strict.rs"]
mod strict;

use common::Rng;
use ringlane::http::{Framing, Method};
use ringlane::http1::{BodyDecoder, FieldStorage, RequestParser, ResponseParser};

/// One example of a markdown file.
#[derive(Debug)]
struct Case {
    /// File and heading.
    place: String,
    is_request: bool,
    input: Vec<u8>,
    log: String,
}

/// What was made of a stream of messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Outcome {
    heads: usize,
    body_bytes: u64,
    refused: Option<String>,
}

/// Part of a place, and why the case is not judged by its log.
const LEFT_OUT: &[(&str, &str)] = &[
    // Requests.
    ("HTTP protocol and ANNOUNCE method", "llhttp knows a list of methods; every token is one"),
    ("request/invalid.md 13: Invalid method", "every token is a method"),
    ("CONNECT", "405: a reverse proxy does not serve CONNECT"),
    ("Underscore in hostname", "405: it is a CONNECT"),
    ("M-SEARCH request", "`*` is a target of OPTIONS alone (RFC 9112 section 3.2.4)"),
    ("SOURCE request with ICE", "another protocol"),
    ("OPTIONS request with RTSP", "another protocol"),
    ("ANNOUNCE request with RTSP", "another protocol"),
    ("PRI request HTTP2", "another protocol"),
    ("No HTTP version", "HTTP/0.9"),
    ("`chunked` as last transfer-encoding", "400: `#` in the target"),
    ("Fragment in URI", "400: `#` in the target"),
    ("`host:port` and basic auth", "400: userinfo in the target (RFC 9110 section 4.2.4)"),
    // Responses.
    ("HTTP 101 response with Upgrade and", "a tunnel follows, which is no message"),
    ("response/connection.md 13", "surplus bytes between responses are never skipped"),
    ("HTTP 100 first, then 400", "surplus bytes between responses are never skipped"),
    ("response/pipelining.md 1", "surplus bytes between responses are never skipped"),
    ("Response starting with CRLF", "surplus bytes before a response are never skipped"),
    ("RTSP response", "another protocol"),
    ("ICE response", "another protocol"),
    ("HTTP version 0.9", "502: no version that we can speak"),
    ("response/transfer-encoding.md 2", "502: chunked is not last, the framing is ambiguous"),
    ("response/transfer-encoding.md 3", "502: chunked is not last, the framing is ambiguous"),
    ("response/transfer-encoding.md 4", "502: no such coding"),
];

#[test]
fn requests_and_responses_are_judged_as_llhttp_does() {
    let Some(folder) = corpora::folder("llhttp") else { return };
    let mut rng = Rng::seeded();
    let (mut judged, mut left, mut split_count, mut wrong) = (0, 0, 0, Vec::new());
    for kind in ["request", "response"] {
        for file in corpora::files(&folder.join(kind)) {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = format!("{kind}/{}", file.file_name().unwrap().display());
            for case in cases(&name, &text) {
                if let Some((_, why)) = LEFT_OUT.iter().find(|(it, _)| case.place.contains(it)) {
                    println!("left out: {}: {why}", case.place);
                    left += 1;
                    continue;
                }
                judged += 1;
                match judge(&case, &mut rng) {
                    Ok(splits) => split_count += splits,
                    Err(problem) => {
                        let input = case.input.escape_ascii();
                        wrong.push(format!("{}: {problem}\n    {input}", case.place));
                    }
                }
            }
        }
    }
    println!(
        "corpora: llhttp {judged} cases, {split_count} splits, {} failures, left out {left}",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {judged} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged > 100, "only {judged} cases found");
}

/// The strict cases of a file: types `request` and `response` as they are, not lenient ones, and
/// not the two with `skipBody`, a switch that we do not have.
fn cases(file: &str, text: &str) -> Vec<Case> {
    let mut found = Vec::new();
    let (mut heading, mut number) = ("", 0);
    let mut lines = text.lines();
    let mut kind = None;
    let mut input = None;
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim();
        } else if line.starts_with("<!-- meta=") {
            let dense: String = line.chars().filter(|it| !it.is_whitespace()).collect();
            kind = ["request", "response"]
                .into_iter()
                .find(|it| dense.contains(&format!("\"type\":\"{it}\"")))
                .filter(|_| !dense.contains("skipBody"));
        } else if line == "```http" {
            input = Some(block(&mut lines));
        } else if line == "```log" {
            let log = block(&mut lines);
            if let (Some(kind), Some(input)) = (kind.take(), input.take()) {
                number += 1;
                let place = format!("{file} {number}: {heading}");
                let is_request = kind == "request";
                found.push(Case { place, is_request, input: bytes(&input), log });
            }
        }
    }
    found
}

fn block<'t>(lines: &mut impl Iterator<Item = &'t str>) -> String {
    lines.take_while(|line| *line != "```").collect::<Vec<_>>().join("\n")
}

/// As llhttp's own test reads a block: a backslash at the end of a line joins it to the next, line
/// ends are CRLF.
fn bytes(block: &str) -> Vec<u8> {
    corpora::unescape(&block.replace("\\\n", "").replace('\n', "\r\n"))
}

/// How many splits there were.
fn judge(case: &Case, rng: &mut Rng) -> Result<usize, String> {
    let input = if case.is_request { with_hosts(&case.input) } else { case.input.clone() };
    let run = |pieces: &[&[u8]]| {
        if case.is_request { requests(pieces) } else { responses(pieces) }
    };
    let whole = run(&[&input]);
    let splits = corpora::splits(&input, rng, |pieces, way| {
        let found = run(pieces);
        match found.heads == whole.heads && found.refused.is_some() == whole.refused.is_some() {
            true => Ok(()),
            false => Err(format!("whole {whole:?}, {way} {found:?}")),
        }
    })?;
    let must_refuse = case.log.lines().any(|line| {
        let code = line.split("error code=").nth(1).and_then(|it| it.split(' ').next());
        // 21 to 23 are pauses, not errors.
        code.is_some_and(|code| !matches!(code, "21" | "22" | "23"))
    });
    let heads = case.log.matches("headers complete").count();
    let body_bytes: u64 = case.log.lines().filter_map(body_span).sum();
    match (&whole.refused, must_refuse) {
        (Some(_), true) => Ok(splits),
        // What is wrong with a field may be said when its head is complete.
        (None, true) if whole.heads == 0 && run(&[&input, b"\r\n\r\n"]).refused.is_some() => {
            Ok(splits)
        }
        (None, true) => Err(format!("not refused: {whole:?}")),
        (Some(reason), false) => Err(format!("refused: {reason}")),
        (None, false) if (whole.heads, whole.body_bytes) == (heads, body_bytes) => Ok(splits),
        (None, false) => Err(format!("{heads} heads, {body_bytes} body bytes, but {whole:?}")),
    }
}

/// `off=45 len=3 span[body]="abc"`
fn body_span(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" span[body]")?;
    before.rsplit_once("len=")?.1.parse().ok()
}

/// llhttp does not look at `Host`; a proxy refuses a 1.1 request without. So each head that has
/// none is given one behind its request line.
fn with_hosts(input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    let mut at = 0;
    while at < out.len() {
        while out[at..].starts_with(b"\r\n") {
            at += 2;
        }
        let rest = &out[at..];
        let Some(line) = strict::find(rest, b"\r\n") else {
            break;
        };
        let head =
            &rest[..strict::find(rest, b"\r\n\r\n").unwrap_or(rest.len())].to_ascii_lowercase();
        if strict::find(head, b"\r\nhost:").is_none() {
            out.splice(at + line + 2..at + line + 2, *b"Host: h\r\n");
        }
        match one_request(&out[at..]) {
            Some(len) if len > 0 => at += len,
            _ => break,
        }
    }
    out
}

/// The length of a whole request at the start of `bytes`.
fn one_request(bytes: &[u8]) -> Option<usize> {
    let mut storage = FieldStorage::new();
    let (request, head) = RequestParser::default().parse(bytes, &mut storage).ok()??;
    let mut body = bytes[head..].to_vec();
    let mut decoder = BodyDecoder::new(request.facts.framing, None);
    let taken = decoder.decode(&mut body).ok()?.consumed;
    decoder.is_ended().then_some(head + taken)
}

/// Reads a stream of messages; `head` parses one and says its length, framing and whether another
/// may follow, or `None` for more.
fn stream(
    pieces: &[&[u8]],
    mut head: impl FnMut(&[u8]) -> Result<Option<(usize, Framing, bool)>, String>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut bytes: Vec<u8> = Vec::new();
    let mut body: Option<BodyDecoder> = None;
    let mut goes_on = true;
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            if let Some(decoder) = &mut body {
                match decoder.decode(&mut bytes) {
                    Ok(decoded) => {
                        outcome.body_bytes += decoded.data as u64;
                        bytes.drain(..decoded.consumed);
                    }
                    Err(error) => outcome.refused = Some(format!("{error:?}")),
                }
                if outcome.refused.is_some() || !decoder.is_ended() {
                    break;
                }
                body = None;
            }
            if !goes_on {
                // The connection closes; what follows is never read as a message.
                if bytes.iter().any(|byte| !b"\r\n".contains(byte)) {
                    outcome.refused = Some("bytes after the last message".into());
                }
                break;
            }
            match head(&bytes) {
                Ok(Some((len, framing, another))) => {
                    outcome.heads += 1;
                    bytes.drain(..len);
                    body = Some(BodyDecoder::new(framing, None));
                    goes_on = another;
                }
                Ok(None) => break,
                Err(reason) => {
                    outcome.refused = Some(reason);
                    break;
                }
            }
        }
        if outcome.refused.is_some() {
            break;
        }
    }
    outcome
}

fn requests(pieces: &[&[u8]]) -> Outcome {
    let mut parser = RequestParser::default();
    stream(pieces, |bytes| {
        let mut storage = FieldStorage::new();
        let parsed = parser.parse(bytes, &mut storage).map_err(|reason| format!("{reason:?}"))?;
        Ok(parsed.map(|(it, len)| (len, it.facts.framing, it.facts.persistent)))
    })
}

fn responses(pieces: &[&[u8]]) -> Outcome {
    let mut parser = ResponseParser::default();
    stream(pieces, |bytes| {
        let mut storage = FieldStorage::new();
        let parsed = parser.parse(bytes, &mut storage, Method::Get);
        let parsed = parsed.map_err(|reason| format!("{reason:?}"))?;
        Ok(parsed
            .map(|(it, len)| (len, it.facts.framing, it.facts.persistent || it.facts.is_interim)))
    })
}
