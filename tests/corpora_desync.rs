//! The corpus of aws/http-desync-guardian (Apache-2.0), which this project did not write and does
//! not contain: requests sorted by how dangerous they are.
//!
//! Severe ones are refused, compliant ones pass, and whatever passes is forwarded in one
//! unambiguous form, which a checker of this file's own judges. Read from
//! `../shared/corpora/desync` or `$RINGLANE_CORPORA/desync`; where that is missing, nothing is
//! tested and a line says so.

use ringlane::http::{ForwardRules, Mode, Peer, PeerText, Reason};
use ringlane::http1::{FieldStorage, RequestParser, encode};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    uri: String,
    method: String,
    version: String,
    headers: Vec<Header>,
    expected: Expected,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: serde_yaml::Value,
    value: serde_yaml::Value,
}

#[derive(Debug, Deserialize)]
struct Expected {
    tier: Tier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Tier {
    Compliant,
    Acceptable,
    Ambiguous,
    Severe,
}

/// Cases that are not judged by their tier: name, whether they pass here, and why.
const LEFT_OUT: [(&str, bool, &str); 5] = [
    (
        "Bad Content-Length: 1000,1000",
        true,
        "RFC 9110 section 8.6 allows a list of equal lengths to be replaced by one, as we do",
    ),
    (
        "TE with custom parameters OK",
        false,
        "RFC 9112 section 7.1: parameters of chunked should be treated as an error",
    ),
    ("Transfer-Encoding with a param: chunked;custom_param", false, "as above"),
    ("Compliant URL", false, "no target has a fragment (RFC 9112 section 3.2); its # is refused"),
    ("Empty URI", false, "no form of a target is empty (RFC 9112 section 3.2)"),
];

#[test]
fn every_request_is_refused_or_forwarded_unambiguously() {
    let Some(folder) = corpus() else { return };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut judged, mut wrong) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let cases: Vec<Case> = serde_yaml::from_str(&text).unwrap();
        for case in cases {
            let place = format!("{}: {}", file.file_name().unwrap().display(), case.name);
            let left_out = LEFT_OUT.iter().find(|(name, _, _)| *name == case.name);
            // What is left out is still to be what the list says, and unambiguous.
            let tier = match left_out {
                Some((_, true, _)) => Tier::Compliant,
                Some((_, false, _)) => Tier::Severe,
                None => case.expected.tier,
            };
            if let Some((_, _, why)) = left_out {
                println!("left out: {place} ({:?}): {why}", case.expected.tier);
            }
            judged += 1;
            if let Err(problem) = judge(&case, tier) {
                wrong.push(format!("{place} ({tier:?}): {problem}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {judged} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged > 100, "only {judged} cases found");
}

fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("RINGLANE_CORPORA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora"),
        PathBuf::from,
    );
    let folder = folder.join("desync");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("left out: {} is not here", folder.display());
    None
}

fn judge(case: &Case, tier: Tier) -> Result<(), String> {
    let bytes = case.bytes();
    let whole = forwarded(&[&bytes]);
    let singles: Vec<&[u8]> = bytes.chunks(1).collect();
    if forwarded(&singles) != whole {
        return Err("byte by byte it is another request".into());
    }
    for at in 0..bytes.len() {
        if forwarded(&[&bytes[..at], &bytes[at..]]) != whole {
            return Err(format!("split at {at} it is another request"));
        }
    }
    match (tier, whole) {
        (Tier::Compliant, Err(reason)) => Err(format!("refused: {reason:?}")),
        (Tier::Severe, Ok(head)) => Err(format!("passed:\n{}", head.escape_ascii())),
        (Tier::Acceptable | Tier::Ambiguous | Tier::Severe, Err(_)) => Ok(()),
        (Tier::Compliant | Tier::Acceptable | Tier::Ambiguous, Ok(head)) => unambiguous(&head)
            .map_err(|problem| format!("{problem}, forwarded:\n{}", head.escape_ascii())),
    }
}

impl Case {
    /// The guardian does not look at `Host`; without one every case would be refused for that.
    fn bytes(&self) -> Vec<u8> {
        let mut out = latin1(&format!("{} {} {}\r\n", self.method, self.uri, self.version));
        let mut has_host = false;
        for header in &self.headers {
            let (name, value) = (text(&header.name), text(&header.value));
            has_host |= name.eq_ignore_ascii_case("host");
            out.extend(latin1(&format!("{name}:{value}\r\n")));
        }
        if !has_host {
            out.extend_from_slice(b"Host: example.com\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

fn text(value: &serde_yaml::Value) -> String {
    match value {
        serde_yaml::Value::Null => String::new(),
        serde_yaml::Value::String(text) => text.clone(),
        serde_yaml::Value::Number(number) => number.to_string(),
        serde_yaml::Value::Bool(truth) => truth.to_string(),
        other => panic!("neither text nor number: {other:?}"),
    }
}

/// One byte per character, as the corpus means `\xff`.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|it| u8::try_from(u32::from(it)).unwrap_or(b'?')).collect()
}

/// The head that would be sent on, when the bytes come in these pieces.
fn forwarded(pieces: &[&[u8]]) -> Result<Vec<u8>, Reason> {
    let rules = ForwardRules {
        via: Some("ringlane".into()),
        x_forwarded: Mode::Append,
        forwarded: Mode::Overwrite,
    };
    let peer = PeerText::new(Peer { ip: Some([192, 0, 2, 1].into()), port: 1 });
    let mut parser = RequestParser::default();
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece);
        let mut storage = FieldStorage::new();
        if let Some((request, _)) = parser.parse(&bytes, &mut storage)? {
            let mut out = Vec::new();
            encode::request(&mut out, &request, &rules, &peer, true);
            encode::end(&mut out);
            return Ok(out);
        }
    }
    panic!("incomplete: {}", bytes.escape_ascii());
}

/// Registered codings, then `chunked`.
fn is_chunked_last(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let mut codings: Vec<&str> = value.split(", ").collect();
    codings.pop() == Some("chunked")
        && codings.iter().all(|it| matches!(*it, "gzip" | "deflate" | "compress"))
}

/// Reads a head as the strictest of recipients would.
fn unambiguous(head: &[u8]) -> Result<(), String> {
    // obs-text is allowed in values (RFC 9110 section 5.5).
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let body = text.strip_suffix("\r\n\r\n").ok_or("no end")?;
    let mut lines = body.split("\r\n");
    let start: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = start[..] else {
        return Err("start line".into());
    };
    let is_token = |text: &str| {
        let other = "!#$%&'*+-.^_`|~";
        !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric() || other.contains(it))
    };
    if !is_token(method) || !target.chars().all(|it| it.is_ascii_graphic()) {
        return Err("start line".into());
    }
    let (mut lengths, mut codings, mut hosts) = (0, 0, 0);
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or("a line without colon and space")?;
        if !is_token(name) || value.chars().any(|it| it.is_ascii_control() && it != '\t') {
            return Err(format!("field {line:?}"));
        }
        let dashed = name.to_ascii_lowercase().replace('_', "-");
        match dashed.as_str() {
            "content-length" if value.bytes().all(|it| it.is_ascii_digit()) => lengths += 1,
            "transfer-encoding" if is_chunked_last(value) => codings += 1,
            "content-length" | "transfer-encoding" => return Err(format!("field {line:?}")),
            "host" => hosts += 1,
            _ => {}
        }
    }
    match (lengths + codings, hosts) {
        (0 | 1, 1) => Ok(()),
        _ => Err(format!("{lengths} lengths, {codings} codings, {hosts} hosts")),
    }
}
