//! What an engine is given to do. Plain data.

use std::net::SocketAddr;
use std::time::Duration;

use crate::run::Asked;
use crate::schedule::{Arrivals, Schedule};

/// One kind of request: as it goes over the wire, and where.
#[derive(Debug, Clone)]
pub struct Kind {
    pub address: SocketAddr,
    pub bytes: Vec<u8>,
    /// The last on its connection, which says so.
    pub last: Vec<u8>,
    /// Where in both the sixteen digits of a request's number stand. `None`: it has none.
    pub number_at: Option<usize>,
    /// Its answer has no body, whatever its head says.
    pub is_head: bool,
    /// Of all requests, so many parts are of this kind.
    pub weight: u32,
}

/// What holds for all requests of an engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Over all addresses: each has its share, and at least one.
    pub connections: usize,
    /// How long a request may wait for a connection, and then for its answer.
    pub timeout: Duration,
    /// Requests per connection. `None`: as many as the server answers.
    pub churn: Option<u64>,
    /// Which requests are whose: the high digits of their numbers.
    pub core: u16,
    /// The lower digits of the first.
    pub first_number: u64,
    pub seed: u64,
}

/// When requests are sent.
#[derive(Debug)]
pub enum Load {
    /// When they are due, whatever comes of those before.
    Open(Schedule),
    /// The next when the last one is answered, on every connection.
    Closed { duration: Option<Duration>, requests: Option<u64> },
}

/// A run on several cores.
#[derive(Debug, Clone)]
pub struct Plan {
    pub asked: Asked,
    pub requests: Vec<Kind>,
    /// How many threads, and the core that each is pinned to.
    pub threads: Vec<Option<usize>>,
    pub load: PlannedLoad,
    /// Requests that are due before are sent and not recorded.
    pub warmup: Duration,
    /// Of the whole run, warm-up included. `None`: until all `requests` were sent.
    pub duration: Option<Duration>,
    /// Of all threads, the warm-up's among them.
    pub request_count: Option<u64>,
    pub connections: usize,
    pub timeout: Duration,
    pub churn: Option<u64>,
    /// How late the kernel may wake a thread: what is due within goes out at once.
    pub slack: Duration,
    pub seed: u64,
}

#[derive(Debug, Clone, Copy)]
pub enum PlannedLoad {
    Open(Arrivals),
    Closed,
}
