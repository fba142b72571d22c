//! Origins and clients of many minds: each reads a stream of messages in its own way, and all must
//! see the same messages in what the proxy sends.
//!
//! Written from RFC 9112 without a look at `src/`. [`STRICT`] keeps to the letter and refuses what
//! is not in it; every other [`Reader`] has leniencies that are known of real programs. None of
//! them knows what was meant: they get bytes, and say where messages begin and end.
//!
//! Left out are readers that contradict the RFCs about messages which are sound (no body on GET,
//! 0x85 as a line end, trailers not known at all): no proxy can please those.

use crate::leniency::{Coding, Length, Line, Odd, Reader, STRICT, Size, Wins};
use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// A complete message.
#[derive(Debug, PartialEq)]
pub(crate) struct Message<'b> {
    pub(crate) start: &'b [u8],
    pub(crate) body: Cow<'b, [u8]>,
}

/// What stands behind the last complete message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rest {
    Nothing,
    /// The beginning of a message.
    Part,
    /// What this reader would not read on.
    Refused(&'static str),
}

/// What a stream of responses is read with: the methods of the requests, and whether its end was
/// a clean one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers<'m> {
    pub(crate) methods: &'m [&'m str],
    pub(crate) ends_cleanly: bool,
}

/// Where reading has to stop.
enum Stop {
    Part,
    Refused(&'static str),
}

type Read<T> = Result<T, Stop>;

fn refused<T>(why: &'static str) -> Read<T> {
    Err(Stop::Refused(why))
}

#[derive(Clone, Copy)]
enum Delimited {
    Length(u64),
    Chunked,
    UntilEnd,
}

/// What of a head decides where its message ends.
#[derive(Default)]
struct Fields<'b> {
    codings: Vec<Cow<'b, [u8]>>,
    lengths: Vec<Cow<'b, [u8]>>,
    nominated: Vec<u8>,
}

