//! The tables: a row per metric, with its key, its family, its help, and where its value is.
//!
//! Keys are those that a Linkerd 1.x user knows, below `rt/<router>/` and the like; families have
//! base units and suffixes as Prometheus recommends them. No other file spells a metric's name.

use super::Value::{self, Counter, Gauge, Histogram, Split as Parts};
use super::{Info, Kind, Metric, Unit, counter, gauge, histogram, micros, millis, split};
use crate::telemetry::process::Process;
use crate::telemetry::record::EndpointState;
use crate::telemetry::state::{
    EndpointStats, NodeStats, ServerStats, ServiceStats, ShardStats, TargetStats, TelemetryStats,
};

/// From 100 us to 10 s, as the Prometheus clients have them, and two more below.
const LATENCY_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];
/// From a second to a day.
const LIFETIME_US: &[u64] =
    &[100_000, 1_000_000, 10_000_000, 60_000_000, 600_000_000, 3_600_000_000, 86_400_000_000];
/// Empty, then by fours from a small head to 1 GiB.
#[rustfmt::skip]
const SIZE_BYTES: &[u64] = &[
    0, 256, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26,
    1 << 30,
];
const REQUESTS: &[u64] = &[0, 1, 2, 5, 10, 100, 1_000, 10_000, 100_000];
const RETRIES: &[u64] = &[0, 1, 2, 3, 5, 10];

#[rustfmt::skip]
pub(super) static SERVER: &[Metric<ServerStats>] = &[
    counter("requests", "ringlane_server_requests_total",
        "Requests whose head was complete, and what was refused before that.",
        |it| Counter(it.counts.requests)),
    counter("success", "ringlane_server_success_total",
        "Requests answered with a status below 500 by an upstream, or here as they asked.",
        |it| Counter(it.counts.success)),
    counter("failures", "", "Requests that failed, for whatever reason.",
        |it| Counter(it.counts.failures)),
    split("failures", "ringlane_server_failures_total", "Requests that failed, by the reason.",
        "reason", |it| Parts(&it.failures)),
    counter("answered_here", "ringlane_server_answered_here_total",
        "Requests that were answered without any attempt at an upstream.",
        |it| Counter(it.counts.answered_here)),
    counter("malformed_contexts", "ringlane_server_malformed_contexts_total",
        "Trace contexts that could not be read: not passed on, as if they had not come.",
        |it| Counter(it.counts.malformed_contexts)),
    split("status", "ringlane_server_responses_total",
        "Answers by status code; 499 where the client went before its answer.", "code",
        |it| Parts(&it.status)),
    gauge("pending", "ringlane_server_pending", "Requests under way.",
        |it| Gauge(it.gauges.pending as f64)),
    millis(histogram("request_latency_ms", "ringlane_server_request_duration_seconds",
        "From the last byte of a request's head to the last byte of its answer.", LATENCY_US,
        |it| Histogram(&it.latency))),
    millis(histogram("proxy_latency_ms", "ringlane_server_proxy_duration_seconds",
        "Time inside the proxy: the latency without waiting for upstreams and without the \
         streaming of a body that did not come with its head.", LATENCY_US,
        |it| Histogram(&it.proxy_latency))),
    histogram("request_payload_bytes", "ringlane_server_request_body_bytes",
        "Bodies of requests, without their framing.", SIZE_BYTES,
        |it| Histogram(&it.request_bytes)),
    histogram("response_payload_bytes", "ringlane_server_response_body_bytes",
        "Bodies of answers, without their framing.", SIZE_BYTES,
        |it| Histogram(&it.response_bytes)),
    gauge("connections", "ringlane_server_connections", "Client connections.",
        |it| Gauge(it.gauges.connections as f64)),
    gauge("tunnels", "ringlane_server_tunnels",
        "Client connections that were upgraded to another protocol.",
        |it| Gauge(it.gauges.tunnels as f64)),
    counter("connects", "ringlane_server_connects_total", "Client connections accepted.",
        |it| Counter(it.counts.connects)),
    counter("closes", "ringlane_server_closes_total", "Client connections that have gone.",
        |it| Counter(it.counts.closes)),
    counter("received_bytes", "ringlane_server_received_bytes_total",
        "Bytes received from clients.", |it| Counter(it.counts.received_bytes)),
    counter("sent_bytes", "ringlane_server_sent_bytes_total", "Bytes sent to clients.",
        |it| Counter(it.counts.sent_bytes)),
    millis(histogram("connection_duration_ms", "ringlane_server_connection_duration_seconds",
        "How long client connections lasted.", LIFETIME_US,
        |it| Histogram(&it.connection_duration))),
    histogram("connection_requests", "ringlane_server_connection_requests",
        "Requests that client connections carried.", REQUESTS,
        |it| Histogram(&it.connection_requests)),
];

