//! The other shards, as an accepting shard sees them: how full they are, and how to hand over.
//!
//! SO_REUSEPORT spreads connections by a hash, which is even for many and uneven for few. So a
//! shard that has clearly more than the emptiest one hands an accepted socket over to that, and so
//! does one that is full. The counts are one padded atomic per shard, written by it alone, at
//! accept and close; others read them when they accept. What is on its way to a shard counts for it
//! too, in a second atomic: of a burst of connections all that are handed over would else go to the
//! one shard that has not looked into its mailbox yet (measured: 46 of 64, with 3 left to others),
//! and past its `max_connections`. Who arrives becomes one of its connections in a single store:
//! counted twice for a moment, it kept another from the last place (measured with the sanitizer, of
//! 200 clients for 200 places: one was refused in 14 of 141 runs).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::plan::Command;
use crate::ring::{MailboxFull, MailboxSender};

/// A shard keeps what it accepts while it has no more than a quarter above the emptiest, and these.
const UNEVEN: usize = 2;

/// A cache line pair of its own: prefetchers fetch lines by twos.
#[repr(align(128))]
struct Padded<T>(T);

struct Peer {
    /// Its connections, and in the upper half how many sockets it has ever taken over; its own to
    /// write. Counts of sockets wrap.
    own: Padded<AtomicU64>,
    /// How many sockets were ever handed over to it.
    handed: Padded<AtomicU32>,
    max_connections: usize,
    commands: MailboxSender<Command>,
}

impl Peer {
    /// Its connections, and what is on its way to it.
    fn count(&self) -> usize {
        // Whoever sees a socket taken sees that it was handed over, and so reads `handed` after.
        let own = self.own.0.load(Ordering::Acquire);
        let (taken, connections) = ((own >> 32) as u32, own as u32);
        let arriving = self.handed.0.load(Ordering::Relaxed).wrapping_sub(taken);
        connections as usize + arriving as usize
    }
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
            own: Padded(AtomicU64::new(0)),
            handed: Padded(AtomicU32::new(0)),
            max_connections,
            commands,
        };
        Peers { shards: shards.into_iter().map(peer).collect() }
    }

    /// How many shards there are.
    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Tells the others how many connections shard `me` has, and how many sockets that were handed
    /// over to it it has ever taken.
    pub(super) fn publish(&self, me: usize, connections: usize, taken: u32) {
        let own = u64::from(taken) << 32 | u64::from(connections as u32);
        self.shards[me].own.0.store(own, Ordering::Release);
    }

    /// Sends a shard a place of a service's limit; whether it has it now.
    pub(super) fn send_place(&self, shard: usize, service: u32) -> bool {
        self.shards[shard].commands.send(Command::Place { service }).is_ok()
    }

    /// Finds a shard for a socket that shard `me` has accepted.
    pub(super) fn place(&self, me: usize, socket: OwnedFd, server: u32) -> Placed {
        let count = Peer::count;
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
        emptiest.handed.0.fetch_add(1, Ordering::Relaxed);
        match emptiest.commands.send(Command::Adopt { socket, server }) {
            Ok(()) => Placed::HandedOver,
            Err(MailboxFull(Command::Adopt { socket, .. })) => {
                emptiest.handed.0.fetch_sub(1, Ordering::Relaxed);
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
            peers.publish(0, mine, 0);
            peers.publish(1, theirs, 0);
            assert!(matches!(peers.place(0, socket(), 0), Placed::Here(_)), "{mine} {theirs}");
        }
    }

    #[test]
    fn an_uneven_or_full_shard_hands_over_until_the_mailbox_is_full() {
        for (mine, theirs) in [(3, 0), (100, 99)] {
            let (peers, _mailboxes) = peers(&[100, 100]);
            peers.publish(0, mine, 0);
            peers.publish(1, theirs, 0);
            assert!(matches!(peers.place(0, socket(), 0), Placed::HandedOver));
        }
        let (peers, _mailboxes) = peers(&[1_000, 1_000]);
        peers.publish(0, 500, 0);
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
                peers.publish(0, here, 0);
            }
        }
        let count = |at: usize| peers.shards[at].count();
        assert_eq!((here, count(1), count(2)), (6, 3, 3), "no more than there is room for");
        for taken in 1..=3 {
            peers.publish(1, taken, taken as u32);
            assert_eq!(count(1), 3, "who is taken over counts once");
        }
        peers.publish(1, 2, 3);
        assert_eq!(count(1), 2, "and not at all once it has gone");
    }

    #[test]
    fn with_every_shard_full_there_is_no_place() {
        let (peers, _mailboxes) = peers(&[1, 1]);
        peers.publish(0, 1, 0);
        peers.publish(1, 1, 0);
        assert!(matches!(peers.place(0, socket(), 0), Placed::Nowhere(_)));
    }
}
