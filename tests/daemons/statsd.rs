//! etsy's statsd, from npm: what it adds up is what we counted.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Wire, eventually};
use crate::load::Load;
use crate::tools::{self, Daemon, Folder};

/// The last that there is; it has not changed since 2021.
const VERSION: &str = "statsd@0.9.0";
/// A folder with `node_modules/statsd`; where none is named the test installs one.
const FOLDER: &str = "RINGLANE_STATSD";
/// Sent by the test, to see that statsd listens.
const PROBE: &str = "probe";
const PREFIX: &str = "ringlane";
/// What npm may take: seconds, of which it is told as well.
const NPM_SECS: &str = "60";

/// Prints what was counted between two flushes, a line of JSON each. It is loaded before statsd
/// itself too, which calls a function that node has no longer from 23 on.
const BACKEND: &str = "\
const util = require('util');
util.log ??= (...parts) => console.log(...parts);
exports.init = (started, config, events) => {
  events.on('flush', (time, metrics) => console.log(JSON.stringify(metrics.counters)));
  return true;
};
";

#[test]
#[ignore = "needs node, and statsd from npm"]
fn statsd_adds_up_to_what_was_counted() {
    let statsd = Statsd::start();
    let exporter = format!("{{kind: statsd, address: \"{}\", interval_ms: 100}}", statsd.address);
    let mut load = Load::start(&exporter);
    load.proxy.metrics_when("a thousand requests", |metrics| {
        metrics.get(&format!("{}/requests", load.proxy.server(0))) > 1_000
    });
    load.end();
    let before = counters(load.proxy.admin);
    let mut sums = BTreeMap::new();
    eventually("statsd has it all", || {
        sums = statsd.sums();
        before.iter().all(|(name, count)| sums.get(name).unwrap_or(&0) >= count)
    });
    let after = counters(load.proxy.admin);
    let (mut exact, mut moving) = (0, 0);
    for (name, count) in &after {
        let sum = sums.get(name).copied().unwrap_or(0);
        match name.starts_with("ringlane.rt.") {
            true => {
                assert_eq!(sum, *count, "{name}: {:?} before", before.get(name));
                exact += usize::from(*count > 0);
            }
            // Shards, the process and telemetry go on counting: statsd is between two readings.
            false => {
                let least = before.get(name).copied().unwrap_or(0);
                assert!(least <= sum && sum <= *count, "{name}: {sum} not in {least}..={count}");
                moving += usize::from(*count > 0);
            }
        }
    }
    assert!(exact > 40 && moving > 5, "only {exact} and {moving} counters");
    let unknown: Vec<_> = sums.keys().filter(|name| !after.contains_key(*name)).collect();
    let theirs = |name: &&&String| !name.starts_with("statsd.") && name.as_str() != PROBE;
    assert_eq!(unknown.iter().filter(theirs).count(), 0, "{unknown:#?}");
    assert_eq!(sums.get("statsd.bad_lines_seen"), Some(&0));
    eprintln!("{exact} counters exactly, {moving} between two readings");
    load.proxy.stop();
}

struct Statsd {
    daemon: Daemon,
    address: SocketAddr,
    _folder: Folder,
}

impl Statsd {
    fn start() -> Statsd {
        let package = package();
        let folder = Folder::new();
        let backend = folder.write("backend.js", BACKEND);
        // It takes no port 0: these were free a moment ago, each for what it is used for.
        let metrics = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let commands = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = metrics.local_addr().expect("an address");
        let management = commands.local_addr().expect("an address");
        drop((metrics, commands));
        let config = format!(
            "{{address: '127.0.0.1', port: {}, mgmt_address: '127.0.0.1', mgmt_port: {}, \
             flushInterval: 100, backends: ['{}']}}",
            address.port(),
            management.port(),
            backend.display()
        );
        let config = folder.write("config.js", &config);
        let mut command = Command::new(tools::find("node"));
        command.arg("-r").args([&backend, &package.join("stats.js"), &config]);
        let statsd = Statsd { daemon: Daemon::start(&mut command), address, _folder: folder };
        let probe = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        eventually("statsd counts", || {
            // Refused while it does not listen yet.
            let _ = probe.send_to(format!("{PROBE}:1|c").as_bytes(), address);
            statsd.sums().get(PROBE).is_some_and(|count| *count > 0)
        });
        statsd
    }

    /// Everything that it has flushed, by name.
    fn sums(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for line in self.daemon.log().iter().filter(|line| line.starts_with('{')) {
            let flushed: BTreeMap<String, u64> =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            flushed.into_iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
        }
        sums
    }
}

/// The folder of the package, which is installed where it is not there yet.
fn package() -> PathBuf {
    let given = std::env::var_os(FOLDER).map(PathBuf::from);
    let folder = given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("statsd"));
    let package = folder.join("node_modules/statsd");
    if !package.join("stats.js").is_file() {
        let output = Command::new("timeout")
            .args([NPM_SECS, "npm", "install", "--omit=optional", "--ignore-scripts"])
            .args(["--no-audit", "--no-fund", "--fetch-retries=1", "--prefix"])
            .arg(&folder)
            .arg(VERSION)
            .stdin(Stdio::null())
            .output()
            .expect("timeout(1) starts");
        assert!(
            output.status.success() && package.join("stats.js").is_file(),
            "npm cannot install {VERSION}, and {FOLDER} names no folder that has it: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    package
}

/// Every counter that we have, by the name that statsd knows it under.
fn counters(admin: SocketAddr) -> BTreeMap<String, u64> {
    let answer = Wire::connect(admin).get("/admin/metrics.json?tree&window=total");
    assert_eq!(answer.status(), 200, "{answer:?}");
    let tree: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let mut found = BTreeMap::new();
    collect(&tree, PREFIX, &mut found);
    found
}

fn collect(node: &Value, name: &str, found: &mut BTreeMap<String, u64>) {
    for (key, value) in node.as_object().expect("a node") {
        match key.as_str() {
            // One of time has a fraction, of which whole milliseconds are sent.
            "counter" => {
                found.insert(name.to_owned(), value.as_f64().expect("a number") as u64);
            }
            "stat.count" => {
                found.insert(format!("{name}.count"), value.as_u64().expect("a count"));
            }
            _ if value.is_object() => {
                let safe = |char: char| char.is_ascii_alphanumeric() || "_-".contains(char);
                let segment = key.chars().map(|char| if safe(char) { char } else { '_' });
                collect(value, &format!("{name}.{}", segment.collect::<String>()), found);
            }
            _ => {}
        }
    }
}
