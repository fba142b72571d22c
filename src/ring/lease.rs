//! Large buffers for bodies, leased from a budget per shard.
//!
//! What a stream holds while it waits for a slow peer is its own and is counted: here. A lease is
//! large while the budget is wide, since draining a socket far at each visit is what makes a body
//! cheap, and small when it is tight, so that a thousand stalled streams leave room for the next.
//! When nothing is left, a stream goes on in pieces of the ring's: slower, but nobody waits for
//! somebody else's peer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Lease sizes, the smallest first. Measured on bodies of 1 MiB, as CPU per request: 512 KiB is .72
/// of 128 KiB, and 256 KiB .84; at 64 KiB there is no difference (1.02 +-.01).
const CLASS_BYTES: [usize; 4] = [4 << 10, 16 << 10, 128 << 10, 512 << 10];
/// How much of the budget may be used for a lease of each size still to be given, in eighths.
const CLASS_EIGHTHS: [usize; 4] = [8, 7, 4, 2];
/// Free buffers kept for reuse, per size: few and hot rather than many and cold.
const KEPT: usize = 16;

pub(super) struct Leases {
    budget_bytes: usize,
    used_bytes: Cell<usize>,
    kept: [RefCell<Vec<Box<[u8]>>>; CLASS_BYTES.len()],
}

impl Leases {
    pub(super) fn new(budget_bytes: usize) -> Rc<Leases> {
        Rc::new(Leases { budget_bytes, used_bytes: Cell::new(0), kept: Default::default() })
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    /// A buffer as large as the budget allows and no larger than `wanted_bytes` needs.
    pub(super) fn lease(self: &Rc<Leases>, wanted_bytes: usize) -> Option<Lease> {
        let used_bytes = self.used_bytes.get();
        let needed = CLASS_BYTES.iter().position(|bytes| wanted_bytes <= *bytes);
        let largest = needed.unwrap_or(CLASS_BYTES.len() - 1);
        let class = (0..=largest).rev().find(|class| {
            used_bytes + CLASS_BYTES[*class] <= self.budget_bytes / 8 * CLASS_EIGHTHS[*class]
        })?;
        let bytes = CLASS_BYTES[class];
        self.used_bytes.set(used_bytes + bytes);
        let memory = self.kept[class].borrow_mut().pop();
        let memory = memory.unwrap_or_else(|| vec![0; bytes].into_boxed_slice());
        Some(Lease { memory, leases: self.clone() })
    }

    /// Whether nothing more can be leased.
    pub(super) fn is_used_up(&self) -> bool {
        self.used_bytes.get() + CLASS_BYTES[0] > self.budget_bytes
    }

    /// Counts memory that is not leased from here, such as a partial head. Never refused: whoever
    /// charges has the bytes already, and asks `is_used_up` before it takes more.
    pub(super) fn charge(self: &Rc<Leases>) -> Charge {
        Charge { bytes: 0, leases: self.clone() }
    }
}

/// A buffer of the stream's own.
pub struct Lease {
    memory: Box<[u8]>,
    leases: Rc<Leases>,
}

impl std::ops::Deref for Lease {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let bytes = memory.len();
        if let Some(class) = CLASS_BYTES.iter().position(|class| *class == bytes) {
            let mut kept = self.leases.kept[class].borrow_mut();
            if kept.len() < KEPT {
                kept.push(memory);
            }
        }
        self.leases.used_bytes.set(self.leases.used_bytes.get() - bytes);
    }
}

/// Memory on a connection's account; given back on drop.
pub struct Charge {
    bytes: usize,
    leases: Rc<Leases>,
}

impl Charge {
    pub fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let used_bytes = &self.leases.used_bytes;
        used_bytes.set(used_bytes.get() + bytes - self.bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_shrink_as_the_budget_fills_and_never_exceed_it() {
        let leases = Leases::new(1 << 20);
        let mut held = Vec::new();
        while let Some(lease) = leases.lease(usize::MAX) {
            assert!(held.last().is_none_or(|last: &Lease| last.len() >= lease.len()));
            held.push(lease);
            assert!(leases.used_bytes() <= 1 << 20);
        }
        assert_eq!(held.first().map(|lease| lease.len()), Some(128 << 10));
        assert_eq!(held.last().map(|lease| lease.len()), Some(4 << 10));
        drop(held);
        assert_eq!(leases.used_bytes(), 0);
    }

    #[test]
    fn a_small_need_takes_a_small_buffer() {
        let leases = Leases::new(1 << 20);
        assert_eq!(leases.lease(100).map(|lease| lease.len()), Some(4 << 10));
        assert_eq!(leases.lease(5_000).map(|lease| lease.len()), Some(16 << 10));
    }

    #[test]
    fn charges_count_against_the_budget() {
        let leases = Leases::new(4 << 10);
        let mut charge = leases.charge();
        charge.set(10);
        assert!(leases.lease(1).is_none());
        charge.set(0);
        assert!(leases.lease(1).is_some());
    }
}
