//! Endpoints from a file that changes while requests are served. (Names: tests/daemons/dns.rs.)

mod common;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Origin, Proxy, Wire, both, eventually, ok};

/// A folder with a file of endpoints; it goes away with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::SeqCst);
        let name = format!("discovery-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("web.txt")
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).expect("a file");
    }

    /// As a careful writer does it.
    fn replace(&self, text: &str) {
        let new = self.0.join("web.txt.new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.file()).expect("a rename");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| ok(name))
}

fn yaml(folder: &Folder) -> String {
    format!(
        "telemetry: {{flush_interval_ms: 20}}\n\
         routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes: [{{service: web}}]\n\
         services:\n  web:\n    balancer: {{kind: round_robin}}\n    \
           discovery: {{kind: file, path: {}}}\n",
        folder.file().display()
    )
}

fn eventually_answers(client: &mut Wire, name: &str) {
    eventually(&format!("{name} alone answers"), || {
        (0..4).all(|_| {
            let answer = client.get("/");
            assert_eq!(answer.status(), 200);
            answer.text() == name
        })
    });
}

#[test]
fn a_file_that_changes_is_followed_and_a_half_written_one_is_not() {
    both(|cores| {
        let (a, b, c) = (named("a"), named("b"), named("c"));
        let folder = Folder::new();
        folder.write(&format!("# ours\n{}\n", a.address));
        let proxy = Proxy::start(&yaml(&folder), cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a", "the first request finds endpoints");
        folder.replace(&format!("{} 2\n", b.address));
        eventually_answers(&mut client, "b");
        // Linkerd's way to write it.
        folder.write(&format!("{} {}\n", c.address.ip(), c.address.port()));
        eventually_answers(&mut client, "c");
        let (before, seen) = (a.requests().len(), c.requests().len());
        let mut writer = fs::File::create(folder.file()).expect("a file");
        write!(writer, "{}\n{}", a.address, &b.address.to_string()[..9]).expect("half of it");
        writer.sync_all().expect("it is on its way to the disk");
        for _ in 0..50 {
            assert_eq!(client.get("/").text(), "c", "the writer is not done");
        }
        drop(writer);
        let warned = || proxy.log().iter().filter(|line| line.contains(" WARN ")).count();
        eventually("it is refused, and says why", || warned() == 1);
        assert!(proxy.log().iter().any(|line| line.contains("web.txt")), "{:#?}", proxy.log());
        fs::remove_file(folder.file()).expect("it is there");
        eventually_answers(&mut client, "c");
        assert_eq!(a.requests().len(), before);
        assert!(c.requests().len() > seen);
        folder.write(&format!("{}\n", a.address));
        eventually_answers(&mut client, "a");
        proxy.stop();
    });
}

#[test]
fn an_operator_s_word_holds_for_endpoints_that_were_found_and_reloads_keep_them() {
    both(|cores| {
        let (a, b) = (named("a"), named("b"));
        let folder = Folder::new();
        let list = |of: &[SocketAddr]| of.iter().map(|it| format!("{it}\n")).collect::<String>();
        folder.write(&list(&[a.address, b.address]));
        let proxy = Proxy::start_from_file(&yaml(&folder), cores);
        let mut client = proxy.connect();
        let path = format!("/admin/endpoints/{}", a.address);
        assert_eq!(proxy.post(&path, "{\"drain\": true}").status(), 200);
        eventually_answers(&mut client, "b");
        // What was found is there at once after a reload, and nobody is asked anew.
        proxy.reload(&(yaml(&folder) + "  other: {endpoints: [\"127.0.0.1:1\"]}\n"));
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "b");
        }
        // It goes and comes back: it is drained still.
        folder.replace(&list(&[b.address]));
        eventually("it has gone", || proxy.endpoint("web", a.address).is_none());
        folder.replace(&list(&[a.address, b.address]));
        eventually("it is back", || proxy.endpoint("web", a.address).is_some());
        for _ in 0..10 {
            assert_eq!(client.get("/").text(), "b");
        }
        assert_eq!(proxy.post(&path, "{\"ready\": true}").status(), 200);
        eventually("it is used", || client.get("/").text() == "a");
        proxy.stop();
    });
}

#[test]
fn a_service_that_a_reload_brings_has_its_endpoints_before_its_first_request() {
    both(|cores| {
        let (a, b) = (named("a"), named("b"));
        let folder = Folder::new();
        folder.write(&format!("{}\n", b.address));
        let before = format!(
            "routers:\n- servers: [{{port: 0}}]\n  routes: [{{service: web}}]\n\
             services: {{web: {{endpoints: [\"{}\"]}}}}\n",
            a.address
        );
        let proxy = Proxy::start_from_file(&before, cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        let after = before.replace(
            &format!("web: {{endpoints: [\"{}\"]}}", a.address),
            &format!("new: {{discovery: {{kind: file, path: {}}}}}", folder.file().display()),
        );
        proxy.reload(&after.replace("service: web", "service: new"));
        assert_eq!(client.get("/").text(), "b");
        proxy.stop();
    });
}

#[test]
fn a_service_whose_endpoints_are_to_be_found_from_now_on_keeps_those_that_it_has() {
    both(|cores| {
        let (a, b) = (named("a"), named("b"));
        let folder = Folder::new();
        let found = yaml(&folder);
        let discovery = format!("discovery: {{kind: file, path: {}}}", folder.file().display());
        let endpoints = format!("endpoints: [\"{}\"]", a.address);
        let proxy = Proxy::start_from_file(&found.replace(&discovery, &endpoints), cores);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        let connections = a.accepted();
        // There is no file yet.
        proxy.reload(&found);
        assert_eq!(client.get("/").text(), "a");
        folder.replace(&format!("{}\n{}\n", b.address, a.address));
        eventually("the other one is found", || client.get("/").text() == "b");
        eventually("both are used", || client.get("/").text() == "a");
        assert_eq!(a.accepted(), connections, "its pooled connection was used all along");
        proxy.stop();
    });
}
