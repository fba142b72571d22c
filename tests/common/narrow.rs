//! Clients behind a narrow path: little of an answer fits between the proxy and them, so that the
//! rest of it is the proxy's to hold, as it is behind a real network.

use std::net::SocketAddr;

use socket2::{Domain, SockAddr, Socket, Type};

use super::common::Wire;

/// What the client's side of the connection takes in without being read.
const RECEIVE_BYTES: usize = 8 << 10;
/// A kernel makes room for some segments on the sender's side: small ones, little room.
const SEGMENT_BYTES: u32 = 1000;

/// Connects with small buffers on both sides.
pub(crate) fn narrow(address: SocketAddr) -> Wire {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BYTES).expect("a small buffer");
    socket.set_tcp_mss(SEGMENT_BYTES).expect("small segments");
    socket.connect(&SockAddr::from(address)).expect("a connection");
    Wire::new(socket.into())
}
