//! What the process may do: root is given up once the sockets are bound, on every thread and for
//! good, and nothing is written anywhere.
//!
//! Becoming another user needs root, and so do these tests; without they say so and pass.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Origin, Proxy, Wire, config, eventually, four, ok};

const RINGLANE: &str = env!("CARGO_BIN_EXE_ringlane");
const DROPPED: &str = "drain_ms: 300, user: nobody";

/// Whether this test can become others; says so where it cannot.
fn is_root() -> bool {
    let is = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    if !is {
        eprintln!("not root, so that nothing can be given up: left out");
    }
    is
}

/// Nobody's ids, as the system has them.
fn nobody() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("users");
    let line = passwd.lines().find(|line| line.starts_with("nobody:")).expect("nobody");
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().expect("a number"), fields[3].parse().expect("a number"))
}

/// A folder that everybody may read, for a file of a configuration that nobody may read too.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ringlane-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder of ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port below 1024 that is free, which root alone may listen on.
fn low_port(not: u16) -> u16 {
    let free = |port: &u16| *port != not && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (600..1024).rev().find(free).expect("a free one")
}

/// What `/proc/PID/task/TID/status` says of each thread under a name.
fn threads(pid: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let status = tasks.map(|task| fs::read_to_string(task.expect("one").path().join("status")));
    let line = |status: String| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
        line[name.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    status.filter_map(Result::ok).map(line).collect()
}

fn with_two_servers(yaml: &str, second: &str) -> String {
    let servers = "servers: [{port: 0}]";
    assert!(yaml.contains(servers));
    yaml.replacen(servers, &format!("servers: [{{port: 0}}, {second}]"), 1)
}

#[test]
fn every_thread_has_given_root_up_and_all_goes_on() {
    if !is_root() {
        return;
    }
    let origin = Origin::answering(|_| ok("hello"));
    let port = low_port(0);
    let yaml = config(&[origin.address], "", "");
    let low = with_two_servers(&yaml, &format!("{{port: {port}}}"));
    let folder = Folder::new("dropped");
    let mut proxy = Proxy::start_at(folder.file("a.yaml"), DROPPED, &low, four());
    let (uid, gid) = nobody();
    let check = |when: &str| {
        // The four are the real, effective, saved and file system's.
        for (name, id) in [("Uid:", uid), ("Gid:", gid)] {
            let expected = [id; 4].map(|id| id.to_string()).join(" ");
            let found = threads(proxy.pid(), name);
            assert!(found.len() > 6, "{when}: four shards, and control: {found:?}");
            assert!(found.iter().all(|it| *it == expected), "{when}: {name} {found:?}");
        }
        for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            let found = threads(proxy.pid(), name);
            assert!(found.iter().all(|it| it.chars().all(|it| it == '0')), "{name} {found:?}");
        }
        let groups = threads(proxy.pid(), "Groups:");
        assert!(groups.iter().all(|it| *it == gid.to_string()), "{when}: {groups:?}");
        let renounced = threads(proxy.pid(), "NoNewPrivs:");
        assert!(renounced.iter().all(|it| it == "1"), "{when}: {renounced:?}");
    };
    check("at start");
    let low: SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
    assert_eq!(Wire::connect(low).get("/").text(), "hello");
    // What is bound stays so over reloads, and what needs no root can be added.
    let both = with_two_servers(&yaml, &format!("{{port: {port}}}, {{port: 0, ip: 127.0.0.2}}"));
    proxy.reload(&both);
    let listeners = proxy.listeners();
    assert_eq!(listeners.len(), 3);
    for address in listeners {
        assert_eq!(Wire::connect(address).get("/").text(), "hello", "{address}");
    }
    check("after a reload");
    eventually("it may still look at itself", || {
        let metrics = Wire::connect(proxy.admin).get("/metrics").text();
        let open = metrics.lines().find_map(|line| line.strip_prefix("process_open_fds "));
        open.and_then(|it| it.parse().ok()).is_some_and(|open: f64| open > 10.0)
    });
    let warned: Vec<String> = proxy.log().into_iter().filter(|it| it.contains("WARN")).collect();
    assert!(warned.is_empty(), "{warned:?}");
    assert!(proxy.is_running());
    proxy.stop();
}

#[test]
fn what_needs_root_again_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let origin = Origin::answering(|_| ok("hello"));
    let yaml = config(&[origin.address], "", "");
    let folder = Folder::new("refused");
    let proxy = Proxy::start_at(folder.file("a.yaml"), DROPPED, &yaml, "0");
    let low = low_port(0);
    let all = proxy.address.port();
    for (second, address, why) in [
        (format!("{{port: {low}}}"), format!("127.0.0.1:{low}"), "a port like this needs root"),
        (
            format!("{{port: {all}, ip: 0.0.0.0}}"),
            format!("0.0.0.0:{all}"),
            "it overlaps with what was bound as root",
        ),
    ] {
        let answer = proxy.try_reload(&with_two_servers(&yaml, &second));
        assert_eq!(answer.status(), 422, "{second}: {}", answer.text());
        let told = format!(
            "cannot listen on {address} (routers[0].servers[1]): {why}, which was given up at \
             start (runtime.user): needs a restart"
        );
        assert!(answer.text().contains(&told), "{told}: {}", answer.text());
        assert_eq!(proxy.listeners(), proxy.addresses, "nothing has changed");
        assert_eq!(proxy.connect().get("/").text(), "hello");
    }
    proxy.stop();
}

