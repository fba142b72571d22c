//! A service as one shard sees it: its balancer, its endpoints and their pooled connections.
//!
//! A pooled connection waits armed with at most one ring buffer, so that its end is noticed when
//! it comes and not when it is needed. Any byte on it closes it: an idle connection that speaks
//! (a 408, a surplus body) is out of step. The keeper task sweeps out what was disturbed or has
//! been idle for too long; `checkout` looks once more, since the two may race.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use socket2::SockAddr;

use super::accrual::Seen;
use super::context::Context;
use super::limits::Gate;
use super::peers::Peers;
use super::report::Meter;
use super::retries::Retries;
use super::shared::{Services, Shared};
use super::transport::Transport;
use crate::config::{self, Address, UpstreamTimeouts};
use crate::policy::accrual::Report;
use crate::policy::balance::{Ask, Standing};
use crate::policy::hash_key::{self, HashKey};
use crate::policy::{Balancer, Kind, Rng};
use crate::ring::{Ring, Socket};
use crate::telemetry::record::{EndpointState, NodeGauges, ServiceCounts, ServiceGauges};

/// Small answers in a row after which a pooled connection is armed for many receives: one
/// submission less per request, where a large answer would come in pieces and cost a cancel.
const SMALL_ANSWERS: u8 = 4;

pub(super) struct Endpoint {
    address: SockAddr,
    idle: RefCell<Vec<Idle>>,
    small_answers: Cell<u8>,
    /// Successes and failures since the accrual was told; for success rates alone.
    judged: Cell<(u32, u32)>,
}

/// The endpoint for an attempt.
#[derive(Clone, Copy)]
pub(super) struct Pick {
    pub(super) endpoint: usize,
    /// The attempt finds out whether the endpoint is back.
    pub(super) is_probe: bool,
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
    /// In the order of the configuration.
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) timeouts: UpstreamTimeouts,
    balancer: RefCell<Balancer>,
    pub(super) retries: Retries,
    /// What of a request the balancer goes by, if it does.
    pub(super) hash_key: Option<HashKey>,
    /// Where requests get their place.
    pub(super) gate: Rc<Gate>,
    pub(super) queue_timeout: Duration,
    shared: Arc<Shared>,
    /// Kept for its memory: what other shards have under way, by endpoint.
    others: RefCell<Vec<u32>>,
    /// What the balancer knows of the accrual.
    seen: Cell<Seen>,
    endpoints: Vec<Endpoint>,
    /// Of this shard's, over all endpoints.
    max_idle: usize,
    idle_timeout: Duration,
    idle_count: Cell<usize>,
}

impl Upstream {
    /// The part of a service that falls to one of `shards` shards.
    pub(super) fn new(
        index: usize,
        service: &config::Service,
        services: &Services,
        shard: usize,
        peers: &Arc<Peers>,
        ring: &Ring,
    ) -> io::Result<Upstream> {
        let shards = peers.len();
        let shared = services.each[index].clone();
        let send = {
            let peers = peers.clone();
            move |shard| peers.send_place(shard, index)
        };
        let (kind, hash_key) = kind(&service.balancer);
        let mut balancer = Balancer::new(kind, services.seed);
        balancer.set_slow_start(service.slow_start);
        // An endpoint's slot is its place in the configuration.
        for endpoint in &service.endpoints {
            let key = hash_key::hash(endpoint.address.to_string().as_bytes());
            balancer.add(endpoint.weight, key, Duration::ZERO, false);
        }
        balancer.rebuild(Duration::ZERO);
        let endpoints = service.endpoints.iter().map(|endpoint| {
            Ok(Endpoint {
                address: match &endpoint.address {
                    Address::Ip(address) => SockAddr::from(*address),
                    Address::Unix(path) => SockAddr::unix(path)?,
                },
                idle: RefCell::default(),
                small_answers: Cell::new(0),
                judged: Cell::default(),
            })
        });
        Ok(Upstream {
            index,
            name: service.name.clone(),
            timeouts: service.timeouts.clone(),
            balancer: RefCell::new(balancer),
            retries: Retries::new(&service.retries, shards),
            hash_key,
            gate: Rc::new(Gate::new(shared.clone(), shard, ring.clone(), Box::new(send))),
            queue_timeout: service.limits.queue_timeout,
            shared,
            others: RefCell::default(),
            seen: Cell::new(Seen::NOTHING),
            endpoints: endpoints.collect::<io::Result<_>>()?,
            max_idle: (service.pool.max_idle / shards).max(1),
            idle_timeout: service.pool.idle,
            idle_count: Cell::new(0),
        })
    }

    /// The endpoint for an attempt; none where there are none. `now` by the process's clock.
    pub(super) fn pick(&self, ask: &Ask, rng: &mut Rng) -> Option<Pick> {
        self.look_at_accrual(ask.now);
        if ask.now >= self.seen.get().probe_at
            && let Some(endpoint) = self.shared.accrual.try_probe(ask.avoid)
        {
            return Some(Pick { endpoint, is_probe: true });
        }
        let picked = self.balancer.borrow_mut().pick(ask, rng);
        picked.map(|endpoint| Pick { endpoint, is_probe: false })
    }

