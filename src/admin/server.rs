//! Admin's connections, and what they may cost: time and bytes for a head and for a body, and how
//! many there are.
//!
//! The control thread merges and exports besides, so nobody may hold it; and an operator must get
//! in whoever else does. So with too many connections the oldest gives way and not the newest,
//! which ends those that do not take their answers, too.
//!
//! A request with a body is the last of its connection, and one that is chunked is refused. So
//! nobody in front of admin can have another opinion than hyper about where a body ends and find a
//! request in it; `strict` does the same for heads.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::strict::Strict;

/// Far more than operators, scrapers and probes have.
const MAX_CONNECTIONS: usize = 256;
/// For a head, from the end of the last exchange on, so that an idle connection is closed as well.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Line and fields; beyond it the answer is 431.
const MAX_HEAD_BYTES: usize = 16 << 10;
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// The longest is a log filter by module.
const MAX_BODY_BYTES: usize = 64 << 10;
/// After an accept that failed for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, app: axum::Router) -> std::io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut tasks = JoinSet::new();
    // The oldest first.
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(%error, "admin cannot accept");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tasks.spawn(connection(socket, app.clone())));
    }
}

async fn connection(socket: TcpStream, app: axum::Router) {
    // Answers leave in one piece or in a few; none waits for an acknowledgement.
    let _ = socket.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Strict::new(socket)), TowerToHyperService::new(app));
    if let Err(error) = served.await {
        tracing::debug!(%error, "an admin connection broke off");
    }
}

/// Ends the connection with a request that has a body, whatever is answered, and with one that
/// somebody in front may have understood differently.
pub(super) async fn last_with_body(request: Request, next: Next) -> Response {
    let fields = request.headers();
    let announces = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let is_last = announces.iter().any(|name| fields.contains_key(name));
    let mut answer = next.run(request).await;
    if is_last || answer.status() == StatusCode::BAD_REQUEST {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Hands a request on with its whole body, which is small and in time, or refuses it.
pub(super) async fn whole(request: Request, next: Next) -> Response {
    let fields = request.headers();
    if fields.contains_key(header::TRANSFER_ENCODING) {
        return refused(StatusCode::LENGTH_REQUIRED, "a body needs Content-Length");
    }
    if !fields.contains_key(header::CONTENT_LENGTH) {
        return next.run(request).await;
    }
    let has_body = !request.body().is_end_stream();
    if has_body && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return refused(StatusCode::BAD_REQUEST, "this method has no body");
    }
    const TOO_MUCH: &str = "the body is over 64 KiB";
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, TOO_MUCH);
    }
    let (parts, body) = request.into_parts();
    let body = match timeout(BODY_WITHIN, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refused(StatusCode::PAYLOAD_TOO_LARGE, TOO_MUCH),
        Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the body took more than 10 s"),
    };
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, format!("refused: {why}\n")).into_response()
}