#[test]
fn another_user_needs_a_restart() {
    if !is_root() {
        return;
    }
    let yaml = |user: &str| {
        format!(
            "runtime: {{cores: \"0\", drain_ms: 300, user: {user}}}\nadmin: {{port: 0}}\n{}",
            config(&["127.0.0.1:9".parse().expect("an address")], "", "")
        )
    };
    let folder = Folder::new("another");
    let proxy = Proxy::start_exactly(folder.file("a.yaml"), &yaml("nobody"));
    let answer = proxy.try_reload(&yaml("daemon"));
    assert_eq!(answer.status(), 422);
    let told = "runtime.user: needs a restart (it is nobody, and would be daemon)";
    assert!(answer.text().contains(told), "{}", answer.text());
    proxy.stop();
}

#[test]
fn a_file_that_the_user_cannot_read_is_told_of_at_start() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("unreadable");
    let path = folder.file("a.yaml");
    fs::write(&path, "").expect("a file of ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let origin = Origin::answering(|_| ok("hello"));
    let yaml = config(&[origin.address], "", "");
    let proxy = Proxy::start_at(path.clone(), DROPPED, &yaml, "0");
    let told = format!("{} cannot be read by nobody (runtime.user)", path.display());
    eventually("it is told", || proxy.log().iter().any(|line| line.contains(&told)));
    let answer = proxy.post("/admin/reload", "");
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("cannot read"), "{}", answer.text());
    assert_eq!(proxy.connect().get("/").text(), "hello");
    // With the rights it is as good as any.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    proxy.reload(&yaml);
    proxy.stop();
}

#[test]
fn the_line_at_start_says_who_it_runs_as() {
    let yaml = config(&["127.0.0.1:9".parse().expect("an address")], "", "");
    for (keys, user) in [("drain_ms: 300", "user=root"), (DROPPED, "user=nobody")] {
        if !is_root() {
            continue;
        }
        let proxy = Proxy::start_with(keys, &yaml, "0");
        let log = proxy.log();
        assert!(log.iter().any(|line| line.ends_with(user)), "{log:#?}");
        assert_eq!(log.len(), 1, "{log:#?}");
        // It starts no programs, whoever it is.
        let renounced = threads(proxy.pid(), "NoNewPrivs:");
        assert!(renounced.iter().all(|it| it == "1"), "{renounced:?}");
        proxy.stop();
    }
}

/// Who is no root can be nobody else, and needs no root to stay who they are.
#[test]
fn others_than_root_stay_who_they_are() {
    if !is_root() {
        return;
    }
    let folder = Folder::new("others");
    // Where cargo builds, nobody may not look.
    let program = folder.file("ringlane");
    fs::copy(RINGLANE, &program).expect("a copy");
    let (uid, gid) = nobody();
    let start = |user: &str| {
        let text = format!(
            "runtime: {{cores: \"0\", user: {user}}}\nadmin: {{port: 0}}\n{}",
            config(&["127.0.0.1:9".parse().expect("an address")], "", "")
        );
        let mut command = Command::new(&program);
        // Not root's folder either.
        command.arg("-").uid(uid).gid(gid).current_dir(&folder.0);
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it may be run by everybody");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
        child
    };
    let ended = start("daemon").wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).expect("text");
    let told = "ringlane: runtime.user is daemon, and only root can become another user";
    assert!(said.starts_with(told) && said.lines().count() == 1, "{said}");
    let mut running = start("nobody");
    let mut stderr = running.stderr.take().expect("a pipe");
    let mut said = String::new();
    while !said.contains("ringlane is ready") {
        let mut bytes = [0; 512];
        let count = stderr.read(&mut bytes).expect("a pipe");
        assert!(count > 0, "it has ended: {said}");
        said += &String::from_utf8_lossy(&bytes[..count]);
    }
    let users = threads(running.id(), "Uid:");
    assert!(users.iter().all(|it| *it == [uid; 4].map(|id| id.to_string()).join(" ")));
    running.kill().expect("it is ours");
    running.wait().expect("it is ours");
}

