//! What scrapes and telemetry cost the data path: three Ringlanes with 1,000 endpoints in 200
//! services side by side in one run of proxybench, one without telemetry, one with it, and one
//! with it that is scraped every 100 ms.
//!
//! ```sh
//! cargo build --release && cargo bench --bench scrapes -- ../shared/tools/proxybench/proxybench.py
//! ```
//!
//! Slices are a second long, so that each has its share of what telemetry does once a second (the
//! flush, the merge, the rendering); every endpoint has answered, so that every series is shown.
//! Scrapes are what Prometheus sends: OpenMetrics, gzip. Without a path it only says so, since
//! proxybench is no part of this repository.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

const SERVICES: usize = 200;
const ENDPOINTS_PER_SERVICE: usize = 5;
/// Requests to each service before the measuring.
const REQUESTS_PER_SERVICE: usize = 100;
/// Rounds of one second for each of three proxies: so many bring the standard error to 1 %.
const ROUNDS: usize = 260;
/// Rounds in which nothing is measured, and every endpoint gets its requests.
const WARM_ROUNDS: usize = 8;
const EVERY: Duration = Duration::from_millis(100);
/// The core that the load has; proxies have core 0.
const LOAD_CORE: usize = 1;
const PROXYBENCH_ORIGINS: [u16; 2] = [9001, 9002];

/// A Ringlane of the run.
struct Lane {
    name: &'static str,
    port: u16,
    /// `None`: without telemetry and admin.
    admin: Option<u16>,
}

const LANES: [Lane; 3] = [
    Lane { name: "on", port: 8080, admin: Some(9990) },
    Lane { name: "off", port: 8081, admin: None },
    Lane { name: "scraped", port: 8082, admin: Some(9991) },
];

/// As Prometheus 2.42 asks without native histograms, and with them.
const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
const PROTOBUF: &str = "application/vnd.google.protobuf;\
    proto=io.prometheus.client.MetricFamily;encoding=delimited,text/plain;q=0.5";

fn main() {
    let Some(tool) = std::env::args().skip(1).find(|it| !it.starts_with('-')) else {
        println!("scrapes: needs the path of proxybench.py");
        return;
    };
    let mut core = CpuSet::new();
    core.set(LOAD_CORE);
    sched_setaffinity(None, &core).expect("there are two cores");
    let folder = std::env::temp_dir().join(format!("ringlane-scrapes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for configurations");
    let statsd = UdpSocket::bind("127.0.0.1:0").expect("a port for statsd");
    let statsd_port = statsd.local_addr().expect("it is bound").port();
    thread::spawn(move || while statsd.recv(&mut [0; 65_536]).is_ok() {});
    let origins: Vec<u16> = (PROXYBENCH_ORIGINS.len()..ENDPOINTS_PER_SERVICE)
        .map(|_| origin(TcpListener::bind("127.0.0.1:0").expect("a port")))
        .chain(PROXYBENCH_ORIGINS)
        .collect();

    let mut command = Command::new("python3");
    command.args([&tool, "--peers", "", "--slice-ms", "1000"]);
    command.args(["--rounds", &ROUNDS.to_string(), "--warm", &WARM_ROUNDS.to_string()]);
    for lane in &LANES {
        let path = folder.join(format!("{}.yaml", lane.name));
        std::fs::write(&path, configuration(lane, &origins, statsd_port)).expect("room on disk");
        let spec = format!("{}={}={} {}", lane.name, lane.port, binary().display(), path.display());
        command.args(["--proxy", &spec]);
    }
    let mut run = command.stdout(Stdio::inherit()).spawn().expect("python3 is there");
    let ended = Arc::new(AtomicBool::new(false));
    let scraping = thread::spawn({
        let ended = ended.clone();
        move || {
            LANES.iter().filter(|lane| lane.admin.is_some()).for_each(fill);
            scrape(&ended)
        }
    });
    let status = run.wait().expect("it was started");
    ended.store(true, Ordering::Relaxed);
    let _ = std::fs::remove_dir_all(&folder);
    assert!(status.success(), "proxybench: {status}");
    scraping.join().expect("the scrapes were answered");
}

/// What `cargo build --release` left.
fn binary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/ringlane")
}

