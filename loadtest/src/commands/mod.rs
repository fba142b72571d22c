//! The commands, one module each: arguments, and what they come to.

use ringlane_loadtest::engine::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

pub(crate) mod run;

/// The first signal ends a run and shows what it has; a second one ends the program.
pub(crate) fn stop_on_signals(stop: &Stop) -> Result<(), String> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, stop.flag())
            .and_then(|_| flag::register(signal, stop.flag()))
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    Ok(())
}
