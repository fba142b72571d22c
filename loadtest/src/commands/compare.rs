//! `compare`: this proxy and its peers side by side, in one run.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ringlane_loadtest::compare::peers::{self, Candidate, Peer};
use ringlane_loadtest::compare::{
    self, Asked, Compared, MAX_CONNECTIONS, Rates, Work, json, plots, summary, table,
};
use ringlane_loadtest::engine::Stop;
use ringlane_loadtest::{plot, values};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::{print, write};

/// Of the slowest proxy's saturation, in percent.
const DEFAULT_SHARES: [f64; 3] = [25.0, 50.0, 80.0];
const DEFAULT_WORKS: [&str; 5] = ["128/64", "128/1", "128/1024", "64k/32", "1m/32"];
/// What the first proxy is called when it comes a second time.
const AGAIN: &str = "again";
/// Something was not answered as it should be.
const FAULTS: u8 = 2;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The ringlane to compare [default: the one beside this program]
    #[arg(long, value_name = "PATH", conflicts_with = "proxies")]
    ringlane: Option<PathBuf>,

    /// In place of it, builds or settings of Ringlane: NAME=COMMAND with {config} where the path of
    /// its configuration goes; may be given several times
    #[arg(long = "proxy", value_name = "NAME=COMMAND")]
    proxies: Vec<Candidate>,

    /// Compare the first proxy with itself too, under the name `again`
    #[arg(long)]
    twice: bool,

    /// Peers, of haproxy, nginx and envoy: found in PATH, or where HAPROXY, NGINX and ENVOY say; ""
    /// for none [default: all that are found]
    #[arg(long, value_name = "NAMES", value_parser = some_peers)]
    peers: Option<Peers>,

    /// Body and connections, 64k/32; may be given several times [default: 128/64, 128/1, 128/1024,
    /// 64k/32, 1m/32]
    #[arg(long = "work", value_name = "SIZE/CONNECTIONS")]
    works: Vec<Work>,

    /// Rates of the open loops, 5k,10k [default: 25, 50 and 80 % of what the slowest proxy reaches]
    #[arg(long, value_name = "RATES", value_parser = rates)]
    rates: Option<PerSecond>,

    /// How long a proxy's turn is
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = values::some_time)]
    turn: Duration,

    /// How often each proxy has its turns
    #[arg(long, value_name = "COUNT", default_value = "30",
          value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Idle connections whose memory is measured, up to 7000; 0: it is not
    #[arg(long, value_name = "COUNT", default_value = "2000",
          value_parser = clap::value_parser!(u16).range(0..=MAX_CONNECTIONS as i64))]
    idle: u16,

    /// The core of all proxies
    #[arg(long, value_name = "CORE", default_value = "0")]
    proxy_core: usize,

    /// The core of load and origins
    #[arg(long, value_name = "CORE", default_value = "1")]
    load_core: usize,

    /// Where to write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Where to write everything as JSON, each turn by itself
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where to write a plot of each metric, as SVG
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,

    /// No line each round
    #[arg(long)]
    quiet: bool,
}

/// In types of their own, or clap takes each item for an argument.
#[derive(Debug, Clone)]
struct Peers(Vec<Peer>);

#[derive(Debug, Clone)]
struct PerSecond(Vec<f64>);

fn some_peers(text: &str) -> Result<Peers, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::parse).collect::<Result<_, _>>().map(Peers)
}

fn rates(text: &str) -> Result<PerSecond, String> {
    let rate = |text: &str| match values::rate(text.trim())? {
        rate if rate > 0.0 => Ok(rate),
        _ => Err(format!("`{text}` is no rate to send at; allowed: more than 0")),
    };
    text.split(',').map(rate).collect::<Result<_, _>>().map(PerSecond)
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let asked = asked(arguments)?;
    let rates = match &asked.rates {
        Rates::PerSecond(rates) => rates.len(),
        Rates::PercentOfSlowest(shares) => shares.len(),
    };
    let lanes = asked.candidates.len();
    let round = summary::least_round(asked.works.len(), rates, lanes, asked.turn);
    let say: fn(&str) = if arguments.quiet { |_| {} } else { |line| eprintln!("{line}") };
    say(&format!("{} rounds of {round:.1?} or more", asked.rounds));
    let stop = Stop::default();
    // However often they come: what was started is stopped first, which takes seconds at most.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, stop.flag())
            .map_err(|error| format!("cannot watch for signals: {error}"))?;
    }
    let compared = compare::run(asked, &stop, say)?;
    let command_line = env::args().collect::<Vec<_>>().join(" ");
    print(&table::text(&compared, &command_line));
    write_files(arguments, &compared, &command_line)?;
    let is_right = compared.measured.turns.iter().all(|turn| turn.faults.is_empty());
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::from(FAULTS) })
}

fn asked(arguments: &Arguments) -> Result<Asked, String> {
    let mut candidates = arguments.proxies.clone();
    if candidates.is_empty() {
        let path = arguments.ringlane.clone().map_or_else(peers::ringlane_beside, Ok)?;
        candidates.push(Candidate::ringlane("ringlane", &path));
    }
    if arguments.twice {
        candidates.push(Candidate { name: AGAIN.to_owned(), ..candidates[0].clone() });
    }
    let wanted = arguments.peers.as_ref().map_or(&Peer::ALL[..], |Peers(peers)| peers);
    for peer in wanted {
        match peer.find() {
            Some(path) => candidates.push(peer.candidate(&path)),
            None => eprintln!(
                "{}: not in PATH, nor where {} says; left out",
                peer.name(),
                peer.variable()
            ),
        }
    }
    let mut names: Vec<&str> = candidates.iter().map(|candidate| &*candidate.name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two proxies are called {}; allowed: names that differ", twice[0]));
    }
    let mut works = arguments.works.clone();
    if works.is_empty() {
        works = DEFAULT_WORKS.iter().map(|work| work.parse()).collect::<Result<_, _>>()?;
    }
    if let Some(twice) = (1..works.len()).find(|at| works[..*at].contains(&works[*at])) {
        return Err(format!("--work {} is given twice; allowed: once each", works[twice]));
    }
    let connections: usize = works.iter().map(|work| work.connections).sum();
    if connections > MAX_CONNECTIONS {
        return Err(format!("{connections} connections in all works; allowed: {MAX_CONNECTIONS}"));
    }
    if arguments.proxy_core == arguments.load_core {
        return Err("proxies and load share a core; allowed: two that differ".into());
    }
    let rates = match &arguments.rates {
        Some(PerSecond(rates)) => Rates::PerSecond(rates.clone()),
        None => Rates::PercentOfSlowest(DEFAULT_SHARES.to_vec()),
    };
    Ok(Asked {
        candidates,
        works,
        rates,
        turn: arguments.turn,
        rounds: arguments.rounds,
        idle_connections: arguments.idle.into(),
        proxy_core: arguments.proxy_core,
        load_core: arguments.load_core,
    })
}

fn write_files(
    arguments: &Arguments,
    compared: &Compared,
    command_line: &str,
) -> Result<(), String> {
    if let Some(path) = &arguments.markdown {
        write(path, table::markdown(compared, command_line).as_bytes())?;
    }
    if let Some(path) = &arguments.json {
        write(path, json::text(compared, command_line).as_bytes())?;
    }
    if let Some(folder) = &arguments.plots {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for (name, chart) in plots::charts(compared) {
            match plot::svg(&chart) {
                Ok(svg) => write(&folder.join(format!("{name}.svg")), svg.as_bytes())?,
                Err(error) => eprintln!("{name}: {error}"),
            }
        }
    }
    Ok(())
}
