//! What the interface shows of the configuration and of the merged state.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use crate::config::{Config, Router};
use crate::policy::{Route, RouteTable};
use crate::telemetry::record::EndpointState;
use crate::telemetry::state::{self, NodeStats, ServiceStats, ShardStats};

/// The configuration as it was understood: every key, with secrets hidden.
pub(super) async fn config(State(context): State<Context>) -> Response {
    let shown = context.state.config().to_value();
    Json(serde_json::to_value(shown).unwrap_or(Value::Null)).into_response()
}

/// Every service's endpoints as the balancers see them.
pub(super) async fn clients(State(context): State<Context>) -> Response {
    context.read(|state| {
        let configured = state.services.iter().filter(|it| it.gone_since.is_none());
        Json(configured.map(client).collect::<Value>()).into_response()
    })
}

fn client(service: &ServiceStats) -> Value {
    let gauges = service.gauges;
    json!({
        "service": service.name,
        "balancer": {
            "kind": service.algorithm,
            "size": gauges.size,
            "available": gauges.available,
            "load": gauges.load,
        },
        "pool": {
            "size": gauges.pool_size,
            "idle": gauges.pool_cached,
            "waiters": gauges.pool_waiters,
        },
        "endpoints": service.nodes.iter().map(endpoint).collect::<Value>(),
    })
}

fn endpoint(node: &NodeStats) -> Value {
    let ewma_ms = (node.ewma_us > 0).then_some(node.ewma_us as f64 / 1e3);
    json!({
        "address": node.address,
        "state": word(node.state),
        "load": node.load,
        "ewma_ms": ewma_ms,
    })
}

fn word(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Available => "available",
        EndpointState::Ejected => "ejected",
        EndpointState::Probing => "probing",
        EndpointState::Unhealthy => "unhealthy",
        EndpointState::Draining => "draining",
    }
}

/// The driver's figures of every shard.
pub(super) async fn shards(State(context): State<Context>) -> Response {
    context.read(|state| {
        Json(state.shards.iter().enumerate().map(shard).collect::<Value>()).into_response()
    })
}

fn shard((number, shard): (usize, &ShardStats)) -> Value {
    let figures = &shard.figures;
    json!({
        "shard": number,
        "core": shard.core,
        "connections": figures.connections,
        "busy_ratio": figures.busy_ratio,
        "turns": figures.turns,
        "enters": figures.enters,
        "sqes": figures.sqes,
        "cqes": figures.cqes,
        "slots": figures.slots,
        "buffers_in_use": figures.buffers_in_use,
        "buffers_exhausted": figures.buffers_exhausted,
        "buffered_bytes": figures.leased_bytes,
        "longest_poll_us": figures.longest_poll_us,
        "late_us": figures.late_us,
    })
}

/// A request that somebody wonders about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Of no influence today; taken so that one can ask as one would request.
    #[serde(default = "get")]
    method: String,
    #[serde(default)]
    host: String,
    path: String,
    /// A router's label; without it all are asked.
    router: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

/// Where a request would go, and why.
pub(super) async fn route(
    State(context): State<Context>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) if asked.path.starts_with('/') || asked.path == "*" => asked,
        Ok(_) => return bad_question("path must begin with a slash".to_owned()),
        Err(rejection) => return bad_question(rejection.body_text()),
    };
    let config = &*context.state.config();
    let is_asked = |router: &&Router| asked.router.as_ref().is_none_or(|it| *it == router.label);
    let answers: Vec<Value> =
        config.routers.iter().filter(is_asked).map(|it| decide(config, it, &asked)).collect();
    if answers.is_empty() {
        let labels: Vec<&str> = config.routers.iter().map(|it| it.label.as_str()).collect();
        return bad_question(format!("there is no such router, but {}", labels.join(", ")));
    }
    Json(answers).into_response()
}

fn bad_question(why: String) -> Response {
    let example = "/admin/route?method=GET&host=api.example.com&path=/v1/users";
    (StatusCode::BAD_REQUEST, Json(json!({"error": why, "example": example}))).into_response()
}

/// The table that the shards use, but for what a rule leads to: here, to its own number.
fn decide(config: &Config, router: &Router, asked: &Asked) -> Value {
    let rules = router.routes.iter().enumerate().map(|(number, route)| Route {
        host: route.host.clone(),
        path_prefix: route.path_prefix.clone(),
        service: number,
    });
    let table = RouteTable::new(rules.collect());
    let found = table.find(asked.host.as_bytes(), asked.path.as_bytes());
    let answer = |service: Option<&str>, rule: Value, why: String| {
        json!({
            "router": router.label,
            "method": asked.method,
            "service": service,
            "rule": rule,
            "why": why,
        })
    };
    let number = match found {
        Ok(Some(number)) => number,
        Ok(None) => {
            let why = format!("none of {} rules matches: 404 no_route", router.routes.len());
            return answer(None, Value::Null, why);
        }
        Err(_) => {
            let why = "the path climbs above the root: 400 bad_request".to_owned();
            return answer(None, Value::Null, why);
        }
    };
    let rule = &router.routes[number];
    let host = rule.host.as_ref().map_or("any host".to_owned(), |host| format!("host {host}"));
    let path = rule.path_prefix.as_ref();
    let path = path.map_or("any path".to_owned(), |path| format!("paths below {path}"));
    answer(
        Some(&config.services[rule.service].name),
        json!({"number": number, "host": rule.host, "path_prefix": rule.path_prefix}),
        format!("the first that matches: routes[{number}] takes {host} and {path}"),
    )
}

impl Context {
    /// Looks at the merged state; without telemetry there is none.
    fn read(&self, look: impl FnOnce(&state::State) -> Response) -> Response {
        match &self.hub {
            Some(hub) => hub.read(look),
            None => (StatusCode::NOT_FOUND, super::TELEMETRY_IS_OFF).into_response(),
        }
    }
}
