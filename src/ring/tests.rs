//! The ring against real sockets: what a task sees of data, order, ends, failures and time.

mod drops;
mod ends;
mod measured;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockAddr;

use super::*;

/// Ten seconds: far more than any step here takes, and short enough for a hang to be seen.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a task on a ring of its own; what the ring counted until it ended.
fn on_ring<F: Future<Output = ()> + 'static>(
    settings: Settings,
    task: impl FnOnce(Ring) -> F,
) -> Stats {
    let counted = run(&settings, |ring| {
        let task = task(ring.clone());
        async move {
            task.await;
            ring
        }
    });
    counted.expect("the task").stats()
}

/// A listener's address and, on a thread, what it does with its first connection.
fn peer<T: Send + 'static>(
    act: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SockAddr, thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").into();
    (address, thread::spawn(move || act(listener.accept().expect("accept").0)))
}

async fn connected(ring: &Ring, address: &SockAddr) -> Socket {
    let socket = Socket::connect(ring, address, current_waker().await).expect("socket");
    while socket.progress().connecting {
        wait().await;
    }
    assert_eq!(socket.progress().end, End::Open);
    socket
}

async fn read_to_end(socket: &Socket, many: bool) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        while let Some(piece) = socket.take_piece() {
            all.extend_from_slice(&piece);
        }
        if socket.progress().end != End::Open {
            return all;
        }
        socket.receive(many);
        wait().await;
    }
}

async fn all_sent(socket: &Socket) {
    socket.wake_when_sent(true);
    while !socket.progress().all_sent && socket.progress().send_error.is_none() {
        wait().await;
    }
}

/// Bytes in which each position can be told from its neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

#[test]
fn receives_in_order_once_and_many_times() {
    for many in [true, false] {
        let (address, sender) = peer(|mut stream| stream.write_all(&pattern(1 << 20)));
        on_ring(Settings::default(), move |ring| async move {
            let socket = connected(&ring, &address).await;
            assert!(read_to_end(&socket, many).await == pattern(1 << 20));
            assert_eq!(socket.progress().end, End::Closed);
        });
        sender.join().expect("sender").expect("written");
    }
}

#[test]
fn sends_leave_in_the_order_they_were_queued() {
    let (address, reader) = peer(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        for (n, part) in pattern(4 << 20).chunks(10_007).enumerate() {
            match n % 4 {
                0 if socket.progress().can_send => {
                    let mut lease = ring.lease(part.len()).expect("a lease");
                    lease[5..5 + part.len()].copy_from_slice(part);
                    socket.send(Chunk::Lease { lease, start: 5, end: 5 + part.len() });
                }
                1 => socket.send(Chunk::shared(part.into())),
                _ => socket.send(Chunk::heap(part.to_vec())),
            }
            if n % 50 == 0 {
                all_sent(&socket).await;
            }
        }
        all_sent(&socket).await;
        socket.shutdown_write();
        read_to_end(&socket, false).await;
    });
    assert!(reader.join().expect("reader").expect("read") == pattern(4 << 20));
}

#[test]
fn fills_a_buffer_of_the_streams_own() {
    let (address, sender) = peer(|mut stream| stream.write_all(&pattern(300_000)));
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        let mut all = Vec::new();
        while socket.progress().end == End::Open {
            let lease = ring.lease(usize::MAX).expect("a lease");
            socket.fill(lease, 100, usize::MAX);
            while socket.progress().receiving {
                wait().await;
            }
            if let Some((lease, range)) = socket.take_filled() {
                assert_eq!(range.start, 100);
                all.extend_from_slice(&lease[range]);
            }
        }
        assert!(all == pattern(300_000));
        assert_eq!(ring.stats().leased_bytes, 0);
    });
    sender.join().expect("sender").expect("written");
}

#[test]
fn accepts_many_connections_with_one_operation() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let clients = thread::spawn(move || {
        let mut streams: Vec<TcpStream> =
            (0..200).map(|_| TcpStream::connect(address).expect("connect")).collect();
        streams.iter_mut().map(|stream| stream.read_to_end(&mut Vec::new())).all(|r| r.is_ok())
    });
    let stats = on_ring(Settings::default(), move |ring| async move {
        let waker = current_waker().await;
        let listener = Listener::new(&ring, listener, waker.clone());
        let mut held = Vec::new();
        while held.len() < 200 {
            match listener.accept() {
                Accepted::Connection(fd) => {
                    held.push(Socket::adopt(&ring, fd, Whose::Client, waker.clone()));
                }
                Accepted::Nothing => wait().await,
                Accepted::Stopped(error) => panic!("accept stopped: {error}"),
            }
        }
        drop(held);
    });
    assert!(clients.join().expect("clients"));
    assert!(stats.sqes < 410, "one accept, 200 closes and little else: {stats:?}");
}

