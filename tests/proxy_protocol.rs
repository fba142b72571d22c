//! Clients announced by a balancer in front, by the PROXY protocol, over sockets: whom the origin,
//! the balancer of ours and the operator take for the client, and what is closed instead.

mod common;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::{Origin, Proxy, Wire, both, config, eventually, ok};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// One origin behind a server that expects the header.
fn yaml(origins: &[SocketAddr], router: &str, service: &str) -> String {
    let router = format!("forwarding: {{forwarded: append}}\n{router}");
    config(origins, &router, service).replace("{port: 0}", "{port: 0, proxy_protocol: true}")
}

fn start(origin: &Origin, router: &str, cores: &str) -> Proxy {
    Proxy::start(&yaml(&[origin.address], router, ""), cores)
}

fn v1(client: SocketAddr) -> Vec<u8> {
    let (family, proxy) = match client.ip() {
        IpAddr::V4(_) => ("TCP4", "203.0.113.1"),
        IpAddr::V6(_) => ("TCP6", "2001:db8::1"),
    };
    format!("PROXY {family} {} {proxy} {} 443\r\n", client.ip(), client.port()).into_bytes()
}

fn v2_of(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &len, block].concat()
}

/// With two TLVs behind the addresses.
fn v2(client: SocketAddr) -> Vec<u8> {
    let port = client.port().to_be_bytes();
    let tlvs = b"\x01\x00\x02h2\x04\x00\x03\0\0\0";
    match client.ip() {
        IpAddr::V4(ip) => v2_of(
            0x21,
            0x11,
            &[&ip.octets()[..], &[203, 0, 113, 1], &port, &[1, 187], tlvs].concat(),
        ),
        IpAddr::V6(ip) => {
            v2_of(0x21, 0x21, &[&ip.octets()[..], &[0xFE; 16], &port, &[1, 187], tlvs].concat())
        }
    }
}

/// A connection on which these bytes came first.
fn announced(proxy: &Proxy, header: &[u8]) -> Wire {
    let mut client = proxy.connect();
    client.send(header);
    client
}

/// What the origin was told of the client: `X-Forwarded-For`, and the beginning of `Forwarded`.
fn told(origin: &Origin) -> (Option<String>, String) {
    let head = origin.last_request().head;
    let forwarded = head.get("forwarded").expect("it is configured").split(';').next();
    (head.get("x-forwarded-for").map(str::to_owned), forwarded.unwrap_or_default().to_owned())
}

#[test]
fn the_client_is_who_was_announced() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, "", cores);
        let own = (Some("127.0.0.1".to_owned()), "for=127.0.0.1".to_owned());
        let v4 = (Some("192.0.2.7".to_owned()), "for=192.0.2.7".to_owned());
        let v6 = (Some("2001:db8::7".to_owned()), "for=\"[2001:db8::7]\"".to_owned());
        let mapped = "[::ffff:192.0.2.7]:1".parse().expect("an address");
        let [four, six] = ["192.0.2.7:50123", "[2001:db8::7]:50123"];
        let [four, six] = [four, six].map(|it| it.parse().expect("an address"));
        let table = [
            (v1(four), &v4),
            (v1(six), &v6),
            (v2(four), &v4),
            (v2(six), &v6),
            (v1(mapped), &v4),
            (b"PROXY UNKNOWN\r\n".to_vec(), &own),
            (b"PROXY UNKNOWN 192.0.2.7 what ever\r\n".to_vec(), &own),
            (v2_of(0x20, 0x00, b""), &own),
            (v2_of(0x20, 0x11, &[9; 40]), &own),
            (v2_of(0x21, 0x00, b""), &own),
            (v2_of(0x21, 0x31, &[b'/'; 216]), &(None, "for=unknown".to_owned())),
        ];
        for (header, expected) in table {
            let mut client = announced(&proxy, &header);
            // It holds for the connection, not for its first request.
            for _ in 0..2 {
                assert_eq!(client.get("/").status(), 200);
                assert_eq!(told(&origin), *expected, "{}", header.escape_ascii());
            }
            // In one piece with the request.
            let mut client = announced(&proxy, &[&header[..], REQUEST, REQUEST].concat());
            assert_eq!([client.answer().status(), client.answer().status()], [200, 200]);
            assert_eq!(told(&origin), *expected, "{}", header.escape_ascii());
        }
        proxy.stop();
    });
}

#[test]
fn a_header_may_come_in_any_pieces() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, "", cores);
        let client: SocketAddr = "192.0.2.7:50123".parse().expect("an address");
        for header in [v1(client), v2(client)] {
            for at in 1..=header.len() {
                let bytes = [&header[..], REQUEST].concat();
                let mut client = announced(&proxy, &bytes[..at]);
                client.send(&bytes[at..]);
                assert_eq!(client.answer().status(), 200, "split at {at}");
                assert_eq!(told(&origin).0.as_deref(), Some("192.0.2.7"), "split at {at}");
            }
            let mut client = proxy.connect();
            for byte in [&header[..], REQUEST].concat() {
                client.send([byte]);
            }
            assert_eq!(client.answer().status(), 200);
            assert_eq!(told(&origin).0.as_deref(), Some("192.0.2.7"));
        }
    });
}

