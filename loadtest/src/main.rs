//! `ringlane-loadtest`: loads servers, and serves what a load is tested against.

#![forbid(unsafe_code)]

mod commands;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ringlane::demo::{self, Origin, StartError};

/// An open-loop load generator for HTTP/1.1, and an origin by script.
#[derive(Parser)]
#[command(name = "ringlane-loadtest", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send one load and report what came of it
    Run(Box<commands::run::RunArguments>),
    /// Ask at one rate after the other, for the curve of latency over throughput
    Sweep(Box<commands::sweep::SweepArguments>),
    /// Find the highest rate that holds an objective
    Capacity(Box<commands::capacity::CapacityArguments>),
    /// Serve the demo's routes until killed: / /bytes/N /chunked/N /echo /upload /ws /status/CODE
    /// /delay/MS /headers
    Origin(OriginArguments),
}

#[derive(clap::Args)]
struct OriginArguments {
    /// Where to listen; may be given several times, port 0 lets the kernel pick
    #[arg(long, value_name = "ADDRESS", required = true)]
    listen: Vec<SocketAddr>,

    /// Waited before each answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,

    /// Of how many requests in a hundred the answer is 500
    #[arg(long, value_name = "PERCENT", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=100))]
    fail_percent: u32,
}

fn main() -> ExitCode {
    // Before any thread, where it takes no time.
    ringlane::ring::register_membarrier();
    let ran = match Arguments::parse().command {
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Sweep(arguments) => commands::sweep::run(&arguments),
        Command::Capacity(arguments) => commands::capacity::run(&arguments),
        Command::Origin(arguments) => {
            origin(&arguments).map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string())
        }
    };
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringlane-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn origin(arguments: &OriginArguments) -> Result<(), StartError> {
    let origin = |address: &SocketAddr| Origin {
        address: *address,
        name: address.to_string(),
        delay: Duration::from_millis(arguments.delay_ms),
        fail_percent: arguments.fail_percent,
    };
    let running = demo::serve(arguments.listen.iter().map(origin).collect())?;
    for address in running.addresses() {
        println!("origin on {address}");
    }
    running.wait();
    Ok(())
}
