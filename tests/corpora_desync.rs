//! The corpus of aws/http-desync-guardian (Apache-2.0), which this project did not write and does
//! not contain: requests sorted by how dangerous they are.
//!
//! Severe ones are refused, compliant ones pass, and whatever passes is forwarded in one
//! unambiguous form, which a strict reader judges that shares no code with the proxy. Read from
//! `../shared/corpora/desync` or `$RINGLANE_CORPORA/desync`; where that is missing, nothing is
//! tested and a line says so.

mod common;
#[path = "common/corpora.rs"]
mod corpora;
#[path = "common/strict.rs"]
mod strict;

use common::Rng;
use ringlane::http::{ForwardRules, Mode, Peer, PeerText, Reason};
use ringlane::http1::{FieldStorage, RequestParser, encode};
use serde::Deserialize;
use strict::Kind;

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
    let Some(folder) = corpora::folder("desync") else { return };
    let mut rng = Rng::seeded();
    let (mut judged, mut left, mut split_count, mut wrong) = (0, 0, 0, Vec::new());
    for file in corpora::files(&folder) {
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
                left += 1;
            }
            judged += 1;
            match judge(&case, tier, &mut rng) {
                Ok(splits) => split_count += splits,
                Err(problem) => wrong.push(format!("{place} ({tier:?}): {problem}")),
            }
        }
    }
    println!(
        "corpora: desync {judged} cases, {split_count} splits, {} failures, left out {left}",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {judged} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged > 100, "only {judged} cases found");
}

/// How many splits there were.
fn judge(case: &Case, tier: Tier, rng: &mut Rng) -> Result<usize, String> {
    let bytes = case.bytes();
    let whole = forwarded(&[&bytes]);
    let splits = corpora::splits(&bytes, rng, |pieces, way| match forwarded(pieces) == whole {
        true => Ok(()),
        false => Err(format!("{way} it is another request")),
    })?;
    match (tier, whole) {
        (Tier::Compliant, Err(reason)) => Err(format!("refused: {reason:?}")),
        (Tier::Severe, Ok(head)) => Err(format!("passed:\n{}", head.escape_ascii())),
        (Tier::Acceptable | Tier::Ambiguous | Tier::Severe, Err(_)) => Ok(splits),
        (Tier::Compliant | Tier::Acceptable | Tier::Ambiguous, Ok(head)) => unambiguous(&head)
            .map(|()| splits)
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

/// Reads a head as the strictest of recipients would; what body it announces does not matter.
fn unambiguous(head: &[u8]) -> Result<(), String> {
    strict::read(head, Kind::Request, false).map(drop)
}
