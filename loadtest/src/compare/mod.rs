//! `compare`: proxies side by side in one run.
//!
//! ```text
//!    load core                         proxy core
//!   engines ----turns, one by one----> ringlane, haproxy, nginx, envoy
//!   origins <--------------------------'
//! ```
//!
//! All proxies run at once on one core; load and origins share another. Each proxy has a short turn
//! of each kind of load within each round, so that whatever else the machine does meets all of them
//! alike, and figures are compared within rounds: on a shared machine only such ratios are worth
//! quoting. A turn ends when its last request has, so that nothing of it is left in the next one.
//! The same proxy under two names comes out at 1.00 within the error that is shown.
//!
//! In reading order: `peers` and `configs` (who, and how they are set), `process` (started and
//! stopped), `usage` (what they take), `probe` (whether they answer right), `turns` (the rounds),
//! `idle` (memory per connection), `ratio`, `summary` (what came of it), `table`, `json`, `plots`.

pub mod configs;
pub mod idle;
pub mod json;
mod machine;
pub mod peers;
pub mod plots;
pub mod probe;
pub mod process;
pub mod ratio;
pub mod summary;
pub mod table;
pub mod turns;
pub mod usage;

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ringlane::ring;

use self::configs::Site;
use self::idle::Idle;
pub use self::machine::Machine;
use self::peers::Candidate;
use self::process::Process;
use self::turns::{Lane, Measured};
use crate::engine::{ConnectError, Stop};
use crate::origin::script::MAX_SIZE_BYTES;
use crate::origin::{self, Origin};
use crate::schedule::ScheduleError;
use crate::{threads, values};

/// What is compared, and how. Names are distinct, works have distinct figures.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The first is the one that others of ours are compared with.
    pub candidates: Vec<Candidate>,
    pub works: Vec<Work>,
    pub rates: Rates,
    pub turn: Duration,
    pub rounds: u32,
    /// Connections that are held idle; 0: memory is not measured.
    pub idle_connections: usize,
    pub proxy_core: usize,
    pub load_core: usize,
}

/// One kind of request, and on how many connections: `128/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub body_bytes: usize,
    pub connections: usize,
}

/// The rates of open loops, for every proxy the same.
#[derive(Debug, Clone, PartialEq)]
pub enum Rates {
    PerSecond(Vec<f64>),
    /// Of what the slowest proxy reached in the second warm round, in percent.
    PercentOfSlowest(Vec<f64>),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Compared {
    pub asked: Asked,
    pub machine: Machine,
    /// By candidate, as are the next two.
    pub versions: Vec<String>,
    pub peak_bytes: Vec<u64>,
    pub idle: Vec<Idle>,
    pub measured: Measured,
}

/// Why there is nothing to show.
#[derive(Debug)]
pub enum CompareError {
    Core { core: usize, why: String },
    Folder { path: PathBuf, error: io::Error },
    Origins(origin::StartError),
    Start { name: String, why: String },
    Answer { name: String, why: String },
    Usage { name: String, error: io::Error },
    Connect { name: String, error: ConnectError },
    Rate(ScheduleError),
    Ring(ring::RunError),
    Stopped,
}

impl fmt::Display for CompareError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompareError::Core { core, why } => write!(
                out,
                "cannot run on core {core}: {why}; allowed: a core of this machine that the \
                 process may use (--proxy-core, --load-core)"
            ),
            CompareError::Folder { path, error } => write!(out, "{}: {error}", path.display()),
            CompareError::Origins(error) => write!(out, "{error}"),
            CompareError::Start { name, why } => write!(out, "{name} does not run: {why}"),
            CompareError::Answer { name, why } => {
                write!(out, "{name} does not answer right: {why}")
            }
            CompareError::Usage { name, error } => write!(out, "what {name} uses: {error}"),
            CompareError::Connect { name, error } => write!(out, "{name}: {error}"),
            CompareError::Rate(error) => write!(out, "{error}"),
            CompareError::Ring(error) => write!(out, "{error}"),
            CompareError::Stopped => write!(out, "stopped before a round was complete"),
        }
    }
}

