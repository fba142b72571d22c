//! How each proxy is set, so that all do the same: one worker, connections kept on both sides, the
//! endpoint with the fewest requests, no logs, room for all connections, and otherwise what each
//! has by default. Idle connections are kept for long, since a proxy rests while others have their
//! turns. Bodies of one size have a port and two origins of their own, so that none has to route by
//! path. Pure: text out.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// Bodies of one size: where a proxy listens for them, and where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub body_bytes: usize,
    pub listen: SocketAddr,
    pub origins: Vec<SocketAddr>,
}

/// What a listening socket holds until it is accepted: engines connect all at once.
const BACKLOG: usize = 4_096;
/// Of each proxy, on both sides.
const CONNECTIONS: usize = 16_000;
const IDLE_S: usize = 3_600;
/// Without end: as one worker would have it at 100,000 a second for a day.
const REQUESTS_PER_CONNECTION: u64 = 10_000_000_000;
/// Idle connections to each origin, for all as many as their clients may need.
const KEPT: usize = CONNECTIONS / 2;

/// Metrics, tracing's context and forwarded headers are on, as they are by default.
pub fn ringlane(sites: &[Site], core: usize) -> String {
    let mut routers = String::new();
    let mut services = String::new();
    let idle_ms = IDLE_S * 1_000;
    for Site { body_bytes, listen, origins } in sites {
        let (ip, port) = (listen.ip(), listen.port());
        let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
        let endpoints = endpoints.join(", ");
        push(
            &mut routers,
            format_args!(
                "- label: size_{body_bytes}\n  servers: [{{ip: {ip}, port: {port}}}]\n  \
                 routes: [{{service: size_{body_bytes}}}]\n  \
                 timeouts: {{idle_timeout_ms: {idle_ms}}}\n"
            ),
        );
        push(
            &mut services,
            format_args!(
                "  size_{body_bytes}:\n    endpoints: [{endpoints}]\n    \
                 balancer: {{kind: least_loaded}}\n    \
                 pool: {{idle_ms: {idle_ms}, max_idle: {KEPT}}}\n"
            ),
        );
    }
    format!("runtime: {{cores: \"{core}\"}}\nadmin: off\nrouters:\n{routers}services:\n{services}")
}

/// As its configuration manual has it. `http-reuse always`: any client's request may go over any
/// kept connection. Kept connections are not purged while it rests, nor because there are many
/// (tune.pool-high-fd-ratio, 25 % by default).
pub fn haproxy(sites: &[Site]) -> String {
    // It counts clients alone, and needs two sockets for each.
    let clients = CONNECTIONS / 2;
    let mut out = format!(
        "global\n    nbthread 1\n    maxconn {clients}\n    \
         tune.pool-high-fd-ratio 100\n    tune.pool-low-fd-ratio 100\n\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client {IDLE_S}s\n    \
         timeout server {IDLE_S}s\n    timeout http-keep-alive {IDLE_S}s\n    \
         http-reuse always\n    \
         default-server pool-purge-delay {IDLE_S}s\n"
    );
    for Site { body_bytes, listen, origins } in sites {
        push(
            &mut out,
            format_args!(
                "\nfrontend in_{body_bytes}\n    bind {listen} backlog {BACKLOG}\n    \
                 default_backend size_{body_bytes}\n\n\
                 backend size_{body_bytes}\n    balance leastconn\n"
            ),
        );
        for (number, origin) in (1..).zip(origins) {
            push(&mut out, format_args!("    server origin_{number} {origin}\n"));
        }
    }
    out
}

/// As the documentation of its modules has it: HTTP/1.1 and an empty Connection to origins, or it
/// would keep no connection. Answers that a client is slow to take are not spooled to disk, which
/// the others do not either.
pub fn nginx(sites: &[Site], folder: &Path) -> String {
    let folder = folder.display();
    let mut out = format!(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile {files};\n\
         pid {folder}/pid;\nerror_log stderr crit;\n\
         events {{\n    worker_connections {CONNECTIONS};\n}}\n\
         http {{\n    access_log off;\n    \
         keepalive_timeout {IDLE_S}s;\n    keepalive_requests {REQUESTS_PER_CONNECTION};\n    \
         keepalive_time {IDLE_S}s;\n    proxy_max_temp_file_size 0;\n",
        files = CONNECTIONS + CONNECTIONS / 4,
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        push(&mut out, format_args!("    {kind}_temp_path {folder}/{kind};\n"));
    }
    for Site { body_bytes, listen, origins } in sites {
        push(&mut out, format_args!("    upstream size_{body_bytes} {{\n        least_conn;\n"));
        for origin in origins {
            push(&mut out, format_args!("        server {origin};\n"));
        }
        push(
            &mut out,
            format_args!(
                "        keepalive {KEPT};\n        keepalive_timeout {IDLE_S}s;\n        \
                 keepalive_requests {REQUESTS_PER_CONNECTION};\n        \
                 keepalive_time {IDLE_S}s;\n    }}\n    \
                 server {{\n        listen {listen} backlog={BACKLOG};\n        \
                 location / {{\n            \
                 proxy_pass http://size_{body_bytes};\n            \
                 proxy_http_version 1.1;\n            \
                 proxy_set_header Connection \"\";\n        }}\n    }}\n"
            ),
        );
    }
    out + "}\n"
}

/// As its API's reference has it: HTTP/1.1 in and out, and no breaker that would open before the
/// connections of a run are made.
pub fn envoy(sites: &[Site]) -> String {
    const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3";
    const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
    let (mut listeners, mut clusters) = (String::new(), String::new());
    let socket = |address: &SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        format!("{{socket_address: {{address: \"{ip}\", port_value: {port}}}}}")
    };
    for Site { body_bytes, listen, origins } in sites {
        let listen = socket(listen);
        push(
            &mut listeners,
            format_args!(
                "  - name: in_{body_bytes}\n    address: {listen}\n    \
                 tcp_backlog_size: {BACKLOG}\n    filter_chains:\n    - filters:\n      \
                 - name: envoy.filters.network.http_connection_manager\n        \
                 typed_config:\n          \
                 \"@type\": type.googleapis.com/{MANAGER}.HttpConnectionManager\n          \
                 codec_type: HTTP1\n          stat_prefix: in_{body_bytes}\n          \
                 common_http_protocol_options: {{idle_timeout: {IDLE_S}s}}\n          \
                 http_filters:\n          - name: envoy.filters.http.router\n            \
                 typed_config: {{\"@type\": type.googleapis.com/{ROUTER}}}\n          \
                 route_config:\n            virtual_hosts:\n            - name: all\n              \
                 domains: [\"*\"]\n              routes:\n              \
                 - {{match: {{prefix: /}}, route: {{cluster: size_{body_bytes}}}}}\n"
            ),
        );
        let endpoint = |origin| format!("{{endpoint: {{address: {}}}}}", socket(origin));
        let endpoints: Vec<String> = origins.iter().map(endpoint).collect();
        let endpoints = endpoints.join(", ");
        push(
            &mut clusters,
            format_args!(
                "  - name: size_{body_bytes}\n    type: STATIC\n    connect_timeout: 5s\n    \
                 lb_policy: LEAST_REQUEST\n    circuit_breakers:\n      thresholds:\n      \
                 - {{max_connections: {CONNECTIONS}, max_pending_requests: {CONNECTIONS}, \
                 max_requests: {CONNECTIONS}}}\n    load_assignment:\n      \
                 cluster_name: size_{body_bytes}\n      \
                 endpoints: [{{lb_endpoints: [{endpoints}]}}]\n"
            ),
        );
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

/// Writing to memory cannot fail.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok());
}
