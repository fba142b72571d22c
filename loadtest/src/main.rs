//! `ringlane-loadtest`: loads servers, and serves what a load is tested against.

#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Run(Box<commands::run::Arguments>),
    /// Ask at one rate after the other, for the curve of latency over throughput
    Sweep(Box<commands::sweep::Arguments>),
    /// Find the highest rate that holds an objective
    Capacity(Box<commands::capacity::Arguments>),
    /// Measure this proxy and its peers side by side
    Compare(Box<commands::compare::Arguments>),
    /// Serve by script until SIGINT or SIGTERM, and say then what was served, as JSON; GET
    /// /loadtest/counts says it before
    Origin(commands::origin::Arguments),
}

fn main() -> ExitCode {
    // Before any thread, where it takes no time.
    ringlane::ring::register_membarrier();
    commands::open_as_many_files_as_allowed();
    let done = match Arguments::parse().command {
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Sweep(arguments) => commands::sweep::run(&arguments),
        Command::Capacity(arguments) => commands::capacity::run(&arguments),
        Command::Compare(arguments) => commands::compare::run(&arguments),
        Command::Origin(arguments) => commands::origin::run(arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringlane-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
