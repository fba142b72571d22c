//! Spans to a collector that does as it is told, in time that moves when everybody waits: each of
//! them ends as sent or dropped, once, whatever the collector does and whenever the end comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::telemetry::exporters::push::rig::{Counted, batch};
use crate::telemetry::feed::Hub;
use crate::telemetry::sample;

/// What the collector does with one request.
#[derive(Clone, Debug)]
enum Act {
    Say(Verdict),
    SayAfter(Verdict, Duration),
    Hang,
}

type Post = (Instant, Vec<u64>);

/// One that takes everything once there is nothing more that it was told.
#[derive(Clone, Default)]
struct Scripted {
    acts: Arc<Mutex<VecDeque<Act>>>,
    /// When, and by their numbers which spans it was sent.
    posts: Arc<Mutex<Vec<Post>>>,
    /// What it took, by number how often.
    taken: Arc<Mutex<BTreeMap<u64, usize>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Collector for Scripted {
    type Body = Vec<u64>;

    fn requests(&self, batches: Vec<Arc<Batch>>) -> Vec<Request<Vec<u64>>> {
        let numbers = |batch: &Arc<Batch>| -> Vec<u64> {
            batch.spans.iter().map(|it| it.request_bytes).collect()
        };
        let body: Vec<u64> = batches.iter().flat_map(numbers).collect();
        vec![Request { spans: body.len(), body }]
    }

    async fn post(&mut self, body: &Vec<u64>) -> Verdict {
        lock(&self.posts).push((Instant::now(), body.clone()));
        let act = lock(&self.acts).pop_front().unwrap_or(Act::Say(Verdict::TAKEN));
        let verdict = match act {
            Act::Say(verdict) => verdict,
            Act::SayAfter(verdict, after) => {
                sleep(after).await;
                verdict
            }
            Act::Hang => std::future::pending().await,
        };
        if let Verdict::Taken { .. } = verdict {
            body.iter().for_each(|it| *lock(&self.taken).entry(*it).or_default() += 1);
        }
        verdict
    }
}

/// A delivery that runs.
struct Rig {
    hub: Hub,
    queue: Arc<Queue>,
    collector: Scripted,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// Numbers of spans that were offered.
    offered: u64,
}

impl Rig {
    fn new(most: usize, acts: impl IntoIterator<Item = Act>) -> Rig {
        let hub = sample::hub();
        let feed = hub.feed("zipkin");
        let queue = feed.collect_spans(most);
        let collector = Scripted::default();
        lock(&collector.acts).extend(acts);
        let (end, ends) = watch::channel(false);
        let to = "a collector".to_owned();
        let task = tokio::spawn(deliver(collector.clone(), to, feed, queue.clone(), ends));
        Rig { hub, queue, collector, end, task, offered: 0 }
    }

    /// Spans with the next numbers.
    fn offer(&mut self, spans: usize) {
        let mut list = vec![sample::span(); spans];
        list.iter_mut().zip(self.offered..).for_each(|(span, nth)| span.request_bytes = nth);
        self.offered += spans as u64;
        self.hub.offer(&batch(list));
    }

    /// Sizes of the requests so far.
    fn posts(&self) -> Vec<usize> {
        lock(&self.collector.posts).iter().map(|(_, body)| body.len()).collect()
    }

    fn counted(&self) -> Counted {
        let counted = Counted::of(&self.hub, "zipkin");
        let unsettled = self.queue.unsettled() as u64;
        assert_eq!(counted.sent + counted.dropped + unsettled, self.offered);
        counted
    }

