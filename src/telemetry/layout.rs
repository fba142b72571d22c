//! Which id stands for which server, service and endpoint: dealt out when a configuration is
//! applied, so that the data path counts by index.
//!
//! An id keeps its meaning for as long as anybody may use it: what a later configuration still has
//! keeps its ids, and an id that became free is not dealt out again before `series_ttl` has
//! passed, when no snapshot on the way names it any more. A `Layout` is one generation of this.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::samples::Series;

/// The label of what is beyond `max_series`.
pub const OTHER: &str = "other";

/// The id of an endpoint that has none: what happens there is counted for its target alone.
pub const NO_ENDPOINT: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName {
    pub router: String,
    pub address: SocketAddr,
}

/// A service as one router uses it; Linkerd would call it a service and a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetName {
    pub router: String,
    pub service: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointName {
    pub target: TargetName,
    /// As configured, or `other`.
    pub address: String,
}

/// A service whichever routers use it: pools and balancers belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    pub name: String,
    /// The balancer's kind.
    pub algorithm: &'static str,
    /// As configured.
    pub endpoints: Vec<String>,
    /// Labels of the routers with a route to it.
    pub routers: Vec<String>,
}

/// A target's ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetIds {
    pub id: u32,
    /// By the index of the endpoint in its service.
    pub endpoints: Box<[u32]>,
}

/// One generation of ids. Index of a name = its id; `None`: not in use.
#[derive(Debug, Default)]
pub struct Layout {
    pub generation: u64,
    pub servers: Vec<Option<ServerName>>,
    pub targets: Vec<Option<TargetName>>,
    pub endpoints: Vec<Option<EndpointName>>,
    /// By the index that the configuration gives them.
    pub services: Vec<ServiceFacts>,
    /// By endpoint.
    endpoint_targets: Vec<Option<u32>>,
    first_of_targets: u32,
    first_of_endpoints: u32,
    server_ids: HashMap<ServerName, u32>,
    target_ids: HashMap<TargetName, TargetIds>,
}

/// The distributions and sets of counters of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ServerSeries {
    Latency,
    ProxyLatency,
    RequestBytes,
    ResponseBytes,
    ConnectionDuration,
    ConnectionRequests,
    Status,
    Failures,
}

/// Those of a service and its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TargetSeries {
    Latency,
    RetriesPerRequest,
    Failures,
    AttemptLatency,
    AttemptRequestBytes,
    AttemptResponseBytes,
    ConnectLatency,
    ConnectionDuration,
    ConnectionRequests,
    AttemptStatus,
    AttemptFailures,
}

impl ServerSeries {
    pub const ALL: [ServerSeries; 8] = {
        use ServerSeries::*;
        [
            Latency,
            ProxyLatency,
            RequestBytes,
            ResponseBytes,
            ConnectionDuration,
            ConnectionRequests,
            Status,
            Failures,
        ]
    };
}

impl TargetSeries {
    pub const ALL: [TargetSeries; 11] = {
        use TargetSeries::*;
        [
            Latency,
            RetriesPerRequest,
            Failures,
            AttemptLatency,
            AttemptRequestBytes,
            AttemptResponseBytes,
            ConnectLatency,
            ConnectionDuration,
            ConnectionRequests,
            AttemptStatus,
            AttemptFailures,
        ]
    };
}

/// What a series stands for; endpoints have a latency and nothing else that is no plain counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Server(u32, ServerSeries),
    Target(u32, TargetSeries),
    Endpoint(u32),
}

fn named<N>(names: &[Option<N>], id: u32) -> Option<&N> {
    names.get(id as usize)?.as_ref()
}

impl Layout {
    /// What an id stands for; `None`: nothing in this generation. So are the next two.
    pub fn server(&self, id: u32) -> Option<&ServerName> {
        named(&self.servers, id)
    }

    pub fn target(&self, id: u32) -> Option<&TargetName> {
        named(&self.targets, id)
    }

    /// Not where it shares its id with others, or has none.
    pub fn endpoint(&self, id: u32) -> Option<&EndpointName> {
        named(&self.endpoints, id).filter(|name| name.address != OTHER)
    }

    pub fn series_count(&self) -> usize {
        self.first_of_endpoints as usize + self.endpoints.len()
    }

    #[inline]
    pub fn of_server(&self, server: u32, which: ServerSeries) -> Series {
        Series(server * ServerSeries::ALL.len() as u32 + which as u32)
    }

    #[inline]
    pub fn of_target(&self, target: u32, which: TargetSeries) -> Series {
        let within = target * TargetSeries::ALL.len() as u32 + which as u32;
        Series(self.first_of_targets + within)
    }

    #[inline]
    pub fn of_endpoint(&self, endpoint: u32) -> Series {
        Series(self.first_of_endpoints + endpoint)
    }

