//! Upgrades: which ones are passed on, and the bytes both ways once a connection was switched.

mod common;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use common::{
    DEADLINE, Gate, Origin, Pattern, Proxy, Rng, Wire, both, config, eventually, ok, sanitizer_kib,
};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

/// Switches and sends back what comes, to its end.
fn echo() -> Origin {
    Origin::start(|mut wire, _| {
        let Ok(Some(head)) = wire.try_head() else { return };
        assert_eq!(head.get("upgrade"), Some("websocket"));
        assert_eq!(head.get("connection"), Some("Upgrade"));
        // The first bytes of the new protocol right behind the head.
        let _ = wire.try_send(format!("{SWITCH}welcome"));
        while let Ok(data) = wire.some() {
            if data.is_empty() || wire.try_send(data).is_err() {
                break;
            }
        }
        let _ = wire.try_send("bye");
    })
}

fn switched(proxy: &Proxy) -> Wire {
    let mut client = proxy.connect();
    client.send(UPGRADE);
    let head = client.head();
    assert_eq!(head.status(), 101);
    assert_eq!(head.get("upgrade"), Some("websocket"));
    assert_eq!(head.get("connection"), Some("Upgrade"));
    assert_eq!(head.get("sec-websocket-accept"), Some("y"));
    assert_eq!(head.get("content-length"), None);
    client
}

#[test]
fn a_tunnel_carries_bytes_and_ends_both_ways() {
    both(|cores| {
        let origin = echo();
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = switched(&proxy);
        assert_eq!(client.take(7).expect("what came with the head"), b"welcome");
        for message in ["hello", "\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\0\u{1}"] {
            client.send(message);
            let echoed = client.take(message.len()).expect("an echo");
            assert_eq!(echoed, message.as_bytes());
        }
        // The end of one direction is passed on, and the other stays open.
        client.finish();
        assert_eq!(client.take(3).expect("the last word"), b"bye");
        client.expect_end();

        // What is sent before the 101 has come is not lost.
        let mut client = proxy.connect();
        client.send(format!("{UPGRADE}eager"));
        assert_eq!(client.head().status(), 101);
        assert_eq!(client.take(12).expect("both"), b"welcomeeager");
        drop(client);
        proxy.stop();
    });
}

/// What a client sends before it knows of the switch is the beginning of the tunnel: nothing of it
/// may be dropped, even where memory is short.
#[test]
fn what_is_sent_ahead_of_the_switch_arrives_though_memory_is_short() {
    both(|cores| {
        let gate = Arc::<Gate>::default();
        let origin = Origin::start({
            let gate = gate.clone();
            move |mut wire, _| {
                let Ok(Some(_)) = wire.try_head() else { return };
                gate.pass();
                let _ = wire.try_send(SWITCH);
                while let Ok(data) = wire.some() {
                    if data.is_empty() || wire.try_send(data).is_err() {
                        break;
                    }
                }
            }
        });
        let yaml = config(&[origin.address], "timeouts: {head_timeout_ms: 60000}", "");
        let shard = "drain_ms: 300, shard: {max_buffered_bytes: 1048576}";
        let proxy = Proxy::start_with(shard, &yaml, cores);
        // Heads that do not end, until each shard has refused one.
        let shards = cores.split(',').count();
        let part = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(50_000));
        let large: Vec<Wire> = (0..60 * shards)
            .map(|_| {
                let mut client = proxy.connect();
                let _ = client.try_send(&part);
                client
            })
            .collect();
        let overloaded = format!("{}/failures/overloaded", proxy.server(0));
        proxy.metrics_when("the budget is used up", |metrics| metrics.get(&overloaded) > 0);
        let ahead = Pattern::new(7).at(0, 40_000).to_vec();
        let mut client = proxy.connect();
        client.send([UPGRADE.as_bytes(), &ahead].concat());
        eventually("the origin has been asked", || gate.came() == 1);
        gate.open();
        assert_eq!(client.head().status(), 101);
        assert!(client.take(ahead.len()).expect("an echo") == ahead, "some of it is missing");
        drop(large);
        proxy.stop();
    });
}