impl std::error::Error for CompareError {}

impl std::str::FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Work, String> {
        let wrong = |why: &str| {
            format!("`{text}`: {why}; allowed: SIZE/CONNECTIONS, as in 128/64 or 64k/32")
        };
        let (size, connections) = text.split_once('/').ok_or_else(|| wrong("no `/` in it"))?;
        let body_bytes = values::bytes(size).map_err(|why| wrong(&why))?;
        let connections = values::count(connections).map_err(|why| wrong(&why))?;
        if body_bytes > MAX_BODY_BYTES || connections > MAX_CONNECTIONS as u64 {
            return Err(wrong("at most 64m and 7k"));
        }
        Ok(Work { body_bytes, connections: connections as usize })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Work { body_bytes, connections } = self;
        match (body_bytes % (1 << 20), body_bytes % (1 << 10)) {
            _ if *body_bytes == 0 => write!(out, "0/{connections}"),
            (0, _) => write!(out, "{}m/{connections}", body_bytes >> 20),
            (_, 0) => write!(out, "{}k/{connections}", body_bytes >> 10),
            _ => write!(out, "{body_bytes}/{connections}"),
        }
    }
}

const MAX_BODY_BYTES: usize = MAX_SIZE_BYTES as usize;
/// Of all works, whose connections stay open to the end: below what the peers' configurations have
/// room for.
pub const MAX_CONNECTIONS: usize = 7_000;

