//! Collectors that refuse, hang, or are not there: the data path does not notice, memory stays
//! bounded, the failure is counted, and once they are back every delta arrives.

mod common;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Collector, Counters, DEADLINE, Origin, Proxy, Wire, config, eventually, ok, quantile,
    sanitizer_kib,
};
use socket2::{Domain, SockAddr, Socket, Type};

const ROUNDS: usize = 6;
const CLIENTS: usize = 2;
const PER_ROUND: usize = 150;
/// How much worse the p99 of the data path may be with a bad collector, in milliseconds: on a
/// shared machine it is as much without one.
const WORSE_TIMES: f64 = 2.0;
const WORSE_MS: f64 = 5.0;
const GROWTH_KIB: u64 = 20 << 10;
const FAILURES: &str = "telemetry/export_failures/statsd";

fn start(origin: SocketAddr, exporter: &str) -> Proxy {
    let yaml = format!(
        "telemetry:\n  flush_interval_ms: 20\n  exporters: [{exporter}]\n{}",
        config(&[origin], "", "")
    );
    Proxy::start(&yaml, "0")
}

fn statsd(protocol: &str, address: SocketAddr) -> String {
    format!("{{kind: statsd, protocol: {protocol}, address: \"{address}\", interval_ms: 100}}")
}

/// A port where connecting is refused until `listen` is called, and that nobody else gets.
fn reserved() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&SockAddr::from(any)).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    (socket, address)
}

/// A proxy with its collector, and what it was measured at.
struct Subject {
    name: &'static str,
    proxy: Proxy,
    latencies: Vec<f64>,
    requests: u64,
    resident: u64,
}

impl Subject {
    fn new(name: &'static str, proxy: Proxy) -> Subject {
        Subject { name, proxy, latencies: Vec::new(), requests: 0, resident: 0 }
    }

    fn load(&mut self) {
        let address = self.proxy.address;
        let client = move || {
            let mut wire = Wire::connect(address);
            let ask = |_| {
                let began = Instant::now();
                assert_eq!(wire.get("/").status(), 200);
                began.elapsed().as_secs_f64() * 1e3
            };
            (0..PER_ROUND).map(ask).collect::<Vec<f64>>()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(client)).collect();
        for client in clients {
            self.latencies.extend(client.join().expect("clients do not fail"));
        }
        self.requests += (CLIENTS * PER_ROUND) as u64;
    }

    fn p99(&self) -> f64 {
        quantile(&self.latencies, 0.99)
    }

    fn failures(&self) -> u64 {
        self.proxy.metrics().get(FAILURES)
    }

    /// What the receiver calls the number of its requests.
    fn requests_path(&self) -> String {
        format!("{}/requests", self.proxy.server(0))
    }
}

/// Accepts and never reads, until it is told to.
struct Hanging {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Hanging {
    fn start() -> Hanging {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let kept = streams.clone();
        // Ends with the test: whoever accepts waits for nothing else.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                kept.lock().unwrap().push(stream);
            }
        });
        Hanging { address, streams }
    }

    /// Reads what has come and lets go of it.
    fn read(&self, counters: &mut Counters) {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap());
        streams.into_iter().for_each(|stream| add_all(stream, counters));
    }
}

/// Reads a connection to its end; of a line that was not written whole there is no newline.
fn add_all(mut stream: TcpStream, counters: &mut Counters) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut text = String::new();
    // A connection that broke is told by what came before that.
    let _ = stream.read_to_string(&mut text);
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    counters.add(&text[..whole]);
}

