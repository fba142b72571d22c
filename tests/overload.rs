//! Three times what there is capacity for: with a service's `limits` its goodput stays near the
//! peak, what is accepted waits no longer than the queue allows, and the rest is told to come back.
//!
//! Requests have moments at which they are due, whatever comes of those before.

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Origin, Proxy, Wire, both, config, ok, quantile};

/// What the origin does at once, and how long each takes: 500 requests/s.
const PLACES: usize = 8;
const WORK: Duration = Duration::from_millis(16);
const CAPACITY: f64 = PLACES as f64 / 0.016;
/// Who waits beyond that waits in the proxy.
const QUEUE: usize = 16;
/// Of the load. More than are under way at once, so that it never waits for an answer.
const CLIENTS: usize = 160;
const LASTS: Duration = Duration::from_secs(4);

/// Works on so many at once; the others wait, for as long as it takes.
#[derive(Default)]
struct Workers {
    busy: Mutex<usize>,
    freed: Condvar,
}

impl Workers {
    fn work(&self) {
        let busy = self.busy.lock().unwrap();
        *self.freed.wait_while(busy, |busy| *busy >= PLACES).unwrap() += 1;
        // Works for a while: that is no waiting for something to happen.
        thread::park_timeout(WORK);
        *self.busy.lock().unwrap() -= 1;
        self.freed.notify_one();
    }
}

/// What came of an offer.
#[derive(Debug)]
struct Came {
    good_per_sec: f64,
    shed_per_sec: f64,
    lost: usize,
    /// Of what was accepted.
    p99_ms: f64,
}

/// Offers so many requests a second.
fn offer(address: SocketAddr, per_second: f64) -> Came {
    let begins = Instant::now() + Duration::from_millis(50);
    let period = Duration::from_secs_f64(CLIENTS as f64 / per_second);
    let client = |number: usize| {
        thread::spawn(move || {
            let mut wire = Wire::connect(address);
            let mut due = begins + period.mul_f64(number as f64 / CLIENTS as f64);
            let (mut good, mut shed, mut lost) = (Vec::new(), 0, 0);
            while due < begins + LASTS {
                // The pace of the load, and no waiting for something to happen.
                thread::park_timeout(due.saturating_duration_since(Instant::now()));
                let began = Instant::now();
                let sent = wire.try_send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                match sent.and_then(|()| wire.try_answer_to("GET")) {
                    Ok(answer) if answer.status() == 200 => {
                        good.push(began.elapsed().as_secs_f64() * 1e3);
                    }
                    Ok(answer) if answer.head.reason() == Some("overloaded") => shed += 1,
                    _ => {
                        lost += 1;
                        wire = Wire::connect(address);
                    }
                }
                due += period;
            }
            (good, shed, lost)
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let (mut good, mut shed, mut lost) = (Vec::new(), 0, 0);
    for client in clients {
        let came = client.join().expect("a client ends");
        good.extend(came.0);
        shed += came.1;
        lost += came.2;
    }
    // What is answered after the last one was due is in it, and in the time.
    let secs = begins.elapsed().as_secs_f64();
    Came {
        good_per_sec: good.len() as f64 / secs,
        shed_per_sec: f64::from(shed) / secs,
        lost,
        p99_ms: quantile(&good, 0.99),
    }
}

#[test]
fn three_times_the_capacity_costs_little_of_it() {
    both(|cores| {
        let workers = Arc::new(Workers::default());
        let origin = Origin::start(move |mut wire, _| {
            while let Ok(Some(_)) = wire.request() {
                workers.work();
                if wire.try_send(ok("fine")).is_err() {
                    return;
                }
            }
        });
        let limits = format!("limits: {{max_concurrent: {PLACES}, max_queue: {QUEUE}}}");
        let proxy = Proxy::start(&config(&[origin.address], "", &limits), cores);
        // Of a place in the queue, and then of the work; and as much again for the machine's sake.
        let longest_ms = 2e3 * (QUEUE as f64 / CAPACITY + WORK.as_secs_f64());
        let mut seen = Vec::new();
        // A machine that is shared may hold any of them up, but not each.
        let holds = (0..3).any(|_| {
            let [below, peak, above] = [0.8, 1.2, 3.0].map(|times| {
                let came = offer(proxy.address, times * CAPACITY);
                eprintln!("offered {:.0}/s: {came:.1?}", times * CAPACITY);
                came
            });
            let lost = below.lost + peak.lost + above.lost;
            assert_eq!(lost, 0, "each is answered, one way or the other");
            let share = above.good_per_sec / peak.good_per_sec;
            seen.push((share, above.p99_ms));
            assert!(above.shed_per_sec > 0.0, "it is no overload");
            share > 0.9 && above.p99_ms < longest_ms.max(2.0 * peak.p99_ms)
        });
        assert!(holds, "of the peak, and p99 in ms (at most {longest_ms}): {seen:?}");
        let metrics = proxy.metrics();
        metrics.check_conservation();
        assert!(metrics.get("rt/http/service/web/failures/overloaded") > 0);
        proxy.stop();
    });
}
