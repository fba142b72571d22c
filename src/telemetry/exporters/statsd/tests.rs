//! Pushes to receivers that work, and to those that refuse, reset, hang and are not there: what
//! arrived adds up to what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::lines::{Line, Mark};
use super::sink::Packet;
use super::*;
use crate::telemetry::feed::Hub;
use crate::telemetry::sample;

mod grammar;

use grammar::Received;

/// A runtime whose time moves when everybody waits for it.
fn paused<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(work)
}

/// One whose time is real, for peers on threads of their own.
fn real<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn settings() -> ExporterSettings {
    ExporterSettings::defaults(KIND.spec).with_text("address", "127.0.0.1:8125")
}

fn pusher(hub: &Hub, settings: &ExporterSettings) -> Pusher {
    Pusher::new(Statsd::new(settings).unwrap(), hub.feed("statsd"))
}

/// A push in a process that does not end meanwhile.
async fn push(pusher: &mut Pusher) {
    let (_ends, ends) = watch::channel(false);
    pusher.push(Deadline::new(Instant::now() + Duration::from_secs(10), ends)).await;
}

/// Counts a little more of everything.
fn grow(hub: &Hub, by: u64) {
    hub.update(|merger| {
        let state = merger.state_mut();
        state.telemetry.snapshots += by;
        state.process.cpu_us += 1_700 * by;
        state.servers[0].as_mut().unwrap().counts.requests += 3 * by;
        state.endpoints[1].as_mut().unwrap().counts.success += by;
        state.version += 1;
    });
}

/// What all pushes together must have brought.
fn totals(hub: &Hub, pusher: &Pusher) -> BTreeMap<String, u64> {
    let lines = hub.read(|state| pusher.format.lines(state, &mut Ledger::default()));
    let mut received = Received::default();
    lines.iter().for_each(|line| received.take(&line.text));
    received.counters
}

fn failures(hub: &Hub) -> u64 {
    hub.update(|_| {});
    hub.read(|state| state.telemetry.export_failures.get("statsd"))
}

fn drain(socket: &UdpSocket, received: &mut Received) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 65_536];
    let mut datagrams = 0;
    while let Ok(count) = socket.recv(&mut buffer) {
        received.take(std::str::from_utf8(&buffer[..count]).unwrap());
        datagrams += 1;
    }
    datagrams
}

#[test]
fn over_udp_what_was_refused_goes_with_the_next_push() {
    for dialect in ["etsy", "dogstatsd"] {
        let hub = sample::hub();
        let settings = settings().with_text("dialect", dialect).with_number("mtu_bytes", 512);
        let mut pusher = pusher(&hub, &settings);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let live = Destination::Udp(socket.local_addr().unwrap());
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut received = Received::default();
        for round in 0..9 {
            let works = round % 3 == 2;
            pusher.destination = if works { live.clone() } else { Destination::Udp(gone) };
            real(push(&mut pusher));
            assert_eq!(drain(&socket, &mut received) > 0, works);
            assert_eq!(received.counters == totals(&hub, &pusher), works, "round {round}");
            grow(&hub, 5 + round);
        }
        assert_eq!(failures(&hub), 6);
    }
}

#[test]
fn only_what_changed_is_counted_and_gauges_always_go() {
    let (hub, mut ledger) = (sample::hub(), Ledger::default());
    let pusher = pusher(&hub, &settings());
    let mut lines = || hub.read(|state| pusher.format.lines(state, &mut ledger));
    let first = lines();
    let gauges = |lines: &[Line]| lines.iter().filter(|line| line.mark.is_none()).count();
    assert!(gauges(&first) > 100 && gauges(&first) < first.len());
    first.iter().filter_map(|line| line.mark.as_ref()).for_each(|mark| ledger.mark(mark));
    let mut lines = || hub.read(|state| pusher.format.lines(state, &mut ledger));
    let second = lines();
    assert_eq!((second.len(), gauges(&second)), (gauges(&first), gauges(&first)));
    grow(&hub, 1);
    let third = lines();
    let counters: Vec<&str> =
        third.iter().filter(|line| line.mark.is_some()).map(|line| &*line.text).collect();
    assert_eq!(counters.len(), 4, "{counters:?}");
    assert!(counters.contains(&"ringlane.rt.http.server.127_0_0_1.4140.requests:3|c"));
}

