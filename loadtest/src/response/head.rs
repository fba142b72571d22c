//! Lines of a response: the status line, fields as far as framing goes, and chunks' sizes.
//!
//! Each function is given a line without its CRLF. Grammar is RFC 9112's for senders, not the
//! lenient one for recipients. Values that do not matter for framing are checked and forgotten.

use super::{BadResponse, Framing};

const VERSION: &[u8] = b"HTTP/1.";

/// What the fields of a head say about framing and about the connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields {
    /// Of the version: HTTP/1.minor.
    pub(super) minor: u8,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    stay: bool,
}

impl Fields {
    pub(super) fn add(&mut self, line: &[u8]) -> Result<(), BadResponse> {
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value).ok_or(BadResponse::BadContentLength)?;
            match self.length.replace(length) {
                None => {}
                Some(before) if before == length => return Err(BadResponse::RepeatedLength),
                Some(_) => return Err(BadResponse::DifferingLengths),
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadResponse::BadTransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.stay |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// RFC 9112 section 9.3; `close` wins.
    pub(super) fn keep_alive(&self) -> bool {
        !self.close && (self.minor >= 1 || self.stay)
    }

    /// RFC 9112 section 6.3, for a response.
    pub(super) fn framing(&self, status: u16, to_head: bool) -> Result<Framing, BadResponse> {
        if self.chunked && self.length.is_some() {
            return Err(BadResponse::LengthAndEncoding);
        }
        if self.chunked && self.minor == 0 {
            return Err(BadResponse::EncodingInHttp10);
        }
        if status < 200 || status == 204 {
            let free = !self.chunked && self.length.is_none();
            return if free {
                Ok(Framing::None)
            } else {
                Err(BadResponse::FramingNotAllowed { status })
            };
        }
        Ok(match self.length {
            _ if to_head || status == 304 => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(bytes) => Framing::Length(bytes),
            None => Framing::UntilClose,
        })
    }
}

/// Whether `part`, which comes after `before` bytes of its line, can belong to a status line as far
/// as the version goes.
pub(super) fn may_be_version(before: usize, part: &[u8]) -> bool {
    let expected = VERSION.get(before..).unwrap_or_default();
    expected.iter().zip(part).all(|(expected, byte)| expected == byte)
}

/// Status, and the version's minor number. The space before the reason must be there though the
/// reason may be empty (RFC 9112 section 4).
pub(super) fn status_line(line: &[u8]) -> Result<(u16, u8), BadResponse> {
    let bad = BadResponse::BadStatusLine;
    let rest = line.strip_prefix(VERSION).ok_or(bad)?;
    let [minor @ (b'0' | b'1'), b' ', status @ ..] = rest else {
        return Err(bad);
    };
    let [hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b' ', reason @ ..] =
        status
    else {
        return Err(bad);
    };
    if !is_text(reason) {
        return Err(bad);
    }
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(*hundreds) * 100 + digit(*tens) * 10 + digit(*ones);
    Ok((status, minor - b'0'))
}

/// The size in a chunk's line; extensions are checked for control characters and ignored.
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, BadResponse> {
    let bad = BadResponse::BadChunkSize;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    let after = extension.trim_ascii_start();
    let right = extension.is_empty() || after.first() == Some(&b';');
    if digits.is_empty() || !right || !is_text(extension) {
        return Err(bad);
    }
    let mut size = 0_u64;
    for digit in digits {
        let digit = (*digit as char).to_digit(16).ok_or(bad)?;
        size = size.checked_mul(16).ok_or(bad)? + u64::from(digit);
    }
    Ok(size)
}

pub(super) fn trailer(line: &[u8]) -> Result<(), BadResponse> {
    let (name, _) = field(line)?;
    let framing: [&[u8]; 2] = [b"content-length", b"transfer-encoding"];
    if framing.iter().any(|word| name.eq_ignore_ascii_case(word)) {
        return Err(BadResponse::FramingInTrailer);
    }
    Ok(())
}

/// Name, and value without white space around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), BadResponse> {
    if let [b' ' | b'\t', ..] = line {
        return Err(BadResponse::FoldedField);
    }
    let colon = line.iter().position(|byte| !TOKEN[usize::from(*byte)]).unwrap_or(line.len());
    let (name, rest) = line.split_at(colon);
    let [b':', value @ ..] = rest else {
        return Err(BadResponse::BadFieldName);
    };
    if name.is_empty() {
        return Err(BadResponse::BadFieldName);
    }
    if !is_text(value) {
        return Err(BadResponse::BadFieldValue);
    }
    Ok((name, value.trim_ascii()))
}

/// Digits only; `None` beyond 64 bits.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Tab, space, visible characters and whatever is beyond ASCII. Without branches, so that the
/// compiler looks at many bytes at once.
fn is_text(bytes: &[u8]) -> bool {
    let control = |byte: u8| (byte < b' ' && byte != b'\t') | (byte == 0x7F);
    !bytes.iter().fold(false, |found, byte| found | control(*byte))
}

/// RFC 9110 section 5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let signs = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < signs.len() {
        table[signs[at] as usize] = true;
        at += 1;
    }
    table
};