    pub fn meaning(&self, series: Series) -> Meaning {
        let (servers, targets) = (ServerSeries::ALL.len() as u32, TargetSeries::ALL.len() as u32);
        let first = self.first_of_targets;
        if series.0 < first {
            let which = ServerSeries::ALL[(series.0 % servers) as usize];
            return Meaning::Server(series.0 / servers, which);
        }
        let within = series.0 - first;
        if series.0 < self.first_of_endpoints {
            let which = TargetSeries::ALL[(within % targets) as usize];
            return Meaning::Target(within / targets, which);
        }
        Meaning::Endpoint(series.0 - self.first_of_endpoints)
    }

    pub fn server_id(&self, name: &ServerName) -> Option<u32> {
        self.server_ids.get(name).copied()
    }

    pub fn target_ids(&self, name: &TargetName) -> Option<&TargetIds> {
        self.target_ids.get(name)
    }

    pub fn target_of(&self, endpoint: u32) -> Option<u32> {
        *self.endpoint_targets.get(endpoint as usize)?
    }
}

/// What a configuration has, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub servers: Vec<ServerName>,
    pub services: Vec<ServiceFacts>,
}

/// Ids whose series are kept, since somebody still counts for them or they have not been shown for
/// long enough: they are not dealt out again.
#[derive(Clone, Debug, Default)]
pub struct Occupied {
    pub servers: Vec<bool>,
    pub targets: Vec<bool>,
    pub endpoints: Vec<bool>,
}

/// Deals out ids, generation after generation. Whoever finds that they are too many keeps the one
/// from before.
#[derive(Clone, Debug)]
pub struct Registry {
    series_ttl: Duration,
    /// Endpoint names that one target may have; further ones are `other`.
    max_series: usize,
    generation: u64,
    servers: Ids<ServerName>,
    targets: Ids<TargetName>,
    endpoints: Ids<EndpointName>,
}

impl Registry {
    pub fn new(max_series: usize, series_ttl: Duration) -> Registry {
        Registry {
            series_ttl,
            max_series,
            generation: 0,
            servers: Ids::default(),
            targets: Ids::default(),
            endpoints: Ids::default(),
        }
    }

    /// The ids of the next generation.
    pub fn apply(&mut self, topology: &Topology, now: Instant, occupied: &Occupied) -> Arc<Layout> {
        self.generation += 1;
        self.servers.begin(now, self.series_ttl, &occupied.servers);
        self.targets.begin(now, self.series_ttl, &occupied.targets);
        self.endpoints.begin(now, self.series_ttl, &occupied.endpoints);
        let mut layout = Layout {
            generation: self.generation,
            services: topology.services.clone(),
            ..Layout::default()
        };
        for name in &topology.servers {
            layout.server_ids.insert(name.clone(), self.servers.id(name));
        }
        let mut held: HashMap<TargetName, usize> = HashMap::new();
        for name in self.endpoints.by_name.keys().filter(|name| name.address != OTHER) {
            *held.entry(name.target.clone()).or_default() += 1;
        }
        for service in &topology.services {
            for router in &service.routers {
                let target = TargetName { router: router.clone(), service: service.name.clone() };
                let held = held.entry(target.clone()).or_default();
                let endpoints = service.endpoints.iter();
                let endpoints = endpoints.map(|address| self.endpoint(&target, address, held));
                let ids =
                    TargetIds { endpoints: endpoints.collect(), id: self.targets.id(&target) };
                layout.target_ids.insert(target, ids);
            }
        }
        layout.servers = self.servers.names(now);
        layout.targets = self.targets.names(now);
        layout.endpoints = self.endpoints.names(now);
        let target = |name: &EndpointName| self.targets.by_name.get(&name.target).copied();
        // Of those that went too: what they still have on the way counts for their target, which
        // may have gone itself.
        let names = self.endpoints.slots.iter().map(|slot| slot.name.as_ref());
        layout.endpoint_targets = names.map(|name| target(name?)).collect();
        layout.first_of_targets = (layout.servers.len() * ServerSeries::ALL.len()) as u32;
        layout.first_of_endpoints =
            layout.first_of_targets + (layout.targets.len() * TargetSeries::ALL.len()) as u32;
        Arc::new(layout)
    }

    /// An endpoint's id, or that of `other` where its target has as many names as it may.
    fn endpoint(&mut self, target: &TargetName, address: &str, held: &mut usize) -> u32 {
        let mut name = EndpointName { target: target.clone(), address: address.to_owned() };
        if self.endpoints.has(&name) {
            return self.endpoints.id(&name);
        }
        if *held >= self.max_series {
            name.address = OTHER.to_owned();
        } else {
            *held += 1;
        }
        self.endpoints.id(&name)
    }
}

