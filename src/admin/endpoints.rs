//! POST `/admin/endpoints/<address>`: how an endpoint is treated from now on, whatever the
//! configuration says and until the process ends; reloads do not undo it.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{Context, Request};
use crate::control::EndpointChange;

const WEIGHT_MAX: u32 = 1_000;

/// Which of several services; without it all that have the endpoint.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Where {
    service: Option<String>,
}

/// What is asked for: at least one of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// No new request goes there; those under way end in peace.
    drain: Option<bool>,
    /// The opposite of `drain`.
    ready: Option<bool>,
    weight: Option<u32>,
}

pub(super) async fn set(
    State(context): State<Context>,
    Path(address): Path<String>,
    asked: Result<Query<Where>, QueryRejection>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(rejection) => return bad(&rejection.body_text()),
    };
    let wish = match wish {
        Ok(Json(wish)) => wish,
        Err(rejection) => return bad(&rejection.body_text()),
    };
    let drained = match (wish.drain, wish.ready) {
        (Some(drain), Some(ready)) if drain == ready => {
            return bad("drain and ready contradict each other");
        }
        (drain, ready) => drain.or(ready.map(|ready| !ready)),
    };
    if wish.weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight)) {
        return bad("weight must be from 1 to 1000");
    }
    if drained.is_none() && wish.weight.is_none() {
        return bad("nothing is asked for");
    }
    let change = EndpointChange { address, service: asked.service, drained, weight: wish.weight };
    match context.ask(|done| Request::SetEndpoint(change, done)).await {
        Ok(text) => format!("{text}\n").into_response(),
        Err(text) => (StatusCode::NOT_FOUND, format!("{text}\n")).into_response(),
    }
}

fn bad(why: &str) -> Response {
    let text = format!(
        "{why}\nthe body is JSON with at least one of {{\"drain\": true}}, {{\"ready\": true}} and \
         {{\"weight\": 5}} (1 to {WEIGHT_MAX}); ?service=NAME means that service alone\n"
    );
    (StatusCode::BAD_REQUEST, text).into_response()
}
