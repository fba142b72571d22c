//! The real binary as a child process.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Answer, DEADLINE, Wire, eventually};

/// What connections that a test leaves open may hold the end up, unless the test says more.
const RUNTIME: &str = "drain_ms: 300";
const BINARY: &str = env!("CARGO_BIN_EXE_ringlane");
/// Of the times in `/proc/<pid>/stat`: Linux tells them in hundredths, whatever its own clock is.
const TICKS_PER_SEC: f64 = 100.0;

/// A running proxy; killed when dropped.
pub struct Proxy {
    child: Child,
    /// The first listener.
    pub address: SocketAddr,
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    /// Reads the log until the proxy has ended.
    follower: Option<JoinHandle<()>>,
    /// Where its configuration is, if a reload is to find it, and what stands at its beginning.
    file: Option<(PathBuf, String)>,
}

/// Of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
    /// Resident, with shared pages divided among those who share them.
    pub proportional: u64,
}

impl Proxy {
    /// Starts with `yaml`, to which cores, a short drain and an admin on any port are added.
    pub fn start(yaml: &str, cores: &str) -> Proxy {
        Proxy::start_with(RUNTIME, yaml, cores)
    }

    /// As `start`, with keys of `runtime` besides `cores` (YAML, comma-separated).
    pub fn start_with(runtime: &str, yaml: &str, cores: &str) -> Proxy {
        let text = beginning(runtime, cores) + yaml;
        Proxy::spawn(Command::new(BINARY), "-", &text, None)
    }

