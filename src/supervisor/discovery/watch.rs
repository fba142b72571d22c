//! inotify for all files that are followed: one instance, and one watch for each folder.
//!
//! Folders are watched and not files, so that whatever comes to bear a file's name is seen: a file
//! that was renamed over it, or the link to a link that Kubernetes swaps. Events come on a thread
//! of `notify`'s and only set flags (`Signs`): however many there are, they take no memory, and
//! what a file says is not read there.
//!
//! A folder that is replaced takes its watch along. `Watcher::keep` finds that out and watches the
//! new one; whoever follows a file calls it now and then.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

pub(super) struct Watcher {
    /// `None` until the first folder is watched. Locked before `folders`, and never by the thread
    /// that events come on, which is waited for while this is held.
    inotify: Mutex<Option<RecommendedWatcher>>,
    /// Locked for moments only: events wait for it.
    folders: Arc<Mutex<Folders>>,
}

type Folders = HashMap<PathBuf, Folder>;

#[derive(Default)]
struct Folder {
    /// Device and inode of the folder that is watched; `None`: none is.
    watched: Option<(u64, u64)>,
    files: Vec<Arc<Signs>>,
}

impl Watcher {
    pub(super) fn new() -> Arc<Watcher> {
        Arc::new(Watcher { inotify: Mutex::new(None), folders: Arc::default() })
    }

    /// Begins to note what happens to a file; `keep` says whether its folder can be watched.
    pub(super) fn file(self: &Arc<Self>, path: &Path) -> Watch {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = path.file_name().unwrap_or_default().to_owned();
        let signs = Arc::new(Signs { name, state: Mutex::default(), changed: Notify::new() });
        lock(&self.folders).entry(folder.clone()).or_default().files.push(signs.clone());
        Watch { watcher: self.clone(), folder, signs }
    }

    /// Watches the folder that is there now under this name, whose metadata these are.
    fn keep(&self, folder: &Path, now: Option<&Metadata>) -> notify::Result<()> {
        let now = now.map(|it| (it.dev(), it.ino()));
        let mut inotify = lock(&self.inotify);
        let watched = lock(&self.folders).get(folder).and_then(|it| it.watched);
        if watched == now {
            return Ok(());
        }
        if let (Some(inotify), Some(_)) = (inotify.as_mut(), watched) {
            // It may have gone with its folder.
            let _ = inotify.unwatch(folder);
        }
        let watching = match now {
            Some(_) => begin(&mut inotify, &self.folders, folder),
            None => Ok(()),
        };
        if let Some(entry) = lock(&self.folders).get_mut(folder) {
            entry.watched = now.filter(|_| watching.is_ok());
            // What happened in between was seen by nobody.
            entry.files.iter().for_each(|signs| signs.lost());
        }
        watching
    }

    fn forget(&self, folder: &Path, signs: &Arc<Signs>) {
        let mut inotify = lock(&self.inotify);
        let mut folders = lock(&self.folders);
        let Some(entry) = folders.get_mut(folder) else {
            return;
        };
        entry.files.retain(|other| !Arc::ptr_eq(other, signs));
        if !entry.files.is_empty() {
            return;
        }
        let was_watched = folders.remove(folder).is_some_and(|it| it.watched.is_some());
        drop(folders);
        if let (true, Some(inotify)) = (was_watched, inotify.as_mut()) {
            let _ = inotify.unwatch(folder);
        }
    }
}

fn begin(
    inotify: &mut Option<RecommendedWatcher>,
    folders: &Arc<Mutex<Folders>>,
    folder: &Path,
) -> notify::Result<()> {
    let inotify = match inotify {
        Some(inotify) => inotify,
        None => {
            let folders = folders.clone();
            inotify.insert(notify::recommended_watcher(move |event| note(&lock(&folders), event))?)
        }
    };
    inotify.watch(folder, RecursiveMode::NonRecursive)
}

fn note(folders: &Folders, event: notify::Result<Event>) {
    let event = match event {
        Ok(event) if !event.need_rescan() => event,
        // Events were lost, nobody knows which.
        _ => {
            folders.values().flat_map(|it| &it.files).for_each(|signs| signs.lost());
            return;
        }
    };
    for path in &event.paths {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let files = folders.get(folder).map(|it| it.files.as_slice()).unwrap_or_default();
        files.iter().for_each(|signs| signs.note(&event.kind, name));
    }
}

/// What happened to one file. Ends with its value.
pub(super) struct Watch {
    watcher: Arc<Watcher>,
    folder: PathBuf,
    signs: Arc<Signs>,
}

impl Watch {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Watches the folder that is there now, whose metadata these are.
    pub(super) fn keep(&self, folder: Option<&Metadata>) -> notify::Result<()> {
        self.watcher.keep(&self.folder, folder)
    }

    /// Until something has happened since `take`.
    pub(super) async fn changed(&self) {
        self.signs.changed.notified().await;
    }

    /// What has happened since this was called last.
    pub(super) fn take(&self) -> Signal {
        let mut state = lock(&self.signs.state);
        let signal = state.signal;
        state.signal = Signal::default();
        signal
    }

    /// Whether somebody has it open who has written to it.
    pub(super) fn is_written(&self) -> bool {
        lock(&self.signs.state).is_written
    }

    /// How often it was written to, so far.
    pub(super) fn writes(&self) -> u64 {
        lock(&self.signs.state).writes
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher.forget(&self.folder, &self.signs);
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Signal {
    /// It is whole: it was closed after writing, was moved here, or is gone.
    pub(super) is_whole: bool,
    /// It has come to be: as a link, which is whole, or as a file, into which nothing may have been
    /// written yet.
    pub(super) is_created: bool,
    /// Something else has come to be beside it, to which it may be a link.
    pub(super) has_neighbour: bool,
}

struct Signs {
    name: OsString,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    signal: Signal,
    is_written: bool,
    writes: u64,
}

impl Signs {
    fn note(&self, kind: &EventKind, name: &OsStr) {
        let mut state = lock(&self.state);
        let own = name == self.name;
        match kind {
            EventKind::Modify(ModifyKind::Data(_)) if own => {
                state.is_written = true;
                state.writes += 1;
                return;
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::To))
            | EventKind::Remove(_)
                if own =>
            {
                state.is_written = false;
                state.signal.is_whole = true;
            }
            EventKind::Create(CreateKind::File) if own => state.signal.is_created = true,
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                state.signal.has_neighbour = true;
            }
            _ => return,
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Nobody knows whether it is being written any more. What it says now is found out by asking.
    fn lost(&self) {
        lock(&self.state).is_written = false;
    }
}

/// A panic elsewhere ends the process; until then these hold what they held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
