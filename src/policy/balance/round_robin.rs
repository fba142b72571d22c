//! Smooth weighted round robin, as in nginx: with weights 5, 1, 1 the order is a a b a c a a, not
//! a a a a a b c.
//!
//! Each turn every endpoint gains its weight, and the richest is picked and pays the total. It
//! costs O(n) per pick, which the other balancers do not; it is for a few endpoints.

/// How far ahead or behind its share each endpoint is.
#[derive(Debug)]
pub(super) struct SmoothRoundRobin {
    credit: Vec<i64>,
}

impl SmoothRoundRobin {
    pub(super) fn new(count: usize) -> SmoothRoundRobin {
        SmoothRoundRobin { credit: vec![0; count] }
    }

    /// The next of `eligible`. One to avoid takes no part in the turn, so its share is not lost to
    /// it for good, but given to the others for this turn.
    pub(super) fn next(
        &mut self,
        eligible: &[usize],
        weight: impl Fn(usize) -> u32,
        avoid: Option<usize>,
    ) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for &at in eligible.iter().filter(|&&at| Some(at) != avoid) {
            total += i64::from(weight(at));
            self.credit[at] += i64::from(weight(at));
            if best.is_none_or(|best| self.credit[at] > self.credit[best]) {
                best = Some(at);
            }
        }
        if let Some(best) = best {
            self.credit[best] -= total;
        }
        best
    }
}
