//! What the kernel must have, asked once before any shard starts, so that what is missing is said
//! in one line and not by a shard that dies.

use std::fmt;
use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// glommio registers memory with each of its three rings and gives up below this (#565).
const MEMLOCK_PER_SHARD_BYTES: u64 = 512 << 10;

/// Why a shard cannot run here.
#[derive(Debug)]
pub enum Unsupported {
    Kernel(String),
    Forbidden(String),
    Memlock { needed_bytes: u64, allowed_bytes: u64 },
    Missing(&'static str),
    Other(io::Error),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsupported::Kernel(release) => {
                write!(f, "io_uring: Linux 6.1 or newer is needed, this is {release}")
            }
            Unsupported::Forbidden(value) => write!(
                f,
                "io_uring is forbidden here: kernel.io_uring_disabled is {value} (0 allows it; a \
                 container's seccomp profile may forbid it too)"
            ),
            Unsupported::Memlock { needed_bytes, allowed_bytes } => write!(
                f,
                "locked memory is limited to {} KiB and {} KiB are needed: raise it with `ulimit \
                 -l`, LimitMEMLOCK= in the systemd unit, or limits.conf",
                allowed_bytes >> 10,
                needed_bytes >> 10
            ),
            Unsupported::Missing(what) => {
                write!(f, "io_uring: this kernel lacks {what}; Linux 6.1 or newer is needed")
            }
            Unsupported::Other(error) => write!(f, "io_uring cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for Unsupported {}

/// Whether `shards` rings can be made here. Raises the soft limit of locked memory where it can.
pub fn probe(shards: usize) -> Result<(), Unsupported> {
    let release = read("/proc/sys/kernel/osrelease");
    if !release_is_enough(&release) {
        return Err(Unsupported::Kernel(release));
    }
    check_memlock(MEMLOCK_PER_SHARD_BYTES * shards as u64)?;
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let uring: IoUring = builder.build(8).map_err(why)?;
    let mut known = Probe::new();
    uring.submitter().register_probe(&mut known).map_err(Unsupported::Other)?;
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Shutdown::CODE, "shutdown"),
        (opcode::Close::CODE, "close"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Read::CODE, "read"),
    ];
    match needed.iter().find(|(code, _)| !known.is_supported(*code)) {
        Some((_, name)) => Err(Unsupported::Missing(name)),
        None => Ok(()),
    }
}

/// How many descriptors the process may have. The soft limit, which is 1,024 in many a shell for
/// the sake of programs that use `select`, is raised to the hard one first.
pub fn max_descriptors() -> usize {
    let mut limit = limit_of(libc::RLIMIT_NOFILE);
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid rlimit.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    usize::try_from(limit_of(libc::RLIMIT_NOFILE).rlim_cur).unwrap_or(usize::MAX)
}

/// Registers the process for expedited memory barriers, which glommio's first park otherwise does
/// at 30 to 80 ms once threads run (#652). First thing in `main`, before any thread.
pub fn register_membarrier() {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    // SAFETY: takes integers only. A kernel without it refuses, and then nothing is lost.
    unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0) };
}

fn why(error: io::Error) -> Unsupported {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Unsupported::Forbidden(read("/proc/sys/kernel/io_uring_disabled"))
        }
        Some(libc::ENOMEM) => Unsupported::Memlock {
            needed_bytes: MEMLOCK_PER_SHARD_BYTES,
            allowed_bytes: memlock().rlim_cur,
        },
        Some(libc::EINVAL) => Unsupported::Missing("SINGLE_ISSUER and DEFER_TASKRUN"),
        Some(libc::ENOSYS) => Unsupported::Missing("io_uring"),
        _ => Unsupported::Other(error),
    }
}

fn release_is_enough(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 1)
}

fn check_memlock(needed_bytes: u64) -> Result<(), Unsupported> {
    let mut limit = memlock();
    if limit.rlim_cur < needed_bytes {
        limit.rlim_cur = limit.rlim_max.min(needed_bytes.max(limit.rlim_cur));
        // SAFETY: `limit` is a valid rlimit.
        unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    }
    let allowed_bytes = memlock().rlim_cur;
    match allowed_bytes < needed_bytes {
        true => Err(Unsupported::Memlock { needed_bytes, allowed_bytes }),
        false => Ok(()),
    }
}

fn memlock() -> libc::rlimit {
    limit_of(libc::RLIMIT_MEMLOCK)
}

fn limit_of(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours to be written.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    limit
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for enough in ["6.1.0", "6.18.44-fc-v657", "7.0-rc1", "6.10+"] {
            assert!(release_is_enough(enough), "{enough}");
        }
        for old in ["5.15.0-91-generic", "6.0.9", "unknown", ""] {
            assert!(!release_is_enough(old), "{old}");
        }
    }

    #[test]
    fn this_machine_will_do() {
        probe(1).expect("the tests of the ring need it");
    }

    #[test]
    fn every_refusal_is_one_line() {
        let refusals = [
            Unsupported::Kernel("5.10.0".into()),
            Unsupported::Forbidden("2".into()),
            Unsupported::Memlock { needed_bytes: 1 << 20, allowed_bytes: 64 << 10 },
            Unsupported::Missing("recv"),
            Unsupported::Other(io::Error::other("odd")),
        ];
        for refusal in refusals {
            assert_eq!(refusal.to_string().lines().count(), 1);
        }
    }
}
