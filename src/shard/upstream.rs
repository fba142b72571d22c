//! A service as one shard sees it: its balancer, its endpoints and their pooled connections.
//!
//! A pooled connection waits armed with at most one ring buffer, so that its end is noticed when
//! it comes and not when it is needed. Any byte on it closes it: an idle connection that speaks
//! (a 408, a surplus body) is out of step. The keeper task sweeps out what was disturbed or has
//! been idle for too long; `checkout` looks once more, since the two may race.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use socket2::SockAddr;

use super::accrual::{Seen, watches_rates};
use super::context::Context;
use super::limits::{Bounds, Gate};
use super::peers::Peers;
use super::plan::{EndpointPlan, ServicePlan};
use super::report::Meter;
use super::rules::{Rules, kind, without_endpoints};
use super::shared::{EndpointState, Shared};
use super::transport::Transport;
use crate::config;
use crate::policy::accrual::Report;
use crate::policy::balance::{Ask, Standing};
use crate::policy::{Balancer, Rng, hash_key};
use crate::ring::{Ring, Socket};
use crate::telemetry::record::{EndpointState as Shown, NodeGauges, ServiceCounts, ServiceGauges};

/// Small answers in a row after which a pooled connection is armed for many receives: one
/// submission less per request, where a large answer would come in pieces and cost a cancel.
const SMALL_ANSWERS: u8 = 4;
/// How often an endpoint with room is drawn before all are looked at, which costs O(n): with most
/// full, as many draws as in Finagle's `maxEffort`.
const MAX_EFFORT: usize = 5;
/// How soon a probe that is due and found no room is tried again.
const PROBE_AGAIN: Duration = Duration::from_millis(10);

/// An endpoint as this shard uses it. Held by attempts and their connections, so that none of these
/// ever ends up with another endpoint, whatever comes and goes meanwhile.
pub(super) struct Endpoint {
    /// Its place in the balancer: its own for as long as an attempt is under way there.
    pub(super) slot: usize,
    address: SockAddr,
    pub(super) state: Arc<EndpointState>,
    /// It is the service's no more: its connections are not kept.
    is_gone: Cell<bool>,
    idle: RefCell<Vec<Idle>>,
    small_answers: Cell<u8>,
    /// Successes and failures since the accrual was told; for success rates alone.
    judged: Cell<(u32, u32)>,
}

/// The endpoint for an attempt.
pub(super) struct Pick {
    pub(super) endpoint: Rc<Endpoint>,
    /// The attempt finds out whether the endpoint is back.
    pub(super) is_probe: bool,
    /// It counts against the endpoint's limit.
    pub(super) has_entered: bool,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPick {
    /// There is none, or all are drained.
    NoEndpoint,
    /// Each has as many attempts under way as it may.
    AllFull,
}

struct Idle {
    link: Upward,
    since: Duration,
}

/// A connection to an endpoint, and what counts it.
pub(super) struct Upward {
    pub(super) transport: Transport,
    pub(super) meter: Option<Meter>,
}

pub(super) struct Upstream {
    pub(super) name: String,
    /// Where telemetry counts what its policies do; `None` once it is not configured any more.
    index: Cell<Option<usize>>,
    rules: RefCell<Rc<Rules>>,
    pub(super) balancer: RefCell<Balancer>,
    /// Where requests get their place.
    pub(super) gate: Rc<Gate>,
    pub(super) shared: Arc<Shared>,
    /// Kept for its memory: what other shards have under way, by slot.
    others: RefCell<Vec<u32>>,
    /// What the balancer knows of the accrual.
    seen: Cell<Seen>,
    /// By slot; a slot that nobody has keeps the last that had it.
    endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// The slots of those that are the service's, in the order of the plan.
    order: RefCell<Vec<usize>>,
    idle_count: Cell<usize>,
    /// What it was made of.
    applied: RefCell<Option<ServicePlan>>,
}

impl Upstream {
    /// Without endpoints yet: `apply` brings them.
    pub(super) fn new(
        service: &config::Service,
        plan: &ServicePlan,
        shard: usize,
        peers: &Arc<Peers>,
        ring: &Ring,
    ) -> Upstream {
        let shared = plan.shared.clone();
        let send = {
            let (peers, number) = (peers.clone(), shared.number);
            move |shard| peers.send_place(shard, number)
        };
        let rules = Rules::new(without_endpoints(service), &shared, peers.len(), None);
        Upstream {
            name: service.name.clone(),
            index: Cell::new(None),
            balancer: RefCell::new(Balancer::new(kind(&service.balancer).0, shared.seed)),
            rules: RefCell::new(Rc::new(rules)),
            gate: Rc::new(Gate::new(shared.clone(), shard, ring.clone(), Box::new(send))),
            shared,
            others: RefCell::default(),
            seen: Cell::new(Seen::NOTHING),
            endpoints: RefCell::default(),
            order: RefCell::default(),
            idle_count: Cell::new(0),
            applied: RefCell::default(),
        }
    }

