//! Who may ask for what: categories, paths, the token, and which site a request comes from.
//!
//! Whoever reaches the port may use it unless a token is configured, hence loopback by default. A
//! browser on the same machine reaches it too, so requests that change something are refused when
//! they come from another site: by their `Origin`, and by a `Host` that is a name (a name can be
//! pointed at 127.0.0.1 by whoever owns it).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::config::Admin;

/// What a request is for; each can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Category {
    /// The dashboard and what it shows.
    Ui,
    /// Whatever changes something.
    Control,
    /// The rest.
    Diagnostics,
}

/// What the dashboard reads.
const UI_PATHS: [&str; 6] = [
    "/",
    "/admin/metrics.json",
    "/admin/clients.json",
    "/admin/shards.json",
    "/admin/requests.json",
    "/admin/config.json",
];

pub(super) async fn guard(
    State(settings): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(&settings, request.method(), request.uri().path(), request.headers()) {
        None => next.run(request).await,
        Some((StatusCode::UNAUTHORIZED, why)) => {
            let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
            (StatusCode::UNAUTHORIZED, challenge, format!("refused: {why}\n")).into_response()
        }
        Some((status, why)) => (status, format!("refused: {why}\n")).into_response(),
    }
}

fn refusal(
    settings: &Admin,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Option<(StatusCode, &'static str)> {
    if settings.deny.iter().any(|pattern| pattern.matches(path)) {
        return Some((StatusCode::FORBIDDEN, "this path is in admin.deny"));
    }
    let category = category(method, path);
    let is_on = match category {
        Category::Ui => settings.ui,
        Category::Control => settings.control,
        Category::Diagnostics => settings.diagnostics,
    };
    if !is_on {
        return Some((StatusCode::FORBIDDEN, "admin.categories has this category off"));
    }
    if let Some(allow) = &settings.allow
        && !allow.iter().any(|pattern| pattern.matches(path))
    {
        return Some((StatusCode::FORBIDDEN, "this path is not in admin.allow"));
    }
    if let Some(token) = &settings.token
        && !bears(headers, token)
    {
        return Some((StatusCode::UNAUTHORIZED, "needs Authorization: Bearer and the token"));
    }
    match own_site(headers) {
        Err(why) if category == Category::Control => Some((StatusCode::FORBIDDEN, why)),
        _ => None,
    }
}

fn category(method: &Method, path: &str) -> Category {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS if UI_PATHS.contains(&path) => Category::Ui,
        Method::GET | Method::HEAD | Method::OPTIONS => Category::Diagnostics,
        _ => Category::Control,
    }
}

/// Compares in a time that does not depend on how much is right.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return false;
    };
    let bytes = field.as_bytes();
    // The scheme is compared without case (RFC 9110 section 11.1).
    let Some((scheme, given)) = bytes.split_at_checked(7) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes()))
}

/// Whether a request can only come from this interface's own pages or from no page at all.
fn own_site(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()),
        _ => None,
    };
    let Some(host) = host.filter(|host| !host.as_str().contains('@')) else {
        return Err("needs one Host");
    };
    if !is_local_name(host.host()) {
        return Err("Host must be an IP address or localhost");
    }
    for origin in headers.get_all(header::ORIGIN) {
        let own = origin.to_str().ok().and_then(|text| text.strip_prefix("http://"));
        if !own.is_some_and(|own| own.eq_ignore_ascii_case(host.as_str())) {
            return Err("Origin is another site");
        }
    }
    Ok(())
}

/// An address needs no name service, and localhost means this machine in every browser. The name
/// that the listener is bound to is an address too.
fn is_local_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    address.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}
