//! What the tasks of one shard share: its ring, the configuration that it applies, its drain.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::exchange::Exchange;
use super::leftovers::Leftovers;
use super::peers::Peers;
use super::report::{Reporter, Reporting};
use super::traces::Tracer;
use super::upstream::Upstream;
use crate::config::{ClientTimeouts, Config};
use crate::http::ForwardRules;
use crate::policy::{Rng, RouteTable};
use crate::ring::{self, Ring};
use crate::telemetry::layout::{NO_ENDPOINT, TargetName};
use crate::telemetry::record::Recorder;

/// A router as its connections use it, in one generation: an exchange keeps the one that it began
/// with.
pub(super) struct Router {
    pub(super) table: RouteTable,
    pub(super) rules: ForwardRules,
    pub(super) timeouts: ClientTimeouts,
    pub(super) max_body_bytes: Option<u64>,
    pub(super) upgrades: Vec<String>,
    /// By the index that a route names.
    pub(super) upstreams: Rc<[Rc<Upstream>]>,
    /// What each of them is counted as; `None` where nothing is counted, or no route leads there.
    pub(super) targets: Vec<Option<Rc<Target>>>,
}

/// A service as one router's requests are counted, for as long as both are configured, and after
/// that for who has it still.
pub(super) struct Target {
    pub(super) id: u32,
    /// The service's, whose slots these are: one that went and came back has others.
    pub(super) service: u32,
    /// By the endpoint's slot in its service.
    pub(super) endpoints: RefCell<Vec<u32>>,
}

impl Target {
    pub(super) fn new(id: u32, service: u32) -> Target {
        Target { id, service, endpoints: RefCell::default() }
    }

    /// What the endpoint in a slot is counted as.
    pub(super) fn endpoint(&self, slot: usize) -> u32 {
        self.endpoints.borrow().get(slot).copied().unwrap_or(NO_ENDPOINT)
    }
}

/// A listening address, for as long as a connection of its is open.
pub(super) struct Server {
    /// Of the generation that holds for requests from now on.
    pub(super) router: RefCell<Rc<Router>>,
    /// What it is counted as; of no meaning where nothing is counted.
    pub(super) id: Cell<u32>,
    /// Connections accepted from now on begin with a header of the PROXY protocol.
    pub(super) proxy_protocol: Cell<bool>,
    /// It is configured no more.
    closing: Cell<Option<Drain>>,
}

impl Server {
    pub(super) fn new(router: Rc<Router>, id: u32, proxy_protocol: bool) -> Server {
        Server {
            router: RefCell::new(router),
            id: Cell::new(id),
            proxy_protocol: Cell::new(proxy_protocol),
            closing: Cell::new(None),
        }
    }

    /// It is configured, whatever it was before.
    pub(super) fn open(&self, router: Rc<Router>, id: u32, proxy_protocol: bool) {
        self.router.replace(router);
        self.id.set(id);
        self.proxy_protocol.set(proxy_protocol);
        self.closing.set(None);
    }

    /// It is configured no more: it is drained by itself, and what is on its way there may take as
    /// long as it takes. Whether that is new.
    pub(super) fn close(&self, drain: Drain) -> bool {
        let is_new = self.closing.get().is_none();
        if is_new {
            self.closing.set(Some(drain));
        }
        is_new
    }

    /// Its own drain.
    pub(super) fn drain(&self) -> Option<Drain> {
        self.closing.get()
    }

    /// Whether its connections end with their next answer.
    pub(super) fn is_closing(&self, now: Duration) -> bool {
        self.closing.get().is_some_and(|drain| drain.closes <= now)
    }

