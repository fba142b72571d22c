//! GET and PUT `/admin/tracing`: which requests are recorded as spans, read and changed at run
//! time. What is changed holds until the process ends; reloads do not undo it.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Context, Request};
use crate::control::{Tracing, TracingChange};

const ALLOWED: &str = "the body is JSON with at least one of {\"enabled\": true}, \
    {\"sample_rate\": 0.01} (0 to 1), {\"max_spans_per_sec\": 10000} (0: no limit), \
    {\"keep_failed\": true}, {\"keep_retried\": true} and {\"keep_slower_than_ms\": 500} (0: none; \
    up to a week)";
const MOST_SPANS_PER_SEC: u32 = 10_000_000;
const WEEK_MS: u64 = 7 * 24 * 3_600_000;

/// What is to be otherwise than it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    enabled: Option<bool>,
    sample_rate: Option<f64>,
    max_spans_per_sec: Option<u32>,
    keep_failed: Option<bool>,
    keep_retried: Option<bool>,
    keep_slower_than_ms: Option<u64>,
}

pub(super) async fn show(State(context): State<Context>) -> Response {
    match context.state.tracing() {
        Some(tracing) => shown(&tracing),
        None => (StatusCode::NOT_FOUND, super::TELEMETRY_IS_OFF).into_response(),
    }
}

pub(super) async fn change(
    State(context): State<Context>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Response {
    let change = match wish.map_err(|rejection| rejection.body_text()).and_then(of_wish) {
        Ok(change) => change,
        Err(why) => {
            return (StatusCode::BAD_REQUEST, format!("{why}\n{ALLOWED}\n")).into_response();
        }
    };
    match context.ask(|done| Request::SetTracing(change, done)).await {
        Ok(_) => show(State(context)).await,
        Err(why) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
    }
}

fn of_wish(Json(wish): Json<Wish>) -> Result<TracingChange, String> {
    let change = TracingChange {
        enabled: wish.enabled,
        sample_rate: wish.sample_rate,
        max_spans_per_sec: wish.max_spans_per_sec,
        keep_failed: wish.keep_failed,
        keep_retried: wish.keep_retried,
        keep_slower_than_ms: wish.keep_slower_than_ms,
    };
    if change == TracingChange::default() {
        return Err("nothing is asked for".to_owned());
    }
    if let Some(rate) = wish.sample_rate.filter(|rate| !(0.0..=1.0).contains(rate)) {
        return Err(format!("sample_rate: {rate} is not from 0 to 1"));
    }
    if let Some(spans) = wish.max_spans_per_sec.filter(|spans| *spans > MOST_SPANS_PER_SEC) {
        return Err(format!("max_spans_per_sec: {spans} is over {MOST_SPANS_PER_SEC}"));
    }
    if let Some(millis) = wish.keep_slower_than_ms.filter(|millis| *millis > WEEK_MS) {
        return Err(format!("keep_slower_than_ms: {millis} is over {WEEK_MS}, a week"));
    }
    Ok(change)
}

fn shown(tracing: &Tracing) -> Response {
    let settings = &tracing.settings;
    let keep_slower_than = settings.keep_slower_than.unwrap_or_default();
    Json(json!({
        "enabled": tracing.enabled,
        "sample_rate": settings.sample_rate,
        "max_spans_per_sec": settings.max_spans_per_sec.unwrap_or(0),
        "keep_failed": settings.keep_failed,
        "keep_retried": settings.keep_retried,
        "keep_slower_than_ms": keep_slower_than.as_millis() as u64,
        "propagate": settings.propagate.iter().map(|form| form.name()).collect::<Vec<_>>(),
    }))
    .into_response()
}
