//! The actors of one core: everything between a client's first byte and an endpoint's last.
//!
//! A shard is one glommio executor on one core, with one ring. Its tasks are a listener per
//! listening socket, a connection per client, the keeper of the pools, the control task that reads
//! the supervisor's commands, and the driver. They share a `Context` and nothing with other shards
//! but what DESIGN section 3 lists.
//!
//! In reading order: `listener`, `connection` (a client's states), `exchange` and `attempt` (one
//! request), `pump` (a body), `tunnel`, `upstream` (balancer and pools), `transport` (bytes),
//! `ledger` and `report` (what telemetry is told).

mod accept;
mod accrual;
mod apply;
mod attempt;
mod connection;
mod context;
mod deadlines;
mod exchange;
#[cfg(test)]
mod gate_tests;
mod health;
mod ledger;
mod leftovers;
mod limits;
mod listener;
mod load;
mod peers;
mod plan;
mod pump;
mod report;
mod retries;
mod rules;
mod shared;
#[cfg(test)]
mod simulation;
mod traces;
mod transport;
mod tunnel;
mod upstream;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use glommio::{LocalExecutorBuilder, Placement};

pub use self::peers::Peers;
pub use self::plan::{Command, Listeners, Plan, ServerPlan, ServicePlan, SocketAddresses, Wanted};
pub use self::report::Reporting;
pub use self::shared::Shared;

use self::context::{Context, Held, seed_of};
use self::upstream::Upstream;
use crate::config::ShardSettings;
use crate::control::Event;
use crate::ring::{self, Mailbox, Ring};

/// What glommio may register with each of its three rings, which carry nothing here: its default
/// of 10 MiB counts against the limit of locked memory.
const GLOMMIO_IO_BYTES: usize = 64 << 10;
/// Room for a burst of connections handed over; commands carry whole state, so few are on the way.
pub const MAILBOX_CAPACITY: usize = 256;
/// How often the keeper looks at the pools though nothing disturbed it.
const KEEPER_PERIOD: Duration = Duration::from_secs(1);
/// How often policies look at what the whole process has seen (DESIGN section 3).
const REFRESH_PERIOD: Duration = Duration::from_millis(100);

/// What a shard is started with.
pub struct Given {
    /// What times are since, on all shards alike.
    pub started: Instant,
    pub plan: Arc<Plan>,
    /// `None`: `telemetry: off`.
    pub reporting: Option<Reporting>,
}

/// A running shard, as the supervisor holds it.
pub struct Shard {
    thread: glommio::ExecutorJoinHandle<()>,
}

impl Shard {
    /// Starts a shard on its core. It tells `events` when it accepts, when it has drained, and
    /// why it could not start.
    pub fn start(
        number: usize,
        peers: Arc<Peers>,
        mailbox: Mailbox<Command>,
        given: Given,
        events: Sender<Event>,
    ) -> Result<Shard, String> {
        let settings = given.plan.config.runtime.shards[number].clone();
        let core = settings.core;
        let thread = LocalExecutorBuilder::new(Placement::Fixed(core))
            .name("shard")
            .io_memory(GLOMMIO_IO_BYTES)
            .ring_depth(16)
            .spawn(move || async move {
                let event = match run(number, settings, peers, given, mailbox, &events).await {
                    Ok(()) => Event::ShardDone { shard: number },
                    Err(why) => Event::ShardFailed { shard: number, why },
                };
                // The supervisor may have gone first, at the end of a drain.
                let _ = events.send(event);
            })
            .map_err(|error| format!("cannot run on core {core}: {error}"))?;
        Ok(Shard { thread })
    }

    pub fn join(self) -> Result<(), String> {
        self.thread.join().map_err(|error| error.to_string())
    }
}