#[test]
fn nobody_of_that_name_is_an_error_with_a_line() {
    let text = format!(
        "runtime:\n  user: nobodyy\n{}",
        config(&["127.0.0.1:9".parse().expect("an address")], "", "")
    );
    let mut command = Command::new(RINGLANE);
    command.args(["--check", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).expect("text");
    let told = "<stdin>:2:9: runtime.user: no such user (\"nobodyy\"); allowed: a user of this";
    assert!(said.starts_with(told), "{said}");
}

/// What a process has open for writing, apart from pipes, sockets and what else has no name in the
/// file system, and from what it was given by this one.
fn written(pid: u32) -> Vec<String> {
    let given = fs::read_dir("/proc/self/fd").expect("ours").filter_map(Result::ok);
    let given: Vec<PathBuf> = given.filter_map(|it| fs::read_link(it.path()).ok()).collect();
    let folder = format!("/proc/{pid}/fd");
    let open = fs::read_dir(&folder).expect("it runs").filter_map(Result::ok);
    let is_written = |number: &str| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        // O_WRONLY and O_RDWR are the last two bits.
        flags.and_then(|it| u32::from_str_radix(it.trim(), 8).ok()).is_some_and(|it| it & 3 != 0)
    };
    let named = open.filter_map(|entry| {
        let number = entry.file_name().into_string().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        let is_its_own = target.is_absolute() && !given.contains(&target);
        (is_its_own && is_written(&number)).then(|| target.display().to_string())
    });
    named.collect()
}

/// With discovery, exporters, reloads and a drain; in a folder that it could write to, where
/// nothing is found afterwards but what was there.
fn exercise(proxy: &mut Proxy, folder: &Folder, yaml: &str) {
    for _ in 0..20 {
        assert_eq!(proxy.connect().get("/").status(), 200);
    }
    proxy.reload(yaml);
    for path in ["/metrics", "/admin/metrics.json", "/admin/requests.json"] {
        assert_eq!(Wire::connect(proxy.admin).get(path).status(), 200, "{path}");
    }
    let open = written(proxy.pid());
    assert!(open.is_empty(), "{open:?}");
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    let mut names: Vec<String> = fs::read_dir(&folder.0)
        .expect("a folder of ours")
        .map(|it| it.expect("one").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["a.yaml", "endpoints"]);
}

/// A configuration with all that might want a file.
fn with_everything(folder: &Folder) -> (Origin, String) {
    let origin = Origin::answering(|_| ok("hello"));
    let endpoints = folder.file("endpoints");
    fs::write(&endpoints, format!("{}\n", origin.address)).expect("a file of ours");
    let yaml = format!(
        "telemetry:\n  exporters:\n  - {{kind: recent_requests}}\n  \
         - {{kind: trace_log, sample_rate: 1.0}}\n  \
         - {{kind: statsd, address: \"127.0.0.1:9\", interval_ms: 100}}\n  \
         - {{kind: zipkin, endpoint: \"http://127.0.0.1:9/\", sample_rate: 1.0}}\n\
         routers:\n- servers: [{{port: 0}}]\n  routes: [{{service: web}}]\n\
         services:\n  web: {{discovery: {{kind: file, path: {}}}}}\n",
        endpoints.display()
    );
    (origin, yaml)
}

#[test]
fn nothing_is_open_for_writing() {
    let folder = Folder::new("written");
    let (_origin, yaml) = with_everything(&folder);
    let mut proxy = Proxy::start_at(folder.file("a.yaml"), "drain_ms: 300", &yaml, "0");
    exercise(&mut proxy, &folder, &yaml);
}

/// Every call that makes, changes or removes something by its name, from the first to the last.
#[test]
#[ignore = "needs strace"]
fn nothing_is_written() {
    let folder = Folder::new("traced");
    let (_origin, yaml) = with_everything(&folder);
    // Not in the folder, in which nothing is to be found.
    let trace = std::env::temp_dir().join(format!("ringlane-strace-{}", std::process::id()));
    let to = trace.to_str().expect("a path in UTF-8");
    // The proxy is the child and strace its own: signals are the proxy's.
    let words = ["strace", "-D", "-f", "-qq", "-e", "trace=%file", "-e", "signal=none", "-o", to];
    let path = folder.file("a.yaml");
    let mut proxy = Proxy::start_behind(&words, path, "drain_ms: 300", &yaml);
    exercise(&mut proxy, &folder, &yaml);
    let calls = fs::read_to_string(&trace).expect("what strace saw");
    fs::remove_file(&trace).expect("it is ours");
    assert!(calls.contains("a.yaml"), "it saw nothing: {calls}");
    let reads = ["access(", "faccessat", "stat", "readlink", "execve(", "getcwd(", "inotify_add"];
    // The end of a call that was interrupted says no name; its beginning did.
    let calls = calls.lines().filter(|call| !call.contains(" resumed>"));
    let harmful = calls.filter(|call| {
        let opens = call.contains("open(") || call.contains("openat(");
        match opens {
            true => ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| call.contains(flag)),
            false => !reads.iter().any(|name| call.contains(name)),
        }
    });
    let harmful: Vec<&str> = harmful.collect();
    assert!(harmful.is_empty(), "{harmful:#?}");
}