#[rustfmt::skip]
pub(super) static SERVICE: &[Metric<TargetStats>] = &[
    counter("requests", "ringlane_service_requests_total", "Requests routed to the service.",
        |it| Counter(it.counts.requests)),
    counter("success", "ringlane_service_success_total",
        "Requests answered with a status below 500.", |it| Counter(it.counts.success)),
    counter("failures", "", "Requests that failed, for whatever reason.",
        |it| Counter(it.counts.failures)),
    split("failures", "ringlane_service_failures_total", "Requests that failed, by the reason.",
        "reason", |it| Parts(&it.failures)),
    counter("answered_here", "ringlane_service_answered_here_total",
        "Requests that were answered without any attempt at an upstream.",
        |it| Counter(it.counts.answered_here)),
    gauge("pending", "ringlane_service_pending", "Requests under way.",
        |it| Gauge(it.gauges.pending as f64)),
    gauge("waiting", "ringlane_service_waiting", "Requests that wait for their first attempt.",
        |it| Gauge(it.gauges.waiting as f64)),
    millis(histogram("request_latency_ms", "ringlane_service_request_duration_seconds",
        "From the last byte of a request's head to the last byte of its answer, however many \
         attempts it took.", LATENCY_US, |it| Histogram(&it.latency))),
    counter("retries/total", "ringlane_service_retries_total",
        "Attempts made because the classifier said so.", |it| Counter(it.counts.retries)),
    counter("retries/requeues", "ringlane_service_requeues_total",
        "Attempts made because a connection failed before the request could be at fault.",
        |it| Counter(it.counts.requeues)),
    counter("retries/budget_exhausted", "ringlane_service_retry_budget_exhausted_total",
        "Retries not made because the budget was used up.",
        |it| Counter(it.counts.budget_exhausted)),
    histogram("retries/per_request", "ringlane_service_retries_per_request",
        "Retries that requests took.", RETRIES, |it| Histogram(&it.retries_per_request)),
    counter("hedges/total", "ringlane_service_hedges_total",
        "Attempts made because the first took long.", |it| Counter(it.counts.hedges)),
    counter("hedges/won", "ringlane_service_hedges_won_total", "Hedges that answered first.",
        |it| Counter(it.counts.hedges_won)),
];

