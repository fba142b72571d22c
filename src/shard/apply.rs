//! Applies a plan: what is configured from now on, on this shard.
//!
//! In one turn and without waiting, so that no request sees half of it. What is the same by name
//! (a service), by address (a server, an endpoint) or by both names (a target) is the same object
//! afterwards, with all that it has under way and has learnt. Exchanges keep the router and the
//! rules that they began with; their connections look for the router's successor at the next head.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, Drain, Router, Server, Target};
use super::plan::Plan;
use super::upstream::Upstream;
use crate::config;
use crate::http::{ForwardRules, Mode};
use crate::policy::{Route, RouteTable};
use crate::telemetry::layout::{Layout, NO_ENDPOINT, ServerName, TargetName};

/// How long a service that went is kept at least: a place that another shard sent to it may still
/// be on the way.
const RETIREMENT: Duration = Duration::from_secs(60);

impl Context {
    pub(super) fn apply(&self, plan: &Plan) {
        let before = self.config.replace(Some(plan.config.clone()));
        let is_same = before.is_some_and(|before| Arc::ptr_eq(&before, &plan.config));
        let (upstreams, changed) = self.apply_services(plan);
        if let (Some(reporter), Some(layout)) = (&self.reporter, &plan.layout) {
            // They speak by the ids that go.
            self.hand_over_spans(Duration::ZERO);
            reporter.apply(layout);
        }
        if let Some(tracing) = &plan.tracing {
            self.tracer.borrow_mut().apply(tracing);
        }
        self.apply_targets(plan, &upstreams, |at| !is_same || changed[at]);
        if !is_same {
            self.apply_routers(plan, &upstreams);
        }
        self.upstreams.replace(upstreams);
        self.forget_retired();
        self.plan_applied();
    }

    fn apply_routers(&self, plan: &Plan, upstreams: &Rc<[Rc<Upstream>]>) {
        let mut servers = plan.servers.iter();
        let mut configured = Vec::new();
        for router in &plan.config.routers {
            let shared = Rc::new(self.router(router, upstreams));
            for (wanted, server) in router.servers.iter().zip(servers.by_ref()) {
                configured.push(server.number);
                let name = ServerName { router: router.label.clone(), address: server.address };
                let id = |layout: &Layout| layout.server_id(&name);
                let id = plan.layout.as_deref().and_then(id).unwrap_or(0);
                self.open_server(server.number, &shared, id, wanted.proxy_protocol);
            }
        }
        let drain = Drain::new(self.ring.now(), Duration::ZERO, plan.config.runtime.drain);
        self.close_servers(&configured, drain);
    }

    /// All services, and for each whether it is not quite as it was.
    fn apply_services(&self, plan: &Plan) -> (Rc<[Rc<Upstream>]>, Vec<bool>) {
        let before = self.upstreams.borrow().clone();
        let is_start = before.is_empty();
        let mut old: HashMap<u32, Rc<Upstream>> =
            before.iter().map(|it| (it.number(), it.clone())).collect();
        let now = self.clock();
        let mut changed = Vec::new();
        let services = plan.config.services.iter().zip(&plan.services).enumerate();
        let upstreams = services.map(|(index, (service, plan))| {
            let known = old.remove(&plan.number());
            let upstream = known.unwrap_or_else(|| {
                Rc::new(Upstream::new(service, plan, self.number, &self.peers, &self.ring))
            });
            let shards = self.peers.len();
            changed.push(upstream.apply(index, service, plan, shards, (!is_start, now)));
            upstream
        });
        let upstreams = upstreams.collect();
        let mut retired = self.retired.borrow_mut();
        for upstream in old.into_values() {
            upstream.retire();
            retired.push((upstream, self.ring.now()));
        }
        (upstreams, changed)
    }

