//! The operator's interface against those who should not be there: pages in a browser, whoever
//! stands between, whoever wants to keep others out; and that it tells no secrets.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, Proxy, Wire, config};

const TOKEN: &str = "a-token-of-32-visible-characters";
/// What admin answers to GET, with telemetry and a table of the latest requests.
const READS: [&str; 16] = [
    "/",
    "/admin",
    "/admin/ping",
    "/admin/live",
    "/admin/ready",
    "/admin/server_info",
    "/admin/config.json",
    "/admin/metrics.json",
    "/admin/metrics/prometheus",
    "/admin/clients.json",
    "/admin/shards.json",
    "/admin/requests.json",
    "/admin/route?path=/",
    "/admin/logging",
    "/admin/tracing",
    "/metrics",
];

/// A proxy in front of nobody, with more keys of `admin`.
fn start(admin: &str) -> Proxy {
    start_with(admin, "telemetry: {exporters: [{kind: recent_requests}]}\n")
}

fn start_with(admin: &str, telemetry: &str) -> Proxy {
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let yaml = format!("{telemetry}{}", config(&[nobody], "", ""));
    Proxy::start_with_admin(admin, &yaml, "0")
}

/// All that comes back for some bytes until the connection ends, which it must.
#[track_caller]
fn answers(admin: SocketAddr, bytes: &str) -> String {
    let mut socket = TcpStream::connect(admin).expect("admin listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket.write_all(bytes.as_bytes()).expect("it takes them");
    let mut text = Vec::new();
    // It may close with bytes unread, which resets the connection behind the answer.
    if let Err(error) = socket.read_to_end(&mut text) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}");
    }
    String::from_utf8(text).expect("text")
}

