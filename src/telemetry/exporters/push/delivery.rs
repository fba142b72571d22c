//! Which spans go when, and that each of them ends as sent or as dropped, once.
//!
//! - What waits goes at once where nothing is under way; what comes meanwhile goes together, up to
//!   `MOST_SPANS` in a request (or one batch that has more).
//! - One request is under way at a time, so a collector that is slow is not asked for more.
//! - What failed goes again, after a pause that doubles up to `LONGEST_PAUSE`, until the collector
//!   takes or refuses it. The spans in hand count within the queue's bound, and newer ones push
//!   older ones out of the queue behind them: a collector that comes back gets what it was to get
//!   first, and the latest.
//! - One that a collector fails at `MOST_TRIES` times, though it is there, is dropped.
//! - A request of which the answer was lost is sent again: whether it was taken is not known.
//! - At the end what is under way may finish and what waits is tried once, for `AT_THE_END` all
//!   together. The rest counts as dropped.
//!
//! Invariant: recorded = sent + dropped + what waits or is in hand.

use std::future::Future;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Verdict;
use crate::telemetry::exporters::Ends;
use crate::telemetry::feed::Feed;
use crate::telemetry::spans::{Batch, Queue};

/// Several hundred kilobytes of JSON: as much as is worth a request.
const MOST_SPANS: usize = 1_000;

/// Of one request, while the collector can be reached and yet neither takes nor refuses it: half a
/// minute with its pauses. What it cannot take must not keep everything behind it from being sent.
const MOST_TRIES: u32 = 10;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The supervisor waits a second longer.
pub(super) const AT_THE_END: Duration = Duration::from_millis(2_500);

/// Whoever takes spans.
pub(in super::super) trait Collector: Send {
    /// What one request says.
    type Body: Send + Sync;

    /// Puts every span of the batches into one of the requests.
    fn requests(&self, batches: Vec<Arc<Batch>>) -> Vec<Request<Self::Body>>;

    fn post(&mut self, body: &Self::Body) -> impl Future<Output = Verdict> + Send;
}

pub(in super::super) struct Request<B> {
    pub(in super::super) spans: usize,
    pub(in super::super) body: B,
}

/// Delivers to a collector, which logs call `to`, until the process ends.
pub(in super::super) async fn deliver<C: Collector>(
    collector: C,
    to: String,
    feed: Feed,
    queue: Arc<Queue>,
    ends: Ends,
) {
    let most = MOST_SPANS.min(queue.most() / 2);
    let end = End { ends, by: None };
    let books = Books { to, feed, queue: queue.clone(), failing: false, refusing: false };
    let mut delivery = Delivery { collector, books, end, failures: 0 };
    // Until the end begins; not before what is in hand then is settled.
    loop {
        tokio::select! {
            () = queue.filled() => delivery.next(most).await,
            () = delivery.end.begins() => break,
        }
    }
    let before = queue.dropped();
    while queue.unsettled() > 0 {
        delivery.next(most).await;
    }
    let unsent = queue.dropped() - before;
    if unsent > 0 {
        tracing::warn!(to = delivery.books.to, "{unsent} spans were not sent before the end");
    }
}

struct Delivery<C> {
    collector: C,
    books: Books,
    end: End,
    /// In a row.
    failures: u32,
}

impl<C: Collector> Delivery<C> {
    /// Settles what has waited longest.
    async fn next(&mut self, most: usize) {
        let batches = self.books.queue.hold(most);
        let spans: usize = batches.iter().map(|it| it.spans.len()).sum();
        if self.end.is_over() {
            self.books.dropped(spans);
            return;
        }
        let requests = self.collector.requests(batches);
        debug_assert_eq!(requests.iter().map(|it| it.spans).sum::<usize>(), spans);
        for request in requests {
            self.settle(&request).await;
        }
    }

    async fn settle(&mut self, request: &Request<C::Body>) {
        let mut tries = 0;
        loop {
            let post = self.collector.post(&request.body);
            let verdict = tokio::select! {
                biased;
                () = self.end.comes() => return self.books.dropped(request.spans),
                verdict = post => verdict,
            };
            match verdict {
                Verdict::Taken { unwanted } => {
                    self.failures = 0;
                    return self.books.taken(request.spans, unwanted);
                }
                Verdict::Refused(why) => {
                    self.failures = 0;
                    return self.books.refused(request.spans, &why);
                }
                Verdict::Failed { why, after, may_be_theirs } => {
                    self.books.failed(&why);
                    tries += u32::from(may_be_theirs);
                    if self.end.has_begun() || tries == MOST_TRIES {
                        return self.books.dropped(request.spans);
                    }
                    let pause = pause(self.failures, random()).max(after.unwrap_or_default());
                    self.failures += 1;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.end.begins() => {}
                    }
                }
            }
        }
    }
}

/// From a half to all of what doubles with every failure: several proxies that lost a collector
/// together do not come back to it together.
fn pause(failures: u32, random: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures)).min(LONGEST_PAUSE);
    let half = whole / 2;
    half + Duration::from_nanos(random % (half.as_nanos() as u64 + 1))
}

/// Good enough to scatter by, and from the standard library: its maps scatter by it too.
fn random() -> u64 {
    std::hash::RandomState::new().hash_one(0u8)
}

/// The end of the process, which begins and then comes.
struct End {
    ends: Ends,
    by: Option<Instant>,
}

impl End {
    fn has_begun(&self) -> bool {
        self.by.is_some() || *self.ends.borrow()
    }

    fn is_over(&self) -> bool {
        self.by.is_some_and(|by| Instant::now() >= by)
    }

    async fn begins(&mut self) {
        // Nobody is there to end it: it has ended.
        let _ = self.ends.wait_for(|ends| *ends).await;
        self.by.get_or_insert_with(|| Instant::now() + AT_THE_END);
    }

    async fn comes(&mut self) {
        self.begins().await;
        if let Some(by) = self.by {
            sleep_until(by).await;
        }
    }
}

/// What is counted and logged. Trouble is logged once, and so is its end.
struct Books {
    to: String,
    feed: Feed,
    queue: Arc<Queue>,
    failing: bool,
    refusing: bool,
}

impl Books {
    fn taken(&mut self, spans: usize, unwanted: u64) {
        let unwanted = unwanted.min(spans as u64);
        self.queue.settle(spans);
        self.feed.sent(&self.queue, spans as u64 - unwanted);
        if std::mem::take(&mut self.failing) {
            tracing::info!(to = self.to, "spans are sent again");
        }
        if unwanted == 0 {
            self.refusing = false;
            return;
        }
        self.queue.drop_more(unwanted);
        self.feed.failed();
        if !std::mem::replace(&mut self.refusing, true) {
            tracing::warn!(to = self.to, "a collector does not want {unwanted} of {spans} spans");
        }
    }

    fn refused(&mut self, spans: usize, why: &str) {
        self.dropped(spans);
        self.feed.failed();
        self.failing = false;
        if !std::mem::replace(&mut self.refusing, true) {
            tracing::warn!(to = self.to, why, "a collector refuses spans, which are dropped");
        }
    }

    fn failed(&mut self, why: &str) {
        self.feed.failed();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(to = self.to, why, "spans cannot be sent; they wait");
        }
    }

    fn dropped(&mut self, spans: usize) {
        self.queue.settle(spans);
        self.queue.drop_more(spans as u64);
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
