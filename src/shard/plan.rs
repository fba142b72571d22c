//! What shards apply: the whole state of one generation, made by the supervisor and the same for
//! all of them. A newer one replaces an older, so nothing depends on having seen each.
//!
//! Making a plan may fail and applying it cannot: everything in it exists already (addresses have
//! been turned into what the kernel takes, ids dealt out, limits and ejections allocated).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use super::shared::{EndpointState, Shared};
use crate::config::{self, Address, Config};
use crate::telemetry::layout::Layout;

/// To a shard: from the supervisor, and from shards that hand something over.
#[derive(Debug)]
pub enum Command {
    /// This is how things are from now on.
    Apply(Arc<Plan>),
    /// Further listening sockets, each with the number of its server. Sent once every shard has
    /// applied the plan that has these servers, since connections are handed over between shards.
    Listen(Listeners),
    /// Accept for `grace` longer, then close what is idle and end what is not with its next
    /// answer; after `drain` more the shard ends whatever is left.
    Drain { grace: Duration, drain: Duration },
    /// A place of a service's limit, for whoever waits there.
    Place { service: u32 },
    /// A connection that another shard accepted for a server, by that one's number.
    Adopt { socket: OwnedFd, server: u32 },
}

/// A shard's listening sockets, with the number of the server that each belongs to.
pub type Listeners = Vec<(OwnedFd, u32)>;

/// One generation.
#[derive(Debug)]
pub struct Plan {
    pub generation: u64,
    pub config: Arc<Config>,
    /// In the order of the configuration's servers, router by router.
    pub servers: Vec<ServerPlan>,
    /// In the order of the configuration's services.
    pub services: Vec<ServicePlan>,
    /// `None`: `telemetry: off`; so is the next.
    pub layout: Option<Arc<Layout>>,
    pub tracing: Option<config::Tracing>,
}

/// A listening address.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// The same for as long as the address is listened on, and no other's after that.
    pub number: u32,
    /// Where it came to listen.
    pub address: SocketAddr,
}

/// A service's endpoints as they are now: configured, discovered, and as the operator has set them.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    pub(super) shared: Arc<Shared>,
    pub(super) endpoints: Arc<[EndpointPlan]>,
}

#[derive(Clone, Debug)]
pub(super) struct EndpointPlan {
    pub(super) state: Arc<EndpointState>,
    pub(super) address: SockAddr,
    pub(super) weight: u32,
}

/// An endpoint as the supervisor wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub address: Address,
    pub weight: u32,
    /// By the operator: no request goes there.
    pub drained: bool,
}

/// What the kernel takes for the addresses of a service.
pub struct SocketAddresses(Vec<SockAddr>);

impl SocketAddresses {
    /// Fails where the path of a socket is too long.
    pub fn of(wanted: &[Wanted]) -> io::Result<SocketAddresses> {
        let address = |wanted: &Wanted| match &wanted.address {
            Address::Ip(address) => Ok(SockAddr::from(*address)),
            Address::Unix(path) => SockAddr::unix(path),
        };
        wanted.iter().map(address).collect::<io::Result<_>>().map(SocketAddresses)
    }
}

impl ServicePlan {
    /// Whether it is the very same, endpoints and rules.
    pub(super) fn is_same(&self, other: &ServicePlan) -> bool {
        Arc::ptr_eq(&self.endpoints, &other.endpoints)
    }

    /// The number by which messages name the service.
    pub(super) fn number(&self) -> u32 {
        self.shared.number
    }

    /// Brings a service up to date with the configuration and with its endpoints. Shards see it
    /// when they apply the plan that this becomes part of.
    pub fn new(
        shared: &Arc<Shared>,
        service: &config::Service,
        wanted: &[Wanted],
        addresses: SocketAddresses,
    ) -> ServicePlan {
        let states = shared.apply(service, wanted);
        let endpoints = states.into_iter().zip(wanted).zip(addresses.0);
        let endpoints = endpoints.map(|((state, wanted), address)| EndpointPlan {
            state,
            address,
            weight: wanted.weight,
        });
        ServicePlan { shared: shared.clone(), endpoints: endpoints.collect() }
    }
}
