//! What Zipkin's own server makes of our spans: each request is found by its id, attempts are under
//! their request, and services in four languages are one trace.
//!
//! One server is started for all of it, which takes seconds: so it is one test, in steps.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Answer, Origin, Proxy, Rng, Wire, config, eventually, ok};
use crate::tools::{self, Daemon};

/// The server's jar; where none is named, Maven fetches it.
const JAR: &str = "RINGLANE_ZIPKIN";
/// Starts everything that a request goes through on its way; also knows where the jar is.
const WALK: &str = "tests/polyglot/run";
/// What the walk may take, the first build of Go's library included.
const WALK_SECS: &str = "180";
/// Of Java, for what runs for seconds: up to its first trace Zipkin takes 8 s of CPU, and not 15.
const JAVA: [&str; 3] = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
/// On 127.0.0.1 alone, and on any port.
const SERVER: [&str; 3] = [
    "--armeria.ports[0].ip=127.0.0.1",
    "--armeria.ports[0].port=0",
    "--armeria.ports[0].protocols[0]=HTTP",
];
const SERVICES: [&str; 4] = ["python", "node", "go", "java"];
const REQUESTS: usize = 50;
/// The origin takes at least so long, so that a span of nothing would be seen.
const SERVICE_TIME: Duration = Duration::from_millis(20);

#[test]
#[ignore = "needs Java, Go, Node, and Zipkin; .ci/run has them"]
fn zipkin_shows_what_happened() {
    let zipkin = Zipkin::start();
    each_attempt_is_a_span_of_its_own(&zipkin);
    ids_of_128_bits_survive_in_every_form(&zipkin);
    an_exemplar_opens_a_trace(&zipkin);
    four_languages_are_one_trace(&zipkin);
}

/// A request that fails at one origin and is answered by the other.
fn each_attempt_is_a_span_of_its_own(zipkin: &Zipkin) {
    // Which origin was asked, how long it took, and in which span it was told to be.
    let asked = Arc::new(Mutex::new(Vec::<(usize, Duration, String)>::new()));
    let origins: Vec<Origin> = (0..2)
        .map(|number| {
            let asked = asked.clone();
            Origin::answering(move |request| {
                let began = Instant::now();
                // Serving takes a while: that is no waiting for something to happen.
                thread::park_timeout(SERVICE_TIME);
                let span = request.head.get("x-b3-spanid").unwrap_or_default().to_owned();
                let mut asked = asked.lock().unwrap();
                asked.push((number, began.elapsed(), span));
                match asked.len() {
                    1 => b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno".to_vec(),
                    _ => ok("fine"),
                }
            })
        })
        .collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(|it| it.address).collect();
    let rules = "retries: {classifier: retryable_read_5xx}";
    let proxy = Proxy::start(&zipkin.told_by(&config(&addresses, "", rules)), "0");
    let (trace, caller) = ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312");
    // What comes in this form goes on in it, and tells the origins their spans.
    let fields = format!("x-b3-traceid: {trace}\r\nx-b3-spanid: {caller}\r\nx-b3-sampled: 1");
    let answer = traced(&proxy, &fields);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
    let spans = zipkin.trace(trace, 3);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let servers = of_kind(&spans, "SERVER");
    let [server] = servers[..] else { panic!("not one SERVER span: {spans:#?}") };
    let clients = of_kind(&spans, "CLIENT");
    assert_eq!(clients.len(), 2, "{spans:#?}");
    assert_eq!(server["parentId"], caller);
    assert_eq!(server["tags"]["http.status_code"], "200", "{server:#?}");
    assert_eq!(server["tags"]["retries"], "1", "{server:#?}");
    assert_eq!(server["tags"].get("error"), None, "{server:#?}");
    for (client, (number, took, told)) in clients.iter().zip(&asked) {
        assert_eq!(client["parentId"], server["id"], "{client:#?}");
        // The span in which the origin was told to be.
        assert_eq!(client["id"], told.as_str(), "{client:#?}");
        let address = addresses[*number];
        assert_eq!(client["remoteEndpoint"]["ipv4"], address.ip().to_string(), "{client:#?}");
        assert_eq!(client["remoteEndpoint"]["port"], address.port(), "{client:#?}");
        let duration = Duration::from_micros(client["duration"].as_u64().expect("a duration"));
        assert!(duration >= *took, "{took:?} at the origin alone: {client:#?}");
        assert!(is_within(client, server), "{client:#?} is not within {server:#?}");
    }
    assert_ne!(clients[0]["id"], clients[1]["id"]);
    assert!(ended(clients[0]) <= began(clients[1]) + 1, "one after the other: {clients:#?}");
    assert_eq!(clients[0]["tags"]["http.status_code"], "503");
    assert_ne!(clients[0]["tags"].get("error"), None, "{:#?}", clients[0]);
    assert_eq!(clients[1]["tags"]["http.status_code"], "200");
    assert_eq!(clients[1]["tags"].get("error"), None, "{:#?}", clients[1]);
    // The router calls the service, as spans are named by default.
    let links = zipkin.links();
    assert_eq!(links.len(), 1, "{links:#?}");
    assert_eq!((&links[0]["parent"], &links[0]["child"]), (&"http".into(), &"web".into()));
    assert_eq!((&links[0]["callCount"], &links[0]["errorCount"]), (&2.into(), &1.into()));
    proxy.stop();
}

