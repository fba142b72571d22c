//! Ringlane beside the proxies that are installed here, in about a minute: CPU time per request,
//! throughput, latency and memory at 128 bytes on 64 connections.
//!
//! `cargo bench --bench peers` builds the load tester and has it compare the proxy that was built
//! for benches; what stands after `--` goes to `ringlane-loadtest compare`, which is the same with
//! all its settings, and longer. Peers are found in PATH, or where HAPROXY, NGINX and ENVOY say.
//! Needs two cores, and is worth as much as they are free of other work: then the errors that it
//! shows are small.
//!
//! By a command and not as a library: a dependency on the load tester would be one of every test.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, exit};

const RINGLANE: &str = env!("CARGO_BIN_EXE_ringlane");
const SHORT: [&str; 6] = ["--rounds", "12", "--work", "128/64", "--idle", "1000"];

fn main() {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let is = |name: &str| arguments.iter().any(|argument| argument == name);
    // Cargo says so when it benches, and not when it tests benches.
    if !is("--bench") || is("--test") {
        println!("peers: measures under `cargo bench` alone");
        return;
    }
    // Cargo gives a filter to every bench, of which this is one; settings begin with dashes.
    if arguments.first().is_some_and(|first| !first.to_string_lossy().starts_with("--")) {
        println!("peers: left out by a filter");
        return;
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("peers: needs two cores");
        return;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "ringlane-loadtest",
    ]));
    let given: Vec<_> = arguments.into_iter().filter(|argument| argument != "--bench").collect();
    let loadtest = Path::new(RINGLANE).with_file_name("ringlane-loadtest");
    let mut compare = Command::new(loadtest);
    compare.args(["compare", "--ringlane", RINGLANE]);
    run(if given.is_empty() { compare.args(SHORT) } else { compare.args(given) });
}

/// Ends the bench where the command fails.
fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(error) => {
            eprintln!("peers: {:?}: {error}", command.get_program());
            exit(1);
        }
    }
}
