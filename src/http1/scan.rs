//! Finds the end of a head, once over every byte however small the pieces come.
//!
//! httparse starts over on each call, so a head of 61 KB that is dribbled byte by byte would cost
//! 0.6 s of CPU (measured). This scan remembers where it stopped, and httparse runs once, on a
//! complete head. httparse also takes a bare LF for a line end, so that is refused here. What
//! httparse refuses itself (a bare CR, controls) is looked for only while a head is incomplete:
//! there a refusal must not wait for the end.

use memchr::memchr_iter;

/// RFC 9112 section 3 recommends to take at least 8,000 octets.
pub const MAX_START_LINE_BYTES: usize = 8 * 1024;
/// Start line, fields and the empty line.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
pub const MAX_FIELDS: usize = 128;
/// RFC 9112 section 2.2: at least one empty line before a request line is to be ignored. Old
/// clients sent one after a body; more than a few are no accident.
const MAX_LEADING_LINES: usize = 4;

const _: () = assert!(MAX_START_LINE_BYTES < MAX_HEAD_BYTES);
// `UpgradeToken` keeps places within a head as u16.
const _: () = assert!(MAX_HEAD_BYTES <= 1 << 16);

/// Why a head cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    StartLineTooLong,
    TooLarge,
    /// A well-formed version that is not served.
    Version,
}

/// Where a complete head lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// After leading empty lines.
    pub(super) start: usize,
    /// Of the start line, without CRLF.
    pub(super) start_line_end: usize,
    /// After the empty line.
    pub(super) end: usize,
}

/// The scan of one head. Offsets count from the first byte of the message, leading lines included.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeadScan {
    /// The first byte that has not been looked at for a line end.
    at: usize,
    /// The first byte that has not been looked at for controls.
    checked: usize,
    /// Where the head starts, after empty lines.
    start: usize,
    line_start: usize,
    start_line_end: Option<usize>,
    fields: usize,
    leading_lines: usize,
    begun: bool,
}

impl HeadScan {
    /// Looks at what is new. `check_start_line` is shown the start line once, without CRLF.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        skips_empty_lines: bool,
        check_start_line: impl Fn(&[u8]) -> Result<(), Refusal>,
    ) -> Result<Option<Head>, Refusal> {
        debug_assert!(self.at <= bytes.len(), "a message's bytes never become fewer");
        let from = self.at;
        for lf in memchr_iter(b'\n', &bytes[from..]) {
            let lf = from + lf;
            if lf == self.line_start || bytes[lf - 1] != b'\r' {
                return Err(Refusal::Malformed);
            }
            let line = &bytes[self.line_start..lf - 1];
            self.line_start = lf + 1;
            match self.start_line_end {
                None if line.is_empty() => self.skip_leading_line(skips_empty_lines)?,
                None => {
                    if line.len() > MAX_START_LINE_BYTES {
                        return Err(Refusal::StartLineTooLong);
                    }
                    check_start_line(line)?;
                    self.start_line_end = Some(lf - 1);
                }
                Some(start_line_end) if line.is_empty() => {
                    if lf + 1 - self.start > MAX_HEAD_BYTES {
                        return Err(Refusal::TooLarge);
                    }
                    self.at = lf + 1;
                    self.begun = true;
                    return Ok(Some(Head { start: self.start, start_line_end, end: lf + 1 }));
                }
                Some(_) => {
                    self.fields += 1;
                    if self.fields > MAX_FIELDS {
                        return Err(Refusal::TooLarge);
                    }
                }
            }
        }
        self.at = bytes.len();
        self.check_incomplete(bytes)?;
        Ok(None)
    }

    /// Whether a byte of the head itself has come.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    fn skip_leading_line(&mut self, allowed: bool) -> Result<(), Refusal> {
        self.start = self.line_start;
        self.checked = self.checked.max(self.start);
        self.leading_lines += 1;
        if !allowed || self.leading_lines > MAX_LEADING_LINES {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    /// Limits and characters of a head whose end has not come.
    fn check_incomplete(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let head = &bytes[self.start..];
        // A lone CR may become an empty line yet.
        self.begun = !matches!(head, [] | [b'\r']);
        if self.start_line_end.is_none() && head.len() > MAX_START_LINE_BYTES + 1 {
            return Err(Refusal::StartLineTooLong);
        }
        if head.len() >= MAX_HEAD_BYTES {
            return Err(Refusal::TooLarge);
        }
        // A CR at the very end is looked at again when the next byte is there.
        let end = if bytes.last() == Some(&b'\r') { bytes.len() - 1 } else { bytes.len() };
        let fresh = &bytes[self.checked.min(end)..end];
        if fresh.iter().any(|&byte| is_control(byte)) {
            return Err(Refusal::Malformed);
        }
        for cr in memchr_iter(b'\r', fresh) {
            if bytes[self.checked + cr + 1] != b'\n' {
                return Err(Refusal::Malformed);
            }
        }
        self.checked = self.checked.max(end);
        Ok(())
    }
}

