//! Reads HTTP/1.1 requests as far as the scripted origin needs them. Shares no code with the
//! proxy's parser, so that neither hides what the other gets wrong.
//!
//! Bytes are fed in any split, and the outcome does not depend on it. A head that comes whole is
//! read where it lies; only a line that was split is copied. Bodies are counted and dropped. Lines
//! are bounded, errors are terminal. Knows no socket and no time.

use std::fmt;

use memchr::memchr;

/// Of a head or of trailers, with the lines' ends.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Of a chunk's size with its extensions.
const MAX_CHUNK_LINE_BYTES: usize = 4 * 1024;
/// Whose answer is what was counted.
pub const COUNTS_TARGET: &str = "/loadtest/counts";
const ID_DIGITS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Other,
}

/// A request that came whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// `GET /loadtest/counts`.
    pub asks_counts: bool,
    /// HTTP/1.0, which knows no chunks.
    pub is_old: bool,
    /// The client wants no more answers after this one.
    pub close: bool,
    /// `x-loadtest-id`.
    pub id: Option<u64>,
    /// Without chunks' framing.
    pub body_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// All was taken, and more is needed.
    More,
    /// The client waits for `100 Continue` before it sends the body.
    Continue,
    /// What follows belongs to the next request.
    Request(Request),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Of the input. Feed the rest again, unless the event is `More`.
    pub taken: usize,
    pub event: Event,
}

/// Why a request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    RequestLine,
    Version,
    /// A tunnel is nothing that this origin could be the end of.
    Connect,
    BareLineFeed,
    Field,
    ContentLength,
    TransferEncoding,
    Id,
    ChunkSize,
    ChunkEnd,
    TooLong,
}

impl fmt::Display for BadRequest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            BadRequest::RequestLine => "the request line is not METHOD TARGET VERSION",
            BadRequest::Version => "the version is neither HTTP/1.1 nor HTTP/1.0",
            BadRequest::Connect => "CONNECT is not served",
            BadRequest::BareLineFeed => "a line ends without a carriage return",
            BadRequest::Field => "a header is not NAME: VALUE",
            BadRequest::ContentLength => "Content-Length is no number, or is there twice",
            BadRequest::TransferEncoding => {
                "Transfer-Encoding is not chunked alone, or is beside Content-Length or in HTTP/1.0"
            }
            BadRequest::Id => "x-loadtest-id is not 16 hexadecimal digits, or is there twice",
            BadRequest::ChunkSize => "a chunk's size is no hexadecimal number",
            BadRequest::ChunkEnd => "a chunk is longer than its size",
            BadRequest::TooLong => "a head, a chunk's size or trailers are too long",
        })
    }
}

impl std::error::Error for BadRequest {}

/// Where in a request the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a request line.
    Start,
    /// At the beginning of a field, or of the head's last line.
    Field,
    /// The head is complete; that the client waits remains to be said.
    Waiting,
    /// This many bytes of the body are to come.
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    /// All has come; it remains to be said.
    Complete,
    Failed(BadRequest),
}

/// What the fields say of the body.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    expects: bool,
}

/// Reads the requests of one connection, one after the other.
#[derive(Debug)]
pub struct Reader {
    state: State,
    request: Request,
    fields: Fields,
    /// Bytes of the head or the trailers that came before the line at hand.
    section_bytes: usize,
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
}

const NOTHING: Request = Request {
    method: Method::Other,
    asks_counts: false,
    is_old: false,
    close: false,
    id: None,
    body_bytes: 0,
};

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            state: State::Start,
            request: NOTHING,
            fields: Fields::default(),
            section_bytes: 0,
            held: Vec::new(),
        }
    }
}

impl Reader {
    /// Reads up to the next event.
    pub fn read(&mut self, input: &[u8]) -> Result<Step, BadRequest> {
        let step = self.advance(input);
        if let Err(error) = step {
            self.state = State::Failed(error);
            self.held = Vec::new();
        }
        debug_assert!(step.is_err() || step.is_ok_and(|step| step.taken <= input.len()));
        step
    }

