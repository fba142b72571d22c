//! Holds the README to the program: its commands, options, keys, paths, files and tables exist, and
//! its configurations are valid.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Proxy, Wire, config};
use ringlane::http::Reason;

const RINGLANE: &str = env!("CARGO_BIN_EXE_ringlane");
/// Options of cargo, of its test harness and of proxybench.
const OPTIONS_OF_OTHERS: [&str; 17] = [
    "--bins",
    "--lib",
    "--keep",
    "--no-default-features",
    "--release",
    "--workspace",
    "--bench",
    "--test",
    "--ignored",
    "--include-ignored",
    "--nocapture",
    "--peers",
    "--proxy",
    "--rounds",
    "--conns",
    "--body",
    "--idle",
];

#[test]
fn it_begins_with_what_a_newcomer_needs() {
    let readme = readme();
    let lines: Vec<&str> = readme.lines().collect();
    assert!(lines[0].starts_with("# "), "line 1 is the title");
    for expected in ["TLS", "HTTP/2", "not there yet"] {
        assert!(lines[2].contains(expected), "line 3 does not say {expected}: {}", lines[2]);
    }
    let first = blocks(&readme, "sh")[0];
    let commands: Vec<&str> =
        first.lines().map(|line| line.split(" #").next().unwrap_or(line).trim()).collect();
    assert_eq!(commands, ["cargo run --release -- --demo", "cargo test --workspace"]);
    let manifest = repository("Cargo.toml");
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let rust = rust.expect("a version in Cargo.toml").trim_matches('"');
    assert!(readme.contains(&format!("Rust {rust} or newer")), "Rust {rust} is what it needs");
    assert!(readme.contains("Linux 6.1"), "the kernel that the probe asks for");
}