/// Ids of one kind of name.
#[derive(Clone, Debug)]
struct Ids<N> {
    slots: Vec<Slot<N>>,
    by_name: HashMap<N, u32>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Slot<N> {
    /// `None`: free.
    name: Option<N>,
    /// Named by the generation that is being made.
    named: bool,
    gone_since: Option<Instant>,
}

impl<N> Default for Ids<N> {
    fn default() -> Ids<N> {
        Ids { slots: Vec::new(), by_name: HashMap::new(), free: Vec::new() }
    }
}

impl<N: Clone + Eq + Hash> Ids<N> {
    /// Begins a generation: what has been gone for long enough is freed.
    fn begin(&mut self, now: Instant, ttl: Duration, occupied: &[bool]) {
        for (id, slot) in self.slots.iter_mut().enumerate() {
            slot.named = false;
            let is_occupied = occupied.get(id).copied().unwrap_or(false);
            // Twice, so that whatever was on the way when the series went has arrived.
            let is_long = |since| now.duration_since(since) > ttl * 2;
            if slot.gone_since.is_some_and(is_long) && !is_occupied {
                slot.gone_since = None;
                if let Some(name) = slot.name.take() {
                    self.by_name.remove(&name);
                }
                self.free.push(id as u32);
            }
        }
    }

    fn has(&self, name: &N) -> bool {
        self.by_name.contains_key(name)
    }

    fn id(&mut self, name: &N) -> u32 {
        if let Some(&id) = self.by_name.get(name) {
            let slot = &mut self.slots[id as usize];
            (slot.named, slot.gone_since) = (true, None);
            return id;
        }
        let slot = Slot { name: Some(name.clone()), named: true, gone_since: None };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_name.insert(name.clone(), id);
        id
    }

    /// The names of the generation, by id.
    fn names(&mut self, now: Instant) -> Vec<Option<N>> {
        let names = self.slots.iter_mut().map(|slot| {
            if !slot.named && slot.name.is_some() {
                slot.gone_since.get_or_insert(now);
            }
            slot.name.clone().filter(|_| slot.named)
        });
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> TargetName {
        TargetName { router: "http".into(), service: "web".into() }
    }

    fn topology(addresses: &[String]) -> Topology {
        Topology {
            servers: vec![ServerName {
                router: "http".into(),
                address: ([127, 0, 0, 1], 80).into(),
            }],
            services: vec![ServiceFacts {
                name: "web".into(),
                algorithm: "ewma",
                endpoints: addresses.to_vec(),
                routers: vec!["http".into()],
            }],
        }
    }

    #[test]
    fn series_and_their_meaning_are_one_to_one() {
        let mut registry = Registry::new(10, Duration::ZERO);
        let layout = registry.apply(
            &topology(&["a".into(), "b".into()]),
            Instant::now(),
            &Occupied::default(),
        );
        let mut seen = Vec::new();
        for which in ServerSeries::ALL {
            seen.push((layout.of_server(0, which), Meaning::Server(0, which)));
        }
        for which in TargetSeries::ALL {
            seen.push((layout.of_target(0, which), Meaning::Target(0, which)));
        }
        for endpoint in 0..2 {
            seen.push((layout.of_endpoint(endpoint), Meaning::Endpoint(endpoint)));
        }
        assert_eq!(seen.len(), layout.series_count());
        for (at, (series, meaning)) in seen.into_iter().enumerate() {
            assert_eq!(series.0 as usize, at);
            assert_eq!(layout.meaning(series), meaning);
        }
    }

    #[test]
    fn what_stays_keeps_its_id_and_what_went_is_not_reused_too_soon() {
        let (start, ttl) = (Instant::now(), Duration::from_secs(10));
        let mut registry = Registry::new(10, ttl);
        let ids = |layout: &Layout| layout.target_ids(&target()).unwrap().endpoints.to_vec();
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(
            ids(&registry.apply(&topology(&["a".into(), "b".into()]), at(0), &Occupied::default())),
            [0, 1]
        );
        let second =
            registry.apply(&topology(&["b".into(), "c".into()]), at(1), &Occupied::default());
        assert_eq!(ids(&second), [1, 2]);
        assert_eq!(second.endpoints[0], None);
        assert_eq!(
            ids(&registry.apply(&topology(&["d".into()]), at(2), &Occupied::default())),
            [3]
        );
        // After twice the time that series stay, ids come back.
        assert_eq!(
            ids(&registry.apply(
                &topology(&["d".into(), "e".into()]),
                at(30),
                &Occupied::default()
            ))[0],
            3
        );
        let late =
            registry.apply(&topology(&["d".into(), "f".into()]), at(60), &Occupied::default());
        assert!(ids(&late)[1] < 3, "{:?}", ids(&late));
    }

    #[test]
    fn addresses_that_come_and_go_stay_within_their_bound() {
        let (start, ttl) = (Instant::now(), Duration::from_secs(60));
        let mut registry = Registry::new(100, ttl);
        for round in 0..2_000u64 {
            let addresses: Vec<String> =
                (0..10).map(|n| format!("10.0.{}.{n}:80", round % 250)).collect();
            let now = start + Duration::from_secs(round * 10);
            let layout = registry.apply(&topology(&addresses), now, &Occupied::default());
            assert!(layout.endpoints.len() <= 101, "round {round}: {}", layout.endpoints.len());
        }
    }
}