    /// How long it takes to end.
    async fn end(&mut self) -> Duration {
        let start = Instant::now();
        self.end.send_replace(true);
        (&mut self.task).await.unwrap();
        assert_eq!(self.queue.unsettled(), 0);
        start.elapsed()
    }
}

/// A runtime whose time moves when everybody waits for it.
fn paused<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(work)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn failed() -> Act {
    Act::Say(Verdict::unreached("it is away"))
}

#[test]
fn a_batch_leaves_at_once_and_what_comes_meanwhile_goes_together() {
    paused(async {
        let slow = Act::SayAfter(Verdict::TAKEN, secs(1));
        let mut rig = Rig::new(10_000, [slow.clone(), slow]);
        let start = Instant::now();
        rig.offer(3);
        tokio::task::yield_now().await;
        assert_eq!(rig.posts(), [3]);
        (0..30).for_each(|_| rig.offer(40));
        sleep(secs(10)).await;
        assert_eq!(rig.posts(), [3, 1_000, 200]);
        let at = |nth: usize| lock(&rig.collector.posts)[nth].0 - start;
        assert_eq!((at(0), at(1).as_secs(), at(2).as_secs()), (Duration::ZERO, 1, 2));
        assert_eq!(rig.counted(), Counted { sent: 1_203, dropped: 0, failures: 0 });
        assert_eq!(rig.end().await, Duration::ZERO);
    });
}

#[test]
fn a_collector_that_comes_back_gets_what_it_was_to_get_first_and_the_latest() {
    paused(async {
        let mut rig = Rig::new(1_000, (0..20).map(|_| failed()));
        for _ in 0..200 {
            rig.offer(20);
            assert!(rig.queue.unsettled() <= 1_000);
            sleep(Duration::from_millis(100)).await;
        }
        let counted = rig.counted();
        assert!(counted.sent == 0 && counted.dropped == 3_000, "{counted:?}");
        let posts = lock(&rig.collector.posts).clone();
        assert!(posts.iter().all(|(_, body)| body == &posts[0].1), "the same go again");
        let pauses: Vec<Duration> = posts.windows(2).map(|it| it[1].0 - it[0].0).collect();
        for (pause, full) in pauses.iter().zip([100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000]) {
            // Timers have a resolution of 1 ms.
            let ms = pause.as_millis();
            assert!((full / 2..=full + 1).contains(&ms), "{pauses:?}");
        }
        assert!(posts.len() <= 12, "{pauses:?}");
        sleep(secs(300)).await;
        assert_eq!(rig.counted(), Counted { sent: 1_000, dropped: 3_000, failures: 20 });
        let taken: Vec<u64> = lock(&rig.collector.taken).keys().copied().collect();
        assert_eq!(taken, (0..20).chain(3_020..4_000).collect::<Vec<u64>>());
        // The next failure begins with short pauses again.
        lock(&rig.collector.acts).push_back(failed());
        rig.offer(1);
        sleep(Duration::from_millis(110)).await;
        assert_eq!(rig.counted().sent, 1_001);
    });
}

#[test]
fn what_is_refused_is_dropped_and_what_follows_is_not() {
    paused(async {
        let acts = [Verdict::Refused("no".into()), Verdict::Taken { unwanted: 3 }];
        let mut rig = Rig::new(1_000, acts.map(Act::Say));
        for spans in [5, 7, 9] {
            rig.offer(spans);
            sleep(secs(1)).await;
        }
        assert_eq!(rig.posts(), [5, 7, 9]);
        assert_eq!(rig.counted(), Counted { sent: 13, dropped: 8, failures: 2 });
        // Nobody refuses more than there is.
        lock(&rig.collector.acts).push_back(Act::Say(Verdict::Taken { unwanted: u64::MAX }));
        rig.offer(1);
        rig.end().await;
        assert_eq!(rig.counted(), Counted { sent: 13, dropped: 9, failures: 3 });
    });
}

#[test]
fn what_a_collector_cannot_take_does_not_keep_the_rest_from_it() {
    paused(async {
        let breaks = Verdict::Failed { why: "500".into(), after: None, may_be_theirs: true };
        let acts = (0..MOST_TRIES).map(|_| Act::Say(breaks.clone()));
        let mut rig = Rig::new(1_000, acts);
        rig.offer(3);
        sleep(secs(1)).await;
        rig.offer(5);
        sleep(secs(100)).await;
        assert_eq!(rig.posts().len(), MOST_TRIES as usize + 1);
        let failures = u64::from(MOST_TRIES);
        assert_eq!(rig.counted(), Counted { sent: 5, dropped: 3, failures });
    });
}

#[test]
fn a_collector_may_say_when_it_is_to_be_asked_again() {
    paused(async {
        let after = Some(secs(30));
        let verdict = Verdict::Failed { why: "busy".into(), after, may_be_theirs: false };
        let mut rig = Rig::new(1_000, [Act::Say(verdict)]);
        rig.offer(1);
        sleep(secs(29)).await;
        assert_eq!(rig.posts(), [1]);
        sleep(secs(2)).await;
        assert_eq!((rig.posts(), rig.counted().sent), (vec![1, 1], 1));
    });
}

#[test]
fn the_end_sends_what_waits_once() {
    paused(async {
        let mut rig = Rig::new(10_000, [failed(), failed(), failed()]);
        rig.offer(10);
        sleep(Duration::from_millis(20)).await;
        // In a pause, which the end cuts short.
        assert_eq!(rig.posts(), [10]);
        (0..5).for_each(|_| rig.offer(500));
        assert_eq!(rig.end().await, Duration::ZERO);
        assert_eq!(rig.posts(), [10, 10, 1_000, 1_000, 500]);
        assert_eq!(rig.counted(), Counted { sent: 1_500, dropped: 1_010, failures: 3 });
    });
}

#[test]
fn the_end_does_not_wait_for_a_collector_that_hangs() {
    paused(async {
        for begun in [true, false] {
            let mut rig = Rig::new(10_000, [Act::Hang]);
            rig.offer(10);
            if begun {
                tokio::task::yield_now().await;
                rig.offer(3_000);
            }
            let took = rig.end().await;
            assert!(took.abs_diff(AT_THE_END) <= Duration::from_millis(2), "{took:?}");
            let dropped = if begun { 3_010 } else { 10 };
            assert_eq!(rig.counted(), Counted { sent: 0, dropped, failures: 0 });
            assert_eq!(rig.posts(), [10]);
        }
        // One that is but slow is waited for.
        let mut rig = Rig::new(10_000, [Act::SayAfter(Verdict::TAKEN, secs(2))]);
        rig.offer(10);
        assert_eq!(rig.end().await.as_secs(), 2);
        assert_eq!(rig.counted().sent, 10);
    });
}

/// Batches, answers and ends at random moments.
#[test]
fn every_span_is_sent_or_dropped_once() {
    for seed in 1..=40u64 {
        println!("seed {seed}");
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        paused(async {
            let mut rig = Rig::new(100 + random(3_000) as usize, []);
            for _ in 0..random(300) {
                let verdict = match random(6) {
                    0 => Verdict::Refused("no".into()),
                    1 => Verdict::Taken { unwanted: random(5) },
                    2..4 => Verdict::unreached("away"),
                    _ => Verdict::TAKEN,
                };
                let after = Duration::from_millis(random(400));
                lock(&rig.collector.acts).push_back(match random(3) {
                    0 => Act::SayAfter(verdict, after),
                    _ => Act::Say(verdict),
                });
                let spans = 1 + random(400) as usize;
                rig.offer(spans);
                assert!(rig.queue.unsettled() <= rig.queue.most().max(spans + 400));
                rig.counted();
                sleep(Duration::from_millis(random(300))).await;
            }
            if random(2) == 0 {
                lock(&rig.collector.acts).push_front(Act::Hang);
                rig.offer(5);
            }
            assert!(rig.end().await <= AT_THE_END + Duration::from_millis(2));
            let counted = rig.counted();
            let taken = lock(&rig.collector.taken);
            assert!(taken.values().all(|times| *times == 1), "sent twice");
            assert!(counted.sent <= taken.len() as u64 && taken.len() as u64 <= rig.offered);
        });
    }
}

#[test]
fn pauses_double_up_to_a_bound_and_scatter() {
    let ms = |failures, random| pause(failures, random).as_millis();
    let least = [0, 1, 2, 6, 7, u32::MAX].map(|failures| ms(failures, 0));
    assert_eq!(least, [50, 100, 200, 3_200, 5_000, 5_000]);
    assert!((0..1_000).map(|_| ms(20, random())).all(|it| (5_000..=10_000).contains(&it)));
    assert_ne!(random(), random());
}