    /// Whether its listener takes in no more.
    pub(super) fn is_turning_away(&self, now: Duration) -> bool {
        self.closing.get().is_some_and(|drain| drain.begins <= now)
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

impl Drain {
    pub(super) fn new(now: Duration, grace: Duration, drain: Duration) -> Drain {
        Drain {
            begins: now + grace,
            closes: now + grace + HANDSHAKE,
            idle_close: drain / 2,
            ends: now + grace + drain,
        }
    }
}

pub(super) struct Context {
    pub(super) number: usize,
    pub(super) peers: Arc<Peers>,
    pub(super) ring: Ring,
    /// By their numbers; those that are configured, and those whose connections are not over.
    pub(super) servers: RefCell<HashMap<u32, Rc<Server>>>,
    /// `None`: `telemetry: off`.
    pub(super) reporter: Option<Rc<Reporter>>,
    /// In the order of the configuration.
    pub(super) upstreams: RefCell<Rc<[Rc<Upstream>]>>,
    /// Not configured any more, with what they still do, since when.
    pub(super) retired: RefCell<Vec<(Rc<Upstream>, Duration)>>,
    pub(super) targets: RefCell<HashMap<TargetName, Rc<Target>>>,
    /// That was applied last.
    pub(super) config: RefCell<Option<Arc<Config>>>,
    pub(super) rng: RefCell<Rng>,
    pub(super) tracer: RefCell<Tracer>,
    /// Answers that nobody wants.
    pub(super) leftovers: Leftovers,
    started: Instant,
    /// As `Date` has it; refreshed ten times a second.
    date: Cell<[u8; DATE_BYTES]>,
    /// Of the whole process.
    pub(super) max_descriptors: usize,
    drain: Cell<Option<Drain>>,
    /// Connections and listeners that a drain waits for.
    held: Cell<usize>,
    connections: Cell<usize>,
    /// Sockets that other shards have ever handed over; wraps.
    taken_over: Cell<u32>,
    refused: Cell<usize>,
    /// How many plans were applied so far.
    plans: Cell<u64>,
    /// The health checker, to be told of the next one.
    health_checker: RefCell<Option<Waker>>,
    /// The control task, to be told when the last of them has gone.
    control: RefCell<Option<Waker>>,
    /// Exchanges to be used again: no allocation per request.
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    pub(super) spare: RefCell<Vec<Box<Exchange>>>,
}

impl Context {
    /// Without servers and services yet: a plan brings them. `started` is what the process's clock
    /// counts from, and `seed` what is drawn by.
    pub(super) fn new(
        number: usize,
        peers: Arc<Peers>,
        ring: Ring,
        (started, seed): (Instant, u64),
        reporting: Option<Reporting>,
    ) -> Context {
        let spans = reporting.as_ref().map(|reporting| reporting.spans.clone());
        let tracer = RefCell::new(Tracer::new(number, peers.len(), !seed, spans));
        let reporter =
            reporting.map(|reporting| Rc::new(Reporter::new(number, reporting, started)));
        Context {
            number,
            peers,
            ring,
            servers: RefCell::default(),
            reporter,
            upstreams: RefCell::new(Rc::new([])),
            retired: RefCell::default(),
            targets: RefCell::default(),
            config: RefCell::default(),
            rng: RefCell::new(Rng::new(seed)),
            tracer,
            leftovers: Leftovers::default(),
            started,
            date: Cell::new(date_now()),
            max_descriptors: ring::max_descriptors(),
            drain: Cell::new(None),
            held: Cell::new(0),
            connections: Cell::new(0),
            taken_over: Cell::new(0),
            refused: Cell::new(0),
            plans: Cell::new(0),
            health_checker: RefCell::new(None),
            control: RefCell::new(None),
            spare: RefCell::default(),
        }
    }

    /// All services, those that are configured no more too.
    pub(super) fn each_upstream(&self, mut each: impl FnMut(&Upstream)) {
        let upstreams = self.upstreams.borrow().clone();
        upstreams.iter().for_each(|upstream| each(upstream));
        self.retired.borrow().iter().for_each(|(upstream, _)| each(upstream));
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
    #[inline]
    pub(super) fn clock(&self) -> Duration {
        #[cfg(test)]
        if let Some(now) = self.ring.simulated_now() {
            return now;
        }
        self.started.elapsed()
    }

    /// Now, as `Date` has it (RFC 9110 section 5.6.7).
    pub(super) fn date(&self) -> [u8; DATE_BYTES] {
        self.date.get()
    }

    pub(super) fn refresh_date(&self) {
        self.date.set(date_now());
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
        self.drain.set(Some(Drain::new(self.ring.now(), grace, drain)));
    }

    pub(super) fn plans_applied(&self) -> u64 {
        self.plans.get()
    }

    pub(super) fn plan_applied(&self) {
        self.plans.set(self.plans.get() + 1);
        if let Some(checker) = self.health_checker.borrow().as_ref() {
            self.ring.wake(checker);
        }
    }

    pub(super) fn set_health_checker(&self, waker: Waker) {
        *self.health_checker.borrow_mut() = Some(waker);
    }

    pub(super) fn set_control(&self, waker: Waker) {
        *self.control.borrow_mut() = Some(waker);
    }

    /// Connections that are served: what `max_connections` bounds.
    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Connections that are being told that there is no place for them.
    pub(super) fn refused(&self) -> usize {
        self.refused.get()
    }

    /// Connections and listeners that are still there.
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Counts a socket that another shard has handed over: the others see it when `publish` says
    /// what became of it.
    pub(super) fn take_over(&self) {
        self.taken_over.set(self.taken_over.get().wrapping_add(1));
    }

    /// Tells the other shards how full this one is.
    pub(super) fn publish(&self) {
        self.peers.publish(self.number, self.connections.get(), self.taken_over.get());
    }

    pub(super) fn hold(self: &Rc<Context>, held: Held) -> Hold {
        self.held.set(self.held.get() + 1);
        match held {
            Held::Served => {
                self.connections.set(self.connections.get() + 1);
                self.publish();
            }
            Held::Refused => self.refused.set(self.refused.get() + 1),
            Held::Other => {}
        }
        Hold { context: self.clone(), held }
    }
}

/// What keeps a shard from ending.
#[derive(Clone, Copy)]
pub(super) enum Held {
    Served,
    /// Takes no place of those that are served: who leaves makes room at once, however slowly
    /// others take their refusal.
    Refused,
    /// A listener, or an answer that nobody wants.
    Other,
}

/// Keeps the shard from ending while it exists.
pub(super) struct Hold {
    context: Rc<Context>,
    held: Held,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let context = &self.context;
        context.held.set(context.held.get() - 1);
        match self.held {
            Held::Served => {
                context.connections.set(context.connections.get() - 1);
                context.publish();
            }
            Held::Refused => context.refused.set(context.refused.get() - 1),
            Held::Other => {}
        }
        if context.held.get() == 0
            && context.drain.get().is_some()
            && let Some(control) = context.control.borrow().as_ref()
        {
            context.ring.wake(control);
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

fn date_now() -> [u8; DATE_BYTES] {
    let text = httpdate::fmt_http_date(std::time::SystemTime::now());
    // It has as many for the next 8,000 years.
    text.as_bytes().try_into().unwrap_or([b' '; DATE_BYTES])
}

/// Different on every shard and at every start, so that shards do not pick in step.
pub(super) fn seed_of(number: usize) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_usize(number);
    hasher.finish()
}
