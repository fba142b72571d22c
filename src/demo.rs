//! Small HTTP origins inside the process: what `--demo` proxies to, and what tests talk to.
//!
//! All origins of one `serve` share a thread of their own with a current-thread runtime. Bodies of
//! any length are made or read piece by piece, so memory does not grow with them. Nothing here
//! knows of the proxy.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::serve::ListenerExt;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

#[cfg(test)]
mod tests;

/// What the demo's second origin waits before each answer.
const SLOW: Duration = Duration::from_millis(20);
/// Of how many requests in a hundred the demo's third origin fails.
const FAIL_PERCENT: u32 = 2;

/// Connections that may wait to be accepted: a load test through the demo opens thousands at once.
const BACKLOG: i32 = 4_096;

/// What made bodies repeat. Its length is prime, so a piece that is lost, doubled or moved shows.
const PATTERN: &[u8; 61] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXY";
const PATTERNS_IN_PIECE: usize = 1_024;
const PIECE_BYTES: u64 = (PATTERN.len() * PATTERNS_IN_PIECE) as u64;

/// One origin.
#[derive(Debug, Clone)]
struct Origin {
    /// Port 0: one that the kernel picks, see `Running::addresses`.
    address: SocketAddr,
    /// What `/` calls it.
    name: String,
    /// Waited before each answer.
    delay: Duration,
    /// Of how many requests in a hundred the answer is 500; evenly spread, not random.
    fail_percent: u32,
}

/// Origins that run until this is dropped.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// Why origins could not start.
#[derive(Debug)]
pub enum StartError {
    Listen { address: SocketAddr, error: io::Error },
    Thread(io::Error),
}

/// The demo's three: one plain, one slower, one that fails now and then.
pub fn start(addresses: [SocketAddr; 3]) -> Result<Running, StartError> {
    let traits =
        [("plain", Duration::ZERO, 0), ("slow", SLOW, 0), ("flaky", Duration::ZERO, FAIL_PERCENT)];
    let origin = |(address, (name, delay, fail_percent)): (_, (&str, _, _))| Origin {
        address,
        name: name.to_owned(),
        delay,
        fail_percent,
    };
    serve(addresses.into_iter().zip(traits).map(origin).collect())
}

/// Binds all before it serves any.
fn serve(origins: Vec<Origin>) -> Result<Running, StartError> {
    let mut sites = Vec::new();
    let mut addresses = Vec::new();
    for origin in origins {
        let listener = listen(origin.address)
            .map_err(|error| StartError::Listen { address: origin.address, error })?;
        addresses.push(listener.local_addr().map_err(StartError::Thread)?);
        sites.push((listener, origin));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("origins".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                for (listener, origin) in sites {
                    tokio::spawn(site(listener, origin));
                }
                // Nothing is ever sent: it ends when the other end is dropped.
                let _ = stopped.await;
            });
        })
        .map_err(StartError::Thread)?;
    Ok(Running { addresses, stop: Some(stop), thread: Some(thread) })
}

impl Running {
    /// Where the origins listen, in the order in which they were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen { address, error } => {
                write!(f, "cannot listen on {address} for an origin: {error}")
            }
            StartError::Thread(error) => write!(f, "cannot start the origins' thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The commands worth typing next.
pub fn hints(proxy: SocketAddr, admin: Option<SocketAddr>) -> String {
    let mut text = format!(
        "\
Ringlane's demo: a proxy on {proxy}, three origins behind it. Worth typing next:

  # a GET, and again for the other origins
  curl -i http://{proxy}/
  # a download of 1 GiB
  curl -o /dev/null http://{proxy}/bytes/1g
  # a chunked upload of 100 MiB
  head -c 100M /dev/zero | curl -T - http://{proxy}/upload
  # a WebSocket echo
  echo hello | websocat ws://{proxy}/ws
"
    );
    if let Some(admin) = admin {
        text += "  # the operator's side\n";
        text += &format!("  curl http://{admin}/admin/ping\n");
        text += &format!("  curl http://{admin}/admin/server_info\n");
    }
    text + "\nCtrl-C ends it.\n"
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn site(listener: TcpListener, origin: Origin) {
    let name = origin.name.clone();
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, name, "an origin could not take its listener");
            return;
        }
    };
    let listener = listener.tap_io(|socket| {
        // Without it an answer may wait for an acknowledgement. A socket that is already closed
        // refuses, and needs it no more.
        let _ = socket.set_nodelay(true);
    });
    if let Err(error) = axum::serve(listener, router(origin)).await {
        tracing::error!(%error, name, "an origin ended");
    }
}

