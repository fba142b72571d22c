//! What the tasks of one shard share: its ring, the configuration that it applies, its drain.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::Process;
use super::exchange::Exchange;
use super::leftovers::Leftovers;
use super::peers::Peers;
use super::report::{Reporter, Reporting};
use super::upstream::Upstream;
use crate::config::{self, ClientTimeouts, Config, ShardSettings};
use crate::http::{ForwardRules, Mode};
use crate::policy::{Rng, Route, RouteTable};
use crate::ring::Ring;
use crate::telemetry::layout::{ServerName, TargetIds, TargetName};
use crate::telemetry::record::Recorder;

/// A router as its connections use it.
pub(super) struct Router {
    pub(super) table: RouteTable,
    pub(super) rules: ForwardRules,
    pub(super) timeouts: ClientTimeouts,
    pub(super) max_body_bytes: Option<u64>,
    pub(super) upgrades: Vec<String>,
    /// By the index that a route names.
    pub(super) upstreams: Rc<[Rc<Upstream>]>,
    /// What each of them is counted as; `None` where nothing is counted, or no route leads there.
    pub(super) targets: Vec<Option<Rc<TargetIds>>>,
}

/// A listening address.
pub(super) struct Server {
    pub(super) router: Rc<Router>,
    /// What it is counted as; of no meaning where nothing is counted.
    pub(super) id: u32,
}

impl Router {
    fn new(
        router: &config::Router,
        upstreams: &Rc<[Rc<Upstream>]>,
        reporter: Option<&Reporter>,
    ) -> Router {
        let target = |upstream: &Rc<Upstream>| {
            let (router, service) = (router.label.clone(), upstream.name.clone());
            let ids = reporter?.layout.target_ids(&TargetName { router, service })?;
            Some(Rc::new(ids.clone()))
        };
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
}

/// How long a closing listener waits for handshakes that had begun: a round trip of a continent.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// A drain under way: what connections have to know of it.
#[derive(Clone, Copy)]
pub(super) struct Drain {
    /// From here on no new connection is let in, and the listeners are accepted empty.
    pub(super) begins: Duration,
    /// From here on answers say `Connection: close`: when the listeners are closed, so that who
    /// connects again is refused at once and tries elsewhere.
    pub(super) closes: Duration,
    /// Idle connections are closed spread over this time.
    pub(super) idle_close: Duration,
    /// Whatever is left is abandoned.
    pub(super) ends: Duration,
}

pub(super) struct Context {
    pub(super) number: usize,
    pub(super) peers: Arc<Peers>,
    pub(super) ring: Ring,
    pub(super) settings: ShardSettings,
    /// In the order of the configuration, router by router.
    pub(super) servers: Vec<Server>,
    /// `None`: `telemetry: off`.
    pub(super) reporter: Option<Rc<Reporter>>,
    pub(super) upstreams: Rc<[Rc<Upstream>]>,
    pub(super) rng: RefCell<Rng>,
    /// Answers that nobody wants.
    pub(super) leftovers: Leftovers,
    started: Instant,
    drain: Cell<Option<Drain>>,
    /// Connections and listeners that a drain waits for.
    held: Cell<usize>,
    connections: Cell<usize>,
    /// The control task, to be told when the last of them has gone.
    control: RefCell<Option<Waker>>,
    /// Exchanges to be used again: no allocation per request.
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    pub(super) spare: RefCell<Vec<Box<Exchange>>>,
}

impl Context {
    pub(super) fn new(
        number: usize,
        peers: Arc<Peers>,
        ring: Ring,
        settings: ShardSettings,
        config: &Config,
        process: &Process,
        reporting: Option<Reporting>,
    ) -> io::Result<Context> {
        let Process { started, addresses, services: shared } = process;
        let started = *started;
        let reporter =
            reporting.map(|reporting| Rc::new(Reporter::new(number, reporting, started)));
        let services = config.services.iter().enumerate();
        let upstreams = services
            .map(|(index, service)| Upstream::new(index, service, shared, number, &peers, &ring));
        let upstreams = upstreams.map(|upstream| upstream.map(Rc::new));
        let upstreams: Rc<[Rc<Upstream>]> = upstreams.collect::<io::Result<_>>()?;
        let mut servers = Vec::new();
        for router in &config.routers {
            let label = &router.label;
            let listens = router.servers.len();
            let router = Rc::new(Router::new(router, &upstreams, reporter.as_deref()));
            for address in &addresses[servers.len()..][..listens] {
                let name = ServerName { router: label.clone(), address: *address };
                let id = reporter.as_ref().and_then(|it| it.layout.server_id(&name));
                servers.push(Server { router: router.clone(), id: id.unwrap_or(0) });
            }
        }
        Ok(Context {
            number,
            peers,
            ring,
            settings,
            servers,
            reporter,
            upstreams,
            rng: RefCell::new(Rng::new(seed_of(number))),
            leftovers: Leftovers::default(),
            started,
            drain: Cell::new(None),
            held: Cell::new(0),
            connections: Cell::new(0),
            control: RefCell::new(None),
            spare: RefCell::default(),
        })
    }

