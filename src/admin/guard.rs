//! Who may ask for what: categories, paths, the token, and which site a request comes from.
//!
//! Whoever reaches the port may use it unless a token is configured, hence loopback by default. A
//! browser on the same machine reaches it too, and runs pages of anybody:
//!
//! - A page can ask by a name that its owner has pointed at 127.0.0.1 meanwhile (DNS rebinding),
//!   and then counts as of the same origin and may read the answer. Hence `Host` must be an
//!   address, localhost or one of `admin.hosts`, for reading too. Whoever brings the token may read
//!   by any name: a page does not know it.
//! - A page of another origin can send what changes something, though not read the answer. Hence
//!   that is refused when its `Origin` is not ours, and, whatever else it says, when its
//!   `Sec-Fetch-Site` (W3C Fetch Metadata), which no page can set, is neither `same-origin` nor
//!   `none` (the user's own doing).
//!
//! `Host` must be one, and the target's authority, where it has one, the same: else whoever stands
//! in front could have judged by the other one.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
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
    match refusal(&settings, &request) {
        None => next.run(request).await,
        Some((StatusCode::UNAUTHORIZED, why)) => {
            let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
            (StatusCode::UNAUTHORIZED, challenge, format!("refused: {why}\n")).into_response()
        }
        Some((status, why)) => (status, format!("refused: {why}\n")).into_response(),
    }
}

fn refusal(settings: &Admin, request: &Request) -> Option<(StatusCode, &'static str)> {
    let (path, headers) = (request.uri().path(), request.headers());
    let host = match host(request.uri(), headers) {
        Ok(host) => host,
        Err(why) => return Some((StatusCode::BAD_REQUEST, why)),
    };
    // No browser speaks HTTP/1.0; the probes of old load balancers do.
    if host.is_none() && request.version() != Version::HTTP_10 {
        return Some((StatusCode::BAD_REQUEST, "needs one Host"));
    }
    if settings.deny.iter().any(|pattern| pattern.matches(path)) {
        return Some((StatusCode::FORBIDDEN, "this path is in admin.deny"));
    }
    let category = category(request.method(), path);
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
    let is_control = category == Category::Control;
    let Some(host) = host else {
        return is_control.then_some((StatusCode::FORBIDDEN, "needs one Host"));
    };
    if !is_ours(host.host(), &settings.hosts) && (is_control || settings.token.is_none()) {
        let why = "Host must be an IP address, localhost, or one of admin.hosts";
        return Some((StatusCode::FORBIDDEN, why));
    }
    if is_control && !is_own_origin(&host, headers) {
        return Some((StatusCode::FORBIDDEN, "Origin is another site"));
    }
    if is_control && !is_fetched_from_here(headers) {
        return Some((StatusCode::FORBIDDEN, "Sec-Fetch-Site is another site"));
    }
    None
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

/// What the request is for by its one `Host`, if it has one; or what is wrong with that.
fn host(target: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, &'static str> {
    let mut fields = headers.get_all(header::HOST).iter();
    let host = match (fields.next(), fields.next()) {
        (None, _) => None,
        (Some(host), None) => {
            let host = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
            Some(host.filter(|it| !it.as_str().contains('@')).ok_or("Host is none")?)
        }
        (Some(_), Some(_)) => return Err("needs one Host"),
    };
    match (target.authority(), &host) {
        (Some(named), Some(host)) if named != host => Err("Host is not what the target names"),
        (Some(_), None) => Err("needs one Host"),
        _ => Ok(host),
    }
}

/// An address needs no name service, and localhost means this machine in every browser. Others are
/// the operator's to know.
fn is_ours(host: &str, names: &[String]) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host);
    address.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether it comes from this interface's own pages or from no page at all.
fn is_own_origin(host: &Authority, headers: &HeaderMap) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let own = origin.to_str().ok().and_then(|text| text.strip_prefix("http://"));
        own.is_some_and(|own| own.eq_ignore_ascii_case(host.as_str()))
    })
}

/// Whether no browser says that a page of another origin asks. What is no browser says nothing.
fn is_fetched_from_here(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
}
