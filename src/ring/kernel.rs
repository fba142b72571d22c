//! The kernel's side of a ring: what takes submissions and brings completions, and the clock.
//!
//! Everything that the ring's state asks of the kernel goes through here, so that tests can put a
//! simulated one in its place (`simulated`): random orders of completions in virtual time, of which
//! a seed can be run again. What users run has the real one alone, and an enum of one kind costs
//! nothing.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

use super::Settings;
#[cfg(test)]
use super::simulated;

/// Completion queue entries for each submission queue entry.
const CQ_FACTOR: u32 = 4;
/// Flags of `io_uring_enter(2)`.
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;

pub(super) enum Kernel {
    Uring {
        uring: IoUring,
        started: Instant,
    },
    #[cfg(test)]
    Simulated(simulated::Kernel),
}

/// How an enter is to wait.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    /// Completions that end it; 0: it does not wait.
    pub(super) wanted: u32,
    pub(super) most: Duration,
    /// After this one completion is enough.
    pub(super) gather: Duration,
}

impl Kernel {
    pub(super) fn new(settings: &Settings) -> io::Result<Kernel> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(settings.entries.saturating_mul(CQ_FACTOR));
        let uring = builder.build(settings.entries)?;
        Ok(Kernel::Uring { uring, started: Instant::now() })
    }

    /// Whether a wait can gather.
    pub(super) fn may_gather(&self) -> bool {
        match self {
            Kernel::Uring { uring, .. } => uring.params().is_feature_min_timeout(),
            #[cfg(test)]
            Kernel::Simulated(_) => false,
        }
    }

    /// Since the ring was made.
    #[inline]
    pub(super) fn elapsed(&self) -> Duration {
        match self {
            Kernel::Uring { started, .. } => started.elapsed(),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.elapsed(),
        }
    }

    /// Registers a ring of provided buffers.
    ///
    /// # Safety
    /// `address` is that of `entries` entries, which live until the kernel is dropped, as does the
    /// memory that they point to.
    pub(super) unsafe fn register_buffers(
        &mut self,
        address: u64,
        entries: u16,
        id: u16,
    ) -> io::Result<()> {
        match self {
            Kernel::Uring { uring, .. } => {
                // SAFETY: as the caller promises.
                unsafe { uring.submitter().register_buf_ring_with_flags(address, entries, id, 0) }
            }
            #[cfg(test)]
            Kernel::Simulated(kernel) => {
                kernel.register_buffers(address, entries, id);
                Ok(())
            }
        }
    }

    /// Queues a submission. `false`: the queue is full.
    ///
    /// # Safety
    /// The memory that the entry points to is not moved or freed before its last completion.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        match self {
            // SAFETY: as the caller promises.
            Kernel::Uring { uring, .. } => unsafe { uring.submission().push(entry) }.is_ok(),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.push(entry),
        }
    }

    /// Submissions that are queued and not taken.
    #[inline]
    pub(super) fn queued(&mut self) -> usize {
        match self {
            Kernel::Uring { uring, .. } => uring.submission().len(),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.queued(),
        }
    }

    pub(super) fn is_full(&mut self) -> bool {
        match self {
            Kernel::Uring { uring, .. } => uring.submission().is_full(),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.is_full(),
        }
    }

    #[inline]
    pub(super) fn has_completions(&mut self) -> bool {
        match self {
            Kernel::Uring { uring, .. } => !uring.completion().is_empty(),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.has_completions(),
        }
    }

    /// Takes what has completed, and publishes that it was taken.
    #[inline]
    pub(super) fn reap(&mut self, into: &mut Vec<cqueue::Entry>) {
        match self {
            Kernel::Uring { uring, .. } => into.extend(uring.completion()),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.reap(into),
        }
    }

    /// Submits what is queued, and waits.
    #[inline]
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let Wait { wanted, most, gather } = wait;
        let queued = self.queued() as u32;
        match self {
            Kernel::Uring { uring, .. } => {
                let timeout = Timespec::new().sec(most.as_secs()).nsec(most.subsec_nanos());
                let arguments =
                    SubmitArgs::new().timespec(&timeout).min_wait_usec(gather.as_micros() as u32);
                let flags = ENTER_GETEVENTS | ENTER_EXT_ARG;
                // SAFETY: the arguments are those that the flags announce, and live until the call
                // returns.
                unsafe { uring.submitter().enter(queued, wanted, flags, Some(&arguments)) }
                    .map(drop)
            }
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.enter(wanted, most),
        }
    }

    /// Takes back whatever is under way. Some of it completes after that.
    pub(super) fn cancel_everything(&mut self) {
        match self {
            Kernel::Uring { uring, .. } => {
                let timeout = Timespec::new().sec(1);
                let _ = uring.submitter().submit();
                let _ = uring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
            }
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.cancel_everything(),
        }
    }

    /// `shutdown(2)`.
    pub(super) fn shutdown(&mut self, fd: RawFd, how: i32) {
        match self {
            // SAFETY: takes integers only.
            Kernel::Uring { .. } => drop(unsafe { libc::shutdown(fd, how) }),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.shutdown(fd, how),
        }
    }

    /// Resets a connection now, whatever is under way on it: `connect(2)` to nowhere. `false`: it
    /// is as before, since it is not TCP, or a thread waits on it and the kernel minds (some 6.x).
    pub(super) fn disconnect(&mut self, fd: RawFd) -> bool {
        match self {
            Kernel::Uring { .. } => {
                let family = libc::AF_UNSPEC as libc::sa_family_t;
                let nowhere = libc::sockaddr { sa_family: family, sa_data: [0; 14] };
                let len = size_of::<libc::sockaddr>() as libc::socklen_t;
                // SAFETY: `len` readable bytes that live until the call returns.
                unsafe { libc::connect(fd, &raw const nowhere, len) == 0 }
            }
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.disconnect(fd),
        }
    }

    /// The close of a socket is to be a reset: `SO_LINGER` with no time.
    pub(super) fn reset_on_close(&mut self, fd: RawFd) {
        match self {
            Kernel::Uring { .. } => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                let (memory, len) = ((&raw const linger).cast(), size_of::<libc::linger>());
                // SAFETY: `len` readable bytes that live until the call returns.
                unsafe {
                    let len = len as libc::socklen_t;
                    libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, memory, len);
                }
            }
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.reset_on_close(fd),
        }
    }

    /// Whether bytes wait that no receive has brought yet.
    pub(super) fn has_unread(&self, fd: RawFd) -> bool {
        match self {
            Kernel::Uring { .. } => {
                let mut bytes: libc::c_int = 0;
                // SAFETY: FIONREAD writes one int.
                unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) == 0 && bytes > 0 }
            }
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.has_unread(fd),
        }
    }

    /// Whether a connection of which `received_bytes` have come, and then no more, was reset. Only
    /// where it is TCP.
    pub(super) fn was_reset(&self, fd: RawFd, received_bytes: u64) -> bool {
        match self {
            Kernel::Uring { .. } => was_reset(fd, received_bytes),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.was_reset(fd, received_bytes),
        }
    }

    /// Bytes that the peer has acknowledged since the connection began; 0 where it is not TCP.
    pub(super) fn acknowledged_bytes(&self, fd: RawFd) -> u64 {
        match self {
            Kernel::Uring { .. } => acknowledged_bytes(fd),
            #[cfg(test)]
            Kernel::Simulated(kernel) => kernel.acknowledged_bytes(fd),
        }
    }
}

