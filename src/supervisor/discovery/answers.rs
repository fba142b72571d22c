//! What answers add up to: the endpoints of a name, and when to ask again.
//!
//! - A family (A or AAAA), and a target of an SRV record, for which no server has an answer keeps
//!   what it had, as long as others have addresses. What a server says is not there, is not there.
//! - Nothing at all is never an answer: whoever asked keeps what it had.
//!
//! Knows neither messages nor servers nor clocks.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{Address, Asking, Endpoint};

/// While something is wrong it is asked for again at least this often, so that what has come back
/// is not missed for long.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What one question brought.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer<T> {
    /// At least one. They hold for the shortest of their TTLs.
    Records { records: Vec<T>, ttl: Duration },
    /// There are none, and that is certain; with what was said.
    Nothing(String),
    /// No server could say.
    Failed(String),
}

/// What all questions of a round brought.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found<T> {
    pub(super) what: T,
    pub(super) ttl: Duration,
    /// What is missing, where something was kept from before or left out.
    pub(super) trouble: Option<String>,
}

/// Why a round brought nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Missing {
    /// There is nothing, and that is certain.
    Nothing(String),
    Failed(String),
}

impl Missing {
    pub(super) fn why(self) -> String {
        let (Missing::Nothing(why) | Missing::Failed(why)) = self;
        why
    }
}

/// The addresses of one name, by family.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Addresses {
    pub(super) v4: Vec<IpAddr>,
    pub(super) v6: Vec<IpAddr>,
}

impl Addresses {
    pub(super) fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.iter().chain(&self.v6).copied()
    }
}

/// Puts the answers for both families together. `before` is what the same name had last.
pub(super) fn addresses(
    a: Answer<IpAddr>,
    aaaa: Answer<IpAddr>,
    before: Option<&Addresses>,
) -> Result<Found<Addresses>, Missing> {
    use Answer::{Failed, Nothing, Records};
    let (v4, v6) = match (a, aaaa) {
        (Records { records: v4, ttl }, Records { records: v6, ttl: other }) => {
            let what = Addresses { v4, v6 };
            return Ok(Found { what, ttl: ttl.min(other), trouble: None });
        }
        (Nothing(why), Nothing(_)) => return Err(Missing::Nothing(why)),
        (Failed(why), Nothing(_) | Failed(_)) => return Err(Missing::Failed(why)),
        (Nothing(_), Failed(why)) => return Err(Missing::Failed(why)),
        (v4, v6) => (v4, v6),
    };
    let mut trouble = None;
    let mut shortest = Duration::MAX;
    let mut family = |answer, kind: &str, before: Option<&Vec<IpAddr>>| match answer {
        Records { records, ttl } => {
            shortest = shortest.min(ttl);
            records
        }
        Nothing(_) => Vec::new(),
        Failed(why) => {
            trouble = Some(format!("{kind}: {why}"));
            before.cloned().unwrap_or_default()
        }
    };
    let v4 = family(v4, "A", before.map(|it| &it.v4));
    let v6 = family(v6, "AAAA", before.map(|it| &it.v6));
    Ok(Found { what: Addresses { v4, v6 }, ttl: shortest, trouble })
}

/// Whether it makes sense to connect there. Some servers say 0.0.0.0 for what they hide, and to
/// Linux that is this machine.
pub(super) fn is_usable(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// Lower case.
    pub(super) name: String,
}

impl Target {
    /// A weight of 0 is the least there is.
    fn weight(&self) -> u32 {
        u32::from(self.weight).clamp(Endpoint::WEIGHT, Endpoint::WEIGHT_MAX)
    }

    /// The root in place of a name says that there is no such service.
    fn exists(&self) -> bool {
        self.port != 0 && self.name != "." && !self.name.is_empty()
    }
}

/// Those that are used: the ones of the lowest priority.
pub(super) fn first_priority(targets: Vec<Target>) -> Vec<Target> {
    let first = targets.iter().filter(|it| it.exists()).map(|it| it.priority).min();
    targets.into_iter().filter(|it| it.exists() && Some(it.priority) == first).collect()
}

