//! A stream socket as a task sees it: what it wants done, and what has come of it.
//!
//! Nothing here waits. A task asks (`receive`, `fill`, `send`), waits once for everything that it
//! owns (`ring::wait`) and then looks (`progress`, `take_piece`, `take_filled`). Asking for what is
//! under way already changes nothing, so a task may ask at every step.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;

use socket2::{Domain, SockAddr, SockRef, Type};

use super::core::{Owner, Receive, Sending, Slot, SocketSlot, Traffic};
use super::lease::Lease;
use super::slots::Key;
use super::{Ring, core::Core};

/// Whose socket it is: which group of provided buffers it receives into, so that a burst of
/// answers cannot take the buffers that requests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Client = 0,
    Upstream = 1,
}

/// Whether more can be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    /// The peer has sent all that it will.
    Closed,
    /// An errno.
    Failed(i32),
}

/// Bytes on their way out, owned by the socket until they have been taken by the kernel.
pub enum Chunk {
    Heap {
        bytes: Vec<u8>,
        start: usize,
    },
    Lease {
        lease: Lease,
        start: usize,
        end: usize,
    },
    /// The same bytes as others send.
    Shared {
        bytes: Rc<[u8]>,
        start: usize,
    },
}

impl Chunk {
    pub fn heap(bytes: Vec<u8>) -> Chunk {
        Chunk::Heap { bytes, start: 0 }
    }

    pub fn shared(bytes: Rc<[u8]>) -> Chunk {
        Chunk::Shared { bytes, start: 0 }
    }

    pub fn len(&self) -> usize {
        match self {
            Chunk::Heap { bytes, start } => bytes.len() - start,
            Chunk::Lease { start, end, .. } => end - start,
            Chunk::Shared { bytes, start } => bytes.len() - start,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Chunk::Heap { bytes, start } => &bytes[*start..],
            Chunk::Lease { lease, start, end } => &lease[*start..*end],
            Chunk::Shared { bytes, start } => &bytes[*start..],
        }
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    pub(super) fn advance(&mut self, by: usize) {
        match self {
            Chunk::Heap { start, .. }
            | Chunk::Lease { start, .. }
            | Chunk::Shared { start, .. } => *start += by,
        }
    }

    /// Joins what waits behind it; both leave in one send. Only small chunks wait behind others.
    pub(super) fn append(&mut self, next: Chunk) {
        if let Chunk::Heap { bytes, .. } = self {
            bytes.extend_from_slice(next.as_slice());
            return;
        }
        let mut bytes = self.as_slice().to_vec();
        bytes.extend_from_slice(next.as_slice());
        *self = Chunk::heap(bytes);
    }
}

/// What a socket has to show, in one look.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// `take_piece` has something.
    pub has_piece: bool,
    /// `take_filled` has something.
    pub has_filled: bool,
    /// A receive is under way.
    pub receiving: bool,
    /// It brings piece after piece, and has not been taken back.
    pub receiving_many: bool,
    /// Valid once there is neither a piece nor a filled lease.
    pub end: End,
    /// Nothing is on its way out.
    pub all_sent: bool,
    /// A leased buffer is on its way out.
    pub sending_lease: bool,
    /// A chunk sent now leaves with the next completion at the latest.
    pub can_send: bool,
    pub send_error: Option<i32>,
    pub connecting: bool,
}

pub struct Socket {
    key: Key,
    fd: RawFd,
    ring: Ring,
}

impl Socket {
    /// Takes over a connected socket.
    pub fn adopt(ring: &Ring, fd: impl Into<OwnedFd>, whose: Whose, owner: Waker) -> Socket {
        let fd = fd.into().into_raw_fd();
        let slot = SocketSlot::new(fd, whose, Owner::Task(owner));
        let key = ring.inner.core.borrow_mut().slots.insert(Slot::Socket(slot));
        Socket { key, fd, ring: ring.clone() }
    }

    /// Begins to connect; `progress` says when it is done, and the caller's timer how long that
    /// may take: dropping the socket takes the attempt back.
    pub fn connect(ring: &Ring, address: &SockAddr, owner: Waker) -> io::Result<Socket> {
        let socket = socket2::Socket::new(address.domain(), Type::STREAM, None)?;
        if address.domain() != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        let socket = Socket::adopt(ring, socket, Whose::Upstream, owner);
        socket.core(|core| core.connect(socket.key, address.clone()));
        Ok(socket)
    }

    pub fn key(&self) -> Key {
        self.key
    }

    /// From now on `owner` is told of what happens here.
    pub fn set_owner(&self, owner: &Waker) {
        self.slot(|socket| match &socket.owner {
            Owner::Task(waker) if waker.will_wake(owner) => {}
            _ => socket.owner = Owner::Task(owner.clone()),
        });
    }

    /// Counts the bytes that come and go from now on for an account of the caller's choice; 0 is
    /// nobody's.
    pub fn count_for(&self, account: u32) {
        self.core(|core| {
            let accounts = core.traffic.len().max(account as usize + 1);
            core.traffic.resize(accounts, Traffic::default());
            if let Some(socket) = core.socket(self.key) {
                socket.account = account;
            }
        });
    }

    /// Nobody uses the socket for now; an event on it goes to the keeper (`Ring::set_keeper`).
    pub fn park(&self) {
        let disturbed = self.core(|core| {
            let Some(socket) = core.socket(self.key) else { return false };
            socket.owner = Owner::Parked;
            let disturbed = socket.end != End::Open || !socket.chain.is_empty();
            if disturbed {
                core.disturb(self.key);
            }
            disturbed
        });
        if disturbed {
            // The keeper was woken by a task: the driver must let it run before it parks.
            self.ring.inner.runnable.set(true);
        }
    }

