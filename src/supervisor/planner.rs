//! Makes plans: what the configuration, discovery and the operator at run time come to together.
//!
//! Whatever may fail is done while a plan is made, and what is made is kept apart until nothing can
//! fail any more; so a configuration is taken over whole or not at all.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RunError;
use super::control::series_ttl;
use crate::config::{self, Config, Endpoint, Service};
use crate::control::{EndpointChange, Tracing, TracingChange};
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
    /// The same of tracing.
    tracing: TracingChange,
    /// What became of each service last, by name.
    made: HashMap<String, Made>,
    last_layout: Option<(Topology, Arc<Layout>)>,
}

/// What a planner went by before it adopted another configuration.
pub(super) struct Before {
    pub(super) config: Arc<Config>,
    servers: Vec<ServerPlan>,
    /// Services whose endpoints count as discovered since, though they were configured.
    seeded: Vec<String>,
}

/// A service's part of a plan, and what it was made of.
struct Made {
    service: Service,
    wanted: Vec<Wanted>,
    plan: ServicePlan,
}

#[derive(Clone, Copy, Debug, Default)]
struct Override {
    drained: Option<bool>,
    weight: Option<u32>,
}

impl Planner {
    pub(super) fn new(config: Arc<Config>, started: Instant, servers: Vec<ServerPlan>) -> Planner {
        let registry =
            config.telemetry.as_ref().map(|it| Registry::new(it.max_series, series_ttl(it)));
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
            tracing: TracingChange::default(),
            made: HashMap::new(),
            last_layout: None,
        }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Where each of the configuration's servers listens, in its order.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Goes by another configuration, whose servers have been bound, from the next plan on.
    pub(super) fn adopt(&mut self, config: Arc<Config>, servers: Vec<ServerPlan>) -> Before {
        let before = std::mem::replace(&mut self.config, config);
        let servers = std::mem::replace(&mut self.servers, servers);
        let mut seeded = Vec::new();
        for service in self.config.services.iter().filter(|it| it.discovery.is_some()) {
            // One that had its endpoints in the configuration keeps them until others are found.
            let is_it = |it: &&Service| it.name == service.name && it.discovery.is_none();
            if let Some(it) = before.services.iter().find(is_it) {
                self.discovered.insert(it.name.clone(), it.endpoints.clone());
                seeded.push(it.name.clone());
            }
        }
        Before { config: before, servers, seeded }
    }

    /// Goes by what it went by before: no plan was made of what came then.
    pub(super) fn go_back(&mut self, before: Before) {
        self.config = before.config;
        self.servers = before.servers;
        before.seeded.iter().for_each(|name| drop(self.discovered.remove(name)));
    }

    /// What is not configured any more need not be known.
    pub(super) fn forget(&mut self) {
        let Planner { config, services, discovered, made, .. } = self;
        let find = |name: &String| config.services.iter().find(|it| it.name == *name);
        services.retain(|name, _| find(name).is_some());
        made.retain(|name, _| find(name).is_some());
        discovered.retain(|name, _| find(name).is_some_and(|it| it.discovery.is_some()));
    }

    /// Endpoints that discovery has found. Whether they are another set than before.
    pub(super) fn discovered(&mut self, service: String, endpoints: Vec<Endpoint>) -> bool {
        let is_wanted = |it: &Service| it.name == service && it.discovery.is_some();
        if !self.config.services.iter().any(is_wanted) {
            // What was on the way when it went from the configuration.
            return false;
        }
        let before = self.discovered.insert(service.clone(), endpoints);
        before.as_ref() != self.discovered.get(&service)
    }