/// 200 services of five endpoints each, and one with proxybench's origins for everything else.
fn configuration(lane: &Lane, origins: &[u16], statsd_port: u16) -> String {
    let mut text = "runtime: {cores: \"0\"}\n".to_owned();
    match lane.admin {
        Some(port) => {
            text += &format!("admin: {{port: {port}}}\ntelemetry:\n  exporters:\n");
            text += &format!("  - {{kind: statsd, address: \"127.0.0.1:{statsd_port}\"}}\n");
        }
        None => text += "admin: off\ntelemetry: off\n",
    }
    text += &format!("routers:\n- servers: [{{ip: 127.0.0.1, port: {}}}]\n  routes:\n", lane.port);
    for service in 0..SERVICES {
        text += &format!("  - {{path_prefix: /{service}, service: service-{service}}}\n");
    }
    text += "  - {service: origins}\nservices:\n";
    let list = |ports: &[u16]| {
        let endpoints = ports.iter().map(|port| format!("\"127.0.0.1:{port}\""));
        endpoints.collect::<Vec<_>>().join(", ")
    };
    let row = |name: &str, ports: &[u16]| {
        format!("  {name}: {{endpoints: [{}], balancer: {{kind: least_loaded}}}}\n", list(ports))
    };
    text += &row("origins", &PROXYBENCH_ORIGINS);
    for service in 0..SERVICES {
        text += &row(&format!("service-{service}"), origins);
    }
    text
}

/// Answers everything, one thread per connection; returns its port.
fn origin(listener: TcpListener) -> u16 {
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = BufReader::new(&client);
                while read_head(&mut reader).is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
                    if (&client).write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Sends every service of a lane its requests, over one connection.
fn fill(lane: &Lane) {
    let client = connect(lane.port);
    let mut reader = BufReader::new(&client);
    for at in 0..SERVICES * REQUESTS_PER_SERVICE {
        let path = at % SERVICES;
        let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        (&client).write_all(request.as_bytes()).expect("it is up");
        read_answer(&mut reader);
    }
}

/// Scrapes until the run is over; then says how long that took, and what each format takes.
fn scrape(ended: &AtomicBool) {
    let port = LANES[2].admin.expect("it has admin");
    const WARM: Duration = Duration::from_secs((WARM_ROUNDS * LANES.len()) as u64);
    let began = Instant::now();
    let mut took = Vec::new();
    let mut bytes = 0;
    let mut formats = String::new();
    while !ended.load(Ordering::Relaxed) {
        let Some((time, size)) = ask(port, OPENMETRICS, true) else { break };
        bytes = size;
        thread::sleep(EVERY.saturating_sub(time));
        if formats.is_empty() && began.elapsed() > WARM {
            formats = each_format(port);
        }
        if began.elapsed() > WARM {
            took.push(time);
        }
    }
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{} scrapes of {bytes} bytes (gzip): {:.1?} median, {:.1?} p90, {:.1?} p99, {:.1?} longest",
        took.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
    );
    print!("{formats}");
}

/// The longest of ten scrapes over more than a second, so that some are rendered anew.
fn each_format(port: u16) -> String {
    let mut lines = String::new();
    for (name, accept) in
        [("text", "text/plain"), ("OpenMetrics", OPENMETRICS), ("protobuf", PROTOBUF)]
    {
        for gzip in [false, true] {
            let asked: Vec<_> = (0..15)
                .filter_map(|_| {
                    thread::sleep(EVERY);
                    ask(port, accept, gzip)
                })
                .collect();
            let longest = asked.iter().map(|it| it.0).max().unwrap_or_default();
            let size = asked.last().map_or(0, |it| it.1);
            let coding = if gzip { ", gzip" } else { "" };
            lines += &format!("  {name}{coding}: {size} bytes, {longest:.1?} at most\n");
        }
    }
    lines
}

/// One scrape on a connection of its own: how long it took, and its bytes. `None`: it is down.
fn ask(port: u16, accept: &str, gzip: bool) -> Option<(Duration, usize)> {
    let began = Instant::now();
    let client = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let coding = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n{coding}\r\n");
    (&client).write_all(request.as_bytes()).ok()?;
    let mut reader = BufReader::with_capacity(1 << 18, &client);
    let length = read_head(&mut reader)?;
    let read = std::io::copy(&mut reader.take(length as u64), &mut std::io::sink()).ok()?;
    (read == length as u64).then(|| (began.elapsed(), length))
}

fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "port {port}: {error}"),
        }
        thread::sleep(EVERY);
    }
}

fn read_answer(reader: &mut impl BufRead) {
    let length = read_head(reader).expect("an answer");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a whole body");
}

/// Reads a head; returns its Content-Length, or `None` at the end.
fn read_head(reader: &mut impl BufRead) -> Option<usize> {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some(length);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
}
