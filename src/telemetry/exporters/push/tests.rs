//! Spans over real sockets to collectors that work and to those that do not: what arrived adds up
//! to what was counted. With Zipkin's exporter, where it makes no difference which.

use super::rig::{Act, Counted, Running, Server, batch, real};
use crate::config::ExporterSettings;
use crate::telemetry::exporters::{otlp, zipkin};
use crate::telemetry::sample;

const TIMEOUT_MS: u64 = 100;

fn settings(server: &Server) -> ExporterSettings {
    ExporterSettings::defaults(zipkin::KIND.spec)
        .with_text("endpoint", &server.url("http", "/api/v2/spans"))
        .with_number("timeout_ms", 5_000)
}

fn spans_of(body: &[u8]) -> usize {
    let list: serde_json::Value = serde_json::from_slice(body).unwrap();
    list.as_array().unwrap().len()
}

fn spans(count: usize) -> std::sync::Arc<crate::telemetry::spans::Batch> {
    batch(vec![sample::span(); count])
}

#[test]
fn one_connection_serves_one_request_after_the_other() {
    real(async {
        let mut server = Server::new([]);
        let running = Running::new(zipkin::KIND, &settings(&server));
        for count in 1..=3 {
            running.offer(&spans(count));
            let received = server.next().await;
            assert_eq!((received.connection, spans_of(&received.body)), (0, count));
            assert!(received.head.starts_with("post /api/v2/spans http/1.1\r\n"));
            assert!(received.head.contains(&format!("host: localhost:{}\r\n", server.port)));
            assert!(received.head.contains("user-agent: ringlane/"));
        }
        let counted = running.end().await;
        assert_eq!(counted, Counted { sent: 6, dropped: 0, failures: 0 });
        assert!(server.try_next().is_none());
    });
}

/// Failures before anything is answered, and the failure to answer in time: the same goes again.
#[test]
fn what_fails_goes_again_until_it_is_taken() {
    let acts = [Act::Answer(500), Act::Close, Act::Answer(429), Act::Hang, Act::Answer(503)];
    for act in acts {
        real(async {
            let mut server = Server::new([act.clone(), act.clone()]);
            let settings = settings(&server).with_number("timeout_ms", TIMEOUT_MS);
            let running = Running::new(zipkin::KIND, &settings);
            running.offer(&spans(7));
            let first = server.next().await;
            assert_eq!(spans_of(&first.body), 7);
            for _ in 0..2 {
                assert!(server.next().await.body == first.body, "{act:?}");
            }
            let counted = running.end().await;
            assert_eq!(counted, Counted { sent: 7, dropped: 0, failures: 2 }, "{act:?}");
            assert!(server.try_next().is_none());
        });
    }
}

/// A status has come: what follows it changes nothing, and the next request has a connection.
#[test]
fn a_body_that_is_no_good_does_not_send_anything_twice() {
    for act in [Act::BreakOff, Act::Stall, Act::Say(vec![b'x'; 1 << 20])] {
        real(async {
            let mut server = Server::new([act.clone()]);
            let settings = settings(&server).with_number("timeout_ms", TIMEOUT_MS);
            let running = Running::new(zipkin::KIND, &settings);
            running.offer(&spans(2));
            assert_eq!(spans_of(&server.next().await.body), 2);
            running.offer(&spans(3));
            assert_eq!(spans_of(&server.next().await.body), 3);
            let counted = running.end().await;
            assert_eq!((counted.sent, counted.dropped), (5, 0), "{act:?}");
            assert!(server.try_next().is_none());
        });
    }
}

#[test]
fn a_refusal_drops_what_it_refuses() {
    for status in [400, 404, 413, 301] {
        real(async {
            let mut server = Server::new([Act::Answer(status)]);
            let running = Running::new(zipkin::KIND, &settings(&server));
            running.offer(&spans(4));
            server.next().await;
            running.offer(&spans(5));
            assert_eq!(spans_of(&server.next().await.body), 5);
            let counted = running.end().await;
            assert_eq!(counted, Counted { sent: 5, dropped: 4, failures: 1 }, "{status}");
        });
    }
}

