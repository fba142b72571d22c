//! What an endpoint file says: one endpoint a line.
//!
//! ```text
//! # a comment, here or behind an endpoint; blank lines count for nothing
//! 127.0.0.1:8080
//! [::1]:8080 3            with a weight
//! 127.0.0.1 8081          as Linkerd's fs namer has it
//! unix:/run/web.sock
//! ```
//!
//! A file is taken whole or not at all: an endpoint that a typing error hides would be taken out of
//! service. A last line without its end is one that somebody is still writing.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Address, Endpoint, NotAnAddress};

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// From 1; 0: it is not about a line.
    line: usize,
    wrong: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.wrong),
            line => write!(f, "line {line}: {}", self.wrong),
        }
    }
}

/// At least one, in the order of the file, no address twice.
pub(super) fn parse(content: &[u8]) -> Result<Vec<Endpoint>, Refusal> {
    let text = std::str::from_utf8(content).map_err(|error| {
        let before = &content[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Refusal { line, wrong: "not UTF-8".to_owned() }
    })?;
    let mut endpoints = Vec::new();
    let mut lines_of: HashMap<Address, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let refused = |wrong| Refusal { line: number, wrong };
        let Some(endpoint) = endpoint(without_comment(line)).map_err(refused)? else {
            continue;
        };
        if let Some(first) = lines_of.insert(endpoint.address.clone(), number) {
            let wrong = format!("{} stands on line {first} already", endpoint.address);
            return Err(refused(wrong));
        }
        endpoints.push(endpoint);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        let wrong = "the last line does not end in a newline: it is half-written".to_owned();
        return Err(Refusal { line: text.lines().count(), wrong });
    }
    if endpoints.is_empty() {
        return Err(Refusal { line: 0, wrong: "no endpoint in it".to_owned() });
    }
    Ok(endpoints)
}

/// `#` begins a comment at the beginning of a word; a path may have it inside.
fn without_comment(line: &str) -> &str {
    let begins = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').find(|(at, _)| begins(*at));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// `None`: there is nothing on the line.
fn endpoint(line: &str) -> Result<Option<Endpoint>, String> {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let (second, rest) = (words.next(), words.next());
    if let Some(word) = rest {
        return Err(format!("{word:?} is one word too many; allowed: an address and a weight"));
    }
    // An address without port is followed by its port.
    if let (Ok(ip), Some(port)) = (first.parse::<IpAddr>(), second) {
        let port = number(port, 1..=u32::from(u16::MAX), "port")?;
        let address = Address::Ip(SocketAddr::new(ip, port as u16));
        return Ok(Some(Endpoint { address, weight: Endpoint::WEIGHT }));
    }
    let bad = |_| format!("bad address ({first:?}); allowed: {NotAnAddress}");
    let address = first.parse().map_err(bad)?;
    let weight = match second {
        Some(weight) => number(weight, 1..=Endpoint::WEIGHT_MAX, "weight")?,
        None => Endpoint::WEIGHT,
    };
    Ok(Some(Endpoint { address, weight }))
}

fn number(word: &str, range: std::ops::RangeInclusive<u32>, what: &str) -> Result<u32, String> {
    // `parse` would take a sign.
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let number = word.parse().ok().filter(|number| digits && range.contains(number));
    let (least, most) = range.into_inner();
    number.ok_or_else(|| {
        format!("bad {what} ({word:?}); allowed: a whole number from {least} to {most}")
    })
}
