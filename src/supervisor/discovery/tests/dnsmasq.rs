//! Names at a real server.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::log::Log;
use super::{Told, discovery, wanted};
use crate::config::{Asking, Discovery};

/// dnsmasq with a hosts file and a configuration of its own. Ends with its value.
struct Dnsmasq {
    folder: PathBuf,
    address: SocketAddr,
    process: Option<Child>,
}

impl Dnsmasq {
    fn start(ttl_secs: u32, hosts: &str) -> Dnsmasq {
        let address = free_port();
        let name = format!("ringlane-dnsmasq-{}-{}", std::process::id(), address.port());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder");
        let mut dnsmasq = Dnsmasq { folder, address, process: None };
        dnsmasq.write("hosts", hosts);
        dnsmasq.configure(&format!("local-ttl={ttl_secs}\n"));
        dnsmasq
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file");
    }

    /// Starts it, or starts it again, with these lines in its configuration.
    fn configure(&mut self, lines: &str) {
        self.kill();
        self.write("conf", lines);
        self.run();
    }

    fn run(&mut self) {
        let path = |name| self.folder.join(name).display().to_string();
        let mut command = Command::new("dnsmasq");
        command
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
            .args(["--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces"])
            .args(["--listen-address=127.0.0.1", "--local=/test/"])
            .arg(format!("--port={}", self.address.port()))
            .arg(format!("--addn-hosts={}", path("hosts")))
            .arg(format!("--conf-file={}", path("conf")))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(command.spawn().expect("dnsmasq (Debian: dnsmasq-base)"));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }

    fn set_hosts(&self, hosts: &str) {
        self.write("hosts", hosts);
        let process = self.process.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args(["-HUP", &process]).status().expect("kill");
        assert!(sent.success());
    }

    fn asking(&self, min_ms: u64, max_ms: u64) -> Asking {
        Asking {
            resolvers: vec![self.address],
            min_ttl: Duration::from_millis(min_ms),
            max_ttl: Duration::from_millis(max_ms),
            timeout: Duration::from_secs(1),
        }
    }

    fn follow(&self, name: &str, min_ms: u64, max_ms: u64) -> (super::Discovery, Told) {
        let asking = self.asking(min_ms, max_ms);
        let settings = Discovery::Dns { name: name.to_owned(), port: 80, asking };
        let (mut discovery, told) = discovery();
        discovery.apply(wanted(&[("web", &settings)]));
        (discovery, told)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Free for UDP and TCP a moment ago, and of those that the kernel gives nobody who asks for any:
/// while the server is away, no connection of anybody's may take it.
fn free_port() -> SocketAddr {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 20_000) as u16;
    let addresses = (0..1_000).map(|_| {
        let port = first + TRIED.fetch_add(1, Ordering::SeqCst) % 2_000;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    let is_free = |it: &SocketAddr| UdpSocket::bind(it).is_ok() && TcpListener::bind(it).is_ok();
    addresses.into_iter().find(is_free).expect("one of a thousand is free")
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn a_name_whose_addresses_change() {
    let dnsmasq = Dnsmasq::start(0, "10.0.0.1 web.test\n10.0.0.2 web.test\nfd00::1 web.test\n");
    let (_discovery, mut told) = dnsmasq.follow("web.test", 20, 20);
    assert_eq!(told.next("web").await, ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
    dnsmasq.set_hosts("10.0.0.2 web.test\n");
    told.until("web", &["10.0.0.2:80"]).await;
    dnsmasq.set_hosts("fd00::2 web.test\n");
    told.until("web", &["[fd00::2]:80"]).await;
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn a_server_that_dies_and_is_back() {
    let log = Log::new();
    let mut dnsmasq = Dnsmasq::start(0, "10.0.0.1 web.test\n");
    let (_discovery, mut told) = dnsmasq.follow("web.test", 20, 200);
    assert_eq!(told.next("web").await, ["10.0.0.1:80"]);
    dnsmasq.kill();
    log.until("last good 1 endpoints stay").await;
    assert!(!told.has_news_of("web"));
    dnsmasq.write("hosts", "10.0.0.2 web.test\n");
    dnsmasq.run();
    assert_eq!(told.next("web").await, ["10.0.0.2:80"]);
    log.until("INFO the name is answered again").await;
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn a_name_that_goes_away() {
    let log = Log::new();
    let dnsmasq = Dnsmasq::start(0, "10.0.0.1 web.test\n");
    let (_discovery, mut told) = dnsmasq.follow("web.test.", 20, 200);
    assert_eq!(told.next("web").await, ["10.0.0.1:80"]);
    dnsmasq.set_hosts("10.0.0.9 other.test\n");
    log.until("there is no such name; the last good 1 endpoints stay").await;
    assert!(!told.has_news_of("web"));
    dnsmasq.set_hosts("10.0.0.3 web.test\n");
    assert_eq!(told.next("web").await, ["10.0.0.3:80"]);
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn targets_with_ports_and_weights() {
    let hosts = "10.0.0.1 a.test\nfd00::1 a.test\n10.0.0.2 b.test\n10.0.0.3 spare.test\n";
    let mut dnsmasq = Dnsmasq::start(0, hosts);
    let target = |target: &str, rest: &str| format!("srv-host=_http._tcp.web.test,{target},{rest}");
    let conf = [
        target("a.test", "8080,10,5"),
        target("b.test", "8081,10,0"),
        target("spare.test", "8082,20,9"),
    ];
    dnsmasq.configure(&format!("local-ttl=0\n{}\n", conf.join("\n")));
    let asking = dnsmasq.asking(20, 20);
    let settings = Discovery::DnsSrv { name: "_http._tcp.web.test".into(), asking };
    let (mut discovery, mut told) = discovery();
    discovery.apply(wanted(&[("web", &settings)]));
    assert_eq!(told.next("web").await, ["10.0.0.1:8080*5", "10.0.0.2:8081", "[fd00::1]:8080*5"]);
    // With the first priority gone, the next one is.
    dnsmasq.configure(&format!("local-ttl=0\n{}\n", conf[2]));
    assert_eq!(told.next("web").await, ["10.0.0.3:8082*9"]);
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn a_ttl_is_honoured_within_bounds() {
    let dnsmasq = Dnsmasq::start(2, "10.0.0.1 web.test\n");
    let begun = Instant::now();
    let (_discovery, mut told) = dnsmasq.follow("web.test", 20, 60_000);
    let (_other, mut impatient) = dnsmasq.follow("web.test", 20, 50);
    assert_eq!(told.next("web").await, ["10.0.0.1:80"]);
    assert_eq!(impatient.next("web").await, ["10.0.0.1:80"]);
    dnsmasq.set_hosts("10.0.0.2 web.test\n");
    // One that may not wait so long hears of it before.
    assert_eq!(impatient.next("web").await, ["10.0.0.2:80"]);
    let soon = begun.elapsed();
    assert_eq!(told.next("web").await, ["10.0.0.2:80"]);
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_secs(2) && soon < taken, "{soon:?} {taken:?}");
}

#[tokio::test]
#[ignore = "needs dnsmasq"]
async fn an_answer_that_is_too_long_for_a_datagram() {
    let hosts: String = (1..=250).map(|host| format!("10.0.0.{host} web.test\n")).collect();
    let dnsmasq = Dnsmasq::start(0, &hosts);
    let (_discovery, mut told) = dnsmasq.follow("web.test", 20, 200);
    assert_eq!(told.next("web").await.len(), 250);
}
