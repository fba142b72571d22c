//! Aperture: no more endpoints than the load needs, after Finagle's `ApertureLeastLoaded`.
//!
//! A process with little to send does better with a few warm connections than with many cold ones.
//! So only the first `width` endpoints of an order are used, and of these the less loaded of two.
//! The width follows the load of the whole process: the attempts under way, as a moving average,
//! per endpoint in the aperture are held within a band. Above it the aperture is widened, and below
//! it narrowed, by as much as brings the load back to the band's edge; Finagle does it one endpoint
//! at a time, but looks with every request, and not ten times a second.
//!
//! The order is by a hash of an endpoint's key and the process's seed: the same on every shard of a
//! process, whatever the slots, and another in another process, so that a fleet uses all endpoints.
//! Those that may not be picked are passed over, and the next in the order take their places.

use std::time::Duration;

use super::alias::AliasTable;
use super::endpoints::Endpoints;
use crate::policy::Rng;

/// How wide an aperture is, and how often that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    pub endpoints: usize,
    pub widenings: u64,
    pub narrowings: u64,
}

/// The band, and how fast it is followed.
#[derive(Debug)]
pub(super) struct Band {
    pub(super) decay: Duration,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) min: usize,
}

#[derive(Debug)]
pub(super) struct Aperture {
    band: Band,
    seed: u64,
    /// Endpoints in service, in order, as of this generation.
    order: Vec<u32>,
    generation: u64,
    /// Of these, the eligible.
    eligible: Vec<u32>,
    /// Of these, the first: what is drawn from.
    table: AliasTable,
    /// What the load asks for; there may be fewer that are eligible.
    wanted: usize,
    /// The moving average of the attempts under way in the process, and when it was taken.
    load: Option<(f64, Duration)>,
    widenings: u64,
    narrowings: u64,
}

impl Aperture {
    pub(super) fn new(band: Band, seed: u64) -> Aperture {
        let band = Band { min: band.min.max(1), ..band };
        Aperture {
            wanted: band.min,
            band,
            seed,
            order: Vec::new(),
            generation: 0,
            eligible: Vec::new(),
            table: AliasTable::default(),
            load: None,
            widenings: 0,
            narrowings: 0,
        }
    }

    pub(super) fn pick(
        &self,
        endpoints: &Endpoints,
        rng: &mut Rng,
        avoid: Option<usize>,
    ) -> Option<usize> {
        let load = |slot: usize| {
            let it = endpoints.get(slot);
            it.load() as f64 / it.share
        };
        let within = self.table.lesser_of_two(rng, avoid, load);
        // An aperture of one that is to be avoided: the next in the order stands in for it.
        within.or_else(|| self.eligible.get(self.open()).map(|&slot| slot as usize))
    }

    pub(super) fn width(&self) -> Width {
        Width { endpoints: self.open(), widenings: self.widenings, narrowings: self.narrowings }
    }

    fn open(&self) -> usize {
        self.wanted.min(self.eligible.len())
    }

    /// Takes in who is eligible now, and with what weight.
    pub(super) fn rebuild(&mut self, endpoints: &Endpoints) {
        if self.generation != endpoints.generation() {
            self.generation = endpoints.generation();
            let place = |&slot: &u32| {
                let key = endpoints.get(slot as usize).key;
                (Rng::new(Rng::new(self.seed).next_u64() ^ key).next_u64(), slot)
            };
            let in_service = |&slot: &u32| endpoints.get(slot as usize).is_in_service();
            self.order = (0..endpoints.all().len() as u32).filter(in_service).collect();
            self.order.sort_by_cached_key(place);
        }
        let eligible = |&slot: &u32| endpoints.get(slot as usize).eligible;
        self.eligible = self.order.iter().copied().filter(eligible).collect();
        self.draw_from_open(endpoints);
    }

    fn draw_from_open(&mut self, endpoints: &Endpoints) {
        self.table = AliasTable::new(endpoints.weighted(&self.eligible[..self.open()]));
    }

    /// Follows the load.
    pub(super) fn adapt(&mut self, now: Duration, endpoints: &Endpoints) {
        let sample = endpoints.load() as f64;
        let load = self.load.map_or(sample, |(load, at)| {
            let elapsed = now.saturating_sub(at).as_nanos() as f64;
            // A window of 0 keeps nothing; 1 ns stands for it.
            let keep = (-elapsed / (self.band.decay.as_nanos() as f64).max(1.0)).exp();
            load * keep + sample * (1.0 - keep)
        });
        self.load = Some((load, now));
        let Band { low, high, min, .. } = self.band;
        let open = self.open();
        let fewest = (load / high).ceil() as usize;
        let each = load / open.max(1) as f64;
        let wanted = if each > high {
            fewest
        } else if each < low {
            // Not below what the band's other edge asks for, should it be narrow.
            ((load / low) as usize).max(fewest)
        } else {
            return;
        };
        self.wanted = wanted.min(self.eligible.len()).max(min);
        let after = self.open();
        self.widenings += u64::from(after > open);
        self.narrowings += u64::from(after < open);
        if after != open {
            self.draw_from_open(endpoints);
        }
    }

    /// O(n). Called when nothing changed since `rebuild`.
    pub(super) fn check_invariants(&self, endpoints: &Endpoints) {
        let mut eligible = self.eligible.clone();
        eligible.sort_unstable();
        assert_eq!(eligible, endpoints.eligible());
        assert!(self.wanted >= self.band.min);
    }
}