    /// Services whose endpoints have not been found yet.
    pub(super) fn undiscovered(&self) -> HashSet<String> {
        let services = self.config.services.iter();
        let names = services.filter(|it| it.discovery.is_some()).map(|it| &it.name);
        names.filter(|name| !self.discovered.contains_key(*name)).cloned().collect()
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

    /// Notes what the operator wants of tracing, or says why that cannot be. What was noted before.
    pub(super) fn set_tracing(&mut self, change: &TracingChange) -> Result<TracingChange, String> {
        let Some(telemetry) = &self.config.telemetry else {
            return Err("telemetry is off".to_owned());
        };
        if telemetry.tracing.sample_rate.is_none() {
            return Err(
                "no exporter takes spans: telemetry.exporters has none of kind zipkin, otlp \
                        or trace_log"
                    .to_owned(),
            );
        }
        let before = self.tracing.clone();
        let it = &mut self.tracing;
        it.enabled = change.enabled.or(it.enabled);
        it.sample_rate = change.sample_rate.or(it.sample_rate);
        it.max_spans_per_sec = change.max_spans_per_sec.or(it.max_spans_per_sec);
        it.keep_failed = change.keep_failed.or(it.keep_failed);
        it.keep_retried = change.keep_retried.or(it.keep_retried);
        it.keep_slower_than_ms = change.keep_slower_than_ms.or(it.keep_slower_than_ms);
        Ok(before)
    }

    /// No plan could be made of it.
    pub(super) fn unset_tracing(&mut self, before: TracingChange) {
        self.tracing = before;
    }

    /// As it is configured, and as the operator has set it; `None`: `telemetry: off`.
    pub(super) fn tracing(&self) -> Option<Tracing> {
        let mut settings = self.config.telemetry.as_ref()?.tracing.clone();
        let it = &self.tracing;
        let is_possible = settings.sample_rate.is_some();
        settings.sample_rate = it.sample_rate.or(settings.sample_rate);
        if let Some(cap) = it.max_spans_per_sec {
            settings.max_spans_per_sec = (cap > 0).then_some(cap);
        }
        settings.keep_failed = it.keep_failed.unwrap_or(settings.keep_failed);
        settings.keep_retried = it.keep_retried.unwrap_or(settings.keep_retried);
        if let Some(millis) = it.keep_slower_than_ms {
            settings.keep_slower_than = (millis > 0).then(|| Duration::from_millis(millis));
        }
        Some(Tracing { enabled: is_possible && it.enabled.unwrap_or(true), settings })
    }

    /// The same, for shards.
    fn applied_tracing(&self) -> Option<config::Tracing> {
        let Tracing { enabled, mut settings } = self.tracing()?;
        settings.sample_rate = settings.sample_rate.filter(|_| enabled);
        Some(settings)
    }

    /// The next generation, of what is known now. `occupied`: what telemetry still keeps. Where
    /// this fails, nothing has changed.
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
        let each = config.services.iter().zip(wanted).zip(addresses);
        let services =
            each.map(|((service, wanted), addresses)| self.service(service, wanted, addresses));
        let services = services.collect();
        self.generation += 1;
        let (generation, servers) = (self.generation, self.servers.clone());
        let tracing = self.applied_tracing();
        Ok(Arc::new(Plan { generation, config, servers, services, layout, tracing }))
    }

    /// A service's part; the last one again where nothing about it is new.
    fn service(
        &mut self,
        service: &Service,
        wanted: Vec<Wanted>,
        addresses: SocketAddresses,
    ) -> ServicePlan {
        let before = self.made.get(&service.name);
        if let Some(before) = before.filter(|it| it.wanted == wanted && it.service == *service) {
            return before.plan.clone();
        }
        let shards = self.config.runtime.shards.len();
        let shared = self.services.entry(service.name.clone()).or_insert_with(|| {
            self.services_so_far += 1;
            Arc::new(Shared::new(self.services_so_far, shards, self.started, self.seed))
        });
        let plan = ServicePlan::new(shared, service, &wanted, addresses);
        let made = Made { service: service.clone(), wanted, plan: plan.clone() };
        self.made.insert(service.name.clone(), made);
        plan
    }

    /// The ids of the next generation; those of the last one where all names are the same.
    fn layout(
        &mut self,
        wanted: &[Vec<Wanted>],
        occupied: &Occupied,
    ) -> Result<Option<Arc<Layout>>, RunError> {
        let Some(registry) = &mut self.registry else { return Ok(None) };
        let topology = topology(&self.config, &self.servers, wanted);
        if let Some((before, layout)) = &self.last_layout
            && *before == topology
        {
            return Ok(Some(layout.clone()));
        }
        let mut next = registry.clone();
        let layout = next.apply(&topology, Instant::now(), occupied);
        if layout.series_count() > Series::MAX as usize {
            let (count, most) = (layout.series_count(), Series::MAX);
            return Err(RunError(format!(
                "telemetry has ids for {most} series, and this configuration has {count}; a lower \
                 telemetry.max_series makes fewer"
            )));
        }
        *registry = next;
        self.last_layout = Some((topology, layout.clone()));
        Ok(Some(layout))
    }

    /// A service's endpoints, configured or discovered.
    fn endpoints<'a>(&'a self, service: &'a Service) -> &'a [Endpoint] {
        match service.discovery {
            None => &service.endpoints,
            Some(_) => self.discovered.get(&service.name).map_or(&[], Vec::as_slice),
        }
    }

    /// The same, as the operator has set them.
    fn wanted(&self, service: &Service) -> Vec<Wanted> {
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