struct Site {
    origin: Origin,
    requests: AtomicU64,
}

fn router(origin: Origin) -> Router {
    let site = Arc::new(Site { origin, requests: AtomicU64::new(0) });
    Router::new()
        .route("/", get(front))
        .route("/bytes/{count}", get(bytes))
        .route("/chunked/{count}", get(chunked))
        .route("/echo", any(echo))
        .route("/upload", any(upload))
        .route("/ws", get(upgrade))
        .route("/status/{code}", any(status))
        .route("/delay/{ms}", any(delay))
        .route("/headers", any(headers))
        .layer(middleware::from_fn_with_state(site.clone(), temper))
        .with_state(site)
}

/// The origin's own slowness and failures, before any route.
async fn temper(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let number = site.requests.fetch_add(1, Ordering::Relaxed);
    if !site.origin.delay.is_zero() {
        tokio::time::sleep(site.origin.delay).await;
    }
    if fails(number, site.origin.fail_percent) {
        let text = format!("origin {} fails this one\n", site.origin.name);
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    }
    next.run(request).await
}

/// Spreads `percent` failures over each hundred requests.
fn fails(number: u64, percent: u32) -> bool {
    let percent = u64::from(percent.min(100));
    let in_hundred = number % 100;
    (in_hundred + 1) * percent / 100 > in_hundred * percent / 100
}

async fn front(State(site): State<Arc<Site>>) -> String {
    format!("hello from origin {}\n", site.origin.name)
}

async fn bytes(Path(count): Path<String>) -> Response {
    made(&count, true)
}

async fn chunked(Path(count): Path<String>) -> Response {
    made(&count, false)
}

fn made(count: &str, announced: bool) -> Response {
    match byte_count(count) {
        Some(left) => {
            let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
            (kind, Body::new(Made { left, announced })).into_response()
        }
        None => {
            let text = "a number of bytes, such as 100, 64k, 100m or 1g\n";
            (StatusCode::BAD_REQUEST, text).into_response()
        }
    }
}

/// `k`, `m` and `g` stand for powers of 1024.
fn byte_count(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A body of `PATTERN` over and over, made while it is sent.
struct Made {
    left: u64,
    /// With its length in `Content-Length`; chunked otherwise.
    announced: bool,
}

impl HttpBody for Made {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let count = self.left.min(PIECE_BYTES);
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(piece().slice(..count as usize)))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

fn piece() -> &'static Bytes {
    static PIECE: OnceLock<Bytes> = OnceLock::new();
    PIECE.get_or_init(|| PATTERN.repeat(PATTERNS_IN_PIECE).into())
}

/// The body goes back while it arrives, with the length that it came with.
async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let octets = HeaderValue::from_static("application/octet-stream");
    let kind = head.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(octets);
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn upload(request: Request) -> Response {
    let mut body = request.into_body();
    let mut count: u64 = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame {
            Ok(frame) => count += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(error) => {
                let text = format!("the body ended early after {count} bytes: {error}\n");
                return (StatusCode::BAD_REQUEST, text).into_response();
            }
        }
    }
    format!("{count}\n").into_response()
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo_messages)
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let sent = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // The library answers pings and closes by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(status) if (200..600).contains(&code) => {
            let empty = matches!(code, 204 | 205 | 304);
            let text = if empty { String::new() } else { format!("status {code}\n") };
            (status, text).into_response()
        }
        _ => (StatusCode::BAD_REQUEST, "a status from 200 to 599\n").into_response(),
    }
}

async fn delay(Path(ms): Path<u64>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("after {ms} ms\n")
}

/// The head as it arrived here: what the proxy made of it.
async fn headers(request: Request) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}