    /// The number by which messages name the service.
    pub(super) fn number(&self) -> u32 {
        self.shared.number
    }

    pub(super) fn rules(&self) -> Ref<'_, Rc<Rules>> {
        self.rules.borrow()
    }

    /// Takes over a plan. `index`: its place there. `is_new`: endpoints that come now may be cold;
    /// at the start of the process none is called so. `now` by the process's clock. Whether
    /// anything but the index is new.
    pub(super) fn apply(
        &self,
        index: usize,
        service: &config::Service,
        plan: &ServicePlan,
        shards: usize,
        (is_new, now): (bool, Duration),
    ) -> bool {
        self.index.set(Some(index));
        if self.applied.borrow().as_ref().is_some_and(|before| before.is_same(plan)) {
            return false;
        }
        *self.applied.borrow_mut() = Some(plan.clone());
        let config = without_endpoints(service);
        if self.rules.borrow().config != config {
            let before = self.rules.borrow().clone();
            if before.config.balancer != config.balancer {
                let kind = kind(&config.balancer).0;
                self.balancer.borrow_mut().set_kind(kind, self.shared.seed);
            }
            *self.rules.borrow_mut() =
                Rc::new(Rules::new(config, &self.shared, shards, Some(&before)));
        }
        self.balancer.borrow_mut().set_slow_start(service.slow_start);
        self.replace_endpoints(&plan.endpoints, is_new, now);
        // All of them are looked at anew, the new ones too.
        self.seen.set(Seen::NOTHING);
        self.look_at_accrual(now);
        self.balancer.borrow_mut().rebuild(now);
        self.gate.set_bounds(Bounds {
            max_concurrent: service.limits.max_concurrent,
            per_endpoint: service.limits.max_concurrent_per_endpoint,
            max_queue: service.limits.max_queue,
        });
        true
    }

    fn replace_endpoints(&self, plan: &[EndpointPlan], is_new: bool, now: Duration) {
        let mut balancer = self.balancer.borrow_mut();
        let mut endpoints = self.endpoints.borrow_mut();
        let mut order = self.order.borrow_mut();
        let by_state = |endpoint: &Rc<Endpoint>| Arc::as_ptr(&endpoint.state);
        let mut kept: std::collections::HashMap<_, _> = order
            .drain(..)
            .map(|slot| (by_state(&endpoints[slot]), endpoints[slot].clone()))
            .collect();
        let mut added = Vec::new();
        for (at, endpoint) in plan.iter().enumerate() {
            match kept.remove(&Arc::as_ptr(&endpoint.state)) {
                Some(it) => {
                    balancer.set_weight(it.slot, endpoint.weight);
                    order.push(it.slot);
                }
                None => {
                    added.push(at);
                    order.push(usize::MAX);
                }
            }
        }
        for endpoint in kept.into_values() {
            endpoint.is_gone.set(true);
            self.close(&endpoint);
            balancer.remove(endpoint.slot);
        }
        for at in added {
            let EndpointPlan { state, address, weight, .. } = &plan[at];
            let key = hash_key::hash(state.address.to_string().as_bytes());
            let slot = balancer.add(*weight, key, now, is_new);
            order[at] = slot;
            let endpoint = Rc::new(Endpoint::new(slot, address.clone(), state.clone()));
            match endpoints.get_mut(slot) {
                Some(free) => *free = endpoint,
                None => endpoints.push(endpoint),
            }
        }
    }

    /// The service is not configured any more. What is under way there goes on.
    pub(super) fn retire(&self) {
        self.index.set(None);
        self.close_idle();
        self.endpoints.borrow().iter().for_each(|endpoint| endpoint.is_gone.set(true));
    }