    fn advance(&mut self, input: &[u8]) -> Result<Step, BadRequest> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match self.state {
                State::Failed(error) => return Err(error),
                State::Waiting => {
                    self.state = self.body_state();
                    return Ok(Step { taken, event: Event::Continue });
                }
                State::Complete => {
                    self.state = State::Start;
                    self.section_bytes = 0;
                    return Ok(Step { taken, event: Event::Request(self.request) });
                }
                _ if rest.is_empty() => return Ok(Step { taken, event: Event::More }),
                State::Length(left) | State::ChunkData(left) => {
                    let bytes = left.min(rest.len() as u64);
                    taken += bytes as usize;
                    // A client may send chunks for as long as it likes: no number overflows.
                    self.request.body_bytes = self.request.body_bytes.saturating_add(bytes);
                    self.state = match self.state {
                        State::Length(_) if bytes == left => State::Complete,
                        State::Length(_) => State::Length(left - bytes),
                        _ if bytes == left => State::ChunkEnd,
                        _ => State::ChunkData(left - bytes),
                    };
                }
                State::Start
                | State::Field
                | State::ChunkSize
                | State::ChunkEnd
                | State::Trailer => taken += self.line(rest)?,
            }
        }
    }

    /// Takes a line, or as much of it as there is.
    fn line(&mut self, input: &[u8]) -> Result<usize, BadRequest> {
        let end = memchr(b'\n', input);
        let taken = end.map_or(input.len(), |at| at + 1);
        let part = &input[..taken];
        let limit = match self.state {
            State::ChunkSize | State::ChunkEnd => MAX_CHUNK_LINE_BYTES,
            _ => MAX_HEAD_BYTES - self.section_bytes,
        };
        if self.held.len() + taken > limit {
            return Err(BadRequest::TooLong);
        }
        if end.is_none() {
            self.held.extend_from_slice(part);
        } else if self.held.is_empty() {
            self.whole_line(part)?;
        } else {
            // Not kept: a connection whose heads come whole again holds no memory for them.
            let mut line = std::mem::take(&mut self.held);
            line.extend_from_slice(part);
            self.whole_line(&line)?;
        }
        Ok(taken)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        let bytes = line.len();
        let line = line.strip_suffix(b"\r\n").ok_or(BadRequest::BareLineFeed)?;
        self.section_bytes += bytes;
        match self.state {
            // Empty lines before a request are to be ignored (RFC 9112 section 2.2).
            State::Start if line.is_empty() => {}
            State::Start => {
                self.request_line(line)?;
                self.state = State::Field;
            }
            State::Field if line.is_empty() => {
                let has_body = self.fields.chunked || self.fields.length.is_some_and(|n| n > 0);
                let waits = self.fields.expects && has_body && !self.request.is_old;
                self.state = if waits { State::Waiting } else { self.body_state() };
            }
            State::Field => self.field(line)?,
            State::ChunkSize => {
                self.state = match chunk_size(line)? {
                    0 => {
                        self.section_bytes = 0;
                        State::Trailer
                    }
                    bytes => State::ChunkData(bytes),
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(BadRequest::ChunkEnd),
            State::Trailer if line.is_empty() => self.state = State::Complete,
            State::Trailer => _ = split_field(line)?,
            _ => debug_assert!(false, "no line is read in {:?}", self.state),
        }
        Ok(())
    }

    fn body_state(&self) -> State {
        match (self.fields.chunked, self.fields.length) {
            (true, _) => State::ChunkSize,
            (false, None | Some(0)) => State::Complete,
            (false, Some(bytes)) => State::Length(bytes),
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        let first = memchr(b' ', line).ok_or(BadRequest::RequestLine)?;
        let (method, rest) = (&line[..first], &line[first + 1..]);
        let second = memchr(b' ', rest).ok_or(BadRequest::RequestLine)?;
        let (target, version) = (&rest[..second], &rest[second + 1..]);
        let is_old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(BadRequest::Version),
        };
        let is_visible = |byte: &u8| byte.is_ascii_graphic() || *byte >= 0x80;
        if method.is_empty()
            || !method.iter().all(|byte| byte.is_ascii_graphic())
            || target.is_empty()
            || !target.iter().all(is_visible)
        {
            return Err(BadRequest::RequestLine);
        }
        let method = match method {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"CONNECT" => return Err(BadRequest::Connect),
            _ => Method::Other,
        };
        let asks_counts = method == Method::Get && target == COUNTS_TARGET.as_bytes();
        self.request = Request { method, asks_counts, is_old, close: is_old, ..NOTHING };
        self.fields = Fields::default();
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        let (name, value) = split_field(line)?;
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            14 if is(b"content-length") => {
                let again = self.fields.length.is_some() || self.fields.chunked;
                let length = decimal(value).filter(|_| !again);
                self.fields.length = Some(length.ok_or(BadRequest::ContentLength)?);
            }
            17 if is(b"transfer-encoding") => {
                let Fields { length, chunked, .. } = self.fields;
                let alone = length.is_none() && !chunked && !self.request.is_old;
                if !alone || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadRequest::TransferEncoding);
                }
                self.fields.chunked = true;
            }
            10 if is(b"connection") => {
                let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.request.close |= options.any(|option| option.eq_ignore_ascii_case(b"close"));
            }
            6 if is(b"expect") => {
                self.fields.expects |= value.eq_ignore_ascii_case(b"100-continue");
            }
            13 if is(b"x-loadtest-id") => {
                let again = self.request.id.is_some();
                let id = Some(value).filter(|id| id.len() == ID_DIGITS && !again);
                self.request.id = Some(id.and_then(hexadecimal).ok_or(BadRequest::Id)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A name that is a name, and what stands after its colon without white space around it.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), BadRequest> {
    let colon = memchr(b':', line).ok_or(BadRequest::Field)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_wrong = |byte: &u8| *byte < b' ' && *byte != b'\t' || *byte == 0x7f;
    // A line that begins with white space goes on with the one before, which is history.
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) || value.iter().any(is_wrong) {
        return Err(BadRequest::Field);
    }
    Ok((name, value.trim_ascii()))
}

fn chunk_size(line: &[u8]) -> Result<u64, BadRequest> {
    let end = memchr(b';', line).unwrap_or(line.len());
    hexadecimal(line[..end].trim_ascii_end()).ok_or(BadRequest::ChunkSize)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if !(1..=16).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number: u64, byte| {
        Some(number << 4 | u64::from(char::from(*byte).to_digit(16)?))
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
