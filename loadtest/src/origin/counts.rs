//! What an origin served, so that a run can be checked for loss and duplicates.
//!
//! A request that came whole is in exactly one of `answered`, `resets`, `cuts`, `lost` and
//! `waiting`. Bad requests and those for the counts themselves are in none of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::ids::{IdCounts, Ids};

/// Changes when a key goes or means something else; keys that come leave it.
pub const FORMAT: u32 = 1;

/// Of all origins of a process, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub origins: Vec<(SocketAddr, Served)>,
    /// Ids that came to two origins are repeated here, and not there.
    pub total: Served,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Accepted. One on which nothing but the counts was asked for is not counted.
    pub connections: u64,
    /// That came whole, with their bodies.
    pub requests: u64,
    /// Of which the last byte was handed to the kernel.
    pub answered: u64,
    /// `answered`, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections reset in place of an answer, as the script has it.
    pub resets: u64,
    /// Answers broken off in the middle, as the script has it.
    pub cuts: u64,
    /// Requests whose connection ended before their answer was whole.
    pub lost: u64,
    /// Requests whose answer is not whole yet.
    pub waiting: u64,
    /// Answered with 400, after which the connection is closed.
    pub bad_requests: u64,
    /// Of requests that came whole, without chunks' framing.
    pub body_bytes_in: u64,
    /// Of answers that left whole, without chunks' framing.
    pub body_bytes_out: u64,
    pub ids: IdCounts,
}

/// What is counted while an origin serves.
pub struct Tally {
    /// Without statuses, waiting and ids.
    pub served: Served,
    statuses: [u64; STATUSES],
    pub ids: Ids,
}

/// Statuses are below.
const STATUSES: usize = 600;

impl Default for Tally {
    fn default() -> Tally {
        Tally { served: Served::default(), statuses: [0; STATUSES], ids: Ids::default() }
    }
}

impl Tally {
    pub fn answered(&mut self, status: u16) {
        self.served.answered += 1;
        if let Some(count) = self.statuses.get_mut(usize::from(status)) {
            *count += 1;
        }
    }

    pub fn served(&self, waiting: u64) -> Served {
        let statuses = (0..).zip(self.statuses).filter(|(_, count)| *count > 0).collect();
        Served { statuses, waiting, ids: self.ids.counts(), ..self.served.clone() }
    }
}

impl Served {
    /// Everything but ids, which do not add up.
    pub fn add(&mut self, other: &Served) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.answered += other.answered;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.resets += other.resets;
        self.cuts += other.cuts;
        self.lost += other.lost;
        self.waiting += other.waiting;
        self.bad_requests += other.bad_requests;
        self.body_bytes_in += other.body_bytes_in;
        self.body_bytes_out += other.body_bytes_out;
    }

    pub fn json(&self) -> Value {
        let statuses = self.statuses.iter().map(|(key, count)| (key.to_string(), (*count).into()));
        json!({
            "connections_total": self.connections,
            "requests_total": self.requests,
            "answered_total": self.answered,
            "statuses": statuses.collect::<Map<_, _>>(),
            "resets_total": self.resets,
            "cuts_total": self.cuts,
            "lost_total": self.lost,
            "waiting": self.waiting,
            "bad_requests_total": self.bad_requests,
            "body_bytes_in_total": self.body_bytes_in,
            "body_bytes_out_total": self.body_bytes_out,
            "ids_total": self.ids.total,
            "ids_different": self.ids.different,
            "ids_repeated": self.ids.repeated,
            "ids_untracked_total": self.ids.untracked,
        })
    }
}

impl Counts {
    pub fn json(&self) -> Value {
        let origin = |(address, served): &(SocketAddr, Served)| {
            let mut value = served.json();
            value["address"] = address.to_string().into();
            value
        };
        json!({
            "format": FORMAT,
            "origins": self.origins.iter().map(origin).collect::<Vec<_>>(),
            "total": self.total.json(),
        })
    }
}
