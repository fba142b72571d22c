//! What it costs to choose where a request goes: an endpoint of 10 or of 10,000, and a route.
//!
//! Pure code, with the clock and the randomness passed in: `cargo bench --bench policy`. A pick by
//! two choices must not cost more among many endpoints than the memory that it has to touch.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringlane::policy::{Balancer, Kind, Rng, Route, RouteTable};

const SEED: u64 = 7;
const ENDPOINTS: [usize; 2] = [10, 10_000];
const RTT: Duration = Duration::from_micros(800);
const BETWEEN_PICKS: Duration = Duration::from_micros(20);

fn picks(criterion: &mut Criterion) {
    let kinds = [
        ("round_robin", Kind::RoundRobin),
        ("least_loaded", Kind::LeastLoaded),
        ("ewma", Kind::Ewma { decay: Duration::from_secs(10) }),
    ];
    for (name, kind) in kinds {
        let mut group = criterion.benchmark_group(format!("pick, {name}"));
        for endpoints in ENDPOINTS {
            // Weights of 1 and 2, as after a move to larger machines.
            let weights: Vec<u32> = (0..endpoints).map(|at| 1 + at as u32 % 2).collect();
            let mut balancer = Balancer::new(kind, &weights);
            let mut rng = Rng::new(SEED);
            let mut now = Duration::ZERO;
            group.bench_function(format!("{endpoints} endpoints"), |bencher| {
                bencher.iter(|| {
                    now += BETWEEN_PICKS;
                    let picked = balancer.pick(now, &mut rng, None);
                    let picked = black_box(picked.expect("there are endpoints"));
                    balancer.started(picked);
                    balancer.finished(picked, now, Some(RTT));
                });
            });
        }
        group.finish();
    }
}

fn routes(criterion: &mut Criterion) {
    let route = |host: Option<&str>, path_prefix: Option<String>, service| Route {
        host: host.map(str::to_owned),
        path_prefix,
        service,
    };
    let mut rules: Vec<Route> =
        (0..50).map(|at| route(Some("api.example.com"), Some(format!("/v{at}")), at)).collect();
    rules.push(route(None, None, 50));
    let table = RouteTable::new(rules);
    let mut group = criterion.benchmark_group("route, 51 rules");
    for (name, host, path) in [
        ("first", "api.example.com", "/v0/users?q=1"),
        ("last", "www.example.com", "/index.html"),
        ("to be resolved", "api.example.com", "/a/../v0/%75sers"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let found = table.find(black_box(host.as_bytes()), black_box(path.as_bytes()));
                black_box(found.expect("no climb"))
            });
        });
    }
    group.finish();
}

criterion_group!(policy, picks, routes);
criterion_main!(policy);
