//! Starting: arguments, exit codes, and one clear line for whatever keeps the proxy from running.
//!
//! 0 is done, 1 could not run, 2 bad configuration or usage. What is wrong inside a configuration
//! is tested where it is read (`src/config/tests`); here, that it comes out of the process.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use common::{DEADLINE, Origin, Proxy, Wire, both, config, eventually, ok};

const RINGLANE: &str = env!("CARGO_BIN_EXE_ringlane");
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// How a process that does not stay ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Asserts the exit code, and that there is one line on standard error, which it returns.
    #[track_caller]
    fn one_line(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert_eq!(self.stdout, "");
        self.stderr.trim_end()
    }
}

#[track_caller]
fn ringlane(arguments: &[&str], stdin: &str) -> Ended {
    let mut command = Command::new(RINGLANE);
    command.args(arguments);
    ended(&mut command, stdin)
}

/// `script` runs before the proxy, in the same process.
#[track_caller]
fn ringlane_after(script: &str, stdin: &str) -> Ended {
    ended(&mut after(script), stdin)
}

fn after(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{script} && exec \"$0\" -"), RINGLANE]);
    command
}

#[track_caller]
fn ended(command: &mut Command, stdin: &str) -> Ended {
    let mut child = Killed(spawn(command, stdin));
    let mut code = None;
    eventually("the process has ended", || {
        let status = child.0.try_wait().expect("it is our child");
        code = status.and_then(|status| status.code());
        status.is_some()
    });
    // What it says is less than a pipe holds, so that it need not be read while it runs.
    let text = |pipe: Option<&mut dyn Read>| {
        let mut text = String::new();
        pipe.expect("a pipe").read_to_string(&mut text).expect("text");
        text
    };
    Ended {
        code,
        stdout: text(child.0.stdout.as_mut().map(|pipe| pipe as &mut dyn Read)),
        stderr: text(child.0.stderr.as_mut().map(|pipe| pipe as &mut dyn Read)),
    }
}

fn spawn(command: &mut Command, stdin: &str) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the process starts");
    // One that does not read its configuration may be gone already.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    child
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A valid configuration on ports that the kernel picks, in front of nobody.
fn anywhere(cores: &str) -> String {
    at(cores, 0, 0)
}

