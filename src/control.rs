//! The messages between threads. Plain data, no behaviour.

use std::os::fd::OwnedFd;
use std::time::Duration;

/// To a shard: from the supervisor, and from shards that hand a connection over.
#[derive(Debug)]
pub enum Command {
    /// Accept for `grace` longer, then close what is idle and end what is not with its next
    /// answer; after `drain` more the shard ends whatever is left.
    Drain { grace: Duration, drain: Duration },
    /// A place of a service's limit, for whoever waits there.
    Place { service: usize },
    /// A connection that another shard accepted for a server, by that one's index.
    Adopt { socket: OwnedFd, server: usize },
}

/// To the supervisor: from shards, signals and admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A shard accepts.
    ShardReady { shard: usize },
    /// A shard has nothing left to do after a drain.
    ShardDone { shard: usize },
    /// A shard could not start.
    ShardFailed { shard: usize, why: String },
    /// A UNIX signal's number.
    Signal(i32),
    /// The operator asked admin to end the process as SIGTERM does.
    Shutdown,
    /// The operator asked admin to drain, which ends in the process's end too.
    Drain,
}
