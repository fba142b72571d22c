//! `ringlane`: arguments, then a valid configuration, then the supervisor until it is done.
//!
//! Exit codes: 0 done; 1 could not run; 2 bad configuration or usage.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ringlane::admin::Logging;
use ringlane::config::{Address, Config, Host};
use ringlane::telemetry::exporters::{self, KINDS, Made};
use ringlane::{demo, ring, supervisor};
use tracing_subscriber::EnvFilter;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COULD_NOT_RUN: u8 = 1;
const BAD_CONFIG: u8 = 2;

/// Threads allocate and free what others have allocated (heads, snapshots), and the heap's figures
/// are wanted: jemalloc is good at both.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The demo's configuration is part of the program: it runs with no file to write.
const DEMO: &str = include_str!("../config/demo.yaml");

/// An HTTP/1.1 reverse proxy and load balancer: one io_uring shard per core.
#[derive(Parser)]
#[command(version, about, override_usage = "ringlane [OPTIONS] <CONFIG.yaml | - | --demo>")]
struct Arguments {
    /// The configuration; `-` reads standard input
    #[arg(value_name = "CONFIG.yaml", required_unless_present = "demo")]
    config: Option<PathBuf>,

    /// Say what is wrong with the configuration, all of it, and exit: 0 if nothing is, else 2
    #[arg(long, conflicts_with = "demo")]
    check: bool,

    /// Run a proxy on 127.0.0.1:4140 in front of three origins of its own
    #[arg(long, conflicts_with = "config")]
    demo: bool,

    /// What to log on standard error: a level, or levels by module (info,ringlane::shard=debug)
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    log: EnvFilter,
}

/// Why the program ends other than well.
enum Failure {
    Config(String),
    Run(String),
}

fn main() -> ExitCode {
    // Before the first thread: the kernel does it at once while there is only one.
    ring::register_membarrier();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(text)) => fail(&text, BAD_CONFIG),
        Err(Failure::Run(text)) => fail(&text, COULD_NOT_RUN),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let host = Host::detect();
    let (origin, text) = match &arguments.config {
        Some(path) => read(path).map_err(Failure::Config)?,
        None => ("demo.yaml".to_owned(), DEMO.to_owned()),
    };
    let config = Config::from_yaml(&text, &origin, &host, &exporters::specs(KINDS))
        .map_err(|errors| Failure::Config(errors.to_string()))?;
    let exporters = make_exporters(&config).map_err(|wrong| {
        let lines = wrong.iter().map(|why| format!("{origin}:{why}"));
        Failure::Config(lines.collect::<Vec<_>>().join("\n"))
    })?;
    if arguments.check {
        say(&format!("{origin}: ok ({})", summary(&config)));
        return Ok(());
    }
    let logging = log_to_stderr(arguments.log);
    // The origins end when this is dropped, which is after the proxy has.
    let _origins = if arguments.demo { Some(demonstrate(&config)?) } else { None };
    let file = arguments.config.filter(|path| path != Path::new("-"));
    let reread = rereader(file.clone());
    let options = supervisor::Options { version: VERSION, exporters, logging, file, reread };
    supervisor::run(config, options).map_err(|error| Failure::Run(error.to_string()))
}

/// What a reload reads.
fn rereader(path: Option<PathBuf>) -> Box<dyn Fn() -> Result<Config, String>> {
    let Some(path) = path else {
        let why = "the configuration came from no file, so there is none to read again";
        return Box::new(|| Err(why.to_owned()));
    };
    Box::new(move || {
        let (origin, text) = read(&path)?;
        Config::from_yaml(&text, &origin, &Host::detect(), &exporters::specs(KINDS))
            .map_err(|errors| errors.to_string())
    })
}

fn make_exporters(config: &Config) -> Result<Vec<Made>, Vec<String>> {
    match &config.telemetry {
        Some(telemetry) => exporters::make(&telemetry.exporters, KINDS),
        None => Ok(Vec::new()),
    }
}

/// The text, and what errors call it.
fn read(path: &Path) -> Result<(String, String), String> {
    if path == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text);
        return match read {
            Ok(_) => Ok(("<stdin>".to_owned(), text)),
            Err(error) => Err(format!("cannot read standard input: {error}")),
        };
    }
    let origin = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Ok((origin, text)),
        Err(error) => Err(format!("cannot read {origin}: {error}")),
    }
}

fn summary(config: &Config) -> String {
    let count = |number: usize, noun: &str| match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    };
    let shards = count(config.runtime.shards.len(), "shard");
    let routers = count(config.routers.len(), "router");
    format!("{shards}, {routers}, {}", count(config.services.len(), "service"))
}

/// `EnvFilter` also converts from text without complaint, leaving out what it does not understand.
fn log_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

fn log_to_stderr(filter: EnvFilter) -> Logging {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_filter_reloading();
    let (handle, changed) = (log.reload_handle(), log.reload_handle());
    log.init();
    Logging {
        read: Arc::new(move || {
            handle.with_current(EnvFilter::to_string).unwrap_or_else(|error| error.to_string())
        }),
        change: Arc::new(move |text| {
            changed.reload(log_filter(text)?).map_err(|error| error.to_string())
        }),
    }
}

/// Starts the origins behind the demo's configuration, and says what to type next.
fn demonstrate(config: &Config) -> Result<demo::Running, Failure> {
    let addresses = config.services[0].endpoints.iter().map(|endpoint| match &endpoint.address {
        Address::Ip(address) => *address,
        Address::Unix(_) => unreachable!("config/demo.yaml has IP addresses alone"),
    });
    let addresses: Vec<SocketAddr> = addresses.collect();
    let Ok(addresses) = addresses.try_into() else {
        unreachable!("config/demo.yaml has three endpoints")
    };
    let proxy = config.routers[0].servers[0].address;
    let admin = config.admin.as_ref().map(|admin| admin.address);
    let running = demo::start(addresses).map_err(|error| Failure::Run(error.to_string()))?;
    say(&demo::hints(proxy, admin));
    Ok(running)
}

/// On standard output; nobody there to read it (`| head -1`) is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Errors in a configuration say where they are; others say who speaks.
fn fail(text: &str, code: u8) -> ExitCode {
    if code == BAD_CONFIG {
        eprintln!("{text}");
    } else {
        eprintln!("ringlane: {text}");
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
        let parse = |arguments: &str| {
            let words = arguments.split_whitespace();
            Arguments::try_parse_from(["ringlane"].into_iter().chain(words))
        };
        for good in ["-", "--demo", "--check a.yaml", "a.yaml --log debug"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "--demo a.yaml", "--demo --check", "a.yaml b.yaml", "a.yaml --log a=b=c"] {
            let error = parse(bad).err().expect("a usage error");
            assert_eq!(error.exit_code(), i32::from(BAD_CONFIG), "{bad}");
        }
    }
}
