//! Single questions to DNS servers.
//!
//! hickory carries them: messages, a socket with a random port for each, TCP where an answer is too
//! long. Everything above is ours, because its resolver goes through a search list for A and for
//! AAAA by itself, so that both may come from different names; finds no SRV record behind a CNAME;
//! and has a cache. An `Asker` lives for one round: it has connections of its own, so that nothing
//! sticks to a server that has died.
//!
//! Servers are asked one after the other, beginning with the one that answered last. One that says
//! that there is nothing is believed; any other failure is a reason to ask the next.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::time::timeout;

use super::answers::{self, Addresses, AddressesOf, Answer, Found, Missing, Target};

/// As many names may a name go by; more is a loop.
const CNAMES_MAX: usize = 8;

const NO_RECORDS: &str = "it has no such records";
const NO_NAME: &str = "there is no such name";

/// Whom to ask, and under which names.
#[derive(Debug, Clone)]
pub(super) struct Resolvers {
    servers: Vec<NameServerConfig>,
    pub(super) search: Vec<String>,
    /// A name with fewer dots is looked for in the search list first.
    pub(super) ndots: usize,
}

impl Resolvers {
    /// Without a search list: names are whole.
    pub(super) fn at(addresses: &[SocketAddr]) -> Self {
        let server = |address: &SocketAddr| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            server.connections.iter_mut().for_each(|it| it.port = address.port());
            server
        };
        Resolvers { servers: addresses.iter().map(server).collect(), search: vec![], ndots: 0 }
    }

    /// As resolv.conf(5) says.
    pub(super) fn from_resolv_conf(text: &[u8]) -> Result<Self, String> {
        let (config, options) = parse_resolv_conf(text).map_err(|error| error.to_string())?;
        let (domain, search, servers) = config.into_parts();
        // Without a search list, this machine's own domain is one.
        let search = if search.is_empty() { Vec::from_iter(domain) } else { search };
        let search = search.iter().map(Name::to_ascii).collect();
        Ok(Resolvers { servers, search, ndots: options.ndots })
    }
}

/// What there is to ask with, for one round.
#[derive(Clone)]
pub(super) struct Asker {
    servers: Arc<[Server]>,
    timeout: Duration,
    /// The server to begin with.
    preferred: Arc<AtomicUsize>,
}

struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

/// The records that were asked for, at least one, and what came with them.
struct Reply {
    records: Vec<Record>,
    additional: Vec<Record>,
    /// The shortest of the records and of the names on the way to them.
    ttl: u32,
}

/// What an SRV question brought.
pub(super) struct Targets {
    pub(super) targets: Vec<Target>,
    /// The addresses of targets that came along.
    pub(super) addresses: AddressesOf,
    pub(super) ttl: Duration,
}

impl Asker {
    /// `timeout` is for each question to each server.
    pub(super) fn new(
        resolvers: &Resolvers,
        timeout: Duration,
        preferred: Arc<AtomicUsize>,
    ) -> Result<Self, String> {
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        let server = |server: &NameServerConfig| {
            let tls = TlsConfig::new().map_err(|error| error.to_string())?;
            let context = Arc::new(PoolContext::new(options.clone(), tls));
            let port = server.connections.first().map_or(0, |connection| connection.port);
            let provider = TokioRuntimeProvider::default();
            Ok(Server {
                address: SocketAddr::new(server.ip, port),
                pool: NameServerPool::from_config([server.clone()], context, provider),
            })
        };
        let servers: Result<Vec<Server>, String> = resolvers.servers.iter().map(server).collect();
        Ok(Asker { servers: servers?.into(), timeout, preferred })
    }

    /// Both families of a name. `before` is what it had last.
    pub(super) async fn addresses(
        &self,
        name: &str,
        before: Option<&Addresses>,
    ) -> Result<Found<Addresses>, Missing> {
        let (a, aaaa) =
            tokio::join!(self.family(name, RecordType::A), self.family(name, RecordType::AAAA));
        answers::addresses(a, aaaa, before)
    }

    async fn family(&self, name: &str, kind: RecordType) -> Answer<IpAddr> {
        let Reply { records, ttl, .. } = match self.records(name, kind).await {
            Ok(reply) => reply,
            Err(Missing::Nothing(why)) => return Answer::Nothing(why),
            Err(Missing::Failed(why)) => return Answer::Failed(why),
        };
        let records: Vec<IpAddr> = records.iter().filter_map(address).collect();
        match records.is_empty() {
            true => Answer::Nothing("it has no usable address".to_owned()),
            false => Answer::Records { records, ttl: Duration::from_secs(ttl.into()) },
        }
    }

