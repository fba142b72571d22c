//! `/admin/requests.json`: the latest requests, whether their spans were recorded or not.
//!
//! Every shard keeps its latest ones and hands them over with each flush, so the list is as old as
//! a flush. The filters look at what is kept: the last so many requests, and not the last so many
//! of those that are looked for.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::{Exporter, Kind};
use crate::config::{ExporterKey, ExporterSettings, ExporterSpec, Shape};
use crate::telemetry::feed::Feed;
use crate::telemetry::layout::{Layout, TargetName};
use crate::telemetry::record::Cause;
use crate::telemetry::spans::Recents;
use crate::telemetry::trace::Recent;

const ALLOWED: &str = "service=NAME, status=CODE or a class such as 5xx, slower_than_ms=NUMBER, \
                       limit=NUMBER";

pub const KIND: Kind = Kind {
    spec: &ExporterSpec {
        kind: "recent_requests",
        keys: &[ExporterKey {
            name: "capacity",
            shape: Shape::Number { default: 100, least: 1, most: 10_000 },
        }],
        by_default: false,
    },
    make,
};

fn make(settings: &ExporterSettings) -> Result<Box<dyn Exporter>, String> {
    Ok(Box::new(RecentRequests { capacity: settings.number("capacity") as usize }))
}

struct RecentRequests {
    capacity: usize,
}

impl Exporter for RecentRequests {
    fn routes(&self, feed: &Feed) -> Router {
        feed.keep_recents(self.capacity);
        let (feed, capacity) = (feed.clone(), self.capacity);
        let answer = async move |asked: Result<Query<Vec<(String, String)>>, QueryRejection>| {
            answer(asked, &feed, capacity)
        };
        Router::new().route("/admin/requests.json", get(answer))
    }
}

fn answer(
    asked: Result<Query<Vec<(String, String)>>, QueryRejection>,
    feed: &Feed,
    capacity: usize,
) -> Response {
    let asked = asked.map_err(|rejection| rejection.body_text());
    match asked.and_then(|Query(pairs)| Filter::parse(&pairs)) {
        Ok(filter) => Json(list(&feed.recents(), &filter, capacity)).into_response(),
        Err(why) => {
            (StatusCode::BAD_REQUEST, format!("{why}\nallowed: {ALLOWED}\n")).into_response()
        }
    }
}

/// What is looked for.
#[derive(Debug, Default, PartialEq)]
struct Filter {
    service: Option<String>,
    status: Option<Status>,
    slower_than: Option<Duration>,
    limit: Option<usize>,
}

#[derive(Debug, PartialEq)]
enum Status {
    Code(u16),
    /// By the first digit.
    Class(u16),
}

impl Filter {
    fn parse(pairs: &[(String, String)]) -> Result<Filter, String> {
        let mut filter = Filter::default();
        for (key, value) in pairs {
            let wrong = || format!("{key}: {value:?} cannot be read");
            match key.as_str() {
                "service" => filter.service = Some(value.clone()),
                "status" => filter.status = Some(Status::parse(value).ok_or_else(wrong)?),
                "slower_than_ms" => {
                    let millis: f64 = value.parse().map_err(|_| wrong())?;
                    let time = Duration::try_from_secs_f64(millis / 1e3).map_err(|_| wrong())?;
                    filter.slower_than = Some(time);
                }
                "limit" => filter.limit = Some(value.parse().map_err(|_| wrong())?),
                _ => return Err(format!("{key:?} is not known")),
            }
        }
        Ok(filter)
    }

    fn takes(&self, request: &Recent, target: Option<&TargetName>) -> bool {
        let service = target.map(|target| target.service.as_str());
        self.service.as_ref().is_none_or(|wanted| service == Some(wanted))
            && self.status.as_ref().is_none_or(|wanted| wanted.is(request.status))
            && self.slower_than.is_none_or(|least| request.took > least)
    }
}

impl Status {
    /// `503`, or `5xx`.
    fn parse(text: &str) -> Option<Status> {
        let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
        match class {
            Some(digit) => digit.parse().ok().filter(|it| (1..=9).contains(it)).map(Status::Class),
            None => text.parse().ok().filter(|it| (100..=999).contains(it)).map(Status::Code),
        }
    }

    fn is(&self, status: u16) -> bool {
        match *self {
            Status::Code(code) => code == status,
            Status::Class(digit) => digit == status / 100,
        }
    }
}

/// The latest first; of those kept, `capacity` are looked at.
fn list(kept: &[Arc<Recents>], filter: &Filter, capacity: usize) -> Value {
    let mut all: Vec<(Duration, &Recents, &Recent)> = Vec::new();
    for recents in kept {
        let ended = |it: &Recent| recents.epoch + it.began + it.took;
        all.extend(recents.requests.iter().map(|it| (ended(it), &**recents, it)));
    }
    all.sort_unstable_by_key(|(ended, ..)| std::cmp::Reverse(*ended));
    let latest = all.into_iter().take(capacity);
    let found =
        latest.filter(|(_, of, request)| filter.takes(request, target(&of.layout, request)));
    let limit = filter.limit.unwrap_or(usize::MAX);
    found.take(limit).map(|(_, of, request)| row(request, of)).collect()
}

fn target<'a>(layout: &'a Layout, request: &Recent) -> Option<&'a TargetName> {
    layout.target(request.target?)
}

fn row(request: &Recent, of: &Recents) -> Value {
    let layout = &*of.layout;
    let target = target(layout, request);
    let server = layout.server(request.server);
    let endpoint = request.endpoint.and_then(|id| layout.endpoint(id));
    let trace_id = request.trace.to_string();
    let request_id = match request.request_id.is_empty() {
        true => trace_id.as_str(),
        false => request.request_id.as_str(),
    };
    json!({
        "began_us": (of.epoch + request.began).as_micros() as u64,
        "router": target.map(|it| &it.router).or(server.map(|it| &it.router)),
        "server": server.map(|it| it.address.to_string()),
        "client": request.peer.ip.map(|ip| ip.to_canonical().to_string()),
        "service": target.map(|it| &it.service),
        "endpoint": endpoint.map(|it| &it.address),
        "method": request.method.as_str(),
        "path": request.path.as_str(),
        "status": request.status,
        "failure": request.failure.map(|cause| Cause::label(cause.index())),
        "latency_ms": request.took.as_micros() as f64 / 1e3,
        "attempts": request.attempts,
        "retries": request.retries,
        "request_bytes": request.request_bytes,
        "response_bytes": request.response_bytes,
        "request_id": request_id,
        "trace_id": trace_id,
        "recorded": request.is_recorded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &str) -> Result<Filter, String> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(key, value)| (key.into(), value.into())).collect();
        Filter::parse(&pairs)
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused_by_name() {
        let all = filter("service=web&status=5xx&slower_than_ms=1.5&limit=3").expect("valid");
        assert_eq!(all.status, Some(Status::Class(5)));
        assert_eq!(all.slower_than, Some(Duration::from_micros(1_500)));
        assert_eq!((all.service.as_deref(), all.limit), (Some("web"), Some(3)));
        assert_eq!(filter("status=404").map(|it| it.status), Ok(Some(Status::Code(404))));
        for (query, named) in [
            ("status=xx", "status"),
            ("status=5x", "status"),
            ("status=99", "status"),
            ("slower_than_ms=-1", "slower_than_ms"),
            ("slower_than_ms=soon", "slower_than_ms"),
            ("limit=-1", "limit"),
            ("sevice=web", "\"sevice\""),
        ] {
            let why = filter(query).expect_err(query);
            assert!(why.starts_with(named), "{query}: {why}");
        }
    }
}
