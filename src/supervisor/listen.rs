//! Listening sockets: one per shard and address, all bound before any shard starts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::RunError;
use crate::config::Config;
use crate::shard::Listeners;

/// Connections that the kernel completes before we accept them, per shard and address. More than
/// net.core.somaxconn are cut to that.
const BACKLOG: i32 = 4096;

/// Every shard's listening sockets, and the addresses that they came to.
pub(super) fn bind_all(config: &Config) -> Result<(Vec<Listeners>, Vec<SocketAddr>), RunError> {
    let mut listeners: Vec<Listeners> = config.runtime.shards.iter().map(|_| vec![]).collect();
    let mut addresses = Vec::new();
    let servers = config.routers.iter().flat_map(|router| &router.servers);
    for (number, server) in servers.map(|server| server.address).enumerate() {
        let failed =
            |error: io::Error| RunError(format!("cannot listen on {server}: {}", describe(&error)));
        // SO_REUSEPORT would let us share a port that another process of the same user has, and
        // take half of its connections: it must be free without.
        let free = socket(server, false).and_then(|socket| socket.local_addr()).map_err(failed)?;
        let address = free.as_socket().unwrap_or(server);
        for shard in &mut listeners {
            let socket = socket(address, true).map_err(failed)?;
            socket.listen(BACKLOG).map_err(failed)?;
            shard.push((OwnedFd::from(socket), number));
        }
        addresses.push(address);
    }
    Ok((listeners, addresses))
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
