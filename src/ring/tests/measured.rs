//! What the ring is asked to do in time, and in few turns. On a machine that is busy it is measured
//! again.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// So many times in a row no machine is too busy to be measured.
const BUSY: usize = 20;

/// A timer's milliseconds would make a hundred moments of 300 us take three times as long.
#[test]
fn an_alarm_is_never_early_and_sooner_than_a_timer() {
    let stats = on_ring(Settings::default(), |ring| async move {
        let waker = current_waker().await;
        let a_hundred = async || {
            let began = ring.elapsed();
            for nth in 1..=100_u32 {
                let at = began + Duration::from_micros(300) * nth;
                ring.set_alarm(at, waker.clone());
                while ring.elapsed() < at {
                    wait().await;
                }
            }
            ring.elapsed() - began
        };
        let mut took = Vec::new();
        // A machine that is busy is late as well, and not every time.
        while took.iter().all(|it| *it >= Duration::from_millis(90)) {
            assert!(took.len() < BUSY, "{took:?}");
            took.push(a_hundred().await);
        }
        assert!(took.iter().all(|it| *it >= Duration::from_millis(30)), "{took:?}");
    });
    assert!(stats.parked > Duration::from_millis(5), "it slept: {stats:?}");
}

/// Two hundred answers come one by one, and few turns see them.
#[test]
fn a_ring_that_gathers_takes_fewer_turns() {
    let can_gather = Rc::new(Cell::new(false));
    let turns = |gather: Duration| {
        let can = can_gather.clone();
        let (address, sender) = peer(|mut stream| {
            let began = Instant::now();
            for nth in 1..=200_u32 {
                while began.elapsed() < Duration::from_micros(100) * nth {
                    thread::yield_now();
                }
                stream.write_all(b"x").expect("written");
            }
        });
        let settings = Settings { gather, ..Settings::default() };
        let stats = on_ring(settings, move |ring| async move {
            can.set(!ring.inner.core.borrow().gather.is_zero());
            let socket = connected(&ring, &address).await;
            read_to_end(&socket, true).await;
        });
        sender.join().expect("sender");
        stats.turns
    };
    let mut seen = Vec::new();
    // On a machine that is busy they come in heaps, whatever we do.
    // Before Linux 6.12 it is nothing.
    while !seen.iter().any(|(gathered, one_by_one)| gathered * 4 < *one_by_one) {
        assert!(seen.len() < BUSY, "turns, and as many without: {seen:?}");
        let one_by_one = turns(Duration::ZERO);
        seen.push((turns(Duration::from_millis(5)), one_by_one));
        if !can_gather.get() {
            return;
        }
    }
}
