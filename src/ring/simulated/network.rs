//! Connections between the ring's sockets and the world's peers: two lines of bytes each, which
//! hold so much and no more, and end by a close, a half-close or a reset.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, SockAddr, Type};

use super::Random;

/// The other end of a connection, as the world names it.
pub(crate) type Peer = usize;

/// What a peer finds to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Nothing,
    /// All that will ever come has come.
    End,
    /// Broken off: what came before may be a part of something.
    Reset,
}

pub(super) enum Received {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Failed(i32),
}

pub(super) enum Sent {
    Bytes(usize),
    Failed(i32),
}

/// One direction.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    /// Nothing follows.
    ended: bool,
    /// Bytes that were ever put in.
    total: u64,
    /// Bytes that were ever taken out.
    taken: u64,
}

impl Line {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.total += bytes.len() as u64;
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(len);
        self.taken += len as u64;
        std::mem::replace(&mut self.bytes, rest)
    }
}

enum Dial {
    /// A socket that is not connected yet.
    Unasked,
    Ringing(SocketAddr),
    Done(i32),
    Connected,
}

struct Connection {
    inward: Line,
    outward: Line,
    dial: Dial,
    /// Who broke it off, if anybody.
    reset_by_peer: bool,
    reset_here: bool,
    /// What the peer's reset left: the first operation that meets it takes it away.
    error: Option<i32>,
    /// The peer takes nothing more: it has closed.
    peer_closed: bool,
    /// The ring's end has been closed.
    closed_here: bool,
    resets_on_close: bool,
}

pub(crate) struct Network {
    pub(crate) now: Duration,
    pub(crate) random: Random,
    /// What each line holds: a socket's buffers.
    pub(crate) window: usize,
    /// Nothing completes any more.
    pub(crate) is_stuck: bool,
    /// Operations that the kernel had when the ring went.
    pub(crate) left_in_kernel: usize,
    connections: Vec<Connection>,
    here: HashMap<RawFd, Peer>,
    /// Peers that nobody has accepted yet.
    backlog: VecDeque<Peer>,
    /// Connections that the ring asks for.
    ringing: VecDeque<Peer>,
}

impl Connection {
    fn new(dial: Dial) -> Connection {
        Connection {
            inward: Line::default(),
            outward: Line::default(),
            dial,
            reset_by_peer: false,
            reset_here: false,
            error: None,
            peer_closed: false,
            closed_here: false,
            resets_on_close: false,
        }
    }
}

impl Connection {
    fn met_by_reset(&mut self) {
        self.reset_by_peer = true;
        // As in `tcp_reset` of the kernel's.
        let errno = if self.inward.ended { libc::EPIPE } else { libc::ECONNRESET };
        self.error = Some(errno);
    }
}

/// The world's side.
impl Network {
    pub(crate) fn new(seed: u64, window: usize) -> Network {
        Network {
            now: Duration::ZERO,
            random: Random::new(seed),
            window,
            is_stuck: false,
            left_in_kernel: 0,
            connections: Vec::new(),
            here: HashMap::new(),
            backlog: VecDeque::new(),
            ringing: VecDeque::new(),
        }
    }

    /// A client connects to the one listener that there is.
    pub(crate) fn dial(&mut self) -> Peer {
        self.connections.push(Connection::new(Dial::Connected));
        let peer = self.connections.len() - 1;
        self.backlog.push_back(peer);
        peer
    }

    /// A connection that the ring asks for, to be answered by `pick_up` or `refuse`; or never.
    pub(crate) fn take_ringing(&mut self) -> Option<(Peer, SocketAddr)> {
        loop {
            let peer = self.ringing.pop_front()?;
            let it = &self.connections[peer];
            match it.dial {
                Dial::Ringing(address) if !it.closed_here => return Some((peer, address)),
                _ => {}
            }
        }
    }

    pub(crate) fn pick_up(&mut self, peer: Peer) {
        self.connections[peer].dial = Dial::Done(0);
    }

    pub(crate) fn refuse(&mut self, peer: Peer, errno: i32) {
        self.connections[peer].dial = Dial::Done(-errno);
        self.connections[peer].peer_closed = true;
    }

    /// How much of `bytes` the line took. `None`: the connection takes no more.
    pub(crate) fn write(&mut self, peer: Peer, bytes: &[u8]) -> Option<usize> {
        let it = &mut self.connections[peer];
        if it.closed_here || it.reset_here || it.reset_by_peer || it.inward.ended {
            return None;
        }
        let taken = bytes.len().min(self.window.saturating_sub(it.inward.bytes.len()));
        it.inward.put(&bytes[..taken]);
        Some(taken)
    }

    pub(crate) fn read(&mut self, peer: Peer, most: usize) -> Read {
        let it = &mut self.connections[peer];
        if it.reset_here {
            return Read::Reset;
        }
        let taken = most.min(it.outward.bytes.len());
        match (taken, it.outward.bytes.is_empty(), it.outward.ended) {
            (1.., ..) => Read::Bytes(it.outward.take(taken)),
            (0, true, true) => Read::End,
            (0, ..) => Read::Nothing,
        }
    }

    /// Half-closes.
    pub(crate) fn shutdown(&mut self, peer: Peer) {
        self.connections[peer].inward.ended = true;
    }

    /// Whether that was a clean end.
    pub(crate) fn close(&mut self, peer: Peer) -> bool {
        let it = &mut self.connections[peer];
        let is_clean = it.outward.bytes.is_empty();
        if !is_clean {
            // What it has not read makes a close a reset (RFC 2525 section 2.17), and no end
            // goes before that.
            self.reset(peer);
            return false;
        }
        it.inward.ended = true;
        it.peer_closed = true;
        true
    }

