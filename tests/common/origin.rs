//! Origins that do what a test tells them, byte by byte, on a thread per connection.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Request, Wire};

/// A load test opens thousands of connections at once.
const BACKLOG: i32 = 4096;

/// Listens until dropped. Its connections end when the proxy's do.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    stopped: AtomicBool,
    requests: Mutex<Vec<Request>>,
}

impl Origin {
    /// `serve` is given each connection, and how many came before it. Its panics are printed and
    /// close the connection, which the test sees from the client's side.
    pub fn start(serve: impl Fn(Wire, usize) + Send + Sync + 'static) -> Origin {
        Origin::listen(move |_, wire, number| serve(wire, number))
    }

    /// Answers each request with what `answer` makes of it, remembers the request, and keeps the
    /// connection.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Origin {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Origin::answering_at(any, answer).expect("a port")
    }

    /// The same at an address of the test's choice, which may be taken.
    pub fn answering_at(
        address: SocketAddr,
        answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> io::Result<Origin> {
        Ok(Origin::listen_on(listener(address)?, move |shared, mut wire, _| {
            while let Ok(Some(request)) = wire.request() {
                let answer = answer(&request);
                shared.requests.lock().unwrap().push(request);
                if wire.try_send(answer).is_err() {
                    return;
                }
            }
        }))
    }

    fn listen(serve: impl Fn(&Shared, Wire, usize) + Send + Sync + 'static) -> Origin {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Origin::listen_on(listener(any).expect("a port"), serve)
    }

    fn listen_on(
        listener: TcpListener,
        serve: impl Fn(&Shared, Wire, usize) + Send + Sync + 'static,
    ) -> Origin {
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let (inner, serve) = (shared.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if inner.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let number = inner.accepted.fetch_add(1, Ordering::SeqCst);
                let (inner, serve) = (inner.clone(), serve.clone());
                let run = move || serve(&inner, Wire::new(stream), number);
                thread::Builder::new().stack_size(256 << 10).spawn(run).expect("a thread");
            }
        });
        Origin { address, shared }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Requests answered by `answering`, in order of their ends.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn last_request(&self) -> Request {
        self.requests().pop().expect("a request has come")
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listener that accepts nothing and whose queue is full: connecting to it takes for ever. The
/// streams must be kept.
pub fn silent() -> (SocketAddr, Socket, Vec<Socket>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a port");
    socket.listen(0).expect("a listener");
    let address = socket.local_addr().expect("an address");
    let fill = || {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.set_nonblocking(true).expect("non-blocking");
        let _ = client.connect(&address);
        client
    };
    let clients = (0..4).map(|_| fill()).collect();
    (address.as_socket().expect("an IP address"), socket, clients)
}
