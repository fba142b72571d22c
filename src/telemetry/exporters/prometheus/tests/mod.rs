//! What is held: the three formats say the same, each by its own rules, and quickly enough.

mod read;
mod states;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::read::{Families, Reading};
use super::*;
use crate::config::ExporterSettings;
use crate::telemetry::distribution::Exemplar;
use crate::telemetry::feed::Hub;
use crate::telemetry::names;
use crate::telemetry::state::State;

/// The three documents of a state.
fn rendered(state: &State) -> (String, String, Vec<u8>) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(text::render(state)), text(openmetrics::render(state)), protobuf::render(state))
}

fn read_all(state: &State) -> (Families, Families, Families) {
    let (text, open, protobuf) = rendered(state);
    (read::text(&text), read::openmetrics(&open), read::protobuf(&protobuf))
}

#[test]
fn formats_say_the_same() {
    for hub in [states::odd(), states::large(3, 2, 40)] {
        let (text, open, protobuf) = hub.read(read_all);
        let names = |families: &Families| families.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&text), names(&open));
        assert_eq!(names(&text), names(&protobuf));
        for (name, family) in &text {
            for (other, format) in [(&open[name], "OpenMetrics"), (&protobuf[name], "protobuf")] {
                assert_eq!(family.kind, other.kind, "{name} in {format}");
                assert_eq!(family.help, other.help, "{name} in {format}");
                assert_eq!(family.series, other.series, "{name} in {format}");
            }
            assert_eq!(open[name].unit, protobuf[name].unit, "{name}");
            // Those of the buckets are all among the native ones, which are in the order of time;
            // the newest is on its bucket too.
            let (open, protobuf) = (&open[name].exemplars, &protobuf[name]);
            let native = &protobuf.native_exemplars;
            assert!(open.iter().all(|it| native.contains(it)), "{name}: {open:?} {native:?}");
            assert!(native.is_sorted_by_key(|it| it.at_ms), "{name}: {native:?}");
            let newest = open.iter().max_by_key(|it| it.at_ms).into_iter();
            assert!(newest.eq(&protobuf.exemplars), "{name}: {:?}", protobuf.exemplars);
        }
    }
}

#[test]
fn values_are_the_states() {
    let (text, open, _) = states::odd().read(read_all);
    let server = [("router", "http"), ("server", "127.0.0.1:4140")];
    let value = |name: &str, labels: &[(&str, &str)]| read::series(&text, name, labels).clone();
    assert_eq!(value("ringlane_server_requests_total", &server), Reading::Number(1_003.0));
    let reason = [server[0], server[1], ("reason", "upstream_status")];
    assert_eq!(value("ringlane_server_failures_total", &reason), Reading::Number(10.0));
    let code = [server[0], server[1], ("code", "404")];
    assert_eq!(value("ringlane_server_responses_total", &code), Reading::Number(1.0));
    let algorithm = [("client", "web"), ("algorithm", "ewma")];
    assert_eq!(value("ringlane_client_balancer_info", &algorithm), Reading::Number(1.0));
    let endpoint = [("client", "web"), ("endpoint", "unix:/run/web.sock")];
    assert_eq!(value("ringlane_endpoint_ewma_seconds", &endpoint), Reading::Number(0.0015));
    assert_eq!(value("process_cpu_seconds_total", &[]), Reading::Number(12.345678));
    let Reading::Histogram { count, sum, buckets } =
        value("ringlane_server_request_duration_seconds", &server)
    else {
        panic!("a histogram");
    };
    // 500 requests on each of two shards, 220 us, 420 us and so on; and one of 5 us.
    assert_eq!((count, sum), (1_001, 50.120_005));
    assert_eq!(buckets[..3], [(0.0001, 1), (0.00025, 3), (0.0005, 5)]);
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1_001)));
    assert_eq!(open["process_cpu_seconds_total"].unit.as_deref(), Some("seconds"));
    assert_eq!(open["process_resident_memory_bytes"].unit.as_deref(), Some("bytes"));
    assert_eq!(open["process_threads"].unit, None);
}

