//! The interface over a real socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use super::*;
use crate::config::Host;

struct Running {
    address: SocketAddr,
    state: State,
    /// What was asked for, in words.
    requests: mpsc::Receiver<String>,
}

fn start() -> Running {
    start_with("")
}

/// With more keys of `admin`.
fn start_with(keys: &str) -> Running {
    let text = format!(
        "runtime: {{cores: \"0,1\"}}\n\
         admin: {{{keys}}}\n\
         routers: [{{servers: [{{port: 4140}}], routes: [\
           {{host: api.example.com, path_prefix: /v1, service: api}}, \
           {{path_prefix: /web, service: web}}]}}]\n\
         services:\n  web: {{endpoints: [\"127.0.0.1:8080\"]}}\n  \
           api: {{endpoints: [\"127.0.0.1:81\"]}}\n"
    );
    let host = Host::with_cores(0..4);
    let config = Config::from_yaml(&text, "test", &host, &[]).unwrap_or_else(|it| panic!("{it}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let info = Info { version: "1.2.3", logging: Logging::fixed("info") };
    let listeners = vec!["127.0.0.1:4140".parse().unwrap()];
    let settings = config.telemetry.as_ref().expect("it is on").tracing.clone();
    let tracing = Some(Tracing { enabled: false, settings });
    let state = State::new(info, Current { config: Arc::new(config), listeners, tracing });
    let (sender, requests) = mpsc::channel();
    let changed = state.clone();
    let on_request: OnRequest = Box::new(move |request| {
        let text = match request {
            Request::Shutdown => "shutdown".to_owned(),
            Request::Drain => "drain".to_owned(),
            Request::Reload(done) => {
                done(Err("web.yaml:3: no".to_owned()));
                "reload".to_owned()
            }
            Request::SetEndpoint(change, done) => {
                let answer = match change.service.as_deref() {
                    Some("nobody") => Err("no such service".to_owned()),
                    _ => Ok("done".to_owned()),
                };
                done(answer);
                let EndpointChange { address, service, drained, weight } = change;
                format!("{address} {service:?} {drained:?} {weight:?}")
            }
            Request::SetTracing(change, done) => {
                let mut tracing = changed.tracing().expect("it was set");
                tracing.enabled = change.enabled.unwrap_or(tracing.enabled);
                changed.set_tracing(Some(tracing));
                let refused = change.sample_rate == Some(0.5);
                done(if refused { Err("no exporter".to_owned()) } else { Ok(String::new()) });
                format!("tracing {:?} {:?}", change.enabled, change.keep_slower_than_ms)
            }
        };
        sender.send(text).unwrap();
    });
    let served = serve(listener, state.clone(), None, axum::Router::new(), on_request);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(served));
    Running { address, state, requests }
}

impl Running {
    fn ask(&self, line: &str, fields: &str) -> String {
        self.ask_with(line, fields, "")
    }

    fn ask_with(&self, line: &str, fields: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("{line} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n{body}");
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
        for (path, request) in [("/admin/drain", "drain"), ("/admin/shutdown", "shutdown")] {
            let answer = running.ask(&format!("POST {path}"), fields);
            assert!(answer.starts_with("HTTP/1.1 200"), "{fields}: {answer}");
            let received = running.requests.recv_timeout(Duration::from_secs(20));
            assert_eq!(received.as_deref(), Ok(request));
        }
    }
}

#[test]
fn a_reload_that_is_refused_says_why() {
    let running = start();
    let answer = running.ask("POST /admin/reload", "Host: localhost\r\n");
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    assert_eq!(body(&answer), "web.yaml:3: no\n");
    assert_eq!(running.requests.try_recv().as_deref(), Ok("reload"));
}

#[test]
fn endpoints_are_set_by_their_address() {
    let running = start();
    let post = |path: &str, json: &str| {
        let head = format!("POST /admin/endpoints/{path}");
        let length = json.len();
        let fields = format!(
            "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        );
        running.ask_with(&head, &fields, json)
    };
    for (path, json, order) in [
        ("127.0.0.1:80", "{\"drain\": true}", "127.0.0.1:80 None Some(true) None"),
        ("[::1]:80?service=web", "{\"ready\": true}", "[::1]:80 Some(\"web\") Some(false) None"),
        ("unix:/run/a.sock", "{\"weight\": 7}", "unix:/run/a.sock None None Some(7)"),
        ("a:1", "{\"drain\": false, \"weight\": 1}", "a:1 None Some(false) Some(1)"),
    ] {
        let answer = post(path, json);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert_eq!(running.requests.try_recv().as_deref(), Ok(order));
    }
    for (path, json) in [
        ("a:1", "{}"),
        ("a:1", "{\"drain\": true, \"ready\": true}"),
        ("a:1", "{\"weight\": 0}"),
        ("a:1", "{\"weight\": 1001}"),
        ("a:1", "{\"drained\": true}"),
        ("a:1", "drain"),
        ("a:1?services=web", "{\"drain\": true}"),
    ] {
        let answer = post(path, json);
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("the body is JSON"),
            "{answer}"
        );
        assert!(running.requests.try_recv().is_err(), "{path} {json}");
    }
    let answer = post("a:1?service=nobody", "{\"drain\": true}");
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no such service"), "{answer}");
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
    assert_eq!(received.as_deref(), Ok("drain"));
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

#[test]
fn what_is_denied_is_refused_and_says_why() {
    let running = start_with("categories: {control: false}, deny: [\"/admin/route*\"]");
    assert!(running.get("/admin/ping").starts_with("HTTP/1.1 200"));
    let answer = running.get("/admin/route?path=/");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("admin.deny"), "{answer}");
    let answer = running.ask("POST /admin/shutdown", "Host: localhost\r\n");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("categories"), "{answer}");
    assert_eq!(running.requests.try_recv(), Err(mpsc::TryRecvError::Empty));

    let running = start_with("allow: [/admin/ping, \"/admin/metrics*\"]");
    assert!(running.get("/admin/ping").starts_with("HTTP/1.1 200"));
    let answer = running.get("/admin/server_info");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("admin.allow"), "{answer}");
    // Allowed, but there is none: no telemetry in this test.
    assert!(running.get("/admin/metrics.json").starts_with("HTTP/1.1 404"));

    let running = start_with("categories: {ui: false, diagnostics: false}");
    assert!(running.get("/admin/config.json").starts_with("HTTP/1.1 403"));
    assert!(running.get("/admin/ping").starts_with("HTTP/1.1 403"));
}