/// More sockets have data than there are buffers: all of it arrives, nothing spins.
/// All wait to be accepted, and none has a descriptor before the one ahead of it is taken.
#[test]
fn accepts_one_connection_at_a_time() {
    on_ring(Settings::default(), move |ring| async move {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let listener = Listener::new(&ring, listener, current_waker().await);
        listener.one_by_one(true);
        while !matches!(listener.accept(), Accepted::Stopped(libc::ECANCELED)) {
            wait().await;
        }
        let connect = |_| TcpStream::connect(address).expect("connect");
        let _clients: Vec<TcpStream> = (0..50).map(connect).collect();
        let mut held = Vec::new();
        while held.len() < 50 {
            match listener.accept() {
                Accepted::Connection(fd) => {
                    held.push(fd);
                    assert!(!matches!(listener.accept(), Accepted::Connection(_)), "two at once");
                }
                Accepted::Nothing => wait().await,
                Accepted::Stopped(error) => panic!("accept stopped: {error}"),
            }
        }
        listener.one_by_one(false);
        let _client = connect(0);
        while !matches!(listener.accept(), Accepted::Connection(_)) {
            wait().await;
        }
    });
}

#[test]
fn an_exhausted_group_feeds_everybody_in_turn() {
    const PEERS: usize = 64;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address: SockAddr = listener.local_addr().expect("address").into();
    let senders = thread::spawn(move || {
        let sending: Vec<_> = (0..PEERS)
            .map(|_| listener.accept().expect("accept").0)
            .map(|mut stream| thread::spawn(move || stream.write_all(&pattern(200_000))))
            .collect();
        sending.into_iter().all(|one| one.join().expect("sender").is_ok())
    });
    let settings = Settings { head_buffers: 16, ..Settings::default() };
    let stats = on_ring(settings, move |ring| async move {
        let mut readers = Vec::new();
        for _ in 0..PEERS {
            readers.push((connected(&ring, &address).await, Vec::new()));
        }
        loop {
            let mut open = false;
            for (socket, all) in &mut readers {
                while let Some(piece) = socket.take_piece() {
                    all.extend_from_slice(&piece);
                }
                socket.receive(true);
                open |= socket.progress().end == End::Open;
            }
            if !open {
                break;
            }
            wait().await;
        }
        assert!(readers.iter().all(|(_, all)| *all == pattern(200_000)));
    });
    assert!(senders.join().expect("senders"));
    assert!(stats.buffers_exhausted > 0, "the test is about exhaustion: {stats:?}");
    assert_eq!(stats.buffers_in_use, 0);
    assert!(stats.sqes < 20_000, "a starved socket is not armed over and over: {stats:?}");
}

/// Waits until so many receives have found no buffer.
async fn exhausted(ring: &Ring, times: u64) {
    let timer = ring.timer(current_waker().await);
    while ring.stats().buffers_exhausted < times {
        assert!(ring.now() < LIMIT, "{:?}", ring.stats());
        timer.set(ring.now() + Duration::from_millis(1));
        wait().await;
    }
}

/// The kernel chooses a buffer before it looks whether there is anything to put there.
#[test]
fn a_receive_without_a_buffer_waits_in_line_also_when_nothing_has_come() {
    let (noisy, noise) = peer(|mut stream| stream.write_all(&pattern(1 << 20)));
    let (quiet, silence) = peer(|stream| stream.set_nodelay(true).map(|()| stream));
    let settings = Settings { head_buffers: 16, ..Settings::default() };
    on_ring(settings, move |ring| async move {
        let (noisy, quiet) = (connected(&ring, &noisy).await, connected(&ring, &quiet).await);
        noisy.receive(true);
        exhausted(&ring, 1).await;
        let _silence = silence.join().expect("silence").expect("a connection");
        quiet.receive(true);
        exhausted(&ring, 2).await;
        assert_eq!(read_to_end(&noisy, true).await, pattern(1 << 20));
    });
    noise.join().expect("noise").expect("written");
}