#[test]
fn its_configurations_are_valid() {
    let readme = readme();
    let blocks = blocks(&readme, "yaml");
    assert!(blocks.len() >= 3, "{blocks:#?}");
    for block in blocks {
        let checked = ringlane(&["--check", "-"], block);
        assert!(
            checked.status.success(),
            "{}\nis wrong with\n{block}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

#[test]
fn its_options_are_in_the_help() {
    let help = ringlane(&["--help"], "");
    let help = String::from_utf8(help.stdout).expect("text");
    let readme = without_the_load_tester(&readme());
    let words = readme.split(|c: char| !c.is_ascii_lowercase() && c != '-' && c != '_');
    let options: BTreeSet<&str> = words
        .filter(|word| word.starts_with("--") && word.trim_matches('-').len() > 1)
        .filter(|word| !OPTIONS_OF_OTHERS.contains(word))
        .collect();
    assert!(options.contains("--demo") && options.contains("--check"), "{options:?}");
    for option in options {
        assert!(help.contains(&format!("  {option}")), "{option} is not in\n{help}");
    }
}

/// Its commands and their options are held to it where it is built, in `loadtest/tests/readme.rs`.
fn without_the_load_tester(readme: &str) -> String {
    let (before, rest) = readme.split_once("### The load tester\n").expect("its section");
    let (_, after) = rest.split_once("\n### ").expect("a section after it");
    let mut is_its_command = false;
    let rest = [before, after].concat();
    let kept = rest.lines().filter(|line| {
        let belongs = is_its_command || line.contains("ringlane-loadtest ");
        is_its_command = belongs && line.ends_with('\\');
        !belongs
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// A key with its unit, as `drain_ms`, is a word that nothing else looks like.
#[test]
fn its_keys_are_in_the_configuration() {
    let readme = readme();
    let known = repository("config/ringlane.yaml");
    let known: BTreeSet<&str> =
        known.split(|c: char| !c.is_ascii_lowercase() && c != '_').collect();
    let mut seen = 0;
    for code in inline_code(&readme) {
        let is_key = code.ends_with("_ms") || code.ends_with("_bytes") || code.contains("runtime.");
        for key in code.split('.').filter(|_| is_key) {
            seen += 1;
            assert!(known.contains(key), "{key} of `{code}` is not in config/ringlane.yaml");
        }
    }
    assert!(seen > 5, "only {seen} keys were found: the reader of this test is broken");
}

#[test]
fn its_admin_paths_answer_as_it_says() {
    let readme = readme();
    let codes = inline_code(&readme);
    let requests: BTreeSet<(&str, &str)> = codes
        .iter()
        .filter_map(|code| code.split_once(' '))
        .filter(|(method, path)| ["GET", "POST"].contains(method) && path.starts_with("/admin/"))
        .collect();
    assert_eq!(requests.len(), 19, "{requests:?}");
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let telemetry = "telemetry: {exporters: [{kind: recent_requests}]}\n";
    let proxy = Proxy::start(&(telemetry.to_owned() + &config(&[nobody], "", "")), "0");
    for (method, path) in requests {
        // What would end it is asked for in the wrong way.
        let asked = if method == "GET" { "GET" } else { "PUT" };
        let mut admin = Wire::connect(proxy.admin);
        let host = proxy.admin;
        admin.send(format!("{asked} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = admin.answer();
        match method {
            "GET" => assert_eq!(answer.status(), 200, "{method} {path}"),
            _ => {
                assert_eq!(answer.status(), 405, "{method} {path}");
                assert_eq!(answer.head.get("allow"), Some("POST"), "{method} {path}");
            }
        }
    }
    for code in codes.iter().filter(|code| code.starts_with("/admin/")) {
        assert_eq!(Wire::connect(proxy.admin).get(code).status(), 200, "{code}");
    }
    proxy.stop();
}

#[test]
fn its_table_of_errors_is_the_codes() {
    let mut expected: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    // 499 is for metrics alone: nobody is there to read it.
    for reason in Reason::ALL.into_iter().filter(|reason| reason.status() != 499) {
        expected.entry(reason.status()).or_default().push(reason.label());
    }
    let readme = readme();
    let rows = readme.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let status = cells.next()?.parse().ok().filter(|status| *status >= 100)?;
        Some((status, inline_code(cells.next()?)))
    });
    let table: BTreeMap<u16, Vec<&str>> = rows.collect();
    assert_eq!(table, expected);
}

#[test]
fn its_files_exist() {
    let readme = readme();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src/", "config/", "tests/", "benches/", ".ci/"];
    let in_text = inline_code(&readme);
    let files = in_text.iter().filter(|code| folders.iter().any(|it| code.starts_with(it)));
    // Without the arguments of a script.
    let file = |code: &str| code.split(' ').next().unwrap_or_default().to_owned();
    let mut files: Vec<String> = files.map(|&code| file(code)).collect();
    files.extend(["LICENSE".to_owned(), "CHANGELOG.md".to_owned()]);
    // The map of the source, one entry in each line below the first.
    let map = blocks(&readme, "").into_iter().find(|block| block.starts_with("src/"));
    let map = map.expect("a map of the source").lines().skip(1);
    files.extend(
        map.filter_map(|line| line.split_whitespace().next()).map(|it| format!("src/{it}")),
    );
    assert!(files.len() > 12, "{files:?}");
    for file in files {
        assert!(root.join(&file).exists(), "{file} does not exist");
    }
}

fn readme() -> String {
    repository("README.md")
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The texts of the fenced blocks in a language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fences: Vec<&str> = text.split("\n```").collect();
    let inside = fences.iter().skip(1).step_by(2);
    let split = inside.filter_map(|block| block.split_once('\n'));
    split.filter(|(name, _)| *name == language).map(|(_, body)| body).collect()
}

/// What stands between single backticks, outside of blocks; a code may go on over a line's end.
fn inline_code(text: &str) -> Vec<&str> {
    let outside = text.split("\n```").step_by(2);
    outside.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

fn ringlane(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(RINGLANE);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the process starts");
    // Neither `--check` nor `--help` stays, and neither says more than a pipe holds.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    child.wait_with_output().expect("it ends")
}
