//! `ringlane-loadtest run`, `sweep` and `capacity` as processes: what they print and write, and how
//! they end.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::{origins, wait_until};
use serde_json::Value;

const LOADTEST: &str = env!("CARGO_BIN_EXE_ringlane-loadtest");

fn ran(arguments: &[&str]) -> Output {
    Command::new(LOADTEST).args(arguments).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}

/// A path that no other test has.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"))
}

#[test]
fn a_run_is_shown_and_written_in_every_form() {
    let origins = origins(&["errors=10%:503"]);
    let url = url(origins.addresses()[0]);
    let (json, hgrm, log) = (file("run.json"), file("run.hgrm"), file("run.hlog"));
    let plot = file("run.svg");
    let path = |path: &PathBuf| path.to_str().expect("text").to_owned();
    let ran = ran(&[
        "run",
        &url,
        "--rate",
        "1k",
        "-d",
        "1200ms",
        "-X",
        "POST",
        "-H",
        "x-a: b",
        "--body-size",
        "1k",
        "--chunked",
        "100",
        "--churn",
        "50",
        "--json",
        &path(&json),
        "--hgrm",
        &path(&hgrm),
        "--log",
        &path(&log),
        "--plot",
        &path(&plot),
        "--fail-if",
        "p50>10s,errors>0",
    ]);
    let (out, progress) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(0), "{out}{progress}");
    assert!(out.contains("sent 1,200 = answered 1,200 + failed 0 + in flight 0"), "{out}");
    assert!(out.contains("passed  errors>0"), "{out}");
    assert!(progress.lines().next().is_some_and(|line| line.contains("1 s")), "{progress}");
    let served = origins.counts().total;
    assert_eq!((served.requests, served.body_bytes_in), (1_200, 1_200 * 1_024));
    assert!(served.connections >= 64);
    let json: Value = serde_json::from_slice(&fs::read(json).expect("a file")).expect("JSON");
    assert_eq!(json["answered_total"], 1_200);
    let failed = json["statuses"]["503"].as_u64().expect("a count");
    assert_eq!(Some(&failed), served.statuses.get(&503));
    let hgrm = text(&fs::read(hgrm).expect("a file"));
    assert!(hgrm.contains("Total count    =         1200"), "{hgrm}");
    let plot = text(&fs::read(plot).expect("a file"));
    assert!(plot.starts_with("<svg") && plot.contains("from the send"), "{plot}");
    let log = text(&fs::read(log).expect("a file"));
    assert!(log.starts_with("#[Histogram log format version 1.3]"), "{log}");
}

/// Scripts look at the exit code alone.
#[test]
fn thresholds_set_the_exit_code() {
    let origins = origins(&["errors=100%:500"]);
    let url = url(origins.addresses()[0]);
    let run = |condition: &str| {
        let ran =
            ran(&["run", &url, "-r", "200", "-d", "300ms", "--quiet", "--fail-if", condition]);
        (ran.status.code(), text(&ran.stdout))
    };
    let (code, out) = run("status_5xx>0");
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("FAILED  status_5xx>0"), "{out}");
    assert_eq!(run("errors>0").0, Some(0), "a 500 is an answer");
}

