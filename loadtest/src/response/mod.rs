//! Reads HTTP/1.1 responses: the proxy's independent judge, which shares no code with its parser.
//!
//! Bytes are fed in any split; each step says how many were taken and what happened. Strict where
//! RFC 9112 lets a recipient be lenient: what a server must not send is an error here, and errors
//! are terminal. The outcome does not depend on the split. Nothing is allocated once the buffer for
//! lines that were split has grown. Knows no socket and no time; whether bytes come at all is the
//! caller's.

mod error;
mod head;

use memchr::memchr;

pub use error::BadResponse;
use head::Fields;

/// Of a head or of trailers, with the lines' ends.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Of a chunk's size with its extensions.
pub const MAX_CHUNK_LINE_BYTES: usize = 4 * 1024;
/// 1xx before one response. A server that sends more is stuck.
pub const MAX_INTERIM: u8 = 16;

const _: () = assert!(MAX_CHUNK_LINE_BYTES <= MAX_HEAD_BYTES);

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none: the answer to HEAD, 204, 304, 101.
    None,
    Length(u64),
    Chunked,
    /// All that comes until the connection ends.
    UntilClose,
}

/// What the head of a final response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 101, or 200..=599.
    pub status: u16,
    pub framing: Framing,
    /// The connection may carry another request once this message is complete.
    pub keep_alive: bool,
}

/// A response that came whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    /// Without chunks' framing.
    pub body_bytes: u64,
    /// How many 1xx came before it.
    pub interim: u8,
}

/// What happened in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// All was taken, and more is needed.
    More,
    Head(Head),
    /// A piece of the body, not empty, without framing.
    Body(&'a [u8]),
    /// What follows belongs to the next response, or after 101 to another protocol.
    Complete(Message),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// Of the input. Feed the rest again, unless the event is `More`.
    pub taken: usize,
    pub event: Event<'a>,
}

/// What came of reading as far as one response goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub taken: usize,
    /// `None`: all was taken, and more is needed.
    pub complete: Option<Message>,
}

/// Where in a response the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No response is owed: each byte is one too many.
    Idle,
    /// At the beginning of a status line.
    Status,
    /// At the beginning of a field, or of the head's last line.
    Field,
    /// The head is complete; it remains to be said.
    Headed,
    /// This many bytes of the body are to come.
    Length(u64),
    UntilClose,
    ChunkSize,
    /// This many bytes of the chunk are to come.
    ChunkData(u64),
    /// The CRLF after a chunk's data.
    ChunkEnd {
        cr: bool,
    },
    /// At the beginning of a trailer field, or of the message's last line.
    Trailer,
    /// All has come; it remains to be said.
    Complete,
    Failed(BadResponse),
}

/// Reads the responses of one connection, one after the other.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// The answer is one to HEAD: whatever its fields say, it has no body.
    to_head: bool,
    message: Message,
    fields: Fields,
    /// Bytes of the head or the trailers that came before the line at hand.
    section_bytes: usize,
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader::new()
    }
}

impl Reader {
    pub fn new() -> Reader {
        let head = Head { status: 0, framing: Framing::None, keep_alive: false };
        Reader {
            state: State::Idle,
            to_head: false,
            message: Message { head, body_bytes: 0, interim: 0 },
            fields: Fields::default(),
            section_bytes: 0,
            held: Vec::new(),
        }
    }

    /// A request was sent, or is next in a pipeline: a response is owed from here on. Only once the
    /// one before is complete.
    pub fn begin(&mut self, to_head: bool) {
        debug_assert_eq!(self.state, State::Idle, "a response at a time");
        self.state = State::Status;
        self.to_head = to_head;
        self.message.body_bytes = 0;
        self.message.interim = 0;
        self.begin_head();
    }

    /// For another connection; memory is kept.
    pub fn reset(&mut self) {
        self.state = State::Idle;
        self.held.clear();
    }

    /// Whether any byte of the response that is owed has come.
    pub fn has_begun(&self) -> bool {
        self.state != State::Status || !self.held.is_empty() || self.message.interim > 0
    }

    /// Reads until the response is complete or `input` is used up. `body` is given each piece of
    /// the body, in order.
    pub fn read(&mut self, input: &[u8], mut body: impl FnMut(&[u8])) -> Result<Read, BadResponse> {
        let mut taken = 0;
        loop {
            let step = self.step(&input[taken..])?;
            taken += step.taken;
            match step.event {
                Event::More => return Ok(Read { taken, complete: None }),
                Event::Head(_) => {}
                Event::Body(piece) => body(piece),
                Event::Complete(message) => return Ok(Read { taken, complete: Some(message) }),
            }
        }
    }