    /// The endpoint for an attempt. `now` by the process's clock.
    pub(super) fn pick(&self, ask: &Ask, rules: &Rules, context: &Context) -> Result<Pick, NoPick> {
        self.look_at_accrual(ask.now);
        if ask.now >= self.seen.get().probe_at
            && let Some(pick) = self.probe(ask, rules)
        {
            return Ok(pick);
        }
        let mut rng = context.rng.borrow_mut();
        let Some(max) = rules.max_per_endpoint else {
            let slot = self.balancer.borrow_mut().pick(ask, &mut rng);
            let slot = slot.ok_or(NoPick::NoEndpoint)?;
            if self.balancer.borrow().standing(slot) == Standing::Out {
                self.count(context, |counts| counts.max_effort_exhausted += 1);
            }
            let endpoint = self.endpoints.borrow()[slot].clone();
            return Ok(Pick { endpoint, is_probe: false, has_entered: false });
        };
        self.pick_with_room(ask, max, &mut rng, context)
    }

    /// One that has fewer than `max` attempts under way.
    fn pick_with_room(
        &self,
        ask: &Ask,
        max: u32,
        rng: &mut Rng,
        context: &Context,
    ) -> Result<Pick, NoPick> {
        let endpoints = self.endpoints.borrow();
        let enter = |slot: usize| {
            let endpoint = &endpoints[slot];
            let has_entered = endpoint.state.running.enter(max);
            has_entered.then(|| Pick { endpoint: endpoint.clone(), is_probe: false, has_entered })
        };
        let (mut ask, mut full) = (*ask, 0);
        for _ in 0..MAX_EFFORT {
            let slot = self.balancer.borrow_mut().pick(&ask, rng).ok_or(NoPick::NoEndpoint)?;
            if let Some(pick) = enter(slot) {
                return Ok(pick);
            }
            full = slot as u32;
            // A key goes to the next on its ring, unless it is to stay away from another already.
            ask.avoid = ask.avoid.or(ask.key.map(|_| slot));
        }
        self.count(context, |counts| counts.max_effort_exhausted += 1);
        let balancer = self.balancer.borrow();
        let all = balancer.eligible();
        // What belongs together stays together: it goes to the same neighbour of its own.
        let first = match ask.key {
            Some(_) => all.partition_point(|slot| *slot <= full),
            None => rng.below(all.len().max(1)),
        };
        let mut from_there = all[first..].iter().chain(&all[..first]).map(|slot| *slot as usize);
        from_there.find_map(enter).ok_or(NoPick::AllFull)
    }

    /// The endpoint that is to be probed, if one is due that this shard knows and that has room.
    fn probe(&self, ask: &Ask, rules: &Rules) -> Option<Pick> {
        let endpoints = self.endpoints.borrow();
        let mut found = None;
        self.shared.accrual.try_probe(|state| {
            let is_it = |it: &&Rc<Endpoint>| std::ptr::eq(&*it.state, state) && !it.is_gone.get();
            let known = endpoints.iter().find(is_it);
            let known = known.filter(|it| Some(it.slot) != ask.avoid);
            let has_room = || rules.max_per_endpoint.is_none_or(|max| state.running.enter(max));
            found = known.filter(|_| has_room()).cloned();
            found.is_some()
        });
        if found.is_none() {
            // Not at every pick until there is room there: that would take the lock each time.
            let seen = self.seen.get();
            self.seen.set(seen.with_probe_at(ask.now + PROBE_AGAIN));
        }
        let has_entered = rules.max_per_endpoint.is_some();
        Some(Pick { endpoint: found?, is_probe: true, has_entered })
    }

    /// Brings the balancer up to date with what any shard has decided.
    fn look_at_accrual(&self, now: Duration) {
        let Some(seen) = self.shared.accrual.changed_since(self.seen.get()) else { return };
        self.seen.set(seen);
        let mut balancer = self.balancer.borrow_mut();
        let endpoints = self.endpoints.borrow();
        for &slot in self.order.borrow().iter() {
            let standing = match endpoints[slot].state.shown() {
                Shown::Available => Standing::Available,
                Shown::Draining => Standing::Drained,
                Shown::Ejected | Shown::Probing | Shown::Unhealthy => Standing::Out,
            };
            if standing == Standing::Drained {
                self.close(&endpoints[slot]);
            }
            balancer.set_standing(slot, standing, now);
        }
        drop(balancer);
        // A limit on each endpoint is another on the service now.
        self.gate.admit();
    }

