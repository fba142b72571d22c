//! Heads from bytes: requests and responses.
//!
//! A parser belongs to one connection and is shown all bytes of the current message so far, with a
//! storage of its own, each time more came. It keeps only offsets, so the caller may move the
//! bytes between two calls. After a complete head it starts over by itself; after an error it must
//! not be used again.

use super::facts;
use super::scan::{Head, HeadScan, MAX_FIELDS, Refusal};
use crate::http::{Field, Method, Reason, Request, Response, Target, Version, host_is_valid};
use std::mem::MaybeUninit;

/// Fields kept without allocating. Browsers send 10 to 25, and filling it costs about 1 KiB of
/// writes per head; 128 would be 5 KiB.
const INLINE_FIELDS: usize = 32;

const _: () = assert!(INLINE_FIELDS < MAX_FIELDS && MAX_FIELDS < u16::MAX as usize);

/// Room for the fields of one head.
#[derive(Debug)]
pub struct FieldStorage<'b> {
    inline: [Field<'b>; INLINE_FIELDS],
    /// All fields of a head that has more than fit inline.
    many: Vec<Field<'b>>,
}

impl Default for FieldStorage<'_> {
    fn default() -> Self {
        FieldStorage { inline: [Field::EMPTY; INLINE_FIELDS], many: Vec::new() }
    }
}

impl<'b> FieldStorage<'b> {
    pub fn new() -> FieldStorage<'b> {
        FieldStorage::default()
    }

    fn fill(&mut self, parsed: &[httparse::Header<'b>]) -> &[Field<'b>] {
        let fields =
            parsed.iter().map(|it| Field::new(it.name.as_bytes(), crate::http::trim(it.value)));
        if parsed.len() <= INLINE_FIELDS {
            for (slot, field) in self.inline.iter_mut().zip(fields) {
                *slot = field;
            }
            &self.inline[..parsed.len()]
        } else {
            self.many.clear();
            self.many.extend(fields);
            &self.many
        }
    }
}

/// Parses the requests of one connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestParser {
    scan: HeadScan,
}

impl RequestParser {
    /// `bytes` is everything of this message so far. `None`: more must come. Otherwise the request
    /// and how many bytes its head took, leading empty lines included.
    ///
    /// # Errors
    /// `BadRequest`, `UriTooLong`, `HeaderTooLarge`, `VersionNotSupported`, `MethodNotAllowed`.
    pub fn parse<'b, 's>(
        &mut self,
        bytes: &'b [u8],
        storage: &'s mut FieldStorage<'b>,
    ) -> Result<Option<(Request<'b, 's>, usize)>, Reason> {
        let found = self.scan.advance(bytes, true, check_request_line).map_err(request_reason)?;
        let Some(head) = found else { return Ok(None) };
        self.reset();
        let request = request(&bytes[head.start..head.end], storage)?;
        Ok(Some((request, head.end)))
    }

    /// Whether a byte of a message has come, other than empty lines before it.
    pub fn begun(&self) -> bool {
        self.scan.begun()
    }

    /// Forgets the message so far.
    pub fn reset(&mut self) {
        self.scan = HeadScan::default();
    }
}

/// Parses the responses of one upstream connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseParser {
    scan: HeadScan,
}

impl ResponseParser {
    /// As [`RequestParser::parse`]; the method is that of the request which is answered.
    ///
    /// # Errors
    /// `BadResponse`, `ResponseTooLarge`.
    pub fn parse<'b, 's>(
        &mut self,
        bytes: &'b [u8],
        storage: &'s mut FieldStorage<'b>,
        request_method: Method,
    ) -> Result<Option<(Response<'b, 's>, usize)>, Reason> {
        const STARTS: &[u8] = b"HTTP/1.";
        let compared = bytes.len().min(STARTS.len());
        if bytes[..compared] != STARTS[..compared] {
            return Err(Reason::BadResponse);
        }
        let found = self.scan.advance(bytes, false, check_status_line).map_err(response_reason)?;
        let Some(head) = found else { return Ok(None) };
        self.reset();
        let response = response(bytes, head, storage, request_method)?;
        Ok(Some((response, head.end)))
    }

