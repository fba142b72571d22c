//! Who is to be woken when, to the microsecond: many moments over the ring's one alarm.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use ringlane::ring::Ring;

/// A moment by `Ring::elapsed`, and a number that tells those of one moment apart.
type Moment = (Duration, u64);

pub(super) struct Alarms {
    ring: Ring,
    /// The task that calls `fire` each time it is woken.
    task: Waker,
    due: RefCell<BTreeMap<Moment, Waker>>,
    next: Cell<u64>,
}

/// Who waits; forgotten when dropped.
pub(super) struct Due {
    moment: Moment,
    alarms: Rc<Alarms>,
}

impl Alarms {
    pub(super) fn new(ring: &Ring, task: Waker) -> Rc<Alarms> {
        let (due, next) = (RefCell::default(), Cell::new(0));
        Rc::new(Alarms { ring: ring.clone(), task, due, next })
    }

    /// Wakes a task at a moment, once, or never if what is returned is dropped before.
    pub(super) fn set(self: &Rc<Self>, at: Duration, waker: Waker) -> Due {
        let moment = (at, self.next.replace(self.next.get() + 1));
        let mut due = self.due.borrow_mut();
        let is_first = due.first_key_value().is_none_or(|(first, _)| moment < *first);
        due.insert(moment, waker);
        if is_first {
            self.ring.set_alarm(at, self.task.clone());
        }
        drop(due);
        Due { moment, alarms: self.clone() }
    }

    /// Wakes whose moment has come, and sets the ring's alarm to the next.
    pub(super) fn fire(&self) {
        let mut due = self.due.borrow_mut();
        if due.is_empty() {
            return;
        }
        let now = self.ring.elapsed();
        while let Some(first) = due.first_entry() {
            let at = first.key().0;
            if at > now {
                self.ring.set_alarm(at, self.task.clone());
                return;
            }
            self.ring.wake(&first.remove());
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.alarms.due.borrow_mut().remove(&self.moment);
    }
}
