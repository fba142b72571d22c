//! Endpoint files that are replaced, written slowly, linked, broken and removed.
//!
//! That something is not told is seen with a second file beside it (`Folder::pass`): what is told
//! of that one was found out later.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, timeout};

use super::super::Discovery;
use super::super::file::{Identity, Looks, POLL};
use super::super::watch::Watcher;
use super::log::Log;
use super::{DEADLINE, Told, discovery, wanted};
use crate::config;

/// Goes away with its value.
struct Folder {
    path: PathBuf,
    passed: u16,
}

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("ringlane-discovery-{process}-{next}"));
        fs::create_dir(&path).expect("a folder");
        Folder { path, passed: 0 }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn settings(&self, name: &str) -> config::Discovery {
        config::Discovery::File { path: self.file(name) }
    }

    /// Puts a whole file in a file's place.
    fn replace(&self, name: &str, text: &str) {
        let new = self.file("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.file(name)).expect("its place");
    }

    /// Follows one file as `web`, and another to pass the time.
    fn follow(&self, name: &str) -> (Discovery, Told) {
        self.replace("time.txt", "127.0.0.1:1\n");
        let (mut discovery, told) = discovery();
        let (web, time) = (self.settings(name), self.settings("time.txt"));
        discovery.apply(wanted(&[("web", &web), ("time", &time)]));
        (discovery, told)
    }

    /// Until everything that has happened so far has been looked at.
    async fn pass(&mut self, told: &mut Told) {
        for _ in 0..2 {
            self.passed += 1;
            let address = format!("127.0.0.1:{}", 1 + self.passed);
            self.replace("time.txt", &format!("{address}\n"));
            while told.next("time").await != [address.clone()] {}
        }
    }
}

/// The next set of `web`, so soon that inotify must have told of it.
async fn soon(told: &mut Told) -> Vec<String> {
    let begun = Instant::now();
    let endpoints = told.next("web").await;
    assert!(begun.elapsed() < POLL, "{endpoints:?} were found by looking");
    endpoints
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[tokio::test]
async fn a_file_that_is_replaced() {
    let folder = Folder::new();
    folder.replace("web.txt", "127.0.0.1:80\n");
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80"]);
    folder.replace("web.txt", "127.0.0.1:81 3\n127.0.0.1:80\n");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80", "127.0.0.1:81*3"]);
    // Written at once and closed, in place.
    fs::write(folder.file("web.txt"), "127.0.0.1:82\n").expect("a file");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:82"]);
}

#[tokio::test]
async fn a_slow_writer_is_waited_for() {
    let mut folder = Folder::new();
    folder.replace("web.txt", "127.0.0.1:80\n");
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80"]);
    // Both parts would be a good file.
    let mut writer = File::create(folder.file("web.txt")).expect("a file");
    folder.pass(&mut told).await;
    writer.write_all(b"127.0.0.1:81\n").expect("a line");
    folder.pass(&mut told).await;
    writer.write_all(b"127.0.0.1:82\n127.0").expect("a line and a half");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"));
    writer.write_all(b".0.1:83\n").expect("the rest");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"));
    drop(writer);
    assert_eq!(soon(&mut told).await, ["127.0.0.1:81", "127.0.0.1:82", "127.0.0.1:83"]);
}

#[tokio::test]
async fn a_file_that_comes_later_and_slowly() {
    let log = Log::new();
    let mut folder = Folder::new();
    let (_discovery, mut told) = folder.follow("web.txt");
    folder.pass(&mut told).await;
    let warnings = log.with("the file is not used");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("No such file") && warnings[0].contains("no endpoints yet"));
    // While it is empty it is not looked into either.
    let mut writer = File::create(folder.file("web.txt")).expect("a file");
    folder.pass(&mut told).await;
    assert_eq!(log.with("the file is not used").len(), 1);
    writer.write_all(b"127.0.0.1:81\n").expect("a line");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"));
    writer.write_all(b"127.0.0.1:82\n").expect("a line");
    drop(writer);
    assert_eq!(soon(&mut told).await, ["127.0.0.1:81", "127.0.0.1:82"]);
    assert_eq!(log.with("the file is good again").len(), 1);
}

