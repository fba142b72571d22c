//! A configuration as it was understood, in the form in which it is written: what this shows can be
//! read again and is the same, but for secrets where they are hidden.

use std::fmt::Display;
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use super::secrets::{HIDDEN, Secrets, without_query, without_secrets};
use super::{
    Accrual, Admin, Asking, Backoff, Balancer, Classifier, Config, Discovery, FailureAccrual,
    HealthCheck, Mode, Probe, Retries, Router, Runtime, Service, ShardSettings, Telemetry, Tracing,
    cores,
};

impl Config {
    /// Every key, with secrets hidden.
    pub fn to_value(&self) -> Value {
        self.shown(Secrets::Hidden)
    }

    pub(super) fn shown(&self, secrets: Secrets) -> Value {
        let services = self.services.iter().map(|it| (it.name.as_str(), service(it, secrets)));
        map([
            ("runtime", runtime(&self.runtime)),
            ("admin", self.admin.as_ref().map_or("off".into(), |it| admin(it, secrets))),
            (
                "telemetry",
                self.telemetry.as_ref().map_or("off".into(), |it| telemetry(it, secrets)),
            ),
            ("routers", self.routers.iter().map(|it| router(it, &self.services)).collect()),
            ("services", map(services)),
        ])
    }
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::Mapping(entries.into_iter().map(|(key, value)| (key.into(), value)).collect::<Mapping>())
}

fn text(value: impl Display) -> Value {
    value.to_string().into()
}

fn millis(time: Duration) -> Value {
    (time.as_millis() as u64).into()
}

/// `None` is written as 0.
fn millis_or_zero(time: Option<Duration>) -> Value {
    millis(time.unwrap_or_default())
}

fn runtime(runtime: &Runtime) -> Value {
    let cores: Vec<String> = runtime.shards.iter().map(|shard| shard.core.to_string()).collect();
    let control_cores = match runtime.control_cores.as_slice() {
        [] => "any".into(),
        cores => text(cores::as_text(cores)),
    };
    // What differs from the first shard is an override. A core's shards do not differ.
    let first = &runtime.shards[0];
    let mut overrides: Vec<&ShardSettings> = Vec::new();
    for shard in &runtime.shards {
        let same = ShardSettings { core: shard.core, ..first.clone() } == *shard;
        if !same && !overrides.iter().any(|other| other.core == shard.core) {
            overrides.push(shard);
        }
    }
    let overrides = overrides
        .into_iter()
        .map(|shard| map([("cores", text(shard.core))].into_iter().chain(shard_settings(shard))));
    map([
        ("user", runtime.user.as_ref().map_or(Value::Null, text)),
        ("cores", text(cores.join(","))),
        ("control_cores", control_cores),
        ("shard", map(shard_settings(first))),
        ("per_core", overrides.collect()),
        ("drain_ms", millis(runtime.drain)),
        ("drain_grace_ms", millis(runtime.drain_grace)),
    ])
}

