//! What a process and its descendants use, as /proc has it: the scheduler's count of their threads'
//! CPU time in nanoseconds, their memory. Only reads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process;

/// CPU time of each thread of a tree.
#[derive(Debug, Clone, Default)]
pub struct Cpu {
    /// By process and thread.
    threads: BTreeMap<(u32, u32), u64>,
}

impl Cpu {
    /// Of threads that are there now, in nanoseconds: one that has ended takes what it used since
    /// with it, and no thread of a proxy ends while it is measured.
    pub fn since(&self, before: &Cpu) -> u64 {
        let used = |(thread, now): (_, &u64)| {
            now.saturating_sub(before.threads.get(thread).copied().unwrap_or(0))
        };
        self.threads.iter().map(used).sum()
    }
}

/// A process and its descendants; itself first, whether or not it is still there.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let process = found[at];
        for thread in threads(process).unwrap_or_default() {
            let children = format!("/proc/{process}/task/{thread}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    found
}

/// An error where the root has ended, or the kernel has no such count (CONFIG_SCHED_INFO).
pub fn cpu(root: u32) -> io::Result<Cpu> {
    cpu_of(&tree(root))
}

/// Of this process, without those that it has started.
pub fn own_cpu() -> io::Result<Cpu> {
    cpu_of(&[process::id()])
}

fn cpu_of(processes: &[u32]) -> io::Result<Cpu> {
    let mut cpu = Cpu::default();
    for (at, &process) in processes.iter().enumerate() {
        let threads = match threads(process) {
            // A descendant that has ended since it was listed; the first is who is measured.
            Err(_) if at > 0 => continue,
            threads => threads?,
        };
        for thread in threads {
            let path = format!("/proc/{process}/task/{thread}/schedstat");
            let text = match fs::read_to_string(&path) {
                // It has ended since it was listed.
                Err(_) if at > 0 || thread != process => continue,
                text => text?,
            };
            let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
            let nanos = nanos.ok_or_else(|| {
                io::Error::other(format!("{path} says `{}`, which is no count", text.trim()))
            })?;
            cpu.threads.insert((process, thread), nanos);
        }
    }
    Ok(cpu)
}

/// Memory of a tree, what is shared with others counted in part (Pss).
pub fn pss_bytes(root: u32) -> io::Result<u64> {
    sum(root, "smaps_rollup", "Pss:")
}

/// The most that each of a tree ever had in memory, added up.
pub fn peak_bytes(root: u32) -> io::Result<u64> {
    sum(root, "status", "VmHWM:")
}

fn sum(root: u32, file: &str, key: &str) -> io::Result<u64> {
    let one = |process| {
        let path = format!("/proc/{process}/{file}");
        let text = fs::read_to_string(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        kib(&text, key).ok_or_else(|| io::Error::other(format!("{path} has no {key}")))
    };
    let of_root = one(root)?;
    let of_others: u64 = tree(root)[1..].iter().filter_map(|process| one(*process).ok()).sum();
    Ok((of_root + of_others) * 1024)
}

/// `Pss:    123 kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn threads(process: u32) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(format!("/proc/{process}/task"))?;
    let numbers = names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_this_process_uses() {
        let me = process::id();
        let before = own_cpu().expect("the scheduler's count");
        let mut sum = 0_u64;
        while own_cpu().expect("the same").since(&before) < 5_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let pss = pss_bytes(me).expect("Pss");
        assert!((100_000..1 << 40).contains(&pss), "{pss}");
        assert!(peak_bytes(me).expect("VmHWM") >= 100_000);
    }

    #[test]
    fn a_tree_has_children_of_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'echo; read line; :' & read line; :"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut said = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        std::io::BufRead::read_line(&mut said, &mut String::new()).expect("a line");
        let found = tree(child.id());
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert_eq!(found.first(), Some(&child.id()));
        assert!(found.len() >= 2, "{found:?}");
        assert_eq!(tree(child.id()), [child.id()]);
        assert!(cpu(child.id()).is_err());
    }

    #[test]
    fn figures_of_proc() {
        let text = "Rss:  9 kB\nPss:                1234 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(kib(text, "Pss:"), Some(1_234));
        assert_eq!(kib(text, "VmHWM:"), None);
        let used =
            |figures: &[((u32, u32), u64)]| Cpu { threads: figures.iter().copied().collect() };
        let (before, after) =
            (used(&[((1, 1), 10), ((1, 2), 5)]), used(&[((1, 1), 30), ((1, 3), 4)]));
        assert_eq!(after.since(&before), 24);
    }
}
