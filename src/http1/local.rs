//! TRACE and OPTIONS with `Max-Forwards: 0`, which the proxy answers as their last recipient
//! (RFC 9110 sections 7.6.2, 9.3.7 and 9.3.8).

use super::encode::{ALLOW, decimal_field, end, field};
use crate::http::{FieldName, Method, Request};

/// Appends the whole answer to a request that is for us, and says whether there was one.
///
/// TRACE is echoed without what a script must not learn about its user (RFC 9110 section 9.3.8):
/// credentials and cookies.
pub fn local_answer(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    close: bool,
    date: Option<&[u8]>,
) -> bool {
    if !request.is_for_us() {
        return false;
    }
    match request.method {
        Method::Trace => {
            let mut echo = Vec::new();
            echo_head(&mut echo, request);
            start(out, close, date);
            field(out, b"Content-Type", b"message/http");
            decimal_field(out, b"Content-Length", echo.len() as u64);
            end(out);
            out.extend_from_slice(&echo);
            true
        }
        Method::Options => {
            start(out, close, date);
            field(out, b"Allow", ALLOW);
            field(out, b"Content-Length", b"0");
            end(out);
            true
        }
        Method::Get
        | Method::Head
        | Method::Post
        | Method::Put
        | Method::Delete
        | Method::Patch
        | Method::Connect
        | Method::Other => false,
    }
}

fn start(out: &mut Vec<u8>, close: bool, date: Option<&[u8]>) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    date.into_iter().for_each(|date| field(out, b"Date", date));
    if close {
        field(out, b"Connection", b"close");
    }
}

/// The head as it came, but for absolute-form, which is given as it is sent on: the authority is
/// in `Host`.
fn echo_head(echo: &mut Vec<u8>, request: &Request<'_, '_>) {
    echo.extend_from_slice(request.method_bytes);
    echo.push(b' ');
    request.target.write_to(echo);
    echo.push(b' ');
    echo.extend_from_slice(request.version.as_bytes());
    echo.extend_from_slice(b"\r\n");
    for it in request.fields.iter().filter(|it| !is_sensitive(it.kind)) {
        let is_host = it.kind == FieldName::Host;
        field(echo, it.name, if is_host { request.host } else { it.value });
    }
    end(echo);
}

fn is_sensitive(kind: FieldName) -> bool {
    matches!(kind, FieldName::Authorization | FieldName::ProxyAuthorization | FieldName::Cookie)
}
