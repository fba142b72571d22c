//! What an idle keep-alive connection costs, while others are served.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{Origin, Proxy, Wire, both, config, descriptor_limit, ok};

/// Of the process, per idle connection (DESIGN section 11 and the issue).
const MOST_BYTES: u64 = 2048;
/// Connections that are there before it is measured.
const WARM: usize = 500;
/// Requests on each of these. Every shard goes through its 4,096 buffers for heads in turn, and a
/// page counts from when it is first touched: that is the shard's, not the connections'.
const WARM_REQUESTS: usize = 50;

/// Opens connections that have had an answer each.
fn open(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let opened = (0..count).map(|_| {
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 200);
        client
    });
    opened.collect()
}

/// Bytes per idle connection, while a client is served all the time without an error.
fn measure(cores: &str, count: usize) -> u64 {
    let origin = Origin::answering(|request| ok(&request.body));
    let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let (ends, counts, address) = (over.clone(), served.clone(), proxy.address);
    let traffic = thread::spawn(move || {
        let mut client = Wire::connect(address);
        while !ends.load(Ordering::SeqCst) {
            client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!(client.answer().text(), "hello");
            counts.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut warm = open(&proxy, WARM);
    for client in &mut warm {
        for _ in 1..WARM_REQUESTS {
            assert_eq!(client.get("/").status(), 200);
        }
    }
    let before = proxy.memory().proportional;
    let mut idle = open(&proxy, count);
    let after = proxy.memory().proportional;
    let each = after.saturating_sub(before) * 1024 / count as u64;
    // They are idle, not forgotten.
    for client in warm.iter_mut().chain(&mut idle) {
        assert_eq!(client.get("/").status(), 200);
    }
    over.store(true, Ordering::SeqCst);
    traffic.join().expect("every request was answered");
    let served = served.load(Ordering::SeqCst);
    eprintln!("{count} idle connections: {each} bytes each; {served} requests beside them");
    assert!(served > 0);
    drop((warm, idle));
    proxy.stop();
    each
}

#[test]
fn idle_connections_are_cheap_while_others_are_served() {
    let count = 2000.min(descriptor_limit().saturating_sub(WARM + 200));
    both(|cores| {
        let each = measure(cores, count);
        // As much again for a debug build and for the shards' first pages.
        assert!(each < 2 * MOST_BYTES, "{each} bytes each");
    });
}

#[test]
#[ignore = "the figure of a release build, with 10,000 connections; needs as many descriptors"]
fn ten_thousand_idle_connections_cost_under_two_kib_each() {
    assert!(descriptor_limit() > 11_000, "raise the limit of descriptors (ulimit -n 20000)");
    both(|cores| {
        let each = measure(cores, 10_000);
        assert!(each < MOST_BYTES, "{each} bytes each");
    });
}