fn was_reset(fd: RawFd, received_bytes: u64) -> bool {
    /// `TCP_CLOSE`: after a reset, whatever came before it.
    const CLOSED: u8 = 7;
    // The kernel counts the peer's end as a byte: where there is one more than came, all that the
    // peer had to say came before the reset.
    TcpInfo::of(fd).is_some_and(|info| info.state() == CLOSED && info.received() <= received_bytes)
}

fn acknowledged_bytes(fd: RawFd) -> u64 {
    TcpInfo::of(fd).map_or(0, |info| info.acknowledged())
}

/// The kernel's `struct tcp_info`, as far as it is of use; libc's ends before.
struct TcpInfo([u8; TcpInfo::LEN]);

impl TcpInfo {
    /// Where `tcpi_bytes_acked` and `tcpi_bytes_received` stand.
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    const LEN: usize = 136;

    /// `None`: it is not TCP.
    fn of(fd: RawFd) -> Option<TcpInfo> {
        let mut info = [0u8; TcpInfo::LEN];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into `info`.
        let result = unsafe {
            let memory = info.as_mut_ptr().cast();
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, memory, &raw mut len)
        };
        (result == 0).then_some(TcpInfo(info))
    }

    fn state(&self) -> u8 {
        self.0[0]
    }

    fn acknowledged(&self) -> u64 {
        self.number(TcpInfo::ACKED)
    }

    fn received(&self) -> u64 {
        self.number(TcpInfo::RECEIVED)
    }

    fn number(&self, at: usize) -> u64 {
        let bytes = self.0[at..].first_chunk();
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }
}
