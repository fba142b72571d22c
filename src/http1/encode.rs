//! Heads for the next hop, and the answers that are made here.
//!
//! One pass over the fields; their order and case are kept. Which of them go on is settled in
//! `http::forward`; here they are spelt. Framing is always written anew in one form: one
//! `Content-Length` in plain digits, or one `Transfer-Encoding: chunked`. Every message says
//! HTTP/1.1, which is what this hop speaks (RFC 9110 section 2.5). [`request`] and [`response`]
//! leave the closing empty line to [`end`], so that the caller can add fields of its own.

pub use super::body::BodyEncoder;
use super::facts::forwarded_codings;
pub use super::local::local_answer;
use crate::http::{
    Field, FieldName, ForwardRules, Framing, Mode, PeerText, Reason, Request, Response, Seen,
    Version, append_forwarded, append_list, goes_no_further, is_nominated,
};

/// When a client may come back after 503. Overload is over in seconds or not at all.
const RETRY_AFTER_SECS: &[u8] = b"1";
/// RFC 9110 section 15.5.6: 405 names what is served. `Other` methods are too, but have no names.
pub(super) const ALLOW: &[u8] = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE, PATCH";

/// What a response's head depends on besides the response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseContext<'r> {
    pub client_version: Version,
    /// Whether the client's connection closes after this response.
    pub close: bool,
    pub rules: &'r ForwardRules,
    /// Now, as `Date` has it, for an answer that came without one; `None`: it goes on without.
    pub date: Option<&'r [u8]>,
}

/// How a body goes on to a client, and whether the connection must close to end it.
pub fn outgoing_framing(response: Framing, client_version: Version) -> (Framing, bool) {
    match (response, client_version) {
        (Framing::UntilClose, Version::Http11) => (Framing::Chunked, false),
        (Framing::UntilClose | Framing::Chunked, Version::Http10) => (Framing::UntilClose, true),
        (Framing::Empty | Framing::Length(_) | Framing::Chunked, _) => (response, false),
    }
}

/// Appends the closing empty line of a head.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends one field.
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a request's head for the upstream, without the closing empty line.
///
/// With `upgrade_allowed` the protocol that `facts.upgrade` found, and it alone, is asked for.
pub fn request(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    rules: &ForwardRules,
    peer: &PeerText,
    upgrade_allowed: bool,
) {
    request_without(out, request, rules, peer, upgrade_allowed, Seen::default());
}

