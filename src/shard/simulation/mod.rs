//! A whole shard over a simulated kernel, in virtual time: clients and origins that send in random
//! fragments, stall, reset and come and go, against a shadow model of what each of them has said.
//!
//! What must hold whatever happens: no byte is invented, lost, or handed to somebody else; framing
//! is always clean, and a part of a message never looks like the whole; a request that is not
//! idempotent reaches one origin at most; everybody has an outcome in bounded time; in the end no
//! task, slot, buffer, lease, descriptor or count is left. In fair weather (half of the seeds)
//! nobody misbehaves, and then all are answered.
//!
//! `RINGLANE_SEED=n` runs one seed again, and `RINGLANE_SEEDS=n` so many.

mod books;
mod client;
mod origin;
mod plans;
mod script;
mod wire;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::{Duration, Instant};

use glommio::LocalExecutor;

use self::books::{Books, Counts};
use self::client::Client;
use self::origin::Origin;
use self::plans::Planner;
use super::context::Context;
use super::{Command, Peers, Plan};
use crate::ring::simulated::{self, Network, Random, World};
use crate::ring::{MailboxSender, Ring, Settings, mailbox};

const SEEDS: u64 = if cfg!(debug_assertions) { 60 } else { 3_000 };
/// Nobody has to wait longer than that, in virtual time.
const LIMIT: Duration = Duration::from_secs(600);
/// How long the last drain may take.
const DRAIN: Duration = Duration::from_secs(3);

/// Everybody but the proxy.
struct Everybody {
    books: Rc<RefCell<Books>>,
    clients: Vec<Client>,
    origins: Vec<Origin>,
    /// Clients that are still to come.
    to_come: usize,
    is_rough: bool,
    /// There is room for few connections, and the others are told so.
    is_crowded: bool,
    commands: MailboxSender<Command>,
    /// What is configured anew, and when.
    reloads: Vec<(Duration, Arc<Plan>)>,
    /// When the shard is told to end; at the latest when everybody has gone.
    drains_at: Option<Duration>,
}

impl World for Everybody {
    fn act(&mut self, network: &mut Network) -> Option<Duration> {
        while let Some((peer, _)) = network.take_ringing() {
            match network.random.below(20) {
                0 if self.is_rough => network.refuse(peer, libc::ECONNREFUSED),
                1 if self.is_rough => network.refuse(peer, libc::ENETUNREACH),
                // It never answers.
                2 if self.is_rough => {}
                _ => self.origins.push(Origin::accept(network, peer, self.is_rough)),
            }
        }
        if self.to_come > 0 && self.clients.len() < 8 && network.random.chance(30) {
            self.to_come -= 1;
            self.clients.push(Client::connect(network, self.is_rough, self.is_crowded));
        }
        let books = &mut *self.books.borrow_mut();
        for client in &mut self.clients {
            client.act(network, books);
        }
        for origin in &mut self.origins {
            origin.act(network, books);
        }
        self.clients.retain(|client| !client.is_over);
        self.origins.retain(|origin| !origin.is_over);
        while let Some((_, plan)) = self.reloads.pop_if(|(at, _)| *at <= network.now) {
            let sent = self.commands.send(Command::Apply(plan)).is_ok();
            assert!(sent || self.drains_at.is_none(), "nobody reads commands");
        }
        let is_over = self.to_come == 0 && self.clients.is_empty();
        if let Some(at) = self.drains_at
            && (is_over || network.now >= at)
        {
            self.drains_at = None;
            self.to_come = 0;
            let command = Command::Drain { grace: Duration::ZERO, drain: DRAIN };
            self.commands.send(command).expect("room for a command");
        }
        assert!(network.now < LIMIT, "somebody waits for ever");
        let soon = Duration::from_millis(network.random.between(1, 30) as u64);
        Some(network.now + soon)
    }
}

/// A task that ends when the shard has, wherever it waits: a shard's own tasks wait for ever.
struct UntilOver {
    task: Pin<Box<dyn Future<Output = ()>>>,
    over: Rc<Over>,
}

#[derive(Default)]
struct Over {
    is: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Future for UntilOver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        if self.over.is.get() {
            return Poll::Ready(());
        }
        self.over.wakers.borrow_mut().push(context.waker().clone());
        self.task.as_mut().poll(context)
    }
}

