//! What an exchange waits for, how long it may, and what follows when that is over.

use super::exchange::{Exchange, Link, NEVER, Turn};
use super::limits::Place;
use super::transport::Transport;
use crate::http::Reason;
use crate::http1::encode;
use crate::ring::Chunk;

/// What the next deadline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    /// For a place.
    Queue,
    /// Before a retry.
    Backoff,
    Connect,
    /// The client waits for 100 before it sends its body.
    Expect,
    Upload,
    /// The request is out; the answer's head is awaited.
    Answer,
    Download,
}

impl Exchange {
    fn current_phase(&self) -> Phase {
        match &self.attempt {
            _ if self.rules.response_has_begun() => Phase::Download,
            None if !self.retry_at.is_zero() => Phase::Backoff,
            None if matches!(self.place, Place::Waiting(_)) => Phase::Queue,
            Some(attempt) if attempt.connecting => Phase::Connect,
            _ if self.upload.is_ended() || self.upload_lost => Phase::Answer,
            _ if self.expects => Phase::Expect,
            _ => Phase::Upload,
        }
    }

    /// Sets the timer where the phase changed or a body moved.
    pub(super) fn set_deadline(&mut self, link: &Link<'_>) {
        let phase = self.current_phase();
        let moved_bytes = self.upload.moved_bytes + self.download.moved_bytes;
        if phase == self.phase && moved_bytes == self.moved_bytes {
            return;
        }
        self.phase = phase;
        self.moved_bytes = moved_bytes;
        self.extend_deadline(link);
    }

    fn extend_deadline(&mut self, link: &Link<'_>) {
        let timeouts = &self.policy.timeouts;
        let after = match self.phase {
            Phase::New => None,
            Phase::Backoff => Some(self.retry_at.saturating_sub(link.context.ring.now())),
            Phase::Queue => Some(self.policy.queue_timeout),
            Phase::Connect => Some(timeouts.connect),
            Phase::Expect => Some(timeouts.expect),
            Phase::Answer => timeouts.attempt,
            Phase::Upload | Phase::Download => Some(link.router.timeouts.stall),
        };
        self.deadline = after.map_or(NEVER, |after| link.context.ring.now() + after);
        match self.deadline.min(self.request_deadline) {
            NEVER => link.timer.clear(),
            deadline => link.timer.set(deadline),
        }
    }

    /// A deadline has passed. `None`: the exchange goes on.
    pub(super) fn overdue(&mut self, client: &mut Transport, link: &Link<'_>) -> Option<Turn> {
        let now = link.context.ring.now();
        if now >= self.request_deadline {
            return self.fail(Reason::RequestTimeout, link);
        }
        if now < self.deadline {
            link.timer.set(self.deadline.min(self.request_deadline));
            return None;
        }
        let phase = self.phase;
        // Whatever goes on from here sets its deadline anew.
        self.phase = Phase::New;
        match phase {
            Phase::New | Phase::Backoff => None,
            Phase::Queue if self.place.look() => None,
            Phase::Queue => self.fail(Reason::Overloaded, link),
            Phase::Connect => self.fail(Reason::ConnectTimeout, link),
            Phase::Answer => self.fail(Reason::AttemptTimeout, link),
            Phase::Expect => {
                let mut out = link.context.ring.buffer();
                encode::continue_100(&mut out);
                client.send(Chunk::heap(out));
                self.expects = false;
                client.socket().receive(true);
                None
            }
            Phase::Upload => {
                let upstream = self.attempt.as_ref().map(|attempt| &attempt.transport);
                match upstream {
                    Some(upstream) if !upstream.progress().all_sent => {
                        let taken_bytes = upstream.socket().acknowledged_bytes();
                        match takes(&mut self.taken_bytes[0], taken_bytes) {
                            true => None,
                            false => self.fail(Reason::AttemptTimeout, link),
                        }
                    }
                    _ => self.fail(Reason::ClientTimeout, link),
                }
            }
            Phase::Download if client.progress().all_sent => {
                self.fail(Reason::AttemptTimeout, link)
            }
            Phase::Download => {
                let taken_bytes = client.socket().acknowledged_bytes();
                match takes(&mut self.taken_bytes[1], taken_bytes) {
                    true => None,
                    false => Some(Turn::ClientGone),
                }
            }
        }
    }
}

/// Whether a slow peer has taken anything since this was last asked: a large buffer takes long to
/// leave through a narrow path.
fn takes(before: &mut u64, taken_bytes: u64) -> bool {
    std::mem::replace(before, taken_bytes) < taken_bytes
}