    /// As `start_with`, in a process that may have so many descriptors and no more.
    pub fn start_with_descriptors(limit: usize, runtime: &str, yaml: &str, cores: &str) -> Proxy {
        let text = beginning(runtime, cores) + yaml;
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), BINARY]);
        Proxy::spawn(command, "-", &text, None)
    }

    /// As `start`, with keys of `admin` besides `port`.
    pub fn start_with_admin(admin: &str, yaml: &str, cores: &str) -> Proxy {
        let beginning = beginning(RUNTIME, cores).replace("port: 0", &format!("port: 0, {admin}"));
        Proxy::spawn(Command::new(BINARY), "-", &(beginning + yaml), None)
    }

    /// As `start`, with a configuration in a file that `reload` and `rewrite` change.
    pub fn start_from_file(yaml: &str, cores: &str) -> Proxy {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let (pid, number) = (std::process::id(), FILES.fetch_add(1, Ordering::SeqCst));
        let name = format!("ringlane-{pid}-{number}.yaml");
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        Proxy::start_at(path, RUNTIME, yaml, cores)
    }

    /// As `start_with`, with the configuration in a file at `path`.
    pub fn start_at(path: PathBuf, runtime: &str, yaml: &str, cores: &str) -> Proxy {
        let beginning = beginning(runtime, cores);
        std::fs::write(&path, format!("{beginning}{yaml}")).expect("a file of ours");
        let argument = path.to_str().expect("a path in UTF-8").to_owned();
        Proxy::spawn(Command::new(BINARY), &argument, "", Some((path, beginning)))
    }

    /// With this configuration and no more, in a file at `path`.
    pub fn start_exactly(path: PathBuf, yaml: &str) -> Proxy {
        std::fs::write(&path, yaml).expect("a file of ours");
        let argument = path.to_str().expect("a path in UTF-8").to_owned();
        Proxy::spawn(Command::new(BINARY), &argument, "", Some((path, String::new())))
    }

    /// The same behind words such as `["nice"]`, of a program that becomes the proxy.
    pub fn start_behind(words: &[&str], path: PathBuf, runtime: &str, yaml: &str) -> Proxy {
        let beginning = beginning(runtime, "0");
        std::fs::write(&path, format!("{beginning}{yaml}")).expect("a file of ours");
        let argument = path.to_str().expect("a path in UTF-8").to_owned();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(BINARY);
        Proxy::spawn(command, &argument, "", Some((path, beginning)))
    }

    fn spawn(
        mut command: Command,
        argument: &str,
        text: &str,
        file: Option<(PathBuf, String)>,
    ) -> Proxy {
        let mut child = command
            .args([argument, "--log", "info"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(text.as_bytes()).expect("the configuration is read");
        drop(stdin);
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, follower) = follow(child.stderr.take().expect("stderr is a pipe"), log.clone());
        let Ok(line) = ready.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("no line at start, with\n{text}\nbut {:#?}", log.lock().unwrap());
        };
        let addresses = value_of(&line, "listeners=");
        let addresses = addresses.trim_matches(['[', ']']).split(", ").map(|it| it.parse());
        let addresses: Vec<SocketAddr> = addresses.collect::<Result<_, _>>().expect("addresses");
        let admin = value_of(&line, "admin=").parse().expect("the address of admin");
        Proxy {
            child,
            address: addresses[0],
            addresses,
            admin,
            log,
            follower: Some(follower),
            file,
        }
    }

    /// Changes the configuration's file, but for what `start` adds to it.
    pub fn rewrite(&self, yaml: &str) {
        let (path, beginning) = self.file.as_ref().expect("started from a file");
        std::fs::write(path, format!("{beginning}{yaml}")).expect("a file of ours");
    }

    /// Has it read another configuration; what admin says to that.
    pub fn try_reload(&self, yaml: &str) -> Answer {
        self.rewrite(yaml);
        self.post("/admin/reload", "")
    }

    /// The same, which must go well.
    #[track_caller]
    pub fn reload(&self, yaml: &str) {
        let answer = self.try_reload(yaml);
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    /// A POST to admin, with a body of JSON.
    pub fn post(&self, path: &str, json: &str) -> Answer {
        let mut admin = Wire::connect(self.admin);
        admin.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{json}",
            json.len()
        ));
        admin.answer()
    }

    /// Where its servers listen now.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let answer = Wire::connect(self.admin).get("/admin/server_info");
        let info: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let listeners = info["listeners"].as_array().expect("a list");
        let address = |it: &serde_json::Value| it.as_str().and_then(|it| it.parse().ok());
        listeners.iter().map(|it| address(it).expect("an address")).collect()
    }

    /// An endpoint as `/admin/clients.json` shows it; none where the service has it no more.
    pub fn endpoint(&self, service: &str, address: SocketAddr) -> Option<serde_json::Value> {
        let answer = Wire::connect(self.admin).get("/admin/clients.json");
        let services: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let mut services = services.as_array().expect("a list").iter();
        let endpoints = services.find(|it| it["service"] == service)?["endpoints"].as_array();
        let address = address.to_string();
        endpoints.expect("a list").iter().find(|it| it["address"] == address).cloned()
    }

    pub fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines on standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, name: &str) {
        // std has no kill(2), and every POSIX shell has this.
        let script = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.is_ok_and(|status| status.success()), "{script}");
    }

    /// Asks it to end, and asserts that it does so well.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
        let panicked = self.log().into_iter().find(|line| line.contains("panicked"));
        assert_eq!(panicked, None);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the proxy has ended", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        // What it said last is still on its way.
        if let Some(follower) = self.follower.take() {
            follower.join().expect("lines are read to their end");
        }
        status.expect("it has ended")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    pub fn memory(&self) -> Memory {
        let status = self.proc_file("status");
        Memory {
            resident: kib(&status, "VmRSS:"),
            peak: kib(&status, "VmHWM:"),
            proportional: kib(&self.proc_file("smaps_rollup"), "Pss:"),
        }
    }

    /// Processor time that it has spent, user and system.
    pub fn cpu_secs(&self) -> f64 {
        let stat = self.proc_file("stat");
        // Its name is in brackets and may hold anything; `utime` is the 14th of all.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let ticks = rest.split_whitespace().skip(11).take(2).map(|it| it.parse::<f64>());
        ticks.map(|it| it.expect("a number")).sum::<f64>() / TICKS_PER_SEC
    }

    /// Open descriptors: what it has not closed.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Its threads, and those that the kernel adds to work for io_uring.
    pub fn threads(&self) -> (usize, usize) {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let paths = tasks.flatten().map(|task| task.path().join("comm"));
        let names = paths.filter_map(|path| std::fs::read_to_string(path).ok());
        let (kernels, own): (Vec<String>, Vec<String>) =
            names.partition(|name| name.starts_with("iou-"));
        (own.len(), kernels.len())
    }

    fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid())).expect("it runs")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((path, _)) = &self.file {
            let _ = std::fs::remove_file(path);
        }
        if std::thread::panicking() {
            eprintln!("the proxy's log: {:#?}", self.log());
        }
    }
}

/// What a test's configuration begins with.
fn beginning(runtime: &str, cores: &str) -> String {
    let comma = if runtime.is_empty() { "" } else { ", " };
    format!("runtime: {{cores: \"{cores}\"{comma}{runtime}}}\nadmin: {{port: 0}}\n")
}

/// Collects lines until there are no more; the one that says that the proxy is ready is also sent,
/// once it is among them.
fn follow(
    stderr: std::process::ChildStderr,
    log: Arc<Mutex<Vec<String>>>,
) -> (Receiver<String>, JoinHandle<()>) {
    let (sender, ready) = mpsc::channel();
    let follower = std::thread::spawn(move || {
        let started = Instant::now();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let is_ready = line.contains("ringlane is ready") && started.elapsed() < DEADLINE;
            log.lock().unwrap().push(line.clone());
            if is_ready {
                let _ = sender.send(line);
            }
        }
    });
    (ready, follower)
}

/// The text behind `key`: a list in brackets, or one word.
fn value_of<'l>(line: &'l str, key: &str) -> &'l str {
    let at = line.find(key).unwrap_or_else(|| panic!("no {key} in {line}")) + key.len();
    let rest = &line[at..];
    match rest.starts_with('[') {
        // An IPv6 address has brackets too; the list ends before the next key.
        true => rest.split(" admin=").next().unwrap_or(rest).trim_end(),
        false => rest.split_whitespace().next().unwrap_or(rest),
    }
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {text}"))
}
