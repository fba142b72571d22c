//! `services`: where requests go, and how their endpoints are treated.

use super::errors::Path;
use super::leaves::Check;
use super::raw::{self, List, Named};
use super::{Address, Discovery, Endpoint, Limits, NotAnAddress, Pool, Service, UpstreamTimeouts};
use super::{balancer, discovery, health, resilience};

const WEIGHT: u64 = Endpoint::WEIGHT as u64;
const WEIGHT_MAX: u64 = Endpoint::WEIGHT_MAX as u64;
/// 0: at once.
const SLOW_START_MS: u64 = 0;
const CONNECT_MS: u64 = 1_000;
const ATTEMPT_MS: u64 = 60_000;
/// 0: no limit.
const REQUEST_MS: u64 = 0;
const EXPECT_TIMEOUT_MS: u64 = 1_000;
/// 0: no limit.
const MAX_CONCURRENT: u64 = 0;
const MAX_CONCURRENT_PER_ENDPOINT: u64 = 0;
/// A queue makes everybody late; who wants one says how long.
const MAX_QUEUE: u64 = 0;
const QUEUE_TIMEOUT_MS: u64 = 1_000;
const MAX_IDLE: u64 = 1_024;
/// Below the 60 to 75 s after which most origins close, so that they rarely close first.
const POOL_IDLE_MS: u64 = 30_000;

pub(super) fn services(raw: &Named<raw::Service>, at: &Path, check: &mut Check) -> Vec<Service> {
    if raw.0.is_empty() {
        check.missing(at, "at least one service: a name, and below it its endpoints");
    }
    let service = |(name, raw): &(String, raw::Section<raw::Service>)| {
        let at = at.key(name);
        check.name(&at, name);
        service(name, &raw.0, &at, check)
    };
    raw.0.iter().map(service).collect()
}

fn service(name: &str, raw: &raw::Service, at: &Path, check: &mut Check) -> Service {
    let (endpoints, discovery) = members(raw, at, check);
    Service {
        name: name.to_owned(),
        endpoints,
        discovery,
        balancer: balancer::balancer(&raw.balancer.0, &at.key("balancer"), check),
        slow_start: check.millis_or_none(
            &at.key("slow_start_ms"),
            &raw.slow_start_ms,
            SLOW_START_MS,
        ),
        timeouts: timeouts(&raw.timeouts.0, &at.key("timeouts"), check),
        pool: pool(&raw.pool.0, &at.key("pool"), check),
        failure_accrual: resilience::failure_accrual(
            &raw.failure_accrual.0,
            &at.key("failure_accrual"),
            check,
        ),
        health_check: health::health_check(&raw.health_check.0, &at.key("health_check"), check),
        retries: resilience::retries(&raw.retries.0, &at.key("retries"), check),
        limits: limits(&raw.limits.0, &at.key("limits"), check),
    }
}

/// The endpoints, or who says what they are.
fn members(raw: &raw::Service, at: &Path, check: &mut Check) -> (Vec<Endpoint>, Option<Discovery>) {
    const ONE: &str = "exactly one of endpoints and discovery";
    let (endpoints_at, discovery_at) = (at.key("endpoints"), at.key("discovery"));
    match (&raw.endpoints, &raw.discovery) {
        (Some(_), None) => (endpoints(&raw.endpoints, &endpoints_at, check), None),
        (None, Some(raw)) => (Vec::new(), discovery::discovery(&raw.0, &discovery_at, check)),
        (Some(_), Some(source)) => {
            let both = "beside endpoints: the service would have two sources".to_owned();
            check.report.value(&discovery_at, both, ONE);
            let source = discovery::discovery(&source.0, &discovery_at, check);
            (endpoints(&raw.endpoints, &endpoints_at, check), source)
        }
        (None, None) => {
            // One that was no list, or no mapping, has been reported and taken out.
            let mut taken = [&endpoints_at, &discovery_at].into_iter();
            if !taken.any(|at| check.report.is_broken(at)) {
                let neither = "neither endpoints nor discovery is there".to_owned();
                check.report.value(at, neither, ONE);
            }
            (Vec::new(), None)
        }
    }
}

fn endpoints(raw: &List<raw::Endpoint>, at: &Path, check: &mut Check) -> Vec<Endpoint> {
    let raw = raw.as_deref().unwrap_or_default();
    if raw.is_empty() {
        check.missing(at, "a list of at least one address");
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (i, raw) in raw.iter().enumerate() {
        let (raw, at) = (&raw.0, at.index(i));
        let weight_at = at.key("weight");
        let weight = check.number(&weight_at, &raw.weight, WEIGHT, 1..=WEIGHT_MAX) as u32;
        let Some(address) = address(raw, &at, check) else {
            continue;
        };
        if endpoints.iter().any(|other| other.address == address) {
            let wrong = format!("duplicate endpoint ({address})");
            check.report.value(&at, wrong, "each address once (a weight makes it count for more)");
            continue;
        }
        endpoints.push(Endpoint { address, weight });
    }
    endpoints
}

fn address(raw: &raw::Endpoint, at: &Path, check: &mut Check) -> Option<Address> {
    let key = at.key("address");
    if raw.address.is_none() {
        check.missing(&key, NotAnAddress);
    }
    let text = check.text(&key, &raw.address, NotAnAddress)?;
    let address = text.parse().ok();
    if address.is_none() {
        check.report.value(&key, format!("bad address ({text:?})"), NotAnAddress);
    }
    address
}

fn limits(raw: &raw::Limits, at: &Path, check: &mut Check) -> Limits {
    let mut number = |name: &str, leaf, default| {
        check.number(&at.key(name), leaf, default, 0..=10_000_000) as u32
    };
    let max_concurrent = number("max_concurrent", &raw.max_concurrent, MAX_CONCURRENT);
    let max_concurrent_per_endpoint = number(
        "max_concurrent_per_endpoint",
        &raw.max_concurrent_per_endpoint,
        MAX_CONCURRENT_PER_ENDPOINT,
    );
    let max_queue = number("max_queue", &raw.max_queue, MAX_QUEUE);
    Limits {
        max_concurrent: (max_concurrent > 0).then_some(max_concurrent),
        max_concurrent_per_endpoint: (max_concurrent_per_endpoint > 0)
            .then_some(max_concurrent_per_endpoint),
        max_queue,
        queue_timeout: check.millis(
            &at.key("queue_timeout_ms"),
            &raw.queue_timeout_ms,
            QUEUE_TIMEOUT_MS,
        ),
    }
}

fn timeouts(raw: &raw::ServiceTimeouts, at: &Path, check: &mut Check) -> UpstreamTimeouts {
    let key = |name| at.key(name);
    UpstreamTimeouts {
        connect: check.millis(&key("connect_ms"), &raw.connect_ms, CONNECT_MS),
        attempt: check.millis_or_none(&key("attempt_ms"), &raw.attempt_ms, ATTEMPT_MS),
        request: check.millis_or_none(&key("request_ms"), &raw.request_ms, REQUEST_MS),
        expect: check.millis(&key("expect_timeout_ms"), &raw.expect_timeout_ms, EXPECT_TIMEOUT_MS),
    }
}

fn pool(raw: &raw::Pool, at: &Path, check: &mut Check) -> Pool {
    let max_idle = check.number(&at.key("max_idle"), &raw.max_idle, MAX_IDLE, 1..=1_000_000);
    Pool {
        max_idle: max_idle as usize,
        idle: check.millis(&at.key("idle_ms"), &raw.idle_ms, POOL_IDLE_MS),
    }
}
