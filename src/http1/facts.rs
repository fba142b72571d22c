//! What the fields of a head mean: framing (RFC 9112 section 6.3), persistence (section 9.3),
//! upgrade, expectation.
//!
//! Ambiguity is an error, whoever would profit from it: `Transfer-Encoding` beside
//! `Content-Length`, a last coding other than `chunked`, lengths that differ or are not digits.
//!
//! A request may have registered codings before its last `chunked` (RFC 9112 section 7): they are
//! passed on, as the body is, which we do not look into. `identity`, which RFC 7230 took away and
//! which means nothing, is left out. A response may not: nobody offers them to it in `TE`.

use crate::http::{
    Deadline, Field, FieldName, Framing, Method, RequestFacts, ResponseFacts, Seen, UpgradeToken,
    Version,
};

/// More options than any client has reason to send; it bounds what comparing names can cost.
const MAX_CONNECTION_OPTIONS: usize = 64;

/// The head's fields are malformed or ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ambiguous;

/// What both kinds of heads have in common.
#[derive(Debug, Default)]
struct Gathered<'b> {
    seen: Seen,
    content_length: Option<u64>,
    chunked: bool,
    host: Option<&'b [u8]>,
    close: bool,
    keep_alive: bool,
    lists_upgrade: bool,
    nominates: bool,
    options: usize,
    upgrade: Option<UpgradeToken>,
    expect_continue: bool,
    te_trailers: bool,
    max_forwards: Option<&'b [u8]>,
    deadline: Option<Deadline>,
    binds: bool,
}

/// The facts of a request, and its `Host` where it has one.
pub(super) fn of_request<'b>(
    fields: &[Field<'b>],
    method: Method,
    version: Version,
) -> Result<(RequestFacts, Option<&'b [u8]>), Ambiguous> {
    let found = gather(fields, true)?;
    // An origin behind CGI reads `Content_Length` as `Content-Length`.
    if found.seen.has(FieldName::FramingTwin) {
        return Err(Ambiguous);
    }
    let framing = match (found.chunked, found.content_length) {
        (true, Some(_)) => return Err(Ambiguous),
        // RFC 9112 section 6.1: chunked from a 1.0 client is faulty framing.
        (true, None) if version == Version::Http10 => return Err(Ambiguous),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Empty,
    };
    // RFC 9110 section 9.3.8: a client, which we are to the next hop, sends none with TRACE.
    if method == Method::Trace && !matches!(framing, Framing::Empty | Framing::Length(0)) {
        return Err(Ambiguous);
    }
    let is_11 = version == Version::Http11;
    let hops = matches!(method, Method::Trace | Method::Options);
    let facts = RequestFacts {
        framing,
        persistent: found.persistent(version),
        // RFC 9110 section 10.1.1: no expectation from a 1.0 client, nor without content.
        expect_continue: found.expect_continue
            && is_11
            && !matches!(framing, Framing::Empty | Framing::Length(0)),
        // RFC 9110 section 7.8: Upgrade in a 1.0 request is ignored.
        upgrade: found.upgrade.filter(|_| found.lists_upgrade && is_11),
        max_forwards: found.max_forwards.filter(|_| hops).and_then(saturating_digits),
        deadline: found.deadline,
        te_trailers: found.te_trailers && is_11,
        binds: found.binds,
        nominates: found.nominates,
        seen: found.seen,
    };
    Ok((facts, found.host))
}

