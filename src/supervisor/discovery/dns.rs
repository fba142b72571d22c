//! Follows a name in DNS: its addresses, or its SRV records and their targets' addresses.
//!
//! A round asks everything there is to ask, and the next one begins when the shortest TTL is over.
//! `answers` says what a round adds up to, and when the next one is after one that went wrong. A
//! search list is gone through for both families together, up to the first name that has any
//! address. One that no server can say anything about is passed over as in glibc, since suffixes
//! are tried at servers that do not know them; but not the one that had the addresses last, or
//! they would be replaced by those of something else.
//!
//! /etc/resolv.conf is read again for each round. /etc/hosts is not looked at.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answers::{self, AddressesOf, Found, Missing, Pace};
use super::ask::{Asker, Resolvers, Targets};
use super::{Reporter, blocking};
use crate::config::{Asking, Endpoint};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Targets of SRV records that are asked for side by side.
const TARGETS_AT_ONCE: usize = 16;

/// What a name is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// A and AAAA.
    Addresses { port: u16 },
    /// SRV.
    Targets,
}

pub(super) async fn follow(wanted: Wanted, name: String, asking: Asking, reporter: Reporter) {
    let mut follower = Follower::new(wanted, name, asking, reporter);
    loop {
        let wait = follower.round().await;
        sleep(wait).await;
    }
}

pub(super) struct Follower {
    wanted: Wanted,
    name: String,
    asking: Asking,
    reporter: Reporter,
    /// What resolv.conf says, with its text.
    system: Option<(Vec<u8>, Resolvers)>,
    /// The server to begin with.
    preferred: Arc<AtomicUsize>,
    /// The last good addresses, by name.
    known: AddressesOf,
    /// Which name of the search list they were found by.
    found_by: Option<String>,
    pace: Pace,
    trouble: Trouble,
}

/// How much of the last round went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// Some of it was kept from before, or left out.
    Partly,
    Wholly,
}

impl Follower {
    pub(super) fn new(wanted: Wanted, name: String, asking: Asking, reporter: Reporter) -> Self {
        Follower {
            wanted,
            name,
            asking,
            reporter,
            system: None,
            preferred: Arc::default(),
            known: AddressesOf::new(),
            found_by: None,
            pace: Pace::default(),
            trouble: Trouble::None,
        }
    }

    /// Asks and tells, and says how long to wait before the next time.
    async fn round(&mut self) -> Duration {
        let found = match self.resolvers().await {
            Ok(resolvers) => self.find(&resolvers).await,
            Err(why) => Err(Missing::Failed(why)),
        };
        let Found { what: endpoints, ttl, trouble } = match found {
            Ok(found) => found,
            Err(missing) => {
                self.is_in(Trouble::Wholly, &missing.why());
                return self.pace.bad(&self.asking);
            }
        };
        self.reporter.tell(endpoints);
        match trouble {
            None => {
                self.is_well();
                self.pace.good(ttl, &self.asking)
            }
            Some(why) => {
                self.is_in(Trouble::Partly, &why);
                self.pace.bad(&self.asking)
            }
        }
    }

    pub(super) async fn find(
        &mut self,
        resolvers: &Resolvers,
    ) -> Result<Found<Vec<Endpoint>>, Missing> {
        let asker = Asker::new(resolvers, self.asking.timeout, self.preferred.clone());
        let asker = asker.map_err(Missing::Failed)?;
        let mut missing = Missing::Nothing(String::new());
        for name in answers::candidates(&self.name, &resolvers.search, resolvers.ndots) {
            let found = match self.wanted {
                Wanted::Addresses { port } => self.addresses(&asker, &name, port).await,
                Wanted::Targets => self.targets(&asker, &name).await,
            };
            let had_them = self.found_by.as_ref() == Some(&name);
            match (found, &missing) {
                (Ok(found), _) => {
                    self.found_by = Some(name);
                    return Ok(found);
                }
                (Err(Missing::Failed(why)), _) if had_them => return Err(Missing::Failed(why)),
                // The first failure says most.
                (Err(_), Missing::Failed(_)) => {}
                (Err(why), Missing::Nothing(_)) => missing = why,
            }
        }
        Err(missing)
    }

    async fn addresses(
        &mut self,
        asker: &Asker,
        name: &str,
        port: u16,
    ) -> Result<Found<Vec<Endpoint>>, Missing> {
        let Found { what, ttl, trouble } = asker.addresses(name, self.known.get(name)).await?;
        let endpoints = answers::endpoints(&what, port);
        self.known = HashMap::from([(name.to_owned(), what)]);
        Ok(Found { what: endpoints, ttl, trouble })
    }

    async fn targets(
        &mut self,
        asker: &Asker,
        name: &str,
    ) -> Result<Found<Vec<Endpoint>>, Missing> {
        let Targets { targets, addresses, ttl } = asker.targets(name).await?;
        let names: HashSet<&String> = targets.iter().map(|it| &it.name).collect();
        let unknown = names.into_iter().filter(|it| !addresses.contains_key(*it));
        let mut unknown: Vec<String> = unknown.cloned().collect();
        let along = |(name, what)| (name, Ok(Found { what, ttl, trouble: None }));
        let mut found: HashMap<_, _> = addresses.into_iter().map(along).collect();
        let mut asking = JoinSet::new();
        loop {
            while asking.len() < TARGETS_AT_ONCE
                && let Some(name) = unknown.pop()
            {
                let (asker, before) = (asker.clone(), self.known.get(&name).cloned());
                asking.spawn(async move {
                    let found = asker.addresses(&name, before.as_ref()).await;
                    (name, found)
                });
            }
            let Some(asked) = asking.join_next().await else { break };
            // One that has panicked takes the process with it.
            found.extend(asked.ok());
        }
        let Found { what, ttl, trouble } = answers::targets(found, ttl, Some(&self.known))?;
        let endpoints = answers::endpoints_of(&targets, &what);
        self.known = what;
        Ok(Found { what: endpoints, ttl, trouble })
    }

    async fn resolvers(&mut self) -> Result<Resolvers, String> {
        if !self.asking.resolvers.is_empty() {
            return Ok(Resolvers::at(&self.asking.resolvers));
        }
        let text = blocking(|| fs::read(RESOLV_CONF)).await;
        let text = text.map_err(|error| format!("{RESOLV_CONF}: {error}"))?;
        // What is odd about it goes to the log each time that it is parsed.
        if let Some((_, resolvers)) = self.system.as_ref().filter(|(known, _)| *known == text) {
            return Ok(resolvers.clone());
        }
        let resolvers = Resolvers::from_resolv_conf(&text);
        let resolvers = resolvers.map_err(|error| format!("{RESOLV_CONF}: {error}"))?;
        self.system = Some((text, resolvers.clone()));
        Ok(resolvers)
    }

    fn is_in(&mut self, trouble: Trouble, why: &str) {
        let Reporter { service, .. } = &self.reporter;
        // Once when it begins, and once more when it gets worse.
        if trouble > self.trouble {
            let (name, fallback) = (&self.name, self.reporter.fallback());
            match trouble {
                Trouble::Wholly => {
                    tracing::warn!(%service, %name, "the name has no answer: {why}; {fallback}");
                }
                _ => {
                    tracing::warn!(%service, %name, "the name has only a part of an answer: {why}")
                }
            }
        }
        self.trouble = trouble;
    }

    fn is_well(&mut self) {
        if self.trouble > Trouble::None {
            let service = &self.reporter.service;
            tracing::info!(%service, name = %self.name, "the name is answered again");
        }
        self.trouble = Trouble::None;
    }
}
