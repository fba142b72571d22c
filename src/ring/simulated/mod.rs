//! A kernel made of a seed: it takes the ring's submissions as the real one does, from the same
//! memory, and completes them in a random order in virtual time.
//!
//! What it may do the real kernel may do too: receive in any pieces, end a multishot when it likes,
//! run out of buffers or of descriptors, let a cancel come before or after what it takes back, be
//! it by several enters, miss a send that a worker thread has. What is on the other end of each
//! connection is the test's (`World`), which acts whenever the kernel is entered. Time goes on
//! while a core is parked, to whatever comes next; so an hour of timeouts takes a moment, and one
//! seed is one history.
//!
//! Sockets have a descriptor of the real kernel's, which carries nothing: they are opened and
//! closed as ever. Eventfds are real.

mod network;
mod random;
mod submission;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use io_uring::{cqueue, squeue};

pub(crate) use self::network::{Network, Peer, Read};
pub(crate) use self::random::{PATTERN_BYTES, Random, pattern, seeds};

use self::network::{Received, Sent};
use self::submission::{Asked, Posted, Submission, completion};
use super::kernel;
use super::{Ring, Settings};

/// Time that passes at each enter.
const TURN: Duration = Duration::from_micros(50);
/// Enters in a row in which nothing happens and time stands still: a core that spins for ever.
const MOST_IDLE_ENTERS: u32 = 100_000;
/// By how many enters what a cancel has taken back may complete late: a kernel that has much to do
/// completes some of it at each.
const LATEST: usize = 12;

/// Whoever is on the other ends of the connections.
pub(crate) trait World {
    /// Does what it likes to do now. When it is to be asked again at the latest; `None`: when
    /// something else happens.
    fn act(&mut self, network: &mut Network) -> Option<Duration>;
}

/// An operation that the kernel has taken.
struct Flying {
    user_data: u64,
    asked: Asked,
    /// What has been sent of it.
    sent: usize,
    /// It has not been tried.
    is_new: bool,
    /// A worker thread has it: a cancel does not reach it.
    is_stuck: bool,
}

pub(crate) struct Kernel {
    network: Rc<RefCell<Network>>,
    world: Box<dyn World>,
    /// Read when they are taken, and not before.
    queue: VecDeque<squeue::Entry>,
    queue_entries: usize,
    flying: Vec<Flying>,
    /// What was taken back and has not completed, and in how many enters it will.
    late: Vec<(usize, cqueue::Entry)>,
    groups: [Option<Posted>; 2],
    completed: Vec<cqueue::Entry>,
    idle_enters: u32,
}

/// A ring over a simulated kernel, and the network between it and `world`.
pub(crate) fn ring(
    settings: &Settings,
    network: &Rc<RefCell<Network>>,
    world: Box<dyn World>,
) -> Ring {
    let kernel = Kernel {
        network: network.clone(),
        world,
        queue: VecDeque::new(),
        queue_entries: settings.entries.next_power_of_two() as usize,
        flying: Vec::new(),
        late: Vec::new(),
        groups: [None, None],
        completed: Vec::new(),
        idle_enters: 0,
    };
    Ring::over(kernel::Kernel::Simulated(kernel), settings).expect("memory for buffers")
}

impl Kernel {
    pub(super) fn elapsed(&self) -> Duration {
        self.network.borrow().now
    }

    pub(super) fn register_buffers(&mut self, address: u64, entries: u16, id: u16) {
        self.groups[usize::from(id)] = Some(Posted::new(address, entries));
    }

    /// Buffers of each group that receives can find.
    pub(super) fn posted(&self) -> [u16; 2] {
        self.groups.each_ref().map(|group| group.as_ref().map_or(0, Posted::len))
    }

