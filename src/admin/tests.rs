//! The interface over a real socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use super::*;

struct Running {
    address: SocketAddr,
    state: State,
    requests: mpsc::Receiver<Request>,
}

fn start() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listeners = vec!["127.0.0.1:4140".parse().unwrap()];
    let state = State::new(Info { version: "1.2.3", cores: vec![0, 1], listeners });
    let (sender, requests) = mpsc::channel();
    let on_request = move |request| sender.send(request).unwrap();
    Admin::start(listener, state.clone(), Box::new(on_request)).unwrap();
    Running { address, state, requests }
}

impl Running {
    fn ask(&self, line: &str, fields: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("{line} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path}"), &format!("Host: {}\r\n", self.address))
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn it_answers_a_ping() {
    let running = start();
    for path in ["/admin/ping", "/admin/live"] {
        let answer = running.get(path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(body(&running.get("/admin/ping")), "pong\n");
    let answer = running.ask("HEAD /admin/ping", "Host: localhost\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-length: 5"), "{answer}");
    assert_eq!(body(&answer), "");
}

#[test]
fn ready_follows_the_supervisor() {
    let running = start();
    assert!(running.get("/admin/ready").starts_with("HTTP/1.1 503"));
    running.state.set_ready(true);
    assert!(running.get("/admin/ready").starts_with("HTTP/1.1 200"));
    running.state.set_ready(false);
    assert!(running.get("/admin/ready").starts_with("HTTP/1.1 503"));
    assert!(running.get("/admin/live").starts_with("HTTP/1.1 200"));
}

#[test]
fn it_says_what_it_is() {
    let running = start();
    let answer = running.get("/admin/server_info");
    let info: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(info["version"], "1.2.3");
    assert_eq!(info["pid"], std::process::id());
    assert_eq!(info["cores"], json!([0, 1]));
    assert_eq!(info["listeners"], json!(["127.0.0.1:4140"]));
    assert_eq!(info["started"].as_str().unwrap().len(), "2026-01-01T00:00:00Z".len());
}

#[test]
fn orders_reach_the_supervisor() {
    let running = start();
    let own = format!("Host: {0}\r\nOrigin: http://{0}\r\n", running.address);
    for fields in ["Host: 127.0.0.1\r\n", "Host: localhost:9990\r\n", "Host: [::1]:1\r\n", &own] {
        for (path, request) in
            [("/admin/drain", Request::Drain), ("/admin/shutdown", Request::Shutdown)]
        {
            let answer = running.ask(&format!("POST {path}"), fields);
            assert!(answer.starts_with("HTTP/1.1 200"), "{fields}: {answer}");
            let received = running.requests.recv_timeout(Duration::from_secs(20));
            assert_eq!(received, Ok(request));
        }
    }
}

#[test]
fn other_sites_are_refused() {
    let running = start();
    for fields in [
        "Host: rebound.example\r\n",
        "Host: rebound.example:9990\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: a@127.0.0.1\r\n",
        "Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n",
        "",
        "Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n",
        "Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:8000\r\n",
        "Host: 127.0.0.1\r\nOrigin: https://127.0.0.1\r\n",
        "Host: 127.0.0.1\r\nOrigin: null\r\n",
    ] {
        let answer = running.ask("POST /admin/shutdown", fields);
        // Without Host, or with two, the HTTP library may be the one that refuses.
        let refused = answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400");
        assert!(refused, "{fields}: {answer}");
    }
    // All of them were refused before the first order that is taken.
    running.ask("POST /admin/drain", "Host: localhost\r\n");
    let received = running.requests.recv_timeout(Duration::from_secs(20));
    assert_eq!(received, Ok(Request::Drain));
}

#[test]
fn what_is_not_there_comes_with_what_is() {
    let running = start();
    let answer = running.get("/admin/pign");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    for path in PATHS {
        assert!(body(&answer).contains(path), "{answer}");
    }
    let answer = running.get("/admin/shutdown");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nallow: post\r\n"), "{answer}");
    let answer = running.ask("POST /admin/ping", "Host: localhost\r\n");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nallow: get,head\r\n"), "{answer}");
    assert_eq!(running.requests.try_recv(), Err(mpsc::TryRecvError::Empty));
}

#[test]
fn dates_are_right() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(rfc3339(seconds), text);
    }
}
