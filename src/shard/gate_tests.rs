//! Places of a service's limit where the mailbox of the shard that they are sent to takes no more:
//! none is lost, none is held by nobody, and none is sent again and again.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::limits::{Bounds, Gate, Place};
use super::shared::Shared;
use crate::ring::{Ring, Settings};

/// Of two shards, of which neither's mailbox takes anything; and what was tried.
struct Gates {
    gates: [Rc<Gate>; 2],
    tried: Rc<Cell<usize>>,
}

impl Gates {
    fn new(max_concurrent: u32, max_queue: u32) -> Gates {
        let shared = Arc::new(Shared::new(1, 2, Instant::now(), 1));
        let settings = Settings { entries: 8, head_buffers: 16, ..Settings::default() };
        let ring = Ring::new(&settings).expect("a ring");
        let tried = Rc::<Cell<usize>>::default();
        let gate = |me| {
            let tried = tried.clone();
            let send = move |_| {
                tried.set(tried.get() + 1);
                false
            };
            let gate = Gate::new(shared.clone(), me, ring.clone(), Box::new(send));
            let max_concurrent = Some(max_concurrent);
            gate.set_bounds(Bounds { max_concurrent, per_endpoint: None, max_queue });
            Rc::new(gate)
        };
        Gates { gates: [gate(0), gate(1)], tried }
    }

    fn ask(&self, shard: usize) -> Place {
        self.gates[shard].ask(Waker::noop())
    }
}

#[test]
fn a_place_that_cannot_be_sent_is_free_for_who_looks() {
    let it = Gates::new(1, 10);
    let mut holds = it.ask(0);
    let mut waits = it.ask(1);
    assert!(holds.look() && !waits.look());
    drop(holds);
    assert_eq!(it.tried.get(), 1, "a full mailbox is not asked again and again");
    assert!(!waits.look(), "it could not be told");
    // As its shard does ten times a second.
    it.gates[1].admit();
    assert!(waits.look());
    assert!(!it.ask(0).look(), "it is the only place");
    drop(waits);
    assert!(it.ask(0).look() && it.ask(1).look(), "one after the other, with nobody waiting");
}

#[test]
fn a_place_that_cannot_be_sent_is_for_who_waits_here() {
    let it = Gates::new(1, 10);
    let holds = it.ask(0);
    let (mut there, mut here) = (it.ask(1), it.ask(0));
    drop(holds);
    assert!(here.look() && !there.look());
    assert_eq!(it.tried.get(), 1);
    drop(here);
    it.gates[1].admit();
    assert!(there.look(), "nor is it lost to the other");
}

#[test]
fn as_many_start_as_may_though_no_place_could_be_sent() {
    let it = Gates::new(3, 10);
    let holders: Vec<Place> = (0..3).map(|_| it.ask(0)).collect();
    let mut waiters: Vec<Place> = (0..5).map(|_| it.ask(1)).collect();
    drop(holders);
    let started = |places: &mut [Place]| {
        places.iter_mut().map(Place::look).filter(|is_place| *is_place).count()
    };
    it.gates[1].admit();
    assert_eq!(started(&mut waiters), 3);
    waiters.drain(..3);
    assert_eq!(started(&mut waiters), 2, "those who end here hand over here");
    // Who goes away while it waits leaves nothing behind.
    let gone = it.ask(0);
    let also_gone = it.ask(0);
    drop((gone, also_gone, waiters));
    let mut all: Vec<Place> = (0..4).map(|shard| it.ask(shard % 2)).collect();
    assert_eq!(started(&mut all), 3);
}