#[test]
fn ctrl_c_ends_a_run_and_shows_what_it_has() {
    let origins = origins(&[""]);
    let child = Command::new(LOADTEST)
        .args(["run", &url(origins.addresses()[0]), "-r", "500", "-d", "60s", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let child = child.expect("started");
    wait_until(|| origins.counts().total.requests > 100);
    let killed = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill").success());
    let ended = child.wait_with_output().expect("ended");
    let json: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(json["sent_total"], origins.counts().total.requests);
    assert!(json["elapsed_s"].as_f64().is_some_and(|seconds| seconds < 30.0), "{json}");
    assert!(json["rate_achieved"].as_f64().is_some_and(|rate| rate > 0.5), "{json}");
}

#[test]
fn what_is_wrong_is_said_with_what_is_allowed() {
    let wrong: [(&[&str], &str); 9] = [
        (&["run"], "<URL>"),
        (&["run", "https://a/"], "TLS is not spoken here; allowed: http://"),
        (&["run", "http://a/", "-r", "5x"], "no rate; allowed: a number"),
        (&["run", "http://a/", "-r", "1..2"], "allowed: --ramp TIME"),
        (&["run", "http://a/", "-r", "1", "--closed"], "cannot be used with"),
        (&["run", "http://a/", "-d", "5"], "allowed: a number and ns, us"),
        (&["run", "http://a/", "--fail-if", "p99>5"], "allowed: a number and its unit"),
        (&["run", "http://127.0.0.1:1/"], "cannot connect to 127.0.0.1:1"),
        (&["capacity", "http://a/", "--slo", "p99>5ms"], "no comparison after `p99`"),
    ];
    for (arguments, expected) in wrong {
        let ran = ran(arguments);
        let error = text(&ran.stderr);
        assert!(!ran.status.success() && ran.stdout.is_empty(), "{arguments:?}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_sweep_has_a_row_for_each_rate_and_a_curve() {
    let origins = origins(&["latency=1ms"]);
    let (json, plot) = (file("sweep.json"), file("sweep.svg"));
    let ran = ran(&[
        "sweep",
        &url(origins.addresses()[0]),
        "--rates",
        "100,200,400",
        "-d",
        "500ms",
        "--warmup",
        "100ms",
        "--json",
        json.to_str().expect("text"),
        "--plot",
        plot.to_str().expect("text"),
    ]);
    let out = text(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", text(&ran.stderr));
    assert_eq!(out.lines().count(), 4, "{out}");
    for (line, rate) in out.lines().skip(1).zip(["100.0/s", "200.0/s", "400.0/s"]) {
        assert_eq!(line.split_whitespace().next(), Some(rate), "{out}");
    }
    let json: Value = serde_json::from_slice(&fs::read(json).expect("a file")).expect("JSON");
    assert_eq!(json["runs"][2]["answered_total"], 200);
    assert!(text(&fs::read(plot).expect("a file")).starts_with("<svg"));
}

/// Four connections to a server that takes 10 ms: 400 a second, and no more.
#[test]
#[ignore = "takes 15 s"]
fn the_capacity_is_what_the_server_can_do() {
    let origins = origins(&["latency=10ms"]);
    let ran = ran(&[
        "capacity",
        &url(origins.addresses()[0]),
        "-c",
        "4",
        "--slo",
        "p90=60ms,errors=0",
        "-d",
        "1s",
        "--warmup",
        "200ms",
        "--precision",
        "5",
    ]);
    let out = text(&ran.stdout);
    assert!(ran.status.success(), "{out}{}", text(&ran.stderr));
    let found = out.lines().last().and_then(|line| line.strip_prefix("capacity "));
    let found = found.and_then(|rate| rate.strip_suffix("/s")).expect("a rate");
    let found: f64 = found.replace(',', "").parse().expect("a number");
    assert!((340.0..=405.0).contains(&found), "{out}");
    let none = self::ran(&[
        "capacity",
        &url(origins.addresses()[0]),
        "--slo",
        "p50=1ms",
        "-d",
        "100ms",
        "--warmup",
        "0s",
        "--tries",
        "1",
        "--from",
        "100",
    ]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stdout).contains("no rate holds the objective"));
}

/// More than the server can do: the curve ends where it does.
#[test]
#[ignore = "takes 20 s"]
fn a_sweep_finds_saturation_by_itself_and_goes_past_it() {
    let origins = origins(&["latency=5ms"]);
    let url = url(origins.addresses()[0]);
    let mut lasts = Vec::new();
    // A machine that stands still for a moment in its last second takes some of it: another try.
    while !lasts.iter().any(|last| (700.0..=810.0).contains(last)) {
        assert!(lasts.len() < 3, "{lasts:?}");
        let ran = ran(&["sweep", &url, "-c", "4", "-d", "1s", "--warmup", "100ms"]);
        let out = text(&ran.stdout);
        let rows: Vec<Vec<&str>> =
            out.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((rows.len(), rows[0][0]), (14, "closed"), "{out}");
        let answered = rows[13][1].trim_end_matches("/s").replace(',', "");
        lasts.push(answered.parse::<f64>().expect("a rate"));
    }
}