/// As [`request`], without the fields of the kinds in `dropped`, which the caller writes anew.
pub fn request_without(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    rules: &ForwardRules,
    peer: &PeerText,
    upgrade_allowed: bool,
    dropped: Seen,
) {
    out.extend_from_slice(request.method_bytes);
    out.push(b' ');
    request.target.write_to(out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let facts = &request.facts;
    if !facts.seen.has(FieldName::Host) {
        // RFC 9112 section 3.2: always there in 1.1, empty where nobody named a host.
        field(out, b"Host", request.host);
    }
    let mut written = Seen::default();
    for it in request.fields {
        if facts.nominates && is_nominated(request.fields, it) {
            continue;
        }
        if it.kind == FieldName::Other {
            field(out, it.name, it.value);
        } else if !dropped.has(it.kind) {
            known_request_field(out, request, it, rules, peer, written);
            written.add(it.kind);
        }
    }
    let upgrade = request.upgrade_token().filter(|_| upgrade_allowed);
    match (upgrade, facts.te_trailers) {
        (Some(_), true) => field(out, b"Connection", b"Upgrade, TE"),
        (Some(_), false) => field(out, b"Connection", b"Upgrade"),
        (None, true) => field(out, b"Connection", b"TE"),
        (None, false) => {}
    }
    if let Some(protocol) = upgrade {
        field(out, b"Upgrade", protocol);
    }
    if facts.te_trailers {
        field(out, b"TE", b"trailers");
    }
    add_forwarding(out, request, rules, peer, written);
}

/// A field that the proxy acts on; `written` are the kinds that stood before it.
fn known_request_field(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    it: &Field<'_>,
    rules: &ForwardRules,
    peer: &PeerText,
    written: Seen,
) {
    let facts = &request.facts;
    let first = !written.has(it.kind);
    match it.kind {
        // With an absolute-form target, its authority (RFC 9112 section 3.2.2).
        FieldName::Host => field(out, it.name, request.host),
        FieldName::ContentLength if first => length_field(out, it.name, facts.framing),
        FieldName::TransferEncoding if first => codings_field(out, it.name, request.fields),
        // RFC 9110 section 10.1.1: ignored from a 1.0 client.
        FieldName::Expect if request.version == Version::Http10 => {}
        FieldName::MaxForwards => match facts.max_forwards {
            None => field(out, it.name, it.value),
            Some(hops) if first => decimal_field(out, it.name, hops.saturating_sub(1)),
            Some(_) => {}
        },
        FieldName::CtxDeadline => match facts.deadline {
            None => field(out, it.name, it.value),
            Some(deadline) if first => {
                out.extend_from_slice(it.name);
                out.extend_from_slice(b": ");
                deadline.write_to(out);
                end(out);
            }
            Some(_) => {}
        },
        FieldName::XForwardedFor | FieldName::Forwarded => {
            let is_x = it.kind == FieldName::XForwardedFor;
            let mode = if is_x { rules.x_forwarded } else { rules.forwarded };
            match mode {
                Mode::Off => field(out, it.name, it.value),
                Mode::Append if first => {
                    out.extend_from_slice(it.name);
                    out.extend_from_slice(b": ");
                    append_list(out, request.fields, it.kind, |out| {
                        if is_x {
                            out.extend_from_slice(peer.ip());
                        } else {
                            append_forwarded(out, peer, request.host);
                        }
                    });
                    end(out);
                }
                Mode::Append | Mode::Overwrite => {}
            }
        }
        FieldName::XForwardedHost | FieldName::XForwardedProto => match rules.x_forwarded {
            Mode::Off | Mode::Append => field(out, it.name, it.value),
            Mode::Overwrite => {}
        },
        FieldName::ForwardedTwin if rules.x_forwarded != Mode::Off => {}
        FieldName::ContentLength | FieldName::FramingTwin => {}
        kind if goes_no_further(kind) => {}
        _ => field(out, it.name, it.value),
    }
}

/// What the proxy says at the end of the head; `written` are the kinds that went on already.
fn add_forwarding(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    rules: &ForwardRules,
    peer: &PeerText,
    written: Seen,
) {
    let adds = |mode: Mode, kind: FieldName| match mode {
        Mode::Off => false,
        Mode::Append => !written.has(kind),
        Mode::Overwrite => true,
    };
    if adds(rules.x_forwarded, FieldName::XForwardedFor) && !peer.ip().is_empty() {
        field(out, b"X-Forwarded-For", peer.ip());
    }
    if adds(rules.x_forwarded, FieldName::XForwardedProto) {
        field(out, b"X-Forwarded-Proto", b"http");
    }
    if adds(rules.x_forwarded, FieldName::XForwardedHost) && !request.host.is_empty() {
        field(out, b"X-Forwarded-Host", request.host);
    }
    if adds(rules.forwarded, FieldName::Forwarded) {
        out.extend_from_slice(b"Forwarded: ");
        append_forwarded(out, peer, request.host);
        end(out);
    }
    via(out, rules, request.version);
}

/// RFC 9110 section 7.6.3: one more element, as a line of its own behind what came.
fn via(out: &mut Vec<u8>, rules: &ForwardRules, received: Version) {
    if let Some(pseudonym) = &rules.via {
        out.extend_from_slice(b"Via: ");
        out.extend_from_slice(received.via_text());
        out.push(b' ');
        out.extend_from_slice(pseudonym.as_bytes());
        end(out);
    }
}

/// Appends a response's head for the client, without the closing empty line. `framing` is what
/// [`outgoing_framing`] said. Also for a 101 that was asked for.
pub fn response(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    framing: Framing,
    context: &ResponseContext<'_>,
) {
    status_line(out, response);
    let written = response_fields(out, response, framing);
    if framing == Framing::Chunked && !written.has(FieldName::TransferEncoding) {
        field(out, b"Transfer-Encoding", b"chunked");
    }
    if !written.has(FieldName::ContentLength) {
        length_field(out, b"Content-Length", framing);
    }
    let keep_alive = context.client_version == Version::Http10;
    match (written.has(FieldName::Upgrade), context.close) {
        (true, true) => field(out, b"Connection", b"Upgrade, close"),
        (true, false) => field(out, b"Connection", b"Upgrade"),
        (false, true) => field(out, b"Connection", b"close"),
        (false, false) if keep_alive => field(out, b"Connection", b"keep-alive"),
        (false, false) => {}
    }
    if let Some(date) = context.date
        && !written.has(FieldName::Date)
        && response.status >= 200
    {
        field(out, b"Date", date);
    }
    via(out, context.rules, response.version);
}

/// Appends a whole 1xx head, closing empty line included. Not for 1.0 clients (RFC 9110 section
/// 15.2), and not for 101.
pub fn interim(out: &mut Vec<u8>, response: &Response<'_, '_>) {
    debug_assert!(response.facts.is_interim);
    status_line(out, response);
    response_fields(out, response, Framing::Empty);
    end(out);
}

/// Appends `100 Continue`, which we send when the upstream does not within `expect_timeout_ms`.
pub fn continue_100(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

fn status_line(out: &mut Vec<u8>, response: &Response<'_, '_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(response.status));
    out.push(b' ');
    out.extend_from_slice(response.phrase);
    out.extend_from_slice(b"\r\n");
}

/// The fields that go on; which known ones were written.
fn response_fields(out: &mut Vec<u8>, response: &Response<'_, '_>, framing: Framing) -> Seen {
    let facts = &response.facts;
    // 101 switches to it, 426 asks for it (RFC 9110 section 15.5.22).
    let keeps_upgrade = matches!(response.status, 101 | 426);
    // HEAD and 304 announce the length that GET would have; 1xx and 204 have none (section 8.6).
    let announced =
        facts.content_length.filter(|_| response.status >= 200 && response.status != 204);
    let length = match framing {
        Framing::Empty => announced,
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let mut written = Seen::default();
    for it in response.fields {
        if facts.nominates && is_nominated(response.fields, it) {
            continue;
        }
        match it.kind {
            FieldName::ContentLength => match length {
                Some(length) if !written.has(it.kind) => decimal_field(out, it.name, length),
                Some(_) | None => continue,
            },
            FieldName::TransferEncoding if framing == Framing::Chunked => {
                field(out, it.name, b"chunked");
            }
            // It means nothing here, and framing to a client behind CGI (`content_length`).
            FieldName::FramingTwin => continue,
            FieldName::Upgrade if keeps_upgrade => field(out, it.name, it.value),
            kind if goes_no_further(kind) => continue,
            _ => field(out, it.name, it.value),
        }
        written.add(it.kind);
    }
    written
}

/// Appends a whole answer that says why the proxy gave up, body included.
///
/// A client of 1.0 is to be closed on, since this does not say `keep-alive`.
pub fn error_response(
    out: &mut Vec<u8>,
    reason: Reason,
    close: bool,
    head_only: bool,
    date: Option<&[u8]>,
) {
    let status = reason.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(phrase(status));
    out.extend_from_slice(b"\r\nContent-Type: text/plain\r\n");
    let body = reason.text();
    decimal_field(out, b"Content-Length", body.len() as u64 + 1);
    field(out, b"ringlane-error", reason.label().as_bytes());
    date.into_iter().for_each(|date| field(out, b"Date", date));
    match status {
        405 => field(out, b"Allow", ALLOW),
        503 => field(out, b"Retry-After", RETRY_AFTER_SECS),
        _ => {}
    }
    if close {
        field(out, b"Connection", b"close");
    }
    end(out);
    if !head_only {
        out.extend_from_slice(body.as_bytes());
        out.push(b'\n');
    }
}

fn phrase(status: u16) -> &'static [u8] {
    match status {
        400 => b"Bad Request",
        404 => b"Not Found",
        405 => b"Method Not Allowed",
        408 => b"Request Timeout",
        413 => b"Content Too Large",
        414 => b"URI Too Long",
        431 => b"Request Header Fields Too Large",
        499 => b"Client Closed Request",
        502 => b"Bad Gateway",
        503 => b"Service Unavailable",
        504 => b"Gateway Timeout",
        505 => b"HTTP Version Not Supported",
        // A phrase may be empty (RFC 9112 section 4).
        _ => b"",
    }
}

/// All codings in one field.
fn codings_field(out: &mut Vec<u8>, name: &[u8], fields: &[Field<'_>]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    for (at, coding) in forwarded_codings(fields).enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(coding);
    }
    end(out);
}

fn length_field(out: &mut Vec<u8>, name: &[u8], framing: Framing) {
    if let Framing::Length(length) = framing {
        decimal_field(out, name, length);
    }
}

pub(super) fn decimal_field(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    push_decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
