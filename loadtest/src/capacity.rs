//! The highest rate that holds an objective, found by halving.
//!
//! What holds at one rate is taken to hold below it. A rate has failed when it failed each of its
//! tries, since a shared machine may spoil one. Pure: says which rate is next, is told what came of
//! it.

/// A search that goes on until its bounds are as close as was asked.
#[derive(Debug, Clone)]
pub struct Search {
    /// The highest rate that held; 0 holds always.
    held: f64,
    /// The lowest rate that failed. `None`: none yet.
    failed: Option<f64>,
    next: f64,
    /// Tries of `next` that failed so far.
    failures: u32,
    tries: u32,
    /// Of `failed`, how far `held` may be below it.
    precision: f64,
}

/// While nothing has failed.
const GROWTH: f64 = 1.5;
/// No rate below this share of the first is worth a try.
const LEAST: f64 = 1e-3;

impl Search {
    /// `first` is tried first; `precision` is between 0 and 1; `tries` is 1 or more.
    pub fn new(first: f64, precision: f64, tries: u32) -> Search {
        Search { held: 0.0, failed: None, next: first, failures: 0, tries, precision }
    }

    /// The rate to try. `None`: it is over.
    pub fn next(&self) -> Option<f64> {
        let Some(failed) = self.failed else { return Some(self.next) };
        let is_close = failed - self.held <= failed * self.precision;
        (!is_close).then_some(self.next)
    }

    /// Whether the rate that was tried held.
    pub fn told(&mut self, held: bool) {
        if !held {
            self.failures += 1;
            if self.failures < self.tries {
                return;
            }
        }
        let tried = self.next;
        self.failures = 0;
        match (held, self.failed) {
            (true, None) => {
                self.held = tried;
                self.next = tried * GROWTH;
            }
            (true, Some(failed)) => {
                self.held = tried;
                self.next = f64::midpoint(tried, failed);
            }
            (false, _) => {
                self.failed = Some(tried);
                self.next = f64::midpoint(self.held, tried);
            }
        }
    }

    /// Gives up below a share of the first rate: nothing holds.
    pub fn is_hopeless(&self, first: f64) -> bool {
        self.held == 0.0 && self.next < first * LEAST
    }

    /// The highest rate that held. `None`: none did.
    pub fn found(&self) -> Option<f64> {
        (self.held > 0.0).then_some(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where rates up to `limit` hold; how many were tried.
    fn search(first: f64, limit: f64) -> (Option<f64>, u32) {
        let mut search = Search::new(first, 0.02, 1);
        for tried in 0.. {
            assert!(tried < 60, "{search:?}");
            match search.next().filter(|_| !search.is_hopeless(first)) {
                Some(rate) => search.told(rate <= limit),
                None => return (search.found(), tried),
            }
        }
        unreachable!()
    }

    #[test]
    fn finds_the_limit_wherever_it_is() {
        for limit in [1_000.0, 999.0, 990.0, 500.0, 20.0, 1_001.0, 1_400.0, 50_000.0] {
            let (found, tried) = search(1_000.0, limit);
            let found = found.expect("a rate that holds");
            assert!(found <= limit && found >= limit * 0.979, "{found} for {limit}");
            assert!(tried < 20, "{tried} tries for {limit}");
        }
        assert_eq!(search(1_000.0, 0.0).0, None);
    }

    #[test]
    fn a_spoilt_try_is_tried_again() {
        let mut search = Search::new(100.0, 0.3, 2);
        search.told(false);
        assert_eq!(search.next(), Some(100.0));
        search.told(true);
        assert_eq!(search.next(), Some(150.0));
        search.told(false);
        search.told(false);
        assert_eq!(search.next(), Some(125.0));
        search.told(true);
        assert_eq!((search.next(), search.found()), (None, Some(125.0)));
    }
}
