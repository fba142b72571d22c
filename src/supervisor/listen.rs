//! Listening sockets: one per shard and address, all bound before any shard hears of them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::RunError;
use crate::config::Config;
use crate::shard::{Listeners, ServerPlan};

/// Connections that the kernel completes before we accept them, per shard and address. More than
/// net.core.somaxconn are cut to that.
const BACKLOG: i32 = 4096;

/// How long a port that a reload has just given up may take to be free again: shards accept what
/// still waits there first.
const FREED_WITHIN: Duration = Duration::from_secs(2);
/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// What a configuration's servers came to.
pub(super) struct Bound {
    /// In the order of the configuration's servers, router by router.
    pub(super) servers: Vec<ServerPlan>,
    /// By shard: sockets of those servers that were not listening before.
    pub(super) sockets: Vec<Listeners>,
}

/// Numbers servers, and knows where they listen.
#[derive(Default)]
pub(super) struct Listening {
    /// As it is configured, which for port 0 is not where it came to listen.
    servers: Vec<(SocketAddr, ServerPlan)>,
    so_far: u32,
    /// Given up with the last reload, and when.
    freed: Vec<(SocketAddr, Instant)>,
    /// Root was given up after the first configuration was bound.
    is_unprivileged: bool,
}

impl Listening {
    /// Binds what a configuration has and was not listened on before. Nothing is kept of it where
    /// this fails; else `keep` makes it what is listened on.
    pub(super) fn bind(&self, config: &Config) -> Result<Bound, RunError> {
        let mut sockets: Vec<Listeners> = config.runtime.shards.iter().map(|_| vec![]).collect();
        let mut servers = Vec::new();
        let mut known = self.servers.clone();
        let mut so_far = self.so_far;
        for (wanted, path) in addresses(config).zip(paths(config)) {
            // Port 0 may be there several times: each is used once. One that came to listen
            // somewhere may be called by that now.
            let is_it = |(address, server): &(SocketAddr, ServerPlan)| {
                *address == wanted || server.address == wanted
            };
            if let Some(at) = known.iter().position(is_it) {
                servers.push(known.remove(at).1);
                continue;
            }
            so_far += 1;
            let failed = |error: io::Error| {
                let why = self.root_s(wanted, &error).unwrap_or_else(|| describe(&error));
                RunError(format!("cannot listen on {wanted} ({path}): {why}"))
            };
            let address = self.free(wanted).map_err(failed)?;
            for shard in &mut sockets {
                let socket = socket(address, true).map_err(failed)?;
                socket.listen(BACKLOG).map_err(failed)?;
                shard.push((OwnedFd::from(socket), so_far));
            }
            servers.push(ServerPlan { number: so_far, address });
        }
        Ok(Bound { servers, sockets })
    }

    /// From now on what only root may do is refused for that reason.
    pub(super) fn set_unprivileged(&mut self, is: bool) {
        self.is_unprivileged = is;
    }

    /// What failed because root is not there any more, and would not after a restart.
    fn root_s(&self, wanted: SocketAddr, error: &io::Error) -> Option<String> {
        let what = match error.kind() {
            io::ErrorKind::PermissionDenied => "a port like this needs root",
            // The kernel lets those share a port alone who opened their sockets as the same user.
            io::ErrorKind::AddrInUse if self.overlaps(wanted) => {
                "it overlaps with what was bound as root"
            }
            _ => return None,
        };
        let given_up = "which was given up at start (runtime.user): needs a restart";
        self.is_unprivileged.then(|| format!("{what}, {given_up}"))
    }

    /// Whether one of both is for all addresses, so that ours would be in the way of itself. The
    /// kernel gives connections to the socket that says more of where it listens.
    fn overlaps(&self, wanted: SocketAddr) -> bool {
        self.servers.iter().any(|(_, server)| {
            let it = server.address;
            let is_any = it.ip().is_unspecified() || wanted.ip().is_unspecified();
            it.port() == wanted.port() && it.is_ipv4() == wanted.is_ipv4() && is_any
        })
    }

    /// What was bound is what is listened on from now on.
    pub(super) fn keep(&mut self, config: &Config, servers: &[ServerPlan]) {
        let now = Instant::now();
        let is_gone = |server: &ServerPlan| !servers.iter().any(|it| it.number == server.number);
        let gone = self.servers.iter().filter(|(_, server)| is_gone(server));
        self.freed.extend(gone.map(|(_, server)| (server.address, now)));
        self.freed.retain(|(_, since)| now < *since + FREED_WITHIN);
        self.servers = addresses(config).zip(servers.iter().cloned()).collect();
        let highest = servers.iter().map(|server| server.number).max().unwrap_or(0);
        self.so_far = self.so_far.max(highest);
    }

    /// Where `wanted` comes to, if it can be had. SO_REUSEPORT would let us share a port that
    /// another process of the same user has, and take half of its connections: it must be free
    /// without.
    fn free(&self, wanted: SocketAddr) -> io::Result<SocketAddr> {
        if wanted.port() != 0 && self.overlaps(wanted) {
            return Ok(wanted);
        }
        let freed = self.freed.iter().find(|(address, _)| *address == wanted);
        let until = freed.map(|(_, since)| *since + FREED_WITHIN);
        loop {
            match socket(wanted, false).and_then(|socket| socket.local_addr()) {
                Ok(address) => return Ok(address.as_socket().unwrap_or(wanted)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if until.is_none_or(|until| Instant::now() >= until) {
                        return Err(error);
                    }
                    std::thread::sleep(TRY_EVERY);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let servers = config.routers.iter().flat_map(|router| &router.servers);
    servers.map(|server| server.address)
}

/// What errors call them.
fn paths(config: &Config) -> impl Iterator<Item = String> {
    let routers = config.routers.iter().enumerate();
    routers.flat_map(|(i, router)| {
        (0..router.servers.len()).map(move |j| format!("routers[{i}].servers[{j}]"))
    })
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 and :: on one port are two listeners, as the configuration has them.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it: no system call per connection.
        socket.set_tcp_nodelay(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is taken by another process".into(),
        io::ErrorKind::PermissionDenied => "this user may not use that port".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}