#[rustfmt::skip]
pub(super) static CLIENT: &[Metric<TargetStats>] = &[
    counter("requests", "ringlane_client_requests_total", "Attempts.",
        |it| Counter(it.counts.attempts)),
    counter("success", "ringlane_client_success_total",
        "Attempts answered with a status below 500.", |it| Counter(it.counts.attempt_success)),
    counter("failures", "", "Attempts that failed, for whatever reason.",
        |it| Counter(it.counts.attempt_failures)),
    split("failures", "ringlane_client_failures_total", "Attempts that failed, by the reason.",
        "reason", |it| Parts(&it.attempt_failures)),
    split("status", "ringlane_client_responses_total", "Answers of upstreams by status code.",
        "code", |it| Parts(&it.attempt_status)),
    gauge("pending", "ringlane_client_pending", "Attempts under way.",
        |it| Gauge(it.gauges.attempts_pending as f64)),
    millis(histogram("request_latency_ms", "ringlane_client_request_duration_seconds",
        "From the beginning of an attempt, connecting included, to the last byte of its answer.",
        LATENCY_US, |it| Histogram(&it.attempt_latency))),
    histogram("request_payload_bytes", "ringlane_client_request_body_bytes",
        "Bodies of requests as they were sent on, without their framing.", SIZE_BYTES,
        |it| Histogram(&it.attempt_request_bytes)),
    histogram("response_payload_bytes", "ringlane_client_response_body_bytes",
        "Bodies of upstreams' answers, without their framing.", SIZE_BYTES,
        |it| Histogram(&it.attempt_response_bytes)),
    gauge("connections", "ringlane_client_connections", "Connections to upstreams.",
        |it| Gauge(it.gauges.connections as f64)),
    counter("connects", "ringlane_client_connects_total", "Connections begun.",
        |it| Counter(it.counts.connects)),
    counter("closes", "ringlane_client_closes_total", "Connections that have gone.",
        |it| Counter(it.counts.closes)),
    counter("received_bytes", "ringlane_client_received_bytes_total",
        "Bytes received from upstreams.", |it| Counter(it.counts.received_bytes)),
    counter("sent_bytes", "ringlane_client_sent_bytes_total", "Bytes sent to upstreams.",
        |it| Counter(it.counts.sent_bytes)),
    millis(histogram("connect_latency_ms", "ringlane_client_connect_duration_seconds",
        "How long it took to connect to an endpoint.", LATENCY_US,
        |it| Histogram(&it.connect_latency))),
    millis(histogram("connection_duration_ms", "ringlane_client_connection_duration_seconds",
        "How long connections to upstreams lasted.", LIFETIME_US,
        |it| Histogram(&it.connection_duration))),
    histogram("connection_requests", "ringlane_client_connection_requests",
        "Requests that connections to upstreams carried.", REQUESTS,
        |it| Histogram(&it.connection_requests)),
];

#[rustfmt::skip]
pub(super) static BALANCER: &[Metric<ServiceStats>] = &[
    Metric {
        info: Info {
            key: "loadbalancer/algorithm",
            family: "ringlane_client_balancer_info",
            help: "The kind of balancer.",
            kind: Kind::Info("algorithm"),
            unit: Unit::Plain,
        },
        read: |it| Value::Info(it.algorithm),
    },
    gauge("loadbalancer/size", "ringlane_client_balancer_size", "Endpoints.",
        |it| Gauge(it.gauges.size as f64)),
    gauge("loadbalancer/available", "ringlane_client_balancer_available",
        "Endpoints that are given requests.", |it| Gauge(it.gauges.available as f64)),
    gauge("loadbalancer/width", "ringlane_client_balancer_width",
        "Endpoints that an aperture uses, on the shard with most; 0 for other balancers.",
        |it| Gauge(it.gauges.width as f64)),
    gauge("loadbalancer/load", "ringlane_client_balancer_load",
        "Attempts under way, tunnels included.", |it| Gauge(it.gauges.load as f64)),
    counter("loadbalancer/adds", "ringlane_client_balancer_adds_total", "Endpoints added.",
        |it| Counter(it.adds)),
    counter("loadbalancer/removes", "ringlane_client_balancer_removes_total",
        "Endpoints removed.", |it| Counter(it.removes)),
    counter("loadbalancer/picks", "ringlane_client_balancer_picks_total", "Endpoints picked.",
        |it| Counter(it.counts.picks)),
    counter("loadbalancer/max_effort_exhausted",
        "ringlane_client_balancer_max_effort_exhausted_total",
        "Picks that found no endpoint available and took one all the same.",
        |it| Counter(it.counts.max_effort_exhausted)),
    gauge("pool_size", "ringlane_client_pool_size",
        "Connections, in use or idle, of all routers.", |it| Gauge(it.gauges.pool_size as f64)),
    gauge("pool_cached", "ringlane_client_pool_cached", "Idle connections.",
        |it| Gauge(it.gauges.pool_cached as f64)),
    gauge("pool_waiters", "ringlane_client_pool_waiters", "Requests that wait for a connection.",
        |it| Gauge(it.gauges.pool_waiters as f64)),
    counter("failure_accrual/removals", "ringlane_client_accrual_removals_total",
        "Endpoints taken out for their failures.", |it| Counter(it.counts.removals)),
    counter("failure_accrual/revivals", "ringlane_client_accrual_revivals_total",
        "Endpoints taken in again after a probe.", |it| Counter(it.counts.revivals)),
    counter("failure_accrual/probes", "ringlane_client_accrual_probes_total",
        "Probes sent to endpoints that were out.", |it| Counter(it.counts.probes)),
    millis(counter("failure_accrual/removed_for_ms",
        "ringlane_client_accrual_removed_seconds_total", "How long endpoints were out.",
        |it| Counter(it.counts.removed_for_us))),
    counter("health/checks", "ringlane_client_health_checks_total",
        "Checks of endpoints' health.", |it| Counter(it.counts.health_checks)),
    counter("health/failures", "ringlane_client_health_failures_total",
        "Checks that failed.", |it| Counter(it.counts.health_failures)),
];

