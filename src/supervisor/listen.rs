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
}

impl Listening {
    /// Binds what a configuration has and was not listened on before. Nothing is kept of it where
    /// this fails; else `keep` makes it what is listened on.
    pub(super) fn bind(&self, config: &Config) -> Result<Bound, RunError> {
        let mut sockets: Vec<Listeners> = config.runtime.shards.iter().map(|_| vec![]).collect();
        let mut servers = Vec::new();
        let mut known = self.servers.clone();
        let mut so_far = self.so_far;
        for wanted in addresses(config) {
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
                RunError(format!("cannot listen on {wanted}: {}", describe(&error)))
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
        // One of both is for all addresses, so ours would be in the way of itself. The kernel gives
        // connections to the socket that says more of where it listens.
        let overlaps = |(_, server): &(SocketAddr, ServerPlan)| {
            let it = server.address;
            let is_any = it.ip().is_unspecified() || wanted.ip().is_unspecified();
            it.port() == wanted.port() && it.is_ipv4() == wanted.is_ipv4() && is_any
        };
        if wanted.port() != 0 && self.servers.iter().any(overlaps) {
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
