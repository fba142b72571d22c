//! A real name server (dnsmasq) behind `discovery`, whose answers change, go away and come back
//! while requests are served: none is lost.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::tools::{Daemon, Folder, find};
use crate::common::{Origin, Proxy, Wire, both, eventually, ok};

/// Requests that must be answered in each state of affairs.
const IN_EACH_STATE: usize = 200;
/// How long an origin takes, so that requests are on their way whenever something changes.
const SERVICE_TIME: Duration = Duration::from_millis(4);

struct NameServer {
    folder: Folder,
    port: u16,
    daemon: Option<Daemon>,
}

impl NameServer {
    fn new() -> NameServer {
        NameServer { folder: Folder::new(), port: free_port(), daemon: None }
    }

    /// Serves these names, by lines of `hosts`, and what `more` arguments say.
    fn start(&mut self, hosts: &str, more: &[String]) {
        let hosts = self.folder.write("hosts", hosts);
        let mut command = Command::new(find("dnsmasq"));
        command
            .arg("--keep-in-foreground")
            .args(["--log-facility=-", "--no-resolv", "--no-hosts", "--bind-interfaces"])
            .args(["--local=/test/", "--local-ttl=0", "--pid-file", "--conf-file=/dev/null"])
            .arg("--listen-address=127.0.0.1")
            .arg(format!("--port={}", self.port))
            .arg(format!("--user={}", user()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .args(more);
        let mut daemon = Daemon::start(&mut command);
        daemon.wait_for("dnsmasq serves", |line| line.contains("started, version").then_some(()));
        self.daemon = Some(daemon);
    }

    fn kill(&mut self) {
        self.daemon = None;
    }

    /// Other answers from now on, by the same process.
    fn change(&mut self, hosts: &str) {
        self.folder.write("hosts", hosts);
        let pid = self.daemon.as_ref().expect("it runs").pid();
        let status = Command::new("kill").args(["-HUP", &pid.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

/// Free for UDP and TCP a moment ago. Of those that the kernel gives nobody who asks for any: a
/// connection of another test's may have each of the others.
fn free_port() -> u16 {
    static TRIED: AtomicUsize = AtomicUsize::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.expect("Linux says which those are");
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    let below: usize = first.filter(|first| *first > 12_000).unwrap_or(32_768);
    let ours = std::process::id() as usize * 37;
    let is_free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        UdpSocket::bind(address).is_ok() && std::net::TcpListener::bind(address).is_ok()
    };
    let tried = || TRIED.fetch_add(1, Ordering::SeqCst);
    let ports = (0..1_000).map(|_| (10_000 + (ours + tried()) % (below - 10_000)) as u16);
    ports.into_iter().find(is_free).expect("one of a thousand is free")
}

/// dnsmasq gives up root for somebody else, who may not read our files.
fn user() -> String {
    let name = Command::new("id").arg("-un").output().expect("id is everywhere").stdout;
    String::from_utf8(name).expect("a name").trim().to_owned()
}

/// Origins on one port and so many addresses of this machine, from 127.0.0.2 on.
fn origins(count: u8) -> Vec<Origin> {
    let at = |last: u8, port| SocketAddr::from(([127, 0, 0, last], port));
    let serve = |_: &_| {
        // Works for a while: that is no waiting for something to happen.
        thread::park_timeout(SERVICE_TIME);
        ok("fine")
    };
    // The first gets any port, which is free on the others too but for a rare coincidence.
    for _ in 0..20 {
        let first = Origin::answering_at(at(2, 0), serve).expect("a port");
        let port = first.address.port();
        let rest: Vec<_> = (3..2 + count)
            .map_while(|last| Origin::answering_at(at(last, port), serve).ok())
            .collect();
        if rest.len() + 1 == usize::from(count) {
            return std::iter::once(first).chain(rest).collect();
        }
    }
    panic!("no port is free on {count} addresses");
}

fn hosts(name: &str, origins: &[&Origin]) -> String {
    origins.iter().map(|it| format!("{} {name}\n", it.address.ip())).collect()
}

fn yaml(discovery: &str) -> String {
    format!(
        "telemetry: {{flush_interval_ms: 20}}\n\
         routers:\n- label: http\n  servers: [{{port: 0}}]\n  routes: [{{service: web}}]\n\
         services:\n  web:\n    balancer: {{kind: round_robin}}\n    discovery: {{{discovery}}}\n"
    )
}

/// A steady load of one request after the other on each of some connections.
struct Load {
    answered: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    done: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Load {
        let (answered, done) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let lost = Arc::<Mutex<Vec<String>>>::default();
        let client = || {
            let (answered, lost, done) = (answered.clone(), lost.clone(), done.clone());
            thread::spawn(move || {
                let mut wire = Wire::connect(address);
                while !done.load(Ordering::SeqCst) {
                    let sent = wire.try_send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    match sent.and_then(|()| wire.try_answer_to("GET")) {
                        Ok(answer) if answer.status() == 200 => {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(answer) => {
                            let reason = answer.head.reason().unwrap_or_default().to_owned();
                            lost.lock().unwrap().push(reason);
                        }
                        Err(error) => {
                            lost.lock().unwrap().push(error.to_string());
                            wire = Wire::connect(address);
                        }
                    }
                    // The pace of the load, and no waiting for something to happen.
                    thread::park_timeout(Duration::from_millis(10));
                }
            })
        };
        let clients = (0..8).map(|_| client()).collect();
        Load { answered, lost, done, clients }
    }

    fn goes_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("requests are answered", || {
            self.answered.load(Ordering::SeqCst) >= before + IN_EACH_STATE
        });
    }

    fn end(self) -> usize {
        self.done.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|client| client.join().expect("a client ends"));
        let lost = self.lost.lock().unwrap();
        assert!(lost.is_empty(), "{} lost: {lost:#?}", lost.len());
        self.answered.load(Ordering::SeqCst)
    }
}

/// That these and no others get requests, from some moment on.
#[track_caller]
fn eventually_only(origins: &[Origin], used: &[usize], load: &Load) {
    eventually(&format!("{used:?} and no others are used"), || {
        let before: Vec<usize> = origins.iter().map(|it| it.requests().len()).collect();
        load.goes_on();
        let now = origins.iter().map(|it| it.requests().len());
        let grown = now.zip(before).enumerate().filter(|(_, (now, before))| now > before);
        grown.map(|(at, _)| at).collect::<Vec<_>>() == used
    });
}

#[test]
#[ignore = "needs dnsmasq"]
fn addresses_that_change_go_away_and_come_back_lose_nothing() {
    both(|cores| {
        let origins = origins(3);
        let port = origins[0].address.port();
        let mut server = NameServer::new();
        server.start(&hosts("web.test", &[&origins[0], &origins[1]]), &[]);
        let discovery = format!(
            "kind: dns, name: \"web.test:{port}\", resolvers: [\"127.0.0.1:{}\"], \
             min_ttl_ms: 50, timeout_ms: 500",
            server.port
        );
        let proxy = Proxy::start(&yaml(&discovery), cores);
        // The first request finds endpoints.
        assert_eq!(proxy.connect().get("/").status(), 200);
        let load = Load::start(proxy.address);
        eventually_only(&origins, &[0, 1], &load);
        server.change(&hosts("web.test", &[&origins[1], &origins[2]]));
        eventually_only(&origins, &[1, 2], &load);
        // The name goes: what was last known stays.
        let warned =
            |proxy: &Proxy| proxy.log().iter().filter(|line| line.contains(" WARN ")).count();
        server.change("127.0.0.9 other.test\n");
        eventually("it is said", || warned(&proxy) == 1);
        eventually_only(&origins, &[1, 2], &load);
        server.change(&hosts("web.test", &[&origins[0]]));
        eventually_only(&origins, &[0], &load);
        // The server goes, in the middle of questions.
        server.kill();
        eventually("it is said", || warned(&proxy) == 2);
        eventually_only(&origins, &[0], &load);
        server.start(&hosts("web.test", &[&origins[1], &origins[2]]), &[]);
        eventually_only(&origins, &[1, 2], &load);
        let answered = load.end();
        let metrics = proxy.metrics_when("all is counted", |metrics| {
            metrics.get("rt/http/service/web/success") == answered as u64 + 1
        });
        metrics.check_conservation();
        assert_eq!(metrics.get("rt/http/client/web/loadbalancer/size"), 2);
        let of = |key: &str| metrics.get(&format!("rt/http/client/web/loadbalancer/{key}"));
        assert_eq!(of("adds") - of("removes"), 2);
        assert!(of("adds") >= 6, "{}", of("adds"));
        proxy.stop();
    });
}

#[test]
#[ignore = "needs dnsmasq"]
fn targets_have_ports_and_weights_of_their_own() {
    both(|cores| {
        let origins: Vec<Origin> = (0..2).map(|_| Origin::answering(|_| ok("fine"))).collect();
        let mut server = NameServer::new();
        let record = |at: usize, priority: u32, weight: u32| {
            let port = origins[at].address.port();
            format!("--srv-host=_http._tcp.web.test,a.test,{port},{priority},{weight}")
        };
        server.start("127.0.0.1 a.test\n", &[record(0, 1, 3), record(1, 1, 1)]);
        let discovery = format!(
            "kind: dns_srv, name: _http._tcp.web.test, resolvers: [\"127.0.0.1:{}\"], \
             min_ttl_ms: 50, timeout_ms: 500",
            server.port
        );
        let proxy = Proxy::start(&yaml(&discovery), cores);
        let mut clients: Vec<Wire> = (0..4).map(|_| proxy.connect()).collect();
        for _ in 0..100 {
            clients.iter_mut().for_each(|it| assert_eq!(it.get("/").status(), 200));
        }
        let seen: Vec<usize> = origins.iter().map(|it| it.requests().len()).collect();
        assert_eq!(seen[0] + seen[1], 400);
        assert!((290..=310).contains(&seen[0]), "three of four: {seen:?}");
        // Only the group with the lowest priority counts.
        server.kill();
        server.start("127.0.0.1 a.test\n", &[record(0, 2, 3), record(1, 1, 1)]);
        eventually("the first gets no more", || {
            let before = origins[0].requests().len();
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(100) {
                assert_eq!(clients[0].get("/").status(), 200);
            }
            origins[0].requests().len() == before
        });
        proxy.stop();
    });
}

#[test]
#[ignore = "needs dnsmasq"]
fn a_server_that_is_down_at_the_start_keeps_nobody_else_from_being_served() {
    let origin = Origin::answering(|_| ok("fine"));
    let mut server = NameServer::new();
    let discovery = format!(
        "kind: dns, name: \"web.test:{}\", resolvers: [\"127.0.0.1:{}\"], min_ttl_ms: 50, \
         timeout_ms: 200",
        origin.address.port(),
        server.port
    );
    let yaml = yaml(&discovery).replace(
        "routes: [{service: web}]",
        "routes: [{path_prefix: /other, service: other}, {service: web}]",
    ) + &format!("  other: {{endpoints: [\"{}\"]}}\n", origin.address);
    let proxy = Proxy::start(&yaml, "0");
    let mut client = proxy.connect();
    assert_eq!(client.get("/other").status(), 200);
    let answer = client.get("/");
    assert_eq!((answer.status(), answer.head.reason()), (503, Some("no_endpoint")));
    assert_eq!(origin.address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    server.start("127.0.0.1 web.test\n", &[]);
    eventually("it is found", || client.get("/").status() == 200);
    proxy.stop();
}