impl Reader {
    pub(crate) fn requests<'b>(&self, bytes: &'b [u8]) -> (Vec<Message<'b>>, Rest) {
        self.messages(bytes, |from| {
            let (start, fields, at) = self.head(from)?;
            if *self.name == *STRICT.name && !is_request_line(start) {
                return refused("request line");
            }
            let delimited = self.delimited(&fields)?.unwrap_or(Delimited::Length(0));
            let (body, at) = self.body(from, at, delimited, false)?;
            Ok((Message { start, body }, at))
        })
    }

    /// Final responses; interim ones are passed over.
    pub(crate) fn responses<'b>(
        &self,
        bytes: &'b [u8],
        answers: Answers<'_>,
    ) -> (Vec<Message<'b>>, Rest) {
        let mut methods = answers.methods.iter();
        self.messages(bytes, |from| {
            let mut head = 0;
            loop {
                let (start, fields, len) = self.head(&from[head..])?;
                let Some(status) = status_of(start) else { return refused("status line") };
                head += len;
                if status < 200 && status != 101 {
                    continue;
                }
                let Some(method) = methods.next() else { return refused("nobody asked") };
                let none = *method == "HEAD" || matches!(status, 101 | 204 | 304);
                let delimited = match self.delimited(&fields)? {
                    _ if none => Delimited::Length(0),
                    found => found.unwrap_or(Delimited::UntilEnd),
                };
                let (body, at) = self.body(from, head, delimited, answers.ends_cleanly)?;
                return Ok((Message { start, body }, at));
            }
        })
    }

    fn messages<'b>(
        &self,
        bytes: &'b [u8],
        mut next: impl FnMut(&'b [u8]) -> Read<(Message<'b>, usize)>,
    ) -> (Vec<Message<'b>>, Rest) {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            match next(&bytes[at..]) {
                Ok((message, len)) => {
                    found.push(message);
                    at += len;
                }
                Err(Stop::Part) => return (found, Rest::Part),
                Err(Stop::Refused(why)) => return (found, Rest::Refused(why)),
            }
        }
        (found, Rest::Nothing)
    }

    /// A line without its end, and where the next begins.
    fn line<'b>(&self, bytes: &'b [u8], at: usize) -> Read<(&'b [u8], usize)> {
        let rest = &bytes[at..];
        let end = match self.line {
            Line::Cr => memchr2(b'\r', b'\n', rest),
            Line::Lf | Line::Crlf => memchr(b'\n', rest),
        };
        let Some(end) = end else { return Err(Stop::Part) };
        let line = &rest[..end];
        match self.line {
            Line::Cr => {
                let both = rest[end..].starts_with(b"\r\n");
                Ok((line, at + end + if both { 2 } else { 1 }))
            }
            Line::Lf => Ok((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1)),
            Line::Crlf => match line.strip_suffix(b"\r") {
                Some(line) if memchr(b'\r', line).is_none() => Ok((line, at + end + 1)),
                _ => refused("a bare CR or LF"),
            },
        }
    }

    /// The start line, what the fields say, and where the body begins.
    fn head<'b>(&self, bytes: &'b [u8]) -> Read<(&'b [u8], Fields<'b>, usize)> {
        let (mut start, mut at) = self.line(bytes, 0)?;
        // RFC 9112 section 2.2 allows empty lines; what we send has none, so STRICT would be
        // right to refuse them.
        while start.is_empty() {
            if self.odd == Odd::Refused {
                return refused("an empty line before a message");
            }
            (start, at) = self.line(bytes, at)?;
        }
        let mut fields = Fields::default();
        at = self.fields(bytes, at, Some(&mut fields))?;
        Ok((start, fields, at))
    }

    /// Up to and with the empty line; trailers are looked at and forgotten.
    fn fields<'b>(
        &self,
        bytes: &'b [u8],
        mut at: usize,
        mut into: Option<&mut Fields<'b>>,
    ) -> Read<usize> {
        let mut last = None;
        loop {
            let (line, next) = self.line(bytes, at)?;
            at = next;
            if line.is_empty() {
                break;
            }
            if matches!(line[0], b' ' | b'\t') && self.odd != Odd::Refused {
                if self.odd == Odd::Joined
                    && let (Some(fields), Some(kind)) = (into.as_deref_mut(), last)
                {
                    fields.join(kind, self.trimmed(line));
                }
                continue;
            }
            let Some(colon) = memchr(b':', line) else {
                match self.odd {
                    Odd::Refused => return refused("a line without a colon"),
                    Odd::Joined | Odd::Skipped => continue,
                }
            };
            let (name, value) = (self.name_of(&line[..colon])?, &line[colon + 1..]);
            let value = self.value_of(value)?;
            last = Kind::of(name, self.underscores);
            if let (Some(fields), Some(kind)) = (into.as_deref_mut(), last) {
                fields.add(kind, value);
            }
        }
        if let Some(fields) = into.filter(|_| self.nominates) {
            fields.drop_nominated();
        }
        Ok(at)
    }

    fn name_of<'b>(&self, name: &'b [u8]) -> Read<&'b [u8]> {
        let name = if self.space_before_colon { self.trimmed(name) } else { name };
        if self.odd != Odd::Refused && !self.cut_names {
            return Ok(name);
        }
        match name.iter().position(|&byte| !is_token(byte)) {
            Some(at) if self.cut_names => Ok(&name[..at]),
            None if !name.is_empty() => Ok(name),
            _ => refused("a name that is no token"),
        }
    }

    fn value_of<'b>(&self, value: &'b [u8]) -> Read<&'b [u8]> {
        let nul = if self.nul_ends { memchr(0, value) } else { None };
        let value = self.trimmed(&value[..nul.unwrap_or(value.len())]);
        let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F;
        if self.odd == Odd::Refused && value.iter().any(control) {
            return refused("a control in a value");
        }
        Ok(value)
    }

    fn trimmed<'b>(&self, mut bytes: &'b [u8]) -> &'b [u8] {
        let space = |byte: u8| match byte {
            b' ' | b'\t' => true,
            0x0B | 0x0C | 0x85 | 0xA0 => self.wide_space,
            _ => false,
        };
        while let [first, rest @ ..] = bytes
            && space(*first)
        {
            bytes = rest;
        }
        while let [rest @ .., last] = bytes
            && space(*last)
        {
            bytes = rest;
        }
        bytes
    }

    fn delimited(&self, fields: &Fields<'_>) -> Read<Option<Delimited>> {
        let chunked = self.is_chunked(&fields.codings)?;
        let length = self.length(&fields.lengths)?;
        Ok(match (chunked, length, self.wins) {
            (true, Some(_), Wins::Nothing) => return refused("a coding and a length"),
            (true, Some(length), Wins::Length) => Some(Delimited::Length(length)),
            (true, _, _) => Some(Delimited::Chunked),
            (false, Some(length), _) => Some(Delimited::Length(length)),
            (false, None, _) => None,
        })
    }

    fn is_chunked(&self, lines: &[Cow<'_, [u8]>]) -> Read<bool> {
        let lines = match (self.coding, lines) {
            (_, []) => return Ok(false),
            (Coding::OfFirstLine, [first, ..]) => std::slice::from_ref(first),
            (Coding::OfLastLine, [.., last]) => std::slice::from_ref(last),
            _ => lines,
        };
        if self.coding == Coding::Substring {
            let holds = |line: &Cow<'_, [u8]>| {
                line.windows(7).any(|letters| letters.eq_ignore_ascii_case(b"chunked"))
            };
            return Ok(lines.iter().any(holds));
        }
        let all = lines.iter().flat_map(|line| line.split(|&byte| byte == b','));
        let all: Vec<&[u8]> = all.map(|coding| self.trimmed(coding)).collect();
        let is_chunked = |coding: &&&[u8]| match self.coding {
            Coding::AsSpelt => **coding == b"chunked",
            _ => coding.eq_ignore_ascii_case(b"chunked"),
        };
        let last = all.last().filter(is_chunked).is_some();
        let once = all.iter().filter(is_chunked).count() == 1;
        if self.wins == Wins::Nothing && !(last && once) {
            return refused("a coding other than chunked");
        }
        Ok(last)
    }

    fn length(&self, values: &[Cow<'_, [u8]>]) -> Read<Option<u64>> {
        let value = match (self.length, values) {
            (_, []) => return Ok(None),
            (Length::Strict, [_, _, ..]) => return refused("more than one length"),
            (Length::Last, [.., value]) | (_, [value, ..]) => value,
        };
        let value = match self.length {
            Length::Strict => &value[..],
            Length::First | Length::Last | Length::Strtol => without_sign(value),
        };
        let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&value[..digits]).unwrap_or_default();
        match text.parse() {
            Ok(length) if digits == value.len() || self.length != Length::Strict => {
                Ok(Some(length))
            }
            _ if self.length == Length::Strict => refused("a length that is no number"),
            Ok(_) | Err(_) => Ok(Some(0)),
        }
    }

    fn body<'b>(
        &self,
        bytes: &'b [u8],
        at: usize,
        delimited: Delimited,
        ends_cleanly: bool,
    ) -> Read<(Cow<'b, [u8]>, usize)> {
        match delimited {
            Delimited::Length(length) => {
                let rest = &bytes[at..];
                let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
                let Some(length) = length else { return Err(Stop::Part) };
                Ok((Cow::Borrowed(&rest[..length]), at + length))
            }
            Delimited::Chunked => self.chunks(bytes, at),
            Delimited::UntilEnd if ends_cleanly => Ok((Cow::Borrowed(&bytes[at..]), bytes.len())),
            Delimited::UntilEnd => Err(Stop::Part),
        }
    }

    fn chunks<'b>(&self, bytes: &'b [u8], mut at: usize) -> Read<(Cow<'b, [u8]>, usize)> {
        let mut body = Vec::new();
        loop {
            let (size, next) = self.size_line(bytes, at)?;
            at = next;
            if size == 0 {
                at = self.fields(bytes, at, None)?;
                return Ok((Cow::Owned(body), at));
            }
            let Some(data) = usize::try_from(size).ok().and_then(|size| bytes[at..].get(..size))
            else {
                return Err(Stop::Part);
            };
            body.extend_from_slice(data);
            let (rest, next) = self.line(bytes, at + data.len())?;
            if !rest.is_empty() && self.odd == Odd::Refused {
                return refused("more data than the chunk's size");
            }
            at = next;
        }
    }

    fn size_line(&self, bytes: &[u8], at: usize) -> Read<(u64, usize)> {
        let by_lf = Reader { line: Line::Lf, ..*self };
        let reader = if self.extension_ends_at_lf { &by_lf } else { self };
        let (line, next) = reader.line(bytes, at)?;
        let text = match self.size {
            Size::Strict => line,
            Size::Strtol | Size::Narrow => {
                let line = without_sign(line);
                line.strip_prefix(b"0x").or(line.strip_prefix(b"0X")).unwrap_or(line)
            }
        };
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if self.size == Size::Strict {
            let rest = &text[digits..];
            let extended = rest.starts_with(b";") && rest.iter().all(|&byte| byte >= b' ');
            if !(1..=16).contains(&digits) || !(rest.is_empty() || extended) {
                return refused("a chunk's size");
            }
        }
        let number = text[..digits].iter().fold(0_u64, |number, &digit| {
            let digit = (digit as char).to_digit(16).unwrap_or(0);
            number.wrapping_mul(16).wrapping_add(u64::from(digit))
        });
        Ok((if self.size == Size::Narrow { number & 0xFFFF_FFFF } else { number }, next))
    }
}