/// Controls that no part of a head may contain; line ends are looked at apart.
fn is_control(byte: u8) -> bool {
    (byte < 0x20 && !matches!(byte, b'\t' | b'\r' | b'\n')) || byte == 0x7F
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]]) -> Result<Option<Head>, Refusal> {
        let mut scan = HeadScan::default();
        let mut bytes = Vec::new();
        let mut found = Ok(None);
        for piece in pieces {
            bytes.extend_from_slice(piece);
            found = scan.advance(&bytes, true, |_| Ok(()));
            if !matches!(found, Ok(None)) {
                return found;
            }
        }
        found
    }

    /// Whole, byte by byte, and at every split: the answer is the same.
    fn scan_all_ways(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
        let whole = scan(&[bytes]);
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(scan(&singles), whole);
        for at in 0..bytes.len() {
            assert_eq!(scan(&[&bytes[..at], &bytes[at..]]), whole);
        }
        whole
    }

    #[test]
    fn finds_the_end_of_a_head() {
        let head = Head { start: 0, start_line_end: 3, end: 12 };
        assert_eq!(scan_all_ways(b"A B\r\nc:d\r\n\r\nrest"), Ok(Some(head)));
        let head = Head { start: 4, start_line_end: 7, end: 11 };
        assert_eq!(scan_all_ways(b"\r\n\r\nA B\r\n\r\n"), Ok(Some(head)));
        assert_eq!(scan_all_ways(b"A B\r\nc:d\r\n\r"), Ok(None));
    }

    #[test]
    fn refuses_before_the_end_has_come() {
        let bad: [&[u8]; 9] = [
            b"A B\nc",
            b"\nA",
            b"\r\n\nA",
            b"A\rB",
            b"A B\r\nc: \0",
            b"\x16\x03\x01",
            b"A B\r\nc:d\r\n\n",
            b"A B\r\n\rX",
            b"\r\n\r\n\r\n\r\n\r\n",
        ];
        for bytes in bad {
            assert_eq!(scan_all_ways(bytes), Err(Refusal::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn limits_hold_exactly() {
        let line = |len: usize| [vec![b'a'; len], b"\r\n\r\n".to_vec()].concat();
        assert!(scan(&[&line(MAX_START_LINE_BYTES)]).is_ok());
        let long = line(MAX_START_LINE_BYTES + 1);
        assert_eq!(scan(&[&long]), Err(Refusal::StartLineTooLong));
        let incomplete = vec![b'a'; MAX_START_LINE_BYTES + 2];
        assert_eq!(scan(&[&incomplete]), Err(Refusal::StartLineTooLong));
        let fields = |count: usize| [b"A\r\n".to_vec(), b"b:c\r\n".repeat(count)].concat();
        assert_eq!(scan(&[&fields(MAX_FIELDS)]), Ok(None));
        assert_eq!(scan(&[&fields(MAX_FIELDS + 1)]), Err(Refusal::TooLarge));
        let head = |len: usize| [b"A\r\nb:".to_vec(), vec![b'c'; len - 9], b"\r\n\r\n".to_vec()];
        assert!(scan(&[&head(MAX_HEAD_BYTES).concat()]).is_ok_and(|head| head.is_some()));
        assert_eq!(scan(&[&head(MAX_HEAD_BYTES + 1).concat()]), Err(Refusal::TooLarge));
        assert_eq!(scan(&[&vec![b'\t'; MAX_HEAD_BYTES]]), Err(Refusal::StartLineTooLong));
    }
}
