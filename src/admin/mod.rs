//! The operator's HTTP interface: is it alive, is it ready, what is it, and end it.
//!
//! Runs on a thread of its own, `control`, apart from every shard. It owns nothing that it
//! reports: the supervisor sets `State`, and what an operator asks for goes back to it through a
//! callback. An answer to such a request says that it was taken, not that it is done.
//!
//! Whoever reaches the port may use it, hence loopback by default. A browser on the same machine
//! reaches it too, so requests that change something are refused when they come from another site:
//! by their `Origin`, and by a `Host` that is a name (a name can be pointed at 127.0.0.1 by whoever
//! owns it).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

#[cfg(test)]
mod tests;

/// What is answered with a hint where nothing is known by the path asked for.
const PATHS: [&str; 6] = [
    "GET /admin/ping",
    "GET /admin/live",
    "GET /admin/ready",
    "GET /admin/server_info",
    "POST /admin/drain",
    "POST /admin/shutdown",
];

/// How long an order waits before it is passed on, so that its own answer is sent first.
const ANSWER_FIRST: Duration = Duration::from_millis(20);

/// What an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// End the process as SIGTERM does.
    Shutdown,
    /// Let connections go, as before an end.
    Drain,
}

/// Receives requests on the control thread, which it must not hold up.
pub type OnRequest = Box<dyn Fn(Request) + Send + Sync>;

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub struct Info {
    pub version: &'static str,
    /// One per shard.
    pub cores: Vec<usize>,
    pub listeners: Vec<SocketAddr>,
}

/// What the interface reports; clones share it.
#[derive(Debug, Clone)]
pub struct State(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    info: Info,
    started: SystemTime,
    running: Instant,
    ready: AtomicBool,
}

impl State {
    /// Not ready yet.
    pub fn new(info: Info) -> Self {
        State(Arc::new(Facts {
            info,
            started: SystemTime::now(),
            running: Instant::now(),
            ready: AtomicBool::new(false),
        }))
    }

    /// True once the first configuration is applied, false again from the beginning of a drain.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }
}

/// The interface, once it has a listener.
#[derive(Debug)]
pub struct Admin;

impl Admin {
    /// Serves on a thread that ends with the process.
    pub fn start(
        listener: TcpListener,
        state: State,
        on_request: OnRequest,
    ) -> io::Result<JoinHandle<()>> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, app(state, on_request)).await
            });
            if let Err(error) = served {
                tracing::error!(%error, "the admin interface ended");
            }
        })
    }
}

#[derive(Clone)]
struct Context {
    state: State,
    on_request: Arc<OnRequest>,
}

fn app(state: State, on_request: OnRequest) -> axum::Router {
    axum::Router::new()
        .route("/admin/ping", get("pong\n"))
        .route("/admin/live", get("ok\n"))
        .route("/admin/ready", get(ready))
        .route("/admin/server_info", get(server_info))
        .route("/admin/drain", post(drain))
        .route("/admin/shutdown", post(shutdown))
        .fallback(unknown)
        .layer(middleware::from_fn(refuse_other_sites))
        .with_state(Context { state, on_request: Arc::new(on_request) })
}

async fn ready(extract::State(context): extract::State<Context>) -> Response {
    if context.state.is_ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn server_info(extract::State(context): extract::State<Context>) -> Json<serde_json::Value> {
    let facts = &context.state.0;
    let since_epoch = facts.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    Json(json!({
        "version": facts.info.version,
        "pid": std::process::id(),
        "started": rfc3339(since_epoch.as_secs()),
        "uptime_ms": facts.running.elapsed().as_millis() as u64,
        "ready": context.state.is_ready(),
        "cores": facts.info.cores,
        "listeners": facts.info.listeners,
    }))
}

async fn drain(extract::State(context): extract::State<Context>) -> &'static str {
    context.order(Request::Drain);
    "draining\n"
}

async fn shutdown(extract::State(context): extract::State<Context>) -> &'static str {
    context.order(Request::Shutdown);
    "shutting down\n"
}

impl Context {
    fn order(self, request: Request) {
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_FIRST).await;
            (self.on_request)(request);
        });
    }
}

async fn unknown(uri: Uri) -> Response {
    let text = format!("nothing at {}; there is:\n{}\n", uri.path(), PATHS.join("\n"));
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn refuse_other_sites(request: extract::Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    match own_site(request.headers()) {
        Err(why) if !reads => (StatusCode::FORBIDDEN, format!("refused: {why}\n")).into_response(),
        _ => next.run(request).await,
    }
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

/// UTC, from seconds since 1970. The days are Howard Hinnant's `civil_from_days`, for years
/// after 1970.
fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