async fn run(
    number: usize,
    settings: ShardSettings,
    peers: Arc<Peers>,
    given: Given,
    mailbox: Mailbox<Command>,
    events: &Sender<Event>,
) -> Result<(), String> {
    let ring_settings = ring::Settings {
        entries: settings.ring_entries,
        head_buffers: settings.head_buffers,
        max_buffered_bytes: settings.max_buffered_bytes,
        spin: settings.spin,
        gather: Duration::ZERO,
    };
    let ring = Ring::new(&ring_settings).map_err(|error| format!("io_uring: {error}"))?;
    let Given { started, plan, reporting } = given;
    let begun = (started, seed_of(number));
    let context = Context::new(number, peers, ring.clone(), begun, reporting);
    let context = Rc::new(context);
    context.apply(&plan);
    drop(plan);
    ring.spawn(keep_pools(context.clone()));
    ring.spawn(refresh_policies(context.clone()));
    ring.spawn(leftovers::read(context.clone()));
    if let Some(reporter) = &context.reporter {
        ring.spawn(report::report(context.clone(), reporter.clone()));
    }
    if number == 0 {
        ring.spawn(health::check_health(context.clone()));
    }
    ring.spawn(obey(context.clone(), mailbox, events.clone()));
    let _ = events.send(Event::ShardReady { shard: number });
    ring.drive(&ring_settings).await;
    Ok(())
}

fn listen(context: &Rc<Context>, listeners: Listeners) {
    for (socket, number) in listeners {
        let server = context.servers.borrow().get(&number).cloned();
        let Some(server) = server else {
            debug_assert!(false, "servers come before their sockets");
            continue;
        };
        let hold = context.hold(Held::Other);
        context.ring.spawn(listener::accept(context.clone(), number, server, socket, hold));
    }
}

/// The keeper: closes pooled connections that the endpoint closed, or that nobody needed.
async fn keep_pools(context: Rc<Context>) {
    let waker = ring::current_waker().await;
    context.ring.set_keeper(waker.clone());
    let timer = context.ring.timer(waker);
    timer.set(context.ring.now() + KEEPER_PERIOD);
    loop {
        let due = timer.has_fired();
        if due {
            timer.set(context.ring.now() + KEEPER_PERIOD);
        }
        if due || !context.ring.take_disturbed().is_empty() {
            let now = context.ring.now();
            context.each_upstream(|upstream| upstream.sweep(now));
            context.forget_retired();
        }
        ring::wait().await;
    }
}

/// Brings together what each shard has seen of its endpoints, ten times a second; and tells the
/// time of day.
async fn refresh_policies(context: Rc<Context>) {
    let waker = ring::current_waker().await;
    let timer = context.ring.timer(waker);
    timer.set(context.ring.now() + REFRESH_PERIOD);
    loop {
        if timer.has_fired() {
            timer.set(context.ring.now() + REFRESH_PERIOD);
            context.refresh_date();
            context.each_upstream(|upstream| upstream.refresh(&context));
        }
        ring::wait().await;
    }
}

/// The control task: does what the supervisor says, and ends the shard after a drain.
async fn obey(context: Rc<Context>, mailbox: Mailbox<Command>, events: Sender<Event>) {
    let waker = ring::current_waker().await;
    context.set_control(waker.clone());
    let timer = context.ring.timer(waker.clone());
    let mailbox = mailbox.open(&context.ring, waker.clone());
    let mut over = false;
    loop {
        while let Some(command) = mailbox.take() {
            match command {
                Command::Adopt { socket, server } => listener::adopt(&context, server, socket),
                Command::Place { service } => {
                    context.upstream(service).into_iter().for_each(|it| it.gate.receive());
                }
                Command::Apply(plan) => {
                    context.apply(&plan);
                    let (shard, generation) = (context.number, plan.generation);
                    // The supervisor may have gone first, at the end of a drain.
                    let _ = events.send(Event::Applied { shard, generation });
                }
                Command::Listen(listeners) => listen(&context, listeners),
                Command::Drain { grace, drain } => {
                    context.begin_drain(grace, drain);
                    context.ring.wake_all();
                }
            }
        }
        if let Some(drain) = context.drain() {
            let now = context.ring.now();
            if context.held() > 0 && now >= drain.ends && !std::mem::replace(&mut over, true) {
                // Each connection breaks off by itself, so that none takes a part for the whole.
                context.ring.wake_all();
                context.ring.wake(&waker);
                ring::wait().await;
                continue;
            }
            if context.held() == 0 || over {
                context.each_upstream(Upstream::close_idle);
                if let Some(reporter) = &context.reporter {
                    reporter.finish(&context);
                }
                context.ring.stop();
                return;
            }
            if timer.has_fired() {
                context.ring.wake_all();
            }
            let next = [drain.begins, drain.closes, drain.ends].into_iter().find(|at| *at > now);
            timer.set(next.unwrap_or(drain.ends));
        }
        ring::wait().await;
    }
}
