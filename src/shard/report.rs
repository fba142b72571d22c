//! How a shard tells the telemetry thread: its recorder, the task that flushes it, and the life of
//! upstream connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Context;
use crate::ring;
use crate::telemetry::collect::SpanOutlet;
use crate::telemetry::layout::Layout;
use crate::telemetry::record::{Gauges, Outlet, Recorder, ShardFigures};

/// How long the last flush may wait for the telemetry thread to take those before it: twice as long
/// as that takes to look.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// What a shard is given to report with.
#[derive(Clone, Debug)]
pub struct Reporting {
    pub layout: Arc<Layout>,
    pub outlet: Outlet,
    pub spans: SpanOutlet,
    pub interval: Duration,
}

/// The recorder of a shard, and what its gauges are computed from.
pub(super) struct Reporter {
    recorder: RefCell<Recorder>,
    interval: Duration,
    started: Instant,
    last: RefCell<Last>,
}

/// At the last flush.
struct Last {
    at: Duration,
    parked: Duration,
}

impl Reporter {
    pub(super) fn new(shard: usize, reporting: Reporting, started: Instant) -> Reporter {
        let Reporting { layout, outlet, interval, .. } = reporting;
        Reporter {
            recorder: RefCell::new(Recorder::new(shard, layout, outlet)),
            interval,
            started,
            last: RefCell::new(Last { at: Duration::ZERO, parked: Duration::ZERO }),
        }
    }

    #[inline]
    pub(super) fn record(&self, record: impl FnOnce(&mut Recorder)) {
        record(&mut self.recorder.borrow_mut());
    }

    /// Whom the ring counts a client's bytes for. 0 is nobody, then servers and targets take turns:
    /// what an account means holds whatever is configured later.
    pub(super) fn server_account(&self, server: u32) -> u32 {
        1 + 2 * server
    }

    /// Whom it counts an upstream's bytes for.
    pub(super) fn target_account(&self, target: u32) -> u32 {
        2 + 2 * target
    }

    /// The ids that hold now.
    pub(super) fn layout(&self) -> Arc<Layout> {
        self.recorder.borrow().layout().clone()
    }

    /// From here on by the ids of a newer generation.
    pub(super) fn apply(&self, layout: &Arc<Layout>) {
        self.recorder.borrow_mut().apply(layout);
    }

    fn flush(&self, context: &Context) -> bool {
        context.hand_over_spans(Duration::ZERO);
        let mut recorder = self.recorder.borrow_mut();
        context.ring.take_traffic(|account, traffic| {
            let (received, sent) = (traffic.received_bytes, traffic.sent_bytes);
            match account.checked_sub(1) {
                Some(it) if it % 2 == 0 => recorder.traffic(it / 2, received, sent),
                Some(it) => recorder.upstream_traffic(it / 2, received, sent),
                None => {}
            }
        });
        recorder.flush(|gauges| self.fill(context, gauges))
    }

    fn fill(&self, context: &Context, gauges: &mut Gauges) {
        let now = context.clock();
        gauges.services.clear();
        gauges.nodes.clear();
        for upstream in context.upstreams.borrow().iter() {
            gauges.services.push(upstream.gauges(context));
            upstream.nodes(now, &mut gauges.nodes);
        }
        let stats = context.ring.take_stats();
        let at = self.started.elapsed();
        let last = self.last.replace(Last { at, parked: stats.parked });
        let (elapsed, parked) = (at - last.at, stats.parked - last.parked);
        gauges.shard = ShardFigures {
            connections: context.connections() as u64,
            turns: stats.turns,
            enters: stats.enters,
            sqes: stats.sqes,
            cqes: stats.cqes,
            slots: stats.slots as u64,
            buffers_in_use: stats.buffers_in_use as u64,
            buffers_exhausted: stats.buffers_exhausted,
            leased_bytes: stats.leased_bytes as u64,
            busy_ratio: (1.0 - parked.as_secs_f64() / elapsed.as_secs_f64().max(1e-9)).max(0.0),
            longest_poll_us: stats.longest_turn.as_micros() as u64,
            late_us: stats.latest_timer.as_micros() as u64,
        };
    }

    /// The last flush of a shard that ends: waits until what is still on the way has been taken.
    pub(super) fn finish(&self, context: &Context) {
        context.hand_over_spans(LAST_FLUSH);
        if !self.flush(context) {
            self.recorder.borrow_mut().await_buffer(LAST_FLUSH);
            self.flush(context);
        }
    }
}

/// The task that flushes.
pub(super) async fn report(context: Rc<Context>, reporter: Rc<Reporter>) {
    let waker = ring::current_waker().await;
    let timer = context.ring.timer(waker);
    timer.set(context.ring.now() + reporter.interval);
    loop {
        if timer.has_fired() {
            timer.set(context.ring.now() + reporter.interval);
            reporter.flush(&context);
        }
        ring::wait().await;
    }
}

/// A connection to an endpoint, for as long as it is open: counted for the target that made it.
pub(super) struct Meter {
    reporter: Rc<Reporter>,
    target: u32,
    opened: Duration,
    requests: u64,
}

impl Meter {
    pub(super) fn new(reporter: &Rc<Reporter>, target: u32) -> Meter {
        reporter.record(|recorder| recorder.upstream_opened(target));
        let opened = reporter.started.elapsed();
        Meter { reporter: reporter.clone(), target, opened, requests: 0 }
    }

    /// A request is sent over it.
    pub(super) fn used(&mut self) {
        self.requests += 1;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let lasted = self.reporter.started.elapsed().saturating_sub(self.opened);
        self.reporter
            .record(|recorder| recorder.upstream_closed(self.target, lasted, self.requests));
    }
}