/// What a field decides.
#[derive(Clone, Copy)]
enum Kind {
    Coding,
    Length,
    Connection,
}

impl Kind {
    fn of(name: &[u8], underscores: bool) -> Option<Kind> {
        let is = |text: &str| {
            name.len() == text.len()
                && name.iter().zip(text.bytes()).all(|(&have, want)| {
                    have.eq_ignore_ascii_case(&want)
                        || (underscores && have == b'_' && want == b'-')
                })
        };
        match name.len() {
            10 if is("connection") => Some(Kind::Connection),
            14 if is("content-length") => Some(Kind::Length),
            17 if is("transfer-encoding") => Some(Kind::Coding),
            _ => None,
        }
    }
}

impl<'b> Fields<'b> {
    fn add(&mut self, kind: Kind, value: &'b [u8]) {
        match kind {
            Kind::Coding => self.codings.push(Cow::Borrowed(value)),
            Kind::Length => self.lengths.push(Cow::Borrowed(value)),
            Kind::Connection => {
                self.nominated.extend_from_slice(value);
                self.nominated.push(b',');
            }
        }
    }

    fn join(&mut self, kind: Kind, more: &[u8]) {
        let value = match kind {
            Kind::Coding => self.codings.last_mut(),
            Kind::Length => self.lengths.last_mut(),
            Kind::Connection => return self.nominated.extend_from_slice(more),
        };
        if let Some(value) = value {
            let value = value.to_mut();
            value.push(b' ');
            value.extend_from_slice(more);
        }
    }