#[track_caller]
fn status_of(admin: SocketAddr, line: &str, fields: &str) -> String {
    let bytes = format!("{line} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    let answer = answers(admin, &bytes);
    answer.get(9..12).unwrap_or_else(|| panic!("{bytes:?}: {answer:?}")).to_owned()
}

#[test]
fn it_listens_on_loopback_unless_told_otherwise() {
    let proxy = start("");
    assert!(proxy.admin.ip().is_loopback(), "{}", proxy.admin);
    proxy.stop();
}

/// A page can have its own name point at 127.0.0.1, and would read what is answered.
#[test]
fn a_page_that_is_rebound_reads_nothing() {
    let proxy = start("hosts: [Proxy1.example.com., scraped]");
    for path in READS {
        let get = format!("GET {path}");
        for ours in ["127.0.0.1", "[::1]:9990", "10.1.2.3:80", "localhost:9990", "LOCALHOST"] {
            let status = status_of(proxy.admin, &get, &format!("Host: {ours}\r\n"));
            assert!(["200", "404"].contains(&status.as_str()), "{path} of {ours}: {status}");
        }
        for named in ["scraped:9990", "proxy1.example.com", "PROXY1.EXAMPLE.COM."] {
            let status = status_of(proxy.admin, &get, &format!("Host: {named}\r\n"));
            assert!(["200", "404"].contains(&status.as_str()), "{path} of {named}: {status}");
        }
        for other in [
            "evil.example",
            "evil.example:9990",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a.scraped",
            "0x7f000001",
            "2130706433",
        ] {
            let status = status_of(proxy.admin, &get, &format!("Host: {other}\r\n"));
            assert_eq!(status, "403", "{path} of {other}");
        }
    }
    let refused = answers(
        proxy.admin,
        "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    );
    assert!(refused.contains("localhost, or one of admin.hosts"), "{refused}");
    proxy.stop();
}

#[test]
fn who_brings_the_token_may_read_by_any_name_but_change_nothing() {
    let proxy = start(&format!("token: {TOKEN}"));
    let fields = |host: &str| format!("Host: {host}\r\nAuthorization: Bearer {TOKEN}\r\n");
    let status = |line: &str, fields: &str| status_of(proxy.admin, line, fields);
    assert_eq!(status("GET /metrics", &fields("scraped.example")), "200");
    assert_eq!(status("GET /metrics", "Host: scraped.example\r\n"), "401");
    assert_eq!(status("POST /admin/reload", &fields("scraped.example")), "403");
    // There is no file to read again, but it was asked.
    assert_eq!(status("POST /admin/reload", &fields("localhost")), "422");
    let elsewhere = fields("localhost") + "Origin: http://evil.example\r\n";
    assert_eq!(status("POST /admin/reload", &elsewhere), "403");
    for path in READS {
        assert_eq!(status(&format!("GET {path}"), "Host: localhost\r\n"), "401", "{path}");
    }
    proxy.stop();
}

/// A browser says where a page that asks is from, whatever the page says.
#[test]
fn what_a_page_of_another_site_sends_changes_nothing() {
    let proxy = start("");
    let ours = "Host: localhost\r\nOrigin: http://localhost\r\n";
    let status = |line: &str, fields: &str| status_of(proxy.admin, line, fields);
    for (site, allowed) in [
        ("same-origin", true),
        ("none", true),
        ("cross-site", false),
        ("same-site", false),
        ("", false),
        ("none\r\nSec-Fetch-Site: cross-site", false),
        ("cross-site\r\nSec-Fetch-Site: same-origin", false),
    ] {
        for fields in [ours, "Host: localhost\r\n"] {
            let fields = format!("{fields}Sec-Fetch-Site: {site}\r\n");
            // There is no file to read again, but it was asked.
            let expected = if allowed { "422" } else { "403" };
            assert_eq!(status("POST /admin/reload", &fields), expected, "{fields:?}");
            // A link to the dashboard changes nothing.
            assert_eq!(status("GET /admin/ping", &fields), "200", "{fields:?}");
        }
    }
    assert_eq!(status("POST /admin/reload", ours), "422", "what is no browser says nothing");
    let refused = answers(
        proxy.admin,
        "POST /admin/reload HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\
         Connection: close\r\n\r\n",
    );
    assert!(refused.contains("Sec-Fetch-Site is another site"), "{refused}");
    proxy.stop();
}

/// Whatever somebody in front takes for one request is one here, or refused.
#[test]
fn nothing_is_smuggled() {
    let proxy = start("");
    let smuggled = "POST /admin/shutdown HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = smuggled.len();
    let post =
        |fields: &str| format!("POST /admin/ping HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let get = |fields: &str| format!("GET /admin/ping HTTP/1.1\r\n{fields}\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    for head in [
        // Two lengths, in either order and in disguise.
        post(&format!("Content-Length: {length}\r\n{chunked}")) + "0\r\n\r\n",
        post(&format!("{chunked}Content-Length: {length}\r\n")) + "0\r\n\r\n",
        post("Transfer-Encoding: xchunked\r\n"),
        post(chunked) + "0\r\n\r\n",
        post(chunked).replace("1.1", "1.0") + "0\r\n\r\n",
        post("Content-Length: 0\r\nContent-Length: 5\r\n"),
        post("Content-Length: 0, 5\r\n"),
        post("Content-Length: +0\r\n"),
        post("Content-Length : 0\r\n"),
        // One that somebody else does not see, so that the next request is its body for them.
        get("Host: localhost\r\nContent-Length: 5\r\n") + "hello",
        post("Content-Length: 0\r\n"),
        // Lines that end where others see none.
        get("Host: localhost\r\nA: b\n\n"),
        get("Host: localhost\r\n").replace("\r\n", "\n"),
        get("Host: localhost\r\nA: b\r\r\n"),
        get("Host: localhost\r\nA: b\r\n c\r\n"),
        get("Host: localhost\r\nA: b\0\r\n"),
        // Two hosts, or none.
        get("Host: localhost\r\nHost: evil.example\r\n"),
        get("Host: localhost\r\n").replace("/admin", "http://evil.example/admin"),
        get("Host: evil.example\r\n").replace("/admin", "http://localhost/admin"),
        get(""),
        get("Host: a@localhost\r\n"),
    ] {
        let closes = "GET /admin/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = answers(proxy.admin, &format!("{head}{smuggled}{closes}"));
        assert!(!answer.contains("shutting down"), "{head:?}: {answer}");
        let status = answer.get(9..12);
        let refused = ["400", "403", "405", "411"].map(Some);
        assert!(answer.is_empty() || refused.contains(&status), "{head:?}: {answer}");
    }
    // It was not shut down, and what is behind a whole request is one.
    let ping = "GET /admin/ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /admin/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = answers(proxy.admin, &format!("{ping}\r\n{ping}{last}"));
    assert_eq!(answer.matches("pong\n").count(), 3, "{answer}");
    let old = answers(proxy.admin, "GET /admin/ping HTTP/1.0\r\n\r\n");
    assert!(old.contains(" 200 ") && old.ends_with("pong\n"), "a load balancer's probe: {old}");
    proxy.stop();
}

/// More connections than it has room for, each of which holds on to what it can.
#[test]
fn nobody_keeps_an_operator_out() {
    let proxy = start("");
    let begun = Instant::now();
    let connect = |bytes: &str| {
        let mut socket = TcpStream::connect(proxy.admin).expect("admin listens");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.write_all(bytes.as_bytes()).expect("it takes them");
        socket
    };
    let head = "POST /admin/logging HTTP/1.1\r\nHost: localhost\r\n";
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..100 {
        slow.push(connect(""));
        slow.push(connect(&format!("{head}A: b")));
        slow.push(connect(&format!("PUT{}Content-Length: 10\r\n\r\ninfo", &head[4..])));
        // Asks for a lot and reads nothing.
        let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
        slow.push(connect(&metrics));
        let asked = Instant::now();
        assert_eq!(Wire::connect(proxy.admin).get("/metrics").status(), 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "held for {:?}", asked.elapsed());
    }
    let descriptors = proxy.descriptors();
    assert!(descriptors < 256 + 100, "{descriptors} descriptors, for 256 connections at most");
    // Those that are left have seconds for what they began.
    let mut late = connect(&format!("PUT{}Content-Length: 10\r\n\r\ninfo", &head[4..]));
    let mut headless = connect(&format!("{head}A: b"));
    let mut answer = String::new();
    late.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    headless.read_to_string(&mut answer).expect("an end");
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
    assert_eq!(Wire::connect(proxy.admin).get("/admin/ping").status(), 200);
    proxy.stop();
}

#[test]
fn what_is_too_much_is_refused() {
    let proxy = start("");
    let put = "PUT /admin/logging HTTP/1.1\r\nHost: localhost\r\n";
    let answer = answers(proxy.admin, &format!("{put}Content-Length: 65537\r\n\r\ninfo"));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let long = "a".repeat(20_000);
    let answer = answers(proxy.admin, &format!("{put}A: {long}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer = answers(proxy.admin, &format!("{put}{}\r\n", "A: b\r\n".repeat(200)));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(Wire::connect(proxy.admin).get("/admin/logging").text(), "info\n");
    proxy.stop();
}

/// Neither where the configuration is shown nor in what is said of it.
#[test]
fn secrets_are_not_told() {
    let telemetry = |key: &str| {
        format!(
            "telemetry: {{exporters: [{{kind: zipkin, endpoint: \
             \"http://127.0.0.1:9/spans?key={key}\"}}]}}\n"
        )
    };
    let asked = "health_check: {kind: http, path: '/h?key=s3cret-h', interval_ms: 60000}";
    let nobody = config(&["127.0.0.1:9".parse().expect("an address")], "", asked);
    let yaml = |token: &str, key: &str| {
        format!("admin: {{port: 0, token: {token}}}\n{}{nobody}", telemetry(key))
    };
    let file = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("secrets-{}.yaml", std::process::id()));
    let proxy = Proxy::start_exactly(file, &yaml(TOKEN, "s3cret-key"));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let ask = |line: &str| {
        answers(proxy.admin, &format!("{line} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n"))
    };
    for path in READS {
        let answer = ask(&format!("GET {path}"));
        assert!(!answer.contains(TOKEN) && !answer.contains("s3cret"), "{path}: {answer}");
    }
    let shown = ask("GET /admin/config.json");
    assert_eq!(shown.matches("(hidden)").count(), 3, "{shown}");
    assert!(shown.contains("http://127.0.0.1:9/spans?"), "all but the secret: {shown}");
    // Each is noticed to be another one, and neither is told.
    proxy.rewrite(&yaml("another-token-of-visible-characters", "s3cret-2"));
    let answer = ask("POST /admin/reload");
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    for told in ["admin.token: needs a restart", "telemetry.exporters: needs a restart"] {
        assert!(answer.contains(told), "{told}: {answer}");
    }
    let log = proxy.log().join("\n");
    for text in [answer, log] {
        for secret in [TOKEN, "another-token", "s3cret"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    proxy.stop();
    for (text, said) in [
        (yaml("1234567890123456789", "a"), "admin.token: wrong type; allowed: 16 to 512"),
        (yaml("s3cret", "a"), "admin.token: no token; allowed: 16 to 512"),
        (yaml("[s3cret]", "a"), "admin.token: wrong type; allowed: 16 to 512"),
        (yaml("{a: s3cret}", "a"), "admin.token: wrong type; allowed: 16 to 512"),
        (yaml("!s3cret 1", "a"), "admin.token: wrong type; allowed: 16 to 512"),
        (yaml(TOKEN, "a").replace("127.0.0.1:9/", "me:s3cret@127.0.0.1/"), "it has a user"),
        (yaml(TOKEN, "s3cret").replace("http:", "ftp:"), "neither http nor https"),
        (yaml(TOKEN, "s3cret").replace("http://", ""), "endpoint is \"127.0.0.1:9/spans?***"),
        (yaml(TOKEN, "a").replace("http://", "me:s3cret@"), "(hidden)@127.0.0.1:9/spans"),
        (yaml(TOKEN, "a").replace("/h?", "h?"), "not a path (\"h?***"),
    ] {
        let said_by_check = check(&text);
        assert!(said_by_check.contains(said), "{said_by_check}");
        for secret in ["s3cret", "123456789", TOKEN] {
            assert!(!said_by_check.contains(secret), "{said_by_check}");
        }
    }
}

/// What `--check` says of a configuration that is wrong.
fn check(text: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlane"));
    command.args(["--check", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).expect("text")
}