#[test]
fn labels_may_hold_anything() {
    let hub = states::odd();
    let (text, open, protobuf) = hub.read(read_all);
    for families in [&text, &open, &protobuf] {
        for label in states::ODD_LABELS {
            let labels = [("client", label)];
            let adds = read::series(families, "ringlane_client_balancer_adds_total", &labels);
            assert_eq!(*adds, Reading::Number(7.0), "{label:?}");
            let labels = [("exporter", label)];
            let failures = "ringlane_telemetry_export_failures_total";
            assert_eq!(*read::series(families, failures, &labels), Reading::Number(3.0));
        }
    }
}

#[test]
fn what_has_nothing_to_say_is_left_out() {
    let idle = Hub::new(states::idle());
    let (text, open, protobuf) = idle.read(read_all);
    for families in [&text, &open, &protobuf] {
        assert!(families.values().all(|family| !family.series.is_empty()));
        assert!(families.values().all(|family| family.kind != "histogram"));
        assert!(!families.contains_key("ringlane_server_failures_total"), "no failure, no series");
        assert!(families.contains_key("ringlane_server_requests_total"));
    }
}

#[test]
fn series_that_went_are_not_shown_any_more() {
    let hub = states::odd();
    hub.update(|merger| merger.state_mut().endpoints.clear());
    let (text, open, protobuf) = hub.read(read_all);
    for families in [&text, &open, &protobuf] {
        assert!(!families.contains_key("ringlane_endpoint_requests_total"));
    }
}

#[test]
fn exemplars_are_on_the_bucket_that_they_fall_into() {
    let hub = states::odd();
    let (_, open, _) = hub.read(read_all);
    // The reader refuses one that lies outside of its bucket.
    let found = &open["ringlane_server_request_duration_seconds"].exemplars;
    let found: Vec<_> = found.iter().map(|it| (it.bound, it.id.as_str(), it.value)).collect();
    let id = |n: u128| format!("{n:032x}");
    let (fast, slow) = (id(0xab << 100 | 1), id(2));
    assert_eq!(found, [(0.001, fast.as_str(), 0.0009), (f64::INFINITY, slow.as_str(), 12.5)]);
}

/// Requests of all latencies, one after the other: what a bucket shows is never followed by what is
/// older, which Prometheus would refuse and log.
#[test]
fn no_exemplar_is_followed_by_an_older_one() {
    // Each is a scrape in all three formats, of which a debug build makes twenty in a second.
    const STEPS: u64 = if cfg!(debug_assertions) { 100 } else { 400 };
    let hub = states::odd();
    let mut seen: HashMap<u64, i64> = HashMap::new();
    let (mut random, mut shown) = (9_u64, 0);
    for step in 0..STEPS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        hub.update(|merger| {
            let server = merger.state_mut().servers[0].as_mut().expect("a server");
            // Two shards, of which one is some steps behind.
            let behind = if random >> 63 == 1 { 7 } else { 0 };
            let at_secs = 1_700_000_100.0 + step.saturating_sub(behind) as f64;
            let (trace_id, value) = (u128::from(step) + 10, 1 << ((random >> 40) % 24));
            let value = value + (random >> 20) % value;
            server.latency.set_exemplar(Exemplar { trace_id, value, at_secs });
        });
        let (_, open, protobuf) = hub.read(read_all);
        let name = "ringlane_server_request_duration_seconds";
        for it in &open[name].exemplars {
            let before = seen.insert(it.bound.to_bits(), it.at_ms);
            assert!(before.is_none_or(|before| before <= it.at_ms), "step {step}: {it:?}");
            shown += 1;
        }
        let newest = protobuf[name].exemplars.iter().map(|it| it.at_ms).max();
        let before = newest.and_then(|newest| seen.insert(0, newest));
        assert!(before <= newest, "step {step}: {before:?} {newest:?}");
    }
    assert!(shown > STEPS * 5 / 2, "only {shown} were shown");
}

#[test]
fn openmetrics_has_no_family_twice() {
    let mut seen = HashSet::new();
    for info in names::all().filter(|info| !info.family.is_empty()) {
        let name = info.family.trim_end_matches("_total").trim_end_matches("_info");
        assert!(seen.insert(name), "{name} stands for two families");
    }
}

