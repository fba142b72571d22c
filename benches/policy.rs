//! What it costs to choose where a request goes: an endpoint of 10 or of 10,000, and a route.
//!
//! Pure code, with the clock and the randomness passed in: `cargo bench --bench policy`. A pick by
//! two choices must not cost more among many endpoints than the memory that it has to touch.

mod common;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::hint::black_box;
use std::time::Duration;

use common::balancers::{ENDPOINTS, Picks, SEED, kinds, made};
use common::bounds::{Timed, report, timed};
use criterion::{Criterion, criterion_group, criterion_main};
use ringlane::policy::balance::{Ask, Standing};
use ringlane::policy::{Kind, Rng, Route, RouteTable};

/// The nearest bound is the memory that a pick touches, of which there is more than a first level
/// of cache holds once there are thousands: two misses at least where two are drawn; beyond that
/// its arithmetic (an average that decays is an `exp`).
fn picks(criterion: &mut Criterion) {
    for (name, kind, heaviest) in kinds() {
        let group_name = format!("pick, {name}");
        let mut group = criterion.benchmark_group(&group_name);
        for endpoints in ENDPOINTS {
            let mut picks = Picks::new(made(kind, endpoints, heaviest));
            group.bench_function(format!("{endpoints} endpoints"), |bencher| {
                bencher.iter(|| picks.one());
            });
        }
        group.finish();
        for endpoints in ENDPOINTS {
            let mut picks = Picks::new(made(kind, endpoints, heaviest));
            let item = format!("{endpoints} endpoints");
            let bound = Memory::new(endpoints).touched_by(kind, heaviest);
            report(&group_name, &item, timed("", || picks.one()), vec![bound]);
        }
    }
}

/// What balancers keep in memory, by size: an entry to draw from, an endpoint, an average.
struct Memory {
    entries: Vec<[u32; 3]>,
    endpoints: Vec<[u64; 7]>,
    averages: Vec<[u64; 4]>,
    rng: Rng,
    /// What was last read. The next draw needs it, as the next request is not there before this one
    /// is sent; else a processor would look into many places at once.
    last: u64,
}

impl Memory {
    fn new(endpoints: usize) -> Memory {
        let mut rng = Rng::new(SEED);
        let slot = |rng: &mut Rng| (rng.next_u64() % endpoints as u64) as u32;
        Memory {
            entries: (0..endpoints).map(|_| [u32::MAX, slot(&mut rng), 0]).collect(),
            endpoints: vec![[0; 7]; endpoints],
            averages: vec![[1; 4]; endpoints],
            rng,
            last: 0,
        }
    }

    /// The places that a pick depends on, read and written once, without deciding anything.
    fn touched_by(self, kind: Kind, heaviest: u32) -> Timed<'static> {
        match kind {
            Kind::RoundRobin if heaviest == 1 => self.in_turn(),
            Kind::RoundRobin => self.of_a_heap(),
            Kind::LeastLoaded | Kind::Aperture { .. } => self.of_two(false),
            Kind::Ewma { .. } => self.of_two(true),
            Kind::ConsistentHash { .. } => self.of_a_ring(),
        }
    }

    fn of_two(mut self, has_average: bool) -> Timed<'static> {
        let average = if has_average { ", average" } else { "" };
        timed(format!("entry{average} and endpoint of two drawn"), move || {
            let [a, b] = [self.draw(), self.draw()];
            self.last = self.endpoints[a][1] ^ self.endpoints[b][1];
            let mut cost = [self.endpoints[a][1], self.endpoints[b][1]];
            if has_average {
                cost[0] += self.averages[a][0];
                cost[1] += self.averages[b][0];
            }
            let picked = if cost[0] < cost[1] { a } else { b };
            self.endpoints[picked][1] += 1;
            self.averages[picked][1] += u64::from(has_average);
        })
    }

    fn in_turn(mut self) -> Timed<'static> {
        let mut next = 0;
        timed("entry and endpoint of the next", move || {
            next = if next + 1 < self.entries.len() { next + 1 } else { 0 };
            let slot = self.entries[next][1] as usize;
            self.endpoints[slot][1] += 1;
        })
    }

    fn of_a_heap(mut self) -> Timed<'static> {
        let count = self.endpoints.len() as u64;
        let mut turns: BinaryHeap<Reverse<(u64, u32)>> =
            (0..count).map(|slot| Reverse((slot, slot as u32))).collect();
        timed("the top of a heap of integers, and its endpoint", move || {
            let mut top = turns.peek_mut().expect("it has turns");
            let Reverse((deadline, slot)) = *top;
            top.0.0 = deadline + count * (1 + u64::from(slot % 2));
            drop::<PeekMut<'_, _>>(top);
            self.endpoints[slot as usize][1] += 1;
        })
    }

    /// Of 160 points for each endpoint, and one entry into them for each.
    fn of_a_ring(mut self) -> Timed<'static> {
        const POINTS: usize = 160;
        let count = self.endpoints.len() * POINTS;
        let first: Vec<u32> = (0..count as u32).collect();
        let points: Vec<u64> = (0..count).map(|_| self.draw() as u64).collect();
        timed("a place of a ring, its point, and that one's endpoint", move || {
            let place = (self.rng.next_u64() ^ self.last) as usize % count;
            let point = points[first[place] as usize];
            self.endpoints[point as usize][1] += 1;
            self.last = self.endpoints[point as usize][1];
        })
    }

    fn draw(&mut self) -> usize {
        let count = self.entries.len() as u128;
        let at = ((u128::from(self.rng.next_u64() ^ self.last) * count) >> 64) as usize;
        self.entries[at][1] as usize
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