/// Compares. `say` is told how it goes, a line at a time. On a thread of its own, which is pinned.
pub fn run(asked: Asked, stop: &Stop, say: fn(&str)) -> Result<Compared, CompareError> {
    let compared = thread::scope(|scope| scope.spawn(|| compare(asked, stop, say)).join());
    compared.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

fn compare(asked: Asked, stop: &Stop, say: fn(&str)) -> Result<Compared, CompareError> {
    process::pin(asked.load_core)?;
    threads::wake_within(Duration::ZERO);
    // Dropped last: what runs writes into it.
    let folder = Folder::new()?;
    let mut sizes: Vec<usize> = asked.works.iter().map(|work| work.body_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let origins = start_origins(&sizes, asked.load_core)?;
    let mut lanes = Vec::new();
    let mut processes = Vec::new();
    for candidate in &asked.candidates {
        say(&format!("starting {}: {candidate}", candidate.name));
        let sites = sites(&sizes, origins.addresses()).map_err(|error| folder.error(error))?;
        let configured = candidate.configure(&sites, asked.proxy_core, &folder.path);
        let command = configured.map_err(|error| folder.error(error))?;
        let log = folder.path.join(format!("{}.log", candidate.name));
        let mut process = Process::start(&candidate.name, &command, asked.proxy_core, &log)?;
        let listens: Vec<SocketAddr> = sites.iter().map(|site| site.listen).collect();
        process.listens(&listens, stop)?;
        lanes.push(lane(candidate, &process, &sites)?);
        processes.push(process);
    }
    let measured = measure(&asked, &lanes, stop, say);
    // Of a proxy that has ended, what it said explains more than what its absence led to.
    processes.iter_mut().try_for_each(Process::is_alive)?;
    let (idle, measured) = measured?;
    let peaks = lanes.iter().map(|lane| usage::peak_bytes(lane.pid).map_err(|it| lane.usage(it)));
    Ok(Compared {
        machine: Machine::this(),
        versions: asked.candidates.iter().map(Candidate::version).collect(),
        peak_bytes: peaks.collect::<Result<_, _>>()?,
        idle,
        measured,
        asked,
    })
}

fn measure(
    asked: &Asked,
    lanes: &[Lane],
    stop: &Stop,
    say: fn(&str),
) -> Result<(Vec<Idle>, Measured), CompareError> {
    let mut idle = Vec::new();
    for lane in lanes.iter().filter(|_| asked.idle_connections > 0) {
        say(&format!("{}: memory of {} idle connections", lane.name, asked.idle_connections));
        idle.push(idle::measure(lane, asked.idle_connections, stop)?);
    }
    let job = turns::Job {
        lanes: lanes.to_vec(),
        works: asked.works.clone(),
        rates: asked.rates.clone(),
        turn: asked.turn,
        rounds: asked.rounds,
        stop: stop.clone(),
        say,
    };
    let settings = ring::Settings::default();
    let measured =
        ring::run(&settings, move |ring| job.run(ring)).map_err(CompareError::Ring)??;
    Ok((idle, measured))
}

/// Two for each size, in the order of the sizes.
fn start_origins(sizes: &[usize], core: usize) -> Result<origin::Running, CompareError> {
    let origin = |size: &usize| Origin {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        script: format!("size={size}").parse().expect("MAX_BODY_BYTES is the origin's"),
    };
    let each = sizes.iter().flat_map(|size| [origin(size), origin(size)]);
    origin::start(each.collect(), Some(core)).map_err(CompareError::Origins)
}

const ORIGINS_PER_SIZE: usize = 2;

/// On ports that are free now.
fn sites(sizes: &[usize], origins: &[SocketAddr]) -> io::Result<Vec<Site>> {
    let held = sizes.iter().map(|_| TcpListener::bind(("127.0.0.1", 0)));
    // All at once, so that they differ.
    let held = held.collect::<io::Result<Vec<_>>>()?;
    let site = |((size, listener), origins): ((&usize, &TcpListener), &[SocketAddr])| {
        let listen = listener.local_addr()?;
        Ok(Site { body_bytes: *size, listen, origins: origins.to_vec() })
    };
    sizes.iter().zip(&held).zip(origins.chunks(ORIGINS_PER_SIZE)).map(site).collect()
}

/// A proxy whose answers are those of the origins.
fn lane(candidate: &Candidate, process: &Process, sites: &[Site]) -> Result<Lane, CompareError> {
    let wrong = |why| CompareError::Answer { name: candidate.name.clone(), why };
    let mut lane = Lane { name: candidate.name.clone(), pid: process.pid(), sites: Vec::new() };
    for site in sites {
        let body = probe::body_of(site.origins[0], site.body_bytes).map_err(wrong)?;
        let answer_bytes = probe::check(site.listen, &body).map_err(wrong)?;
        let (listen, body_bytes) = (site.listen, site.body_bytes);
        lane.sites.push(turns::Site { body_bytes, listen, answer_bytes });
    }
    Ok(lane)
}

/// Configurations and what proxies say; gone when the run is.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Result<Folder, CompareError> {
        let unique = fs::File::open("/dev/urandom").and_then(|mut file| {
            let mut bytes = [0; 8];
            io::Read::read_exact(&mut file, &mut bytes)?;
            Ok(u64::from_ne_bytes(bytes))
        });
        let failed = |path: &Path, error| CompareError::Folder { path: path.to_owned(), error };
        let unique = unique.map_err(|error| failed(Path::new("/dev/urandom"), error))?;
        let path = std::env::temp_dir().join(format!("ringlane-compare-{unique:016x}"));
        fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        Ok(Folder { path })
    }

    fn error(&self, error: io::Error) -> CompareError {
        CompareError::Folder { path: self.path.clone(), error }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_as_operators_write_them() {
        for text in ["128/64", "64k/32", "1m/1", "0/7", "1025/1024"] {
            assert_eq!(text.parse::<Work>().expect("right").to_string(), text);
        }
        for text in ["", "128", "x/1", "1/x", "1/0", "1/8k", "65m/1", "/"] {
            assert!(text.parse::<Work>().is_err_and(|why| why.contains("allowed: ")), "{text}");
        }
    }

    #[test]
    fn sizes_have_ports_and_origins_of_their_own() {
        let origins: Vec<SocketAddr> = (1..=4).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let found = sites(&[128, 1_024], &origins).expect("free ports");
        assert_eq!(found.iter().map(|site| site.body_bytes).collect::<Vec<_>>(), [128, 1_024]);
        assert_eq!((&found[0].origins[..], &found[1].origins[..]), (&origins[..2], &origins[2..]));
        assert_ne!(found[0].listen, found[1].listen);
    }
}
