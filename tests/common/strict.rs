//! The strictest of recipients: reads messages with nothing of the proxy's own code, and knows one
//! form of each. What the proxy sends to either side is judged by this.

#![allow(dead_code, unreachable_pub)]

/// What stands at the start of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// More must come.
    Part,
    Whole(Message),
}

/// A message in the one form that is compared: where its chunks lie does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The head as it came; then the body, in one chunk if it was chunked, and trailers.
    pub bytes: Vec<u8>,
    /// How much of the input it took.
    pub len: usize,
    /// Only the end of the connection ends it.
    pub until_close: bool,
}

/// Whose answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    AnswerTo { head: bool },
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Message {
    pub fn start(&self) -> String {
        let end = find(&self.bytes, b"\r\n").unwrap_or(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[..end]).into_owned()
    }

    pub fn is_request_with(&self, method: &str) -> bool {
        self.bytes.starts_with(method.as_bytes()) && self.bytes.get(method.len()) == Some(&b' ')
    }

    pub fn status(&self) -> u16 {
        self.start().split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status()) && self.status() != 101
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<String> {
        let head = find(&self.bytes, b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&self.bytes[..head]).into_owned();
        let mut fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

/// Reads a message; `closed` says that no more bytes come.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(bytes: &[u8], kind: Kind, closed: bool) -> Result<Read, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(Read::Part) };
    let head = &bytes[..end + 4];
    let framing = framing(head, kind)?;
    let rest = &bytes[head.len()..];
    let mut out = head.to_vec();
    let taken = match framing {
        Framing::Length(length) => match rest.get(..length) {
            Some(body) => {
                out.extend_from_slice(body);
                Some(length)
            }
            None => None,
        },
        Framing::UntilClose => {
            out.extend_from_slice(rest);
            closed.then_some(rest.len())
        }
        Framing::Chunked => chunked(rest, &mut out)?,
    };
    let until_close = matches!(framing, Framing::UntilClose);
    Ok(match taken {
        Some(taken) => Read::Whole(Message { bytes: out, len: head.len() + taken, until_close }),
        None => Read::Part,
    })
}

/// Checks a whole head.
fn framing(head: &[u8], kind: Kind) -> Result<Framing, String> {
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let start = lines.next().unwrap_or_default();
    check_start_line(start, kind)?;
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (name, value) = field(line)?;
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            "host" => hosts += 1,
            _ => {}
        }
    }
    if kind == Kind::Request && hosts != 1 {
        return Err(format!("{hosts} hosts"));
    }
    let status = start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let bodiless = match kind {
        Kind::Request => false,
        Kind::AnswerTo { head } => head || status < 200 || status == 204 || status == 304,
    };
    let forbidden = matches!(kind, Kind::AnswerTo { .. }) && (status < 200 || status == 204);
    if forbidden && !(lengths.is_empty() && codings.is_empty()) {
        return Err("framing where RFC 9112 6.1 and RFC 9110 8.6 forbid it".into());
    }
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) if kind == Kind::Request => Framing::Length(0),
        ([], []) => Framing::UntilClose,
        ([length], []) if length.bytes().all(|it| it.is_ascii_digit()) => {
            Framing::Length(length.parse().map_err(|_| format!("length {length}"))?)
        }
        ([], [coding]) if is_chunked_last(coding) => Framing::Chunked,
        _ => return Err(format!("lengths {lengths:?}, codings {codings:?}")),
    };
    Ok(if bodiless { Framing::Length(0) } else { framing })
}

fn check_start_line(line: &str, kind: Kind) -> Result<(), String> {
    let good = match kind {
        Kind::Request => {
            let parts: Vec<&str> = line.split(' ').collect();
            matches!(parts[..], [method, target, "HTTP/1.1"]
                if is_token(method)
                    && !target.is_empty()
                    && target.chars().all(|it| it.is_ascii_graphic()))
        }
        Kind::AnswerTo { .. } => {
            let rest = line.strip_prefix("HTTP/1.1 ");
            rest.and_then(|rest| rest.split_at_checked(3)).is_some_and(|(code, phrase)| {
                code.bytes().all(|it| it.is_ascii_digit()) && phrase.starts_with(' ')
            })
        }
    };
    match good && !line.chars().any(is_control) {
        true => Ok(()),
        false => Err(format!("start line {line:?}")),
    }
}

fn field(line: &str) -> Result<(&str, &str), String> {
    let (name, value) = line.split_once(": ").ok_or(format!("field {line:?}"))?;
    let trimmed = value.trim_matches([' ', '\t']) == value;
    match is_token(name) && trimmed && !value.chars().any(is_control) {
        true => Ok((name, value)),
        false => Err(format!("field {line:?}")),
    }
}

fn is_control(it: char) -> bool {
    it != '\t' && (it < ' ' || it == '\x7F')
}

pub fn is_token(text: &str) -> bool {
    let other = "!#$%&'*+-.^_`|~";
    !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric() || other.contains(it))
}

/// Registered codings, then `chunked`.
pub fn is_chunked_last(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let mut codings: Vec<&str> = value.split(", ").collect();
    let known = ["gzip", "x-gzip", "deflate", "compress", "x-compress"];
    codings.pop() == Some("chunked") && codings.iter().all(|it| known.contains(it))
}

/// Appends the body in one chunk. How much it took; none: more must come.
fn chunked(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, String> {
    let (mut at, mut data) = (0, Vec::new());
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[at..at + line]).unwrap_or("?");
        let hex = digits.bytes().all(|it| it.is_ascii_hexdigit()) && digits.len() <= 16;
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| hex);
        let size = size.ok_or(format!("chunk size {digits:?}"))?;
        at += line + 2;
        if size == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..).and_then(|rest| rest.get(..size.checked_add(2)?)) else {
            return Ok(None);
        };
        let chunk = chunk.strip_suffix(b"\r\n").ok_or("a chunk that is too long")?;
        data.extend_from_slice(chunk);
        at += size + 2;
    }
    let trailers = at;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let text: String = bytes[at..at + line].iter().map(|&byte| char::from(byte)).collect();
        at += line + 2;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or(format!("trailer {text:?}"))?;
        if !is_token(name) || value.chars().any(is_control) {
            return Err(format!("trailer {text:?}"));
        }
    }
    if !data.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(&bytes[trailers..at]);
    Ok(Some(at))
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}