fn at(cores: &str, port: u16, admin: u16) -> String {
    format!(
        "runtime: {{cores: \"{cores}\"}}\nadmin: {{port: {admin}}}\n\
         routers:\n- servers: [{{port: {port}}}]\n  routes: [{{service: web}}]\n\
         services:\n  web: {{endpoints: [\"127.0.0.1:9\"]}}\n"
    )
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn arguments() {
    let version = ringlane(&["--version"], "");
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout, concat!("ringlane ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = ringlane(&["--help"], "");
    assert_eq!(help.code, Some(0));
    for option in ["CONFIG.yaml", "`-`", "--check", "--demo", "--log", "--help", "--version"] {
        assert!(help.stdout.contains(option), "{option} is not in\n{}", help.stdout);
    }
    for wrong in [&[][..], &["--nonsense"], &["--demo", "-"], &["-", "--log", "a=b=c"]] {
        let usage = ringlane(wrong, &anywhere("0"));
        assert_eq!(usage.code, Some(2), "{wrong:?}");
        assert!(usage.stderr.contains("--help"), "{wrong:?}: {}", usage.stderr);
    }
}

#[test]
fn check_says_what_is_wrong_and_runs_nothing() {
    for name in ["ringlane", "minimal", "demo"] {
        let path = repository(&format!("config/{name}.yaml"));
        let path = path.to_str().expect("a name in UTF-8");
        let checked = ringlane(&["--check", path], "");
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        assert_eq!(checked.stdout.lines().count(), 1, "{}", checked.stdout);
        assert!(checked.stdout.starts_with(&format!("{path}: ok")), "{}", checked.stdout);
    }
    // Good even where the port is taken: nothing is bound.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let checked = ringlane(&["--check", "-"], &at("0", port, 0));
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
    let bad = anywhere("0").replace("servers:", "serverz:");
    for arguments in [&["--check", "-"][..], &["-"]] {
        let checked = ringlane(arguments, &bad);
        assert_eq!(checked.code, Some(2), "{}", checked.stderr);
        assert!(checked.stderr.contains("<stdin>:4:"), "{}", checked.stderr);
        assert!(checked.stderr.contains("routers[0].serverz"), "{}", checked.stderr);
        assert!(checked.stderr.contains("did you mean"), "{}", checked.stderr);
    }
}

#[test]
fn a_bad_configuration_is_2_with_all_errors_at_once() {
    let syntax = ringlane(&["-"], "routers: [\n");
    assert!(syntax.one_line(2).starts_with("<stdin>:"));
    let two = at("0", 0, 0).replace("servers: [{port: 0}]", "servers: [{port: 65536}]");
    let two = ringlane(&["-"], &two.replace("admin:", "admln:"));
    assert_eq!(two.code, Some(2));
    for expected in ["<stdin>:2:1: admln: unknown key", "routers[0].servers[0].port", "65535"] {
        assert!(two.stderr.contains(expected), "{expected} is not in\n{}", two.stderr);
    }
}

#[test]
fn a_core_that_is_not_there_is_2() {
    for cores in ["9999", "0,9999"] {
        let ended = ringlane(&["-"], &anywhere(cores));
        let line = ended.one_line(2);
        assert!(line.starts_with("<stdin>:1:"), "{line}");
        for expected in ["runtime.cores", "9999", "allowed:"] {
            assert!(line.contains(expected), "{expected} is not in {line}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_2() {
    let folder = scratch("unreadable");
    let binary = folder.join("binary.yaml");
    fs::write(&binary, [0xFF, 0xFE, 0x00]).expect("a file");
    for path in [folder.join("missing.yaml"), folder.clone(), binary] {
        let path = path.to_str().expect("a name in UTF-8");
        let ended = ringlane(&[path], "");
        assert!(ended.one_line(2).contains(path), "{}", ended.stderr);
    }
}

#[test]
fn a_taken_port_is_1() {
    both(|cores| {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        expect_taken(&at(cores, address.port(), 0), address);
        expect_taken(&at(cores, 0, address.port()), address);
    });
}

#[test]
fn a_port_of_another_ringlane_is_1_and_leaves_that_one_alone() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("here"));
        let first = Proxy::start(&config(&[origin.address], "", ""), cores);
        expect_taken(&at(cores, first.address.port(), 0), first.address);
        expect_taken(&at(cores, 0, first.admin.port()), first.admin);
        for _ in 0..8 {
            assert_eq!(first.connect().get("/").text(), "here");
        }
        first.stop();
    });
}

#[track_caller]
fn expect_taken(yaml: &str, address: SocketAddr) {
    let ended = ringlane(&["-"], yaml);
    let line = ended.one_line(1);
    assert!(line.starts_with("ringlane: "), "{line}");
    assert!(line.contains(&address.to_string()), "{address} is not in {line}");
    assert!(line.contains("taken"), "{line}");
}

#[test]
fn too_little_locked_memory_is_1() {
    both(|cores| {
        let ended = ringlane_after("ulimit -l 64", &anywhere(cores));
        let line = ended.one_line(1);
        assert!(line.starts_with("ringlane: "), "{line}");
        assert!(line.contains("64 KiB"), "{line}");
        assert!(line.contains("ulimit -l"), "{line}");
    });
}

#[test]
fn a_low_soft_limit_of_locked_memory_is_raised() {
    both(|cores| {
        let mut child = Killed(spawn(&mut after("ulimit -S -l 64"), &anywhere(cores)));
        let first = first_line(&mut child.0);
        assert!(first.contains("ringlane is ready"), "{first}");
    });
}

/// The first line on standard error, within the deadline. What follows is read and forgotten.
#[track_caller]
fn first_line(child: &mut Child) -> String {
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        stderr.lines().map_while(Result::ok).for_each(|line| {
            let _ = sender.send(line);
        })
    });
    lines.recv_timeout(DEADLINE).expect("a line at start")
}

#[test]
#[ignore = "takes the demo's ports, which are fixed: 4140, 9990, 9101 to 9103"]
fn the_demo_runs_with_no_file_to_write() {
    let mut command = Command::new(RINGLANE);
    let mut demo = Killed(spawn(command.arg("--demo"), ""));
    let first = first_line(&mut demo.0);
    assert!(first.contains("listeners=[127.0.0.1:4140] admin=127.0.0.1:9990"), "{first}");
    let address = SocketAddr::from(([127, 0, 0, 1], 4140));
    let mut client = Wire::connect(address);
    let answers: Vec<_> = (0..300).map(|_| client.get("/")).collect();
    for origin in ["plain", "slow", "flaky"] {
        let named = |answer: &common::Answer| answer.text().contains(origin);
        assert!(answers.iter().any(named), "{origin} has answered nothing");
    }
    let good = answers.iter().filter(|answer| answer.status() == 200).count();
    assert!(good >= 290, "only {good} of 300 went well");
    let second = ringlane(&["--demo"], "");
    let line = second.one_line(1);
    assert!(line.starts_with("ringlane: cannot listen on 127.0.0.1:"), "{line}");
    // The first has lost nothing to the second.
    assert_eq!(client.get("/bytes/1000").body.len(), 1000);
}

