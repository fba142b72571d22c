//! How connections end: what a receive says of it, whoever has heard of it before.

use std::os::unix::net::UnixStream;

use super::*;

/// A peer that has written `part` and then closed, before this returns, and the ring's end of it.
async fn left_by_peer(ring: &Ring, part: &'static [u8], linger: Option<Duration>) -> Socket {
    let (address, peer) = peer(move |mut stream| {
        stream.write_all(part)?;
        socket2::Socket::from(stream).set_linger(linger)
    });
    let socket = connected(ring, &address).await;
    peer.join().expect("peer").expect("written");
    socket
}

/// Sends until one fails: that has heard then what the kernel tells once.
async fn send_in_vain(ring: &Ring, socket: &Socket) -> i32 {
    let timer = ring.timer(current_waker().await);
    loop {
        socket.send(Chunk::heap(b"in vain".to_vec()));
        all_sent(socket).await;
        if let Some(error) = socket.progress().send_error {
            return error;
        }
        assert!(ring.now() < LIMIT, "every send succeeds");
        timer.set(ring.now() + Duration::from_millis(1));
        wait().await;
    }
}

#[test]
fn a_reset_that_a_send_has_met_is_no_end() {
    on_ring(Settings::default(), move |ring| async move {
        let socket = left_by_peer(&ring, b"part", Some(Duration::ZERO)).await;
        assert_eq!(send_in_vain(&ring, &socket).await, libc::ECONNRESET);
        assert_eq!(read_to_end(&socket, true).await, b"part");
        assert_eq!(socket.progress().end, End::Failed(libc::ECONNRESET));

        let socket = left_by_peer(&ring, b"", Some(Duration::ZERO)).await;
        assert_eq!(send_in_vain(&ring, &socket).await, libc::ECONNRESET);
        socket.fill(ring.lease(100).expect("a lease"), 0, 100);
        while socket.progress().receiving {
            wait().await;
        }
        assert_eq!(socket.progress().end, End::Failed(libc::ECONNRESET));
    });
}

/// The reset answers what was sent to a peer that had said all and closed.
#[test]
fn an_end_before_a_reset_is_an_end() {
    on_ring(Settings::default(), move |ring| async move {
        let socket = left_by_peer(&ring, b"all", None).await;
        assert_eq!(send_in_vain(&ring, &socket).await, libc::EPIPE);
        assert_eq!(read_to_end(&socket, true).await, b"all");
        assert_eq!(socket.progress().end, End::Closed);
    });
}

/// A receive has its memory from the kernel or from a lease, and never from both.
#[test]
fn a_lease_for_a_receive_that_is_under_way_is_given_back() {
    let (address, peer) = peer(|mut stream| {
        let mut go = [0];
        stream.read_exact(&mut go).and_then(|()| stream.write_all(b"all"))
    });
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        let lease = || ring.lease(1000).expect("a lease");
        socket.receive(true);
        socket.fill(lease(), 0, 1000);
        assert_eq!(ring.stats().leased_bytes, 0);
        socket.stop_receiving();
        while socket.progress().receiving {
            wait().await;
        }
        socket.fill(lease(), 0, 1000);
        let held = ring.stats().leased_bytes;
        assert!(held > 0);
        socket.fill(lease(), 0, 1000);
        assert_eq!(ring.stats().leased_bytes, held);
        socket.send(Chunk::heap(b"!".to_vec()));
        while !socket.progress().has_filled {
            wait().await;
        }
        socket.fill(lease(), 0, 1000);
        let (filled, range) = socket.take_filled().expect("what came");
        assert_eq!(&filled[range], b"all");
        drop(filled);
        assert_eq!(read_to_end(&socket, true).await, b"");
        socket.fill(lease(), 0, 1000);
        assert_eq!(ring.stats().leased_bytes, 0, "behind the end");
    });
    peer.join().expect("peer").expect("written");
}

/// Whoever reads must not take what came for all there is, nor may anything stay under way.
#[test]
fn a_connection_is_reset_at_once_where_it_can_be() {
    let (address, peer) = peer(|mut stream| {
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
    });
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    on_ring(Settings::default(), move |ring| async move {
        let socket = connected(&ring, &address).await;
        socket.send(Chunk::heap(b"part".to_vec()));
        all_sent(&socket).await;
        socket.receive(true);
        ring.inner.core.borrow_mut().disconnect(socket.key());
        while socket.progress().receiving {
            wait().await;
        }
        assert!(matches!(socket.progress().end, End::Failed(_)), "{:?}", socket.progress());
        assert_eq!(peer.join().expect("peer"), Err(std::io::ErrorKind::ConnectionReset));

        let unix = Socket::adopt(&ring, ours, Whose::Client, current_waker().await);
        unix.receive(true);
        ring.inner.core.borrow_mut().disconnect(unix.key());
        while unix.progress().receiving {
            wait().await;
        }
        assert_eq!(theirs.read(&mut [0]).expect("a Unix socket knows no reset"), 0);
    });
}
