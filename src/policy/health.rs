//! Whether an endpoint is well, by its checks.
//!
//! It is taken to be well until so many checks in a row have failed, as in HAProxy: a process that
//! starts, or an endpoint that is discovered, serves at once. It is well again after so many
//! successes in a row. What a check is, and when the next one is due, is the caller's.

/// How many results in a row change the verdict. 0 counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

/// Of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    is_healthy: bool,
    /// Results in a row that speak against the verdict.
    against: u32,
}

impl Default for Health {
    fn default() -> Health {
        Health { is_healthy: true, against: 0 }
    }
}

impl Health {
    pub fn is_healthy(&self) -> bool {
        self.is_healthy
    }

    /// Takes in a check's result; the verdict, where it is another than before.
    pub fn observe(&mut self, success: bool, thresholds: Thresholds) -> Option<bool> {
        if success == self.is_healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let enough = match self.is_healthy {
            true => thresholds.unhealthy_after,
            false => thresholds.healthy_after,
        };
        if self.against < enough.max(1) {
            return None;
        }
        *self = Health { is_healthy: success, against: 0 };
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rng;

    #[test]
    fn a_verdict_changes_after_so_many_in_a_row() {
        let thresholds = Thresholds { unhealthy_after: 3, healthy_after: 2 };
        let mut health = Health::default();
        let results = "..x.xx.xxxx.x.x..x";
        let changes: Vec<(usize, bool)> = results
            .bytes()
            .enumerate()
            .filter_map(|(at, it)| Some((at, health.observe(it == b'.', thresholds)?)))
            .collect();
        assert_eq!(changes, [(9, false), (16, true)]);
    }

    /// The plain model: looks back over all results.
    #[test]
    fn it_is_as_a_plain_model_says() {
        for seed in 0..2_000 {
            let mut rng = Rng::new(seed);
            let (unhealthy_after, healthy_after) = (rng.below(5) as u32, rng.below(5) as u32);
            let thresholds = Thresholds { unhealthy_after, healthy_after };
            let (mut health, mut results, mut since) = (Health::default(), Vec::new(), 0);
            for _ in 0..100 {
                let before = health.is_healthy();
                let success = rng.below(3) > 0;
                results.push(success);
                health.observe(success, thresholds);
                let enough = if before { unhealthy_after } else { healthy_after }.max(1) as usize;
                let against = results[since..].iter().rev().take_while(|it| **it != before);
                let changes = against.count() >= enough;
                assert_eq!(health.is_healthy() != before, changes, "seed {seed}");
                if changes {
                    since = results.len();
                }
            }
        }
    }
}
