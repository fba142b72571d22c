//! What the tasks of one shard share: its ring, the configuration that it applies, its drain.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::exchange::Exchange;
use super::peers::Peers;
use super::upstream::Upstream;
use crate::config::{self, ClientTimeouts, Config, ShardSettings};
use crate::http::{ForwardRules, Mode};
use crate::policy::{Rng, Route, RouteTable};
use crate::ring::Ring;

/// A router as its connections use it.
pub(super) struct Router {
    pub(super) table: RouteTable,
    pub(super) rules: ForwardRules,
    pub(super) timeouts: ClientTimeouts,
    pub(super) max_body_bytes: Option<u64>,
    pub(super) upgrades: Vec<String>,
    /// By the index that a route names.
    pub(super) upstreams: Rc<[Rc<Upstream>]>,
}

impl Router {
    fn new(router: &config::Router, upstreams: &Rc<[Rc<Upstream>]>) -> Router {
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
    pub(super) routers: Vec<Rc<Router>>,
    pub(super) upstreams: Rc<[Rc<Upstream>]>,
    pub(super) rng: RefCell<Rng>,
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
        seed: u64,
    ) -> io::Result<Context> {
        let shards = config.runtime.shards.len();
        let upstreams = config.services.iter().map(|service| Upstream::new(service, shards));
        let upstreams = upstreams.map(|upstream| upstream.map(Rc::new));
        let upstreams: Rc<[Rc<Upstream>]> = upstreams.collect::<io::Result<_>>()?;
        let routers = config.routers.iter().map(|router| Rc::new(Router::new(router, &upstreams)));
        Ok(Context {
            number,
            peers,
            ring,
            settings,
            routers: routers.collect(),
            upstreams,
            rng: RefCell::new(Rng::new(seed)),
            started: Instant::now(),
            drain: Cell::new(None),
            held: Cell::new(0),
            connections: Cell::new(0),
            control: RefCell::new(None),
            spare: RefCell::default(),
        })
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