    /// Brings the balancer up to date with what any shard has decided.
    fn look_at_accrual(&self, now: Duration) {
        let Some(seen) = self.shared.accrual.changed_since(self.seen.get()) else { return };
        self.seen.set(seen);
        let mut balancer = self.balancer.borrow_mut();
        for endpoint in 0..self.endpoints.len() {
            let standing = match self.shared.accrual.state(endpoint) {
                EndpointState::Available => Standing::Available,
                EndpointState::Draining => Standing::Drained,
                EndpointState::Ejected | EndpointState::Probing => Standing::Out,
            };
            balancer.set_standing(endpoint, standing, now);
        }
    }

    /// What came of an attempt, for the accrual.
    fn judge(&self, endpoint: usize, success: bool, context: &Context) {
        if self.shared.accrual.watches_rates() {
            let (successes, failures) = self.endpoints[endpoint].judged.get();
            let judged = match success {
                true => (successes.saturating_add(1), failures),
                false => (successes, failures.saturating_add(1)),
            };
            self.endpoints[endpoint].judged.set(judged);
        } else if success {
            self.shared.accrual.succeeded(endpoint);
        } else if self.shared.accrual.failed(endpoint) {
            self.count(context, |counts| counts.removals += 1);
            tracing::info!(service = self.name, endpoint, "ejected");
        }
    }

    fn probed(&self, endpoint: usize, success: bool, context: &Context) {
        let report = if success { Report::Succeeded } else { Report::Failed };
        if let Some(lasted) = self.shared.accrual.report(endpoint, report) {
            tracing::info!(service = self.name, endpoint, ?lasted, "back");
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
        let (mut balancer, mut others) = (self.balancer.borrow_mut(), self.others.borrow_mut());
        let pending = |endpoint| balancer.pending(endpoint);
        let looks = self.shared.exchange_loads(context.number, pending, &mut others);
        balancer.refresh(context.clock(), looks.then_some(&others[..]));
    }

    /// Tells the accrual what was seen since the last time; the first shard also decides.
    fn look_at_rates(&self, context: &Context) {
        if !self.shared.accrual.watches_rates() {
            return;
        }
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let (successes, failures) = endpoint.judged.take();
            if successes + failures > 0 {
                self.shared.accrual.add(at, successes, failures);
            }
        }
        if context.number == 0 {
            let ejected = self.shared.accrual.look();
            self.count(context, |counts| counts.removals += ejected);
        }
    }

    /// Counts what its policies did.
    pub(super) fn count(&self, context: &Context, count: impl FnOnce(&mut ServiceCounts)) {
        context.record(|recorder| count(recorder.service(self.index)));
    }

