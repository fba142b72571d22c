//! Where lines go, how they are packed for it, and when they count as sent.
//!
//! Each push has a socket of its own, so that a receiver that came back is found by the next one.
//!
//! - UDP: a datagram counts when the kernel took it and nobody refused it. What a receiver on this
//!   machine refuses is known at once; what is lost on a network is not known at all.
//! - Unix: a datagram counts when it is in the receiver's queue.
//! - TCP: our end is closed after the last line, and a receiver that has read to it closes its own,
//!   which says that all was read. One that does neither within a second (or until the deadline) is
//!   taken to have read what was written to it: the lines that were written whole count, and a line
//!   of which a part was written goes again. That nobody has said that it was read is counted as a
//!   failure all the same. A connection that is reset, or that the receiver
//!   closes before our end, counts for nothing, since a receiver that has read everything does not
//!   do that: what it did read of it goes twice, and what it did not is not lost. That it failed is
//!   counted, so a receiver that always does this can be seen.
//!
//! Knows no metric: a packet is bytes, with marks at the ends of lines.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Ends;
use super::lines::{Ledger, Line, Mark};

pub(super) const ADDRESS: &str =
    "an IP address and port (127.0.0.1:8125, [::1]:8125), or unix:/path with protocol: unix";

/// The longest path of a socket (`sun_path`, with its zero).
const PATH_MOST: usize = 107;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a TCP receiver may take to close after us.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a push may still take once the process is about to end.
pub(super) const AT_THE_END: Duration = Duration::from_secs(1);

/// Datagrams in a row, and the pause after them: 32 of 1,432 bytes are a fifth of the buffer that
/// a socket of Linux has by default.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// Bytes given to a stream at once.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Udp(SocketAddr),
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Udp(address) => write!(f, "udp {address}"),
            Destination::Tcp(address) => write!(f, "tcp {address}"),
            Destination::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    /// With the place where a mark's line ends, the newline of a stream included.
    pub(super) marks: Vec<(usize, Mark)>,
}

#[derive(Debug)]
pub(super) struct Packed {
    pub(super) packets: Vec<Packet>,
    /// Lines that fit into no packet, and are not sent.
    pub(super) too_long: usize,
}

impl Destination {
    pub(super) fn new(protocol: &str, address: &str) -> Result<Destination, String> {
        let refused = |why: &str| format!("address is {address:?}: {why}; allowed: {ADDRESS}");
        if let Some(path) = address.strip_prefix("unix:") {
            return match path.starts_with('/') && !path.contains('\0') {
                _ if protocol != "unix" => {
                    Err(refused(&format!("a Unix socket with protocol: {protocol}")))
                }
                true if path.len() <= PATH_MOST => Ok(Destination::Unix(path.into())),
                true => Err(refused(&format!("the path is longer than {PATH_MOST} bytes"))),
                false => Err(refused("the path does not begin with /")),
            };
        }
        let parsed = address.parse::<SocketAddr>();
        let parsed = parsed.map_err(|_| refused("not an IP address and port"))?;
        match protocol {
            _ if parsed.port() == 0 => Err(refused("nobody listens on port 0")),
            "udp" => Ok(Destination::Udp(parsed)),
            "tcp" => Ok(Destination::Tcp(parsed)),
            _ => Err(refused(&format!("no path, with protocol: {protocol}"))),
        }
    }

    /// Lines in their order, never split; in datagrams of up to `mtu_bytes`, or for a stream.
    pub(super) fn pack(&self, lines: Vec<Line>, mtu_bytes: usize) -> Packed {
        let (most, ends_lines) = match self {
            Destination::Tcp(_) => (CHUNK_BYTES, true),
            Destination::Udp(_) | Destination::Unix(_) => (mtu_bytes, false),
        };
        let mut packed = Packed { packets: Vec::new(), too_long: 0 };
        let mut packet = Packet::default();
        for Line { text, mark } in lines {
            if text.len() + usize::from(ends_lines) > most {
                packed.too_long += 1;
                continue;
            }
            // One newline: before it in a datagram that has others, behind it in a stream.
            if packet.bytes.len() + 1 + text.len() > most && !packet.bytes.is_empty() {
                packed.packets.push(std::mem::take(&mut packet));
            }
            if !ends_lines && !packet.bytes.is_empty() {
                packet.bytes.push(b'\n');
            }
            packet.bytes.extend_from_slice(text.as_bytes());
            if ends_lines {
                packet.bytes.push(b'\n');
            }
            let end = packet.bytes.len();
            packet.marks.extend(mark.map(|mark| (end, mark)));
        }
        if !packet.bytes.is_empty() {
            packed.packets.push(packet);
        }
        packed
    }

