//! Headers of the PROXY protocol: each whole, at every split, and with bytes behind it.

use super::*;

type Found = Result<Option<(Announced, usize)>, NotAnnounced>;

/// What becomes of bytes that come one by one: the first answer that is one, and when it came.
fn byte_by_byte(bytes: &[u8]) -> (Found, usize) {
    for end in 0..=bytes.len() {
        let found = announced(&bytes[..end]);
        if found != Ok(None) {
            return (found, end);
        }
    }
    (Ok(None), bytes.len())
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &len, block].concat()
}

const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

fn v6() -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    [&ip("2001:db8::7")[..], &ip("::1"), &[0x30, 0x39], &[0, 80]].concat()
}

fn client(text: &str) -> Announced {
    Announced::Client(text.parse().unwrap())
}

#[test]
fn what_is_announced() {
    let tlvs = [&V4[..], b"\x01\x00\x02h2", &[0xEE; 600]].concat();
    let unix = [0; 216];
    let table: Vec<(Vec<u8>, Announced)> = vec![
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec(), client("192.0.2.7:12345")),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n".to_vec(), client("0.0.0.0:0")),
        (b"PROXY TCP6 2001:db8::7 ::1 12345 80\r\n".to_vec(), client("[2001:db8::7]:12345")),
        (b"PROXY UNKNOWN\r\n".to_vec(), Announced::Nobody),
        (b"PROXY UNKNOWN ffff::1 what ever \0\r\n".to_vec(), Announced::Nobody),
        (b"PROXY UNKNOWN \xFF\r\n".to_vec(), Announced::Nobody),
        (v2(0x21, 0x11, &V4), client("192.0.2.7:12345")),
        (v2(0x21, 0x12, &V4), client("192.0.2.7:12345")),
        (v2(0x21, 0x11, &tlvs), client("192.0.2.7:12345")),
        (v2(0x21, 0x21, &v6()), client("[2001:db8::7]:12345")),
        (v2(0x21, 0x22, &v6()), client("[2001:db8::7]:12345")),
        (v2(0x21, 0x31, &unix), Announced::Unix),
        (v2(0x21, 0x32, &unix), Announced::Unix),
        (v2(0x21, 0x00, b""), Announced::Nobody),
        (v2(0x21, 0x00, &[7; 20]), Announced::Nobody),
        (v2(0x20, 0x00, b""), Announced::Nobody),
        // Of LOCAL the family is not looked at, nor what follows it.
        (v2(0x20, 0x11, b""), Announced::Nobody),
        (v2(0x20, 0xFF, &[7; 20]), Announced::Nobody),
        (v2(0x20, 0x00, &[0; MAX_BYTES - FIXED_BYTES]), Announced::Nobody),
    ];
    for (header, who) in table {
        let found = Ok(Some((who, header.len())));
        let shown = header.escape_ascii();
        assert_eq!(byte_by_byte(&header), (found, header.len()), "{shown}");
        let behind = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(announced(&behind), found, "{shown}");
    }
}

#[test]
fn what_is_refused_is_refused_at_once() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE_BYTES - 15));
    assert_eq!(long.len(), MAX_LINE_BYTES + 1);
    let too_much = v2(0x20, 0x00, &[0; MAX_BYTES - FIXED_BYTES + 1]);
    // With how many bytes it must be known at the latest.
    let table: Vec<(Vec<u8>, usize)> = vec![
        (b"GET / HTTP/1.1\r\n".to_vec(), 1),
        (b"POST".to_vec(), 2),
        (b"PROXY\tTCP4".to_vec(), 6),
        (b"proxy TCP4".to_vec(), 1),
        (b"\0".to_vec(), 1),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), 12),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\n".to_vec(), 39),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\r".to_vec(), 40),
        (b"PROXY TCP4 192.0.2.7\r10.0.0.1 12345 80\r\n".to_vec(), 22),
        (b"PROXY UNKNOWN a\rb\r\n".to_vec(), 17),
        (long.clone().into_bytes(), MAX_LINE_BYTES),
        (v2(0x11, 0x11, &V4), 13),
        (v2(0x22, 0x11, &V4), 13),
        (v2(0x21, 0x10, &V4), 14),
        (v2(0x21, 0x13, &V4), 14),
        (v2(0x21, 0x41, &V4), 14),
        (v2(0x21, 0x11, &V4[..11]), 16),
        (v2(0x21, 0x21, &v6()[..35]), 16),
        (v2(0x21, 0x31, &[0; 215]), 16),
        (too_much, 16),
    ];
    for (bytes, at) in table {
        assert_eq!(byte_by_byte(&bytes), (Err(NotAnnounced), at), "{}", bytes.escape_ascii());
        assert_eq!(announced(&bytes), Err(NotAnnounced), "{}", bytes.escape_ascii());
    }
}

#[test]
fn lines_that_are_not_quite_right() {
    let lines = [
        "TCP4 192.0.2.7 10.0.0.1 12345",
        "TCP4 192.0.2.7 10.0.0.1 12345 80 ",
        "TCP4 192.0.2.7 10.0.0.1 12345 80 90",
        "TCP4  192.0.2.7 10.0.0.1 12345 80",
        "TCP4 192.0.2.7 10.0.0.1 12345 65536",
        "TCP4 192.0.2.7 10.0.0.1 +1 80",
        "TCP4 192.0.2.7 10.0.0.1 01 80",
        "TCP4 192.0.2.7 10.0.0.1 1  80",
        "TCP4 192.0.2.7 10.0.0.1  80",
        "TCP4 192.0.02.7 10.0.0.1 1 80",
        "TCP4 192.0.2.256 10.0.0.1 1 80",
        "TCP4 192.0.2.7 10.0.0 1 80",
        "TCP4 ::1 ::1 1 80",
        "TCP6 192.0.2.7 10.0.0.1 1 80",
        "TCP6 [::1] ::1 1 80",
        "TCP6 fe80::1%eth0 ::1 1 80",
        "TCP5 192.0.2.7 10.0.0.1 1 80",
        "tcp4 192.0.2.7 10.0.0.1 1 80",
        "UNKNOWNS",
        "",
        " TCP4 192.0.2.7 10.0.0.1 1 80",
        "TCP4 192.0.2.7\t10.0.0.1 1 80",
        "TCP4 192.0.2.7 10.0.0.1 1 80\0",
    ];
    for line in lines {
        let whole = format!("PROXY {line}\r\n");
        assert_eq!(announced(whole.as_bytes()), Err(NotAnnounced), "{line:?}");
    }
}

#[test]
fn nothing_yet() {
    assert_eq!(announced(b""), Ok(None));
    assert_eq!(announced(b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r"), Ok(None));
    assert_eq!(announced(&v2(0x21, 0x11, &V4)[..27]), Ok(None));
}