/// The facts of a response to a request with that method.
pub(super) fn of_response(
    fields: &[Field<'_>],
    status: u16,
    version: Version,
    request_method: Method,
) -> Result<ResponseFacts, Ambiguous> {
    let found = gather(fields, false)?;
    if found.chunked && (found.content_length.is_some() || version == Version::Http10) {
        return Err(Ambiguous);
    }
    let never_has_body = status < 200 || status == 204;
    let bodiless = never_has_body || status == 304 || request_method == Method::Head;
    let framing = match (found.chunked, found.content_length) {
        _ if bodiless => Framing::Empty,
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    // A 204 or 1xx that announces a body (RFC 9112 section 6.1 forbids it) may well send one.
    let announces = found.chunked || found.content_length.is_some_and(|length| length > 0);
    let spent = never_has_body && announces || framing == Framing::UntilClose || found.binds;
    Ok(ResponseFacts {
        framing,
        persistent: found.persistent(version) && !spent,
        is_interim: status < 200 && status != 101,
        lists_upgrade: found.lists_upgrade,
        content_length: found.content_length,
        nominates: found.nominates,
        seen: found.seen,
    })
}

impl Gathered<'_> {
    /// RFC 9112 section 9.3.
    fn persistent(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// `may_be_coded`: whether codings before `chunked` are taken.
fn gather<'b>(fields: &[Field<'b>], may_be_coded: bool) -> Result<Gathered<'b>, Ambiguous> {
    let mut found = Gathered::default();
    for (index, field) in fields.iter().enumerate() {
        if field.kind == FieldName::Other {
            continue;
        }
        let repeated = found.seen.has(field.kind);
        found.seen.add(field.kind);
        match field.kind {
            FieldName::ContentLength => {
                let length = content_length(field.value)?;
                if found.content_length.is_some_and(|before| before != length) {
                    return Err(Ambiguous);
                }
                found.content_length = Some(length);
            }
            FieldName::TransferEncoding => codings(field.value, may_be_coded, &mut found)?,
            FieldName::Host => {
                if repeated {
                    return Err(Ambiguous);
                }
                found.host = Some(field.value);
            }
            FieldName::Connection => connection(field, &mut found)?,
            FieldName::Upgrade => {
                let better = upgrade(index, field.value);
                found.upgrade = match found.upgrade {
                    Some(held) if held.is_websocket => Some(held),
                    held => better.filter(|it| it.is_websocket || held.is_none()).or(held),
                };
            }
            FieldName::Expect => {
                found.expect_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
            }
            FieldName::Te => {
                found.te_trailers |=
                    field.members().any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            FieldName::MaxForwards if !repeated => found.max_forwards = Some(field.value),
            FieldName::CtxDeadline => {
                let both = [found.deadline, Deadline::parse(field.value)];
                found.deadline = both.into_iter().flatten().reduce(Deadline::and);
            }
            FieldName::Authorization => found.binds |= is_of_connection(field.value),
            FieldName::WwwAuthenticate => found.binds |= field.members().any(is_of_connection),
            _ => {}
        }
    }
    if found.seen.has(FieldName::TransferEncoding) && !found.chunked {
        return Err(Ambiguous);
    }
    Ok(found)
}

/// RFC 9112 section 6.1: `chunked` comes once, and last. It has no parameters (section 7.1), and
/// an empty member is as good a sign of trouble as an unknown one.
fn codings(value: &[u8], may_be_coded: bool, found: &mut Gathered<'_>) -> Result<(), Ambiguous> {
    for coding in value.split(|&byte| byte == b',').map(crate::http::trim) {
        if found.chunked {
            return Err(Ambiguous);
        }
        if coding.eq_ignore_ascii_case(CHUNKED) {
            found.chunked = true;
        } else if !may_be_coded || !is_registered(coding) {
            return Err(Ambiguous);
        }
    }
    Ok(())
}

/// RFC 9112 section 7.2, with the names of old (RFC 9110 section 8.4.1 keeps them as aliases).
fn is_registered(coding: &[u8]) -> bool {
    const CODINGS: [&[u8]; 6] =
        [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", IDENTITY];
    CODINGS.iter().any(|it| coding.eq_ignore_ascii_case(it))
}

const CHUNKED: &[u8] = b"chunked";
const IDENTITY: &[u8] = b"identity";

/// The codings of a valid request that go on, in order, `chunked` last and in the letters of RFC
/// 9112: a reader that compares those alone would see no coding in `Chunked`, and so no body.
pub(super) fn forwarded_codings<'b>(fields: &[Field<'b>]) -> impl Iterator<Item = &'b [u8]> {
    let all = fields.iter().filter(|it| it.kind == FieldName::TransferEncoding);
    let codings = all.flat_map(Field::members).filter(|it| !it.eq_ignore_ascii_case(IDENTITY));
    codings.map(|it| if it.eq_ignore_ascii_case(CHUNKED) { CHUNKED } else { it })
}

fn connection(field: &Field<'_>, found: &mut Gathered<'_>) -> Result<(), Ambiguous> {
    for option in field.members() {
        found.options += 1;
        if found.options > MAX_CONNECTION_OPTIONS {
            return Err(Ambiguous);
        }
        // Fields by the names of these never go on, so that naming them nominates nothing.
        if option.eq_ignore_ascii_case(b"close") {
            found.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            found.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            found.lists_upgrade = true;
        } else if !option.eq_ignore_ascii_case(b"te") {
            found.nominates = true;
        }
    }
    Ok(())
}

/// Schemes that prove to a connection who is behind it, and not for a request alone (RFC 9110
/// section 3.3 tells of them; RFC 4559 and MS-NTHT).
fn is_of_connection(credentials: &[u8]) -> bool {
    let mut words = credentials.split(|byte| matches!(byte, b' ' | b'\t'));
    let scheme = words.next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"negotiate") || scheme.eq_ignore_ascii_case(b"ntlm")
}

/// Digits, or a list of equal ones (RFC 9110 section 8.6).
fn content_length(value: &[u8]) -> Result<u64, Ambiguous> {
    if let Some(length) = exact_digits(value) {
        return Ok(length);
    }
    let mut lengths = value.split(|&byte| byte == b',').map(crate::http::trim).map(exact_digits);
    let first = lengths.next().flatten().ok_or(Ambiguous)?;
    if lengths.all(|length| length == Some(first)) { Ok(first) } else { Err(Ambiguous) }
}

fn exact_digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// A number of hops; one too large to count is as good as endless.
fn saturating_digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(exact_digits(value).unwrap_or(u64::MAX))
}

/// `websocket` where it is listed, else the first protocol that is not `h2c`.
fn upgrade(index: usize, value: &[u8]) -> Option<UpgradeToken> {
    let mut chosen = None;
    let mut start = 0;
    for member in value.split(|&byte| byte == b',') {
        let token = crate::http::trim(member);
        let blank = member.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let is_websocket = token.eq_ignore_ascii_case(b"websocket");
        let usable = !token.is_empty() && !token.eq_ignore_ascii_case(b"h2c");
        if usable && (is_websocket || chosen.is_none()) {
            chosen = Some(UpgradeToken {
                field: index as u16,
                start: (start + blank) as u16,
                len: token.len() as u16,
                is_websocket,
            });
        }
        if is_websocket {
            break;
        }
        start += member.len() + 1;
    }
    chosen
}
