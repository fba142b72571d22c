//! An exporter that does not come with Ringlane: a kind, its keys, its task and its route are in
//! this file alone, and one list has it besides those that do.

mod common;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use axum::Router;
use axum::routing::get;
use common::{DEADLINE, Metrics, Origin, Wire, eventually, ok};
use ringlane::admin::Logging;
use ringlane::config::{Config, ExporterKey, ExporterSettings, ExporterSpec, Host, Shape};
use ringlane::supervisor;
use ringlane::telemetry::exporters::{self, Ends, Exporter, KINDS, Kind, Task};
use ringlane::telemetry::feed::Feed;
use ringlane::telemetry::state::State;

/// Writes the number of requests to a file each time that there is a new one, and tells it.
const TALLY: Kind = Kind {
    spec: &ExporterSpec {
        kind: "tally",
        keys: &[
            ExporterKey {
                name: "file",
                shape: Shape::Text { default: None, allowed: "a path that can be written" },
            },
            ExporterKey { name: "add", shape: Shape::Number { default: 0, least: 0, most: 9 } },
        ],
        by_default: false,
    },
    make: |settings| match settings.text("file") {
        path if path.starts_with('/') => Ok(Box::new(Tally::new(settings))),
        path => Err(format!("file is {path:?}; allowed: an absolute path")),
    },
};

struct Tally {
    file: PathBuf,
    add: u64,
}

impl Tally {
    fn new(settings: &ExporterSettings) -> Tally {
        Tally { file: settings.text("file").into(), add: settings.number("add") }
    }
}

fn requests(state: &State) -> u64 {
    state.servers().map(|server| server.counts.requests).sum()
}

impl Exporter for Tally {
    fn routes(&self, feed: &Feed) -> Router {
        let (feed, add) = (feed.clone(), self.add);
        let tell = async move || format!("{}\n", feed.read(requests) + add);
        Router::new().route("/admin/tally", get(tell))
    }

    fn task(self: Box<Self>, feed: Feed, mut ends: Ends) -> Option<Task> {
        Some(Box::pin(async move {
            let mut changes = feed.changes();
            loop {
                let last = tokio::select! {
                    _ = ends.wait_for(|ends| *ends) => true,
                    changed = changes.changed() => changed.is_err(),
                };
                let text = (feed.read(requests) + self.add).to_string();
                if fs::write(&self.file, text).is_err() {
                    feed.failed();
                }
                if last {
                    return;
                }
            }
        }))
    }
}

/// As a program of somebody's own would have them.
fn kinds() -> Vec<Kind> {
    KINDS.iter().copied().chain([TALLY]).collect()
}

fn yaml(exporters: &str, endpoint: &str) -> String {
    format!(
        "runtime: {{cores: \"0\", drain_ms: 300}}\nadmin: {{port: 0}}\n\
         telemetry:\n  flush_interval_ms: 20\n  exporters: [{exporters}]\n\
         routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes: [{{service: web}}]\n\
         services:\n  web: {{endpoints: [\"{endpoint}\"]}}\n"
    )
}

/// A program that has it: this one, told by its environment to be it.
const PROGRAM: &str = "the_program_that_has_it";
const CONFIGURATION: &str = "RINGLANE_TALLY_YAML";

/// Does nothing unless it was started by the test below. A process of its own, since the supervisor
/// ends the process that it runs in with any of its threads.
#[test]
fn the_program_that_has_it() {
    let Ok(text) = std::env::var(CONFIGURATION) else { return };
    tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).init();
    let kinds = kinds();
    let specs = exporters::specs(&kinds);
    let config = Config::from_yaml(&text, "mine", &Host::detect(), &specs).expect("it is valid");
    let telemetry = config.telemetry.as_ref().expect("it is on");
    let exporters = exporters::make(&telemetry.exporters, &kinds).expect("they are made");
    let logging = Logging::fixed("info");
    let reread = Box::new(|| Err("there is no file".to_owned()));
    let options =
        supervisor::Options { version: "of a test", exporters, logging, file: None, reread };
    supervisor::run(config, options).expect("it ends well");
}

/// Killed when dropped.
struct Program {
    child: Child,
    ready: String,
}