#[test]
fn a_token_is_needed_where_there_is_one() {
    let running = start_with("token: 0123456789abcdef");
    let ask =
        |fields: &str| running.ask("GET /admin/ping", &format!("Host: localhost\r\n{fields}"));
    for wrong in [
        "",
        "Authorization: Bearer 0123456789abcdeX\r\n",
        "Authorization: Bearer 0123456789abcde\r\n",
        "Authorization: Basic 0123456789abcdef\r\n",
        "Authorization: Bearer 0123456789abcdef\r\nAuthorization: Bearer x\r\n",
    ] {
        let answer = ask(wrong);
        assert!(answer.starts_with("HTTP/1.1 401"), "{wrong}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nwww-authenticate: bearer"), "{answer}");
    }
    assert!(ask("Authorization: bearer 0123456789abcdef\r\n").starts_with("HTTP/1.1 200"));
    let answer = running.ask(
        "GET /admin/config.json",
        "Host: localhost\r\nAuthorization: Bearer 0123456789abcdef\r\n",
    );
    assert!(answer.contains("4140") && !answer.contains("0123456789abcdef"), "{answer}");
}

#[test]
fn it_says_where_a_request_would_go() {
    let running = start();
    let decide = |query: &str| -> serde_json::Value {
        let answer = running.get(&format!("/admin/route?{query}"));
        serde_json::from_str(body(&answer)).unwrap_or_else(|error| panic!("{error}: {answer}"))
    };
    let found = decide("method=GET&host=API.example.com:80&path=/v1/users%3Fa=b");
    assert_eq!(found[0]["service"], "api");
    assert_eq!(found[0]["rule"]["number"], 0);
    assert_eq!(decide("path=/web/a")[0]["service"], "web");
    let nowhere = decide("path=/else");
    assert_eq!(nowhere[0]["service"], serde_json::Value::Null);
    assert!(nowhere[0]["why"].as_str().unwrap().contains("no_route"), "{nowhere}");
    assert!(decide("path=/../a")[0]["why"].as_str().unwrap().contains("400"));
    for bad in ["host=a", "path=web", "path=/&router=none", "path=/&hots=a"] {
        let answer = running.get(&format!("/admin/route?{bad}"));
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("example"), "{answer}");
    }
}

#[test]
fn the_log_s_filter_is_shown_and_a_bad_one_refused() {
    let running = start();
    assert_eq!(body(&running.get("/admin/logging")), "info\n");
    let fields = "Host: localhost\r\nContent-Length: 5\r\n\r\ndebug";
    let answer = running.ask("PUT /admin/logging", fields);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("allowed:"), "{answer}");
}

#[test]
fn tracing_is_shown_changed_and_refused_with_what_is_allowed() {
    let running = start();
    let shown = |answer: &str| -> serde_json::Value {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body(answer)).expect("JSON")
    };
    let before = shown(&running.get("/admin/tracing"));
    let expected = json!({
        "enabled": false, "sample_rate": null, "max_spans_per_sec": 10_000, "keep_failed": true,
        "keep_retried": true, "keep_slower_than_ms": 0, "propagate": ["b3_multi", "w3c"],
    });
    assert_eq!(before, expected);
    let put = |json: &str| {
        let fields = format!(
            "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            json.len()
        );
        running.ask_with("PUT /admin/tracing", &fields, json)
    };
    let now = shown(&put(r#"{"enabled": true, "keep_slower_than_ms": 250}"#));
    assert_eq!(now["enabled"], true);
    assert_eq!(running.requests.recv().unwrap(), "tracing Some(true) Some(250)");
    let refused = put(r#"{"sample_rate": 0.5}"#);
    assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("no exporter"), "{refused}");
    for (wrong, why) in [
        ("{}", "nothing is asked for"),
        (r#"{"sample_rate": 1.5}"#, "1.5 is not from 0 to 1"),
        (r#"{"max_spans_per_sec": 10000001}"#, "is over 10000000"),
        (r#"{"keep_slower_than_ms": 604800001}"#, "a week"),
        (r#"{"rate": 1}"#, "unknown field `rate`"),
    ] {
        let answer = put(wrong);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(why), "{wrong}: {answer}");
        assert!(answer.contains("keep_retried"), "what is allowed: {answer}");
    }
}