/// The numbers of `metrics.proto`, by hand and not by what wrote them.
#[test]
fn fields_have_the_numbers_of_client_model() {
    let histogram = protobuf::Histogram {
        sample_count: Some(1),
        schema: Some(-3),
        positive_span: vec![protobuf::BucketSpan { offset: Some(-2), length: Some(1) }],
        positive_delta: vec![1, -1],
        ..Default::default()
    };
    let bytes = prost::Message::encode_to_vec(&histogram);
    let expected = [0x08, 1, 0x28, 5, 0x62, 4, 0x08, 3, 0x10, 1, 0x68, 2, 0x68, 1];
    assert_eq!(bytes, expected);
    let exemplar = protobuf::Exemplar { value: Some(0.0), ..Default::default() };
    let last = protobuf::Histogram { exemplars: vec![exemplar], ..Default::default() };
    assert_eq!(prost::Message::encode_to_vec(&last)[..3], [0x82, 0x01, 9]);
}

#[test]
fn native_buckets_hold_every_sample() {
    let bytes = states::large(2, 2, 200).read(protobuf::render);
    let mut histograms = 0;
    for histogram in read::messages(&bytes).into_iter().flat_map(|family| family.metric) {
        let Some(it) = histogram.histogram else { continue };
        let (mut count, mut sum) = (0, 0);
        for delta in &it.positive_delta {
            count += delta;
            sum += count as u64;
        }
        assert_eq!(Some(sum + it.zero_count.unwrap()), it.sample_count);
        let length: u32 = it.positive_span.iter().map(|span| span.length.unwrap()).sum();
        assert_eq!(length as usize, it.positive_delta.len());
        assert!(it.positive_span.iter().skip(1).all(|span| span.offset.unwrap() > 0));
        histograms += 1;
    }
    assert!(histograms > 20, "{histograms}");
}

#[test]
fn both_paths_answer_in_the_format_that_is_asked_for() {
    let hub = states::odd();
    let exporter = (KIND.make)(&ExporterSettings::defaults(KIND.spec)).unwrap();
    let routes = exporter.routes(&hub.feed(KIND.spec.kind));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await
        })
    });
    let ask = |path: &str, accept: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        stream.write_all(format!("{head}Accept: {accept}\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.to_ascii_lowercase(), answer[end + 4..].to_vec())
    };
    let protobuf_type = Format::Protobuf.content_type();
    for path in PATHS {
        let (head, body) = ask(path, "*/*");
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(head.contains("vary: accept, accept-encoding"), "{head}");
        read::text(&String::from_utf8(body).unwrap());
        let (head, body) = ask(path, "application/openmetrics-text; version=0.0.1");
        assert!(head.contains("application/openmetrics-text; version=0.0.1"), "{head}");
        read::openmetrics(&String::from_utf8(body).unwrap());
        let (head, body) = ask(path, protobuf_type);
        assert!(head.contains(&protobuf_type.to_ascii_lowercase()), "{head}");
        read::protobuf(&body);
    }
}

#[test]
#[ignore = "needs promtool"]
fn promtool_has_nothing_to_say() {
    for hub in [states::odd(), states::large(20, 3, 50)] {
        let (text, ..) = hub.read(rendered);
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool");
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8(said).unwrap(), "");
        assert!(output.status.success());
    }
}

/// What a scrape takes of the thread that merges: `--release -- --ignored --nocapture` shows it.
/// `benches/scrapes.rs` has it over a socket, beside traffic.
#[test]
#[ignore = "a measurement, for release builds"]
fn what_a_large_state_takes() {
    let hub = states::large(200, 5, 500);
    hub.read(|state| {
        let time = |name: &str, render: &dyn Fn() -> usize| {
            let (mut took, mut bytes) = (Vec::new(), 0);
            for _ in 0..40 {
                let start = Instant::now();
                bytes = std::hint::black_box(render());
                took.push(start.elapsed());
            }
            took.sort();
            println!("{name:12} {:8.2?} median, {:8.2?} least, {bytes} bytes", took[20], took[0]);
        };
        let buckets = || {
            let mut buckets = 0;
            state.by_family(&mut |_: &'static _, _: &_, value: names::Value<'_>| {
                if let names::Value::Histogram(it) = value {
                    buckets += it.buckets().count();
                }
            });
            buckets
        };
        time("buckets", &buckets);
        time("openmetrics", &|| openmetrics::render(state).len());
        time("protobuf", &|| protobuf::render(state).len());
        time("text", &|| text::render(state).len());
    });
}
