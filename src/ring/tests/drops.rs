//! The end of a ring: what is under way then is waited for, and what it owns is closed.

use std::os::unix::net::UnixStream;

use super::*;
use crate::ring::simulated::{self, Network, World};

/// Nobody is on the other end.
struct Nobody;

impl World for Nobody {
    fn act(&mut self, _: &mut Network) -> Option<Duration> {
        None
    }
}

fn simulated(seed: u64) -> (Rc<RefCell<Network>>, Ring) {
    let network = Rc::new(RefCell::new(Network::new(seed, 1000)));
    let settings = Settings { entries: 4, head_buffers: 16, ..Settings::default() };
    let ring = simulated::ring(&settings, &network, Box::new(Nobody));
    (network, ring)
}

/// Sockets with every kind of operation in the kernel.
fn busy(ring: &Ring) -> Vec<Socket> {
    let sockets = (0..12).map(|nth| {
        let (socket, _) = UnixStream::pair().expect("a pair");
        let socket = Socket::adopt(ring, socket, Whose::Client, Waker::noop().clone());
        match nth % 3 {
            0 => socket.receive(true),
            1 => socket.fill(ring.lease(1000).expect("a lease"), 0, 1000),
            _ => socket.send(Chunk::heap(vec![0; 2000])),
        }
        socket
    });
    let sockets: Vec<Socket> = sockets.collect();
    // Once: a lease that rests is taken back.
    ring.turn(Duration::ZERO, &mut Vec::new());
    sockets
}

#[test]
fn memory_is_freed_when_the_kernel_is_done_with_it() {
    for seed in 0..50 {
        let (network, ring) = simulated(seed);
        let leases = ring.inner.leases.clone();
        drop(busy(&ring));
        assert!(leases.used_bytes() > 0, "the test is about leases in the kernel");
        drop(ring);
        assert_eq!(network.borrow().left_in_kernel, 0, "of seed {seed}");
        assert_eq!(leases.used_bytes(), 0, "of seed {seed}");
    }
}

#[test]
fn memory_that_the_kernel_keeps_is_never_freed() {
    let (network, ring) = simulated(1);
    let leases = ring.inner.leases.clone();
    let sockets = busy(&ring);
    let held = leases.used_bytes();
    assert!(held > 0, "the test is about leases in the kernel");
    network.borrow_mut().is_stuck = true;
    drop(sockets);
    drop(ring);
    assert!(network.borrow().left_in_kernel > 0, "and about what does not complete");
    assert_eq!(leases.used_bytes(), held);
    let now = network.borrow().now;
    assert!(now < Duration::from_secs(2), "{now:?}");
}

#[test]
fn every_descriptor_is_closed_whatever_waits_in_line() {
    let settings = Settings { entries: 8, ..Settings::default() };
    let ring = Ring::new(&settings).expect("a ring");
    let adopt = |socket| Socket::adopt(&ring, socket, Whose::Client, Waker::noop().clone());
    let pairs = (0..100).map(|nth| {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let ours = adopt(ours);
        if nth % 3 == 0 {
            ours.receive(true);
        }
        theirs.set_read_timeout(Some(LIMIT)).expect("a time limit");
        theirs
    });
    let peers: Vec<UnixStream> = pairs.collect();
    drop(ring);
    for mut peer in peers {
        assert_eq!(peer.read_to_end(&mut Vec::new()).expect("an end"), 0);
    }
}

/// Waiting for what does not complete costs nothing.
#[test]
fn the_driver_parks_while_it_ends() {
    let (network, ring) = simulated(1);
    let sockets = busy(&ring);
    network.borrow_mut().is_stuck = true;
    let before = ring.stats().turns;
    let driven = ring.clone();
    glommio::LocalExecutor::default().run(async move {
        drop(sockets);
        driven.stop();
        driven.drive(&Settings::default()).await;
    });
    let turns = ring.stats().turns - before;
    assert!(turns < 50, "{turns} turns");
}