#[tokio::test]
async fn a_second_writer_who_follows_at_once() {
    let mut folder = Folder::new();
    folder.replace("web.txt", "127.0.0.1:80\n");
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80"]);
    fs::write(folder.file("web.txt"), "127.0.0.1:81\n127.0.0.1:82\n").expect("a file");
    let mut writer = File::create(folder.file("web.txt")).expect("a file");
    writer.write_all(b"127.0.0.1:83\n").expect("a line");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"));
    writer.write_all(b"127.0.0.1:84\n").expect("a line");
    drop(writer);
    assert_eq!(soon(&mut told).await, ["127.0.0.1:83", "127.0.0.1:84"]);
}

#[tokio::test]
async fn links_that_are_swapped_as_kubernetes_does() {
    let folder = Folder::new();
    let version = |name: &str, text: &str| {
        fs::create_dir(folder.file(name)).expect("a folder");
        fs::write(folder.file(name).join("web.txt"), text).expect("a file");
    };
    version("..v1", "127.0.0.1:81\n");
    symlink("..v1", folder.file("..data")).expect("a link");
    symlink("..data/web.txt", folder.file("web.txt")).expect("a link");
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:81"]);
    for (name, port) in [("..v2", 82), ("..v3", 83)] {
        version(name, &format!("127.0.0.1:{port}\n"));
        symlink(name, folder.file("..data_tmp")).expect("a link");
        fs::rename(folder.file("..data_tmp"), folder.file("..data")).expect("its place");
        assert_eq!(soon(&mut told).await, [format!("127.0.0.1:{port}")]);
    }
}

#[tokio::test]
async fn links_that_come_to_be() {
    let mut folder = Folder::new();
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(told.next("time").await, ["127.0.0.1:1"]);
    fs::write(folder.file("one"), "127.0.0.1:81\n").expect("a file");
    symlink("one", folder.file("web.txt")).expect("a link");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:81"]);
    fs::remove_file(folder.file("web.txt")).expect("a link");
    folder.pass(&mut told).await;
    fs::write(folder.file("two"), "127.0.0.1:82\n").expect("a file");
    fs::hard_link(folder.file("two"), folder.file("web.txt")).expect("a link");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:82"]);
}

#[tokio::test]
async fn what_is_refused_changes_nothing_and_is_said_once() {
    let log = Log::new();
    let mut folder = Folder::new();
    folder.replace("web.txt", "127.0.0.1:80\n");
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80"]);
    for bad in ["127.0.0.1:81\nnobody\n", "127.0.0.1:81\nnobody\n", "# nobody\n"] {
        folder.replace("web.txt", bad);
        folder.pass(&mut told).await;
    }
    fs::remove_file(folder.file("web.txt")).expect("a file");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"));
    let warnings = log.with("the file is not used");
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    for (warning, part) in warnings.iter().zip(["line 2: bad", "no endpoint in it", "No such"]) {
        assert!(warning.starts_with("WARN"), "{warning}");
        assert!(warning.contains(part) && warning.contains("last good 1 endpoints stay"));
    }
    // The same as ever is no news, but the log says that it is good.
    folder.replace("web.txt", "127.0.0.1:80 # back\n");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"));
    assert_eq!(log.with("the file is good again").len(), 1);
}