impl Program {
    fn start(yaml: &str) -> Program {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", PROGRAM, "--nocapture"])
            .env(CONFIGURATION, yaml)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let (sender, line) = mpsc::channel();
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if line.contains("ringlane is ready") {
                    let _ = sender.send(line);
                }
            }
        });
        let mut program = Program { child, ready: String::new() };
        program.ready = line.recv_timeout(DEADLINE).expect("it gets ready");
        program
    }

    /// What stands behind a key, up to what cannot be part of an address.
    fn address(&self, key: &str) -> SocketAddr {
        let (_, behind) = self.ready.split_once(key).expect("it is in the line");
        let address = behind.split([']', ',', ' ']).next().expect("there is one");
        address.parse().expect("an address")
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("it has ended", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removed with what was written there.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn directory() -> Directory {
    let path = std::env::temp_dir().join(format!("ringlane-tally-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a directory");
    Directory(path)
}

#[test]
fn an_exporter_of_somebody_s_own_sees_every_request_and_has_its_route() {
    const REQUESTS: u64 = 30;
    let origin = Origin::answering(|_| ok("fine"));
    let directory = directory();
    let file = directory.0.join("tally");
    let exporter = format!("{{kind: tally, add: 7, file: \"{}\"}}", file.display());
    let mut program = Program::start(&yaml(&exporter, &origin.address.to_string()));
    let (proxy, admin) = (program.address("listeners=["), program.address("admin="));
    let mut client = Wire::connect(proxy);
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/").text(), "fine");
    }
    let expected = (REQUESTS + 7).to_string();
    eventually("the file has them all", || {
        fs::read_to_string(&file).is_ok_and(|text| text == expected)
    });
    let answer = Wire::connect(admin).get("/admin/tally");
    assert_eq!((answer.status(), answer.text()), (200, format!("{expected}\n")));
    // It is an exporter like others: they are there, and its failures have a place.
    let metrics = Metrics::scrape(admin);
    assert_eq!(metrics.float("telemetry/export_failures/tally"), 0.0);
    assert_eq!(Wire::connect(admin).get("/metrics").status(), 200);
    let shown = Wire::connect(admin).get("/admin/config.json").text();
    assert!(shown.contains("tally"), "{shown}");
    // Now it cannot write, and that is counted. It may write once more while its file is removed.
    eventually("its directory is gone", || fs::remove_dir_all(&directory.0).is_ok());
    let mut client = Wire::connect(proxy);
    assert_eq!(client.get("/").text(), "fine");
    eventually("a failure is counted", || {
        Metrics::scrape(admin).get("telemetry/export_failures/tally") > 0
    });
    let mut operator = Wire::connect(admin);
    operator.send("POST /admin/shutdown HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(operator.answer().status(), 200);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn what_is_not_registered_is_refused_with_what_is() {
    let text = yaml("{kind: tally, file: /tmp/x}", "127.0.0.1:9");
    let read = |kinds: &[Kind]| {
        Config::from_yaml(&text, "mine", &Host::detect(), &exporters::specs(kinds))
    };
    assert!(read(&kinds()).is_ok());
    let error = read(KINDS).expect_err("nobody knows it").to_string();
    assert!(error.contains("telemetry.exporters[0].kind"), "{error}");
    assert!(error.contains("\"tally\""), "{error}");
    for kind in KINDS {
        assert!(error.contains(kind.spec.kind), "{} is not in {error}", kind.spec.kind);
    }
    // Known to the configuration and to nobody who could make it.
    let config = read(&kinds()).expect("it is valid");
    let telemetry = config.telemetry.expect("it is on");
    let error = exporters::make(&telemetry.exporters, KINDS).err().expect("none makes it");
    assert_eq!(error, ["5:15: telemetry.exporters[0]: no such exporter"]);
    // Its own settings are held to its own table, and what only it can know is its to refuse.
    for (exporter, wrong) in [
        ("{kind: tally}", "telemetry.exporters[0].file"),
        ("{kind: tally, file: /x, add: 10}", "a whole number from 0 to 9"),
        ("{kind: tally, file: /x, ad: 1}", "add"),
    ] {
        let text = yaml(exporter, "127.0.0.1:9");
        let specs = exporters::specs(&kinds());
        let error = Config::from_yaml(&text, "mine", &Host::detect(), &specs);
        let error = error.expect_err(exporter).to_string();
        assert!(error.contains(wrong), "{exporter}: {error}");
    }
    let text = yaml("{kind: tally, file: here}", "127.0.0.1:9");
    let config = Config::from_yaml(&text, "mine", &Host::detect(), &exporters::specs(&kinds()));
    let settings = config.expect("text it is").telemetry.expect("it is on").exporters;
    let error = exporters::make(&settings, &kinds()).err().expect("it is not absolute");
    assert!(error[0].starts_with("5:15: telemetry.exporters[0]: file is \"here\""), "{error:?}");
}

/// What `--check` says of a text, and its exit code.
fn check(text: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringlane"))
        .args(["--check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let written = child.stdin.take().expect("a pipe").write_all(text.as_bytes());
    written.expect("it reads its configuration");
    // It runs nothing, so that it ends by itself.
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_binary_says_line_and_path_of_what_is_wrong_with_an_exporter() {
    let (code, errors) = check(&yaml("{kind: json}", "127.0.0.1:9"));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    // `yaml` has the exporters in its fifth line.
    for (exporter, path, said) in [
        ("{kind: tally}", "telemetry.exporters[0].kind", "prometheus, json, influxdb, statsd"),
        ("{kind: statsd}", "telemetry.exporters[0].address", "127.0.0.1:8125"),
        (
            "{kind: json}, {kind: statsd, address: \"127.0.0.1:1\", interval_ms: 99}",
            "telemetry.exporters[1].interval_ms",
            "a whole number from 100 to 600000",
        ),
        ("{kind: json, colour: red}", "telemetry.exporters[0].colour", "unknown key"),
        ("{kind: statsd, address: here}", "telemetry.exporters[0]", "not an IP address"),
        ("{prefix: a}", "telemetry.exporters[0].kind", "prometheus, json, influxdb, statsd"),
        (
            "{kind: influxdb}, {kind: influxdb, prefix: b}",
            "telemetry.exporters[1]",
            "a second exporter of kind influxdb",
        ),
    ] {
        let (code, errors) = check(&yaml(exporter, "127.0.0.1:9"));
        assert_eq!(code, Some(2), "{exporter}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{exporter}: {errors}");
        assert!(errors.starts_with("<stdin>:5:"), "{exporter} is in line 5: {errors}");
        assert!(errors.contains(path), "{exporter}: {errors}");
        assert!(errors.contains(said), "{exporter}: {errors}");
    }
    // All of them, where there are several.
    let two = "{kind: statsd, address: here}, {kind: json}, {kind: statsd, address: there}";
    let (code, errors) = check(&yaml(two, "127.0.0.1:9"));
    assert_eq!((code, errors.lines().count()), (Some(2), 2), "{errors}");
    assert!(errors.lines().all(|line| line.starts_with("<stdin>:5:")), "{errors}");
    assert!(errors.contains("exporters[0]") && errors.contains("exporters[2]"), "{errors}");
}
