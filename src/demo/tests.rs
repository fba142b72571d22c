//! The origins over real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::*;

fn trio() -> Running {
    start([SocketAddr::from(([127, 0, 0, 1], 0)); 3]).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// Head and body of the answer to a request that asks for the connection to be closed.
fn ask(address: SocketAddr, line: &str, fields: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut socket = connect(address);
    let head = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

#[test]
fn each_names_itself() {
    let running = trio();
    for (address, name) in running.addresses().iter().zip(["plain", "slow", "flaky"]) {
        let (head, body) = ask(*address, "GET /", "", b"");
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(body, format!("hello from origin {name}\n").as_bytes());
    }
}

#[test]
fn made_bodies_have_their_length_and_pattern() {
    let running = trio();
    let address = running.addresses()[0];
    let (head, body) = ask(address, "GET /bytes/130k", "", b"");
    assert!(head.contains("\r\ncontent-length: 133120\r\n"), "{head}");
    assert_eq!(body.len(), 133_120);
    assert!(body.iter().enumerate().all(|(at, byte)| *byte == PATTERN[at % PATTERN.len()]));
    let (head, body) = ask(address, "GET /chunked/5", "", b"");
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(body, b"5\r\n01234\r\n0\r\n\r\n");
    let (head, body) = ask(address, "HEAD /bytes/1g", "", b"");
    assert!(head.contains("\r\ncontent-length: 1073741824\r\n"), "{head}");
    assert!(body.is_empty());
    for count in ["x", "-1", "99999999999g", "k"] {
        let (head, _) = ask(address, &format!("GET /bytes/{count}"), "", b"");
        assert!(head.starts_with("http/1.1 400"), "{count}: {head}");
    }
}

#[test]
fn bodies_come_back_and_are_counted() {
    let running = trio();
    let address = running.addresses()[0];
    let length = "Content-Length: 5\r\n";
    assert_eq!(ask(address, "POST /echo", length, b"hello").1, b"hello");
    assert_eq!(ask(address, "PUT /upload", length, b"hello").1, b"5\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let body = b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
    assert_eq!(ask(address, "POST /upload", chunked, body).1, b"8\n");
}

#[test]
fn an_echo_answers_while_it_reads() {
    let running = trio();
    let mut socket = connect(running.addresses()[0]);
    let head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";
    socket.write_all(head).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.ends_with(b"hello") {
        let count = socket.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn statuses_delays_and_heads() {
    let running = trio();
    let address = running.addresses()[0];
    assert!(ask(address, "GET /status/418", "", b"").0.starts_with("http/1.1 418"));
    assert!(ask(address, "GET /status/100", "", b"").0.starts_with("http/1.1 400"));
    assert!(ask(address, "GET /nothing", "", b"").0.starts_with("http/1.1 404"));
    assert_eq!(ask(address, "GET /delay/1", "", b"").1, b"after 1 ms\n");
    let (_, body) = ask(address, "GET /headers?a=b", "X-Own: 1\r\n", b"");
    let text = String::from_utf8(body).unwrap();
    assert!(text.starts_with("GET /headers?a=b HTTP/1.1\n"), "{text}");
    assert!(text.contains("x-own: 1\n"), "{text}");
}

#[test]
fn a_websocket_echoes() {
    let running = trio();
    let mut socket = connect(running.addresses()[0]);
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    // The frame of RFC 6455 5.7: "Hello", masked; it comes back without a mask.
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    socket.write_all(&masked).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\x81\x05Hello") {
        socket.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    assert!(String::from_utf8_lossy(&answer).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

#[test]
fn failures_are_as_many_as_said() {
    for percent in [0, 1, 2, 50, 100] {
        let failed = (0..1_000).filter(|number| fails(*number, percent)).count();
        assert_eq!(failed, percent as usize * 10);
    }
}

#[test]
fn a_port_in_use_is_named_and_a_dropped_one_is_free() {
    let running = trio();
    let taken = running.addresses()[0];
    let error = start([taken; 3]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {taken} for an origin: ")), "{error}");
    drop(running);
    let origin =
        Origin { address: taken, name: "again".to_owned(), delay: Duration::ZERO, fail_percent: 0 };
    assert_eq!(serve(vec![origin]).unwrap().addresses(), [taken]);
}