    /// What came of an attempt, for the accrual.
    pub(super) fn judge(&self, endpoint: &Endpoint, success: bool, context: &Context) {
        let rule = self.rules.borrow().accrual;
        if watches_rates(rule) {
            let (successes, failures) = endpoint.judged.get();
            let judged = match success {
                true => (successes.saturating_add(1), failures),
                false => (successes, failures.saturating_add(1)),
            };
            endpoint.judged.set(judged);
        } else if success {
            self.shared.accrual.succeeded(&endpoint.state);
        } else if self.shared.accrual.failed(&endpoint.state, rule) {
            self.count(context, |counts| counts.removals += 1);
            let address = &endpoint.state.address;
            tracing::info!(service = self.name, endpoint = %address, "ejected");
        }
    }

    pub(super) fn probed(&self, endpoint: &Endpoint, success: bool, context: &Context) {
        let report = if success { Report::Succeeded } else { Report::Failed };
        if let Some(lasted) = self.shared.accrual.report(&endpoint.state, report) {
            let address = &endpoint.state.address;
            tracing::info!(service = self.name, endpoint = %address, ?lasted, "back");
            self.count(context, |counts| {
                counts.revivals += 1;
                counts.removed_for_us += lasted.as_micros() as u64;
            });
        }
    }

    /// Brings together what all shards have seen; ten times a second.
    pub(super) fn refresh(&self, context: &Context) {
        self.gate.admit();
        self.look_at_accrual(context.clock());
        self.look_at_rates(context);
        if context.number == 0 && self.rules.borrow().max_per_endpoint.is_some() {
            self.shared.accrual.count_elsewhere();
        }
        let (mut balancer, mut others) = (self.balancer.borrow_mut(), self.others.borrow_mut());
        let looks = balancer.needs_totals();
        if looks {
            let endpoints = self.endpoints.borrow();
            others.clear();
            others.resize(endpoints.len(), 0);
            for &slot in self.order.borrow().iter() {
                let pending = balancer.pending(slot);
                others[slot] = endpoints[slot].state.exchange_load(context.number, pending);
            }
        }
        balancer.refresh(context.clock(), looks.then_some(&others[..]));
    }

    /// Tells the accrual what was seen since the last time; the first shard also decides.
    fn look_at_rates(&self, context: &Context) {
        if !watches_rates(self.rules.borrow().accrual) {
            return;
        }
        for endpoint in self.endpoints.borrow().iter() {
            let (successes, failures) = endpoint.judged.take();
            if successes + failures > 0 {
                self.shared.accrual.add(&endpoint.state, successes, failures);
            }
        }
        if context.number == 0 {
            let ejected = self.shared.accrual.look();
            self.count(context, |counts| counts.removals += ejected);
        }
    }

    /// Counts what its policies did.
    pub(super) fn count(&self, context: &Context, count: impl FnOnce(&mut ServiceCounts)) {
        if let Some(index) = self.index.get() {
            context.record(|recorder| count(recorder.service(index)));
        }
    }

    /// A pooled connection to an endpoint that is fit for use.
    pub(super) fn checkout(&self, endpoint: &Endpoint, waker: &Waker) -> Option<Upward> {
        let mut pool = endpoint.idle.borrow_mut();
        while let Some(idle) = pool.pop() {
            self.idle_count.set(self.idle_count.get() - 1);
            // Armed: else its end could not have been noticed.
            let transport = &idle.link.transport;
            if transport.socket().is_quiet() && transport.progress().receiving {
                transport.set_owner(waker);
                return Some(idle.link);
            }
        }
        None
    }

    /// Puts a connection whose exchange ended cleanly into the pool, or closes it if that is full
    /// or the endpoint is to have none.
    pub(super) fn check_in(&self, endpoint: &Endpoint, link: Upward, now: Duration) {
        let transport = &link.transport;
        let is_wanted =
            !endpoint.is_gone.get() && !endpoint.state.is_drained.load(Ordering::Relaxed);
        let has_room = self.idle_count.get() < self.rules.borrow().max_idle;
        if !is_wanted || !has_room || transport.has_input() {
            return;
        }
        transport.socket().wake_when_sent(false);
        transport.socket().receive(endpoint.expects_small());
        transport.socket().park();
        endpoint.idle.borrow_mut().push(Idle { link, since: now });
        self.idle_count.set(self.idle_count.get() + 1);
    }

