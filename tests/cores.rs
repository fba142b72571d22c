//! Which core each thread of the process may run on, and what shards do for each other.

mod common;

use std::collections::BTreeMap;

use common::{Metrics, Origin, Proxy, both, config, ok};

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

/// SO_REUSEPORT places connections by a hash; those that a full shard gets go where there is room.
#[test]
fn a_full_shard_hands_over_until_every_shard_is_full() {
    const EACH: usize = 2;
    both(|cores| {
        let origin = Origin::answering(|_| ok("here"));
        let yaml = config(&[origin.address], "", "");
        let runtime = format!("drain_ms: 300, shard: {{max_connections: {EACH}}}");
        let proxy = Proxy::start_with(&runtime, &yaml, cores);
        let shards = cores.split(',').count();
        let mut held = Vec::new();
        for number in 0..EACH * shards {
            let mut client = proxy.connect();
            assert_eq!(client.get("/").status(), 200, "connection {number}");
            held.push(client);
        }
        let mut surplus = proxy.connect();
        assert_eq!(surplus.answer().status(), 503);
        surplus.expect_end();
        for client in &mut held {
            assert_eq!(client.get("/").text(), "here", "the others are served as before");
        }
        proxy.stop();
    });
}

/// However many come at once: what has been handed over to a shard counts for it at once.
#[test]
fn a_burst_of_connections_is_spread_over_the_shards() {
    const CONNECTIONS: u64 = 64;
    let origin = Origin::answering(|_| ok("here"));
    let yaml = config(&[origin.address], "", "");
    let proxy = Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), "0,0,0,0");
    let held: Vec<_> = (0..CONNECTIONS).map(|_| proxy.connect()).collect();
    let each = |metrics: &Metrics| metrics.between("shard/", "/connections");
    let all = |metrics: &Metrics| each(metrics).iter().map(|(_, count)| count).sum::<u64>();
    let metrics = proxy.metrics_when("all are there", |metrics| all(metrics) == CONNECTIONS);
    let counts: Vec<u64> = each(&metrics).into_iter().map(|(_, count)| count).collect();
    // A quarter more than the emptiest and two, and some that two shards placed at the same time.
    let (least, most) = (counts.iter().min(), counts.iter().max());
    assert!(counts.len() == 4 && most <= least.map(|least| least * 2).as_ref(), "{counts:?}");
    drop(held);
    proxy.stop();
}
