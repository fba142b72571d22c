//! What a newcomer does first: the demo, with curl and a WebSocket, and wrk on two origins.
//!
//! Ignored by default: they need curl and wrk, and the demo its own ports (4140, 9990, 9101 to
//! 9103). `.ci/run` installs the tools and runs them.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use common::{DEADLINE, Origin, Proxy, Wire, config, ok};

const PROXY: &str = "http://127.0.0.1:4140";
const MOST_KIB: u64 = 100 << 10;

/// The demo, ended when dropped.
struct Demo(Child);

impl Demo {
    fn start() -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringlane"))
            .arg("--demo")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let ready = lines.next().and_then(Result::ok).unwrap_or_default();
        assert!(ready.contains("ringlane is ready"), "{ready}");
        std::thread::spawn(move || lines.for_each(drop));
        Demo(child)
    }

    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok());
        kib.expect("a number")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, arguments: &[&str], stdin: Option<u64>) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    if let Some(mut left) = stdin {
        let mut pipe = child.stdin.take().expect("a pipe");
        std::thread::spawn(move || {
            let zeros = [0; 64 << 10];
            while left > 0 {
                let size = left.min(zeros.len() as u64);
                left -= size;
                if pipe.write_all(&zeros[..size as usize]).is_err() {
                    return;
                }
            }
        });
    }
    child.wait_with_output().expect("it ends")
}

/// What curl prints with these arguments behind `--silent --show-error`.
fn curl(arguments: &[&str], stdin: Option<u64>) -> String {
    let limit = DEADLINE.as_secs().max(60).to_string();
    let all = [&["--silent", "--show-error", "--max-time", &limit], arguments].concat();
    let output = run("curl", &all, stdin);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn client() -> Wire {
    Wire::connect(SocketAddr::from(([127, 0, 0, 1], 4140)))
}

#[test]
#[ignore = "needs curl and the demo's ports"]
fn the_demo_does_what_it_says() {
    let demo = Demo::start();
    // One of three origins fails 2 % of its requests, so a status is asked for more than once.
    let status = |arguments: &[&str]| -> String {
        let write = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"];
        let once = || curl(&[&write, arguments].concat(), None);
        (0..3).map(|_| once()).find(|it| !it.starts_with("500")).expect("one that does not fail")
    };
    assert!(status(&[PROXY]).starts_with("200 "));
    assert_eq!(status(&["--head", PROXY]), "200 0");
    assert_eq!(status(&[&format!("{PROXY}/bytes/1g")]), "200 1073741824");
    let head = curl(&["--include", "--header", "Connection: close", PROXY], None);
    assert!(head.to_lowercase().contains("\r\nconnection: close\r\n"), "{head}");
    let uploads: [&[&str]; 2] =
        [&["--header", "Transfer-Encoding: chunked"], &["--header", "Expect: 100-continue"]];
    for options in uploads {
        let target = format!("{PROXY}/upload");
        let arguments = [&["--upload-file", "-", "--request", "POST"], options, &[&target]];
        let sizes: Vec<String> =
            (0..3).map(|_| curl(&arguments.concat(), Some(100 << 20))).collect();
        assert!(sizes.iter().any(|size| size.trim() == "104857600"), "{sizes:?}");
    }
    let mut pipelining = client();
    pipelining.send("GET /bytes/3 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20));
    for _ in 0..20 {
        let answer = pipelining.answer();
        assert!(answer.status() == 500 || answer.text().len() == 3, "{}", answer.text());
    }
    echo_over_a_websocket();
    let peak_kib = demo.peak_kib();
    assert!(peak_kib < MOST_KIB, "{peak_kib} KiB");
}

/// RFC 6455: a masked text frame goes out, the same text comes back unmasked.
fn echo_over_a_websocket() {
    let mut socket = client();
    socket.send(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(socket.head().status(), 101);
    let text = b"hello";
    let mask = [1u8, 2, 3, 4];
    let masked = text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let header = [0x81, 0x80 | text.len() as u8].into_iter().chain(mask);
    socket.send(header.chain(masked).collect::<Vec<u8>>());
    let echoed = socket.take(2 + text.len()).expect("an echo");
    assert_eq!(&echoed[2..], text);
}

#[test]
#[ignore = "needs wrk"]
fn wrk_sees_no_error() {
    let origins = [Origin::answering(|_| ok("one")), Origin::answering(|_| ok("two"))];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let proxy = Proxy::start(&config(&addresses, "", ""), "0");
    let url = format!("http://{}/", proxy.address);
    let output = run("wrk", &["-t1", "-c64", "-d5s", &url], None);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}");
    assert!(report.contains("requests in"), "{report}");
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    proxy.stop();
}
