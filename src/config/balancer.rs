//! `balancer` of a service.

use std::time::Duration;

use super::errors::Path;
use super::leaves::{Check, MAX_MS};
use super::of_kind::OfKind;
use super::raw;
use super::{Balancer, HashBy};

const EWMA_DECAY_MS: u64 = 10_000;
/// The rest of the aperture's are Finagle's.
const APERTURE_DECAY_MS: u64 = 5_000;
const LOW_LOAD_PERCENT: u64 = 50;
const HIGH_LOAD_PERCENT: u64 = 200;
const MIN_ENDPOINTS: u64 = 1;
/// As in the paper's example and HAProxy's documentation.
const MAX_LOAD_PERCENT: u64 = 125;

const HASH_BY: &str = "source, header:NAME or cookie:NAME, with a name of letters, digits, - and _";

pub(super) fn balancer(raw: &raw::Balancer, at: &Path, check: &mut Check) -> Balancer {
    const EWMA: &str = "ewma";
    const APERTURE: &str = "aperture";
    const HASH: &str = "consistent_hash";
    let kinds = [EWMA, "least_loaded", "round_robin", APERTURE, HASH].map(|kind| (kind, kind));
    let kind = check.word(&at.key("kind"), &raw.kind, EWMA, &kinds);
    let of = OfKind { at, key: "kind", kind };
    let decay_ms = if kind == APERTURE { APERTURE_DECAY_MS } else { EWMA_DECAY_MS };
    let decay =
        of.number(check, &[EWMA, APERTURE], ("decay_ms", &raw.decay_ms), decay_ms, 1..=MAX_MS);
    let decay = Duration::from_millis(decay);
    let mut percent = |name, leaf, kinds: &[&str], default, range| {
        of.number(check, kinds, (name, leaf), default, range) as u32
    };
    let low = ("low_load_percent", &raw.low_load_percent);
    let low_percent = percent(low.0, low.1, &[APERTURE], LOW_LOAD_PERCENT, 1..=100_000);
    let high = ("high_load_percent", &raw.high_load_percent);
    let high_percent = percent(high.0, high.1, &[APERTURE], HIGH_LOAD_PERCENT, 1..=100_000);
    let least = ("min_endpoints", &raw.min_endpoints);
    let min_endpoints = percent(least.0, least.1, &[APERTURE], MIN_ENDPOINTS, 1..=100_000);
    let most = ("max_load_percent", &raw.max_load_percent);
    let max_load_percent = percent(most.0, most.1, &[HASH], MAX_LOAD_PERCENT, 101..=1_000);
    if kind == APERTURE && 2 * low_percent > high_percent {
        // Or it would widen and narrow in turn: one endpoint more of two halves the load of each.
        let wrong = format!("{low_percent} is more than half of high_load_percent, {high_percent}");
        check.report.value(&at.key(low.0), wrong, "at most half of high_load_percent");
    }
    let has_key = of.has(check, &[HASH], ("hash_by", &raw.hash_by));
    match kind {
        APERTURE => Balancer::Aperture { decay, low_percent, high_percent, min_endpoints },
        HASH if has_key => {
            Balancer::ConsistentHash { by: hash_by(raw, at, check), max_load_percent }
        }
        "least_loaded" => Balancer::LeastLoaded,
        "round_robin" => Balancer::RoundRobin,
        _ => Balancer::Ewma { decay },
    }
}

fn hash_by(raw: &raw::Balancer, at: &Path, check: &mut Check) -> HashBy {
    let at = at.key("hash_by");
    if raw.hash_by.is_none() {
        check.missing(&at, HASH_BY);
    }
    let Some(text) = check.text(&at, &raw.hash_by, HASH_BY) else {
        return HashBy::Source;
    };
    let is_name = |name: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !name.is_empty() && name.bytes().all(plain)
    };
    if text == "source" {
        return HashBy::Source;
    }
    if let Some(name) = text.strip_prefix("header:").filter(is_name) {
        return HashBy::Header(name.to_ascii_lowercase());
    }
    if let Some(name) = text.strip_prefix("cookie:").filter(is_name) {
        return HashBy::Cookie(name.to_owned());
    }
    check.report.value(&at, format!("nothing to hash by ({text:?})"), HASH_BY);
    HashBy::Source
}