fn run_seed(seed: u64) -> Counts {
    let mut random = Random::new(!seed);
    let is_rough = seed % 2 == 1;
    // From a few bytes to more than any message has: what a slow peer's buffers hold.
    let window = *random.pick(&[700, 8_000, 60_000, 1 << 20]);
    let network = Rc::new(RefCell::new(Network::new(seed, window)));
    let settings = Settings {
        entries: *random.pick(&[8, 64]),
        head_buffers: *random.pick(&[16, 64]),
        // Where memory is short, what clients send ahead is dropped.
        max_buffered_bytes: if is_rough { *random.pick(&[64 << 10, 8 << 20]) } else { 8 << 20 },
        ..Settings::default()
    };
    let books = Rc::<RefCell<Books>>::default();
    let (commands, mailbox) = mailbox(16).expect("a mailbox");
    let drains_early = is_rough && random.chance(20);
    let mut planner = Planner::new(seed, is_rough);
    let plan = planner.plan();
    let reloads = (0..random.below(4)).map(|at| {
        let at = Duration::from_millis(at as u64 * 700 + random.between(1, 700) as u64);
        (at, planner.plan())
    });
    let mut reloads: Vec<_> = reloads.collect();
    reloads.reverse();
    let is_crowded = is_rough && random.chance(30);
    let max_connections = if is_crowded { 3 } else { 1_000 };
    let everybody = Everybody {
        books: books.clone(),
        clients: Vec::new(),
        origins: Vec::new(),
        to_come: random.between(2, 14),
        is_rough,
        is_crowded,
        commands: commands.clone(),
        reloads,
        drains_at: Some(match drains_early {
            true => Duration::from_millis(random.between(50, 3_000) as u64),
            false => LIMIT,
        }),
    };
    LocalExecutor::default().run(async move {
        let ring = simulated::ring(&settings, &network, Box::new(everybody));
        let context = shard(&ring, &plan, (seed, max_connections), commands);
        let over = Rc::<Over>::default();
        let spawn = |task: Pin<Box<dyn Future<Output = ()>>>| {
            ring.spawn(UntilOver { task, over: over.clone() });
        };
        spawn(Box::pin(super::keep_pools(context.clone())));
        spawn(Box::pin(super::refresh_policies(context.clone())));
        spawn(Box::pin(super::leftovers::read(context.clone())));
        let (events, _told) = crossbeam_channel::unbounded();
        spawn(Box::pin(super::obey(context.clone(), mailbox, events)));
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").expect("a descriptor");
        super::listen(&context, vec![(listener.into(), 1)]);
        ring.drive(&settings).await;
        over.is.set(true);
        over.wakers.take().into_iter().for_each(Waker::wake);
        glommio::executor().yield_now().await;
        glommio::executor().yield_now().await;
        nothing_is_left(&context, &ring, &network.borrow());
    });
    Rc::try_unwrap(books).expect("the world has gone").into_inner().counts
}

fn shard(
    ring: &Ring,
    plan: &Arc<Plan>,
    (seed, max_connections): (u64, usize),
    commands: MailboxSender<Command>,
) -> Rc<Context> {
    let peers = Arc::new(Peers::new(vec![(max_connections, commands)]));
    let context = Context::new(0, peers, ring.clone(), (Instant::now(), seed), None);
    let context = Rc::new(context);
    context.apply(plan);
    context
}

fn nothing_is_left(context: &Rc<Context>, ring: &Ring, network: &Network) {
    ring.assert_empty();
    assert_eq!(network.open_here(), 0, "descriptors");
    assert_eq!((context.held(), context.connections()), (0, 0), "connections");
    for upstream in context.upstreams.borrow().iter() {
        let gauges = upstream.gauges(context);
        assert_eq!((gauges.load, gauges.pool_size, gauges.pool_waiters), (0, 0, 0), "attempts");
    }
    assert_eq!(Rc::strong_count(context), 1, "tasks");
}

#[test]
fn whatever_clients_and_origins_do_their_bytes_are_their_own() {
    let seeds = simulated::seeds(SEEDS);
    let mut sum = Counts::default();
    for seed in seeds.clone() {
        let caught = std::panic::catch_unwind(|| run_seed(seed));
        let counts = caught.unwrap_or_else(|_| panic!("RINGLANE_SEED={seed}"));
        let Counts { requests, answered, refused, lost } = counts;
        assert!(seed % 2 == 1 || answered == requests, "RINGLANE_SEED={seed}: {counts:?}");
        sum.requests += requests;
        sum.answered += answered;
        sum.refused += refused;
        sum.lost += lost;
    }
    println!(
        "simulation: {} seeds, {} requests, {} answered, {} refused, {} lost to faults, 0 failures",
        seeds.count(),
        sum.requests,
        sum.answered,
        sum.refused,
        sum.lost
    );
}
