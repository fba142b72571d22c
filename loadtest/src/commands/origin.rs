//! `ringlane-loadtest origin`: serves by script until a signal, and says then what it served.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use ringlane_loadtest::origin::{self, Origin, Script};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen; may be given several times, port 0 lets the kernel pick
    #[arg(long, value_name = "ADDRESS", required = true)]
    listen: Vec<SocketAddr>,

    /// What to do, once for all or once for each --listen, in its order. Phases with `;` between,
    /// each `[DURATION] WORDS`: "9s size=1k..64k latency=exp:2ms; 1s stall". Words: size=128,
    /// latency=2ms, 1ms..5ms, exp:MEAN or lognormal:MEDIAN:SIGMA, errors=1%:503, reset=1%, cut=1%,
    /// rate=64k/s, chunked, close_after=100, stall
    #[arg(long, value_name = "TEXT", default_value = "size=128", verbatim_doc_comment)]
    script: Vec<Script>,

    /// The core to stay on
    #[arg(long, value_name = "NUMBER")]
    core: Option<usize>,
}

/// Until SIGINT or SIGTERM. GET /loadtest/counts says what was served until then.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Arguments { listen, script: scripts, core } = arguments;
    if scripts.len() != 1 && scripts.len() != listen.len() {
        let (given, wanted) = (scripts.len(), listen.len());
        return Err(format!("--script {given} times; allowed: once, or {wanted} times").into());
    }
    let scripts = scripts.iter().cycle().cloned();
    let origins = listen.into_iter().zip(scripts);
    let origins = origins.map(|(address, script)| Origin { address, script }).collect();
    // Before anyone is told that it serves, and may end it.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let running = origin::start(origins, core)?;
    for address in running.addresses() {
        println!("origin on {address}");
    }
    signals.forever().next();
    println!("{:#}", running.stop().json());
    Ok(ExitCode::SUCCESS)
}
