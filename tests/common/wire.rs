//! One end of a connection, as client or as origin: bytes out, heads and bodies in.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::DEADLINE;

const SCRATCH_BYTES: usize = 128 << 10;

thread_local! {
    /// Read into before it is known how much comes: a test holds thousands of connections, and
    /// room for each would be most of its memory.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A head as it came.
#[derive(Clone, Debug)]
pub struct Head {
    /// Without CRLF.
    pub start: String,
    pub fields: Vec<(String, String)>,
}

/// A request with its whole body, as an origin saw it.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// An answer with its whole body, as a client saw it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// A connection with what was read of it and not looked at yet.
pub struct Wire {
    pub stream: TcpStream,
    /// Bytes that this handle has read and written.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    buffer: Vec<u8>,
    start: usize,
}

/// A whole 200 with that body.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    answer.reserve(body.len());
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    answer
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect(address).expect("a connection"))
    }

    pub fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
        Wire { stream, received_bytes: 0, sent_bytes: 0, buffer: Vec::new(), start: 0 }
    }

    /// A second handle, for another thread: what this one has read stays with it.
    pub fn twin(&self) -> Wire {
        Wire::new(self.stream.try_clone().expect("a second handle"))
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes what it is sent");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.sent_bytes += bytes.as_ref().len() as u64;
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("linger");
    }

    fn held(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads what there is; 0 at the end.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let read = SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH_BYTES, 0);
            let read = self.stream.read(scratch)?;
            self.buffer.extend_from_slice(&scratch[..read]);
            self.received_bytes += read as u64;
            Ok(read)
        });
        read.map_err(|error: io::Error| match error.kind() {
            ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "nothing came"),
            _ => error,
        })
    }

    fn fill_some(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Up to and with CRLF, without it.
    pub fn line(&mut self) -> io::Result<String> {
        let mut seen = 0;
        loop {
            let held = self.held();
            if let Some(at) = held[seen..].windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&held[..seen + at]).into_owned();
                self.start += seen + at + 2;
                return Ok(line);
            }
            seen = held.len().saturating_sub(1);
            self.fill_some()?;
        }
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidData, format!("no field: {line:?}"))
            })?;
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    /// `None`: the peer ended without a byte.
    pub fn try_head(&mut self) -> io::Result<Option<Head>> {
        if self.held().is_empty() && self.fill()? == 0 {
            return Ok(None);
        }
        Ok(Some(Head { start: self.line()?, fields: self.fields()? }))
    }

    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.try_head().expect("a head").expect("a head, not the end")
    }

    /// Exactly so many bytes.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.held().len() < count {
            self.fill_some()?;
        }
        let taken = self.held()[..count].to_vec();
        self.start += count;
        Ok(taken)
    }

    /// Whatever has come, at least a byte; empty at the end.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.held().is_empty() && self.fill()? == 0 {
            return Ok(Vec::new());
        }
        let taken = self.held().to_vec();
        self.start = self.buffer.len();
        Ok(taken)
    }

    /// Shows a body piece by piece; its trailers.
    pub fn body(
        &mut self,
        framing: Framing,
        sink: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Vec<(String, String)>> {
        match framing {
            Framing::Length(count) => self.pass_on(count, sink)?,
            Framing::UntilClose => loop {
                let data = self.some()?;
                if data.is_empty() {
                    break;
                }
                sink(&data);
            },
            Framing::Chunked => loop {
                match self.chunk_size()? {
                    0 => return self.fields(),
                    size => {
                        self.pass_on(size, sink)?;
                        if !self.line()?.is_empty() {
                            return Err(io::Error::new(ErrorKind::InvalidData, "a long chunk"));
                        }
                    }
                }
            },
        }
        Ok(Vec::new())
    }

    pub fn chunk_size(&mut self) -> io::Result<u64> {
        let line = self.line()?;
        u64::from_str_radix(&line, 16)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, format!("no chunk size: {line:?}")))
    }

    fn pass_on(&mut self, mut left: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        while left > 0 {
            if self.held().is_empty() {
                self.fill_some()?;
            }
            let count = left.min(self.held().len() as u64) as usize;
            sink(&self.buffer[self.start..self.start + count]);
            self.start += count;
            left -= count as u64;
        }
        Ok(())
    }

    /// The next request with its body; `None` where the peer has ended instead.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.try_head()? else { return Ok(None) };
        let mut body = Vec::new();
        let framing = head.request_framing();
        let trailers = self.body(framing, &mut |data| body.extend_from_slice(data))?;
        Ok(Some(Request { head, body, trailers }))
    }

    /// The answer to a request with that method.
    pub fn try_answer_to(&mut self, method: &str) -> io::Result<Answer> {
        let head = self.try_head()?.ok_or(ErrorKind::UnexpectedEof)?;
        let mut body = Vec::new();
        let framing = head.answer_framing(method);
        let trailers = self.body(framing, &mut |data| body.extend_from_slice(data))?;
        Ok(Answer { head, body, trailers })
    }

    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer_to("GET").expect("an answer")
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        self.answer()
    }

    /// Asserts that the peer closes cleanly, and sends nothing before that.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.some().expect("a clean end");
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing before the end");
    }

    /// Asserts that the peer ends the connection, whatever way, and sends nothing before that.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        match self.some() {
            Ok(rest) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            Err(error) => assert_ne!(error.kind(), ErrorKind::TimedOut, "it is still open"),
        }
    }
}

impl Head {
    /// The one value under that name.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} more than once: {self:?}");
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn status(&self) -> u16 {
        let code = self.start.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status: {}", self.start))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Why the proxy answered by itself.
    pub fn reason(&self) -> Option<&str> {
        self.get("ringlane-error")
    }

    fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some()
    }

    fn length(&self) -> Option<u64> {
        self.get("content-length").map(|length| length.parse().expect("a length"))
    }

    pub fn request_framing(&self) -> Framing {
        match self.is_chunked() {
            true => Framing::Chunked,
            false => Framing::Length(self.length().unwrap_or(0)),
        }
    }

    pub fn answer_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::Length(0);
        }
        match (self.is_chunked(), self.length()) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        }
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
