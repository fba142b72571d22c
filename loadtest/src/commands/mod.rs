//! The commands, one module each: arguments, and what they come to.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use ringlane_loadtest::engine::Stop;
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

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// Whoever reads may have gone: then there is nobody to tell.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
