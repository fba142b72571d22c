//! Completions: what each says of its slot, and whom it wakes.
//!
//! A completion whose slot has gone or changed hands is counted and otherwise ignored, except
//! that a buffer it brings goes back. Nothing here runs a task; waking only makes it runnable.

use io_uring::cqueue;

use super::buffers::Chain;
use super::core::{Core, Op, Owner, Receive, Sending, Slot, SocketSlot};
use super::kernel::Kernel;
use super::slots::Key;
use super::socket::{Chunk, End};

impl Core {
    pub(super) fn dispatch(&mut self, completion: &cqueue::Entry) {
        self.stats.cqes += 1;
        let key = Key::unpack(completion.user_data());
        let result = completion.result();
        match Op::of(completion.user_data()) {
            Some(Op::Receive) => self.received(key, completion),
            Some(Op::Fill) => self.filled(key, result),
            Some(Op::Send) => self.sent(key, result),
            Some(Op::Connect) => self.connected(key, result),
            Some(Op::Accept) => self.accepted(key, completion),
            Some(Op::Control) => self.finish(key),
            Some(Op::Event) => self.event_read(key),
            Some(Op::Close | Op::Uncounted) => {}
            Some(Op::CancelAll) => self.taken_back(key),
            None => self.stats.stale += 1,
        }
    }

    fn received(&mut self, key: Key, completion: &cqueue::Entry) {
        let more = cqueue::more(completion.flags());
        let buffer = cqueue::buffer_select(completion.flags());
        let result = completion.result();
        let Some(Slot::Socket(socket)) = self.slots.get_mut(key) else {
            self.stats.stale += 1;
            // Slots outlive their operations, so a group to return it to is not known here, and
            // not needed: this does not happen.
            debug_assert!(buffer.is_none(), "a receive outlived its slot");
            return;
        };
        let group = &mut self.groups[socket.whose as usize];
        let orphaned = matches!(socket.owner, Owner::Nobody);
        if let Some(id) = buffer {
            match result > 0 && !orphaned {
                true => group.received(&mut socket.chain, id, result as usize),
                false => group.discard(id),
            }
        }
        let (many, wanted) = match socket.receive {
            Receive::Armed { many, cancelling } => (many, !cancelling && !orphaned),
            _ => (false, false),
        };
        if !more {
            socket.receive = Receive::Idle;
        }
        let account = socket.account as usize;
        match -result {
            _ if result > 0 => {
                socket.received_bytes += result as u64;
                self.traffic[account].received_bytes += result as u64;
            }
            0 => socket.end = end_of(socket, &self.kernel),
            libc::ECANCELED | libc::EINTR => {}
            libc::ENOBUFS if !wanted => {}
            libc::ENOBUFS => {
                socket.receive = Receive::Starved { many };
                socket.ops -= 1;
                group.ran_out();
                self.starved.push_back(key);
                return;
            }
            error => socket.end = End::Failed(error),
        }
        if more {
            self.tell(key);
        } else {
            self.finish(key);
        }
    }

    fn filled(&mut self, key: Key, result: i32) {
        let Some(Slot::Socket(socket)) = self.slots.get_mut(key) else {
            self.stats.stale += 1;
            return;
        };
        if let Receive::Filling { lease, start, .. } =
            std::mem::replace(&mut socket.receive, Receive::Idle)
        {
            match result {
                1.. => {
                    socket.receive = Receive::Filled { lease, start, len: result as usize };
                    socket.received_bytes += result as u64;
                    self.traffic[socket.account as usize].received_bytes += result as u64;
                }
                0 => socket.end = end_of(socket, &self.kernel),
                _ if [libc::ECANCELED, libc::EINTR].contains(&-result) => {}
                _ => socket.end = End::Failed(-result),
            }
        }
        self.finish(key);
    }

    fn sent(&mut self, key: Key, result: i32) {
        let Some(socket) = self.socket(key) else {
            self.stats.stale += 1;
            return;
        };
        let Sending::Flying { mut chunk, waiting } =
            std::mem::replace(&mut socket.sending, Sending::Idle)
        else {
            return self.settle(key);
        };
        match result {
            ..0 => socket.send_error = Some(-result),
            _ => chunk.advance(result as usize),
        }
        let account = socket.account as usize;
        let goes_on = result >= 0 && !matches!(socket.owner, Owner::Nobody);
        let mut done = None;
        if goes_on && !chunk.is_empty() {
            socket.sending = Sending::Flying { chunk, waiting };
        } else {
            done = Some(chunk);
            if let (true, Some(chunk)) = (goes_on, waiting) {
                socket.sending = Sending::Flying { chunk, waiting: None };
            }
        }
        let wakes = socket.send_error.is_some() || socket.wake_when_sent;
        self.traffic[account].sent_bytes += result.max(0) as u64;
        self.submit_send(key);
        if let Some(Chunk::Heap { bytes, .. }) = done {
            self.recycle(bytes);
        }
        match wakes {
            true => self.finish(key),
            false => self.settle(key),
        }
    }

