//! `runtime`: which cores run shards, what each shard may use, how the process ends.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::errors::Path;
use super::leaves::Check;
use super::raw::{self, Leaf};
use super::{Runtime, ShardSettings, cores, users};

const DRAIN_MS: u64 = 30_000;
const DRAIN_GRACE_MS: u64 = 0;

/// The numbers of one shard, in the order of `KEYS`.
type Numbers = [u64; 5];

struct Key {
    name: &'static str,
    default: u64,
    range: RangeInclusive<u64>,
    power_of_two: bool,
}

/// `runtime.shard` and the keys of `runtime.per_core` but `cores`.
static KEYS: [Key; 5] = [
    Key { name: "max_connections", default: 50_000, range: 1..=10_000_000, power_of_two: false },
    // The kernel's IORING_MAX_ENTRIES.
    Key { name: "ring_entries", default: 4_096, range: 16..=32_768, power_of_two: true },
    // The kernel's limit for a ring of provided buffers.
    Key { name: "head_buffers", default: 4_096, range: 16..=32_768, power_of_two: true },
    Key {
        name: "max_buffered_bytes",
        default: 64 << 20,
        range: 1 << 20..=1 << 40,
        power_of_two: false,
    },
    Key { name: "spin_us", default: 0, range: 0..=1_000_000, power_of_two: false },
];

pub(super) fn runtime(raw: &raw::Runtime, at: &Path, check: &mut Check) -> Runtime {
    let cores = shard_cores(&raw.cores, &at.key("cores"), check);
    let defaults = std::array::from_fn(|i| KEYS[i].default);
    let shard = numbers(raw.shard.0.leaves(), defaults, &at.key("shard"), check);
    let overrides = overrides(raw, &cores, &at.key("per_core"), check);
    let shards = cores.iter().map(|&core| settings(core, shard, &overrides)).collect();
    let control_cores = match raw.control_cores.as_ref().and_then(|value| value.as_str()) {
        Some("any") => Vec::new(),
        _ => {
            let at = at.key("control_cores");
            check.cores(&at, &raw.control_cores, "any, or ").unwrap_or_default()
        }
    };
    let drain_ms = &at.key("drain_ms");
    let grace_ms = &at.key("drain_grace_ms");
    Runtime {
        user: users::user(&raw.user, &at.key("user"), check),
        shards,
        control_cores,
        drain: check.millis_or_zero(drain_ms, &raw.drain_ms, DRAIN_MS),
        drain_grace: check.millis_or_zero(grace_ms, &raw.drain_grace_ms, DRAIN_GRACE_MS),
    }
}

/// A number counts cores, from the first; text lists them. So `2` is two cores and `"2"` is core 2.
fn shard_cores(leaf: &Leaf, at: &Path, check: &mut Check) -> Vec<usize> {
    let all = check.host.cores().to_vec();
    match leaf {
        None => all,
        Some(value) if value.as_str() == Some("all") => all,
        Some(value) if value.is_number() => {
            let count = check.number(at, leaf, all.len() as u64, 1..=all.len() as u64);
            all[..count as usize].to_vec()
        }
        Some(_) => {
            let also = format!("all, a count from 1 to {}, or ", all.len());
            check.cores(at, leaf, &also).unwrap_or(all)
        }
    }
}

fn numbers(leaves: [&Leaf; 5], base: Numbers, at: &Path, check: &mut Check) -> Numbers {
    std::array::from_fn(|i| {
        let (key, at) = (&KEYS[i], at.key(KEYS[i].name));
        if key.power_of_two {
            check.power_of_two(&at, leaves[i], base[i], key.range.clone())
        } else {
            check.number(&at, leaves[i], base[i], key.range.clone())
        }
    })
}

/// What an entry of `per_core` says of one core: the numbers that it names.
struct Override {
    core: usize,
    number: usize,
    value: u64,
}

fn overrides(raw: &raw::Runtime, cores: &[usize], at: &Path, check: &mut Check) -> Vec<Override> {
    let mut overrides: Vec<Override> = Vec::new();
    for (i, entry) in raw.per_core.iter().flatten().enumerate() {
        let (entry, at) = (&entry.0, at.index(i));
        let own = numbers(entry.leaves(), std::array::from_fn(|i| KEYS[i].default), &at, check);
        for core in override_cores(entry, cores, &at.key("cores"), check) {
            for number in (0..KEYS.len()).filter(|i| entry.leaves()[*i].is_some()) {
                if overrides.iter().any(|other| (other.core, other.number) == (core, number)) {
                    let wrong = format!("core {core} has been given this number further up");
                    check.report.value(&at.key(KEYS[number].name), wrong, "once for each core");
                    continue;
                }
                overrides.push(Override { core, number, value: own[number] });
            }
        }
    }
    overrides
}

fn override_cores(
    entry: &raw::PerCore,
    cores: &[usize],
    at: &Path,
    check: &mut Check,
) -> Vec<usize> {
    let mut with_shards = cores.to_vec();
    with_shards.sort_unstable();
    with_shards.dedup();
    let allowed = format!("cores that run a shard ({})", cores::as_text(&with_shards));
    if entry.cores.is_none() {
        check.missing(at, allowed);
        return Vec::new();
    }
    let mut named = check.cores(at, &entry.cores, "").unwrap_or_default();
    named.sort_unstable();
    named.dedup();
    if let Some(core) = named.iter().find(|core| !with_shards.contains(core)) {
        check.report.value(at, format!("core {core} runs no shard"), allowed);
        named.clear();
    }
    named
}

fn settings(core: usize, mut numbers: Numbers, overrides: &[Override]) -> ShardSettings {
    for own in overrides.iter().filter(|own| own.core == core) {
        numbers[own.number] = own.value;
    }
    let [max_connections, ring_entries, head_buffers, max_buffered_bytes, spin_us] = numbers;
    ShardSettings {
        core,
        max_connections: max_connections as usize,
        ring_entries: ring_entries as u32,
        head_buffers: head_buffers as u16,
        max_buffered_bytes: max_buffered_bytes as usize,
        spin: Duration::from_micros(spin_us),
    }
}

impl raw::Shard {
    fn leaves(&self) -> [&Leaf; 5] {
        [
            &self.max_connections,
            &self.ring_entries,
            &self.head_buffers,
            &self.max_buffered_bytes,
            &self.spin_us,
        ]
    }
}

impl raw::PerCore {
    fn leaves(&self) -> [&Leaf; 5] {
        [
            &self.max_connections,
            &self.ring_entries,
            &self.head_buffers,
            &self.max_buffered_bytes,
            &self.spin_us,
        ]
    }
}