    /// Reads up to the next event.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, BadResponse> {
        let step = self.advance(input);
        if let Err(error) = step {
            self.state = State::Failed(error);
            self.held.clear();
        }
        debug_assert!(step.is_err() || step.is_ok_and(|step| step.taken <= input.len()));
        step
    }

    /// The server closed. `None`: no response was owed.
    pub fn end(&mut self) -> Result<Option<Message>, BadResponse> {
        let error = match self.state {
            State::Idle => return Ok(None),
            // What had come whole is complete, though nobody asked for its event yet.
            State::UntilClose | State::Complete => {
                self.state = State::Idle;
                return Ok(Some(self.message));
            }
            State::Failed(error) => error,
            State::Status if !self.has_begun() => BadResponse::EndBeforeHead,
            State::Status | State::Field | State::Headed => BadResponse::EndInHead,
            State::Length(missing) => BadResponse::EndInBody { missing_bytes: missing },
            State::ChunkSize | State::ChunkData(_) | State::ChunkEnd { .. } | State::Trailer => {
                BadResponse::EndInChunks
            }
        };
        self.state = State::Failed(error);
        Err(error)
    }

    fn advance<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, BadResponse> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match self.state {
                State::Failed(error) => return Err(error),
                State::Headed => {
                    self.state = after_head(self.message.head.framing);
                    return Ok(Step { taken, event: Event::Head(self.message.head) });
                }
                State::Complete => {
                    self.state = State::Idle;
                    return Ok(Step { taken, event: Event::Complete(self.message) });
                }
                _ if rest.is_empty() => return Ok(Step { taken, event: Event::More }),
                State::Idle => return Err(BadResponse::Unasked),
                State::Length(_) | State::ChunkData(_) | State::UntilClose => {
                    let piece = self.body(rest);
                    return Ok(Step { taken: taken + piece.len(), event: Event::Body(piece) });
                }
                State::ChunkEnd { cr } => {
                    self.state = match (cr, rest[0]) {
                        (false, b'\r') => State::ChunkEnd { cr: true },
                        (true, b'\n') => State::ChunkSize,
                        _ => return Err(BadResponse::ChunkWithoutEnd),
                    };
                    taken += 1;
                }
                State::Status | State::Field | State::ChunkSize | State::Trailer => {
                    taken += self.line(rest)?;
                }
            }
        }
    }

    /// What of `input` belongs to the body's piece at hand, which is not over yet.
    fn body<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let (left, over) = match self.state {
            State::Length(left) => (left, State::Complete),
            State::ChunkData(left) => (left, State::ChunkEnd { cr: false }),
            _ => (u64::MAX, State::UntilClose),
        };
        let bytes = left.min(input.len() as u64);
        let piece = &input[..bytes as usize];
        self.message.body_bytes += bytes;
        self.state = match self.state {
            State::Length(_) if bytes < left => State::Length(left - bytes),
            State::ChunkData(_) if bytes < left => State::ChunkData(left - bytes),
            _ => over,
        };
        piece
    }

    /// Takes a line, or as much of it as there is.
    fn line(&mut self, input: &[u8]) -> Result<usize, BadResponse> {
        let end = memchr(b'\n', input);
        let taken = end.map_or(input.len(), |at| at + 1);
        let part = &input[..taken];
        if self.state == State::Status && !head::may_be_version(self.held.len(), part) {
            // Said at once: who speaks another protocol may never send a line's end.
            return Err(BadResponse::BadStatusLine);
        }
        let (limit, too_long) = match self.state {
            State::ChunkSize => (MAX_CHUNK_LINE_BYTES, BadResponse::ChunkLineTooLong),
            State::Trailer => (MAX_HEAD_BYTES - self.section_bytes, BadResponse::TrailersTooLong),
            _ => (MAX_HEAD_BYTES - self.section_bytes, BadResponse::HeadTooLong),
        };
        if self.held.len() + taken > limit {
            return Err(too_long);
        }
        if end.is_none() {
            self.held.extend_from_slice(part);
        } else if self.held.is_empty() {
            self.whole_line(part)?;
        } else {
            let mut line = std::mem::take(&mut self.held);
            line.extend_from_slice(part);
            let read = self.whole_line(&line);
            line.clear();
            self.held = line;
            read?;
        }
        Ok(taken)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), BadResponse> {
        let bytes = line.len();
        let line = line.strip_suffix(b"\r\n").ok_or(BadResponse::BareLineFeed)?;
        self.section_bytes += bytes;
        match self.state {
            State::Status => {
                let (status, minor) = head::status_line(line)?;
                self.message.head.status = status;
                self.fields.minor = minor;
                self.state = State::Field;
            }
            State::Field if line.is_empty() => self.end_of_head()?,
            State::Field => self.fields.add(line)?,
            State::ChunkSize => {
                self.state = match head::chunk_size(line)? {
                    0 => {
                        self.section_bytes = 0;
                        State::Trailer
                    }
                    bytes => State::ChunkData(bytes),
                };
            }
            State::Trailer if line.is_empty() => self.state = State::Complete,
            State::Trailer => head::trailer(line)?,
            _ => debug_assert!(false, "no line is read in {:?}", self.state),
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), BadResponse> {
        let status = self.message.head.status;
        let framing = self.fields.framing(status, self.to_head)?;
        // 101 is final: what follows is no HTTP (RFC 9110 section 15.2.2).
        if status < 200 && status != 101 {
            if self.message.interim == MAX_INTERIM {
                return Err(BadResponse::TooManyInterim);
            }
            self.message.interim += 1;
            self.begin_head();
            self.state = State::Status;
            return Ok(());
        }
        let may_stay = self.fields.keep_alive() && framing != Framing::UntilClose && status != 101;
        self.message.head = Head { status, framing, keep_alive: may_stay };
        self.state = State::Headed;
        Ok(())
    }

    fn begin_head(&mut self) {
        self.fields = Fields::default();
        self.section_bytes = 0;
    }
}

fn after_head(framing: Framing) -> State {
    match framing {
        Framing::None | Framing::Length(0) => State::Complete,
        Framing::Length(bytes) => State::Length(bytes),
        Framing::Chunked => State::ChunkSize,
        Framing::UntilClose => State::UntilClose,
    }
}

#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod tests;
