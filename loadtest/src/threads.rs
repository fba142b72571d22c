//! What a thread asks of the kernel: a core of its own, and to be woken in time.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

/// Keeps the calling thread, and what it will start, on a core.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::other("there are no such cores"));
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).map_err(io::Error::from)
}

/// How late the kernel may wake the calling thread: as little as it can (0), or more. A container
/// may forbid it; then it is the default's 50 us, a twentieth of a latency of 1 ms.
pub fn wake_within(slack: Duration) {
    // 0 would stand for the default (prctl(2), PR_SET_TIMERSLACK).
    let slack = NonZeroU64::new(slack.as_nanos() as u64).unwrap_or(NonZeroU64::MIN);
    let _ = set_current_timer_slack(Some(slack));
}
