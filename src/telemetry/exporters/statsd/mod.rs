//! Pushes to a statsd receiver every `interval_ms`, in Etsy's dialect or Datadog's.
//!
//! Nothing is sampled. A counter goes as the exact difference to what was sent of it before, if
//! there is one; at first that is all of it. What could not be sent goes with the next push, and so
//! does the fraction of a counter of time, which goes in whole milliseconds. Gauges always go. A
//! distribution is a counter, `<name>.count`, and gauges over the last minute: `.min`, `.max`,
//! `.avg`, `.stddev`, `.p50` and so on, none of them in a minute without samples.
//!
//! `lines` says what is sent and knows what was; `sink` sends it, and says what counts as sent.
//! What goes away in the state (`series_ttl`) is forgotten, with what was not sent of it by then.

mod lines;
mod sink;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use self::lines::{Dialect, Format, Ledger};
use self::sink::{Deadline, Destination};
use super::{Ends, Exporter, Kind, Task};
use crate::config::{ExporterKey, ExporterSettings, ExporterSpec, Shape};
use crate::telemetry::feed::Feed;

const PREFIX: &str = "up to 64 letters, digits, _ and -, in parts joined by single dots, \
                      that begin with a letter; or \"\" for none";
const PREFIX_MOST: usize = 64;

pub const KIND: Kind = Kind {
    spec: &ExporterSpec {
        kind: "statsd",
        keys: &[
            ExporterKey {
                name: "address",
                shape: Shape::Text { default: None, allowed: sink::ADDRESS },
            },
            // Unix: datagrams, as UDP. TCP: a connection for each push.
            ExporterKey { name: "protocol", shape: Shape::Word(&["udp", "tcp", "unix"]) },
            ExporterKey {
                name: "interval_ms",
                shape: Shape::Number { default: 10_000, least: 100, most: 600_000 },
            },
            ExporterKey { name: "dialect", shape: Shape::Word(&["etsy", "dogstatsd"]) },
            // 1432: what fits into an Ethernet frame beside the headers of IPv6 and UDP.
            ExporterKey {
                name: "mtu_bytes",
                shape: Shape::Number { default: 1_432, least: 256, most: 65_000 },
            },
            ExporterKey {
                name: "prefix",
                shape: Shape::Text { default: Some("ringlane"), allowed: PREFIX },
            },
        ],
        by_default: false,
    },
    make,
};

fn make(settings: &ExporterSettings) -> Result<Box<dyn Exporter>, String> {
    Ok(Box::new(Statsd::new(settings)?))
}

#[derive(Debug)]
struct Statsd {
    destination: Destination,
    dialect: Dialect,
    prefix: String,
    mtu_bytes: usize,
    interval: Duration,
}

impl Statsd {
    fn new(settings: &ExporterSettings) -> Result<Statsd, String> {
        let prefix = settings.text("prefix");
        if !is_prefix(prefix) {
            return Err(format!("prefix is {prefix:?}; allowed: {PREFIX}"));
        }
        Ok(Statsd {
            destination: Destination::new(settings.text("protocol"), settings.text("address"))?,
            dialect: match settings.text("dialect") {
                "dogstatsd" => Dialect::DogStatsd,
                _ => Dialect::Etsy,
            },
            prefix: prefix.to_owned(),
            mtu_bytes: settings.number("mtu_bytes") as usize,
            interval: Duration::from_millis(settings.number("interval_ms")),
        })
    }
}

fn is_prefix(prefix: &str) -> bool {
    let in_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(in_part);
    let begins = prefix.starts_with(|first: char| first.is_ascii_alphabetic());
    prefix.is_empty() || (begins && prefix.len() <= PREFIX_MOST && prefix.split('.').all(is_part))
}

impl Exporter for Statsd {
    fn task(self: Box<Self>, feed: Feed, ends: Ends) -> Option<Task> {
        let interval = self.interval;
        Some(Box::pin(run(Pusher::new(*self, feed), interval, ends)))
    }
}

async fn run(mut pusher: Pusher, interval: Duration, mut ends: Ends) {
    let mut due = Instant::now() + interval;
    while timeout_at(due, ends.wait_for(|ends| *ends)).await.is_err() {
        pusher.push(Deadline::new(Instant::now() + interval, ends.clone())).await;
        due = (due + interval).max(Instant::now());
    }
    pusher.push(Deadline::new(Instant::now() + interval.max(sink::AT_THE_END), ends)).await;
}

struct Pusher {
    feed: Feed,
    destination: Destination,
    format: Format,
    ledger: Ledger,
    mtu_bytes: usize,
    /// So that a receiver that is away is logged once.
    failing: bool,
}

impl Pusher {
    fn new(statsd: Statsd, feed: Feed) -> Pusher {
        Pusher {
            feed,
            destination: statsd.destination,
            format: Format::new(statsd.dialect, &statsd.prefix),
            ledger: Ledger::default(),
            mtu_bytes: statsd.mtu_bytes,
            failing: false,
        }
    }

    /// Sends the state as it is now.
    async fn push(&mut self, mut deadline: Deadline) {
        let lines = self.feed.read(|state| self.format.lines(state, &mut self.ledger));
        let packed = self.destination.pack(lines, self.mtu_bytes);
        let sent = self.destination.send(&packed.packets, &mut deadline, &mut self.ledger).await;
        let why = match (sent, packed.too_long) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(()), 0) => None,
            (Ok(()), count) => Some(format!("{count} lines are longer than mtu_bytes")),
        };
        let was_failing = std::mem::replace(&mut self.failing, why.is_some());
        match why {
            Some(why) => {
                self.feed.failed();
                if !was_failing {
                    tracing::warn!(to = %self.destination, why, "a push to statsd failed");
                }
            }
            None if was_failing => {
                tracing::info!(to = %self.destination, "pushes to statsd succeed again");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
