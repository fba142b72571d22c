//! Thousands of clients on one thread, each of which sends a little at a time.

#![allow(dead_code)] // Each test uses its part.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::common::{Wire, descriptor_limit};

/// Of `wanted` connections as many as this process may have.
pub(crate) fn as_many_as(wanted: usize) -> usize {
    wanted.min(descriptor_limit().saturating_sub(300) / 2)
}

/// Connects so many, each of which has sent `first`.
pub(crate) fn connected(address: SocketAddr, count: usize, first: impl AsRef<[u8]>) -> Vec<Wire> {
    let client = |_| {
        let mut wire = Wire::connect(address);
        wire.send(first.as_ref());
        wire
    };
    (0..count).map(client).collect()
}

/// Clients that send a piece each per round, spread over it or all at once.
pub(crate) struct Crowd {
    over: Arc<AtomicBool>,
    pieces: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Wire>>,
}

impl Crowd {
    pub(crate) fn sending(
        mut wires: Vec<Wire>,
        piece: &'static [u8],
        every: Duration,
        at_once: bool,
    ) -> Crowd {
        let (over, pieces) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, counts) = (over.clone(), pieces.clone());
        let thread = thread::spawn(move || {
            let steps = if at_once { 1 } else { 500 };
            for wire in &wires {
                wire.stream.set_nonblocking(true).expect("non-blocking");
            }
            let step = wires.len().div_ceil(steps);
            let mut due = Instant::now();
            while !ends.load(Ordering::SeqCst) {
                for some in wires.chunks_mut(step) {
                    for wire in some {
                        match wire.stream.write(piece) {
                            Ok(sent) if sent < piece.len() => {}
                            Ok(_) => drop(counts.fetch_add(1, Ordering::SeqCst)),
                            // It has been shed, or nobody reads it.
                            Err(error) => assert_ne!(error.kind(), ErrorKind::InvalidInput),
                        }
                    }
                    due += every / steps as u32;
                    // The pace, and no waiting for something to happen.
                    thread::park_timeout(due.saturating_duration_since(Instant::now()));
                }
            }
            for wire in &wires {
                wire.stream.set_nonblocking(false).expect("blocking");
            }
            wires
        });
        Crowd { over, pieces, thread }
    }

    /// Pieces that were sent so far.
    pub(crate) fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::SeqCst)
    }

    /// They stop, and stay connected.
    pub(crate) fn stop(self) -> Vec<Wire> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("it does not fail")
    }
}
