//! Spans between the shards and the exporters: batches, and one bounded queue per exporter.
//!
//! A batch is shared by all queues. Where a queue is full its oldest batches give way: what is
//! newer is more likely to be asked for. So a collector that is away costs the queue's bound and
//! nothing else, and every span that is not sent is counted as dropped, by exporter.
//!
//! Whoever sends spans holds them until it knows what became of them. What is held is within the
//! bound: it is what is being tried again while newer spans come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use tokio::sync::Notify;

use super::layout::Layout;
use super::trace::{Recent, Span};

/// What a shard hands over at once.
#[derive(Debug)]
pub struct Batch {
    pub spans: Vec<Span>,
    /// By whose ids they speak.
    pub layout: Arc<Layout>,
    /// When the process's clock began, since 1970.
    pub epoch: Duration,
    /// Where the buffer goes back to.
    pub(super) returns: Option<Sender<Vec<Span>>>,
}

/// A shard's latest requests, the oldest first.
#[derive(Debug)]
pub struct Recents {
    pub requests: Vec<Recent>,
    pub layout: Arc<Layout>,
    pub epoch: Duration,
}

impl Batch {
    /// What a shard has gathered. A buffer that is mostly empty goes back at once: while a
    /// collector is away, a few spans a second must not keep a whole buffer each.
    pub(super) fn gathered(
        spans: Vec<Span>,
        layout: Arc<Layout>,
        epoch: Duration,
        returns: Sender<Vec<Span>>,
    ) -> Arc<Batch> {
        if spans.len() >= spans.capacity() / 2 {
            return Arc::new(Batch { spans, layout, epoch, returns: Some(returns) });
        }
        let batch = Batch::of(spans.clone(), layout, epoch);
        // A shard that has enough, or has ended, needs no more.
        let _ = returns.try_send(spans);
        batch
    }

    /// A batch of which the buffer goes nowhere.
    pub fn of(spans: Vec<Span>, layout: Arc<Layout>, epoch: Duration) -> Arc<Batch> {
        Arc::new(Batch { spans, layout, epoch, returns: None })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(returns) = &self.returns {
            // A shard that has enough, or has ended, needs no more.
            let _ = returns.try_send(std::mem::take(&mut self.spans));
        }
    }
}

/// What waits for one exporter.
#[derive(Debug)]
pub struct Queue {
    most: usize,
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Arc<Batch>>,
    spans: usize,
    /// Taken by [`Queue::hold`], and not yet settled.
    held: usize,
    dropped: u64,
}

impl Queue {
    /// For up to `most` spans, those that are held included. The newest batch is taken all the
    /// same, however large it is.
    pub fn new(most: usize) -> Queue {
        Queue { most, waiting: Mutex::default(), came: Notify::new() }
    }