    /// A pooled connection to an endpoint that is fit for use.
    pub(super) fn checkout(&self, endpoint: usize, waker: &Waker) -> Option<Upward> {
        let mut pool = self.endpoints[endpoint].idle.borrow_mut();
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

    pub(super) fn connect(
        &self,
        endpoint: usize,
        ring: &Ring,
        waker: &Waker,
    ) -> io::Result<Transport> {
        let socket = Socket::connect(ring, &self.endpoints[endpoint].address, waker.clone())?;
        Ok(Transport::new(ring, socket))
    }

    /// Puts a connection whose exchange ended cleanly into the pool, or closes it if that is full.
    pub(super) fn check_in(&self, endpoint: usize, link: Upward, now: Duration) {
        let transport = &link.transport;
        if self.idle_count.get() >= self.max_idle || transport.has_input() {
            return;
        }
        let endpoint = &self.endpoints[endpoint];
        transport.socket().wake_when_sent(false);
        transport.socket().receive(endpoint.small_answers.get() >= SMALL_ANSWERS);
        transport.socket().park();
        endpoint.idle.borrow_mut().push(Idle { link, since: now });
        self.idle_count.set(self.idle_count.get() + 1);
    }

    /// Remembers whether answers fit into one piece.
    pub(super) fn answered(&self, endpoint: usize, small: bool) {
        let streak = &self.endpoints[endpoint].small_answers;
        streak.set(if small { streak.get().saturating_add(1) } else { 0 });
    }

    /// Whether the next answer is likely to be small: the receive may be armed for many.
    pub(super) fn expects_small(&self, endpoint: usize) -> bool {
        self.endpoints[endpoint].small_answers.get() >= SMALL_ANSWERS
    }

    /// Closes pooled connections that were disturbed or have been idle for too long.
    pub(super) fn sweep(&self, now: Duration) {
        for endpoint in &self.endpoints {
            let mut pool = endpoint.idle.borrow_mut();
            let before = pool.len();
            pool.retain(|idle| {
                let socket = idle.link.transport.socket();
                // A receive that was being taken back when the connection came here is idle now.
                socket.receive(false);
                socket.is_quiet() && now < idle.since + self.idle_timeout
            });
            self.idle_count.set(self.idle_count.get() - (before - pool.len()));
        }
    }

    /// The balancer and the pool as they are now.
    pub(super) fn gauges(&self, now: Duration) -> ServiceGauges {
        let balancer = self.balancer.borrow();
        let load = (0..balancer.len()).map(|at| u64::from(balancer.pending(at))).sum();
        let idle = self.idle_count.get() as u64;
        ServiceGauges {
            size: balancer.len() as u64,
            available: balancer.available() as u64,
            load,
            // An attempt and a tunnel have one connection each.
            pool_size: idle + load,
            pool_cached: idle,
            pool_waiters: self.gate.waiting() as u64,
            retry_budget: self.retries.balance(now),
        }
    }

    /// Its endpoints, in order.
    pub(super) fn nodes(&self, now: Duration, out: &mut Vec<NodeGauges>) {
        let balancer = self.balancer.borrow();
        out.extend((0..balancer.len()).map(|at| NodeGauges {
            load: u64::from(balancer.pending(at)),
            ewma_us: balancer.latency(at, now).map_or(0, |it| it.as_micros() as u64),
            state: self.shared.accrual.state(at),
        }));
    }

    pub(super) fn close_idle(&self) {
        self.endpoints.iter().for_each(|endpoint| endpoint.idle.borrow_mut().clear());
        self.idle_count.set(0);
    }
}

/// The balancer's kind, and what of a request it goes by.
fn kind(balancer: &config::Balancer) -> (Kind, Option<HashKey>) {
    let hundredths = |percent: u32| f64::from(percent) / 100.0;
    let kind = match *balancer {
        config::Balancer::RoundRobin => Kind::RoundRobin,
        config::Balancer::LeastLoaded => Kind::LeastLoaded,
        config::Balancer::Ewma { decay } => Kind::Ewma { decay },
        config::Balancer::Aperture { decay, low_percent, high_percent, min_endpoints } => {
            Kind::Aperture {
                decay,
                low: hundredths(low_percent),
                high: hundredths(high_percent),
                min: min_endpoints as usize,
            }
        }
        config::Balancer::ConsistentHash { max_load_percent, .. } => {
            Kind::ConsistentHash { bound: hundredths(max_load_percent) }
        }
    };
    let hash_key = match balancer {
        config::Balancer::ConsistentHash { by, .. } => Some(match by {
            config::HashBy::Header(name) => HashKey::Header(name.clone()),
            config::HashBy::Cookie(name) => HashKey::Cookie(name.clone()),
            config::HashBy::Source => HashKey::Source,
        }),
        _ => None,
    };
    (kind, hash_key)
}

/// An attempt's place in its endpoint's load; taken back when the attempt is over, however it ends.
pub(super) struct Load {
    upstream: Rc<Upstream>,
    endpoint: usize,
    /// It owes the accrual a report.
    is_probe: bool,
    /// It has been called a failure.
    has_failed: bool,
    started: Duration,
    /// When the attempt was decided, and the latency that the balancer is told.
    outcome: Option<(Duration, Duration)>,
}

impl Load {
    pub(super) fn new(upstream: &Rc<Upstream>, pick: Pick, now: Duration) -> Load {
        let Pick { endpoint, is_probe } = pick;
        upstream.balancer.borrow_mut().started(endpoint);
        Load {
            upstream: upstream.clone(),
            endpoint,
            is_probe,
            has_failed: false,
            started: now,
            outcome: None,
        }
    }

    /// The attempt is a success or the endpoint's failure, as far as is known. Said when the
    /// answer's head comes, and once more where it breaks off after that; not at all where the
    /// client is to blame.
    pub(super) fn judge(&mut self, success: bool, context: &Context) {
        if std::mem::replace(&mut self.has_failed, !success) {
            // One failure, however many things go wrong with it.
            return;
        }
        match std::mem::replace(&mut self.is_probe, false) {
            true => self.upstream.probed(self.endpoint, success, context),
            false => self.upstream.judge(self.endpoint, success, context),
        }
    }

    /// The answer's head has come.
    pub(super) fn answered(&mut self, now: Duration) {
        self.outcome = Some((now, now.saturating_sub(self.started)));
    }

    /// There was no connection to be had. Counts as if it had taken all the time that it may: an
    /// endpoint that answers nothing must not look like the fastest.
    pub(super) fn unreachable(&mut self, now: Duration) {
        self.outcome = Some((now, self.upstream.timeouts.connect));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.is_probe {
            self.upstream.shared.accrual.report(self.endpoint, Report::Lost);
        }
        let now = self.outcome.map_or(self.started, |(now, _)| now);
        let latency = self.outcome.map(|(_, latency)| latency);
        self.upstream.balancer.borrow_mut().finished(self.endpoint, now, latency);
    }
}