#[test]
fn a_counter_that_began_anew_is_sent_whole() {
    let hub = sample::hub();
    let mut pusher = pusher(&hub, &settings());
    let mut sent = |served: bool| {
        let lines = hub.read(|state| pusher.format.lines(state, &mut pusher.ledger));
        let is_it = |line: &&Line| line.text.contains(".telemetry.snapshots:");
        let text = lines.iter().find(is_it).map(|line| line.text.clone()).unwrap_or_default();
        lines.iter().filter_map(|line| line.mark.as_ref().filter(|_| served)).for_each(|mark| {
            pusher.ledger.mark(mark);
        });
        text.rsplit_once(':').map_or(String::new(), |(_, value)| value.to_owned())
    };
    let set = |total| hub.update(|merger| merger.state_mut().telemetry.snapshots = total);
    assert_eq!((sent(false), sent(true), sent(true)), ("2|c".into(), "2|c".into(), "".into()));
    set(100);
    assert_eq!((sent(false), sent(true)), ("98|c".into(), "98|c".into()));
    set(60);
    assert_eq!((sent(false), sent(true), sent(true)), ("60|c".into(), "60|c".into(), "".into()));
    // Gone for one push, it is forgotten.
    let paths = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    hub.update(|merger| merger.state_mut().telemetry.scope.paths = paths(&[]));
    assert_eq!(sent(true), "");
    hub.update(|merger| merger.state_mut().telemetry.scope.paths = paths(&["telemetry"]));
    set(70);
    assert_eq!(sent(true), "70|c");
}

/// Reads one connection to its end on a thread.
fn reader(listener: &TcpListener) -> JoinHandle<String> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    })
}

/// Closes one connection with all of it unread, which resets it.
fn resetter(listener: &TcpListener, waits: bool) -> JoinHandle<String> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        if waits {
            socket.peek(&mut [0]).unwrap();
        }
        String::new()
    })
}

