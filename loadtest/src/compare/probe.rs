//! One request at a time over plain sockets: whether a proxy's answer is the origin's, byte by
//! byte, and connections that carry one and then rest.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::response::Reader;

const PATIENCE: Duration = Duration::from_secs(10);
const PIECE_BYTES: usize = 64 << 10;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: compare\r\n\r\n";

/// What an origin sends.
pub fn body_of(origin: SocketAddr, body_bytes: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::with_capacity(body_bytes);
    let mut client = connect(origin)?;
    ask(&mut client, body_bytes, |piece| body.extend_from_slice(piece))?;
    match body.len() {
        length if length == body_bytes => Ok(body),
        length => Err(format!("the origin sent {length} bytes in place of {body_bytes}")),
    }
}

/// Whether a proxy sends the same; how many bytes its answer has in all.
pub fn check(proxy: SocketAddr, body: &[u8]) -> Result<u64, String> {
    let mut client = connect(proxy)?;
    let mut bytes = 0;
    // Not the first: a proxy may say something else in it, such as a cookie.
    for _ in 0..3 {
        let mut at = 0;
        let mut differs = None;
        bytes = ask(&mut client, body.len(), |piece| {
            if body.get(at..at + piece.len()) != Some(piece) {
                differs = differs.or(Some(at));
            }
            at += piece.len();
        })?;
        if at != body.len() {
            return Err(format!("its body has {at} bytes, the origin's has {}", body.len()));
        }
        if let Some(at) = differs {
            return Err(format!("its body differs from the origin's after {at} bytes"));
        }
    }
    Ok(bytes)
}

pub fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let client = TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let set = client.set_read_timeout(Some(PATIENCE)).and_then(|()| client.set_nodelay(true));
    set.map_err(|error| format!("{address}: {error}"))?;
    Ok(client)
}

/// Asks once, and reads the whole answer, a 200; how many bytes it had in all.
pub fn ask(
    client: &mut TcpStream,
    body_bytes: usize,
    mut body: impl FnMut(&[u8]),
) -> Result<u64, String> {
    let failed = |error| format!("no answer: {error}");
    client.write_all(REQUEST).map_err(failed)?;
    let mut reader = Reader::new();
    reader.begin(false);
    let mut bytes = 0;
    let mut buffer = vec![0; PIECE_BYTES.min(body_bytes + 4_096)];
    loop {
        let length = client.read(&mut buffer).map_err(failed)?;
        if length == 0 {
            return Err("it closed before its answer was whole".into());
        }
        bytes += length as u64;
        let read = reader.read(&buffer[..length], &mut body);
        let read = read.map_err(|error| format!("no right response: {error}"))?;
        if let Some(message) = read.complete {
            return match message.head.status {
                _ if read.taken < length => Err("it sent more than its answer".into()),
                200 if message.head.keep_alive => Ok(bytes),
                200 => Err("it closes the connection after an answer".into()),
                status => Err(format!("status {status}")),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread;

    /// Answers every request of one connection with the next of `answers`.
    fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut lines = BufReader::new(client.try_clone().expect("a socket")).lines();
            for answer in answers {
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                client.write_all(answer.as_bytes()).expect("it reads");
            }
        });
        address
    }

    const RIGHT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
    const DATED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nvia: x\r\n\r\nabc";

    #[test]
    fn answers_that_are_the_origins() {
        assert_eq!(check(server(&[RIGHT, RIGHT, DATED]), b"abc"), Ok(DATED.len() as u64));
        assert_eq!(body_of(server(&[RIGHT]), 3), Ok(b"abc".to_vec()));
    }

    #[test]
    fn answers_that_are_not() {
        let cases: [(&'static [&'static str], &str); 7] = [
            (&["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabd"], "after 0 bytes"),
            (&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab"], "has 2 bytes"),
            (&["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd"], "has 4 bytes"),
            (&["HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nabc"], "status 503"),
            (&["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"], "closed before"),
            (&["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd"], "more than its answer"),
            (
                &["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc"],
                "closes the connection",
            ),
        ];
        for (answers, expected) in cases {
            let why = check(server(answers), b"abc").expect_err(expected);
            assert!(why.contains(expected), "{why}, not {expected}");
        }
        assert!(body_of(server(&[RIGHT]), 4).is_err_and(|why| why.contains("3 bytes")));
    }
}
