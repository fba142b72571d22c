//! The documents of telemetry as a user of HTTP asks for them: with gzip, by the wrong method, at
//! the wrong path, and where telemetry is off.

mod common;

use std::io::Read;

use common::{Answer, Origin, Proxy, Wire, both, config, ok};
use flate2::read::GzDecoder;

const DOCUMENTS: [(&str, &str); 5] = [
    ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ("/admin/metrics/prometheus", "text/plain; version=0.0.4; charset=utf-8"),
    ("/admin/metrics.json", "application/json"),
    ("/admin/metrics/influxdb", "text/plain; charset=utf-8"),
    ("/admin/clients.json", "application/json"),
];

fn ask(proxy: &Proxy, line: &str, fields: &str) -> Answer {
    let mut wire = Wire::connect(proxy.admin);
    wire.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n"));
    let method = line.split(' ').next().unwrap_or_default();
    wire.try_answer_to(method).expect("an answer")
}

fn unzipped(answer: &Answer) -> String {
    let mut text = String::new();
    GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text).expect("gzip");
    text
}

#[test]
fn with_telemetry_off_traffic_goes_on_and_what_is_missing_is_said() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let yaml = format!("telemetry: off\n{}", config(&[origin.address], "", ""));
        let proxy = Proxy::start(&yaml, cores);
        let mut client = proxy.connect();
        for _ in 0..50 {
            assert_eq!(client.get("/").text(), "fine");
        }
        client.send("GET  / HTTP/1.1\r\n\r\n");
        assert_eq!(client.answer().status(), 400);
        for (path, _) in DOCUMENTS.into_iter().chain([("/admin/shards.json", "")]) {
            let answer = ask(&proxy, &format!("GET {path}"), "");
            assert_eq!(answer.status(), 404, "{path}");
            assert!(answer.text().contains("telemetry is off"), "{path}: {}", answer.text());
        }
        for (path, text) in [("/admin/ping", "pong\n"), ("/admin/ready", "ok\n")] {
            let answer = ask(&proxy, &format!("GET {path}"), "");
            assert_eq!((answer.status(), answer.text().as_str()), (200, text));
        }
        let shown: serde_json::Value =
            serde_json::from_slice(&ask(&proxy, "GET /admin/config.json", "").body).expect("JSON");
        assert_eq!(shown["telemetry"], "off");
        proxy.stop();
    });
}

#[test]
fn documents_say_what_they_are_and_come_as_gzip_where_that_is_asked_for() {
    let origin = Origin::answering(|_| ok("fine"));
    // Flushes so seldom that two scrapes in a row are of the same state, mostly.
    let yaml =
        format!("telemetry: {{flush_interval_ms: 1000}}\n{}", config(&[origin.address], "", ""));
    let proxy = Proxy::start(&yaml, "0");
    assert_eq!(proxy.connect().get("/").text(), "fine");
    proxy.metrics_when("a request is seen", |it| it.get("rt/http/service/web/requests") == 1);
    for (path, content_type) in DOCUMENTS {
        let line = format!("GET {path}");
        let mut same = false;
        common::eventually("a scrape with gzip is one without", || {
            let plain = ask(&proxy, &line, "");
            let zipped = ask(&proxy, &line, "Accept-Encoding: gzip\r\n");
            for answer in [&plain, &zipped] {
                assert_eq!(answer.status(), 200, "{path}");
                assert_eq!(answer.head.get("content-type"), Some(content_type), "{path}");
            }
            assert_eq!(plain.head.get("content-encoding"), None, "{path}");
            assert_eq!(zipped.head.get("content-encoding"), Some("gzip"), "{path}");
            let varies = zipped.head.all("vary").join(", ").to_lowercase();
            assert!(varies.contains("accept-encoding"), "{path}: {varies:?}");
            assert!(zipped.body.len() < plain.body.len(), "{path}");
            same = unzipped(&zipped) == plain.text();
            same
        });
        assert!(same);
        let refused = ask(&proxy, &line, "Accept-Encoding: gzip;q=0\r\n");
        assert_eq!(refused.head.get("content-encoding"), None, "{path}");
        // HEAD is GET without the body.
        let head = ask(&proxy, &format!("HEAD {path}"), "");
        assert_eq!((head.status(), head.body.len()), (200, 0), "{path}");
        assert_eq!(head.head.get("content-type"), Some(content_type), "{path}");
    }
}

#[test]
fn a_wrong_method_is_405_and_a_wrong_path_404_with_a_hint() {
    let proxy = Proxy::start(&config(&["127.0.0.1:9".parse().unwrap()], "", ""), "0");
    for (path, _) in DOCUMENTS {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = ask(&proxy, &format!("{method} {path}"), "Content-Length: 0\r\n");
            assert_eq!(answer.status(), 405, "{method} {path}");
            let allowed = answer.head.get("allow").unwrap_or_default();
            assert!(allowed.contains("GET"), "{method} {path}: allow {allowed:?}");
        }
    }
    for path in ["/admin/metric.json", "/metrics/", "/admin/metrics", "/nothing"] {
        let answer = ask(&proxy, &format!("GET {path}"), "");
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.text().contains(&format!("nothing at {path};")), "{}", answer.text());
        for known in ["GET /metrics\n", "GET /admin/metrics.json\n"] {
            assert!(answer.text().contains(known), "{path}: {}", answer.text());
        }
    }
    let answer = ask(&proxy, "GET /admin/metrics.json?q=rt/nothing", "");
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.head.get("content-type"), Some("application/json"));
    assert!(answer.text().contains("rt/nothing"), "{}", answer.text());
    let answer = ask(&proxy, "GET /admin/metrics.json?pretty=perhaps", "");
    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("allowed: 1, true, 0, false"), "{}", answer.text());
}
