//! Makes plans: what the configuration, discovery and the operator at run time come to together.
//!
//! Whatever may fail is done while a plan is made, and what is made is kept apart until nothing can
//! fail any more; so a configuration is taken over whole or not at all.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::RunError;
use crate::config::{Config, Endpoint};
use crate::control::EndpointChange;
use crate::shard::{Plan, ServerPlan, ServicePlan, Shared, SocketAddresses, Wanted};
use crate::telemetry::layout::{Layout, Occupied, Registry, ServerName, ServiceFacts, Topology};
use crate::telemetry::samples::Series;

pub(super) struct Planner {
    config: Arc<Config>,
    started: Instant,
    seed: u64,
    generation: u64,
    /// `None`: `telemetry: off`.
    registry: Option<Registry>,
    /// By name.
    services: HashMap<String, Arc<Shared>>,
    services_so_far: u32,
    /// Where the configuration's servers listen, in its order.
    servers: Vec<ServerPlan>,
    /// By service.
    discovered: HashMap<String, Vec<Endpoint>>,
    /// What the operator said at run time, by service and address; it outlives reloads.
    overrides: HashMap<(String, String), Override>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Override {
    drained: Option<bool>,
    weight: Option<u32>,
}

impl Planner {
    pub(super) fn new(config: Arc<Config>, started: Instant, servers: Vec<ServerPlan>) -> Planner {
        let registry =
            config.telemetry.as_ref().map(|it| Registry::new(it.max_series, it.series_ttl));
        Planner {
            config,
            started,
            seed: std::collections::hash_map::RandomState::new().build_hasher().finish(),
            generation: 0,
            registry,
            services: HashMap::new(),
            services_so_far: 0,
            servers,
            discovered: HashMap::new(),
            overrides: HashMap::new(),
        }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Where each of the configuration's servers listens, in its order.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Takes over another configuration, whose servers have been bound. `occupied`: what telemetry
    /// still keeps. Nothing has changed where this fails.
    pub(super) fn adopt(
        &mut self,
        config: Arc<Config>,
        servers: Vec<ServerPlan>,
        occupied: &Occupied,
    ) -> Result<Arc<Plan>, RunError> {
        let before = std::mem::replace(&mut self.config, config);
        let servers_before = std::mem::replace(&mut self.servers, servers);
        let plan = self.plan(occupied);
        if plan.is_err() {
            self.config = before;
            self.servers = servers_before;
        } else {
            let Planner { config, services, discovered, .. } = self;
            let is_configured =
                |name: &String| config.services.iter().any(|service| service.name == *name);
            services.retain(|name, _| is_configured(name));
            discovered.retain(|name, _| is_configured(name));
        }
        plan
    }

    /// Endpoints that discovery has found. Whether they are another set than before.
    pub(super) fn discovered(&mut self, service: String, endpoints: Vec<Endpoint>) -> bool {
        let is_wanted = |it: &crate::config::Service| it.name == service && it.discovery.is_some();
        if !self.config.services.iter().any(is_wanted) {
            // What was on the way when it went from the configuration.
            return false;
        }
        let before = self.discovered.insert(service.clone(), endpoints);
        before.as_ref() != self.discovered.get(&service)
    }

    /// Services whose endpoints have not been found yet.
    pub(super) fn undiscovered(&self) -> usize {
        let services = self.config.services.iter();
        let discovers = services.filter(|it| it.discovery.is_some());
        discovers.filter(|it| !self.discovered.contains_key(&it.name)).count()
    }

    /// Notes what the operator wants of an endpoint. The services that have it, or why not.
    pub(super) fn set_endpoint(&mut self, change: &EndpointChange) -> Result<Vec<String>, String> {
        let EndpointChange { address, service, drained, weight } = change;
        let is_asked = |name: &String| service.as_ref().is_none_or(|asked| asked == name);
        let mut found = Vec::new();
        for it in self.config.services.iter().filter(|it| is_asked(&it.name)) {
            let has = |endpoint: &Endpoint| endpoint.address.to_string() == *address;
            if self.endpoints(it).iter().any(has) {
                found.push(it.name.clone());
            }
        }
        if found.is_empty() {
            let of = service.as_ref().map_or("no service".to_owned(), |it| format!("not {it}"));
            return Err(format!("{of} has an endpoint {address}"));
        }
        for service in &found {
            let it = self.overrides.entry((service.clone(), address.clone())).or_default();
            it.drained = drained.or(it.drained);
            it.weight = weight.or(it.weight);
        }
        Ok(found)
    }

    /// The next generation, of what is known now.
    pub(super) fn plan(&mut self, occupied: &Occupied) -> Result<Arc<Plan>, RunError> {
        let config = self.config.clone();
        let wanted: Vec<Vec<Wanted>> = config.services.iter().map(|it| self.wanted(it)).collect();
        let mut addresses = Vec::new();
        for (service, wanted) in config.services.iter().zip(&wanted) {
            addresses.push(SocketAddresses::of(wanted).map_err(|error| {
                RunError(format!("services.{}: an endpoint's address: {error}", service.name))
            })?);
        }
        let layout = self.layout(&wanted, occupied)?;
        // Nothing fails from here on.
        let shards = config.runtime.shards.len();
        let mut services = Vec::new();
        let each = config.services.iter().zip(&wanted).zip(addresses);
        for ((service, wanted), addresses) in each {
            let shared = self.services.entry(service.name.clone()).or_insert_with(|| {
                self.services_so_far += 1;
                let number = self.services_so_far;
                Arc::new(Shared::new(number, shards, self.started, self.seed))
            });
            services.push(ServicePlan::new(shared, service, wanted, addresses));
        }
        self.generation += 1;
        let (generation, servers) = (self.generation, self.servers.clone());
        Ok(Arc::new(Plan { generation, config, servers, services, layout }))
    }

    fn layout(
        &mut self,
        wanted: &[Vec<Wanted>],
        occupied: &Occupied,
    ) -> Result<Option<Arc<Layout>>, RunError> {
        let topology = topology(&self.config, &self.servers, wanted);
        let Some(registry) = &mut self.registry else { return Ok(None) };
        let layout = registry.apply(&topology, Instant::now(), occupied);
        if layout.series_count() > Series::MAX as usize {
            let (count, most) = (layout.series_count(), Series::MAX);
            return Err(RunError(format!(
                "telemetry has ids for {most} series, and this configuration has {count}; a lower \
                 telemetry.max_series makes fewer"
            )));
        }
        Ok(Some(layout))
    }

    /// A service's endpoints, configured or discovered.
    fn endpoints<'a>(&'a self, service: &'a crate::config::Service) -> &'a [Endpoint] {
        match service.discovery {
            None => &service.endpoints,
            Some(_) => self.discovered.get(&service.name).map_or(&[], Vec::as_slice),
        }
    }

    /// The same, as the operator has set them.
    fn wanted(&self, service: &crate::config::Service) -> Vec<Wanted> {
        let wanted = self.endpoints(service).iter().map(|endpoint| {
            let key = (service.name.clone(), endpoint.address.to_string());
            let set = self.overrides.get(&key).copied().unwrap_or_default();
            Wanted {
                address: endpoint.address.clone(),
                weight: set.weight.unwrap_or(endpoint.weight),
                drained: set.drained.unwrap_or(false),
            }
        });
        wanted.collect()
    }
}

/// The names of what is counted.
fn topology(config: &Config, servers: &[ServerPlan], wanted: &[Vec<Wanted>]) -> Topology {
    let labels = config
        .routers
        .iter()
        .flat_map(|router| router.servers.iter().map(|_| router.label.clone()));
    let servers =
        labels.zip(servers).map(|(router, server)| ServerName { router, address: server.address });
    let services = config.services.iter().zip(wanted).enumerate();
    let services = services.map(|(index, (service, wanted))| {
        let uses = |router: &&crate::config::Router| {
            router.routes.iter().any(|route| route.service == index)
        };
        ServiceFacts {
            name: service.name.clone(),
            algorithm: service.balancer.name(),
            endpoints: wanted.iter().map(|it| it.address.to_string()).collect(),
            routers: config.routers.iter().filter(uses).map(|it| it.label.clone()).collect(),
        }
    });
    Topology { servers: servers.collect(), services: services.collect() }
}
