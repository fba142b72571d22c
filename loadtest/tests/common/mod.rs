//! Runs against origins by script, both in the test's own process.
#![allow(dead_code)] // Each test uses its part.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use http::Method;
use ringlane_loadtest::engine::{Plan, PlannedLoad};
use ringlane_loadtest::origin::{self, Origin, Running};
use ringlane_loadtest::request::{Shape, Target};
use ringlane_loadtest::run::Asked;
use ringlane_loadtest::schedule::Arrivals;

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Origins that do as their scripts say, each on a port of its own.
pub(crate) fn origins(scripts: &[&str]) -> Running {
    let origin = |script: &&str| Origin {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        script: script.parse().expect("a right script"),
    };
    origin::start(scripts.iter().map(origin).collect(), None).expect("origins")
}

/// One that answers at once, on a core of its own.
pub(crate) fn origin_on(core: usize) -> Running {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let script = "".parse().expect("a right script");
    origin::start(vec![Origin { address, script }], Some(core)).expect("an origin")
}

/// A plan for all addresses alike, its requests numbered.
pub(crate) fn plan(addresses: &[SocketAddr], load: PlannedLoad, duration: Duration) -> Plan {
    let shape = Shape {
        method: Method::GET,
        fields: Vec::new(),
        body: Vec::new(),
        chunked: None,
        numbered: true,
    };
    let kind = |address: &SocketAddr| {
        let target: Target = format!("http://{address}/").parse().expect("a right URL");
        target.kind(*address, &shape)
    };
    let per_second = match load {
        PlannedLoad::Open(arrivals) => Some(arrivals.expected_by(Duration::from_secs(1))),
        PlannedLoad::Closed => None,
    };
    Plan {
        asked: Asked {
            target: "the test's origins".into(),
            kind: "as the test says".into(),
            per_second,
            cores: 1,
            connections: 64,
        },
        requests: addresses.iter().map(kind).collect(),
        threads: vec![None],
        load,
        warmup: Duration::ZERO,
        duration: Some(duration),
        request_count: None,
        connections: 64,
        timeout: Duration::from_secs(5),
        churn: None,
        slack: Duration::from_micros(1),
        seed: 1,
    }
}

pub(crate) fn constant(per_second: f64) -> PlannedLoad {
    PlannedLoad::Open(Arrivals::Constant { per_second })
}

pub(crate) fn wait_until(mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "it never held");
        thread::yield_now();
    }
}
