//! The commands, one module each: arguments, and what they come to.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use ringlane_loadtest::engine::Stop;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

pub(crate) mod capacity;
pub(crate) mod compare;
pub(crate) mod origin;
pub(crate) mod run;
pub(crate) mod sweep;

/// The first signal ends a run and shows what it has; a second one ends the program.
pub(crate) fn stop_on_signals(stop: &Stop) -> Result<(), String> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, stop.flag())
            .and_then(|_| flag::register(signal, stop.flag()))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    Ok(())
}

/// A connection is a file, and the soft limit is often 1,024. Proxies that are started inherit it.
/// Where it is refused, whoever needs more says so.
pub(crate) fn open_as_many_files_as_allowed() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _ = setrlimit(Resource::Nofile, files);
}

/// Whether so many connections may be open at once, beside what a thread needs.
pub(crate) fn check_files(connections: usize, threads: usize) -> Result<(), String> {
    const PER_THREAD: usize = 32;
    let needed = (connections + (threads + 1) * PER_THREAD) as u64;
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < needed => Err(format!(
            "{connections} connections need {needed} open files; allowed here: {allowed} \
             (ulimit -n)"
        )),
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Whoever reads may have gone: then there is nobody to tell.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