#[test]
fn whoever_is_not_announced_is_closed_without_a_word() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, "timeouts: {head_timeout_ms: 60000}", cores);
        let four = "192.0.2.7:50123".parse().expect("an address");
        let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        let cut = |at: usize| v2(four)[..at].to_vec();
        let refused: [Vec<u8>; 9] = [
            REQUEST.to_vec(),
            b"PROXY TCP4 192.0.2.7 203.0.113.1 0443 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 203.0.113.1 1 443\n".to_vec(),
            long,
            v2_of(0x31, 0x11, &[0; 12]),
            v2_of(0x21, 0x44, &[0; 12]),
            v2_of(0x21, 0x11, &[0; 11]),
            v2_of(0x20, 0x00, &[0; 5000]),
            [&SIGNATURE[..11], b"X"].concat(),
        ];
        for bytes in refused {
            let shown = bytes.escape_ascii().to_string();
            eprintln!("refused: {}", &shown[..shown.len().min(80)]);
            announced(&proxy, &bytes).expect_gone();
            assert_eq!(announced(&proxy, &v1(four)).get("/").status(), 200, "the next is served");
        }
        // Who ends before its header does.
        for bytes in [Vec::new(), b"PROXY".to_vec(), cut(13), cut(20)] {
            let mut client = announced(&proxy, &bytes);
            client.finish();
            client.expect_gone();
        }
        assert_eq!(announced(&proxy, &v1(four)).get("/").status(), 200);
        proxy.stop();
    });
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, "timeouts: {head_timeout_ms: 300}", cores);
        for bytes in [&b""[..], b"PROXY TCP4 192.", &SIGNATURE[..12]] {
            let begun = Instant::now();
            announced(&proxy, bytes).expect_end();
            assert!(begun.elapsed() > Duration::from_millis(200), "{:?}", begun.elapsed());
        }
        // A header is no head: that has its own time, and its own answer.
        let four = "192.0.2.7:50123".parse().expect("an address");
        let mut client = announced(&proxy, &[&v1(four)[..], b"GET / HT"].concat());
        assert_eq!(client.answer().status(), 408);
        proxy.stop();
    });
}

#[test]
fn a_drain_does_not_wait_for_those_who_say_nothing() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, "timeouts: {head_timeout_ms: 60000}", cores);
        let four = "192.0.2.7:50123".parse().expect("an address");
        let mut silent = proxy.connect();
        // Accepted after it, most likely; whatever it is, neither may hold the end up.
        assert_eq!(announced(&proxy, &v1(four)).get("/").status(), 200);
        let begun = Instant::now();
        proxy.stop();
        silent.expect_gone();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
}

#[test]
fn requests_of_one_announced_address_have_one_endpoint() {
    both(|cores| {
        let origins: Vec<Origin> =
            (0..5).map(|name: usize| Origin::answering(move |_| ok(name.to_string()))).collect();
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
        let by_source = "balancer: {kind: consistent_hash, hash_by: source}";
        let proxy = Proxy::start(&yaml(&addresses, "", by_source), cores);
        let endpoint = |last: u8| {
            let client = SocketAddr::from(([192, 0, 2, last], 1));
            let names: HashSet<String> =
                [v1(client), v2(client)].map(|it| announced(&proxy, &it).get("/").text()).into();
            assert_eq!(names.len(), 1, "{names:?}");
            names.into_iter().next()
        };
        let used: HashSet<_> = (0..50).map(endpoint).collect();
        assert!(used.len() >= 4, "{used:?}");
    });
}

#[test]
fn the_operator_sees_who_was_announced() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let telemetry =
            "telemetry: {flush_interval_ms: 20, exporters: [{kind: recent_requests}]}\n";
        let proxy = Proxy::start(&format!("{telemetry}{}", yaml(&[origin.address], "", "")), cores);
        let four = "192.0.2.7:50123".parse().expect("an address");
        assert_eq!(announced(&proxy, &v2(four)).get("/").status(), 200);
        let mut clients = Vec::new();
        eventually("the request is listed", || {
            let answer = Wire::connect(proxy.admin).get("/admin/requests.json");
            let list: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            let each = list.as_array().expect("a list").iter();
            clients = each.filter_map(|it| it["client"].as_str().map(str::to_owned)).collect();
            !clients.is_empty()
        });
        assert_eq!(clients, ["192.0.2.7"]);
    });
}

#[test]
fn a_reload_changes_what_is_expected_of_new_connections() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let plain = config(&[origin.address], "forwarding: {forwarded: append}", "");
        let proxy = Proxy::start_from_file(&plain, cores);
        let four = "192.0.2.7:50123".parse().expect("an address");
        let mut before = proxy.connect();
        assert_eq!(before.get("/").status(), 200);
        assert_eq!(announced(&proxy, &v1(four)).answer().status(), 400, "it is not expected");
        proxy.reload(&yaml(&[origin.address], "", ""));
        eventually("every shard expects it", || {
            (0..8).all(|_| announced(&proxy, REQUEST).some().is_ok_and(|it| it.is_empty()))
        });
        assert_eq!(announced(&proxy, &v1(four)).get("/").status(), 200);
        assert_eq!(told(&origin).0.as_deref(), Some("192.0.2.7"));
        assert_eq!(before.get("/").status(), 200, "it has begun already");
        assert_eq!(told(&origin).0.as_deref(), Some("127.0.0.1"));
    });
}
