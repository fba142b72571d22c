//! Histories replayed, by subject; and what several of them need.

mod aperture;
mod consistent_hash;
mod every_kind;
mod round_robin;
mod slots;
mod slow_start;
mod two_choices;

use super::*;

const DECAY: Duration = Duration::from_secs(10);
const EWMA: Kind = Kind::Ewma { decay: DECAY };
const APERTURE: Kind =
    Kind::Aperture { decay: Duration::from_secs(5), low: 0.5, high: 2.0, min: 1 };
const CONSISTENT_HASH: Kind = Kind::ConsistentHash { bound: 1.25 };
const KINDS: [Kind; 5] = [Kind::RoundRobin, Kind::LeastLoaded, EWMA, APERTURE, CONSISTENT_HASH];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A balancer with one endpoint per weight, warm from the start, in slots 0, 1, 2.
fn made(kind: Kind, weights: &[u32]) -> Balancer {
    let mut balancer = Balancer::new(kind, 1);
    for (key, &weight) in (0..).zip(weights) {
        balancer.add(weight, key_of(key), ms(0), false);
    }
    balancer.rebuild(ms(0));
    balancer
}

/// As a hash of an address would be.
fn key_of(endpoint: u64) -> u64 {
    Rng::new(endpoint).next_u64()
}

fn at(now: Duration) -> Ask {
    Ask { now, ..Ask::default() }
}

fn avoiding(slot: usize) -> Ask {
    Ask { avoid: Some(slot), ..Ask::default() }
}

fn keyed(key: u64) -> Ask {
    Ask { key: Some(key), ..Ask::default() }
}

/// Weights of 1 to `most`.
fn random_weights(rng: &mut Rng, count: usize, most: usize) -> Vec<u32> {
    (0..count).map(|_| 1 + rng.below(most) as u32).collect()
}
