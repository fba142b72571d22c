//! Messages broken at random, from a seed that is printed: no input panics, pieces change nothing,
//! and what is sent on is a message that our own parser reads in the same way.

use super::*;
use crate::http::{ForwardRules, Framing, Method, Mode, Peer, PeerText, Version};

const ROUNDS: usize = 20_000;

const REQUESTS: [&str; 4] = [
    "POST /a/b?c HTTP/1.1\r\nHost: h:80\r\nContent-Length: 10\r\n\
     Connection: te, x\r\nTE: trailers\r\n\r\n",
    "\r\nPUT http://h?q HTTP/1.1\r\nHost: a\r\n\
     Transfer-Encoding: gzip, chunked\r\nExpect: 100-continue\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nX-Forwarded-For: 1\r\nForwarded: for=2\r\n\
     Max-Forwards: 3\r\nVia: 1.0 a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: [::1]\r\nConnection: Upgrade, keep-alive\r\n\
     Upgrade: a, websocket\r\n\r\n",
];

const RESPONSES: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nConnection: close, x\r\nX: y\r\nServer: s\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 404 N\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\nKeep-Alive: 5\r\n\r\n",
];

const CHUNKED: &[u8] =
    b"5;a=\"b\\\"\";c\r\nhello\r\n1a\r\n0123456789abcdefghijklmnop\r\n0\r\nA: b\r\n\r\nx";

/// What a mutation likes to put in.
const PIECES: [&[u8]; 20] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\0",
    b"\x7f",
    b"\xff",
    b"#",
    b"%2e",
    b"chunked",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: host\r\n",
    b"9",
    b"\"",
];

/// xorshift64*, enough to choose what to break.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(out.len());
            match self.below(4) {
                0 => out[at] = self.below(256) as u8,
                1 => drop(out.remove(at)),
                2 => {
                    let end = (at + self.below(12)).min(out.len());
                    let copy = out[at..end].to_vec();
                    out.splice(at..at, copy);
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    out.splice(at..at, piece.iter().copied());
                }
            }
        }
        out
    }
}