/// Shown beside the service's other retries, though every router draws on it.
#[rustfmt::skip]
pub(super) static BUDGET: &[Metric<ServiceStats>] = &[
    gauge("retries/budget", "ringlane_service_retry_budget",
        "Retries that the budget would allow now.", |it| Gauge(it.gauges.retry_budget as f64)),
];

#[rustfmt::skip]
pub(super) static ENDPOINT: &[Metric<EndpointStats>] = &[
    counter("requests", "ringlane_endpoint_requests_total", "Attempts.",
        |it| Counter(it.counts.requests)),
    counter("success", "ringlane_endpoint_success_total",
        "Attempts answered with a status below 500.", |it| Counter(it.counts.success)),
    counter("failures", "ringlane_endpoint_failures_total", "Attempts that failed.",
        |it| Counter(it.counts.failures)),
    gauge("pending", "ringlane_endpoint_pending", "Attempts under way.",
        |it| Gauge(it.pending as f64)),
    millis(histogram("request_latency_ms", "ringlane_endpoint_request_duration_seconds",
        "From the beginning of an attempt to the last byte of its answer.", LATENCY_US,
        |it| Histogram(&it.latency))),
];

#[rustfmt::skip]
pub(super) static NODE: &[Metric<NodeStats>] = &[
    gauge("load", "ringlane_endpoint_load", "Attempts under way, tunnels included.",
        |it| Gauge(it.load as f64)),
    millis(gauge("ewma_ms", "ringlane_endpoint_ewma_seconds",
        "The latency that the balancer expects, where it keeps one.",
        |it| Gauge(it.ewma_us as f64))),
    gauge("state", "ringlane_endpoint_state",
        "0 available, 1 ejected, 2 being probed, 3 draining, 4 unhealthy.",
        |it| Gauge(f64::from(state_number(it.state)))),
];

#[rustfmt::skip]
pub(super) static SHARD: &[Metric<ShardStats>] = &[
    gauge("connections", "ringlane_shard_connections", "Client connections.",
        |it| Gauge(it.figures.connections as f64)),
    counter("turns", "ringlane_shard_turns_total", "Turns of the driver.",
        |it| Counter(it.figures.turns)),
    gauge("busy_ratio", "ringlane_shard_busy_ratio",
        "The share of the time since the last flush that was not spent parked.",
        |it| Gauge(it.figures.busy_ratio)),
    counter("sqes", "ringlane_shard_sqes_total", "Operations submitted to the ring.",
        |it| Counter(it.figures.sqes)),
    counter("cqes", "ringlane_shard_cqes_total", "Completions taken from the ring.",
        |it| Counter(it.figures.cqes)),
    counter("enters", "ringlane_shard_enters_total", "Calls of io_uring_enter.",
        |it| Counter(it.figures.enters)),
    gauge("slots", "ringlane_shard_slots", "Sockets, listeners and mailboxes in the ring.",
        |it| Gauge(it.figures.slots as f64)),
    gauge("buffers_in_use", "ringlane_shard_buffers_in_use", "Provided buffers in use.",
        |it| Gauge(it.figures.buffers_in_use as f64)),
    counter("buffers_exhausted", "ringlane_shard_buffers_exhausted_total",
        "Receives that found no buffer.", |it| Counter(it.figures.buffers_exhausted)),
    gauge("buffered_bytes", "ringlane_shard_buffered_bytes",
        "Memory held for bodies and partial heads.", |it| Gauge(it.figures.leased_bytes as f64)),
    micros(gauge("longest_poll_us", "ringlane_shard_longest_poll_seconds",
        "The longest turn of the last minute, without its parking.",
        |it| Gauge(it.figures.longest_poll_us as f64))),
    micros(gauge("late_us", "ringlane_shard_late_seconds",
        "The most that a timer was late in the last minute.",
        |it| Gauge(it.figures.late_us as f64))),
];

