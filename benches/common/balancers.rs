//! Balancers of every kind, and picks from them with the clock and the randomness passed in.

use std::hint::black_box;
use std::time::Duration;

use ringlane::policy::balance::Ask;
use ringlane::policy::{Balancer, Kind, Rng};

pub const SEED: u64 = 7;
pub const ENDPOINTS: [usize; 2] = [10, 10_000];
const RTT: Duration = Duration::from_micros(800);
const BETWEEN_PICKS: Duration = Duration::from_micros(20);

/// What others have under way on each endpoint: an aperture then opens over two thirds of them.
const LOAD_ELSEWHERE: u32 = 1;

pub fn kinds() -> [(&'static str, Kind, u32); 6] {
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

pub fn made(kind: Kind, endpoints: usize, heaviest: u32) -> Balancer {
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

/// Requests that are sent one after the other.
pub struct Picks {
    balancer: Balancer,
    rng: Rng,
    keys: Rng,
    now: Duration,
}

impl Picks {
    pub fn new(balancer: Balancer) -> Picks {
        Picks { balancer, rng: Rng::new(SEED), keys: Rng::new(SEED + 1), now: Duration::ZERO }
    }

    /// Picks, and tells the balancer what came of it.
    #[inline]
    pub fn one(&mut self) {
        self.now += BETWEEN_PICKS;
        let ask = Ask { now: self.now, key: Some(self.keys.next_u64()), avoid: None };
        let picked = self.balancer.pick(&ask, &mut self.rng);
        let picked = black_box(picked.expect("there are endpoints"));
        self.balancer.started(picked);
        self.balancer.finished(picked, self.now, Some(RTT));
    }
}