    pub(super) fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.is_full() {
            return false;
        }
        self.queue.push_back(entry.clone());
        true
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= self.queue_entries
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.completed.is_empty()
    }

    pub(super) fn reap(&mut self, into: &mut Vec<cqueue::Entry>) {
        into.append(&mut self.completed);
    }

    pub(super) fn enter(&mut self, wanted: u32, most: Duration) -> std::io::Result<()> {
        if std::thread::panicking() {
            // A ring that goes because a test has failed: the world would fail again.
            return Err(std::io::Error::from_raw_os_error(libc::EBADF));
        }
        // Short of memory, a kernel takes a part, and does not wait then.
        let is_short = !self.queue.is_empty() && self.network.borrow_mut().random.chance(3);
        let taken = match is_short {
            true => self.network.borrow_mut().random.below(self.queue.len()),
            false => self.queue.len(),
        };
        for _ in 0..taken {
            let entry = self.queue.pop_front().expect("as many as that");
            self.begin(Submission::of(&entry));
        }
        let wanted = if is_short { 0 } else { wanted };
        let (network, ends) = {
            let mut network = self.network.borrow_mut();
            network.now += TURN;
            (self.network.clone(), network.now + most)
        };
        loop {
            let next = self.world.act(&mut network.borrow_mut());
            let before = self.completed.len();
            self.complete_late();
            self.proceed(&mut network.borrow_mut(), wanted > 0);
            let mut network = network.borrow_mut();
            if self.completed.len() > before || wanted == 0 || network.now >= ends {
                self.idle_enters =
                    if wanted == 0 && self.completed.is_empty() { self.idle_enters + 1 } else { 0 };
                assert!(self.idle_enters < MOST_IDLE_ENTERS, "the core spins");
                return Ok(());
            }
            let next = match self.late.is_empty() || network.is_stuck {
                true => next.filter(|next| *next > network.now).unwrap_or(ends),
                false => network.now + TURN,
            };
            network.now = next.min(ends);
        }
    }

    pub(super) fn cancel_everything(&mut self) {
        let mut network = self.network.borrow_mut();
        for it in std::mem::take(&mut self.flying) {
            let enters = network.random.between(1, LATEST);
            self.late.push((enters, completion(it.user_data, -libc::ECANCELED, 0)));
        }
    }

    pub(super) fn shutdown(&mut self, fd: RawFd, how: i32) {
        self.network.borrow_mut().shutdown_here(fd, how);
    }

    pub(super) fn disconnect(&mut self, fd: RawFd) -> bool {
        self.network.borrow_mut().disconnect_here(fd);
        true
    }

    pub(super) fn reset_on_close(&mut self, fd: RawFd) {
        self.network.borrow_mut().reset_on_close(fd);
    }

    pub(super) fn has_unread(&self, fd: RawFd) -> bool {
        self.network.borrow().has_unread(fd)
    }

    pub(super) fn was_reset(&self, fd: RawFd, received_bytes: u64) -> bool {
        self.network.borrow().was_reset(fd, received_bytes)
    }

    pub(super) fn acknowledged_bytes(&self, fd: RawFd) -> u64 {
        self.network.borrow().acknowledged_bytes(fd)
    }

    fn begin(&mut self, submission: Submission) {
        let Submission { user_data, asked } = submission;
        match asked {
            Asked::Cancel { user_data: of } => self.cancel(user_data, |it| it.user_data == of),
            Asked::CancelAll { fd } => self.cancel(user_data, |it| it.asked.fd() == Some(fd)),
            Asked::Close { fd } => {
                self.network.borrow_mut().close_here(fd);
                self.completed.push(completion(user_data, 0, 0));
            }
            Asked::Connect { fd, ref address } => {
                self.network.borrow_mut().dial_out(fd, address);
                self.fly(user_data, asked);
            }
            _ => self.fly(user_data, asked),
        }
    }

    fn fly(&mut self, user_data: u64, asked: Asked) {
        let is_send = matches!(asked, Asked::Send { .. });
        let is_stuck = is_send && self.network.borrow_mut().random.chance(10);
        self.flying.push(Flying { user_data, asked, sent: 0, is_new: true, is_stuck });
    }

    fn complete_late(&mut self) {
        if self.network.borrow().is_stuck {
            return;
        }
        for (left, completion) in &mut self.late {
            *left -= 1;
            if *left == 0 {
                self.completed.push(completion.clone());
            }
        }
        self.late.retain(|(left, _)| *left > 0);
    }

    /// Takes back what `is_it` picks, and completes the cancel before it or behind it.
    fn cancel(&mut self, user_data: u64, is_it: impl Fn(&Flying) -> bool) {
        let (mut found, mut taken) = (0, Vec::new());
        let mut at = 0;
        while at < self.flying.len() {
            if !is_it(&self.flying[at]) {
                at += 1;
                continue;
            }
            found += 1;
            if self.flying[at].is_stuck {
                at += 1;
                continue;
            }
            let it = self.flying.swap_remove(at);
            let result = if it.sent > 0 { it.sent as i32 } else { -libc::ECANCELED };
            taken.push(completion(it.user_data, result, 0));
        }
        let result = match (taken.len(), found) {
            (0, 0) => -libc::ENOENT,
            (0, _) => -libc::EALREADY,
            (taken, _) => taken as i32,
        };
        let random = &mut self.network.borrow_mut().random;
        let first = random.chance(50);
        let cancel = completion(user_data, result, 0);
        if first {
            self.completed.push(cancel.clone());
        }
        for completion in taken {
            match random.chance(30) {
                true => self.late.push((random.between(1, LATEST), completion)),
                false => self.completed.push(completion),
            }
        }
        if !first {
            self.completed.push(cancel);
        }
    }

    /// Completes some of what can be completed now, in a random order; at least one if `some`.
    fn proceed(&mut self, network: &mut Network, some: bool) {
        if network.is_stuck {
            return;
        }
        let mut order: Vec<usize> = (0..self.flying.len()).collect();
        network.random.shuffle(&mut order);
        let mut over = Vec::new();
        for at in order {
            let is_due = (self.completed.is_empty() && some) || network.random.chance(70);
            if is_due && self.try_one(network, at) {
                over.push(at);
            }
        }
        over.sort_unstable_by(|a, b| b.cmp(a));
        for at in over {
            self.flying.swap_remove(at);
        }
    }

    /// Lets one operation go on. Whether it is over.
    fn try_one(&mut self, network: &mut Network, at: usize) -> bool {
        let Kernel { flying, groups, completed, .. } = self;
        let it = &mut flying[at];
        let is_new = std::mem::take(&mut it.is_new);
        let (result, flags) = match it.asked {
            Asked::ReceivePieces { fd, group, many } => {
                let group = groups[group].as_mut().expect("a group that was registered");
                let receive = (it.user_data, fd, many, is_new);
                return receive_pieces(network, group, completed, receive);
            }
            Asked::Receive { fd, memory, len } => match network.receive(fd, len) {
                Received::Nothing => return false,
                Received::End => (0, 0),
                Received::Failed(errno) => (-errno, 0),
                // SAFETY: the ring keeps `len` bytes there until this operation has completed.
                Received::Bytes(bytes) => (unsafe { submission::write(memory, &bytes) }, 0),
            },
            Asked::Send { fd, memory, len } => {
                // SAFETY: as above; `sent` never exceeds `len`.
                let left = unsafe { submission::read(memory, len, it.sent) };
                match network.send(fd, left) {
                    Sent::Failed(errno) if it.sent == 0 => (-errno, 0),
                    Sent::Failed(_) => (it.sent as i32, 0),
                    Sent::Bytes(bytes) => {
                        it.sent += bytes;
                        if it.sent < len {
                            return false;
                        }
                        (len as i32, 0)
                    }
                }
            }
            Asked::Connect { fd, .. } => match network.dialled(fd) {
                None => return false,
                Some(result) => (result, 0),
            },
            Asked::Accept { many, .. } => match network.accept() {
                None => return false,
                Some(Err(errno)) => (-errno, 0),
                Some(Ok(fd)) => {
                    let more = many && !network.random.chance(5);
                    let flags = if more { submission::MORE } else { 0 };
                    completed.push(completion(it.user_data, fd, flags));
                    return !more;
                }
            },
            Asked::Event { fd, memory } => match submission::read_event(fd) {
                None => return false,
                // SAFETY: the ring keeps eight bytes there until this operation has completed.
                Some(count) => (unsafe { submission::write(memory, &count.to_ne_bytes()) }, 0),
            },
            Asked::Cancel { .. } | Asked::CancelAll { .. } | Asked::Close { .. } => return true,
        };
        completed.push(completion(it.user_data, result, flags));
        true
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.network.borrow_mut().left_in_kernel = self.flying.len() + self.late.len();
    }
}