#[test]
fn a_tunnel_streams_both_ways_at_once() {
    const BYTES: u64 = 32 << 20;
    let pattern = Arc::new(Pattern::new(Rng::seeded().next()));
    both(|cores| {
        let origin = echo();
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = switched(&proxy);
        client.take(7).expect("what came with the head");
        let mut uploader = client.twin();
        let sent = pattern.clone();
        let upload = thread::spawn(move || {
            let mut offset = 0;
            while offset < BYTES {
                let piece = sent.at(offset, BYTES - offset);
                uploader.send(piece);
                offset += piece.len() as u64;
            }
            uploader.finish();
        });
        let mut offset = 0;
        while offset < BYTES {
            let data = client.take(((BYTES - offset) as usize).min(65536)).expect("more");
            pattern.check(offset, &data);
            offset += data.len() as u64;
        }
        assert_eq!(client.take(3).expect("the last word"), b"bye");
        client.expect_end();
        upload.join().expect("all was sent");
        let memory = proxy.memory();
        assert!(memory.peak < (100 << 10) + sanitizer_kib(), "{memory:?}");
    });
}

#[test]
fn a_tunnel_ends_with_either_peer_and_with_silence() {
    both(|cores| {
        let (tell, heard) = mpsc::channel();
        let tell = Mutex::new(tell);
        let origin = Origin::start(move |mut wire, number| {
            let _ = wire.try_head();
            let _ = wire.try_send(SWITCH);
            if number == 0 {
                wire.reset();
                return;
            }
            let _ = wire.some();
            let _ = tell.lock().unwrap().send(());
        });
        let router = "timeouts: {tunnel_timeout_ms: 600}";
        let proxy = Proxy::start(&config(&[origin.address], router, ""), cores);
        // The origin resets, perhaps before its 101 was read.
        let mut client = proxy.connect();
        client.send(UPGRADE);
        if let Ok(Some(head)) = client.try_head() {
            assert!(matches!(head.status(), 101 | 502), "{}", head.start);
            if head.status() == 101 {
                client.expect_gone();
            }
        }
        // The client resets.
        let client = switched(&proxy);
        client.reset();
        heard.recv_timeout(DEADLINE).expect("the origin learns of it");
        // Nobody says anything.
        let mut client = switched(&proxy);
        client.expect_gone();
        heard.recv_timeout(DEADLINE).expect("the origin too");
        proxy.stop();
    });
}

#[test]
fn an_upgrade_can_be_declined() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/ws" => {
                b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nContent-Length: 0\r\n\r\n"
                    .to_vec()
            }
            _ => ok("plain"),
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        client.send(UPGRADE);
        let answer = client.answer();
        assert_eq!((answer.status(), answer.head.get("upgrade")), (426, Some("other")));
        assert_eq!(client.get("/").text(), "plain", "the connection goes on as HTTP");
        assert_eq!(origin.accepted(), 1);
    });
}

#[test]
fn only_what_is_configured_is_asked_for() {
    both(|cores| {
        let origin = Origin::answering(|request| {
            ok(request.head.all("upgrade").join("|")
                + ";"
                + &request.head.all("connection").join("|"))
        });
        let asked = |proxy: &Proxy, field: &str| {
            let mut client = proxy.connect();
            client.send(format!(
                "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 HTTP2-Settings: AAMAAABkAAQ\r\nUpgrade: {field}\r\n\r\n"
            ));
            client.answer().text()
        };
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        assert_eq!(asked(&proxy, "WebSocket"), "WebSocket;Upgrade");
        for other in ["h2c", "foo/2", "TLS/1.0, HTTP/1.1"] {
            assert_eq!(asked(&proxy, other), ";", "{other}");
        }
        assert_eq!(asked(&proxy, "h2c, websocket"), "websocket;Upgrade");
        let seen = origin.requests();
        assert!(seen.iter().all(|request| request.head.get("http2-settings").is_none()));

        let proxy = Proxy::start(&config(&[origin.address], "upgrades: [foo]", ""), cores);
        assert_eq!(asked(&proxy, "foo"), "foo;Upgrade");
        assert_eq!(asked(&proxy, "websocket"), ";");
        let proxy = Proxy::start(&config(&[origin.address], "upgrades: []", ""), cores);
        assert_eq!(asked(&proxy, "websocket"), ";");
    });
}

#[test]
fn a_switch_that_nobody_asked_for_is_refused() {
    both(|cores| {
        let origin = Origin::start(|mut wire, _| {
            let _ = wire.request();
            let _ = wire.try_send(SWITCH);
            let _ = wire.some();
        });
        let proxy = Proxy::start(&config(&[origin.address], "", ""), cores);
        let mut client = proxy.connect();
        let not_listed = UPGRADE.replace("websocket", "foo");
        let plain = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        // RFC 9110 section 7.8: `Upgrade` in a request of 1.0 is ignored.
        for request in [plain, &not_listed, &UPGRADE.replace("HTTP/1.1", "HTTP/1.0")] {
            client.send(request);
            let answer = client.answer();
            assert_eq!((answer.status(), answer.head.reason()), (502, Some("bad_response")));
        }
    });
}