/// It stops in the middle, and another comes to its port.
#[test]
fn a_collector_that_stops_and_comes_back() {
    real(async {
        let mut server = Server::new([]);
        let port = server.port;
        let settings = settings(&server).with_number("queue_spans", 100);
        let running = Running::new(zipkin::KIND, &settings);
        running.offer(&spans(10));
        assert_eq!(spans_of(&server.next().await.body), 10);
        while running.counted().sent < 10 {
            tokio::task::yield_now().await;
        }
        server.stop().await;
        running.offer(&spans(20));
        while running.counted().failures == 0 {
            tokio::task::yield_now().await;
        }
        (0..30).for_each(|_| running.offer(&spans(20)));
        // 20 in hand, 80 behind them.
        assert_eq!(running.counted().dropped, 520);
        let mut server = Server::on(port, [], None);
        let first = spans_of(&server.next().await.body);
        assert_eq!(first, 20);
        let counted = running.end().await;
        assert_eq!((counted.sent, counted.dropped), (110, 520));
        let mut rest = 0;
        while let Some(received) = server.try_next() {
            rest += spans_of(&received.body);
        }
        assert_eq!(rest, 80);
    });
}

#[test]
fn nobody_there_at_the_end_costs_no_time() {
    real(async {
        let server = Server::new([]);
        let settings = settings(&server);
        server.stop().await;
        let running = Running::new(zipkin::KIND, &settings);
        running.offer(&spans(3));
        let counted = running.end().await;
        assert_eq!((counted.sent, counted.dropped), (0, 3));
    });
}

mod tls {
    use std::path::PathBuf;
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A certificate for `localhost` in a file, and who shows it.
    fn authority(name: &str) -> (PathBuf, TlsAcceptor) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let name = format!("ringlane-{}-{name}.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (path, TlsAcceptor::from(Arc::new(config)))
    }

    #[test]
    fn a_collector_whose_certificate_is_known() {
        let (path, tls) = authority("known");
        real(async {
            for kind in [zipkin::KIND, otlp::KIND] {
                let mut server = Server::on(0, [], Some(tls.clone()));
                let settings = ExporterSettings::defaults(kind.spec)
                    .with_text("endpoint", &server.url("https", "/spans"))
                    .with_text("tls_ca", path.to_str().unwrap());
                let running = Running::new(kind, &settings);
                running.offer(&spans(2));
                let received = server.next().await;
                assert!(received.head.starts_with("post /spans http/1.1\r\n"));
                assert_eq!(running.end().await, Counted { sent: 2, dropped: 0, failures: 0 });
            }
        });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_collector_whose_certificate_is_not() {
        let (known, _) = authority("other");
        let (unknown, tls) = authority("unknown");
        real(async {
            let mut server = Server::on(0, [], Some(tls));
            let settings = settings(&server)
                .with_text("endpoint", &server.url("https", "/spans"))
                .with_text("tls_ca", known.to_str().unwrap());
            let running = Running::new(zipkin::KIND, &settings);
            running.offer(&spans(2));
            while running.counted().failures == 0 {
                tokio::task::yield_now().await;
            }
            let counted = running.end().await;
            assert_eq!((counted.sent, counted.dropped), (0, 2));
            assert!(server.try_next().is_none());
        });
        [known, unknown].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let empty = std::env::temp_dir().join(format!("ringlane-{}-empty.pem", std::process::id()));
        std::fs::write(&empty, "nothing\n").unwrap();
        for path in [empty.to_str().unwrap(), "/nowhere/at/all.pem"] {
            let settings = ExporterSettings::defaults(otlp::KIND.spec).with_text("tls_ca", path);
            let why = (otlp::KIND.make)(&settings).err().expect("it is refused");
            assert!(why.contains(path) && why.contains("allowed: a file of PEM"), "{why}");
        }
        std::fs::remove_file(empty).unwrap();
    }
}

#[test]
fn endpoints_that_cannot_work_are_refused_with_what_is_allowed() {
    for (endpoint, fits) in [
        ("http://127.0.0.1:9411/api/v2/spans", true),
        ("http://[::1]:9411/", true),
        ("http://zipkin", true),
        ("", false),
        ("zipkin:9411", false),
        ("/api/v2/spans", false),
        ("ftp://zipkin/", false),
        ("http://", false),
        ("http://:9411/", false),
        ("http://zipkin:0/", false),
        ("http://zipkin:99999/", false),
        ("http://user:pass@zipkin/", false),
        ("http://zip kin/", false),
    ] {
        let settings =
            ExporterSettings::defaults(zipkin::KIND.spec).with_text("endpoint", endpoint);
        let made = (zipkin::KIND.make)(&settings);
        assert_eq!(made.is_ok(), fits, "{endpoint}");
        let why = made.err();
        let shown = endpoint.replace("user:pass", "***************(hidden)");
        let says = |why: &String| why.contains(&format!("{shown:?}")) && why.contains("allowed");
        assert!(why.as_ref().is_none_or(says), "{why:?}");
    }
}
