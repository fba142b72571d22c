//! Which cores there are, and lists of cores as text: "0,2-5".
//!
//! Parsing takes the cores that may be used as an argument, so that it can be tested on any
//! machine.

use std::fs;

/// The machine as far as a configuration depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    cores: Vec<usize>,
}

impl Host {
    /// A machine on which these cores, and no others, may be used.
    pub fn with_cores(cores: impl IntoIterator<Item = usize>) -> Self {
        let mut cores: Vec<usize> = cores.into_iter().collect();
        cores.sort_unstable();
        cores.dedup();
        Host { cores }
    }

    /// This machine: the cores that are online and in the affinity mask of this process.
    /// Where /proc cannot be read, core 0 up to the number that the standard library counts.
    pub fn detect() -> Self {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
        let status = fs::read_to_string("/proc/self/status").ok();
        let allowed = status.as_deref().and_then(allowed_list).and_then(kernel_list);
        let online = online.as_deref().and_then(kernel_list);
        match (allowed, online) {
            (Some(allowed), Some(online)) => {
                Host::with_cores(allowed.into_iter().filter(|core| online.contains(core)))
            }
            (Some(cores), None) | (None, Some(cores)) => Host::with_cores(cores),
            (None, None) => {
                Host::with_cores(0..std::thread::available_parallelism().map_or(1, usize::from))
            }
        }
    }

    /// In ascending order.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// The cores of a list in its order, each as often as it is named; or why not.
    pub(super) fn list(&self, text: &str) -> Result<Vec<usize>, String> {
        let mut cores = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) =
                range(part).ok_or_else(|| format!("{part:?} is no core or range"))?;
            if first > last {
                return Err(format!("the range {part} runs backwards"));
            }
            // Before the range is expanded: a core that is not there also bounds its length.
            for end in [first, last] {
                if !self.cores.contains(&end) {
                    return Err(format!("core {end} is not online, or not ours to use"));
                }
            }
            let missing = (first..=last).find(|core| !self.cores.contains(core));
            if let Some(core) = missing {
                return Err(format!("core {core} is not online, or not ours to use"));
            }
            cores.extend(first..=last);
        }
        Ok(cores)
    }
}

/// Cores in ascending order as text, runs of them as ranges.
pub(super) fn as_text(cores: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = cores;
    while let Some(&first) = rest.first() {
        let run = rest.iter().enumerate().take_while(|(at, core)| **core == first + at).count();
        let last = first + run - 1;
        parts.push(if run == 1 { first.to_string() } else { format!("{first}-{last}") });
        rest = &rest[run..];
    }
    parts.join(",")
}

fn allowed_list(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
}

/// A list as the kernel writes it, which may also be empty.
fn kernel_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = range(part)?;
        cores.extend(first..=last);
    }
    Some(cores)
}

fn range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((number(first)?, number(last)?))
}

/// Digits only: `usize::from_str` would take a sign.
fn number(text: &str) -> Option<usize> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order_and_repeats() {
        let host = Host::with_cores([0, 1, 2, 3, 5]);
        assert_eq!(host.list("0,0,2-3").unwrap(), [0, 0, 2, 3]);
        assert_eq!(host.list(" 5 , 1").unwrap(), [5, 1]);
    }

    #[test]
    fn a_list_says_what_is_wrong() {
        let host = Host::with_cores([0, 1, 2, 3, 5]);
        for (text, wrong) in [
            ("4", "core 4 is not online"),
            ("3-5", "core 4 is not online"),
            ("0-99999999999999", "core 99999999999999 is not online"),
            ("3-1", "runs backwards"),
            ("", "\"\" is no core"),
            ("0,,1", "\"\" is no core"),
            ("-1", "\"-1\" is no core"),
            ("+1", "\"+1\" is no core"),
            ("one", "\"one\" is no core"),
        ] {
            let error = host.list(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn the_kernel_and_we_write_lists_alike() {
        let status = "Name:\tcat\nCpus_allowed:\t2f\nCpus_allowed_list:\t0-3,5\nMems_allowed:\t1\n";
        let cores = kernel_list(allowed_list(status).unwrap()).unwrap();
        assert_eq!(cores, [0, 1, 2, 3, 5]);
        assert_eq!(as_text(&cores), "0-3,5");
        assert_eq!(kernel_list("\n"), Some(vec![]));
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!Host::detect().cores().is_empty());
    }
}
