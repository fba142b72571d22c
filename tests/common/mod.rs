//! What the socket tests share: the real proxy as a child process, scripted origins, raw clients.
//!
//! Tests state bytes and look at bytes; nothing here corrects what a test sends. Everything listens
//! on a port that the kernel picks, and every wait has a deadline.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod gate;
mod metrics;
mod origin;
mod pattern;
mod proxy;
mod statsd;
pub mod web;
mod wire;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

pub use gate::{Gate, failing, holding, refusing};
pub use metrics::Metrics;
pub use origin::{Origin, silent};
pub use pattern::{Pattern, Rng};
pub use proxy::{Memory, Proxy};
pub use statsd::{Collector, Counters};
pub use wire::{Answer, Framing, Head, Request, Wire, ok};

/// How long a test waits for what must happen. Generous: machines are shared, builds are debug.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test with one shard and with four.
pub fn both(test: impl Fn(&str)) {
    for cores in ["0", four()] {
        eprintln!("with cores: \"{cores}\"");
        test(cores);
    }
}

/// Cores for four shards.
pub fn four() -> &'static str {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 { "0,0,1,1" } else { "0,0,0,0" }
}

/// What AddressSanitizer adds to a process, at most: it holds back what was freed, and shadows it.
pub fn sanitizer_kib() -> u64 {
    if std::env::var_os("ASAN_OPTIONS").is_some() { 256 << 10 } else { 0 }
}

/// Waits until `holds`, and fails the test where that takes too long.
#[track_caller]
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(DEADLINE, what, holds);
}

/// The same for what may rightly take longer.
#[track_caller]
pub fn eventually_within(within: Duration, what: &str, holds: impl FnMut() -> bool) {
    eventually_seen(within, what, holds, |holds| *holds);
}

/// Looks until it is as it should be; what was seen then, or in the failure what was seen last.
#[track_caller]
pub fn eventually_seen<T: Debug>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> T,
    holds: impl Fn(&T) -> bool,
) -> T {
    let ends = Instant::now() + within;
    loop {
        let seen = look();
        if holds(&seen) {
            return seen;
        }
        assert!(Instant::now() < ends, "not within {within:?}: {what}, but {seen:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A configuration of one router and one service, without `runtime` and `admin`, which
/// [`Proxy::start`] adds. `router` and `service` are further keys of theirs, one per line.
pub fn config(endpoints: &[SocketAddr], router: &str, service: &str) -> String {
    let indented = |text: &str, by: &str| -> String {
        text.lines().map(|line| format!("{by}{line}\n")).collect()
    };
    let endpoints: Vec<String> = endpoints.iter().map(|it| format!("\"{it}\"")).collect();
    format!(
        "routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes: [{{service: web}}]\n\
         {}services:\n  web:\n    endpoints: [{}]\n{}",
        indented(router, "  "),
        endpoints.join(", "),
        indented(service, "    "),
    )
}

/// The quantile of some values by nearest rank, as the proxy's figures are read.
pub fn quantile(values: &[f64], quantile: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (quantile * sorted.len() as f64 - 1e-6).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// How many descriptors this process may have: some tests open thousands of connections.
pub fn descriptor_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(1024)
}