#[rustfmt::skip]
pub(super) static PROCESS: &[Metric<Process>] = &[
    millis(gauge("uptime_ms", "ringlane_process_uptime_seconds", "Time since the start.",
        |it| Gauge(it.uptime_us as f64))),
    millis(gauge("start_time_ms", "process_start_time_seconds",
        "When the process started, since 1970.", |it| Gauge(it.start_time_us as f64))),
    millis(counter("cpu_ms", "process_cpu_seconds_total", "User and system CPU time spent.",
        |it| Counter(it.cpu_us))),
    gauge("rss_bytes", "process_resident_memory_bytes", "Resident memory.",
        |it| Gauge(it.rss_bytes as f64)),
    gauge("vsize_bytes", "process_virtual_memory_bytes", "Virtual memory.",
        |it| Gauge(it.vsize_bytes as f64)),
    gauge("fd_count", "process_open_fds", "Open file descriptors.", |it| Gauge(it.fd_count as f64)),
    gauge("fd_limit", "process_max_fds", "File descriptors that may be open.",
        |it| Gauge(it.fd_limit as f64)),
    gauge("threads", "process_threads", "Threads of the process.", |it| Gauge(it.threads as f64)),
];

#[rustfmt::skip]
pub(super) static HEAP: &[Metric<Process>] = &[
    gauge("allocated", "ringlane_heap_allocated_bytes", "Bytes that the program asked for.",
        |it| Gauge(it.heap().allocated as f64)),
    gauge("active", "ringlane_heap_active_bytes", "Bytes in pages that hold an allocation.",
        |it| Gauge(it.heap().active as f64)),
    gauge("resident", "ringlane_heap_resident_bytes",
        "Bytes of the allocator that are resident.", |it| Gauge(it.heap().resident as f64)),
    gauge("mapped", "ringlane_heap_mapped_bytes", "Bytes that the allocator has mapped.",
        |it| Gauge(it.heap().mapped as f64)),
    gauge("retained", "ringlane_heap_retained_bytes",
        "Bytes of address space kept for use again, without memory behind them.",
        |it| Gauge(it.heap().retained as f64)),
];

#[rustfmt::skip]
pub(super) static TELEMETRY: &[Metric<TelemetryStats>] = &[
    micros(gauge("merge_us", "ringlane_telemetry_merge_seconds", "What the last merge took.",
        |it| Gauge(it.merge_us as f64))),
    counter("snapshots", "ringlane_telemetry_snapshots_total", "Flushes of shards merged.",
        |it| Counter(it.snapshots)),
    counter("spans_recorded", "ringlane_telemetry_spans_recorded_total",
        "Spans that shards have made.", |it| Counter(it.spans_recorded)),
    counter("traces_capped", "ringlane_telemetry_traces_capped_total",
        "Requests that were not recorded since max_spans_per_sec had no room.",
        |it| Counter(it.traces_capped)),
    counter("spans_sent", "", "Spans that a collector took, over all exporters.",
        |it| Counter(it.spans_sent.total())),
    split("spans_sent", "ringlane_telemetry_spans_sent_total", "Spans that a collector took.",
        "exporter", |it| Parts(&it.spans_sent)),
    counter("spans_dropped", "", "Spans that no collector got, over all exporters.",
        |it| Counter(it.spans_dropped.total())),
    split("spans_dropped", "ringlane_telemetry_spans_dropped_total",
        "Spans that found no room, or that the collector refused or did not take in time.",
        "exporter", |it| Parts(&it.spans_dropped)),
    split("export_failures", "ringlane_telemetry_export_failures_total",
        "Exports that failed, by exporter.", "exporter", |it| Parts(&it.export_failures)),
];

fn state_number(state: EndpointState) -> u8 {
    match state {
        EndpointState::Available => 0,
        EndpointState::Ejected => 1,
        EndpointState::Probing => 2,
        EndpointState::Draining => 3,
        EndpointState::Unhealthy => 4,
    }
}
