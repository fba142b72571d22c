//! What hyper's parser is too kind to: lines of a head that end in LF alone.
//!
//! A proxy in front of admin that takes such a line for a part of the one before would see one
//! request where hyper sees two. So the LF is handed on as NUL, which every parser refuses.
//!
//! Bytes are looked at until a head announces a body: that request is its connection's last
//! (`server`), and in a body LF is a byte like others.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest of the beginnings that matter.
const NAME_BYTES: usize = "transfer-encoding:".len();

/// Reads strictly; writes as it is told.
pub(super) struct Strict<S> {
    inner: S,
    scan: Scan,
}

/// Where in a head the stream is.
#[derive(Default)]
struct Scan {
    /// How the line began, in lower case.
    line: [u8; NAME_BYTES],
    /// How long it is so far, up to one more than `line` holds.
    length: usize,
    after_cr: bool,
    /// A field of this head announces a body.
    announced: bool,
    /// The head is over, and its body has begun.
    in_body: bool,
}

impl Scan {
    /// Makes what is no line end unreadable.
    fn check(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.in_body {
                return;
            }
            match *byte {
                b'\n' if !self.after_cr => *byte = 0,
                b'\n' => self.end_of_line(),
                b'\r' => {}
                other if self.length < NAME_BYTES => {
                    self.line[self.length] = other.to_ascii_lowercase();
                    self.length += 1;
                }
                _ => self.length = NAME_BYTES + 1,
            }
            self.after_cr = *byte == b'\r';
        }
    }

    fn end_of_line(&mut self) {
        if self.length == 0 {
            self.in_body = self.announced;
        }
        let line = &self.line[..self.length.min(NAME_BYTES)];
        let announces = [&b"content-length:"[..], b"transfer-encoding:"];
        self.announced |= announces.iter().any(|name| line.starts_with(name));
        self.length = 0;
    }
}

impl<S> Strict<S> {
    pub(super) fn new(inner: S) -> Strict<S> {
        Strict { inner, scan: Scan::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.scan.check(&mut buffer.filled_mut()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, pieces: usize) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let mut scan = Scan::default();
        bytes.chunks_mut(pieces).for_each(|piece| scan.check(piece));
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_line_of_a_head_ends_in_crlf() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\nA: b\r\n\r\n";
        for pieces in 1..70 {
            // Requests on end, and a body that may have what it likes.
            let whole = format!("{get}\r\n{get}{post}a\nb\nc");
            assert_eq!(read(&whole, pieces), whole);
            let other = "GET / HTTP/1.1\r\nContent-Length-Of: 1\r\n\r\n";
            assert_eq!(read(&format!("{other}\n"), pieces), format!("{other}\0"));
            for (bad, refused) in [
                ("GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\0Host: a\r\n\r\n"),
                ("GET / HTTP/1.1\r\nA: b\n\nGET", "GET / HTTP/1.1\r\nA: b\0\0GET"),
                ("\nGET / HTTP/1.1\r\n\r\n\n", "\0GET / HTTP/1.1\r\n\r\n\0"),
            ] {
                assert_eq!(read(&format!("{get}{bad}"), pieces), format!("{get}{refused}"));
            }
        }
    }
}