    pub fn progress(&self) -> Progress {
        self.slot(|socket| Progress {
            has_piece: !socket.chain.is_empty(),
            has_filled: matches!(socket.receive, Receive::Filled { .. }),
            receiving: !matches!(socket.receive, Receive::Idle | Receive::Filled { .. }),
            receiving_many: matches!(
                socket.receive,
                Receive::Armed { many: true, cancelling: false } | Receive::Starved { many: true }
            ),
            end: socket.end,
            sending_lease: socket.sending.has_lease(),
            all_sent: matches!(socket.sending, Sending::Idle),
            can_send: !matches!(socket.sending, Sending::Flying { waiting: Some(_), .. }),
            send_error: socket.send_error,
            connecting: socket.connecting.is_some(),
        })
    }

    /// Whether an idle connection is fit for use: nothing has come, and it is open both ways.
    pub fn is_quiet(&self) -> bool {
        self.slot(|socket| {
            socket.end == End::Open
                && socket.chain.is_empty()
                && socket.send_error.is_none()
                && matches!(socket.sending, Sending::Idle)
                && !matches!(socket.receive, Receive::Filled { .. })
        })
    }

    /// Receives into provided buffers: piece after piece if `many`, else one.
    pub fn receive(&self, many: bool) {
        self.core(|core| core.receive(self.key, many));
    }

    /// Takes a receive back. What it brought before that is still to be taken.
    pub fn stop_receiving(&self) {
        self.core(|core| core.stop_receiving(self.key));
    }

    /// Receives into `lease[start..start + len]`. While a receive is under way, or what it brought
    /// not taken, or behind the end, nothing is asked for and the lease given back.
    pub fn fill(&self, lease: Lease, start: usize, len: usize) {
        self.core(|core| core.fill(self.key, lease, start, len));
    }

    /// The next piece that was received. To be dropped before the task waits.
    pub fn take_piece(&self) -> Option<Piece> {
        let mut core = self.ring.inner.core.borrow_mut();
        let Core { slots, groups, .. } = &mut *core;
        let Some(Slot::Socket(socket)) = slots.get_mut(self.key) else {
            return None;
        };
        let whose = socket.whose;
        let (id, start, len) = groups[whose as usize].take(&mut socket.chain)?;
        Some(Piece { id, start, len, whose, ring: self.ring.clone() })
    }

    /// The lease that `fill` was given, and how much was received into it, from where on.
    pub fn take_filled(&self) -> Option<(Lease, std::ops::Range<usize>)> {
        self.slot(|socket| match std::mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Filled { lease, start, len } => Some((lease, start..start + len)),
            other => {
                socket.receive = other;
                None
            }
        })
    }

    /// Whether a lease was taken back since this was last asked, because nothing came: it is
    /// dropped, and no receive is under way.
    pub fn take_recalled(&self) -> bool {
        self.slot(|socket| std::mem::take(&mut socket.recalled))
    }

    /// Sends after what was sent before. Lost if the connection is: see `Progress::send_error`.
    pub fn send(&self, chunk: Chunk) {
        self.core(|core| core.send(self.key, chunk));
    }

    /// Whether the owner is woken each time a chunk has left, and not only when one fails.
    pub fn wake_when_sent(&self, wake: bool) {
        self.slot(|socket| socket.wake_when_sent = wake);
    }

    /// No more will be sent. After the last chunk has left.
    pub fn shutdown_write(&self) {
        self.core(|core| core.shutdown(self.key, libc::SHUT_WR));
    }

    /// Lets the close be a reset, so that the peer cannot take what it has for all there is.
    pub fn reset_on_close(&self) {
        self.slot(|socket| socket.resets = true);
        self.core(|core| core.kernel.reset_on_close(self.fd));
    }

    /// Bytes that the peer has acknowledged since the connection began: whether a slow peer moves.
    /// 0 on a socket that is not TCP.
    pub fn acknowledged_bytes(&self) -> u64 {
        self.core(|core| core.kernel.acknowledged_bytes(self.fd))
    }

    /// Whether bytes wait in the kernel that no receive has brought yet.
    pub fn has_unread(&self) -> bool {
        self.core(|core| core.kernel.has_unread(self.fd))
    }

    pub fn peer_address(&self) -> Option<std::net::SocketAddr> {
        self.as_socket2(|socket| socket.peer_addr().ok()?.as_socket())
    }

    fn as_socket2<T>(&self, use_it: impl FnOnce(SockRef<'_>) -> T) -> T {
        // SAFETY: the slot keeps the descriptor open for as long as `self` lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd) };
        use_it(SockRef::from(&fd))
    }

    fn core<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        change(&mut self.ring.inner.core.borrow_mut())
    }

    fn slot<T>(&self, look: impl FnOnce(&mut SocketSlot) -> T) -> T {
        self.core(|core| look(core.socket(self.key).expect("a socket has its slot")))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.ring.inner.core.borrow_mut().abandon(self.key);
    }
}

/// What was received into one provided buffer, which goes back on drop.
pub struct Piece {
    id: u16,
    start: *mut u8,
    len: usize,
    whose: Whose,
    ring: Ring,
}

impl std::ops::Deref for Piece {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is this piece's alone until it is given back in `drop`, lies in pages
        // that live as long as the ring, and `len` bytes of it were written by the kernel.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl std::ops::DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; no other reference to this buffer exists.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.ring.inner.core.borrow_mut().groups[self.whose as usize].give_back(self.id);
    }
}
