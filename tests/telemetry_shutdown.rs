//! The end loses no counts: what is flushed and pushed last makes the sums whole.

mod common;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{Collector, Origin, Proxy, Wire, both, config, eventually, ok};

const CLIENTS: usize = 6;
/// How long the origin takes, so that requests are under way when the signal comes.
const SERVICE_TIME: Duration = Duration::from_millis(3);

#[test]
fn after_sigterm_under_load_the_receiver_has_what_clients_were_answered() {
    both(|cores| {
        let collector = Collector::start(UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let origin = Origin::answering(|_| {
            thread::park_timeout(SERVICE_TIME);
            ok("fine")
        });
        // The interval is longer than the test: nearly everything goes with the last push.
        let yaml = format!(
            "telemetry:\n  flush_interval_ms: 200\n  exporters:\n  \
             - {{kind: statsd, address: \"{}\", interval_ms: 600}}\n{}",
            collector.address,
            config(&[origin.address], "", "")
        );
        let mut proxy = Proxy::start_with("drain_ms: 10000", &yaml, cores);
        let server = proxy.server(0);
        let answered = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (answered, address) = (answered.clone(), proxy.address);
                thread::spawn(move || ask_until_refused(address, &answered))
            })
            .collect();
        // In the middle of it, between two pushes.
        eventually("there is load", || answered.load(Ordering::SeqCst) > 300);
        proxy.signal("TERM");
        assert_eq!(proxy.wait().code(), Some(0), "{:#?}", proxy.log());
        clients.into_iter().for_each(|client| client.join().expect("clients do not fail"));
        let answered = answered.load(Ordering::SeqCst);
        let counters = collector.finish();
        eprintln!("{answered} answers");
        assert_eq!(origin.requests().len() as u64, answered, "the origin's own count");
        for (name, count) in [
            ("requests", answered),
            ("success", answered),
            ("failures", 0),
            ("status/200", answered),
            ("request_latency_ms/count", answered),
            ("response_payload_bytes/count", answered),
        ] {
            assert_eq!(counters.at(&format!("{server}/{name}")), count, "{name}");
        }
        for scope in ["rt/http/service/web", "rt/http/client/web"] {
            assert_eq!(counters.at(&format!("{scope}/requests")), answered, "{scope}");
            assert_eq!(counters.at(&format!("{scope}/success")), answered, "{scope}");
        }
        // Connections too, those that the end itself closed among them.
        let connects = counters.at(&format!("{server}/connects"));
        assert!(connects >= CLIENTS as u64);
        assert_eq!(counters.at(&format!("{server}/closes")), connects);
        let upstream = counters.at("rt/http/client/web/connects");
        assert_eq!(upstream, origin.accepted() as u64);
        assert_eq!(counters.at("rt/http/client/web/closes"), upstream);
    });
}

#[test]
fn a_request_that_the_end_of_the_drain_broke_off_has_no_status_of_its_own_making() {
    both(|cores| {
        let collector = Collector::start(UdpSocket::bind("127.0.0.1:0").expect("a port"));
        // Until the proxy has had enough.
        let origin =
            Origin::start(|mut wire, _| while wire.some().is_ok_and(|it| !it.is_empty()) {});
        let yaml = format!(
            "telemetry:\n  flush_interval_ms: 50\n  exporters:\n  \
             - {{kind: statsd, address: \"{}\", interval_ms: 60000}}\n{}",
            collector.address,
            config(&[origin.address], "", "")
        );
        let mut proxy = Proxy::start_with("drain_ms: 100", &yaml, cores);
        let server = proxy.server(0);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        proxy.metrics_when("it is on its way", |metrics| {
            metrics.get("rt/http/client/web/pending") == 1
        });
        proxy.signal("TERM");
        assert_eq!(proxy.wait().code(), Some(0), "{:#?}", proxy.log());
        assert!(client.try_answer_to("GET").is_err(), "it has no part of an answer");
        let counters = collector.finish();
        for (name, count) in [
            ("requests", 1),
            ("failures/request_timeout", 1),
            ("status/499", 1),
            ("status/0", 0),
            ("response_payload_bytes/count", 1),
        ] {
            assert_eq!(counters.at(&format!("{server}/{name}")), count, "{name}");
        }
    });
}

/// One request after the other, on connections that are made anew when they end, until nobody
/// listens any more. Only whole answers count.
fn ask_until_refused(address: SocketAddr, answered: &AtomicU64) {
    while let Ok(stream) = TcpStream::connect(address) {
        let mut wire = Wire::new(stream);
        while wire.try_send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").is_ok() {
            let Ok(answer) = wire.try_answer_to("GET") else { break };
            assert_eq!(answer.status(), 200);
            answered.fetch_add(1, Ordering::SeqCst);
            if answer.head.get("connection") == Some("close") {
                break;
            }
        }
    }
}
