//! Who is compared: Ringlane's builds, and the peers that are found on this machine.
//!
//! How each is set is in `configs`; here is how it is found, what it calls its version and how it
//! is started. A peer is looked for at the path in the environment (HAPROXY, NGINX, ENVOY) and then
//! in PATH.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::configs::{self, Site};

/// What stands in a command for the path of the configuration.
pub const CONFIG: &str = "{config}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Haproxy,
    Nginx,
    Envoy,
}

/// One of those that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    /// `None`: a Ringlane.
    pub peer: Option<Peer>,
    /// Program and arguments, with `{config}` among them.
    pub command: Vec<String>,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::Haproxy, Peer::Nginx, Peer::Envoy];

    pub fn name(self) -> &'static str {
        match self {
            Peer::Haproxy => "haproxy",
            Peer::Nginx => "nginx",
            Peer::Envoy => "envoy",
        }
    }

    /// Where it is installed, if it is.
    pub fn find(self) -> Option<PathBuf> {
        let named = env::var_os(self.variable()).filter(|path| !path.is_empty());
        let found = named.map(PathBuf::from).or_else(|| {
            let folders = env::var_os("PATH").unwrap_or_default();
            // Daemons live in sbin, which is not on every user's path.
            let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
            env::split_paths(&folders)
                .chain(sbin)
                .map(|folder| folder.join(self.name()))
                .find(|it| it.is_file())
        })?;
        found.is_file().then_some(found)
    }

    /// Where its path may stand in the environment.
    pub fn variable(self) -> &'static str {
        match self {
            Peer::Haproxy => "HAPROXY",
            Peer::Nginx => "NGINX",
            Peer::Envoy => "ENVOY",
        }
    }

    /// In the foreground, with one worker.
    pub fn candidate(self, program: &Path) -> Candidate {
        let arguments: &[&str] = match self {
            Peer::Haproxy => &["-db", "-f", CONFIG],
            Peer::Nginx => &["-e", "stderr", "-c", CONFIG],
            Peer::Envoy => {
                &["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c", CONFIG]
            }
        };
        Candidate {
            name: self.name().to_owned(),
            peer: Some(self),
            command: command(program, arguments),
        }
    }

    /// Has it judge a configuration.
    pub fn check(self, program: &Path) -> Vec<String> {
        command(
            program,
            match self {
                Peer::Haproxy => &["-c", "-f", CONFIG],
                Peer::Nginx => &["-t", "-e", "stderr", "-c", CONFIG],
                Peer::Envoy => &["--mode", "validate", "-l", "error", "-c", CONFIG],
            },
        )
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Peer, String> {
        Peer::ALL.into_iter().find(|peer| peer.name() == text).ok_or_else(|| {
            format!("`{text}` is no peer; allowed: haproxy, nginx, envoy, with commas between")
        })
    }
}

impl Candidate {
    /// A build of Ringlane.
    pub fn ringlane(name: &str, program: &Path) -> Candidate {
        Candidate { name: name.to_owned(), peer: None, command: command(program, &[CONFIG]) }
    }

    /// Writes its configuration into `folder`; the command that runs with it.
    pub fn configure(&self, sites: &[Site], core: usize, folder: &Path) -> io::Result<Vec<String>> {
        let ending =
            if self.peer.is_some_and(|peer| peer != Peer::Envoy) { "conf" } else { "yaml" };
        let path = folder.join(format!("{}.{ending}", self.name));
        let text = match self.peer {
            None => configs::ringlane(sites, core),
            Some(Peer::Haproxy) => configs::haproxy(sites),
            Some(Peer::Nginx) => configs::nginx(sites, &folder.join(&self.name)),
            Some(Peer::Envoy) => configs::envoy(sites),
        };
        if self.peer == Some(Peer::Nginx) {
            fs::create_dir_all(folder.join(&self.name))?;
        }
        fs::write(&path, text)?;
        let path = path.display().to_string();
        Ok(self.command.iter().map(|part| part.replace(CONFIG, &path)).collect())
    }

    /// As it says itself, in one line; empty where it says nothing.
    pub fn version(&self) -> String {
        let Some(program) = self.command.first() else { return String::new() };
        let flag = match self.peer {
            Some(Peer::Haproxy | Peer::Nginx) => "-v",
            Some(Peer::Envoy) | None => "--version",
        };
        let Ok(said) = Command::new(program).arg(flag).output() else { return String::new() };
        // nginx says it on stderr.
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let mut lines = said.lines().map(str::trim);
        let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
        // Envoy puts its own path before it, and nginx its name.
        line.rsplit("version: ").next().unwrap_or(line).trim().to_owned()
    }
}

/// `NAME=COMMAND`, with `{config}` in it.
impl FromStr for Candidate {
    type Err = String;

    fn from_str(text: &str) -> Result<Candidate, String> {
        let allowed = || {
            format!(
                "`{text}` is no proxy; allowed: NAME=COMMAND, where the name is of letters, \
                 digits, - and _, and {CONFIG} in the command stands for the path of its \
                 configuration"
            )
        };
        let (name, command) = text.split_once('=').ok_or_else(allowed)?;
        let is_right = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(is_right) || !command.contains(CONFIG) {
            return Err(allowed());
        }
        let command = command.split_whitespace().map(str::to_owned).collect();
        Ok(Candidate { name: name.to_owned(), peer: None, command })
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.command.join(" "))
    }
}

/// The program beside this one, as cargo builds them; for a benchmark's or a test's, one above.
pub fn ringlane_beside() -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let folders = own.ancestors().skip(1).take(2).map(|folder| folder.join("ringlane"));
    folders.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "there is no `ringlane` beside {}; allowed: --ringlane PATH, or cargo build --release",
            own.display()
        )
    })
}

fn command(program: &Path, arguments: &[&str]) -> Vec<String> {
    let program = program.display().to_string();
    [&[program.as_str()], arguments].concat().into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
