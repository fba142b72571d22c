//! Whether a request may start, must wait or is refused, from counts alone.
//!
//! - At most `max_concurrent` run and at most `max_queue` wait; the rest is refused with 503 and
//!   `Retry-After`, since a queue without an end only makes everybody late.
//! - Nobody overtakes those who wait: while somebody does, a newcomer joins the queue although a
//!   place may just have become free. So whoever ends must hand its place to the first that waits.
//!
//! The counts are the process's (an atomic of the caller's), and the queue is the caller's too.

/// The bounds of one service or endpoint. A `max_concurrent` of 0 counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConcurrencyLimit {
    pub max_concurrent: u32,
    pub max_queue: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Admit,
    Wait,
    Refuse,
}

/// A client that is told to come back later than this may as well not be told.
const MAX_RETRY_AFTER_SECS: u32 = 60;

impl ConcurrencyLimit {
    /// For a newcomer, with what runs and waits without it.
    pub fn admit(&self, running: u32, waiting: u32) -> Admission {
        if waiting == 0 && self.has_room(running) {
            Admission::Admit
        } else if waiting < self.max_queue {
            Admission::Wait
        } else {
            Admission::Refuse
        }
    }

    /// Whether the first in the queue may start.
    pub fn has_room(&self, running: u32) -> bool {
        running < self.max_concurrent.max(1)
    }
}

/// For `Retry-After` (RFC 9110 section 10.2.3): how long a queue of this length takes at the rate
/// at which requests end, in whole seconds from 1 to 60. Where nothing ends, 60.
pub fn retry_after_secs(waiting: u32, ended_per_sec: f64) -> u32 {
    let secs = (f64::from(waiting) + 1.0) / ended_per_sec;
    if secs.is_finite() && secs > 0.0 {
        // A cast of more than `u32` holds ends at its maximum.
        (secs.ceil() as u32).clamp(1, MAX_RETRY_AFTER_SECS)
    } else {
        MAX_RETRY_AFTER_SECS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rng;
    use std::collections::VecDeque;

    #[test]
    fn places_then_queue_then_nothing() {
        use Admission::{Admit, Refuse, Wait};
        let limit = ConcurrencyLimit { max_concurrent: 2, max_queue: 1 };
        let found = [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (9, 0)];
        let found = found.map(|(running, waiting)| limit.admit(running, waiting));
        assert_eq!(found, [Admit, Admit, Wait, Refuse, Refuse, Wait]);
        let without_queue = ConcurrencyLimit { max_concurrent: 0, max_queue: 0 };
        assert_eq!([0, 1].map(|running| without_queue.admit(running, 0)), [Admit, Refuse]);
    }

    #[test]
    fn bounds_and_order_hold_in_any_history() {
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            let (max_concurrent, max_queue) = (1 + rng.below(4) as u32, rng.below(4) as u32);
            let limit = ConcurrencyLimit { max_concurrent, max_queue };
            let (mut running, mut queue, mut last_started) = (0, VecDeque::new(), 0);
            for number in 1..200 {
                if rng.below(2) == 0 {
                    match limit.admit(running, queue.len() as u32) {
                        Admission::Admit => {
                            running += 1;
                            assert!(number > last_started, "seed {seed}: nobody overtakes");
                            last_started = number;
                        }
                        Admission::Wait => queue.push_back(number),
                        Admission::Refuse => {
                            let full = (running, queue.len() as u32);
                            assert_eq!(full, (max_concurrent, max_queue), "seed {seed}");
                        }
                    }
                } else if running > 0 {
                    running -= 1;
                    if let Some(first) = queue.pop_front_if(|_| limit.has_room(running)) {
                        running += 1;
                        assert!(first > last_started, "seed {seed}: nobody overtakes");
                        last_started = first;
                    }
                }
                assert!(running <= max_concurrent && queue.len() <= max_queue as usize);
                assert!(queue.is_empty() || running == max_concurrent, "seed {seed}: stuck");
            }
        }
    }

    #[test]
    fn retry_after_is_from_1_to_60_seconds() {
        let table = [
            (0, 1_000.0, 1),
            (9, 10.0, 1),
            (10, 10.0, 2),
            (99, 10.0, 10),
            (1_000_000, 1.0, 60),
            (5, 0.0, 60),
            (5, -1.0, 60),
            (5, f64::NAN, 60),
        ];
        for (waiting, ended_per_sec, expected) in table {
            assert_eq!(retry_after_secs(waiting, ended_per_sec), expected, "{ended_per_sec}");
        }
    }
}
