//! What the figures were measured on.

use std::fs;
use std::thread;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// As /proc/cpuinfo calls it.
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
}

impl Machine {
    pub fn this() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let allowed = thread::available_parallelism().map_or(1, usize::from);
        Machine {
            cpu: model.map_or("unknown", |text| text.trim_start_matches([' ', '\t', ':'])).into(),
            cores: processors.max(allowed),
            kernel: kernel.trim().to_owned(),
        }
    }
}
