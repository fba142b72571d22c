//! Follows an endpoint file.
//!
//! - It is read when inotify says that it is whole: closed by somebody who had written to it,
//!   moved into its place, linked. After that a moment passes (`SETTLE`) in which nobody may write
//!   to it, before it is read and again before it counts; so a second writer who follows at once
//!   is noticed and waited for, and a burst of changes is one. What is created or written to is
//!   not read, since it may be half-written.
//! - Besides, it is looked at every `POLL`, for file systems that do not tell what others do to
//!   them, and for links whose target is elsewhere. What has changed counts once it has stayed the
//!   same for one whole period, and not while inotify says that somebody is writing to it.
//! - What is refused changes nothing; the log says so once for each new content. It is read at the
//!   start whatever has happened to it before.
//!
//! Files are read on threads of their own: one on a network may make whoever reads it wait.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::watch::{Signal, Watch, Watcher};
use super::{Reporter, blocking, lines};

/// How often a file is looked at, whatever inotify says.
pub(super) const POLL: Duration = Duration::from_secs(5);

/// Longer than events take to arrive, shorter than anybody notices.
const SETTLE: Duration = Duration::from_millis(20);

/// Enough for 100,000 endpoints.
const MAX_BYTES: u64 = 8 << 20;

pub(super) async fn follow(path: PathBuf, watcher: Arc<Watcher>, reporter: Reporter) {
    let watch = watcher.file(&path);
    let mut follower = Follower {
        path,
        watch,
        reporter,
        looks: Looks::default(),
        complaint: None,
        is_blind: false,
    };
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    poll.tick().await;
    follower.keep_watching().await;
    follower.read().await;
    loop {
        tokio::select! {
            () = follower.watch.changed() => {
                sleep(SETTLE).await;
                follower.told().await;
            }
            _ = poll.tick() => follower.polled().await,
        }
    }
}

struct Follower {
    path: PathBuf,
    watch: Watch,
    reporter: Reporter,
    looks: Looks,
    /// A hash of what the log has said last, and of the content that it said it of; `None`: the
    /// content is good.
    complaint: Option<u64>,
    /// Whether the log has said that there is no inotify.
    is_blind: bool,
}

impl Follower {
    /// inotify says that something has happened.
    async fn told(&mut self) {
        let Signal { is_whole, is_created, has_neighbour } = self.watch.take();
        if self.watch.is_written() {
            return;
        }
        let look = if is_whole {
            true
        } else if is_created || has_neighbour {
            let look = look(self.path.clone()).await;
            // The swap of a link on the way to it is a neighbour's event.
            look.is_link && look.identity != self.looks.considered
                || is_created && look.has_other_names
        } else {
            false
        };
        if look {
            self.read().await;
        }
    }

    async fn polled(&mut self) {
        self.keep_watching().await;
        let now = look(self.path.clone()).await.identity;
        if self.looks.polled(now) && !self.watch.is_written() {
            self.read().await;
        }
    }

    async fn keep_watching(&mut self) {
        let folder = self.watch.folder().to_owned();
        let metadata = blocking(move || fs::metadata(folder).ok()).await;
        match self.watch.keep(metadata.as_ref()) {
            Ok(()) => self.is_blind = false,
            Err(error) if !self.is_blind => {
                self.is_blind = true;
                tracing::warn!(
                    service = %self.reporter.service,
                    folder = %self.watch.folder().display(),
                    "changes are seen by looking every {} s alone: {error}",
                    POLL.as_secs()
                );
            }
            Err(_) => {}
        }
    }

    async fn read(&mut self) {
        let writes = self.watch.writes();
        let path = self.path.clone();
        let read = blocking(move || read(&path)).await;
        sleep(SETTLE).await;
        if self.watch.writes() != writes {
            // Whoever writes will close it.
            return;
        }
        let content = match read {
            Ok(Content::Whole { bytes, identity }) => {
                self.looks.considered = Some(identity);
                bytes
            }
            // The next look will find it different from what was considered.
            Ok(Content::Changing) => return,
            Ok(Content::TooLong { identity }) => {
                self.looks.considered = Some(identity);
                return self.complain(format!("it has more than {MAX_BYTES} bytes"), &[]);
            }
            Err(error) => {
                self.looks.considered = None;
                return self.complain(error.to_string(), &[]);
            }
        };
        match lines::parse(&content) {
            Ok(endpoints) => {
                if self.complaint.take().is_some() {
                    let service = &self.reporter.service;
                    tracing::info!(%service, path = %self.path.display(), "the file is good again");
                }
                self.reporter.tell(endpoints);
            }
            Err(refusal) => self.complain(refusal.to_string(), &content),
        }
    }

    fn complain(&mut self, wrong: String, content: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (&wrong, content).hash(&mut hasher);
        let complaint = Some(hasher.finish());
        if self.complaint != complaint {
            self.complaint = complaint;
            tracing::warn!(
                service = %self.reporter.service,
                path = %self.path.display(),
                "the file is not used: {wrong}; {}",
                self.reporter.fallback()
            );
        }
    }
}

/// What tells whether a file is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) bytes: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What polling has seen; `None` stands for no file.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// What was read last.
    pub(super) considered: Option<Identity>,
    last: Option<Identity>,
}

impl Looks {
    /// Whether to read it: it is not what was read last, and has stayed the same for a period.
    pub(super) fn polled(&mut self, now: Option<Identity>) -> bool {
        let is_stable = self.last == now;
        self.last = now;
        is_stable && now != self.considered
    }
}

struct Look {
    identity: Option<Identity>,
    is_link: bool,
    /// It was made by linking, not by writing.
    has_other_names: bool,
}

async fn look(path: PathBuf) -> Look {
    let look = move || {
        let own = fs::symlink_metadata(&path).ok();
        Look {
            identity: fs::metadata(&path).ok().map(|it| Identity::of(&it)),
            is_link: own.as_ref().is_some_and(Metadata::is_symlink),
            has_other_names: own.is_some_and(|it| it.is_file() && it.nlink() > 1),
        }
    };
    blocking(look).await
}

enum Content {
    Whole { bytes: Vec<u8>, identity: Identity },
    TooLong { identity: Identity },
    Changing,
}

fn read(path: &Path) -> io::Result<Content> {
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let file = File::open(path)?;
    let identity = Identity::of(&file.metadata()?);
    let mut bytes = Vec::new();
    (&file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Ok(Content::TooLong { identity });
    }
    let after = Identity::of(&file.metadata()?);
    let is_same = after == identity && bytes.len() as u64 == identity.bytes;
    Ok(if is_same { Content::Whole { bytes, identity } } else { Content::Changing })
}
