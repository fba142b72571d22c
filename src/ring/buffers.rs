//! Provided buffers: a group of small buffers that the kernel fills for whichever socket has data.
//!
//! A receive names a group, not a buffer, so a connection on which nothing arrives holds none.
//! What was received is chained per socket by buffer id; a task takes each piece, copies or sends
//! what it needs, and drops it before it waits again. That is the rule which keeps one stalled
//! peer from taking the buffers of all the others, and it is why a piece borrows from no task.
//!
//! Only part of a group is posted at first, and the most recently used buffers are posted again
//! first, so that few and warm pages are touched; the part doubles each time it runs out.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::kernel::Kernel;

/// Size of a buffer: a request or answer head with a small body fits (measured: 8 KiB was no
/// better, and holds twice the memory).
pub const PIECE_BYTES: usize = 4096;
/// How many buffers are posted before the first exhaustion.
const POSTED_AT_START: u16 = 512;
/// No buffer: the end of a chain.
const NO_BUFFER: u16 = u16::MAX;
/// In place of a length: the buffer is not in use.
const FREE: u16 = u16::MAX;

/// Pages that belong to us alone, zeroed, and given back on drop.
pub(super) struct Pages {
    start: *mut u8,
    bytes: usize,
    leaked: bool,
}

impl Pages {
    pub(super) fn new(bytes: usize) -> io::Result<Pages> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping where the kernel likes touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages { start: start.cast(), bytes, leaked: false })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: `start` and `bytes` are those of a mapping that nobody else unmaps.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// Buffers received on one socket and not yet taken, in order: the ends of a chain of ids.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    head: u16,
    tail: u16,
}

impl Chain {
    pub(super) const EMPTY: Chain = Chain { head: NO_BUFFER, tail: NO_BUFFER };

    pub(super) fn is_empty(self) -> bool {
        self.head == NO_BUFFER
    }
}

pub(super) struct Group {
    entries: u16,
    /// Shared with the kernel: the ring of posted buffers.
    ring: Pages,
    tail: u16,
    /// Posted and not come back.
    outstanding: u16,
    target: u16,
    /// Not posted; last in, first out.
    free: Vec<u16>,
    memory: Pages,
    /// By buffer id: how much was received into it, and the next one of its chain.
    lens: Vec<u16>,
    next: Vec<u16>,
    pub(super) exhausted: u64,
}

impl Group {
    /// `entries` is rounded up to a power of two, as the kernel wants it.
    pub(super) fn new(kernel: &mut Kernel, id: u16, entries: u16) -> io::Result<Group> {
        let entries = entries.clamp(16, 1 << 15).next_power_of_two();
        let count = usize::from(entries);
        let mut group = Group {
            entries,
            ring: Pages::new(count * std::mem::size_of::<BufRingEntry>())?,
            tail: 0,
            outstanding: 0,
            target: POSTED_AT_START.min(entries),
            free: (0..entries).rev().collect(),
            memory: Pages::new(count * PIECE_BYTES)?,
            lens: vec![FREE; count],
            next: vec![NO_BUFFER; count],
            exhausted: 0,
        };
        let address = group.ring.start as u64;
        // SAFETY: `ring` holds `entries` entries, and `Core` drops the kernel's side before it.
        unsafe { kernel.register_buffers(address, entries, id)? };
        group.refill();
        Ok(group)
    }

    pub(super) fn in_use(&self) -> usize {
        usize::from(self.entries) - self.free.len() - usize::from(self.outstanding)
    }

    /// The kernel may write to its memory for ever: it is never given back.
    pub(super) fn leak(&mut self) {
        self.ring.leaked = true;
        self.memory.leaked = true;
    }

    /// Buffers that receives can still find.
    pub(super) fn posted(&self) -> u16 {
        self.outstanding
    }

    /// A receive found no buffer: more are posted from now on.
    pub(super) fn ran_out(&mut self) {
        self.exhausted += 1;
        self.target = self.target.saturating_mul(2).min(self.entries);
        self.refill();
    }

    /// Posts free buffers up to the target.
    pub(super) fn refill(&mut self) {
        if self.outstanding >= self.target {
            return;
        }
        while self.outstanding < self.target {
            let Some(id) = self.free.pop() else { break };
            self.post(id);
        }
        let ring = self.ring.start.cast::<BufRingEntry>();
        // SAFETY: the ring lives as long as `self.ring`; the kernel reads its tail with acquire.
        unsafe {
            (*BufRingEntry::tail(ring).cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }

    fn post(&mut self, id: u16) {
        let ring = self.ring.start.cast::<BufRingEntry>();
        let slot = usize::from(self.tail & (self.entries - 1));
        // SAFETY: `slot` is below `entries`; no more than `entries` buffers exist, so the kernel
        // has consumed what stood here. The address is inside `memory`, which outlives the ring.
        unsafe {
            let entry = &mut *ring.add(slot);
            entry.set_addr(self.memory.start.add(usize::from(id) * PIECE_BYTES) as u64);
            entry.set_len(PIECE_BYTES as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        self.outstanding += 1;
    }

    /// The kernel filled buffer `id`: it joins the end of `chain`.
    pub(super) fn received(&mut self, chain: &mut Chain, id: u16, len: usize) {
        self.taken_by_kernel();
        self.lens[usize::from(id)] = len as u16;
        self.next[usize::from(id)] = NO_BUFFER;
        match chain.tail {
            NO_BUFFER => chain.head = id,
            tail => self.next[usize::from(tail)] = id,
        }
        chain.tail = id;
    }

    /// The kernel took a buffer and nobody wants what is in it.
    pub(super) fn discard(&mut self, id: u16) {
        self.taken_by_kernel();
        self.lens[usize::from(id)] = 0;
        self.give_back(id);
    }

    fn taken_by_kernel(&mut self) {
        debug_assert!(self.outstanding > 0);
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Takes the first buffer of a chain: its id, where it lies and how much is in it.
    pub(super) fn take(&mut self, chain: &mut Chain) -> Option<(u16, *mut u8, usize)> {
        let id = chain.head;
        if id == NO_BUFFER {
            return None;
        }
        chain.head = self.next[usize::from(id)];
        if chain.head == NO_BUFFER {
            chain.tail = NO_BUFFER;
        }
        // SAFETY: `id` is below `entries`, so the address is inside `memory`.
        let start = unsafe { self.memory.start.add(usize::from(id) * PIECE_BYTES) };
        Some((id, start, usize::from(self.lens[usize::from(id)])))
    }

    pub(super) fn give_back(&mut self, id: u16) {
        debug_assert_ne!(self.lens[usize::from(id)], FREE, "given back twice");
        self.lens[usize::from(id)] = FREE;
        self.free.push(id);
    }

    pub(super) fn discard_chain(&mut self, chain: &mut Chain) {
        while let Some((id, ..)) = self.take(chain) {
            self.give_back(id);
        }
    }
}
