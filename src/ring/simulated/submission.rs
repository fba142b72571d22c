//! Submissions as the kernel reads them, completions as it writes them, and provided buffers in the
//! memory that it shares with the ring: the layouts of `linux/io_uring.h`.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{cqueue, squeue};
use socket2::{SockAddr, SockAddrStorage};

use crate::ring::buffers::PIECE_BYTES;

/// More completions follow (`IORING_CQE_F_MORE`).
pub(super) const MORE: u32 = 1 << 1;
/// The upper half of the flags names a buffer (`IORING_CQE_F_BUFFER`).
const BUFFER: u32 = 1;

const OP_ACCEPT: u8 = 13;
const OP_ASYNC_CANCEL: u8 = 14;
const OP_CONNECT: u8 = 16;
const OP_CLOSE: u8 = 19;
const OP_READ: u8 = 22;
const OP_SEND: u8 = 26;
const OP_RECV: u8 = 27;
const BUFFER_SELECT: u8 = 1 << 5;
const RECV_MULTISHOT: u16 = 1 << 1;
const ACCEPT_MULTISHOT: u16 = 1;
const CANCEL_FD: u32 = 1 << 1;

/// `struct io_uring_sqe`, as far as the ring uses it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buf_group: u16,
    rest: [u16; 11],
}

/// `struct io_uring_cqe`.
#[repr(C)]
struct Cqe {
    user_data: u64,
    res: i32,
    flags: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Asked {
    ReceivePieces { fd: RawFd, group: usize, many: bool },
    Receive { fd: RawFd, memory: u64, len: usize },
    Send { fd: RawFd, memory: u64, len: usize },
    Connect { fd: RawFd, address: SockAddr },
    Accept { fd: RawFd, many: bool },
    Event { fd: RawFd, memory: u64 },
    Cancel { user_data: u64 },
    CancelAll { fd: RawFd },
    Close { fd: RawFd },
}

impl Asked {
    pub(super) fn fd(&self) -> Option<RawFd> {
        match self {
            Asked::ReceivePieces { fd, .. }
            | Asked::Receive { fd, .. }
            | Asked::Send { fd, .. }
            | Asked::Connect { fd, .. }
            | Asked::Accept { fd, .. }
            | Asked::Event { fd, .. } => Some(*fd),
            Asked::Cancel { .. } | Asked::CancelAll { .. } | Asked::Close { .. } => None,
        }
    }
}

pub(super) struct Submission {
    pub(super) user_data: u64,
    pub(super) asked: Asked,
}

impl Submission {
    pub(super) fn of(entry: &squeue::Entry) -> Submission {
        const { assert!(size_of::<squeue::Entry>() == size_of::<Sqe>()) };
        // SAFETY: an entry is the kernel's 64 bytes, and `Sqe` is them too, of integers alone.
        let sqe: Sqe = unsafe { std::mem::transmute_copy(entry) };
        let (fd, memory, len) = (sqe.fd, sqe.addr, sqe.len as usize);
        let asked = match sqe.opcode {
            OP_RECV if sqe.flags & BUFFER_SELECT != 0 => Asked::ReceivePieces {
                fd,
                group: usize::from(sqe.buf_group),
                many: sqe.ioprio & RECV_MULTISHOT != 0,
            },
            OP_RECV => Asked::Receive { fd, memory, len },
            OP_SEND => Asked::Send { fd, memory, len },
            OP_CONNECT => Asked::Connect { fd, address: address_at(memory, sqe.off) },
            OP_ACCEPT => Asked::Accept { fd, many: sqe.ioprio & ACCEPT_MULTISHOT != 0 },
            OP_READ => Asked::Event { fd, memory },
            OP_ASYNC_CANCEL if sqe.op_flags & CANCEL_FD != 0 => Asked::CancelAll { fd },
            OP_ASYNC_CANCEL => Asked::Cancel { user_data: memory },
            OP_CLOSE => Asked::Close { fd },
            other => panic!("the ring has never asked for {other}"),
        };
        Submission { user_data: sqe.user_data, asked }
    }
}

fn address_at(memory: u64, len: u64) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    assert!(len as usize <= size_of_val(&storage));
    // SAFETY: the ring keeps `len` bytes of an address there until the connect has completed, and
    // they fit.
    unsafe {
        let to = (&raw mut storage).cast::<u8>();
        std::ptr::copy_nonoverlapping(memory as *const u8, to, len as usize);
        SockAddr::new(storage, len as libc::socklen_t)
    }
}

