//! All origins of one thread: their listeners, what they count, and the task that answers the
//! process's questions.
//!
//! In a stall, connections are taken from the kernel as ever, since their handshakes are its
//! business and not ours, and requests are read: or the counts could not be asked for. What a
//! client sees is a server that accepts nothing and answers nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::task::Waker;
use std::time::Duration;

use ringlane::policy::Rng;
use ringlane::ring::{self, Accepted, Listener, Mailbox, Ring};

use super::StartError;
use super::alarms::Alarms;
use super::answer::Prepared;
use super::connection::{self, Wire};
use super::counts::{Counts, Served, Tally};
use super::ids::Ids;
use super::script::{Phase, Script};

/// Of the draws of the first origin; each next one has the next. The same requests in the same
/// order are answered alike by each run.
const SEED: u64 = 1;
/// Before accepting is tried again where it failed, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What is asked of the thread.
pub(super) enum Message {
    Counts(SyncSender<Counts>),
    /// To end, and to say what was served.
    Stop(SyncSender<Counts>),
}

/// What tasks of the thread share.
pub(super) struct House {
    pub(super) ring: Ring,
    pub(super) alarms: Rc<Alarms>,
    origins: Vec<Rc<Site>>,
    /// Of the main task.
    pub(super) waker: Waker,
    /// Listeners that there are.
    accepting: Cell<usize>,
    pub(super) stopping: Cell<bool>,
}

/// One origin.
pub(super) struct Site {
    address: SocketAddr,
    script: Script,
    /// By phase.
    prepared: Vec<Prepared>,
    /// When it began to listen, by the ring's clock.
    began: Duration,
    pub(super) rng: RefCell<Rng>,
    pub(super) tally: RefCell<Tally>,
    /// Whose last answers may have left since they were looked at.
    wires: RefCell<HashMap<u64, Rc<Wire>>>,
    next_wire: Cell<u64>,
}

/// An origin as it is handed to its thread.
pub(super) type Listening = (SocketAddr, TcpListener, Script);

/// The thread's main task: until it is told to stop.
pub(super) async fn serve(
    ring: Ring,
    listening: Vec<Listening>,
    mailbox: Mailbox<Message>,
    ready: SyncSender<Result<(), StartError>>,
) {
    let waker = ring::current_waker().await;
    let mailbox = mailbox.open(&ring, waker.clone());
    let began = ring.now();
    let sites = (SEED..).zip(&listening).map(|(seed, (address, _, script))| {
        Rc::new(Site {
            address: *address,
            script: script.clone(),
            prepared: script.phases().iter().map(|_| Prepared::default()).collect(),
            began,
            rng: RefCell::new(Rng::new(seed)),
            tally: RefCell::default(),
            wires: RefCell::default(),
            next_wire: Cell::new(0),
        })
    });
    let origins: Vec<_> = sites.collect();
    let house = Rc::new(House {
        ring: ring.clone(),
        alarms: Alarms::new(&ring, waker.clone()),
        waker,
        accepting: Cell::new(origins.len()),
        stopping: Cell::new(false),
        origins,
    });
    for (site, (_, listener, _)) in house.origins.iter().zip(listening) {
        ring.spawn(accept(house.clone(), site.clone(), listener));
    }
    let _ = ready.try_send(Ok(()));
    loop {
        house.alarms.fire();
        while let Some(message) = mailbox.take() {
            match message {
                Message::Counts(reply) => drop(reply.try_send(house.counts())),
                Message::Stop(reply) => {
                    house.end().await;
                    return drop(reply.try_send(house.counts()));
                }
            }
        }
        ring::wait().await;
    }
}

async fn accept(house: Rc<House>, site: Rc<Site>, listener: TcpListener) {
    let waker = ring::current_waker().await;
    let listener = Listener::new(&house.ring, listener, waker.clone());
    while !house.stopping.get() {
        match listener.accept() {
            Accepted::Connection(fd) => {
                let task = connection::serve(house.clone(), site.clone(), fd);
                house.ring.spawn(task);
            }
            Accepted::Nothing => ring::wait().await,
            Accepted::Stopped(_) => {
                let until = house.ring.elapsed() + ACCEPT_PAUSE;
                let _due = house.alarms.set(until, waker.clone());
                while house.ring.elapsed() < until && !house.stopping.get() {
                    ring::wait().await;
                }
                listener.resume();
            }
        }
    }
    drop(listener);
    house.accepting.set(house.accepting.get() - 1);
    house.ring.wake(&house.waker);
}

impl House {
    /// Listeners and connections are closed by the ring's driver, so they must go before the main
    /// task does. What waited for its answer is lost.
    async fn end(&self) {
        self.stopping.set(true);
        self.ring.wake_all();
        let open = |site: &Rc<Site>| !site.wires.borrow().is_empty();
        while self.accepting.get() > 0 || self.origins.iter().any(open) {
            ring::wait().await;
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let origins: Vec<_> =
            self.origins.iter().map(|site| (site.address, site.served())).collect();
        let mut total = Served::default();
        origins.iter().for_each(|(_, served)| total.add(served));
        let tallies: Vec<_> = self.origins.iter().map(|site| site.tally.borrow()).collect();
        total.ids = Ids::together(tallies.iter().map(|tally| &tally.ids));
        Counts { origins, total }
    }
}

impl Site {
    /// Which phase it is, and when it ends by the ring's clock.
    pub(super) fn now(&self, ring: &Ring) -> (usize, Option<Duration>) {
        if self.script.phases().len() == 1 {
            return (0, None);
        }
        let (phase, ends) = self.script.at(ring.now() - self.began);
        // The ring's clock counts whole milliseconds: it has passed the end at the next of them.
        (phase, ends.map(|ends| ceil_ms(ends) + self.began))
    }

    pub(super) fn phase(&self, number: usize) -> &Phase {
        &self.script.phases()[number]
    }

    pub(super) fn prepared(&self, phase: usize) -> &Prepared {
        &self.prepared[phase]
    }

    /// Looks after a connection until `forget`.
    pub(super) fn remember(&self, wire: Rc<Wire>) -> u64 {
        let number = self.next_wire.replace(self.next_wire.get() + 1);
        self.wires.borrow_mut().insert(number, wire);
        number
    }

    pub(super) fn forget(&self, number: u64) {
        self.wires.borrow_mut().remove(&number);
    }

    fn served(&self) -> Served {
        let mut tally = self.tally.borrow_mut();
        let mut waiting = 0;
        for wire in self.wires.borrow().values() {
            wire.settle(&mut tally);
            waiting += wire.owed();
        }
        tally.served(waiting)
    }
}

fn ceil_ms(time: Duration) -> Duration {
    Duration::from_millis(time.as_nanos().div_ceil(1_000_000) as u64)
}