    /// Closes pooled connections that were disturbed or have been idle for too long.
    pub(super) fn sweep(&self, now: Duration) {
        let idle_timeout = self.rules.borrow().idle_timeout;
        for endpoint in self.endpoints.borrow().iter() {
            let mut pool = endpoint.idle.borrow_mut();
            let before = pool.len();
            pool.retain(|idle| {
                let socket = idle.link.transport.socket();
                // A receive that was being taken back when the connection came here is idle now.
                socket.receive(false);
                socket.is_quiet() && now < idle.since + idle_timeout
            });
            self.idle_count.set(self.idle_count.get() - (before - pool.len()));
        }
    }

    /// The balancer and the pool as they are now.
    pub(super) fn gauges(&self, context: &Context) -> ServiceGauges {
        let balancer = self.balancer.borrow();
        let load = balancer.pending_on_all();
        let idle = self.idle_count.get() as u64;
        ServiceGauges {
            size: balancer.len() as u64,
            available: balancer.available() as u64,
            load,
            width: balancer.width().map_or(0, |it| it.endpoints as u64),
            // An attempt and a tunnel have one connection each.
            pool_size: idle + load,
            pool_cached: idle,
            pool_waiters: self.gate.waiting() as u64,
            retry_budget: self.rules.borrow().retries.balance(context),
        }
    }

    /// Its endpoints, in the order of the plan.
    pub(super) fn nodes(&self, now: Duration, out: &mut Vec<NodeGauges>) {
        let balancer = self.balancer.borrow();
        let endpoints = self.endpoints.borrow();
        out.extend(self.order.borrow().iter().map(|&slot| NodeGauges {
            load: u64::from(balancer.pending(slot)),
            ewma_us: balancer.latency(slot, now).map_or(0, |it| it.as_micros() as u64),
            state: endpoints[slot].state.shown(),
        }));
    }

    /// Its endpoints, in the order of the plan.
    pub(super) fn endpoints(&self) -> Vec<Rc<Endpoint>> {
        let endpoints = self.endpoints.borrow();
        self.order.borrow().iter().map(|slot| endpoints[*slot].clone()).collect()
    }

    /// The slots of its endpoints, in the order of the plan.
    pub(super) fn slots(&self) -> Ref<'_, Vec<usize>> {
        self.order.borrow()
    }

    pub(super) fn close_idle(&self) {
        self.endpoints.borrow().iter().for_each(|endpoint| self.close(endpoint));
    }

    /// Closes an endpoint's pooled connections.
    fn close(&self, endpoint: &Endpoint) {
        let closed = std::mem::take(&mut *endpoint.idle.borrow_mut());
        self.idle_count.set(self.idle_count.get() - closed.len());
    }
}

impl Endpoint {
    fn new(slot: usize, address: SockAddr, state: Arc<EndpointState>) -> Endpoint {
        Endpoint {
            slot,
            address,
            state,
            is_gone: Cell::new(false),
            idle: RefCell::default(),
            small_answers: Cell::new(0),
            judged: Cell::default(),
        }
    }

    pub(super) fn address(&self) -> &config::Address {
        &self.state.address
    }

    /// `None`: a Unix socket.
    pub(super) fn socket_address(&self) -> Option<SocketAddr> {
        self.address.as_socket()
    }

    pub(super) fn connect(&self, ring: &Ring, waker: &Waker) -> io::Result<Transport> {
        let socket = Socket::connect(ring, &self.address, waker.clone())?;
        Ok(Transport::new(ring, socket))
    }

    /// Remembers whether answers fit into one piece.
    pub(super) fn answered(&self, small: bool) {
        let streak = &self.small_answers;
        streak.set(if small { streak.get().saturating_add(1) } else { 0 });
    }

    /// Whether the next answer is likely to be small: the receive may be armed for many.
    pub(super) fn expects_small(&self) -> bool {
        self.small_answers.get() >= SMALL_ANSWERS
    }
}