pub(super) fn completion(user_data: u64, res: i32, flags: u32) -> cqueue::Entry {
    const { assert!(size_of::<cqueue::Entry>() == size_of::<Cqe>()) };
    // SAFETY: an entry is the kernel's 16 bytes, and `Cqe` is them too, of integers alone.
    unsafe { std::mem::transmute(Cqe { user_data, res, flags }) }
}

/// Writes to memory that was lent to an operation; what it completes with.
///
/// # Safety
/// `memory` is that of at least `bytes.len()` bytes, lent until the operation completes.
pub(super) unsafe fn write(memory: u64, bytes: &[u8]) -> i32 {
    // SAFETY: as the caller promises.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory as *mut u8, bytes.len()) };
    bytes.len() as i32
}

/// What is left to send of memory that was lent to an operation.
///
/// # Safety
/// `memory` is that of `len` bytes, lent until the operation completes, and `from <= len`.
pub(super) unsafe fn read<'m>(memory: u64, len: usize, from: usize) -> &'m [u8] {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts((memory as *const u8).add(from), len - from) }
}

/// What an eventfd has counted; `None`: nothing.
pub(super) fn read_event(fd: RawFd) -> Option<u64> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut count = 0u64;
    // SAFETY: one pollfd and eight bytes that live until the calls return.
    unsafe {
        if libc::poll(&raw mut poll, 1, 0) <= 0 {
            return None;
        }
        (libc::read(fd, (&raw mut count).cast(), 8) == 8).then_some(count)
    }
}

/// A ring of provided buffers, as the kernel consumes it.
pub(super) struct Posted {
    address: u64,
    entries: u16,
    head: u16,
}

/// A buffer that was taken from it.
pub(super) struct Buffer {
    memory: u64,
    id: u16,
}

impl Posted {
    /// Of each buffer.
    pub(super) const BYTES: usize = PIECE_BYTES;

    pub(super) fn new(address: u64, entries: u16) -> Posted {
        Posted { address, entries, head: 0 }
    }

    /// Buffers that can be taken.
    pub(super) fn len(&self) -> u16 {
        /// It lies in the padding of the first entry.
        const TAIL_AT: u64 = 14;
        // SAFETY: the group keeps its entries at `address` for as long as the ring exists, and
        // writes the tail as an atomic of this size.
        let tail = unsafe { &*((self.address + TAIL_AT) as *const AtomicU16) };
        tail.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    pub(super) fn take(&mut self) -> Option<Buffer> {
        /// `struct io_uring_buf`.
        const ENTRY_BYTES: u64 = 16;
        if self.len() == 0 {
            return None;
        }
        let at = u64::from(self.head & (self.entries - 1)) * ENTRY_BYTES;
        self.head = self.head.wrapping_add(1);
        // SAFETY: as above; the entry was published with the tail.
        unsafe {
            let entry = (self.address + at) as *const u8;
            let memory = entry.cast::<u64>().read_unaligned();
            let len = entry.add(8).cast::<u32>().read_unaligned();
            let id = entry.add(12).cast::<u16>().read_unaligned();
            assert_eq!(len as usize, Posted::BYTES);
            Some(Buffer { memory, id })
        }
    }
}

impl Buffer {
    /// What a completion says of it.
    pub(super) fn flags(&self) -> u32 {
        u32::from(self.id) << 16 | BUFFER
    }

    pub(super) fn fill(&self, bytes: &[u8]) -> i32 {
        assert!(bytes.len() <= Posted::BYTES);
        // SAFETY: a posted buffer is the kernel's until it completes a receive with it.
        unsafe { write(self.memory, bytes) }
    }
}
