//! Operations: what a task asks for, put into the kernel's queue.
//!
//! Asking for what is under way already changes nothing. What an operation reads or writes is
//! moved into its slot before it is queued, and `ops` counts it until its completion.

use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};
use socket2::SockAddr;

use super::core::{Core, Op, Owner, Receive, Sending, Slot, tag};
use super::lease::Lease;
use super::slots::Key;
use super::socket::{Chunk, End};

/// How long a leased buffer waits for data.
const REST_MS: u64 = 100;

impl Core {
    /// Queues an operation; the driver submits it at its next turn.
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        self.stats.sqes += 1;
        if !self.overflow.is_empty() {
            self.overflow.push_back(entry);
            return;
        }
        // SAFETY: whatever memory an entry points to is owned by the slot that it names, and a slot
        // outlives its operations.
        if !unsafe { self.kernel.push(&entry) } {
            self.overflow.push_back(entry);
        }
    }

    /// Arms a receive into provided buffers, unless one is armed or the stream has ended.
    pub(super) fn receive(&mut self, key: Key, many: bool) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        if !matches!(socket.receive, Receive::Idle) || socket.end != End::Open {
            return;
        }
        socket.receive = Receive::Armed { many, cancelling: false };
        socket.ops += 1;
        let (fd, group) = (Fd(socket.fd), socket.whose as u16);
        let entry = match many {
            true => opcode::RecvMulti::new(fd, group).build(),
            false => opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(group)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        self.push(entry.user_data(tag(Op::Receive, key)));
    }

    /// Takes back a receive; it is idle once its completion has come.
    pub(super) fn stop_receiving(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        match &mut socket.receive {
            Receive::Armed { cancelling, .. } if !*cancelling => *cancelling = true,
            Receive::Starved { .. } => {
                socket.receive = Receive::Idle;
                self.starved.retain(|starved| *starved != key);
                return;
            }
            _ => return,
        }
        socket.ops += 1;
        let cancel = opcode::AsyncCancel::new(tag(Op::Receive, key)).build();
        self.push(cancel.user_data(tag(Op::Control, key)));
    }

    /// Receives into a lease, where `receive` would.
    pub(super) fn fill(&mut self, key: Key, mut lease: Lease, start: usize, len: usize) {
        let since_ms = self.now_ms();
        let Some(socket) = self.socket(key) else { return };
        // The kernel may still write to the lease before.
        if !matches!(socket.receive, Receive::Idle) || socket.end != End::Open {
            return;
        }
        let len = len.min(lease.len() - start);
        let memory = lease[start..].as_mut_ptr();
        socket.receive = Receive::Filling { lease, start, since_ms };
        socket.ops += 1;
        let entry = opcode::Recv::new(Fd(socket.fd), memory, len as u32).build();
        self.push(entry.user_data(tag(Op::Fill, key)));
        self.filling.push_back((key, since_ms));
    }

    /// Takes back the leases of receives to which nothing has come for a while, or streams that
    /// rest would hold the budget, and streams that do not would go without.
    pub(super) fn recall_resting(&mut self) {
        let now_ms = self.now_ms();
        while let Some((key, since_ms)) = self.filling.front().copied() {
            if now_ms < since_ms + REST_MS {
                return;
            }
            self.filling.pop_front();
            let Some(socket) = self.socket(key) else { continue };
            match &socket.receive {
                Receive::Filling { since_ms: since, .. } if *since == since_ms => {}
                _ => continue,
            }
            socket.recalled = true;
            socket.ops += 1;
            let cancel = opcode::AsyncCancel::new(tag(Op::Fill, key)).build();
            self.push(cancel.user_data(tag(Op::Control, key)));
        }
    }

    /// Sends a chunk after those before it.
    pub(super) fn send(&mut self, key: Key, chunk: Chunk) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        if socket.send_error.is_some() || chunk.is_empty() {
            if let Chunk::Heap { bytes, .. } = chunk {
                self.recycle(bytes);
            }
            return;
        }
        match &mut socket.sending {
            Sending::Idle => {
                socket.sending = Sending::Flying { chunk, waiting: None };
                self.submit_send(key);
            }
            Sending::Flying { waiting: Some(before), .. } => before.append(chunk),
            Sending::Flying { waiting, .. } => *waiting = Some(chunk),
        }
    }

    /// Puts the flying chunk of a socket into the kernel's hands.
    pub(super) fn submit_send(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        let Sending::Flying { chunk, .. } = &socket.sending else {
            return;
        };
        let (memory, len) = (chunk.as_ptr(), chunk.len() as u32);
        socket.ops += 1;
        let entry = opcode::Send::new(Fd(socket.fd), memory, len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(tag(Op::Send, key)));
    }

    pub(super) fn connect(&mut self, key: Key, address: SockAddr) {
        let Some(socket) = self.socket(key) else {
            return;
        };
        let address = socket.connecting.insert(Box::new(address));
        let (memory, len) = (address.as_ptr(), address.len());
        socket.ops += 1;
        let entry = opcode::Connect::new(Fd(socket.fd), memory.cast(), len).build();
        self.push(entry.user_data(tag(Op::Connect, key)));
    }

    /// By a plain system call: the ring hands each shutdown to a worker thread (REQ_F_FORCE_ASYNC),
    /// which costs more than the call.
    pub(super) fn shutdown(&mut self, key: Key, how: i32) {
        let Some(socket) = self.socket(key) else { return };
        let fd = socket.fd;
        self.kernel.shutdown(fd, how);
    }

    /// Resets a connection while operations are under way on it, which end by that.
    pub(super) fn disconnect(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else { return };
        let fd = socket.fd;
        if !self.kernel.disconnect(fd) {
            self.kernel.shutdown(fd, libc::SHUT_RDWR);
        }
    }

    pub(super) fn accept(&mut self, key: Key) {
        let Some(listener) = self.listener(key) else {
            return;
        };
        if std::mem::replace(&mut listener.armed, true) {
            return;
        }
        let (fd, nobody) = (Fd(listener.fd), std::ptr::null_mut());
        let entry = match listener.one_by_one {
            true => {
                opcode::Accept::new(fd, nobody, nobody.cast()).flags(libc::SOCK_CLOEXEC).build()
            }
            false => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
        };
        self.push(entry.user_data(tag(Op::Accept, key)));
    }

    pub(super) fn stop_accepting(&mut self, key: Key) {
        let cancel = opcode::AsyncCancel::new(tag(Op::Accept, key)).build();
        self.push(cancel.user_data(tag(Op::Uncounted, key)));
    }

    pub(super) fn stop_event(&mut self, key: Key) {
        let cancel = opcode::AsyncCancel::new(tag(Op::Event, key)).build();
        self.push(cancel.user_data(tag(Op::Uncounted, key)));
    }

    pub(super) fn read_event(&mut self, key: Key) {
        let Some(event) = self.event(key) else { return };
        if std::mem::replace(&mut event.armed, true) {
            return;
        }
        let memory = (&raw mut *event.count).cast::<u8>();
        let entry = opcode::Read::new(Fd(event.event.as_raw_fd()), memory, 8).build();
        self.push(entry.user_data(tag(Op::Event, key)));
    }

    /// The owner has gone. What is still in the kernel is taken back; the file descriptor is
    /// closed when nothing is, since a close with operations in flight sends no FIN.
    pub(super) fn abandon(&mut self, key: Key) {
        let Some(Slot::Socket(socket)) = self.slots.get_mut(key) else {
            return;
        };
        socket.owner = Owner::Nobody;
        self.groups[socket.whose as usize].discard_chain(&mut socket.chain);
        if let Receive::Starved { .. } = socket.receive {
            socket.receive = Receive::Idle;
            self.starved.retain(|starved| *starved != key);
        }
        let Some(socket) = self.socket(key) else {
            return;
        };
        if let Sending::Flying { waiting, .. } = &mut socket.sending {
            *waiting = None;
        }
        if socket.ops == 0 {
            self.close(key);
            return;
        }
        // Ends what is blocked, also a send that has gone to a worker thread, where a cancel may
        // miss it. A connection that is to be reset must not send its end first.
        if !socket.resets {
            self.shutdown(key, libc::SHUT_RDWR);
        }
        self.cancel_all(key);
    }

    pub(super) fn cancel_all(&mut self, key: Key) {
        let Some(socket) = self.socket(key) else { return };
        socket.ops += 1;
        let everything = CancelBuilder::fd(Fd(socket.fd)).all();
        let entry = opcode::AsyncCancel2::new(everything).build();
        self.push(entry.user_data(tag(Op::CancelAll, key)));
    }

    /// Frees the slot of an orphan and closes its file descriptor.
    pub(super) fn close(&mut self, key: Key) {
        let Some(Slot::Socket(socket)) = self.slots.remove(key) else {
            return;
        };
        debug_assert_eq!(socket.ops, 0);
        self.close_fd(socket.fd);
    }

    pub(super) fn close_fd(&mut self, fd: RawFd) {
        let entry = opcode::Close::new(Fd(fd)).build();
        self.push(entry.user_data((Op::Close as u64) << 56 | u64::from(fd as u32)));
    }
}