/// Ids of callers, in each form that a caller may speak: none is cut, padded or lost.
fn ids_of_128_bits_survive_in_every_form(zipkin: &Zipkin) {
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = Proxy::start(&zipkin.told_by(&config(&[origin.address], "", "")), "0");
    let mut rng = Rng::seeded();
    // No half begins with zeros, so that no form may shorten it; those that do come last.
    let digits = |rng: &mut Rng| format!("{:016x}", rng.next() | 1 << 63);
    let mut sent = Vec::new();
    for number in 0..REQUESTS {
        let (high, low, span) = (digits(&mut rng), digits(&mut rng), digits(&mut rng));
        let trace = format!("{high}{low}");
        let fields = match number % 3 {
            0 => format!("x-b3-traceid: {trace}\r\nx-b3-spanid: {span}\r\nx-b3-sampled: 1"),
            1 => format!("b3: {trace}-{span}-1"),
            _ => format!("traceparent: 00-{trace}-{span}-01"),
        };
        assert_eq!(traced(&proxy, &fields).status(), 200);
        sent.push((trace, span));
    }
    // One of 64 bits, which some write with zeros before it.
    let (low, span) = (digits(&mut rng), digits(&mut rng));
    assert_eq!(traced(&proxy, &format!("b3: {low}-{span}-1")).status(), 200);
    let padded = format!("{:016}{low}", 0);
    for (trace, span) in &sent {
        let spans = zipkin.trace(trace, 2);
        check_hop(&spans, trace, span);
    }
    for asked in [&low, &padded] {
        check_hop(&zipkin.trace(asked, 2), &low, &span);
    }
    proxy.stop();
}

/// A slow request in Grafana leads to its trace by the id in its bucket's exemplar.
fn an_exemplar_opens_a_trace(zipkin: &Zipkin) {
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = Proxy::start(&zipkin.told_by(&config(&[origin.address], "", "")), "0");
    let mut found = None;
    eventually("there is an exemplar", || {
        assert_eq!(proxy.connect().get("/").status(), 200);
        let metrics = open_metrics(proxy.admin);
        let marked = metrics.lines().find_map(|line| line.split_once("# {trace_id=\""));
        found = marked.and_then(|(_, rest)| rest.split('"').next()).map(str::to_owned);
        found.is_some()
    });
    let spans = zipkin.trace(&found.expect("it was waited for"), 2);
    assert_eq!(of_kind(&spans, "SERVER").len(), 1, "{spans:#?}");
    assert_eq!(of_kind(&spans, "SERVER")[0].get("parentId"), None, "it began here");
    proxy.stop();
}

