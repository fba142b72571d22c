//! The process and its heap, read on the telemetry thread.
//!
//! Rust has no collector whose pauses one could count: what Linkerd's users looked for there is in
//! each shard's `longest_poll_us` and `late_us`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::state::Scope;

/// Before Linux 6.2 the descriptors have to be listed one by one to be counted, which with 50,000
/// connections takes long enough to be done rarely.
const COUNT_FDS_EVERY: Duration = Duration::from_secs(5);

/// jemalloc's figures, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    pub allocated: u64,
    pub active: u64,
    pub resident: u64,
    pub mapped: u64,
    pub retained: u64,
}

#[derive(Clone, Debug)]
pub struct Process {
    pub scope: Scope,
    pub heap_scope: Scope,
    started: Instant,
    pub start_time_us: u64,
    pub uptime_us: u64,
    pub cpu_us: u64,
    pub rss_bytes: u64,
    pub vsize_bytes: u64,
    pub fd_count: u64,
    fds_counted: Option<Instant>,
    /// 0: no limit.
    pub fd_limit: u64,
    pub threads: u64,
    /// `None` where the program was built without jemalloc.
    pub heap: Option<Heap>,
}

impl Default for Process {
    fn default() -> Process {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let scope = |path: &str| Scope { paths: vec![path.to_owned()], labels: Vec::new() };
        Process {
            scope: scope("process"),
            heap_scope: scope("heap"),
            started: Instant::now(),
            start_time_us: since.as_micros() as u64,
            uptime_us: 0,
            cpu_us: 0,
            rss_bytes: 0,
            vsize_bytes: 0,
            fd_count: 0,
            fds_counted: None,
            fd_limit: 0,
            threads: 0,
            heap: None,
        }
    }
}

impl Process {
    pub fn heap(&self) -> Heap {
        self.heap.unwrap_or_default()
    }

    /// Reads everything anew, or what cannot be read or is dear to read from time to time. What
    /// cannot be read keeps its last value.
    pub fn refresh(&mut self) {
        self.uptime_us = self.started.elapsed().as_micros() as u64;
        self.heap = heap();
        if let Err(error) = self.read_proc() {
            tracing::debug!(%error, "/proc/self cannot be read");
        }
    }

    fn read_proc(&mut self) -> procfs::ProcResult<()> {
        let me = procfs::process::Process::myself()?;
        let stat = me.stat()?;
        let ticks = stat.utime + stat.stime;
        self.cpu_us = (ticks as f64 / procfs::ticks_per_second() as f64 * 1e6) as u64;
        self.rss_bytes = stat.rss * procfs::page_size();
        self.vsize_bytes = stat.vsize;
        self.threads = stat.num_threads as u64;
        if self.fds_counted.is_none_or(|at| at.elapsed() >= COUNT_FDS_EVERY) {
            self.fds_counted = Some(Instant::now());
            self.fd_count = me.fd_count()? as u64;
        }
        self.fd_limit = match me.limits()?.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(limit) => limit,
            procfs::process::LimitValue::Unlimited => 0,
        };
        Ok(())
    }
}

#[cfg(feature = "jemalloc")]
fn heap() -> Option<Heap> {
    use tikv_jemalloc_ctl::{epoch, stats};
    // jemalloc shows what was so when its epoch was last advanced.
    epoch::advance().ok()?;
    Some(Heap {
        allocated: stats::allocated::read().ok()? as u64,
        active: stats::active::read().ok()? as u64,
        resident: stats::resident::read().ok()? as u64,
        mapped: stats::mapped::read().ok()? as u64,
        retained: stats::retained::read().ok()? as u64,
    })
}

#[cfg(not(feature = "jemalloc"))]
fn heap() -> Option<Heap> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_figures_of_its_own() {
        let mut process = Process::default();
        process.refresh();
        assert!(process.rss_bytes > 1 << 20 && process.vsize_bytes >= process.rss_bytes);
        assert!(process.threads >= 1 && process.fd_count >= 3 && process.fd_limit > 3);
        let (counted, before) = (process.fds_counted, process.uptime_us);
        process.refresh();
        assert_eq!(process.fds_counted, counted, "not so soon again");
        assert!(process.uptime_us > before);
    }
}