fn shard_settings(shard: &ShardSettings) -> [(&'static str, Value); 5] {
    [
        ("max_connections", (shard.max_connections as u64).into()),
        ("ring_entries", shard.ring_entries.into()),
        ("head_buffers", shard.head_buffers.into()),
        ("max_buffered_bytes", (shard.max_buffered_bytes as u64).into()),
        ("spin_us", (shard.spin.as_micros() as u64).into()),
    ]
}

fn admin(admin: &Admin, secrets: Secrets) -> Value {
    let patterns = |patterns: &[super::PathPattern]| -> Value {
        patterns.iter().map(|pattern| Value::from(pattern.as_str())).collect()
    };
    let token = |token: &str| match secrets {
        Secrets::Hidden => HIDDEN.into(),
        Secrets::Shown => token.into(),
    };
    map([
        ("ip", text(admin.address.ip())),
        ("port", admin.address.port().into()),
        ("token", admin.token.as_deref().map_or(Value::Null, token)),
        ("hosts", admin.hosts.iter().map(|name| Value::from(name.as_str())).collect()),
        (
            "categories",
            map([
                ("ui", admin.ui.into()),
                ("control", admin.control.into()),
                ("diagnostics", admin.diagnostics.into()),
            ]),
        ),
        ("allow", admin.allow.as_deref().map_or(Value::Null, patterns)),
        ("deny", patterns(&admin.deny)),
    ])
}

fn telemetry(telemetry: &Telemetry, secrets: Secrets) -> Value {
    let shown = |(key, value): (&'static str, Value)| match value.as_str() {
        Some(text) if secrets == Secrets::Hidden => (key, without_secrets(text).into()),
        _ => (key, value),
    };
    let exporters = telemetry.exporters.iter().map(|exporter| {
        let kind = ("kind", exporter.spec.kind.into());
        map([kind].into_iter().chain(exporter.iter().map(shown)))
    });
    map([
        ("flush_interval_ms", millis(telemetry.flush_interval)),
        ("max_series", (telemetry.max_series as u64).into()),
        ("series_ttl_ms", millis(telemetry.series_ttl)),
        ("tracing", tracing(&telemetry.tracing)),
        ("exporters", exporters.collect()),
    ])
}

fn tracing(tracing: &Tracing) -> Value {
    map([
        ("propagate", tracing.propagate.iter().map(|form| Value::from(form.name())).collect()),
        ("max_spans_per_sec", tracing.max_spans_per_sec.unwrap_or(0).into()),
        ("keep_failed", tracing.keep_failed.into()),
        ("keep_retried", tracing.keep_retried.into()),
        ("keep_slower_than_ms", millis(tracing.keep_slower_than.unwrap_or_default())),
    ])
}

fn router(router: &Router, services: &[Service]) -> Value {
    let mode = |mode| match mode {
        Mode::Off => "off",
        Mode::Append => "append",
        Mode::Overwrite => "overwrite",
    };
    let servers = router.servers.iter().map(|server| {
        let (ip, port) = (server.address.ip(), server.address.port());
        let proxy_protocol = ("proxy_protocol", server.proxy_protocol.into());
        map([("ip", text(ip)), ("port", port.into()), proxy_protocol])
    });
    let routes = router.routes.iter().map(|route| {
        map([
            ("host", route.host.as_deref().map_or(Value::Null, Value::from)),
            ("path_prefix", route.path_prefix.as_deref().map_or(Value::Null, Value::from)),
            ("service", services[route.service].name.as_str().into()),
        ])
    });
    let timeouts = &router.timeouts;
    let forwarding = &router.forwarding;
    map([
        ("label", router.label.as_str().into()),
        ("servers", servers.collect()),
        ("routes", routes.collect()),
        (
            "timeouts",
            map([
                ("head_timeout_ms", millis(timeouts.head)),
                ("idle_timeout_ms", millis(timeouts.idle)),
                ("stall_timeout_ms", millis(timeouts.stall)),
                ("linger_ms", millis(timeouts.linger)),
                ("tunnel_timeout_ms", millis(timeouts.tunnel)),
            ]),
        ),
        ("max_body_bytes", router.max_body_bytes.unwrap_or(0).into()),
        ("upgrades", router.upgrades.iter().map(|token| Value::from(token.as_str())).collect()),
        (
            "forwarding",
            map([
                ("via", forwarding.via.as_deref().unwrap_or("off").into()),
                ("x_forwarded", mode(forwarding.x_forwarded).into()),
                ("forwarded", mode(forwarding.forwarded).into()),
            ]),
        ),
    ])
}

fn service(service: &Service, secrets: Secrets) -> Value {
    let members = match &service.discovery {
        Some(source) => ("discovery", discovery(source)),
        None => {
            let endpoints = service.endpoints.iter().map(|endpoint| {
                map([("address", text(&endpoint.address)), ("weight", endpoint.weight.into())])
            });
            ("endpoints", endpoints.collect())
        }
    };
    let timeouts = &service.timeouts;
    let limits = &service.limits;
    map([
        members,
        ("balancer", balancer(&service.balancer)),
        ("slow_start_ms", millis_or_zero(service.slow_start)),
        (
            "timeouts",
            map([
                ("connect_ms", millis(timeouts.connect)),
                ("attempt_ms", millis_or_zero(timeouts.attempt)),
                ("request_ms", millis_or_zero(timeouts.request)),
                ("expect_timeout_ms", millis(timeouts.expect)),
            ]),
        ),
        (
            "pool",
            map([
                ("max_idle", (service.pool.max_idle as u64).into()),
                ("idle_ms", millis(service.pool.idle)),
            ]),
        ),
        ("failure_accrual", failure_accrual(&service.failure_accrual)),
        ("health_check", health_check(service.health_check.as_ref(), secrets)),
        ("retries", retries(&service.retries)),
        (
            "limits",
            map([
                ("max_concurrent", limits.max_concurrent.unwrap_or(0).into()),
                (
                    "max_concurrent_per_endpoint",
                    limits.max_concurrent_per_endpoint.unwrap_or(0).into(),
                ),
                ("max_queue", limits.max_queue.into()),
                ("queue_timeout_ms", millis(limits.queue_timeout)),
            ]),
        ),
    ])
}

fn discovery(source: &Discovery) -> Value {
    let kind = ("kind", source.kind().into());
    let (name, asking) = match source {
        Discovery::File { path } => return map([kind, ("path", text(path.display()))]),
        Discovery::Dns { name, port, asking } => (format!("{name}:{port}"), asking),
        Discovery::DnsSrv { name, asking } => (name.clone(), asking),
    };
    let Asking { resolvers, min_ttl, max_ttl, timeout } = asking;
    let resolvers = match resolvers.as_slice() {
        [] => Value::Null,
        resolvers => resolvers.iter().map(text).collect(),
    };
    map([
        kind,
        ("name", name.into()),
        ("resolvers", resolvers),
        ("min_ttl_ms", millis(*min_ttl)),
        ("max_ttl_ms", millis(*max_ttl)),
        ("timeout_ms", millis(*timeout)),
    ])
}

fn health_check(check: Option<&HealthCheck>, secrets: Secrets) -> Value {
    let Some(HealthCheck { probe, interval, timeout, unhealthy_after, healthy_after }) = check
    else {
        return map([("kind", "none".into())]);
    };
    let shown = |path: &str| match secrets {
        Secrets::Hidden => without_query(path).into(),
        Secrets::Shown => path.into(),
    };
    let of_kind = match probe {
        Probe::Tcp => vec![],
        Probe::Http { path, host, expect } => vec![
            ("path", shown(path)),
            ("host", host.as_deref().map_or(Value::Null, Value::from)),
            ("expect", text(format!("{}-{}", expect.start(), expect.end()))),
        ],
    };
    let common = [
        ("kind", probe.name().into()),
        ("interval_ms", millis(*interval)),
        ("timeout_ms", millis(*timeout)),
        ("unhealthy_after", (*unhealthy_after).into()),
        ("healthy_after", (*healthy_after).into()),
    ];
    map(common.into_iter().chain(of_kind))
}

fn balancer(balancer: &Balancer) -> Value {
    let kind = ("kind", Value::from(balancer.name()));
    match *balancer {
        Balancer::Ewma { decay } => map([kind, ("decay_ms", millis(decay))]),
        Balancer::RoundRobin | Balancer::LeastLoaded => map([kind]),
        Balancer::Aperture { decay, low_percent, high_percent, min_endpoints } => map([
            kind,
            ("decay_ms", millis(decay)),
            ("low_load_percent", low_percent.into()),
            ("high_load_percent", high_percent.into()),
            ("min_endpoints", min_endpoints.into()),
        ]),
        Balancer::ConsistentHash { ref by, max_load_percent } => {
            map([kind, ("hash_by", text(by)), ("max_load_percent", max_load_percent.into())])
        }
    }
}

fn failure_accrual(rules: &FailureAccrual) -> Value {
    let of_kind = match &rules.accrual {
        Accrual::None => vec![],
        Accrual::ConsecutiveFailures { failures } => vec![("failures", (*failures).into())],
        Accrual::SuccessRate { percent, requests } => {
            vec![("success_rate_percent", (*percent).into()), ("requests", (*requests).into())]
        }
        Accrual::SuccessRateWindowed { percent, window } => vec![
            ("success_rate_percent", (*percent).into()),
            ("window_secs", window.as_secs().into()),
        ],
    };
    let common = [
        ("min_ejection_ms", millis(rules.min_ejection)),
        ("max_ejection_ms", millis(rules.max_ejection)),
        ("max_ejected_percent", rules.max_ejected_percent.into()),
    ];
    map([("kind", rules.accrual.name().into())].into_iter().chain(of_kind).chain(common))
}

fn retries(rules: &Retries) -> Value {
    let backoff = match rules.backoff {
        Backoff::None => vec![("kind", "none".into())],
        Backoff::Constant(time) => vec![("kind", "constant".into()), ("ms", millis(time))],
        Backoff::Jittered { min, max } => {
            vec![("kind", "jittered".into()), ("min_ms", millis(min)), ("max_ms", millis(max))]
        }
    };
    let classifier = [("classifier", rules.classifier.name().into())];
    let of_kind = match &rules.classifier {
        Classifier::Statuses { statuses, methods } => vec![
            ("statuses", statuses.iter().map(|it| Value::from(*it)).collect()),
            ("methods", methods.name().into()),
        ],
        _ => vec![],
    };
    let common = [
        ("max_retries", rules.max_retries.into()),
        (
            "budget",
            map([
                ("percent", rules.budget.percent.into()),
                ("min_per_sec", rules.budget.min_per_sec.into()),
                ("window_secs", rules.budget.window.as_secs().into()),
            ]),
        ),
        ("backoff", map(backoff)),
        ("replay_buffer_bytes", (rules.replay_buffer_bytes as u64).into()),
    ];
    map(classifier.into_iter().chain(of_kind).chain(common))
}
