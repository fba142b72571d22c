//! Which core each thread of the process may run on.

mod common;

use std::collections::BTreeMap;

use common::{Origin, Proxy, config, ok};

/// The cores that each thread of a process may use, by the thread's name.
fn allowed(pid: u32) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).expect("a thread");
        let value = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).expect("a key");
            line[key.len()..].trim().to_owned()
        };
        found.entry(value("Name:")).or_default().push(value("Cpus_allowed_list:"));
    }
    found
}

#[test]
fn shards_and_control_threads_keep_to_their_cores() {
    let origin = Origin::answering(|_| ok("here"));
    let yaml = config(&[origin.address], "", "");
    let last = std::thread::available_parallelism().map_or(1, |cores| cores.get()) - 1;
    let runtime = format!("drain_ms: 300, control_cores: \"{last}\"");
    let proxy = Proxy::start_with(&runtime, &yaml, "0,0");
    assert_eq!(proxy.connect().get("/").text(), "here");
    let threads = allowed(proxy.pid());
    let of = |name: &str| {
        let matching = threads.iter().filter(|(thread, _)| thread.starts_with(name));
        matching.flat_map(|(_, cores)| cores.clone()).collect::<Vec<_>>()
    };
    let last = last.to_string();
    for thread in ["control", "signals"] {
        assert_eq!(of(thread).join(" "), last, "{threads:?}");
    }
    // An executor has a thread beside its own, for what blocks.
    let shards = of("shard");
    assert!(shards.len() >= 2 && shards.iter().all(|cores| cores == "0"), "{threads:?}");
    proxy.stop();
}