    /// Tells the recorder, if there is one.
    #[inline]
    pub(super) fn record(&self, record: impl FnOnce(&mut Recorder)) {
        if let Some(reporter) = &self.reporter {
            reporter.record(record);
        }
    }

    /// A reading of the clock for telemetry's sake; none is made where there is no telemetry.
    pub(super) fn stamp(&self) -> Duration {
        match self.reporter {
            Some(_) => self.clock(),
            None => Duration::ZERO,
        }
    }

    /// A reading of the clock, for latencies. `Ring::now` is what deadlines are set by.
    pub(super) fn clock(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn drain(&self) -> Option<Drain> {
        self.drain.get()
    }

    /// Whether connections end with their next answer.
    pub(super) fn is_closing(&self) -> bool {
        self.drain.get().is_some_and(|drain| drain.closes <= self.ring.now())
    }

    /// Whether the time for a drain is over.
    pub(super) fn is_over(&self) -> bool {
        self.drain.get().is_some_and(|drain| drain.ends <= self.ring.now())
    }

    /// Whether listeners close.
    pub(super) fn is_turning_away(&self) -> bool {
        self.drain.get().is_some_and(|drain| drain.begins <= self.ring.now())
    }

    pub(super) fn begin_drain(&self, grace: Duration, drain: Duration) {
        let now = self.ring.now();
        self.drain.set(Some(Drain {
            begins: now + grace,
            closes: now + grace + HANDSHAKE,
            idle_close: drain / 2,
            ends: now + grace + drain,
        }));
    }

    pub(super) fn set_control(&self, waker: Waker) {
        *self.control.borrow_mut() = Some(waker);
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Connections and listeners that are still there.
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    pub(super) fn hold(self: &Rc<Context>, is_connection: bool) -> Hold {
        self.held.set(self.held.get() + 1);
        if is_connection {
            self.connections.set(self.connections.get() + 1);
            self.peers.publish(self.number, self.connections.get());
        }
        Hold { context: self.clone(), is_connection }
    }
}

/// Keeps the shard from ending while it exists.
pub(super) struct Hold {
    context: Rc<Context>,
    is_connection: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let context = &self.context;
        context.held.set(context.held.get() - 1);
        if self.is_connection {
            context.connections.set(context.connections.get() - 1);
            context.peers.publish(context.number, context.connections.get());
        }
        if context.held.get() == 0
            && context.drain.get().is_some()
            && let Some(control) = context.control.borrow().as_ref()
        {
            context.ring.wake(control);
        }
    }
}

/// Different on every shard and at every start, so that shards do not pick in step.
fn seed_of(number: usize) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_usize(number);
    hasher.finish()
}