/// Seeded by the environment, so that a failure can be repeated.
fn random() -> Random {
    let seed = std::env::var("RINGLANE_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(1);
    println!("RINGLANE_SEED={seed}");
    Random(seed)
}

fn rules() -> ForwardRules {
    ForwardRules { via: Some("r".into()), x_forwarded: Mode::Append, forwarded: Mode::Append }
}

/// Where a head ends when it comes byte by byte; `Err` where it is refused.
fn by_byte(
    bytes: &[u8],
    mut parse: impl FnMut(&[u8]) -> Result<Option<usize>, ()>,
) -> Result<Option<usize>, ()> {
    (1..=bytes.len()).find_map(|end| parse(&bytes[..end]).transpose()).transpose()
}

#[test]
fn requests_are_read_on_as_they_were_read() {
    let (mut random, peer) = (random(), PeerText::new(Peer { ip: None, port: 0 }));
    let mut passed = 0;
    for round in 0..ROUNDS {
        let bytes = random.mutate(REQUESTS[round % REQUESTS.len()].as_bytes());
        let mut storage = FieldStorage::new();
        let whole = RequestParser::default().parse(&bytes, &mut storage);
        let mut parser = RequestParser::default();
        let pieces = by_byte(&bytes, |bytes| {
            let mut storage = FieldStorage::new();
            let found = parser.parse(bytes, &mut storage).map_err(drop)?;
            Ok(found.map(|(_, len)| len))
        });
        let Ok(Some((request, len))) = whole else {
            let refused = whole.is_err();
            assert_eq!(
                pieces,
                if refused { Err(()) } else { Ok(None) },
                "{}",
                bytes.escape_ascii()
            );
            continue;
        };
        assert_eq!(pieces, Ok(Some(len)), "{}", bytes.escape_ascii());
        passed += 1;
        let mut out = Vec::new();
        encode::request(&mut out, &request, &rules(), &peer, true);
        encode::end(&mut out);
        let mut storage = FieldStorage::new();
        let again = RequestParser::default().parse(&out, &mut storage);
        let shown = format!("{} -> {}", bytes.escape_ascii(), out.escape_ascii());
        let Ok(Some((again, end))) = again else { panic!("{shown}: {again:?}") };
        assert_eq!(end, out.len(), "{shown}");
        assert_eq!(again.facts.framing, request.facts.framing, "{shown}");
        assert_eq!((again.method, again.host), (request.method, request.host), "{shown}");
        assert_eq!(again.upgrade_token(), request.upgrade_token(), "{shown}");
        assert_eq!(again.facts.te_trailers, request.facts.te_trailers, "{shown}");
    }
    assert!(passed > ROUNDS / 20, "only {passed} passed");
}

#[test]
fn responses_are_read_on_as_they_were_read() {
    let (mut random, rules) = (random(), rules());
    let mut passed = 0;
    for round in 0..ROUNDS {
        let bytes = random.mutate(RESPONSES[round % RESPONSES.len()].as_bytes());
        let mut storage = FieldStorage::new();
        let whole = ResponseParser::default().parse(&bytes, &mut storage, Method::Get);
        let mut parser = ResponseParser::default();
        let pieces = by_byte(&bytes, |bytes| {
            let mut storage = FieldStorage::new();
            let found = parser.parse(bytes, &mut storage, Method::Get).map_err(drop)?;
            Ok(found.map(|(_, len)| len))
        });
        let Ok(Some((response, len))) = whole else {
            let refused = whole.is_err();
            assert_eq!(
                pieces,
                if refused { Err(()) } else { Ok(None) },
                "{}",
                bytes.escape_ascii()
            );
            continue;
        };
        assert_eq!(pieces, Ok(Some(len)), "{}", bytes.escape_ascii());
        passed += 1;
        let client_version = if round % 2 == 0 { Version::Http10 } else { Version::Http11 };
        let (framing, close) = outgoing_framing(response.facts.framing, client_version);
        let mut out = Vec::new();
        let context = ResponseContext { client_version, close, rules: &rules, date: None };
        encode::response(&mut out, &response, framing, &context);
        encode::end(&mut out);
        let mut storage = FieldStorage::new();
        let again = ResponseParser::default().parse(&out, &mut storage, Method::Get);
        let shown = format!("{} -> {}", bytes.escape_ascii(), out.escape_ascii());
        let Ok(Some((again, end))) = again else { panic!("{shown}: {again:?}") };
        assert_eq!((end, again.status), (out.len(), response.status), "{shown}");
        assert_eq!(again.facts.framing, framing, "{shown}");
        assert_eq!(again.facts.persistent, !close, "{shown}");
    }
    assert!(passed > ROUNDS / 20, "only {passed} passed");
}

#[test]
fn bodies_in_pieces_are_the_same_bodies() {
    let mut random = random();
    for _ in 0..ROUNDS {
        let bytes = random.mutate(CHUNKED);
        let mut whole = bytes.clone();
        let mut decoder = BodyDecoder::new(Framing::Chunked, Some(64));
        let found = decoder.decode(&mut whole).map(|it| (whole[..it.data].to_vec(), it.ended));
        let trailers = found.as_ref().is_ok_and(|it| it.1).then(|| decoder.take_trailers());
        let mut decoder = BodyDecoder::new(Framing::Chunked, Some(64));
        let (mut data, mut error, mut at) = (Vec::new(), None, 0);
        while at < bytes.len() && error.is_none() && !decoder.is_ended() {
            let end = (at + 1 + random.below(4)).min(bytes.len());
            let mut piece = bytes[at..end].to_vec();
            match decoder.decode(&mut piece) {
                Ok(decoded) => {
                    data.extend_from_slice(&piece[..decoded.data]);
                    at += decoded.consumed;
                }
                Err(found) => error = Some(found),
            }
        }
        let pieces = match error {
            Some(error) => Err(error),
            None => Ok((data, decoder.is_ended())),
        };
        assert_eq!(pieces, found, "{}", bytes.escape_ascii());
        if let Some(trailers) = trailers {
            assert_eq!(decoder.take_trailers(), trailers);
        }
    }
}