/// The walk-through of the README, against the same server.
fn four_languages_are_one_trace(zipkin: &Zipkin) {
    let output = Command::new("timeout")
        .arg(WALK_SECS)
        .arg(tools::repository(WALK))
        .env("RINGLANE", env!("CARGO_BIN_EXE_ringlane"))
        .env("ZIPKIN_URL", format!("http://{}", zipkin.address))
        .stdin(Stdio::null())
        .output()
        .expect("timeout(1) starts");
    let (said, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{WALK}: {}\n{said}\n{wrong}", output.status);
    assert!(said.contains("python > node > go > java"), "{said}");
    let trace = said.lines().find_map(|line| line.strip_prefix("trace ")).map(str::trim);
    let spans = zipkin.trace(trace.unwrap_or_else(|| panic!("no trace in {said}")), 8);
    // From the one that has no parent down: each span has one under it, but the last.
    let mut parent = None;
    for name in SERVICES {
        for kind in ["SERVER", "CLIENT"] {
            let below: Vec<&Value> =
                spans.iter().filter(|span| span.get("parentId") == parent.as_ref()).collect();
            let [span] = below[..] else { panic!("not one under {parent:?}: {spans:#?}") };
            assert_eq!(span["kind"], kind, "{span:#?}");
            assert_eq!(span["localEndpoint"]["serviceName"], name, "{span:#?}");
            parent = Some(span["id"].clone());
        }
    }
    let ids: BTreeSet<&str> = spans.iter().filter_map(|span| span["id"].as_str()).collect();
    assert_eq!(ids.len(), 8, "{spans:#?}");
    // No service calls itself, and none has two names.
    let mut links: Vec<(String, String)> = Vec::new();
    for link in zipkin.links() {
        let end = |end: &str| link[end].as_str().expect("a name").to_owned();
        links.push((end("parent"), end("child")));
    }
    links.retain(|(parent, child)| (parent.as_str(), child.as_str()) != ("http", "web"));
    let expected = SERVICES.windows(2).map(|two| (two[0].to_owned(), two[1].to_owned()));
    let (links, expected): (BTreeSet<_>, BTreeSet<_>) =
        (links.into_iter().collect(), expected.collect());
    assert_eq!(links, expected);
}

/// A real server, with its spans in memory.
struct Zipkin {
    address: SocketAddr,
    _daemon: Daemon,
}

impl Zipkin {
    fn start() -> Zipkin {
        let mut command = Command::new(tools::find("java"));
        command.args(JAVA).arg("-jar").arg(jar()).args(SERVER).env("STORAGE_TYPE", "mem");
        let mut daemon = Daemon::start(&mut command);
        let address = daemon.wait_for("Zipkin serves", |line| {
            let address = line.split_once("Serving HTTP at /")?.1.split(' ').next()?;
            address.parse().ok()
        });
        Zipkin { address, _daemon: daemon }
    }

    /// A configuration whose every request is told to it.
    fn told_by(&self, yaml: &str) -> String {
        format!(
            "telemetry:\n  flush_interval_ms: 20\n  exporters:\n  \
             - {{kind: zipkin, endpoint: \"http://{}/api/v2/spans\", sample_rate: 1.0}}\n{yaml}",
            self.address
        )
    }

    /// The spans of a trace, in the order of their beginnings, once there are so many.
    #[track_caller]
    fn trace(&self, id: &str, count: usize) -> Vec<Value> {
        let mut spans = Vec::new();
        eventually(&format!("{count} spans of {id}"), || {
            let answer = Wire::connect(self.address).get(&format!("/api/v2/trace/{id}"));
            if answer.status() != 404 {
                spans = list(&answer);
            }
            spans.len() >= count
        });
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans.sort_by_key(|span| (began(span), span.get("parentId").is_some()));
        spans
    }

    /// The dependency graph.
    fn links(&self) -> Vec<Value> {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
        let path = format!(
            "/api/v2/dependencies?endTs={}&lookback=86400000",
            // Spans may have ended in this very millisecond.
            now.as_millis() + 1_000
        );
        list(&Wire::connect(self.address).get(&path))
    }
}

/// Where it is; fetched if need be.
fn jar() -> PathBuf {
    if let Some(given) = std::env::var_os(JAR) {
        return PathBuf::from(given);
    }
    let output = Command::new("timeout")
        .arg(WALK_SECS)
        .arg(tools::repository(WALK))
        .arg("--prepare")
        .stdin(Stdio::null())
        .output()
        .expect("timeout(1) starts");
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Zipkin cannot be fetched, and {JAR} names none: {wrong}");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A request with these fields, on a connection of its own.
fn traced(proxy: &Proxy, fields: &str) -> Answer {
    let mut client = proxy.connect();
    client.send(format!("GET /traced HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n"));
    client.answer()
}

fn open_metrics(admin: SocketAddr) -> String {
    let mut wire = Wire::connect(admin);
    wire.send(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\
         Accept: application/openmetrics-text; version=1.0.0\r\n\r\n",
    );
    let answer = wire.answer();
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.text()
}

#[track_caller]
fn list(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("a list in JSON")
}

/// One request that was answered at the first attempt, as part of a caller's trace.
#[track_caller]
fn check_hop(spans: &[Value], trace: &str, caller: &str) {
    for span in spans {
        assert_eq!(span["traceId"], trace, "{span:#?}");
    }
    let (servers, clients) = (of_kind(spans, "SERVER"), of_kind(spans, "CLIENT"));
    assert_eq!((servers.len(), clients.len()), (1, 1), "{spans:#?}");
    assert_eq!(servers[0]["parentId"], caller, "{spans:#?}");
    assert_eq!(clients[0]["parentId"], servers[0]["id"], "{spans:#?}");
}

fn of_kind<'s>(spans: &'s [Value], kind: &str) -> Vec<&'s Value> {
    spans.iter().filter(|span| span["kind"] == kind).collect()
}

/// In microseconds since 1970.
#[track_caller]
fn began(span: &Value) -> u64 {
    span["timestamp"].as_u64().expect("a timestamp")
}

#[track_caller]
fn ended(span: &Value) -> u64 {
    began(span) + span["duration"].as_u64().expect("a duration")
}

/// Moments and durations are whole microseconds, each cut by itself: an end may be one too late.
#[track_caller]
fn is_within(inner: &Value, outer: &Value) -> bool {
    began(inner) >= began(outer) && ended(inner) <= ended(outer) + 1
}
