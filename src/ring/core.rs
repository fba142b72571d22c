//! What the sockets, timers and the driver of a ring share: the queues, the slots, the buffers.
//!
//! Invariants: a slot lives until the kernel has completed every operation that names it (`ops`),
//! whoever else has gone; memory that an operation reads or writes is owned by its slot until
//! then; there is at most one receive and one send per socket in the kernel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use io_uring::squeue;
use socket2::SockAddr;

use super::Settings;
use super::buffers::{Chain, Group};
use super::kernel::Kernel;
use super::lease::Lease;
use super::slots::{Key, Slots};
use super::socket::{Chunk, End, Whose};
use super::timer::Wheel;

/// Which operation a completion belongs to; the top byte of its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// A receive into provided buffers, once or many times.
    Receive = 1,
    /// A receive into a lease.
    Fill = 2,
    Send = 3,
    Connect = 4,
    Accept = 5,
    /// A cancel of one receive: counted, and otherwise of no interest.
    Control = 6,
    /// A read of an eventfd.
    Event = 7,
    /// A close; the rest of its `user_data` is the descriptor.
    Close = 8,
    /// A cancel of whatever an orphan has under way.
    CancelAll = 9,
    /// A cancel for a slot that counts no operations: nobody waits for it.
    Uncounted = 10,
}

impl Op {
    pub(super) fn of(user_data: u64) -> Option<Op> {
        use Op::*;
        [Receive, Fill, Send, Connect, Accept, Control, Event, Close, CancelAll, Uncounted]
            .into_iter()
            .find(|op| *op as u64 == user_data >> 56)
    }
}

pub(super) fn tag(op: Op, key: Key) -> u64 {
    (op as u64) << 56 | key.pack()
}

/// Who is told of what happens on a slot.
pub(super) enum Owner {
    Task(Waker),
    /// Idle in a pool: an event goes to the keeper.
    Parked,
    /// Dropped; the slot goes when its last operation completes.
    Nobody,
}

/// Where a socket's receive stands.
pub(super) enum Receive {
    Idle,
    Armed {
        many: bool,
        cancelling: bool,
    },
    /// Armed, found no buffer, and waits in line for one.
    Starved {
        many: bool,
    },
    Filling {
        lease: Lease,
        start: usize,
        /// When it was asked for, in milliseconds of the driver's clock.
        since_ms: u64,
    },
    Filled {
        lease: Lease,
        start: usize,
        len: usize,
    },
}

/// Where a socket's sends stand. One is in the kernel, or they would overtake each other.
///
/// Sends that complete only when they fall short (MSG_DONTWAIT with CQE_SKIP_SUCCESS) were tried:
/// 1.00 +-.01 of the CPU at 1, 64 and 1,024 connections, 1.04 at 64 KiB. Not worth their rules.
pub(super) enum Sending {
    Idle,
    Flying { chunk: Chunk, waiting: Option<Chunk> },
}

impl Sending {
    pub(super) fn has_lease(&self) -> bool {
        match self {
            Sending::Idle => false,
            Sending::Flying { chunk, waiting } => {
                matches!(chunk, Chunk::Lease { .. }) || matches!(waiting, Some(Chunk::Lease { .. }))
            }
        }
    }
}

pub(super) struct SocketSlot {
    pub(super) fd: RawFd,
    /// Operations of this slot in the kernel or on their way there.
    pub(super) ops: u16,
    pub(super) whose: Whose,
    pub(super) owner: Owner,
    pub(super) receive: Receive,
    pub(super) chain: Chain,
    pub(super) end: End,
    /// In all.
    pub(super) received_bytes: u64,
    /// Whom its bytes are counted for (`Socket::count_for`).
    pub(super) account: u32,
    pub(super) sending: Sending,
    pub(super) send_error: Option<i32>,
    pub(super) wake_when_sent: bool,
    /// The close is to be a reset.
    pub(super) resets: bool,
    pub(super) cancelled_twice: bool,
    /// The last lease was taken back because nothing came: pieces first, until much comes again.
    pub(super) recalled: bool,
    /// The address that a connect reads, until it completes.
    pub(super) connecting: Option<Box<SockAddr>>,
}

impl SocketSlot {
    pub(super) fn new(fd: RawFd, whose: Whose, owner: Owner) -> SocketSlot {
        SocketSlot {
            fd,
            ops: 0,
            whose,
            owner,
            receive: Receive::Idle,
            chain: Chain::EMPTY,
            end: End::Open,
            received_bytes: 0,
            account: 0,
            sending: Sending::Idle,
            send_error: None,
            wake_when_sent: false,
            resets: false,
            cancelled_twice: false,
            recalled: false,
            connecting: None,
        }
    }
}

pub(super) struct ListenerSlot {
    pub(super) fd: RawFd,
    pub(super) owner: Owner,
    pub(super) armed: bool,
    /// An accept each, and not one for many.
    pub(super) one_by_one: bool,
    pub(super) accepted: VecDeque<RawFd>,
    pub(super) error: Option<i32>,
}

