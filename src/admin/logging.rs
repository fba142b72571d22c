//! The log's filter, read and changed at run time.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Context;

/// What the program's start makes of the log; the interface knows no logger.
#[derive(Clone)]
pub struct Logging {
    pub read: Arc<dyn Fn() -> String + Send + Sync>,
    /// Takes a filter such as `info,ringlane::shard=debug`, or says what is wrong with it.
    pub change: Arc<Change>,
}

type Change = dyn Fn(&str) -> Result<(), String> + Send + Sync;

impl Logging {
    /// A log that always has the same filter.
    pub fn fixed(filter: &'static str) -> Logging {
        Logging {
            read: Arc::new(move || filter.to_owned()),
            change: Arc::new(|_| Err("this log cannot be changed".to_owned())),
        }
    }
}

pub(super) async fn show(State(context): State<Context>) -> String {
    let logging = &context.state.0.info.logging;
    format!("{}\n", (logging.read)())
}

pub(super) async fn change(State(context): State<Context>, filter: String) -> Response {
    let logging = &context.state.0.info.logging;
    match (logging.change)(filter.trim()) {
        Ok(()) => {
            let now = (logging.read)();
            tracing::info!(filter = now, "the log has another filter");
            format!("{now}\n").into_response()
        }
        Err(why) => {
            let allowed = "a level (error, warn, info, debug, trace, off), or levels by module \
                           such as info,ringlane::shard=debug";
            let text = format!("no filter: {why}; allowed: {allowed}\n");
            (StatusCode::BAD_REQUEST, text).into_response()
        }
    }
}
