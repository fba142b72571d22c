//! What it costs to choose where a request goes: an endpoint of 10 or of 10,000, and a route.
//!
//! Pure code, with the clock and the randomness passed in: `cargo bench --bench policy`. A pick by
//! two choices must not cost more among many endpoints than the memory that it has to touch.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringlane::policy::balance::{Ask, Standing};
use ringlane::policy::{Balancer, Kind, Rng, Route, RouteTable};

const SEED: u64 = 7;
const ENDPOINTS: [usize; 2] = [10, 10_000];
const RTT: Duration = Duration::from_micros(800);
const BETWEEN_PICKS: Duration = Duration::from_micros(20);

/// What others have under way on each endpoint: an aperture then opens over two thirds of them.
const LOAD_ELSEWHERE: u32 = 1;

fn kinds() -> [(&'static str, Kind, u32); 6] {
    let aperture = Kind::Aperture { decay: Duration::from_secs(5), low: 0.5, high: 1.5, min: 1 };
    // Weights of 1 and 2, as after a move to larger machines; round robin is cheaper without.
    [
        ("round_robin", Kind::RoundRobin, 2),
        ("round_robin of equals", Kind::RoundRobin, 1),
        ("least_loaded", Kind::LeastLoaded, 2),
        ("ewma", Kind::Ewma { decay: Duration::from_secs(10) }, 2),
        ("aperture", aperture, 2),
        ("consistent_hash", Kind::ConsistentHash { bound: 1.25 }, 2),
    ]
}

fn made(kind: Kind, endpoints: usize, heaviest: u32) -> Balancer {
    let mut balancer = Balancer::new(kind, SEED);
    let mut keys = Rng::new(SEED);
    for at in 0..endpoints as u32 {
        balancer.add(1 + at % heaviest, keys.next_u64(), Duration::ZERO, false);
    }
    balancer.rebuild(Duration::ZERO);
    let totals = vec![LOAD_ELSEWHERE; endpoints];
    balancer.refresh(Duration::ZERO, Some(&totals));
    balancer
}

fn picks(criterion: &mut Criterion) {
    for (name, kind, heaviest) in kinds() {
        let mut group = criterion.benchmark_group(format!("pick, {name}"));
        for endpoints in ENDPOINTS {
            let mut balancer = made(kind, endpoints, heaviest);
            let mut rng = Rng::new(SEED);
            let mut keys = Rng::new(SEED + 1);
            let mut now = Duration::ZERO;
            group.bench_function(format!("{endpoints} endpoints"), |bencher| {
                bencher.iter(|| {
                    now += BETWEEN_PICKS;
                    let ask = Ask { now, key: Some(keys.next_u64()), avoid: None };
                    let picked = balancer.pick(&ask, &mut rng);
                    let picked = black_box(picked.expect("there are endpoints"));
                    balancer.started(picked);
                    balancer.finished(picked, now, Some(RTT));
                });
            });
        }
        group.finish();
    }
}

/// What a shard stands still for when endpoints change: one is ejected, or one comes and one goes.
fn changes(criterion: &mut Criterion) {
    for (name, kind, heaviest) in kinds() {
        let mut group = criterion.benchmark_group(format!("change, {name}"));
        for endpoints in ENDPOINTS {
            let mut balancer = made(kind, endpoints, heaviest);
            let now = Duration::ZERO;
            // Round robin places its endpoints when it is first asked.
            balancer.pick(&Ask::default(), &mut Rng::new(SEED));
            let mut standing = Standing::Available;
            group.bench_function(format!("standing, {endpoints} endpoints"), |bencher| {
                bencher.iter(|| {
                    standing = match standing {
                        Standing::Available => Standing::Out,
                        Standing::Out | Standing::Drained => Standing::Available,
                    };
                    balancer.set_standing(0, standing, now);
                    balancer.rebuild(now);
                });
            });
            let mut keys = Rng::new(SEED + 2);
            let mut slot = 1;
            group.bench_function(format!("endpoint, {endpoints} endpoints"), |bencher| {
                bencher.iter(|| {
                    balancer.remove(slot);
                    slot = balancer.add(1, keys.next_u64(), now, true);
                    balancer.rebuild(now);
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

criterion_group!(policy, picks, changes, routes);
criterion_main!(policy);