pub(super) struct EventSlot {
    /// Open for as long as a read of it may be queued.
    pub(super) event: Arc<OwnedFd>,
    pub(super) owner: Owner,
    pub(super) armed: bool,
    /// What the kernel reads the eventfd's count into.
    pub(super) count: Box<u64>,
}

pub(super) enum Slot {
    Socket(SocketSlot),
    Listener(ListenerSlot),
    Event(EventSlot),
}

struct TimerSlot {
    waker: Waker,
    fired: bool,
}

/// The driver's own figures since the ring was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub turns: u64,
    pub enters: u64,
    pub sqes: u64,
    pub cqes: u64,
    /// Completions whose slot had gone or changed hands.
    pub stale: u64,
    pub parked: Duration,
    pub buffers_in_use: usize,
    pub buffers_exhausted: u64,
    pub leased_bytes: usize,
    pub slots: usize,
    /// The longest turn since `Ring::take_stats`, without its parking.
    pub longest_turn: Duration,
    /// The most that a timer was late since then.
    pub latest_timer: Duration,
}

/// Bytes that went over the sockets of one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

pub(super) struct Core {
    /// First, so that it is dropped first: what follows is memory that the kernel may write to.
    pub(super) kernel: Kernel,
    pub(super) slots: Slots<Slot>,
    pub(super) groups: [Group; 2],
    /// Submissions that found the queue full.
    pub(super) overflow: VecDeque<squeue::Entry>,
    /// Sockets whose receive found no buffer, in order.
    pub(super) starved: VecDeque<Key>,
    /// Receives into leases by the time they were asked for; most have completed since.
    pub(super) filling: VecDeque<(Key, u64)>,
    /// Heap buffers for heads, to be used again.
    spare: Vec<Vec<u8>>,
    disturbed: Vec<Key>,
    keeper: Option<Waker>,
    wheel: Wheel<TimerSlot>,
    /// `Settings::gather`, where the kernel can.
    pub(super) gather: Duration,
    /// When to wake whom, more exactly than the wheel can say.
    alarm: Option<(Duration, Waker)>,
    /// When the clock was last read, and how long the core had been parked until then.
    turn_began: (Duration, Duration),
    /// By account.
    pub(super) traffic: Vec<Traffic>,
    pub(super) stats: Stats,
}

/// The kernel takes whole microseconds; a core parks no longer than this.
const SHORTEST_GATHER: Duration = Duration::from_micros(1);
const LONGEST_GATHER: Duration = Duration::from_millis(100);

/// Spare buffers kept, and the largest that is worth keeping.
const SPARE_BUFFERS: usize = 256;
const SPARE_BYTES: usize = 16 << 10;
/// What a buffer begins with: most heads fit.
const BUFFER_BYTES: usize = 1024;

impl Core {
    pub(super) fn new(mut kernel: Kernel, settings: &Settings) -> io::Result<Core> {
        let groups = [
            Group::new(&mut kernel, Whose::Client as u16, settings.head_buffers)?,
            Group::new(&mut kernel, Whose::Upstream as u16, settings.head_buffers)?,
        ];
        let may_gather = kernel.may_gather();
        Ok(Core {
            kernel,
            slots: Slots::new(),
            groups,
            overflow: VecDeque::new(),
            starved: VecDeque::new(),
            filling: VecDeque::new(),
            spare: Vec::new(),
            disturbed: Vec::new(),
            keeper: None,
            wheel: Wheel::new(0),
            gather: match settings.gather {
                gather if may_gather && gather >= SHORTEST_GATHER => gather.min(LONGEST_GATHER),
                _ => Duration::ZERO,
            },
            alarm: None,
            turn_began: (Duration::ZERO, Duration::ZERO),
            traffic: vec![Traffic::default()],
            stats: Stats::default(),
        })
    }

    pub(super) fn socket(&mut self, key: Key) -> Option<&mut SocketSlot> {
        match self.slots.get_mut(key) {
            Some(Slot::Socket(socket)) => Some(socket),
            _ => None,
        }
    }

