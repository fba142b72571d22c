//! Origins that answer when the test says so, that fail, and that are not there at all.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{DEADLINE, Origin, ok};

/// Whoever connects there is refused for as long as the socket is kept: it does not listen.
pub fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&SockAddr::from(any)).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    (socket, address)
}

/// Holds requests up until it is opened.
#[derive(Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
    came: AtomicUsize,
}

impl Gate {
    pub fn pass(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_timeout_while(is_open, DEADLINE, |is_open| !*is_open).unwrap());
    }

    pub fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

/// An origin whose answers to `/held` wait at the gate; how many of them there were.
pub fn holding(gate: &Arc<Gate>) -> (Origin, Arc<AtomicUsize>) {
    let (gate, held) = (gate.clone(), Arc::<AtomicUsize>::default());
    let count = held.clone();
    let origin = Origin::answering(move |request| {
        if request.head.target() == "/held" {
            count.fetch_add(1, Ordering::SeqCst);
            gate.pass();
        }
        ok("fine")
    });
    (origin, held)
}

/// A whole 503.
pub fn failing() -> Vec<u8> {
    b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_vec()
}