    /// Whether a byte of a message has come.
    pub fn begun(&self) -> bool {
        self.scan.begun()
    }

    /// Forgets the message so far.
    pub fn reset(&mut self) {
        self.scan = HeadScan::default();
    }
}

fn request_reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Malformed => Reason::BadRequest,
        Refusal::StartLineTooLong => Reason::UriTooLong,
        Refusal::TooLarge => Reason::HeaderTooLarge,
        Refusal::Version => Reason::VersionNotSupported,
    }
}

fn response_reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Malformed | Refusal::Version => Reason::BadResponse,
        Refusal::StartLineTooLong | Refusal::TooLarge => Reason::ResponseTooLarge,
    }
}

/// Refuses what would never become a head of ours: an HTTP/0.9 client (`GET /`) sends no more
/// than this line and would wait for its answer until a timeout.
fn check_request_line(line: &[u8]) -> Result<(), Refusal> {
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && line.iter().filter(|&&byte| byte == b' ').count() == 2 =>
        {
            Err(Refusal::Version)
        }
        _ => Err(Refusal::Malformed),
    }
}

fn check_status_line(line: &[u8]) -> Result<(), Refusal> {
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', ..] => Ok(()),
        _ => Err(Refusal::Malformed),
    }
}

fn request<'b, 's>(
    head: &'b [u8],
    storage: &'s mut FieldStorage<'b>,
) -> Result<Request<'b, 's>, Reason> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(end)) if end == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeaderTooLarge),
        Ok(_) | Err(_) => return Err(Reason::BadRequest),
    }
    let (Some(method_text), Some(target), Some(minor)) =
        (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Reason::BadRequest);
    };
    let method_bytes = method_text.as_bytes();
    let method = Method::from_bytes(method_bytes);
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let fields = storage.fill(parsed.headers);
    let (facts, host_field) =
        facts::of_request(fields, method, version).map_err(|_| Reason::BadRequest)?;
    if method == Method::Connect {
        return Err(Reason::MethodNotAllowed);
    }
    let target = Target::parse(target.as_bytes(), method)?;
    check_host(host_field, &target, version)?;
    let host = target.authority.or(host_field).unwrap_or_default();
    Ok(Request { method, method_bytes, target, version, host, fields, facts })
}

/// RFC 9112 section 3.2: a 1.1 request has a valid `Host`, also beside an absolute-form target;
/// it may be empty where the target has no authority.
fn check_host(field: Option<&[u8]>, target: &Target<'_>, version: Version) -> Result<(), Reason> {
    let valid = match field {
        None => version == Version::Http10,
        Some([]) => target.authority.is_none(),
        Some(host) => host_is_valid(host),
    };
    if valid { Ok(()) } else { Err(Reason::BadRequest) }
}

fn response<'b, 's>(
    bytes: &'b [u8],
    head: Head,
    storage: &'s mut FieldStorage<'b>,
    request_method: Method,
) -> Result<Response<'b, 's>, Reason> {
    let head_bytes = &bytes[..head.end];
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head_bytes, &mut headers) {
        Ok(httparse::Status::Complete(end)) if end == head.end => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::ResponseTooLarge),
        Ok(_) | Err(_) => return Err(Reason::BadResponse),
    }
    let (Some(minor), Some(status)) = (parsed.version, parsed.code) else {
        return Err(Reason::BadResponse);
    };
    if status < 100 {
        return Err(Reason::BadResponse);
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    // httparse leaves out a phrase that is not ASCII; it is passed as it came.
    const BEFORE_PHRASE: usize = "HTTP/1.1 200 ".len();
    let phrase = bytes.get(BEFORE_PHRASE..head.start_line_end).unwrap_or_default();
    let fields = storage.fill(parsed.headers);
    let facts = facts::of_response(fields, status, version, request_method)
        .map_err(|_| Reason::BadResponse)?;
    Ok(Response { version, status, phrase, fields, facts })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