    fn drop_nominated(&mut self) {
        let names = |text: &str| {
            let mut options = self.nominated.split(|&byte| byte == b',');
            options.any(|it| it.trim_ascii().eq_ignore_ascii_case(text.as_bytes()))
        };
        let (length, coding) = (names("content-length"), names("transfer-encoding"));
        if length {
            self.lengths.clear();
        }
        if coding {
            self.codings.clear();
        }
    }
}

fn without_sign(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    text.strip_prefix(b"+").or(text.strip_prefix(b"-")).unwrap_or(text)
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || b"!#$%&'*+.^_`|~".contains(&byte)
}

/// Three parts, one space between them; which characters a target may have is the origin's matter.
fn is_request_line(line: &[u8]) -> bool {
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let visible = |target: &[u8]| {
        !target.is_empty() && target.iter().all(|byte| (0x21..=0x7E).contains(byte))
    };
    method.is_some_and(|it| !it.is_empty() && it.iter().all(|&byte| is_token(byte)))
        && target.is_some_and(visible)
        && version == Some(b"HTTP/1.1")
        && parts.next().is_none()
}

fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ")?;
    let (code, rest) = rest.split_at_checked(3)?;
    let code = std::str::from_utf8(code).ok().filter(|_| matches!(rest, [] | [b' ', ..]))?;
    code.parse().ok().filter(|code| (100..1000).contains(code))
}