/// By the targets' names.
pub(super) type AddressesOf = HashMap<String, Addresses>;

/// Puts what was found for each target together; `ttl` is that of the targets themselves.
pub(super) fn targets(
    found: HashMap<String, Result<Found<Addresses>, Missing>>,
    ttl: Duration,
    before: Option<&AddressesOf>,
) -> Result<Found<AddressesOf>, Missing> {
    let mut what = AddressesOf::new();
    let (mut shortest, mut answered) = (ttl, false);
    let mut troubles = Vec::new();
    for (name, result) in found {
        match result {
            Ok(found) => {
                answered = true;
                shortest = shortest.min(found.ttl);
                troubles.extend(found.trouble.map(|why| format!("{name}: {why}")));
                what.insert(name, found.what);
            }
            Err(Missing::Nothing(why)) => troubles.push(format!("{name}: {why}")),
            Err(Missing::Failed(why)) => {
                troubles.push(format!("{name}: {why}"));
                if let Some(known) = before.and_then(|before| before.get(&name)) {
                    what.insert(name, known.clone());
                }
            }
        }
    }
    // One is enough for the log.
    let trouble = troubles.into_iter().min();
    if !answered {
        return Err(Missing::Failed(trouble.unwrap_or_else(|| "no target".to_owned())));
    }
    Ok(Found { what, ttl: shortest, trouble })
}

/// All addresses of a name, with one port.
pub(super) fn endpoints(addresses: &Addresses, port: u16) -> Vec<Endpoint> {
    sum(addresses.iter().map(|ip| (SocketAddr::new(ip, port), Endpoint::WEIGHT)), |one, _| one)
}

/// All addresses of all targets, each with its target's port and weight.
pub(super) fn endpoints_of(targets: &[Target], addresses: &AddressesOf) -> Vec<Endpoint> {
    let of_target =
        targets.iter().filter_map(|target| Some((target, addresses.get(&target.name)?)));
    let places = of_target.flat_map(|(target, addresses)| {
        addresses.iter().map(|ip| (SocketAddr::new(ip, target.port), target.weight()))
    });
    // Two names of one place: it counts for both.
    sum(places, |one, other| (one + other).min(Endpoint::WEIGHT_MAX))
}

/// Each address once, sorted.
fn sum(
    places: impl Iterator<Item = (SocketAddr, u32)>,
    both: impl Fn(u32, u32) -> u32,
) -> Vec<Endpoint> {
    let mut weights: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for (address, weight) in places {
        weights.entry(address).and_modify(|sum| *sum = both(*sum, weight)).or_insert(weight);
    }
    let endpoint = |(address, weight)| Endpoint { address: Address::Ip(address), weight };
    weights.into_iter().map(endpoint).collect()
}

/// The names to ask for, in order: `name` with and without the suffixes of a search list, as
/// resolv.conf(5) has it. All of them end in a dot.
pub(super) fn candidates(name: &str, search: &[String], ndots: usize) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let own = [format!("{name}.")];
    let suffix = |suffix: &String| format!("{name}.{}.", suffix.trim_matches('.'));
    let others = search.iter().filter(|it| !it.trim_matches('.').is_empty()).map(suffix);
    match name.matches('.').count() >= ndots {
        true => own.into_iter().chain(others).collect(),
        false => others.chain(own).collect(),
    }
}

/// How long to wait before the next round.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
}

impl Pace {
    /// After a round that brought everything.
    pub(super) fn good(&mut self, ttl: Duration, asking: &Asking) -> Duration {
        self.failures = 0;
        ttl.clamp(asking.min_ttl, asking.max_ttl)
    }

    /// After one that brought nothing, or not everything.
    pub(super) fn bad(&mut self, asking: &Asking) -> Duration {
        let times = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        asking.min_ttl.saturating_mul(times).min(asking.max_ttl).min(RETRY_MAX)
    }
}
