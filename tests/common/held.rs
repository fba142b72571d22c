//! What a proxy holds while it is beset, what a neighbour notices of that, and that nothing of it
//! stays.

#![allow(dead_code)] // Each test uses its part.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::common::{Metrics, Proxy, Wire, eventually_seen, eventually_within, quantile};

/// As long as the slowest of what is shed takes to go.
const GONE_WITHIN: Duration = Duration::from_secs(40);
/// Looks in a row that see the same.
const STILL: usize = 20;
/// Requests of a neighbour; every fifth over a new connection.
const REQUESTS: usize = 300;

/// What is held for connections, over all shards.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    descriptors: usize,
    slots: u64,
    buffers: u64,
    buffered_bytes: u64,
    pending: u64,
}

impl Held {
    /// Once nobody is connected any more, and no connection is kept for the next.
    #[track_caller]
    pub(crate) fn by_nobody(proxy: &Proxy) -> Held {
        wait_for_the_last(proxy);
        let mut held = Held::by(proxy);
        // Of whoever scraped there may be something left for a moment.
        let mut looks = Vec::new();
        eventually_within(GONE_WITHIN, "descriptors stand still", || {
            looks.push(proxy.descriptors());
            looks
                .rchunks(STILL)
                .next()
                .is_some_and(|last| last.len() == STILL && last.iter().all(|it| *it == last[0]))
        });
        held.descriptors = looks[looks.len() - 1];
        held
    }

    fn by(proxy: &Proxy) -> Held {
        let descriptors = proxy.descriptors();
        let metrics = proxy.metrics();
        let sum = |begins: &str, ends: &str| -> u64 {
            metrics.between(begins, ends).iter().map(|(_, value)| value).sum()
        };
        Held {
            descriptors,
            slots: sum("shard/", "/slots"),
            buffers: sum("shard/", "/buffers_in_use"),
            buffered_bytes: sum("shard/", "/buffered_bytes"),
            pending: sum("rt/", "/pending"),
        }
    }

    fn is_within(&self, base: &Held) -> bool {
        self.descriptors <= base.descriptors
            && self.slots <= base.slots
            && self.buffers <= base.buffers
            && self.buffered_bytes <= base.buffered_bytes
            && self.pending == 0
    }

    /// Waits until no more is held than there was; the counts then, which are conserved.
    #[track_caller]
    pub(crate) fn is_back(&self, proxy: &Proxy) -> Metrics {
        wait_for_the_last(proxy);
        let what = format!("no more is held than {self:?}");
        eventually_seen(GONE_WITHIN, &what, || Held::by(proxy), |held| held.is_within(self));
        let metrics = proxy.metrics();
        metrics.check_conservation();
        metrics
    }
}

/// Waits until nobody is connected, neither client nor endpoint.
#[track_caller]
fn wait_for_the_last(proxy: &Proxy) {
    eventually_within(GONE_WITHIN, "nobody is connected", || {
        let metrics = proxy.metrics();
        let none = |(_, connections): &(String, u64)| *connections == 0;
        // Each shard has said what it has.
        metrics.between("shard/", "/slots").iter().all(|(_, slots)| *slots > 0)
            && metrics.between("rt/", "/connections").iter().all(none)
    });
}

/// Milliseconds that a neighbour's requests take, all of which must be answered: median and p99.
#[track_caller]
pub(crate) fn neighbour(address: SocketAddr) -> (f64, f64) {
    let mut wire = Wire::connect(address);
    let request = |number: usize| {
        let began = Instant::now();
        if number.is_multiple_of(5) {
            wire = Wire::connect(address);
        }
        let answer = wire.get("/200");
        assert_eq!((answer.status(), answer.body.len()), (200, 200), "{:?}", answer.head);
        began.elapsed().as_secs_f64() * 1e3
    };
    let took: Vec<f64> = (0..REQUESTS).map(request).collect();
    (quantile(&took, 0.5), quantile(&took, 0.99))
}

/// Asserts that a neighbour does not suffer, as compared to before. A shared machine may hold up
/// any measurement, but not each.
#[track_caller]
pub(crate) fn assert_unharmed(address: SocketAddr, before: (f64, f64)) {
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let during = neighbour(address);
        seen.push(during);
        if during.0 < before.0 * 3.0 + 2.0 && during.1 < before.1 * 5.0 + 20.0 {
            eprintln!("a neighbour's median and p99 in ms: {before:?}, beset {during:?}");
            return;
        }
    }
    panic!("a neighbour's median and p99 in ms: {before:?}, beset {seen:?}");
}

/// Waits for a count.
#[track_caller]
pub(crate) fn counted(proxy: &Proxy, name: &str, least: u64) -> Metrics {
    let mut last = proxy.metrics();
    eventually_within(GONE_WITHIN, &format!("{name} is {least}"), || {
        last = proxy.metrics();
        last.get(name) >= least
    });
    last
}
