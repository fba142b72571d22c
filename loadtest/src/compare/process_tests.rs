//! Trees of shells: started, pinned, stopped.

use std::panic::{self, AssertUnwindSafe};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("process-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn shell(folder: &Path, script: &str) -> Process {
    let command = ["sh", "-c", script].map(str::to_owned);
    Process::start("shell", &command, 0, &folder.join("log")).expect("a shell")
}

/// An address that nobody listens on.
fn nobody() -> SocketAddr {
    let held = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    held.local_addr().expect("an address")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::yield_now();
    }
}

/// Not there, or dead and not yet waited for by whoever inherited it.
fn is_gone(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.starts_with(" Z"))
}

/// Three shells, the lower two of which do not mind being asked to end.
const TREE: &str = "trap '' TERM; sh -c 'sh -c \"while :; do sleep 60; done\" & \
    while :; do sleep 60; done' & trap - TERM; while :; do sleep 60; done";

fn whole_tree(process: &Process) -> Vec<u32> {
    let mut found = Vec::new();
    until("three shells that sleep", || {
        found = usage::tree(process.pid());
        found.len() >= 6
    });
    found
}

#[test]
fn the_whole_tree_is_pinned_and_stopped() {
    let folder = folder("tree");
    let process = shell(&folder, TREE);
    let tree = whole_tree(&process);
    for pid in &tree {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        assert_eq!(allowed.map(str::trim), Some("0"), "{pid}");
    }
    drop(process);
    until("all are gone", || tree.iter().all(|pid| is_gone(*pid)));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_panic_stops_it_too() {
    let folder = folder("panic");
    let mut tree = Vec::new();
    let caught = panic::catch_unwind(AssertUnwindSafe(|| {
        let process = shell(&folder, TREE);
        tree = whole_tree(&process);
        panic::resume_unwind(Box::new("as it would be"));
    }));
    assert!(caught.is_err());
    until("all are gone", || tree.iter().all(|pid| is_gone(*pid)));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn what_ends_before_it_listens_is_told_with_what_it_said() {
    let folder = folder("ended");
    let mut process = shell(&folder, "echo the port is taken >&2; exit 3");
    let error = process.listens(&[nobody()], &Stop::default()).expect_err("it has ended");
    let text = error.to_string();
    assert!(text.contains("exit status: 3") && text.contains("the port is taken"), "{text}");
    let nothing = Process::start("none", &["/no/such".to_owned()], 0, &folder.join("log"));
    let text = nothing.err().expect("no such program").to_string();
    assert!(text.contains("none") && text.contains("/no/such"), "{text}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn who_is_asked_to_stop_does_not_wait() {
    let folder = folder("stopped");
    let mut process = shell(&folder, "exec sleep 60");
    let stop = Stop::default();
    stop.ask();
    assert!(matches!(process.listens(&[nobody()], &stop), Err(CompareError::Stopped)));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn cores_that_there_are_not() {
    let folder = folder("core");
    let command = ["true".to_owned()];
    for core in [rustix::thread::CpuSet::MAX_CPU - 1, rustix::thread::CpuSet::MAX_CPU] {
        let error = Process::start("true", &command, core, &folder.join("log"));
        let text = error.err().expect("no such core").to_string();
        assert!(text.contains(&core.to_string()), "{text}");
    }
    fs::remove_dir_all(folder).expect("removed");
}