#[tokio::test]
async fn only_what_is_wanted_is_followed() {
    let mut folder = Folder::new();
    folder.replace("web.txt", "127.0.0.1:80\n");
    let (mut discovery, mut told) = folder.follow("web.txt");
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80"]);
    let (web, time) = (folder.settings("web.txt"), folder.settings("time.txt"));
    discovery.apply(wanted(&[("time", &time), ("web", &web)]));
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"), "it was followed already");
    // Other settings, even if they say the same.
    folder.replace("other.txt", "127.0.0.1:80\n");
    let other = folder.settings("other.txt");
    discovery.apply(wanted(&[("web", &other), ("time", &time)]));
    assert_eq!(soon(&mut told).await, ["127.0.0.1:80"]);
    folder.replace("web.txt", "127.0.0.1:81\n");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"), "its file is another one now");
    discovery.apply(wanted(&[("time", &time)]));
    folder.replace("other.txt", "127.0.0.1:82\n");
    folder.pass(&mut told).await;
    assert!(!told.has_news_of("web"), "nobody wants it any more");
    discovery.apply(wanted(&[("web", &other), ("time", &time)]));
    assert_eq!(soon(&mut told).await, ["127.0.0.1:82"]);
}

/// The clock runs on by itself while everybody waits for it, so that periods pass at once.
#[tokio::test(start_paused = true)]
async fn what_inotify_does_not_tell_is_seen_by_looking() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    elsewhere.replace("list", "127.0.0.1:80\n");
    symlink(elsewhere.file("list"), folder.file("web.txt")).expect("a link");
    let (_discovery, mut told) = folder.follow("web.txt");
    assert_eq!(told.next("web").await, ["127.0.0.1:80"]);
    let begun = Instant::now();
    elsewhere.replace("list", "127.0.0.1:80\n127.0.0.1:81\n");
    assert_eq!(told.next("web").await, ["127.0.0.1:80", "127.0.0.1:81"]);
    let taken = begun.elapsed();
    assert!(taken >= POLL && taken < 3 * POLL, "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn folders_that_come_later_and_folders_that_are_replaced() {
    let folder = Folder::new();
    let inner = folder.file("lists");
    let (_discovery, mut told) = folder.follow("lists/web.txt");
    assert_eq!(told.next("time").await, ["127.0.0.1:1"]);
    for port in [81, 82] {
        let _ = fs::rename(&inner, folder.file("old"));
        fs::create_dir(&inner).expect("a folder");
        fs::write(inner.join("web.txt"), format!("127.0.0.1:{port}\n")).expect("a file");
        assert_eq!(told.next("web").await, [format!("127.0.0.1:{port}")]);
    }
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_watched_in_its_new_place() {
    let folder = Folder::new();
    let inner = folder.file("lists");
    let watch = Watcher::new().file(&inner.join("web.txt"));
    for old in ["old", "older"] {
        watch.keep(None).expect("there is nothing to watch");
        fs::create_dir(&inner).expect("a folder");
        watch.keep(fs::metadata(&inner).ok().as_ref()).expect("a watch");
        fs::write(inner.join("web.txt"), "127.0.0.1:80\n").expect("a file");
        while !watch.take().is_whole {
            timeout(DEADLINE, watch.changed()).await.expect("a sign");
        }
        fs::rename(&inner, folder.file(old)).expect("its place");
    }
    // One that is replaced between two looks, with no look at its absence.
    fs::create_dir(&inner).expect("a folder");
    watch.keep(fs::metadata(&inner).ok().as_ref()).expect("a watch");
    folder.replace("lists/web.txt", "127.0.0.1:80\n");
    while !watch.take().is_whole {
        timeout(DEADLINE, watch.changed()).await.expect("a sign");
    }
}

#[test]
fn what_changes_counts_once_it_has_stayed_the_same() {
    let identity = |bytes| Some(Identity { device: 1, inode: 2, bytes, modified: (3, 4) });
    let mut looks = Looks::default();
    assert!(!looks.polled(None), "not there, as before");
    assert!(!looks.polled(identity(1)));
    assert!(!looks.polled(identity(2)), "it grows");
    assert!(looks.polled(identity(2)));
    looks.considered = identity(2);
    assert!(!looks.polled(identity(2)), "it was read");
    assert!(!looks.polled(identity(3)));
    assert!(!looks.polled(identity(2)), "back again");
    assert!(!looks.polled(None));
    assert!(looks.polled(None), "it is gone");
}
