//! `ringlane-loadtest origin` as a process: what it prints, and what it says at its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LOADTEST: &str = env!("CARGO_BIN_EXE_ringlane-loadtest");
const LIMIT: Duration = Duration::from_secs(20);

fn refused(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new(LOADTEST).arg("origin").args(arguments).output().expect("run");
    assert!(!status.success() && stdout.is_empty(), "{arguments:?}");
    String::from_utf8(stderr).expect("text")
}

#[test]
fn it_serves_until_a_signal_and_says_what_it_served() {
    for signal in ["TERM", "INT"] {
        let any = "127.0.0.1:0";
        let scripts = ["--script", "size=5", "--script", "errors=100%:502"];
        let mut child = Command::new(LOADTEST)
            .args(["origin", "--listen", any, "--listen", any])
            .args(scripts)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("its output"));
        let mut addresses = Vec::new();
        for status in ["200", "502"] {
            let mut line = String::new();
            lines.read_line(&mut line).expect("a line");
            let address = line.trim().strip_prefix("origin on ").expect("an address").to_owned();
            let mut stream = TcpStream::connect(&address).expect("connected");
            stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            addresses.push(address);
        }
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill");
        assert!(sent.success());
        let mut rest = String::new();
        lines.read_to_string(&mut rest).expect("its last words");
        assert!(child.wait().expect("ended").success());
        let counts: serde_json::Value = serde_json::from_str(&rest).expect("JSON");
        assert_eq!(counts["total"]["answered_total"], 2);
        for (origin, (address, status)) in addresses.iter().zip(["200", "502"]).enumerate() {
            assert_eq!(counts["origins"][origin]["address"], address.as_str());
            assert_eq!(counts["origins"][origin]["statuses"][status], 1);
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_what_is_allowed() {
    let error = refused(&["--listen", "127.0.0.1:0", "--script", "1s stall; latency=2"]);
    let expected = "column 19: `2` is no value of `latency`; allowed: 2ms, ";
    assert!(error.contains(expected), "{error}");
    let error = refused(&["--listen", "127.0.0.1:0", "--script", "", "--script", ""]);
    assert!(error.contains("--script 2 times; allowed: once, or 1 times"), "{error}");
    let error = refused(&["--script", ""]);
    assert!(error.contains("--listen"), "{error}");
}