    /// Brings the ids of services and endpoints up to date, in place: who counts has them already.
    /// `is_new`: of the service at an index something has changed.
    fn apply_targets(
        &self,
        plan: &Plan,
        upstreams: &[Rc<Upstream>],
        is_new: impl Fn(usize) -> bool,
    ) {
        let Some(layout) = &plan.layout else { return };
        let mut targets = self.targets.borrow_mut();
        let services = upstreams.iter().zip(&layout.services).enumerate();
        for (_, (upstream, facts)) in services.filter(|(at, _)| is_new(*at)) {
            for router in &facts.routers {
                let name = TargetName { router: router.clone(), service: facts.name.clone() };
                let Some(ids) = layout.target_ids(&name) else { continue };
                let new = || Rc::new(Target::new(ids.id, upstream.number()));
                let target = targets.entry(name).or_insert_with(new);
                // What is under way at a service that went goes on to be counted by the old one.
                if (target.id, target.service) != (ids.id, upstream.number()) {
                    *target = new();
                }
                let mut endpoints = target.endpoints.borrow_mut();
                endpoints.clear();
                for (slot, id) in upstream.slots().iter().zip(&ids.endpoints) {
                    let slots = endpoints.len().max(slot + 1);
                    endpoints.resize(slots, NO_ENDPOINT);
                    endpoints[*slot] = *id;
                }
            }
        }
        targets.retain(|name, _| layout.target_ids(name).is_some());
    }

    fn router(&self, router: &config::Router, upstreams: &Rc<[Rc<Upstream>]>) -> Router {
        let mode = |mode| match mode {
            config::Mode::Off => Mode::Off,
            config::Mode::Append => Mode::Append,
            config::Mode::Overwrite => Mode::Overwrite,
        };
        let routes = router.routes.iter().map(|route| Route {
            host: route.host.clone(),
            path_prefix: route.path_prefix.clone(),
            service: route.service,
        });
        let targets = self.targets.borrow();
        let target = |upstream: &Rc<Upstream>| {
            let (router, service) = (router.label.clone(), upstream.name.clone());
            targets.get(&TargetName { router, service }).cloned()
        };
        Router {
            table: RouteTable::new(routes.collect()),
            rules: ForwardRules {
                via: router.forwarding.via.clone(),
                x_forwarded: mode(router.forwarding.x_forwarded),
                forwarded: mode(router.forwarding.forwarded),
            },
            timeouts: router.timeouts.clone(),
            max_body_bytes: router.max_body_bytes,
            upgrades: router.upgrades.clone(),
            upstreams: upstreams.clone(),
            targets: upstreams.iter().map(target).collect(),
        }
    }

    fn open_server(&self, number: u32, router: &Rc<Router>, id: u32, proxy_protocol: bool) {
        let mut servers = self.servers.borrow_mut();
        match servers.get(&number) {
            Some(known) => known.open(router.clone(), id, proxy_protocol),
            None => {
                let server = Server::new(router.clone(), id, proxy_protocol);
                servers.insert(number, Rc::new(server));
            }
        }
    }

    /// Drains the servers that are not `configured` any more.
    fn close_servers(&self, configured: &[u32], drain: Drain) {
        let mut servers = self.servers.borrow_mut();
        let mut closes = false;
        for (number, server) in servers.iter() {
            if !configured.contains(number) {
                closes |= server.close(drain);
            }
        }
        // Its listener and each of its connections hold a server.
        servers.retain(|number, it| configured.contains(number) || Rc::strong_count(it) > 1);
        if closes {
            self.ring.wake_all();
        }
    }

    /// Lets go of services that went long ago and have nothing under way.
    pub(super) fn forget_retired(&self) {
        let now = self.ring.now();
        let is_needed = |upstream: &Rc<Upstream>, since: Duration| {
            Rc::strong_count(upstream) > 1 || now < since + RETIREMENT
        };
        self.retired.borrow_mut().retain(|(upstream, since)| is_needed(upstream, *since));
    }

    /// The service that a message names.
    pub(super) fn upstream(&self, number: u32) -> Option<Rc<Upstream>> {
        let upstreams = self.upstreams.borrow();
        let known = upstreams.iter().find(|it| it.number() == number).cloned();
        let retired = self.retired.borrow();
        known.or_else(|| retired.iter().map(|(it, _)| it).find(|it| it.number() == number).cloned())
    }
}
