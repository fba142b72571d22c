//! The shape of a configuration: which keys there are, as the operator wrote them.
//!
//! Leaves stay `Value`s: whether one is a number, and in range, is `validate`'s to say, with the
//! range in the message. So only two things can go wrong here: a key that does not exist, and a
//! scalar where a section or a list belongs (or the other way round).
//!
//! serde derives would also take a sequence for a struct, by position; `Section` refuses that.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

/// A scalar or a list of them; `None` where nothing, or nothing but `null`, was written.
pub(super) type Leaf = Option<Value>;
pub(super) type List<T> = Option<Vec<Section<T>>>;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Root {
    pub(super) runtime: Section<Runtime>,
    pub(super) admin: Section<Admin>,
    pub(super) telemetry: Section<Telemetry>,
    pub(super) routers: List<Router>,
    pub(super) services: Named<Service>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Runtime {
    pub(super) user: Leaf,
    pub(super) cores: Leaf,
    pub(super) control_cores: Leaf,
    pub(super) shard: Section<Shard>,
    pub(super) per_core: List<PerCore>,
    pub(super) drain_ms: Leaf,
    pub(super) drain_grace_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shard {
    pub(super) max_connections: Leaf,
    pub(super) ring_entries: Leaf,
    pub(super) head_buffers: Leaf,
    pub(super) max_buffered_bytes: Leaf,
    pub(super) spin_us: Leaf,
}

/// `Shard` and the cores it is for. Written out: `flatten` would defeat `deny_unknown_fields`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PerCore {
    pub(super) cores: Leaf,
    pub(super) max_connections: Leaf,
    pub(super) ring_entries: Leaf,
    pub(super) head_buffers: Leaf,
    pub(super) max_buffered_bytes: Leaf,
    pub(super) spin_us: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// `admin: off`, or any other text in place of the section.
    #[serde(skip)]
    pub(super) word: Option<String>,
    pub(super) ip: Leaf,
    pub(super) port: Leaf,
    pub(super) token: Leaf,
    pub(super) hosts: Option<Vec<Leaf>>,
    pub(super) categories: Section<Categories>,
    pub(super) allow: Option<Vec<Leaf>>,
    pub(super) deny: Option<Vec<Leaf>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Categories {
    pub(super) ui: Leaf,
    pub(super) control: Leaf,
    pub(super) diagnostics: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Telemetry {
    /// `telemetry: off`, or any other text in place of the section.
    #[serde(skip)]
    pub(super) word: Option<String>,
    pub(super) flush_interval_ms: Leaf,
    pub(super) max_series: Leaf,
    pub(super) series_ttl_ms: Leaf,
    pub(super) tracing: Section<Tracing>,
    /// Mappings whose keys depend on the kind: `exporters` reads them by the kinds' own tables.
    pub(super) exporters: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tracing {
    pub(super) propagate: Option<Vec<Leaf>>,
    pub(super) max_spans_per_sec: Leaf,
    pub(super) keep_failed: Leaf,
    pub(super) keep_retried: Leaf,
    pub(super) keep_slower_than_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Router {
    pub(super) label: Leaf,
    pub(super) servers: List<Server>,
    pub(super) routes: List<Route>,
    pub(super) timeouts: Section<RouterTimeouts>,
    pub(super) max_body_bytes: Leaf,
    pub(super) upgrades: Option<Vec<Leaf>>,
    pub(super) forwarding: Section<Forwarding>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub(super) ip: Leaf,
    pub(super) port: Leaf,
    pub(super) proxy_protocol: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Route {
    pub(super) host: Leaf,
    pub(super) path_prefix: Leaf,
    pub(super) service: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RouterTimeouts {
    pub(super) head_timeout_ms: Leaf,
    pub(super) idle_timeout_ms: Leaf,
    pub(super) stall_timeout_ms: Leaf,
    pub(super) linger_ms: Leaf,
    pub(super) tunnel_timeout_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Forwarding {
    pub(super) via: Leaf,
    pub(super) x_forwarded: Leaf,
    pub(super) forwarded: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Service {
    pub(super) endpoints: List<Endpoint>,
    pub(super) discovery: Option<Section<Discovery>>,
    pub(super) balancer: Section<Balancer>,
    pub(super) slow_start_ms: Leaf,
    pub(super) timeouts: Section<ServiceTimeouts>,
    pub(super) pool: Section<Pool>,
    pub(super) failure_accrual: Section<FailureAccrual>,
    pub(super) health_check: Section<HealthCheck>,
    pub(super) retries: Section<Retries>,
    pub(super) limits: Section<Limits>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Endpoint {
    pub(super) address: Leaf,
    pub(super) weight: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Discovery {
    pub(super) kind: Leaf,
    pub(super) path: Leaf,
    pub(super) name: Leaf,
    pub(super) resolvers: Option<Vec<Leaf>>,
    pub(super) min_ttl_ms: Leaf,
    pub(super) max_ttl_ms: Leaf,
    pub(super) timeout_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Balancer {
    pub(super) kind: Leaf,
    pub(super) decay_ms: Leaf,
    pub(super) low_load_percent: Leaf,
    pub(super) high_load_percent: Leaf,
    pub(super) min_endpoints: Leaf,
    pub(super) hash_by: Leaf,
    pub(super) max_load_percent: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServiceTimeouts {
    pub(super) connect_ms: Leaf,
    pub(super) attempt_ms: Leaf,
    pub(super) request_ms: Leaf,
    pub(super) expect_timeout_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Pool {
    pub(super) max_idle: Leaf,
    pub(super) idle_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FailureAccrual {
    pub(super) kind: Leaf,
    pub(super) failures: Leaf,
    pub(super) success_rate_percent: Leaf,
    pub(super) requests: Leaf,
    pub(super) window_secs: Leaf,
    pub(super) min_ejection_ms: Leaf,
    pub(super) max_ejection_ms: Leaf,
    pub(super) max_ejected_percent: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HealthCheck {
    pub(super) kind: Leaf,
    pub(super) interval_ms: Leaf,
    pub(super) timeout_ms: Leaf,
    pub(super) unhealthy_after: Leaf,
    pub(super) healthy_after: Leaf,
    pub(super) path: Leaf,
    pub(super) host: Leaf,
    pub(super) expect: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retries {
    pub(super) classifier: Leaf,
    pub(super) statuses: Option<Vec<Leaf>>,
    pub(super) methods: Leaf,
    pub(super) max_retries: Leaf,
    pub(super) budget: Section<RetryBudget>,
    pub(super) backoff: Section<Backoff>,
    pub(super) replay_buffer_bytes: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) max_concurrent: Leaf,
    pub(super) max_concurrent_per_endpoint: Leaf,
    pub(super) max_queue: Leaf,
    pub(super) queue_timeout_ms: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetryBudget {
    pub(super) percent: Leaf,
    pub(super) min_per_sec: Leaf,
    pub(super) window_secs: Leaf,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Backoff {
    pub(super) kind: Leaf,
    pub(super) ms: Leaf,
    pub(super) min_ms: Leaf,
    pub(super) max_ms: Leaf,
}

/// A part of the configuration that is a mapping, or the short form that some parts have.
/// Nothing written, or `null`, is an empty mapping.
#[derive(Debug, Default)]
pub(super) struct Section<T>(pub(super) T);

/// What else than a mapping a section may be written as.
pub(super) trait Short: Sized {
    const SHAPES: &'static str = "a mapping";

    fn from_text(_: &str) -> Option<Self> {
        None
    }
}

impl Short for Endpoint {
    const SHAPES: &'static str = "an address, or a mapping with the keys address and weight";

    fn from_text(text: &str) -> Option<Self> {
        Some(Endpoint { address: Some(text.into()), weight: None })
    }
}

impl Short for Admin {
    const SHAPES: &'static str = "a mapping, or off";

    fn from_text(text: &str) -> Option<Self> {
        Some(Admin { word: Some(text.to_owned()), ..Admin::default() })
    }
}

impl Short for Telemetry {
    const SHAPES: &'static str = "a mapping, or off";

    fn from_text(text: &str) -> Option<Self> {
        Some(Telemetry { word: Some(text.to_owned()), ..Telemetry::default() })
    }
}

impl Short for Root {}
impl Short for Categories {}
impl Short for Runtime {}
impl Short for Shard {}
impl Short for PerCore {}
impl Short for Router {}
impl Short for Server {}
impl Short for Route {}
impl Short for RouterTimeouts {}
impl Short for Forwarding {}
impl Short for Tracing {}
impl Short for Service {}
impl Short for Discovery {}
impl Short for Balancer {}
impl Short for ServiceTimeouts {}
impl Short for Pool {}
impl Short for FailureAccrual {}
impl Short for HealthCheck {}
impl Short for Retries {}
impl Short for Limits {}
impl Short for RetryBudget {}
impl Short for Backoff {}

impl<'de, T: Deserialize<'de> + Default + Short> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SectionVisitor(PhantomData))
    }
}

struct SectionVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default + Short> Visitor<'de> for SectionVisitor<T> {
    type Value = Section<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::SHAPES)
    }

    fn visit_unit<E>(self) -> Result<Section<T>, E> {
        Ok(Section(T::default()))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Section<T>, E> {
        let short = T::from_text(text).map(Section);
        short.ok_or_else(|| E::invalid_type(serde::de::Unexpected::Str(text), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Section<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Section)
    }
}

impl<T: Serialize> Serialize for Section<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A mapping whose keys are the operator's own names, in the order of the text.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<(String, Section<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<'de, T: Deserialize<'de> + Default + Short> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default + Short> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping from names")
    }

    fn visit_unit<E>(self) -> Result<Named<T>, E> {
        Ok(Named::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Named(entries))
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