#[test]
#[ignore = "changes a sysctl of the whole machine for a moment; needs root"]
fn a_kernel_that_forbids_io_uring_is_1() {
    let before = fs::read_to_string(IO_URING_DISABLED).expect("this kernel has the sysctl");
    let guard = Restored(before);
    if let Err(error) = fs::write(IO_URING_DISABLED, "2") {
        eprintln!("left out: {IO_URING_DISABLED} cannot be written: {error}");
        return;
    }
    let ended = ringlane(&["-"], &anywhere("0"));
    drop(guard);
    let line = ended.one_line(1);
    assert!(line.contains("kernel.io_uring_disabled is 2"), "{line}");
}

/// Gives a sysctl its value back, also when the test fails.
struct Restored(String);

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = fs::write(IO_URING_DISABLED, self.0.trim());
    }
}

#[test]
fn one_line_at_start_and_none_per_request() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("here"));
        let mut proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        eventually("a line has come", || !proxy.log().is_empty());
        let log = proxy.log();
        assert_eq!(log.len(), 1, "{log:#?}");
        let shards: Vec<&str> = cores.split(',').collect();
        for expected in [
            format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
            format!("cores=[{}]", shards.join(", ")),
            format!("listeners=[{}]", proxy.address),
            format!("admin={}", proxy.admin),
        ] {
            assert!(log[0].contains(&expected), "{expected} is not in {}", log[0]);
        }
        for _ in 0..10 {
            let mut client = proxy.connect();
            for _ in 0..10 {
                assert_eq!(client.get("/").text(), "here");
            }
            client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
            assert_eq!(client.answer().status(), 400);
        }
        proxy.signal("TERM");
        assert_eq!(proxy.wait().code(), Some(0));
        let log = proxy.log();
        let expected = ["ringlane is ready", "draining", "ringlane has ended"];
        assert_eq!(log.len(), expected.len(), "{log:#?}");
        for (line, expected) in log.iter().zip(expected) {
            assert!(line.contains(expected), "{log:#?}");
        }
    });
}

#[test]
fn an_endpoint_may_be_a_unix_socket() {
    both(|cores| {
        let path = scratch("unix").join(format!("origin-{}.sock", cores.len()));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        let yaml = config(&[], "", "")
            .replace("endpoints: []", &format!("endpoints: [\"unix:{}\"]", path.display()));
        let proxy = Proxy::start(&yaml, cores);
        let mut client = proxy.connect();
        client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n");
        let (mut origin, _) = listener.accept().expect("the proxy connects");
        origin.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut first = String::new();
        let reads = origin.try_clone().expect("a second handle");
        BufReader::new(reads).read_line(&mut first).expect("a request");
        assert_eq!(first, "GET /a HTTP/1.1\r\n");
        origin.write_all(&ok("from a unix socket")).expect("an answer is taken");
        assert_eq!(client.answer().text(), "from a unix socket");
        drop((client, origin));
        // Nobody listens any more: the proxy says so, and goes on.
        drop(listener);
        fs::remove_file(&path).expect("it is there");
        let refused = proxy.connect().get("/");
        assert_eq!((refused.status(), refused.head.reason()), (502, Some("connect_refused")));
        proxy.stop();
    });
}

#[test]
fn ipv6_beside_ipv4_on_one_port() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("left out: this machine has no IPv6 loopback");
        return;
    }
    both(|cores| {
        let origin = Origin::answering(|_| ok("here"));
        let yaml = config(&[origin.address], "", "")
            .replace("[{port: 0}]", "[{ip: 127.0.0.1, port: 0}, {ip: \"::1\", port: 0}]");
        let proxy = Proxy::start(&yaml, cores);
        assert!(proxy.addresses[0].is_ipv4() && proxy.addresses[1].is_ipv6());
        for address in &proxy.addresses {
            assert_eq!(Wire::connect(*address).get("/").text(), "here");
            let forwarded = origin.last_request();
            let client = forwarded.head.get("x-forwarded-for").expect("who asked");
            assert_eq!(client, address.ip().to_string());
        }
        proxy.stop();
    });
}

/// A folder of this test's own, under the build's.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}