    pub(super) fn listener(&mut self, key: Key) -> Option<&mut ListenerSlot> {
        match self.slots.get_mut(key) {
            Some(Slot::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    pub(super) fn event(&mut self, key: Key) -> Option<&mut EventSlot> {
        match self.slots.get_mut(key) {
            Some(Slot::Event(event)) => Some(event),
            _ => None,
        }
    }

    pub(super) fn spare_buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        let worth_keeping = (1..=SPARE_BYTES).contains(&buffer.capacity());
        if self.spare.len() < SPARE_BUFFERS && worth_keeping {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Tells the keeper of an event on a parked socket.
    pub(super) fn disturb(&mut self, key: Key) {
        self.disturbed.push(key);
        if let Some(keeper) = &self.keeper {
            keeper.wake_by_ref();
        }
    }

    /// Whether anything waits to be submitted, or a dropped socket or listener for its last
    /// completion.
    pub(super) fn has_unfinished(&mut self) -> bool {
        let queued = !self.overflow.is_empty() || self.kernel.queued() > 0;
        queued
            || self.slots.iter_mut().any(|(_, slot)| {
                let owner = match slot {
                    Slot::Socket(socket) => &socket.owner,
                    Slot::Listener(listener) => &listener.owner,
                    Slot::Event(event) => &event.owner,
                };
                matches!(owner, Owner::Nobody)
            })
    }

    pub(super) fn wake_owners(&mut self) {
        for (_, slot) in self.slots.iter_mut() {
            let owner = match slot {
                Slot::Socket(socket) if socket.whose == Whose::Client => &socket.owner,
                Slot::Listener(listener) => &listener.owner,
                Slot::Socket(_) | Slot::Event(_) => continue,
            };
            if let Owner::Task(waker) = owner {
                waker.wake_by_ref();
            }
        }
    }

    pub(super) fn take_disturbed(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.disturbed)
    }

    pub(super) fn set_keeper(&mut self, waker: Waker) {
        self.keeper = Some(waker);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.wheel.now_ms()
    }

    /// Milliseconds until the next timer may fire.
    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.wheel.next_ms()
    }

    pub(super) fn set_alarm(&mut self, at: Duration, waker: Waker) {
        self.alarm = Some((at, waker));
    }

    /// Since the ring was made.
    pub(super) fn elapsed(&self) -> Duration {
        self.kernel.elapsed()
    }

    /// Until the alarm; `None`: there is none.
    pub(super) fn until_alarm(&self) -> Option<Duration> {
        self.alarm.as_ref().map(|(at, _)| at.saturating_sub(self.kernel.elapsed()))
    }

    /// Reads the clock and wakes whose deadline has come.
    pub(super) fn advance_clock(&mut self) {
        let now = self.kernel.elapsed();
        let (before, parked_before) =
            std::mem::replace(&mut self.turn_began, (now, self.stats.parked));
        let turn = (now - before).saturating_sub(self.stats.parked - parked_before);
        self.stats.longest_turn = self.stats.longest_turn.max(turn);
        if self.alarm.as_ref().is_some_and(|(at, _)| *at <= now)
            && let Some((_, waker)) = self.alarm.take()
        {
            waker.wake();
        }
        let latest = &mut self.stats.latest_timer;
        self.wheel.advance(now.as_millis() as u64, |timer, deadline_ms| {
            *latest = (*latest).max(now.saturating_sub(Duration::from_millis(deadline_ms)));
            timer.fired = true;
            timer.waker.wake_by_ref();
        });
    }

    pub(super) fn forget_peaks(&mut self) {
        self.stats.longest_turn = Duration::ZERO;
        self.stats.latest_timer = Duration::ZERO;
    }

    pub(super) fn add_timer(&mut self, waker: Waker) -> Key {
        self.wheel.insert(TimerSlot { waker, fired: false })
    }

    pub(super) fn set_timer(&mut self, key: Key, deadline_ms: u64) {
        self.wheel.set(key, deadline_ms);
        if let Some(timer) = self.wheel.get_mut(key) {
            timer.fired = false;
        }
    }

    pub(super) fn has_fired(&mut self, key: Key) -> bool {
        self.wheel.get_mut(key).is_some_and(|timer| timer.fired)
    }

    pub(super) fn remove_timer(&mut self, key: Key) {
        self.wheel.remove(key);
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            buffers_in_use: self.groups.iter().map(Group::in_use).sum(),
            buffers_exhausted: self.groups.iter().map(|group| group.exhausted).sum(),
            slots: self.slots.len(),
            ..self.stats
        }
    }
}

impl Drop for Core {
    /// The kernel must be done with our memory before it is freed: everything is cancelled and
    /// waited for, and what is still open is closed.
    fn drop(&mut self) {
        self.kernel.cancel_everything();
        let is_done = self.finish_orphans();
        for entry in self.overflow.drain(..) {
            if Op::of(entry.get_user_data()) == Some(Op::Close) {
                // SAFETY: the descriptor was given up to this close, which nobody will do now.
                unsafe { libc::close(entry.get_user_data() as RawFd) };
            }
        }
        for (_, slot) in self.slots.iter_mut() {
            let fds: &mut dyn Iterator<Item = RawFd> = match slot {
                Slot::Socket(socket) => &mut std::iter::once(socket.fd),
                Slot::Listener(listener) => {
                    &mut listener.accepted.drain(..).chain(std::iter::once(listener.fd))
                }
                Slot::Event(_) => &mut std::iter::empty(),
            };
            for fd in fds {
                // SAFETY: the slot owned this descriptor and nobody closes it after us.
                unsafe { libc::close(fd) };
            }
        }
        if !is_done {
            // Rather lost than written to by the kernel when it is somebody else's.
            std::mem::forget(std::mem::replace(&mut self.slots, Slots::new()));
            self.groups.iter_mut().for_each(Group::leak);
        }
    }
}