    /// Sends what it can until the deadline, and marks it. The first error, if there was one.
    pub(super) async fn send(
        &self,
        packets: &[Packet],
        deadline: &mut Deadline,
        ledger: &mut Ledger,
    ) -> io::Result<()> {
        match self {
            Destination::Udp(address) => {
                let here: IpAddr = match address {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((here, 0)).await?;
                socket.connect(address).await?;
                send_udp(&socket, packets, deadline, ledger).await
            }
            Destination::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                send_unix(&socket, packets, deadline, ledger).await
            }
            Destination::Tcp(address) => {
                let by = Instant::now() + CONNECT_TIMEOUT;
                let connect = async {
                    let connected = timeout_at(by, TcpStream::connect(address)).await;
                    connected.unwrap_or_else(|_| Err(late("connecting took too long")))
                };
                let stream = deadline.limit(connect).await?;
                send_tcp(stream, packets, deadline, ledger).await
            }
        }
    }
}

async fn send_udp(
    socket: &UdpSocket,
    packets: &[Packet],
    deadline: &mut Deadline,
    ledger: &mut Ledger,
) -> io::Result<()> {
    let mut outcome = Ok(());
    for (number, packet) in packets.iter().enumerate() {
        pace(number, deadline).await?;
        let sent = deadline.limit(socket.send(&packet.bytes)).await;
        // On this machine, a refusal of what was just sent is there already.
        let sent = sent.and_then(|_| socket.take_error()?.map_or(Ok(()), Err));
        match sent {
            Ok(()) => mark_all(packet, ledger),
            // The next may fare better: it may have been this one's size.
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

/// Ends with the first error: whoever does not take one will not take the next.
async fn send_unix(
    socket: &UnixDatagram,
    packets: &[Packet],
    deadline: &mut Deadline,
    ledger: &mut Ledger,
) -> io::Result<()> {
    for (number, packet) in packets.iter().enumerate() {
        pace(number, deadline).await?;
        deadline.limit(socket.send(&packet.bytes)).await?;
        mark_all(packet, ledger);
    }
    Ok(())
}

async fn pace(number: usize, deadline: &mut Deadline) -> io::Result<()> {
    if number == 0 || !number.is_multiple_of(BURST) {
        return Ok(());
    }
    let pause = async {
        sleep(PAUSE).await;
        Ok(())
    };
    deadline.limit(pause).await
}

fn mark_all(packet: &Packet, ledger: &mut Ledger) {
    packet.marks.iter().for_each(|(_, mark)| ledger.mark(mark));
}

async fn send_tcp(
    mut stream: TcpStream,
    packets: &[Packet],
    deadline: &mut Deadline,
    ledger: &mut Ledger,
) -> io::Result<()> {
    let mut written = Vec::new();
    let mut outcome = Ok(());
    for packet in packets {
        let (bytes, result) = write(&stream, &packet.bytes, deadline).await;
        written.push(bytes);
        outcome = result;
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() {
        outcome = close(&mut stream, deadline).await;
    }
    // Late is the one error after which the receiver may still read.
    let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    if outcome.as_ref().err().is_none_or(is_late) {
        for (packet, written) in packets.iter().zip(written) {
            let whole = packet.marks.iter().filter(|(end, _)| *end <= written);
            whole.for_each(|(_, mark)| ledger.mark(mark));
        }
    }
    outcome
}

/// How much was written, and what stopped it.
async fn write(
    stream: &TcpStream,
    bytes: &[u8],
    deadline: &mut Deadline,
) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        let ready = deadline.limit(stream.writable()).await;
        match ready.and_then(|()| stream.try_write(&bytes[written..])) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Closes our end and waits for the receiver's.
async fn close(stream: &mut TcpStream, deadline: &mut Deadline) -> io::Result<()> {
    if let Ok(0) = stream.try_read(&mut [0; 1024]) {
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, "closed before our end"));
    }
    poll_fn(|context| Pin::new(&mut *stream).poll_shutdown(context)).await?;
    let by = Instant::now() + CLOSE_TIMEOUT;
    let closed =
        async { timeout_at(by, read_to_end(stream)).await.unwrap_or_else(|_| Err(late("no end"))) };
    deadline.limit(closed).await?;
    // A reset after its end is not among what is read.
    stream.take_error()?.map_or(Ok(()), Err)
}

async fn read_to_end(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0; 1024]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn late(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// When a push has to be over: at its time, or soon after `ends` turned true.
pub(super) struct Deadline {
    passes: Pin<Box<dyn Future<Output = ()> + Send>>,
    has_passed: bool,
}

impl Deadline {
    pub(super) fn new(at: Instant, mut ends: Ends) -> Deadline {
        let passes = async move {
            let has_ended = timeout_at(at, ends.wait_for(|ends| *ends)).await.is_ok();
            if has_ended {
                sleep_until(at.min(Instant::now() + AT_THE_END)).await;
            }
        };
        Deadline { passes: Box::pin(passes), has_passed: false }
    }

    /// What comes of `work`, or that it is too late for it.
    async fn limit<T>(&mut self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            self.has_passed = self.has_passed || self.passes.as_mut().poll(context).is_ready();
            match self.has_passed {
                true => Poll::Ready(Err(late("the receiver took too long"))),
                false => Poll::Pending,
            }
        })
        .await
    }
}
