//! The operator's HTTP interface: is it alive, is it ready, what does it do, and end it.
//!
//! Runs as a task of the control thread, apart from every shard. It owns nothing that it reports:
//! the supervisor sets `State`, telemetry merges what the shards count, and what an operator asks
//! for goes back to the supervisor through a callback. An answer to a drain or a shutdown says that
//! it was taken, not that it is done; the others wait. Who may ask is `guard`'s to know.

mod endpoints;
mod guard;
mod logging;
mod server;
mod strict;
mod traces;
mod views;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract;
use axum::http::{StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::oneshot;
use tower_http::compression::CompressionLayer;

pub use self::logging::Logging;

use crate::config::Config;
use crate::control::{Done, EndpointChange, Tracing, TracingChange};
use crate::telemetry::feed::Hub;

#[cfg(test)]
mod tests;

/// What is answered with a hint where nothing is known by the path asked for.
const PATHS: [&str; 22] = [
    "GET /admin/ping",
    "GET /admin/live",
    "GET /admin/ready",
    "GET /admin/server_info",
    "GET /admin/config.json",
    "GET /admin/metrics.json",
    "GET /admin/metrics/prometheus",
    "GET /admin/metrics/influxdb",
    "GET /metrics",
    "GET /admin/clients.json",
    "GET /admin/shards.json",
    "GET /admin/requests.json",
    "GET /admin/route?method=&host=&path=",
    "GET /admin/logging",
    "PUT /admin/logging",
    "GET /admin/tracing",
    "PUT /admin/tracing",
    "POST /admin/endpoints/<address>",
    "POST /admin/reload",
    "POST /admin/drain",
    "POST /admin/shutdown",
    "GET /admin",
];

/// What is said where there would be something with telemetry.
const TELEMETRY_IS_OFF: &str = "telemetry is off\n";

/// How long an order waits before it is passed on, so that its own answer is sent first.
const ANSWER_FIRST: Duration = Duration::from_millis(20);

/// What an operator can ask for.
pub enum Request {
    /// End the process as SIGTERM does.
    Shutdown,
    /// Let connections go, as before an end.
    Drain,
    /// Read the configuration again.
    Reload(Done),
    /// Treat an endpoint otherwise.
    SetEndpoint(EndpointChange, Done),
    /// Record other requests than so far.
    SetTracing(TracingChange, Done),
}

/// Receives requests on the control thread, which it must not hold up.
pub type OnRequest = Box<dyn Fn(Request) + Send + Sync>;

/// What does not change while the process runs.
#[derive(Clone)]
pub struct Info {
    pub version: &'static str,
    pub logging: Logging,
}

/// What a reload changes.
#[derive(Clone)]
pub struct Current {
    pub config: Arc<Config>,
    /// Where the servers came to listen, in the order of the configuration.
    pub listeners: Vec<SocketAddr>,
    /// `None`: `telemetry: off`.
    pub tracing: Option<Tracing>,
}

/// What the interface reports; clones share it.
#[derive(Clone)]
pub struct State(Arc<Facts>);

struct Facts {
    info: Info,
    current: Mutex<Current>,
    started: SystemTime,
    running: Instant,
    ready: AtomicBool,
}

impl State {
    /// Not ready yet.
    pub fn new(info: Info, current: Current) -> Self {
        State(Arc::new(Facts {
            info,
            current: Mutex::new(current),
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

    /// A reload has been taken over.
    pub fn set_current(&self, current: Current) {
        *self.lock() = current;
    }

    /// The operator has set it.
    pub fn set_tracing(&self, tracing: Option<Tracing>) {
        self.lock().tracing = tracing;
    }

    fn tracing(&self) -> Option<Tracing> {
        self.lock().tracing.clone()
    }

    fn config(&self) -> Arc<Config> {
        self.lock().config.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // A panic ends the process.
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the process ends, on a listener that does not block. `routes` are the exporters'.
pub async fn serve(
    listener: TcpListener,
    state: State,
    hub: Option<Hub>,
    routes: axum::Router,
    on_request: OnRequest,
) {
    let app = app(Context { state, hub, on_request: Arc::new(on_request) }, routes);
    let Err(error) = server::serve(listener, app).await;
    tracing::error!(%error, "the admin interface ended");
}

#[derive(Clone)]
struct Context {
    state: State,
    /// `None`: `telemetry: off`.
    hub: Option<Hub>,
    on_request: Arc<OnRequest>,
}

fn app(context: Context, routes: axum::Router) -> axum::Router {
    let settings = context.state.config().admin.clone();
    let is_on = context.hub.is_some();
    let own = axum::Router::new()
        .route("/admin", get(index))
        .route("/admin/ping", get("pong\n"))
        .route("/admin/live", get("ok\n"))
        .route("/admin/ready", get(ready))
        .route("/admin/server_info", get(server_info))
        .route("/admin/config.json", get(views::config))
        .route("/admin/clients.json", get(views::clients))
        .route("/admin/shards.json", get(views::shards))
        .route("/admin/route", get(views::route))
        .route("/admin/logging", get(logging::show).put(logging::change))
        .route("/admin/tracing", get(traces::show).put(traces::change))
        .route("/admin/endpoints/{*address}", post(endpoints::set))
        .route("/admin/reload", post(reload))
        .route("/admin/drain", post(drain))
        .route("/admin/shutdown", post(shutdown))
        .with_state(context);
    let all =
        own.merge(routes).fallback(move |uri| unknown(uri, is_on)).layer(CompressionLayer::new());
    let all = all.layer(middleware::from_fn(server::whole));
    // The last layer is the first to see a request: who is refused is so before a body is waited
    // for.
    let guarded = match settings {
        Some(settings) => {
            all.layer(middleware::from_fn_with_state(Arc::new(settings), guard::guard))
        }
        None => all,
    };
    guarded.layer(middleware::from_fn(server::last_with_body))
}

async fn index() -> String {
    format!("{}\n", PATHS.join("\n"))
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
    let Current { config, listeners, .. } = context.state.lock().clone();
    let shards = &config.runtime.shards;
    let cores: Vec<usize> = shards.iter().map(|shard| shard.core).collect();
    let since_epoch = facts.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    Json(json!({
        "version": facts.info.version,
        "pid": std::process::id(),
        "started": rfc3339(since_epoch.as_secs()),
        "uptime_ms": facts.running.elapsed().as_millis() as u64,
        "ready": context.state.is_ready(),
        "cores": cores,
        "listeners": listeners,
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

/// Answers once every shard goes by what was read, or says what is wrong with it.
async fn reload(extract::State(context): extract::State<Context>) -> Response {
    match context.ask(Request::Reload).await {
        Ok(text) => format!("{text}\n").into_response(),
        Err(text) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{text}\n")).into_response(),
    }
}

impl Context {
    /// Passes an order on, and waits for what comes of it.
    async fn ask(&self, order: impl FnOnce(Done) -> Request) -> Result<String, String> {
        let (sender, answer) = oneshot::channel();
        // Who asked may have gone.
        (self.on_request)(order(Box::new(move |done| drop(sender.send(done)))));
        answer.await.unwrap_or_else(|_| Err("the process is ending".to_owned()))
    }

    fn order(self, request: Request) {
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_FIRST).await;
            (self.on_request)(request);
        });
    }
}

/// A path of the list comes here where nobody answers it: those of the exporters, with telemetry
/// off.
async fn unknown(uri: Uri, is_on: bool) -> Response {
    let path = uri.path();
    let is_listed = PATHS.iter().any(|known| known.strip_prefix("GET ") == Some(path));
    let text = match (is_listed, is_on) {
        (true, false) => TELEMETRY_IS_OFF.to_owned(),
        (true, true) => format!("telemetry.exporters has none that answers {path}\n"),
        (false, _) => format!("nothing at {path}; there is:\n{}\n", PATHS.join("\n")),
    };
    (StatusCode::NOT_FOUND, text).into_response()
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
