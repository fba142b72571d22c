//! HAProxy in front, which announces its clients by the PROXY protocol.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use crate::common::{Origin, Proxy, Wire, config, eventually, ok};
use crate::tools::{Daemon, Folder, find};

/// Two ports that were free a moment ago; both at once, so that they differ.
fn free_ports() -> [u16; 2] {
    let bound = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    bound.map(|listener| listener.local_addr().expect("an address").port())
}

/// Listens on one port by version 1, on the other by version 2, and checks the server's health by
/// connections of its own.
fn rules(ports: [u16; 2], server: SocketAddr) -> String {
    let [one, two] = ports;
    format!(
        "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n\
         \x20 timeout server 30s\n\
         listen one\n  bind 127.0.0.1:{one}\n  server it {server} send-proxy check inter 100\n\
         listen two\n  bind 127.0.0.1:{two}\n  server it {server} send-proxy-v2 check inter 100\n"
    )
}

#[test]
#[ignore = "needs haproxy; .ci/run runs it"]
fn haproxy_announces_its_clients() {
    let origin = Origin::answering(|_| ok("fine"));
    let yaml = config(&[origin.address], "", "");
    let yaml = yaml.replace("{port: 0}", "{port: 0, proxy_protocol: true}");
    let proxy = Proxy::start(&yaml, "0");
    let (folder, ports) = (Folder::new(), free_ports());
    let file = folder.write("haproxy.cfg", &rules(ports, proxy.address));
    let _haproxy = Daemon::start(Command::new(find("haproxy")).args(["-db", "-f"]).arg(file));
    for (port, from) in ports.into_iter().zip(["127.0.0.21", "127.0.0.22"]) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("haproxy listens", || std::net::TcpStream::connect(address).is_ok());
        // From an address of its own, which the socket between them does not have.
        let mut client = Wire::new(connect_from(from, address));
        for _ in 0..2 {
            assert_eq!(client.get("/").status(), 200);
            let head = origin.last_request().head;
            assert_eq!(head.get("x-forwarded-for"), Some(from));
        }
    }
    proxy.stop();
}

fn connect_from(ip: &str, to: SocketAddr) -> std::net::TcpStream {
    let own: SocketAddr = format!("{ip}:0").parse().expect("an address");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&own.into()).expect("all of 127.0.0.0/8 is this machine's");
    socket.connect(&to.into()).expect("a connection");
    socket.into()
}