#[test]
fn over_tcp_what_was_refused_or_reset_goes_with_the_next_push() {
    let hub = sample::hub();
    let mut pusher = pusher(&hub, &settings().with_text("protocol", "tcp"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let live = Destination::Tcp(listener.local_addr().unwrap());
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut received = Received::default();
    for round in 0..12 {
        let peer = match round % 4 {
            0 => None,
            1 => Some(resetter(&listener, true)),
            2 => Some(resetter(&listener, false)),
            _ => Some(reader(&listener)),
        };
        pusher.destination = if peer.is_some() { live.clone() } else { Destination::Tcp(gone) };
        real(push(&mut pusher));
        let text = peer.map_or(String::new(), |peer| peer.join().unwrap());
        assert!(text.is_empty() || text.ends_with('\n'));
        received.take(&text);
        let works = round % 4 == 3;
        assert_eq!(received.counters == totals(&hub, &pusher), works, "round {round}");
        grow(&hub, 1 + round);
    }
    assert_eq!(failures(&hub), 9);
}

#[test]
fn over_tcp_what_a_receiver_that_hangs_has_in_its_buffer_is_not_sent_again() {
    let hub = sample::hub();
    let mut pusher = pusher(&hub, &settings().with_text("protocol", "tcp"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    pusher.destination = Destination::Tcp(listener.local_addr().unwrap());
    let mut received = Received::default();
    for _ in 0..3 {
        paused(push(&mut pusher));
        grow(&hub, 1);
    }
    paused(push(&mut pusher));
    for _ in 0..4 {
        received.take(&reader(&listener).join().unwrap());
    }
    assert_eq!(received.counters, totals(&hub, &pusher));
    assert_eq!(failures(&hub), 4, "nobody said that any of it was read");
}

/// A ledger that knows `count` counters, each with 1 to be sent, in lines of `bytes`.
fn counters(count: usize, bytes: usize) -> (Ledger, Vec<Line>) {
    let ledger = Ledger::default();
    let line = |number: usize| {
        let id = format!("n{number:0width$}", width = bytes - 5);
        Line { text: format!("{id}:1|c"), mark: Some(Mark { id, total: 1 }) }
    };
    (ledger, (0..count).map(line).collect())
}

/// A ledger's counters that have been sent.
fn marked(ledger: &Ledger) -> BTreeSet<String> {
    ledger.sent().map(str::to_owned).collect()
}

#[test]
fn over_tcp_a_push_ends_in_time_and_what_was_written_whole_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let destination = Destination::Tcp(listener.local_addr().unwrap());
    // More than the buffers of both ends hold.
    let (mut ledger, lines) = counters(400_000, 60);
    ledger.expect(&lines);
    let packets = destination.pack(lines, 1_432).packets;
    let (_ends, ends) = watch::channel(false);
    let interval = Duration::from_secs(10);
    let (outcome, took) = paused(async {
        let start = Instant::now();
        let mut deadline = Deadline::new(start + interval, ends);
        (destination.send(&packets, &mut deadline, &mut ledger).await, start.elapsed())
    });
    assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(took >= interval && took < interval + Duration::from_millis(20), "{took:?}");
    let text = reader(&listener).join().unwrap();
    let whole = &text[..text.rfind('\n').unwrap() + 1];
    let read = whole.lines().map(|line| line.strip_suffix(":1|c").unwrap().to_owned());
    let read: BTreeSet<String> = read.collect();
    assert!(read.len() > 100 && read.len() < 400_000, "{}", read.len());
    assert!(read == marked(&ledger));
}

#[test]
fn over_udp_a_datagram_that_failed_does_not_stop_the_others() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let destination = Destination::Udp(socket.local_addr().unwrap());
    let (mut ledger, lines) = counters(3, 40);
    ledger.expect(&lines);
    let mut packets = destination.pack(lines, 40).packets;
    assert_eq!(packets.len(), 3);
    // More than UDP can carry.
    packets[1].bytes.resize(70_000, b'x');
    let (_ends, ends) = watch::channel(false);
    let sent = real(async {
        let mut deadline = Deadline::new(Instant::now() + Duration::from_secs(10), ends);
        destination.send(&packets, &mut deadline, &mut ledger).await
    });
    assert!(sent.is_err());
    let id = |packet: &Packet| packet.marks[0].1.id.clone();
    assert_eq!(marked(&ledger), BTreeSet::from([id(&packets[0]), id(&packets[2])]));
}

/// A path of its own for a socket.
fn socket_path(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("ringlane-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn a_unix_socket_may_come_later() {
    let (hub, path) = (sample::hub(), socket_path("later"));
    let address = format!("unix:{}", path.display());
    let settings = settings().with_text("protocol", "unix").with_text("address", &address);
    let mut pusher = pusher(&hub, &settings.with_number("mtu_bytes", 65_000));
    let mut received = Received::default();
    for round in 0..6 {
        let socket = (round % 2 == 1).then(|| UnixDatagram::bind(&path).unwrap());
        real(push(&mut pusher));
        if let Some(socket) = socket {
            let mut buffer = [0; 65_536];
            let count = socket.recv(&mut buffer).unwrap();
            received.take(std::str::from_utf8(&buffer[..count]).unwrap());
            assert_eq!(received.counters, totals(&hub, &pusher));
            std::fs::remove_file(&path).unwrap();
        }
        grow(&hub, 2);
    }
    assert_eq!(failures(&hub), 3);
}

#[test]
fn a_unix_socket_that_nobody_reads_does_not_hold_up_for_long() {
    let path = socket_path("full");
    let socket = UnixDatagram::bind(&path).unwrap();
    let destination = Destination::Unix(path.clone());
    let (mut ledger, lines) = counters(5_000, 40);
    ledger.expect(&lines);
    let packets = destination.pack(lines, 40).packets;
    let (_ends, ends) = watch::channel(false);
    let took = paused(async {
        let start = Instant::now();
        let mut deadline = Deadline::new(start + Duration::from_secs(10), ends);
        destination.send(&packets, &mut deadline, &mut ledger).await.unwrap_err();
        start.elapsed()
    });
    assert!(took.as_secs() == 10, "{took:?}");
    socket.set_nonblocking(true).unwrap();
    let (mut buffer, mut read) = ([0; 100], BTreeSet::new());
    while let Ok(count) = socket.recv(&mut buffer) {
        let text = std::str::from_utf8(&buffer[..count]).unwrap();
        read.insert(text.strip_suffix(":1|c").unwrap().to_owned());
    }
    assert_eq!(read, marked(&ledger));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn packets_are_filled_never_overfull_and_lines_never_split() {
    let mut state = 88_172_645_463_325_252u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below) as usize
    };
    let address = "127.0.0.1:1".parse().unwrap();
    for (round, destination) in
        [Destination::Udp(address), Destination::Tcp(address)].iter().cycle().take(60).enumerate()
    {
        let (mtu, stream) = (256 + random(3_000), matches!(destination, Destination::Tcp(_)));
        let most = if stream { 64 << 10 } else { mtu };
        let texts: Vec<String> =
            (0..2_000).map(|n| format!("{n:0width$}", width = 4 + random(300))).collect();
        let mark = |text: &String| Some(Mark { id: text.clone(), total: 1 });
        let lines = texts.iter().map(|text| Line { text: text.clone(), mark: mark(text) });
        let packed = destination.pack(lines.collect(), mtu);
        let mut found: Vec<String> = Vec::new();
        for packet in &packed.packets {
            assert!(packet.bytes.len() <= most && !packet.bytes.is_empty(), "round {round}");
            let text = std::str::from_utf8(&packet.bytes).unwrap();
            assert_eq!(text.ends_with('\n'), stream);
            assert!(!text.contains("\n\n"));
            for ((end, mark), line) in packet.marks.iter().zip(text.lines()) {
                assert!(mark.id == line && text[..*end].trim_end().ends_with(line));
            }
            assert_eq!(packet.marks.len(), text.lines().count());
            found.extend(text.lines().map(str::to_owned));
        }
        for pair in packed.packets.windows(2) {
            let next = pair[1].bytes.split(|byte| *byte == b'\n').next().unwrap();
            assert!(pair[0].bytes.len() + 1 + next.len() > most, "there was room");
        }
        let fits = |text: &&String| text.len() + usize::from(stream) <= most;
        assert!(texts.iter().filter(fits).eq(&found));
        assert_eq!(packed.too_long, texts.len() - found.len());
    }
}

#[test]
fn a_line_that_fits_nowhere_is_a_failure_and_the_others_go() {
    let hub = sample::hub();
    let long = "x".repeat(300);
    hub.update(|merger| merger.state_mut().telemetry.scope.paths.push(long.clone()));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut pusher = pusher(&hub, &settings().with_number("mtu_bytes", 256));
    pusher.destination = Destination::Udp(socket.local_addr().unwrap());
    real(push(&mut pusher));
    let mut received = Received::default();
    drain(&socket, &mut received);
    let mut expected = totals(&hub, &pusher);
    expected.retain(|name, _| !name.contains(&long));
    assert_eq!(received.counters, expected);
    assert_eq!(failures(&hub), 1);
}

#[test]
fn it_pushes_at_its_times_and_once_more_at_the_end() {
    let hub = sample::hub();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let settings = settings().with_text("address", &address).with_number("mtu_bytes", 65_000);
    let (received, pushes, took) = paused(async {
        let (end, ends) = watch::channel(false);
        let start = Instant::now();
        let task = (KIND.make)(&settings).unwrap().task(hub.feed("statsd"), ends).unwrap();
        let task = tokio::spawn(task);
        for _ in 0..7 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            grow(&hub, 3);
        }
        end.send_replace(true);
        task.await.unwrap();
        let mut received = Received::default();
        let pushes = drain(&socket, &mut received);
        (received, pushes, start.elapsed())
    });
    // After 10, 20 and 30 seconds, and at the end, which is after 35.
    assert_eq!((pushes, took.as_secs()), (4, 35));
    assert_eq!(received.counters, totals(&hub, &pusher(&hub, &settings)));
}

#[test]
fn the_end_does_not_wait_for_a_receiver_that_hangs() {
    let path = socket_path("end");
    let _socket = UnixDatagram::bind(&path).unwrap();
    // Datagrams for which its queue has no room.
    let fill = UnixDatagram::unbound().unwrap();
    fill.set_nonblocking(true).unwrap();
    while fill.send_to(b"x", &path).is_ok() {}
    let address = format!("unix:{}", path.display());
    let settings = settings().with_text("protocol", "unix").with_text("address", &address);
    let settings = settings.with_number("interval_ms", 60_000);
    let hub = sample::hub();
    let took = paused(async {
        let (end, ends) = watch::channel(false);
        let task = (KIND.make)(&settings).unwrap().task(hub.feed("statsd"), ends).unwrap();
        let task = tokio::spawn(task);
        // In the middle of the first push.
        tokio::time::sleep(Duration::from_secs(70)).await;
        let start = Instant::now();
        end.send_replace(true);
        task.await.unwrap();
        start.elapsed()
    });
    assert!(took <= 2 * sink::AT_THE_END + Duration::from_millis(20), "{took:?}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_with_what_is_allowed() {
    for (protocol, address, fits) in [
        ("udp", "127.0.0.1:8125", true),
        ("tcp", "[::1]:8125", true),
        ("unix", "unix:/run/statsd.sock", true),
        ("udp", "", false),
        ("udp", "127.0.0.1", false),
        ("udp", "localhost:8125", false),
        ("tcp", "127.0.0.1:0", false),
        ("tcp", "127.0.0.1:99999", false),
        ("udp", "unix:/run/statsd.sock", false),
        ("unix", "127.0.0.1:8125", false),
        ("unix", "unix:statsd.sock", false),
        ("unix", "unix:", false),
        ("unix", &format!("unix:/{}", "x".repeat(120)), false),
    ] {
        let settings = settings().with_text("protocol", protocol).with_text("address", address);
        let made = (KIND.make)(&settings);
        assert_eq!(made.is_ok(), fits, "{protocol} {address}");
        assert!(made.err().is_none_or(|why| why.contains("allowed: ") && why.contains(address)));
    }
    for (prefix, fits) in
        [("", true), ("a.b_c-1", true), ("a..b", false), ("a.", false), ("1a", false), ("ä", false)]
    {
        assert_eq!((KIND.make)(&settings().with_text("prefix", prefix)).is_ok(), fits, "{prefix}");
    }
}
