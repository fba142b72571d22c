//! Weighted round robin by earliest deadline first, as Envoy's `EdfScheduler` has it.
//!
//! Each endpoint has a turn every `1 / weight` of a virtual time, and the turn that is due first is
//! next. The shares are exact whatever the weights: in any stretch of one unit of that time an
//! endpoint has as many turns as it weighs. A pick is a replacement at the top of a heap, O(log n).
//! Where all weights are equal the order repeats, so it is a list and a place in it.
//!
//! What makes it smooth is where in its interval an endpoint begins. Were it the same place for
//! all, with weights 100 and a hundred times 1, the hundred would follow each other, and then the
//! one a hundred times. So whoever joins, the lightest first, begins further on by the golden ratio
//! of its interval than the one before, which spreads any number of them evenly. The first place is
//! random, so that shards do not march in step.
//!
//! Invariants: every eligible endpoint has one turn, once the first pick has been made. Those that
//! stay keep their turns when others come and go.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::endpoints::Endpoints;
use crate::policy::Rng;

/// The golden ratio's fraction, in 2^-64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// After so much virtual time deadlines are counted from zero again: floating point, they would
/// grow coarse. It costs O(n), and n picks or more have been made in each unit.
const REBASE_AFTER: f64 = 64.0;

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    order: Order,
    /// Where the next to join begins, in 2^-64 of its interval; none before the first pick.
    phase: Option<u64>,
}

#[derive(Debug)]
enum Order {
    /// All weigh the same: slots, and whose turn is next.
    Cycle { slots: Vec<u32>, next: usize },
    /// Turns, and the deadline of the one that was taken last.
    Deadlines { turns: BinaryHeap<Turn>, clock: f64 },
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    deadline: f64,
    slot: u32,
}

impl RoundRobin {
    /// Whose turn it is. One to avoid lets the next go first and keeps its own turn.
    pub(super) fn next(
        &mut self,
        endpoints: &Endpoints,
        rng: &mut Rng,
        avoid: Option<usize>,
    ) -> Option<usize> {
        if self.phase.is_none() {
            self.phase = Some(rng.next_u64());
            self.rebuild(endpoints);
        }
        match &mut self.order {
            Order::Cycle { slots, next } => {
                let at = *next;
                let after = if at + 1 < slots.len() { at + 1 } else { 0 };
                if Some(*slots.get(at)? as usize) == avoid {
                    slots.swap(at, after);
                }
                *next = after;
                Some(slots[at] as usize)
            }
            Order::Deadlines { turns, clock } => {
                let top = turns.peek()?.slot as usize;
                let mut held = if Some(top) == avoid { turns.pop() } else { None };
                let picked = turns.peek_mut().map(|turn| take(turn, endpoints, clock, &mut held));
                turns.extend(held);
                if *clock > REBASE_AFTER {
                    let mut all = std::mem::take(turns).into_vec();
                    all.iter_mut().for_each(|turn| turn.deadline -= *clock);
                    *turns = all.into();
                    *clock = 0.0;
                }
                picked.or(avoid)
            }
        }
    }

    /// Takes in who is eligible now, and with what weight.
    pub(super) fn rebuild(&mut self, endpoints: &Endpoints) {
        let Some(phase) = &mut self.phase else {
            return;
        };
        let mut turns = std::mem::take(&mut self.order).into_turns(endpoints);
        let mut has_turn = vec![false; endpoints.all().len()];
        turns.iter().for_each(|turn| has_turn[turn.slot as usize] = true);
        let weight = |slot: u32| endpoints.get(slot as usize).effective;
        let eligible = endpoints.eligible().iter().copied();
        let mut joined: Vec<u32> = eligible.filter(|&slot| !has_turn[slot as usize]).collect();
        joined.sort_by(|&a, &b| weight(a).total_cmp(&weight(b)));
        for slot in joined {
            let fraction = *phase as f64 / u64::MAX as f64;
            *phase = phase.wrapping_add(GOLDEN);
            turns.push(Turn { deadline: fraction / weight(slot), slot });
        }
        let mut weights = endpoints.eligible().iter().map(|&slot| weight(slot));
        let first = weights.next();
        self.order = if weights.all(|weight| Some(weight) == first) {
            turns.sort_unstable_by(|a, b| b.cmp(a));
            Order::Cycle { slots: turns.iter().map(|turn| turn.slot).collect(), next: 0 }
        } else {
            Order::Deadlines { turns: turns.into(), clock: 0.0 }
        };
    }

    /// O(n). Called when nothing changed since `rebuild`.
    pub(super) fn check_invariants(&self, endpoints: &Endpoints) {
        if self.phase.is_none() {
            return;
        }
        let mut slots: Vec<u32> = match &self.order {
            Order::Cycle { slots, next } => {
                assert!(*next < slots.len().max(1));
                slots.clone()
            }
            Order::Deadlines { turns, .. } => turns.iter().map(|turn| turn.slot).collect(),
        };
        slots.sort_unstable();
        assert_eq!(slots, endpoints.eligible());
    }
}

/// Takes a turn and sets down the next. Where another's was due before and is held back, time does
/// not go on, so that it loses nothing; unless this one has gone ahead of its turn before: whoever
/// is avoided for long must not have all its turns at once in the end.
fn take(
    mut turn: PeekMut<'_, Turn>,
    endpoints: &Endpoints,
    clock: &mut f64,
    held: &mut Option<Turn>,
) -> usize {
    let slot = turn.slot as usize;
    let interval = 1.0 / endpoints.get(slot).effective;
    *clock = turn.deadline;
    if let Some(held) = held {
        held.deadline = held.deadline.max(turn.deadline - interval);
        *clock = held.deadline;
    }
    turn.deadline += interval;
    slot
}

impl Order {
    /// The turns of those that are still eligible, with the clock at 0.
    fn into_turns(self, endpoints: &Endpoints) -> Vec<Turn> {
        let mut turns = match self {
            Order::Cycle { mut slots, next } => {
                slots.rotate_left(next);
                let count = slots.len() as f64;
                let turn = |(at, slot): (u32, u32)| {
                    let interval = 1.0 / endpoints.get(slot as usize).effective;
                    Turn { deadline: interval * f64::from(at) / count, slot }
                };
                (0..).zip(slots).map(turn).collect()
            }
            Order::Deadlines { turns, clock } => {
                let mut turns = turns.into_vec();
                turns.iter_mut().for_each(|turn| turn.deadline -= clock);
                turns
            }
        };
        turns.retain(|turn| endpoints.get(turn.slot as usize).eligible);
        turns
    }
}

impl Default for Order {
    fn default() -> Order {
        Order::Cycle { slots: Vec::new(), next: 0 }
    }
}

/// The earliest is the greatest, since that is what a heap has on top.
impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.slot.cmp(&self.slot))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Turn) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}
