//! A connection that was switched to another protocol: bytes both ways until both ends are done.

use super::attempt::Attempt;
use super::exchange::{Link, Turn};
use super::limits::Place;
use super::load::Load;
use super::pump::{Pump, Pumped};
use super::report::Meter;
use super::transport::Transport;
use crate::http::Framing;

pub(super) struct Tunnel {
    upstream: Transport,
    _meter: Option<Meter>,
    /// A tunnel is load on its endpoint for as long as it lasts.
    _load: Load,
    /// And a request under way.
    _place: Place,
    up: Pump,
    down: Pump,
    up_closed: bool,
    down_closed: bool,
    moved_bytes: Option<u64>,
}

impl Tunnel {
    pub(super) fn new(attempt: Attempt, place: Place) -> Tunnel {
        let pump = || Pump::new(Framing::UntilClose, Framing::UntilClose, None);
        Tunnel {
            upstream: attempt.transport,
            _meter: attempt.meter,
            _load: attempt.load,
            _place: place,
            up: pump(),
            down: pump(),
            up_closed: false,
            down_closed: false,
            moved_bytes: None,
        }
    }

    pub(super) fn step(&mut self, client: &mut Transport, link: &Link<'_>) -> Turn {
        let ring = &link.context.ring;
        let moved_bytes = self.up.moved_bytes + self.down.moved_bytes;
        if link.timer.has_fired() && self.moved_bytes == Some(moved_bytes) {
            return Turn::ClientGone;
        }
        let up = self.up.step(client, &self.upstream, None, ring);
        let down = self.down.step(&mut self.upstream, client, None, ring);
        for pumped in [up, down] {
            match pumped {
                Pumped::Waiting | Pumped::Ended => {}
                Pumped::Refused(_) | Pumped::SourceLost | Pumped::SinkLost => {
                    return Turn::ClientGone;
                }
            }
        }
        pass_end(up, &mut self.up_closed, &self.upstream);
        pass_end(down, &mut self.down_closed, client);
        if self.up_closed && self.down_closed {
            return Turn::Done { close: true };
        }
        let moved_bytes = self.up.moved_bytes + self.down.moved_bytes;
        if self.moved_bytes != Some(moved_bytes) {
            self.moved_bytes = Some(moved_bytes);
            link.timer.set(ring.now() + link.router.timeouts.tunnel);
        }
        Turn::Wait
    }
}

/// One side has said all it will: the other learns it once everything before has left.
fn pass_end(pumped: Pumped, closed: &mut bool, sink: &Transport) {
    if pumped != Pumped::Ended || *closed {
        return;
    }
    if sink.progress().all_sent {
        sink.socket().shutdown_write();
        *closed = true;
    } else {
        sink.socket().wake_when_sent(true);
    }
}
