//! Proxies as child processes: started on one core, stopped with all they have started.
//!
//! A child inherits the affinity of the thread that starts it, so that it is pinned before it has
//! run an instruction. Each is in a process group of its own: Ctrl-C reaches this program alone,
//! which then stops them in its own time. What is dropped is stopped: first the root is asked
//! (SIGTERM), which knows how to end its own; what is left of the tree is then killed, by handles
//! (pidfd) that were taken while the root was its parent, so that a number that was given to
//! somebody else in between is never meant.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::{CompareError, usage};
use crate::engine::Stop;
use crate::threads;

/// A proxy that takes longer to listen does not come.
const START: Duration = Duration::from_secs(15);
/// What a proxy has for ending by itself.
const GRACE: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_millis(10);
/// Of what a proxy has said, the end that an error shows.
const SHOWN_LINES: usize = 8;

/// Runs until it is dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Descendants, as of when it listened.
    known: Vec<OwnedFd>,
}

/// Restricts the calling thread, and what it will start, to a core.
pub fn pin(core: usize) -> Result<(), CompareError> {
    threads::pin(core).map_err(|error| CompareError::Core { core, why: error.to_string() })
}

impl Process {
    /// What it says goes to `log`.
    pub fn start(
        name: &str,
        command: &[String],
        core: usize,
        log: &Path,
    ) -> Result<Process, CompareError> {
        let failed = |why: String| CompareError::Start { name: name.into(), why };
        let (program, arguments) =
            command.split_first().ok_or_else(|| failed("no command".into()))?;
        let said = File::create(log).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = said.map_err(|error| failed(format!("{}: {error}", log.display())))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let start = || {
            pin(core)?;
            command.spawn().map_err(|error| failed(format!("{program}: {error}")))
        };
        // On a thread that ends with it, so that nobody else is pinned.
        let started = thread::scope(|scope| scope.spawn(start).join());
        let child = started.unwrap_or_else(|_| Err(failed("its thread panicked".into())))?;
        Ok(Process { name: name.into(), child, log: log.into(), known: Vec::new() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Until it takes connections on each address.
    pub fn listens(&mut self, addresses: &[SocketAddr], stop: &Stop) -> Result<(), CompareError> {
        let deadline = Instant::now() + START;
        for address in addresses {
            while let Err(error) = TcpStream::connect_timeout(address, START) {
                self.is_alive()?;
                if stop.is_asked() {
                    return Err(CompareError::Stopped);
                }
                if Instant::now() > deadline {
                    let why = format!("it does not listen on {address} ({error})");
                    return Err(self.failed(&why));
                }
                thread::sleep(EVERY);
            }
        }
        self.is_alive()?;
        self.known = handles(&usage::tree(self.pid())[1..]);
        Ok(())
    }

    /// An error that shows what it has said, where it has ended.
    pub fn is_alive(&mut self) -> Result<(), CompareError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("it has ended ({status})"))),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    pub fn failed(&self, why: &str) -> CompareError {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
        let said =
            if last.is_empty() { "it said nothing".into() } else { format!("it said:\n  {last}") };
        CompareError::Start { name: self.name.clone(), why: format!("{why}; {said}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut handles_of_all = std::mem::take(&mut self.known);
        // While it has not been waited for, its number is its own.
        if let Ok(None) = self.child.try_wait() {
            handles_of_all.extend(handles(&usage::tree(self.pid())[1..]));
            if let Some(root) = Pid::from_raw(self.pid() as i32) {
                let _ = kill_process(root, Signal::TERM);
            }
            let deadline = Instant::now() + GRACE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(EVERY);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for descendant in handles_of_all {
            // Those that have ended are not there to be signalled.
            let _ = pidfd_send_signal(descendant, Signal::KILL);
        }
    }
}

fn handles(processes: &[u32]) -> Vec<OwnedFd> {
    let pids = processes.iter().filter_map(|pid| Pid::from_raw(*pid as i32));
    pids.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect()
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