    /// Adds a batch; the oldest ones go where there is no room for it.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut waiting = self.lock();
        waiting.spans += batch.spans.len();
        waiting.batches.push_back(batch);
        while waiting.spans + waiting.held > self.most && waiting.batches.len() > 1 {
            if let Some(oldest) = waiting.batches.pop_front() {
                waiting.spans -= oldest.spans.len();
                waiting.dropped += oldest.spans.len() as u64;
            }
        }
        drop(waiting);
        self.came.notify_one();
    }

    /// Counts spans that never came this far.
    pub fn drop_more(&self, spans: u64) {
        self.lock().dropped += spans;
    }

    /// The oldest batches: as many as together have up to `most` spans, and one at least. None
    /// where none waits. They stay within the bound until they are sent or dropped, of which the
    /// queue is told with [`Queue::settle`].
    pub fn hold(&self, most: usize) -> Vec<Arc<Batch>> {
        let mut waiting = self.lock();
        let (mut taken, mut spans) = (Vec::new(), 0);
        while let Some(next) = waiting.batches.front().map(|it| it.spans.len()) {
            if !taken.is_empty() && spans + next > most {
                break;
            }
            spans += next;
            taken.extend(waiting.batches.pop_front());
        }
        waiting.spans -= spans;
        waiting.held += spans;
        taken
    }

    /// So many spans are no longer held.
    pub fn settle(&self, spans: usize) {
        let mut waiting = self.lock();
        debug_assert!(spans <= waiting.held);
        waiting.held = waiting.held.saturating_sub(spans);
    }

    /// Until a batch waits.
    pub async fn filled(&self) {
        while self.lock().batches.is_empty() {
            self.came.notified().await;
        }
    }

    /// For how many spans there is room.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Spans that wait or are held.
    pub fn unsettled(&self) -> usize {
        let waiting = self.lock();
        waiting.spans + waiting.held
    }

    /// Spans that have found no room since the beginning.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// A panic ends the process, so nobody ever sees what a panicking thread left behind.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sample;

    fn batch(spans: usize) -> Arc<Batch> {
        Batch::of(vec![sample::span(); spans], Arc::default(), Duration::ZERO)
    }

    /// The oldest batch, by its spans.
    fn take(queue: &Queue) -> Vec<usize> {
        let taken: Vec<usize> = queue.hold(1).iter().map(|it| it.spans.len()).collect();
        queue.settle(taken.iter().sum());
        taken
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let queue = Queue::new(10);
        [4, 5, 3].into_iter().for_each(|spans| queue.push(batch(spans)));
        assert_eq!(queue.dropped(), 4);
        assert_eq!(take(&queue), [5]);
        // One that is larger than all the room is taken all the same.
        queue.push(batch(11));
        assert_eq!((queue.dropped(), take(&queue)), (7, vec![11]));
        assert!(take(&queue).is_empty());
        queue.drop_more(2);
        assert_eq!(queue.dropped(), 9);
    }

    #[test]
    fn what_is_held_is_within_the_bound() {
        let queue = Queue::new(10);
        [2, 3, 4].into_iter().for_each(|spans| queue.push(batch(spans)));
        let held = queue.hold(6);
        assert_eq!(held.iter().map(|it| it.spans.len()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(queue.unsettled(), 9);
        queue.push(batch(2));
        assert_eq!((queue.dropped(), queue.unsettled()), (4, 7));
        queue.settle(5);
        queue.push(batch(8));
        assert_eq!((queue.dropped(), queue.unsettled()), (4, 10));
        // One at least, however many spans it has.
        assert_eq!(queue.hold(1).len(), 1);
        assert_eq!(queue.hold(1).len(), 1);
        assert!(queue.hold(1).is_empty());
    }

    #[test]
    fn what_waits_takes_the_room_of_its_spans() {
        // As config/ringlane.yaml says.
        assert!((300..=400).contains(&size_of::<Span>()), "{}", size_of::<Span>());
        let (returns, returned) = crossbeam_channel::bounded(1);
        let gathered = |spans| {
            let mut buffer = Vec::with_capacity(256);
            buffer.resize(spans, sample::span());
            Batch::gathered(buffer, Arc::default(), Duration::ZERO, returns.clone())
        };
        let few = gathered(2);
        assert_eq!((few.spans.len(), few.spans.capacity()), (2, 2));
        assert_eq!(returned.try_recv().map(|it| it.capacity()), Ok(256));
        drop(few);
        assert!(returned.is_empty());
        let many = gathered(200);
        assert!(many.spans.len() == 200 && returned.is_empty());
        drop(many);
        assert_eq!(returned.try_recv().map(|it| it.capacity()), Ok(256));
    }

    #[test]
    fn buffers_go_back_once_nobody_needs_them() {
        let (returns, returned) = crossbeam_channel::bounded(1);
        let mut one = batch(2);
        Arc::get_mut(&mut one).expect("it is not shared yet").returns = Some(returns);
        let queues = [Queue::new(10), Queue::new(10)];
        queues.iter().for_each(|queue| queue.push(one.clone()));
        drop(one);
        queues.iter().for_each(|queue| {
            assert!(returned.is_empty());
            take(queue);
        });
        assert_eq!(returned.try_recv().map(|it| it.len()), Ok(2));
    }
}