#[test]
fn a_connect_that_is_refused_fails_and_one_that_hangs_is_taken_back() {
    let refusing = TcpListener::bind("127.0.0.1:0").expect("bind");
    let refused: SockAddr = refusing.local_addr().expect("address").into();
    drop(refusing);
    // A backlog of one that is full: the kernel drops further SYNs.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let full = full.expect("socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    full.bind(&any.into()).expect("bind");
    full.listen(0).expect("listen");
    let hanging = full.local_addr().expect("address");
    let _queued = TcpStream::connect(hanging.as_socket().expect("tcp")).expect("connect");
    on_ring(Settings::default(), move |ring| async move {
        let waker = current_waker().await;
        let socket = Socket::connect(&ring, &refused, waker.clone()).expect("socket");
        while socket.progress().connecting {
            wait().await;
        }
        assert_eq!(socket.progress().end, End::Failed(libc::ECONNREFUSED));
        drop(socket);

        let timer = ring.timer(waker.clone());
        timer.set(ring.now() + Duration::from_millis(50));
        let socket = Socket::connect(&ring, &hanging, waker).expect("socket");
        while !timer.has_fired() {
            assert!(socket.progress().connecting);
            wait().await;
        }
        drop((socket, timer));
        // Both orphans go once their operations have been taken back.
        let timer = ring.timer(current_waker().await);
        while ring.stats().slots > 0 {
            timer.set(ring.now() + Duration::from_millis(1));
            wait().await;
        }
    });
}

#[test]
fn a_receive_can_be_taken_back_and_asked_for_again() {
    let (address, peer) = peer(|mut stream| {
        let mut go = [0];
        stream.read_exact(&mut go).and_then(|()| stream.write_all(b"late"))
    });
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        for _ in 0..3 {
            socket.receive(true);
            assert!(socket.progress().receiving);
            socket.stop_receiving();
            while socket.progress().receiving {
                wait().await;
            }
            assert_eq!(socket.progress().end, End::Open);
        }
        socket.send(Chunk::heap(b"!".to_vec()));
        assert_eq!(read_to_end(&socket, true).await, b"late");
    });
    peer.join().expect("peer").expect("written");
}

/// A socket dropped in the midst of everything: its slot is used again at once, and what still
/// comes for the old owner does not reach the new one.
#[test]
fn an_orphan_never_reaches_the_next_owner_of_its_slot() {
    let (noisy, noise) = peer(|mut stream| {
        let sent = stream.write_all(&vec![b'x'; 64 << 20]);
        assert!(sent.is_err(), "the reader went away");
    });
    let (quiet, answer) = peer(|mut stream| stream.write_all(&pattern(100_000)));
    let stats = on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &noisy).await;
        socket.receive(true);
        for _ in 0..5 {
            wait().await;
            while socket.take_piece().is_some() {}
        }
        let lease = ring.lease(usize::MAX).expect("a lease");
        let end = lease.len();
        socket.send(Chunk::Lease { lease, start: 0, end });
        drop(socket);
        let next = connected(&ring, &quiet).await;
        assert!(read_to_end(&next, true).await == pattern(100_000));
        drop(next);
        let timer = ring.timer(current_waker().await);
        while ring.stats().slots > 0 {
            timer.set(ring.now() + Duration::from_millis(1));
            wait().await;
        }
    });
    noise.join().expect("noise");
    answer.join().expect("answer").expect("written");
    assert_eq!((stats.slots, stats.leased_bytes, stats.buffers_in_use), (0, 0, 0));
}

#[test]
fn a_half_closed_socket_still_receives_and_a_reset_one_says_so() {
    let (address, peer) = peer(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).and_then(|_| stream.write_all(&all))?;
        let socket = socket2::Socket::from(stream);
        socket.set_linger(Some(Duration::ZERO))?;
        std::io::Result::Ok(())
    });
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        socket.send(Chunk::heap(b"echo".to_vec()));
        all_sent(&socket).await;
        socket.shutdown_write();
        let mut all = Vec::new();
        while all.len() < 4 {
            socket.receive(true);
            wait().await;
            while let Some(piece) = socket.take_piece() {
                all.extend_from_slice(&piece);
            }
        }
        assert_eq!(all, b"echo");
        while socket.progress().end == End::Open {
            socket.receive(true);
            wait().await;
        }
        assert_eq!(socket.progress().end, End::Failed(libc::ECONNRESET));
    });
    peer.join().expect("peer").expect("echoed");
}

#[test]
fn reset_is_what_the_peer_sees() {
    let (address, peer) = peer(|mut stream| {
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map_err(|error| error.kind())
    });
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        socket.receive(true);
        socket.reset_on_close();
        drop(socket);
        let timer = ring.timer(current_waker().await);
        while ring.stats().slots > 0 {
            timer.set(ring.now() + Duration::from_millis(1));
            wait().await;
        }
    });
    assert_eq!(peer.join().expect("peer"), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_parked_socket_tells_the_keeper() {
    let (address, peer) = peer(|stream| stream.shutdown(Shutdown::Both));
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        ring.set_keeper(current_waker().await);
        socket.receive(false);
        socket.park();
        let mut disturbed = ring.take_disturbed();
        while disturbed.is_empty() {
            wait().await;
            disturbed = ring.take_disturbed();
        }
        assert_eq!(disturbed, [socket.key()]);
        assert!(!socket.is_quiet());
    });
    peer.join().expect("peer").expect("closed");
}