    pub(crate) fn reset(&mut self, peer: Peer) {
        let it = &mut self.connections[peer];
        it.peer_closed = true;
        // A reset overtakes what was sent before it, or does not; an end comes last of that.
        if self.random.chance(50) && !it.inward.bytes.is_empty() {
            it.inward.bytes.clear();
            it.inward.ended = false;
        }
        it.met_by_reset();
    }

    /// Connections whose end the ring has not closed.
    pub(crate) fn open_here(&self) -> usize {
        self.here.len()
    }
}

/// The kernel's side.
impl Network {
    /// The connection of a descriptor, which may be asked for this or that before it is connected.
    fn at(&mut self, fd: RawFd) -> &mut Connection {
        let connections = &mut self.connections;
        let peer = *self.here.entry(fd).or_insert_with(|| {
            connections.push(Connection::new(Dial::Unasked));
            connections.len() - 1
        });
        &mut connections[peer]
    }

    /// A descriptor for a client that waits, or an errno where there is none left, in which case
    /// the client goes on waiting.
    pub(super) fn accept(&mut self) -> Option<Result<RawFd, i32>> {
        if !self.backlog.is_empty() && self.random.chance(3) {
            return Some(Err(libc::EMFILE));
        }
        let peer = self.backlog.pop_front()?;
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
        let fd = socket.into_raw_fd();
        self.here.insert(fd, peer);
        Some(Ok(fd))
    }

    pub(super) fn dial_out(&mut self, fd: RawFd, address: &SockAddr) {
        let address = address.as_socket().expect("an IP address");
        self.at(fd).dial = Dial::Ringing(address);
        self.ringing.push_back(self.here[&fd]);
    }

    /// What became of a connect.
    pub(super) fn dialled(&mut self, fd: RawFd) -> Option<i32> {
        let it = self.at(fd);
        match it.dial {
            Dial::Unasked | Dial::Ringing(_) | Dial::Connected => None,
            Dial::Done(result) => {
                it.dial = Dial::Connected;
                Some(result)
            }
        }
    }

    /// Whether a receive has something to say.
    pub(super) fn is_readable(&mut self, fd: RawFd) -> bool {
        let it = self.at(fd);
        let is_over = it.inward.ended || it.reset_by_peer || it.reset_here;
        is_over || !it.inward.bytes.is_empty()
    }

    pub(super) fn has_unread(&self, fd: RawFd) -> bool {
        let peer = self.here.get(&fd);
        peer.is_some_and(|peer| !self.connections[*peer].inward.bytes.is_empty())
    }

    pub(super) fn was_reset(&self, fd: RawFd, received_bytes: u64) -> bool {
        let Some(peer) = self.here.get(&fd) else { return false };
        let it = &self.connections[*peer];
        assert_eq!(received_bytes, it.inward.taken, "what the ring has counted");
        it.reset_by_peer && !it.inward.ended
    }

    pub(super) fn acknowledged_bytes(&self, fd: RawFd) -> u64 {
        self.here.get(&fd).map_or(0, |peer| self.connections[*peer].outward.total)
    }

    /// Up to `most` bytes: all that is there, or fewer.
    pub(super) fn receive(&mut self, fd: RawFd, most: usize) -> Received {
        let there = self.at(fd).inward.bytes.len();
        let most = match self.random.chance(60) {
            true => most,
            false => self.random.between(1, most.min(there).max(1)),
        };
        let it = self.at(fd);
        let taken = most.min(there);
        if taken > 0 {
            return Received::Bytes(it.inward.take(taken));
        }
        if it.inward.ended {
            return Received::End;
        }
        match it.error.take() {
            Some(errno) => Received::Failed(errno),
            None if it.reset_here => Received::Failed(libc::ENOTCONN),
            None if it.reset_by_peer => Received::End,
            None => Received::Nothing,
        }
    }

    pub(super) fn send(&mut self, fd: RawFd, bytes: &[u8]) -> Sent {
        let window = self.window;
        let it = self.at(fd);
        if let Some(errno) = it.error.take() {
            return Sent::Failed(errno);
        }
        if it.reset_by_peer || it.outward.ended || it.reset_here {
            return Sent::Failed(libc::EPIPE);
        }
        if it.peer_closed {
            // The first bytes after a close are answered by a reset.
            it.met_by_reset();
            return Sent::Bytes(bytes.len());
        }
        let room = window.saturating_sub(it.outward.bytes.len());
        let taken = bytes.len().min(room);
        it.outward.put(&bytes[..taken]);
        Sent::Bytes(taken)
    }

    pub(super) fn shutdown_here(&mut self, fd: RawFd, how: i32) {
        let it = self.at(fd);
        if how != libc::SHUT_RD {
            it.outward.ended = true;
        }
        if how != libc::SHUT_WR {
            it.inward.bytes.clear();
            it.inward.ended = true;
        }
    }

    pub(super) fn disconnect_here(&mut self, fd: RawFd) {
        let it = self.at(fd);
        it.reset_here = true;
        it.error = Some(libc::ECONNRESET);
        it.inward.bytes.clear();
    }

    pub(super) fn reset_on_close(&mut self, fd: RawFd) {
        self.at(fd).resets_on_close = true;
    }

    pub(super) fn close_here(&mut self, fd: RawFd) {
        // SAFETY: the ring owned this descriptor, and has just given it up.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        let Some(peer) = self.here.remove(&fd) else { return };
        let it = &mut self.connections[peer];
        it.closed_here = true;
        let unread = !it.inward.bytes.is_empty() && !it.reset_by_peer;
        if it.resets_on_close || unread {
            it.reset_here = true;
        }
        it.outward.ended = true;
    }
}