#[test]
fn the_data_path_does_not_notice_and_the_deltas_come_whole() {
    let origin = Origin::answering(|_| ok("fine"));
    let (refusing, refused) = reserved();
    let hanging = Hanging::start();
    // A port that was free a moment ago.
    let gone = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let start = |exporter: &str| start(origin.address, exporter);
    let mut subjects = [
        Subject::new("none", start("")),
        Subject::new("refuses", start(&statsd("tcp", refused))),
        Subject::new("hangs", start(&statsd("tcp", hanging.address))),
        Subject::new("is gone", start(&statsd("udp", gone))),
    ];
    // Everything that is allocated once is there after that.
    for subject in &mut subjects {
        subject.load();
        subject.latencies.clear();
        subject.resident = subject.proxy.memory().resident;
    }
    // Interleaved, so that what else the machine does is everybody's.
    for round in 0..ROUNDS {
        let before: Vec<u64> = subjects.iter().map(Subject::failures).collect();
        subjects.iter_mut().for_each(Subject::load);
        for (subject, before) in subjects.iter().zip(before).skip(1) {
            eventually(&format!("{} fails in round {round}", subject.name), || {
                subject.failures() > before
            });
        }
    }
    let most = subjects[0].p99() * WORSE_TIMES + WORSE_MS;
    for subject in &subjects {
        let (name, grown) = (subject.name, subject.proxy.memory().resident);
        let grown = grown.saturating_sub(subject.resident);
        eprintln!("{name}: p99 {:.2} ms (at most {most:.2}), {grown} KiB more", subject.p99());
        assert!(subject.p99() <= most, "{name}: p99 {} ms", subject.p99());
        assert!(grown < GROWTH_KIB + sanitizer_kib(), "{name}: {grown} KiB more");
    }
    let [none, refuses, hangs, is_gone] = subjects;
    assert_eq!(none.failures(), 0);
    come_back(&refuses, refusing);
    read_at_last(hangs, &hanging);
    be_there(&is_gone, gone);
}

/// It listens, and reads what comes: all that was counted meanwhile.
fn come_back(subject: &Subject, socket: Socket) {
    socket.listen(16).expect("a listener");
    let listener: TcpListener = socket.into();
    let mut counters = Counters::default();
    let path = subject.requests_path();
    // The first push has it all; those after that have nothing more of it.
    for _ in 0..3 {
        let (stream, _) = listener.accept().expect("the next push");
        add_all(stream, &mut counters);
        assert_eq!(counters.at(&path), subject.requests);
    }
    let failures = subject.failures();
    let (stream, _) = listener.accept().expect("the next push");
    add_all(stream, &mut counters);
    assert_eq!(subject.failures(), failures, "it succeeds now");
}

/// What was in its buffers was not sent again, and nothing is missing.
fn read_at_last(subject: Subject, hanging: &Hanging) {
    let mut counters = Counters::default();
    let path = subject.requests_path();
    eventually("everything was read", || {
        hanging.read(&mut counters);
        counters.at(&path) >= subject.requests
    });
    subject.proxy.stop();
    hanging.read(&mut counters);
    assert_eq!(counters.at(&path), subject.requests);
}

/// The port is there again.
fn be_there(subject: &Subject, address: SocketAddr) {
    let collector = Collector::start(UdpSocket::bind(address).expect("nobody took the port"));
    let path = subject.requests_path();
    eventually("the deltas have come", || collector.counters().at(&path) >= subject.requests);
    // Nor do they come twice.
    let failures = subject.failures();
    let seen = subject.proxy.metrics().get("telemetry/snapshots");
    subject.proxy.metrics_when("some pushes more", |it| it.get("telemetry/snapshots") > seen + 20);
    assert_eq!(subject.failures(), failures, "it succeeds now");
    assert_eq!(collector.finish().at(&path), subject.requests);
}

/// A receiver with no room for a push holds up a push, and nothing else.
#[test]
fn a_receiver_with_full_buffers_holds_up_nobody() {
    let origin = Origin::answering(|_| ok("fine"));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // Connections that are accepted have as little.
    socket.set_recv_buffer_size(1 << 10).expect("a small buffer");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&SockAddr::from(any)).expect("a port");
    socket.listen(1024).expect("a listener");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    let proxy = start(origin.address, &statsd("tcp", address));
    let metrics = proxy.metrics_when("pushes fail", |metrics| metrics.get(FAILURES) >= 3);
    let (failures, snapshots) = (metrics.get(FAILURES), metrics.get("telemetry/snapshots"));
    // Meanwhile merges go on, and so do scrapes and traffic.
    let mut client = proxy.connect();
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(client.get("/").text(), "fine");
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    proxy.metrics_when("it failed again, while merges went on", |metrics| {
        metrics.get(FAILURES) > failures
            && metrics.get("telemetry/snapshots") > snapshots + 5
            && metrics.get("rt/http/service/web/requests") == 50
    });
    // What waits for that receiver does not hold up the end for long.
    let began = Instant::now();
    proxy.stop();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(socket);
}