    fn connected(&mut self, key: Key, result: i32) {
        let Some(socket) = self.socket(key) else {
            self.stats.stale += 1;
            return;
        };
        socket.connecting = None;
        if result < 0 {
            socket.end = End::Failed(-result);
        }
        self.finish(key);
    }

    fn accepted(&mut self, key: Key, completion: &cqueue::Entry) {
        let result = completion.result();
        let Some(listener) = self.listener(key) else {
            self.stats.stale += 1;
            if result >= 0 {
                self.close_fd(result);
            }
            return;
        };
        listener.armed = cqueue::more(completion.flags());
        match result {
            0.. => listener.accepted.push_back(result),
            _ => listener.error = Some(-result),
        }
        let ended = !listener.armed && matches!(listener.owner, Owner::Nobody);
        if let Owner::Task(waker) = &listener.owner {
            waker.wake_by_ref();
        }
        if ended {
            self.remove_listener(key);
        }
    }

    pub(super) fn remove_listener(&mut self, key: Key) {
        let Some(Slot::Listener(listener)) = self.slots.remove(key) else {
            return;
        };
        for fd in listener.accepted {
            self.close_fd(fd);
        }
        self.close_fd(listener.fd);
    }

    fn event_read(&mut self, key: Key) {
        let Some(event) = self.event(key) else {
            self.stats.stale += 1;
            return;
        };
        event.armed = false;
        match &event.owner {
            Owner::Task(waker) => waker.wake_by_ref(),
            _ => drop(self.slots.remove(key)),
        }
    }

    /// An orphan's cancel has completed. What it took back completes after it, maybe not at once.
    /// After a second cancel something may be out of reach (a send that a worker thread has), and a
    /// connection that is to be reset is broken off here, or it would never go. Not by a shutdown,
    /// where that can be helped: its peer would see a clean end.
    fn taken_back(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else { return };
        if matches!(socket.owner, Owner::Nobody) && socket.resets && socket.ops > 1 {
            match std::mem::replace(&mut socket.cancelled_twice, true) {
                true => self.disconnect(key),
                false => self.cancel_all(key),
            }
        }
        self.finish(key);
    }

    /// One operation of a socket has completed: its owner is told, or the orphan goes.
    fn finish(&mut self, key: Key) {
        self.tell(key);
        self.settle(key);
    }

    fn settle(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        socket.ops -= 1;
        if socket.ops == 0 && matches!(socket.owner, Owner::Nobody) {
            let mut chain = std::mem::replace(&mut socket.chain, Chain::EMPTY);
            let whose = socket.whose as usize;
            self.groups[whose].discard_chain(&mut chain);
            self.close(key);
        }
    }

    fn tell(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        match &socket.owner {
            Owner::Task(waker) => waker.wake_by_ref(),
            Owner::Parked => {
                if socket.end != End::Open || !socket.chain.is_empty() {
                    self.disturb(key);
                }
            }
            Owner::Nobody => {}
        }
    }

    /// Arms again what found no buffer, as far as there are buffers now.
    pub(super) fn feed_starved(&mut self) {
        self.groups.iter_mut().for_each(|group| group.refill());
        // No more than there are buffers, or most would be back here after a turn in vain.
        let mut posted = [self.groups[0].posted(), self.groups[1].posted()];
        for _ in 0..self.starved.len() {
            let Some(key) = self.starved.pop_front() else {
                return;
            };
            let Some(Slot::Socket(socket)) = self.slots.get_mut(key) else {
                continue;
            };
            let Receive::Starved { many } = socket.receive else {
                continue;
            };
            let posted = &mut posted[socket.whose as usize];
            if *posted == 0 {
                self.starved.push_back(key);
                continue;
            }
            *posted -= 1;
            socket.receive = Receive::Idle;
            self.receive(key, many);
        }
    }
}

/// What it means that a receive has brought nothing. A reset is told once, to whichever operation
/// meets it first: where a send may have, a receive that finds nothing says less than it seems to,
/// and the kernel is asked what became of the connection.
fn end_of(socket: &SocketSlot, kernel: &Kernel) -> End {
    let told_once = socket.send_error.is_some() || matches!(socket.sending, Sending::Flying { .. });
    match told_once && kernel.was_reset(socket.fd, socket.received_bytes) {
        true => End::Failed(libc::ECONNRESET),
        false => End::Closed,
    }
}