/// Whether the receive is over.
fn receive_pieces(
    network: &mut Network,
    group: &mut Posted,
    completed: &mut Vec<cqueue::Entry>,
    (user_data, fd, many, is_new): (u64, RawFd, bool, bool),
) -> bool {
    let mut looks = is_new;
    loop {
        let is_readable = network.is_readable(fd);
        // A buffer is chosen before anybody looks whether it is needed.
        if group.len() == 0 && (looks || is_readable) {
            completed.push(completion(user_data, -libc::ENOBUFS, 0));
            return true;
        }
        looks = true;
        if !is_readable {
            return false;
        }
        let buffer = if network.has_unread(fd) { group.take() } else { None };
        let (result, flags) = match (network.receive(fd, Posted::BYTES), &buffer) {
            (Received::Bytes(bytes), Some(buffer)) => (buffer.fill(&bytes), buffer.flags()),
            (Received::Failed(errno), _) => (-errno, 0),
            (Received::End, _) => (0, 0),
            (Received::Nothing | Received::Bytes(_), _) => unreachable!("it was readable"),
        };
        let more = many && result > 0 && !network.random.chance(5);
        let flags = flags | if more { submission::MORE } else { 0 };
        completed.push(completion(user_data, result, flags));
        if !more {
            return true;
        }
        if network.random.chance(50) {
            return false;
        }
    }
}