#[test]
fn timers_wake_a_parked_core_and_not_early() {
    let stats = on_ring(Settings::default(), |ring| async move {
        let timer = ring.timer(current_waker().await);
        for after_ms in [1, 5, 70, 250] {
            let started = Instant::now();
            timer.set(ring.now() + Duration::from_millis(after_ms));
            while !timer.has_fired() {
                wait().await;
            }
            assert!(
                started.elapsed() + Duration::from_millis(2) >= Duration::from_millis(after_ms)
            );
            assert!(started.elapsed() < LIMIT);
        }
    });
    assert!(stats.turns < 60, "a parked core does not poll: {stats:?}");
    assert!(stats.parked > Duration::from_millis(200), "{stats:?}");
}

#[test]
fn a_mailbox_wakes_a_parked_core() {
    let (sender, mailbox) = mailbox::<Instant>(4).expect("a mailbox");
    let posting = thread::spawn(move || {
        for _ in 0..100 {
            let mut message = Instant::now();
            while let Err(MailboxFull(back)) = sender.send(message) {
                thread::yield_now();
                message = back;
            }
        }
    });
    let stats = on_ring(Settings::default(), move |ring| async move {
        let mailbox = mailbox.open(&ring, current_waker().await);
        let mut got = 0;
        while got < 100 {
            match mailbox.take() {
                Some(_) => got += 1,
                None => wait().await,
            }
        }
    });
    posting.join().expect("posting");
    assert!(stats.parked < Duration::from_secs(5), "woken, not timed out: {stats:?}");
}

#[test]
fn a_task_woken_by_a_task_runs_before_the_core_parks() {
    let stats = on_ring(Settings::default(), |ring| async move {
        let baton = Rc::new(std::cell::Cell::new(0u32));
        let here = current_waker().await;
        let (theirs, back, other) = (baton.clone(), here.clone(), ring.clone());
        let their_waker: Rc<RefCell<Option<Waker>>> = Rc::default();
        let publish = their_waker.clone();
        ring.spawn(async move {
            *publish.borrow_mut() = Some(current_waker().await);
            while theirs.get() < 1_000 {
                if theirs.get() % 2 == 1 {
                    theirs.set(theirs.get() + 1);
                    other.wake(&back);
                }
                wait().await;
            }
        });
        while baton.get() < 1_000 {
            if baton.get().is_multiple_of(2) {
                baton.set(baton.get() + 1);
            }
            if let Some(waker) = their_waker.borrow().as_ref() {
                ring.wake(waker);
            }
            if their_waker.borrow().is_none() {
                ring.wake(&here);
            }
            wait().await;
        }
    });
    assert!(stats.parked < Duration::from_millis(500), "parked with work to do: {stats:?}");
}

/// More submissions in one turn than the queue holds.
#[test]
fn a_full_submission_queue_loses_nothing() {
    let settings = Settings { entries: 8, ..Settings::default() };
    on_ring(settings, |ring| async move {
        let waker = current_waker().await;
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address: SockAddr = listener.local_addr().expect("address").into();
        let connecting: Vec<Socket> = (0..100)
            .map(|_| Socket::connect(&ring, &address, waker.clone()).expect("socket"))
            .collect();
        while connecting.iter().any(|socket| socket.progress().connecting) {
            wait().await;
        }
        assert!(connecting.iter().all(|socket| socket.progress().end == End::Open));
    });
}

#[test]
fn a_listener_dropped_last_is_closed_before_the_driver_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let stats = on_ring(Settings::default(), |ring| async move {
        let listener = Listener::new(&ring, listener, current_waker().await);
        assert!(matches!(listener.accept(), Accepted::Nothing));
        // The driver has submitted the accept when the timer fires.
        let timer = ring.timer(current_waker().await);
        timer.set(ring.now() + Duration::from_millis(5));
        wait().await;
    });
    assert_eq!(stats.slots, 0);
    let refused = TcpStream::connect(address).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
}

#[test]
fn a_lease_to_which_nothing_comes_is_taken_back() {
    let (address, peer) = peer(|mut stream| {
        let mut go = [0];
        stream.read_exact(&mut go).and_then(|()| stream.write_all(b"late"))
    });
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        socket.fill(ring.lease(usize::MAX).expect("a lease"), 0, usize::MAX);
        assert!(ring.stats().leased_bytes > 0);
        while !socket.take_recalled() {
            wait().await;
        }
        while socket.progress().receiving {
            wait().await;
        }
        assert_eq!(ring.stats().leased_bytes, 0);
        socket.send(Chunk::heap(b"!".to_vec()));
        assert_eq!(read_to_end(&socket, false).await, b"late", "and nothing was lost");
    });
    peer.join().expect("peer").expect("written");
}
