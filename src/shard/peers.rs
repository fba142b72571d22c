//! The other shards, as an accepting shard sees them: how full they are, and how to hand over.
//!
//! SO_REUSEPORT spreads connections by a hash, which is even for many and uneven for few. So a
//! shard that has clearly more than the emptiest one hands an accepted socket over to that, and so
//! does one that is full. The counts are one padded atomic per shard, written by it alone, at
//! accept and close; others read them when they accept. What is on its way to a shard counts for it
//! too, in a second atomic: of a burst of connections all that are handed over would else go to the
//! one shard that has not looked into its mailbox yet (measured: 46 of 64, with 3 left to others),
//! and past its `max_connections`.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::Command;
use crate::ring::{MailboxFull, MailboxSender};

/// A shard keeps what it accepts while it has no more than a quarter above the emptiest, and these.
const UNEVEN: usize = 2;

/// A cache line pair of its own: prefetchers fetch lines by twos.
#[repr(align(128))]
struct Count(AtomicUsize);

struct Peer {
    connections: Count,
    /// Sockets that were handed over to it, and that it has not taken yet.
    arriving: Count,
    max_connections: usize,
    commands: MailboxSender<Command>,
}

pub struct Peers {
    shards: Vec<Peer>,
}

/// What is to become of an accepted socket.
pub(super) enum Placed {
    Here(OwnedFd),
    HandedOver,
    /// Every shard is full.
    Nowhere(OwnedFd),
}

impl Peers {
    /// One entry per shard: how many connections it takes, and its mailbox.
    pub fn new(shards: Vec<(usize, MailboxSender<Command>)>) -> Peers {
        let peer = |(max_connections, commands)| Peer {
            connections: Count(AtomicUsize::new(0)),
            arriving: Count(AtomicUsize::new(0)),
            max_connections,
            commands,
        };
        Peers { shards: shards.into_iter().map(peer).collect() }
    }

    /// How many shards there are.
    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Tells the others how many connections shard `me` has.
    pub(super) fn publish(&self, me: usize, connections: usize) {
        self.shards[me].connections.0.store(connections, Ordering::Relaxed);
    }

    /// Shard `me` has taken a socket that was handed over to it.
    pub(super) fn arrived(&self, me: usize) {
        self.shards[me].arriving.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a shard a place of a service's limit; whether it has it now.
    pub(super) fn send_place(&self, shard: usize, service: u32) -> bool {
        self.shards[shard].commands.send(Command::Place { service }).is_ok()
    }

    /// Finds a shard for a socket that shard `me` has accepted.
    pub(super) fn place(&self, me: usize, socket: OwnedFd, server: u32) -> Placed {
        let count = |peer: &Peer| {
            let arriving = peer.arriving.0.load(Ordering::Relaxed);
            peer.connections.0.load(Ordering::Relaxed) + arriving
        };
        let mine = count(&self.shards[me]);
        let has_room = mine < self.shards[me].max_connections;
        let emptiest = self.shards.iter().filter(|peer| count(peer) < peer.max_connections);
        let Some(emptiest) = emptiest.min_by_key(|peer| count(peer)) else {
            return Placed::Nowhere(socket);
        };
        let least = count(emptiest);
        if has_room && mine <= least + least / 4 + UNEVEN {
            return Placed::Here(socket);
        }
        // Before it is sent, since it may be taken at once.
        emptiest.arriving.0.fetch_add(1, Ordering::Relaxed);
        match emptiest.commands.send(Command::Adopt { socket, server }) {
            Ok(()) => Placed::HandedOver,
            Err(MailboxFull(Command::Adopt { socket, .. })) => {
                emptiest.arriving.0.fetch_sub(1, Ordering::Relaxed);
                Placed::Here(socket)
            }
            Err(MailboxFull(_)) => Placed::HandedOver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::mailbox;

    /// Of a mailbox.
    const ROOM: usize = 16;

    fn socket() -> OwnedFd {
        OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"))
    }

    fn peers(limits: &[usize]) -> (Peers, Vec<crate::ring::Mailbox<Command>>) {
        let (senders, mailboxes): (Vec<_>, Vec<_>) =
            limits.iter().map(|_| mailbox(ROOM).expect("a mailbox")).unzip();
        (Peers::new(limits.iter().copied().zip(senders).collect()), mailboxes)
    }

    #[test]
    fn an_even_load_stays_where_it_was_accepted() {
        let (peers, _mailboxes) = peers(&[100, 100]);
        for (mine, theirs) in [(0, 0), (2, 0), (12, 8), (90, 80)] {
            peers.publish(0, mine);
            peers.publish(1, theirs);
            assert!(matches!(peers.place(0, socket(), 0), Placed::Here(_)), "{mine} {theirs}");
        }
    }

    #[test]
    fn an_uneven_or_full_shard_hands_over_until_the_mailbox_is_full() {
        for (mine, theirs) in [(3, 0), (100, 99)] {
            let (peers, _mailboxes) = peers(&[100, 100]);
            peers.publish(0, mine);
            peers.publish(1, theirs);
            assert!(matches!(peers.place(0, socket(), 0), Placed::HandedOver));
        }
        let (peers, _mailboxes) = peers(&[1_000, 1_000]);
        peers.publish(0, 500);
        (0..ROOM).for_each(|_| {
            assert!(matches!(peers.place(0, socket(), 0), Placed::HandedOver));
        });
        assert!(matches!(peers.place(0, socket(), 0), Placed::Here(_)));
    }

    /// Of those that come before any other shard looks into its mailbox, each gets its part.
    #[test]
    fn what_is_on_its_way_to_a_shard_counts_for_it() {
        let (peers, _mailboxes) = peers(&[100, 100, 3]);
        let mut here = 0;
        for _ in 0..12 {
            if let Placed::Here(_) = peers.place(0, socket(), 0) {
                here += 1;
                peers.publish(0, here);
            }
        }
        let arriving = |at: usize| peers.shards[at].arriving.0.load(Ordering::Relaxed);
        assert_eq!((here, arriving(1), arriving(2)), (6, 3, 3), "no more than there is room for");
        for at in [1, 2] {
            peers.publish(at, arriving(at));
            (0..arriving(at)).for_each(|_| peers.arrived(at));
            assert_eq!(arriving(at), 0);
        }
    }

    #[test]
    fn with_every_shard_full_there_is_no_place() {
        let (peers, _mailboxes) = peers(&[1, 1]);
        peers.publish(0, 1);
        peers.publish(1, 1);
        assert!(matches!(peers.place(0, socket(), 0), Placed::Nowhere(_)));
    }
}