    /// The targets of the first priority; at least one.
    pub(super) async fn targets(&self, name: &str) -> Result<Targets, Missing> {
        let Reply { records, additional, mut ttl } = self.records(name, RecordType::SRV).await?;
        let targets = answers::first_priority(records.iter().filter_map(target).collect());
        if targets.is_empty() {
            return Err(Missing::Nothing("it says that there is no such service".to_owned()));
        }
        let mut addresses = AddressesOf::new();
        for record in &additional {
            let name = lower_case(&record.name);
            let (Some(ip), true) = (address(record), targets.iter().any(|it| it.name == name))
            else {
                continue;
            };
            ttl = ttl.min(record.ttl);
            let known = addresses.entry(name).or_default();
            if ip.is_ipv4() { &mut known.v4 } else { &mut known.v6 }.push(ip);
        }
        Ok(Targets { targets, addresses, ttl: Duration::from_secs(ttl.into()) })
    }

    /// Follows CNAMEs, whether the server does or not.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Reply, Missing> {
        let failed = |error| Missing::Failed(format!("{name}: {error}"));
        let mut name = Name::from_ascii(name).map_err(failed)?;
        let mut ttl = u32::MAX;
        for _ in 0..CNAMES_MAX {
            let mut message = self.ask(&name, kind).await?.into_message();
            let asked = name.clone();
            // Each record may be one step; more would be a loop.
            for _ in 0..message.answers.len() {
                let alias = message.answers.iter().find_map(|it| match &it.data {
                    RData::CNAME(alias) if it.name == name => Some((alias.0.clone(), it.ttl)),
                    _ => None,
                });
                let Some((alias, its_ttl)) = alias else { break };
                (name, ttl) = (alias, ttl.min(its_ttl));
            }
            let wanted = |it: &Record| it.record_type() == kind && it.name == name;
            let records: Vec<Record> = message.answers.extract_if(.., |it| wanted(it)).collect();
            if let Some(shortest) = records.iter().map(|it| it.ttl).min() {
                let additional = message.additionals;
                return Ok(Reply { records, additional, ttl: ttl.min(shortest) });
            }
            if name == asked {
                return Err(Missing::Nothing(NO_RECORDS.to_owned()));
            }
        }
        Err(Missing::Failed(format!("{name}: more than {CNAMES_MAX} names lead to it")))
    }

    /// One question, to one server after the other.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<DnsResponse, Missing> {
        let mut failure = None;
        let first = self.preferred.load(Ordering::Relaxed);
        for step in 0..self.servers.len() {
            let at = (first + step) % self.servers.len();
            let Server { address, pool } = &self.servers[at];
            let query = Query::query(name.clone(), kind);
            let answer = pool.lookup(query, DnsRequestOptions::default()).first_answer();
            let why = match timeout(self.timeout, answer).await {
                Ok(Ok(response)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(response);
                }
                Ok(Err(error)) if error.is_no_records_found() => {
                    self.preferred.store(at, Ordering::Relaxed);
                    let why = if error.is_nx_domain() { NO_NAME } else { NO_RECORDS };
                    return Err(Missing::Nothing(why.to_owned()));
                }
                Ok(Err(NetError::Timeout)) | Err(_) => {
                    format!("no answer within {} ms", self.timeout.as_millis())
                }
                Ok(Err(error)) => error.to_string(),
            };
            failure.get_or_insert_with(|| format!("{address}: {why}"));
        }
        Err(Missing::Failed(failure.unwrap_or_else(|| "there is no server to ask".to_owned())))
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    let address = match &record.data {
        RData::A(address) => IpAddr::V4(address.0),
        RData::AAAA(address) => IpAddr::V6(address.0),
        _ => return None,
    };
    answers::is_usable(&address).then_some(address)
}

fn target(record: &Record) -> Option<Target> {
    let RData::SRV(srv) = &record.data else { return None };
    let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
    Some(Target { priority, weight, port, name: lower_case(&srv.target) })
}

fn lower_case(name: &Name) -> String {
    name.to_lowercase().to_ascii()
}
