//! `Host` and the authority of a target: `uri-host [":" port]` (RFC 9110 section 7.2).
//!
//! A host is a reg-name, an IPv4 address or an IPv6 address in brackets. Commas, which RFC 3986
//! allows in a reg-name, are refused: a list of hosts is what merging two `Host` fields leaves
//! behind, and who reads which of them is a guess. Names are not resolved or compared here.

/// A host without its port; the port's digits, if any, apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'b> {
    /// With the brackets of an IPv6 address.
    pub host: &'b [u8],
    pub port: Option<&'b [u8]>,
}

/// Splits host and port without checking either.
pub fn split_authority(value: &[u8]) -> Authority<'_> {
    let after_bracket = match value.first() {
        Some(b'[') => memchr::memchr(b']', value).map_or(value.len(), |at| at + 1),
        _ => 0,
    };
    match memchr::memrchr(b':', &value[after_bracket..]) {
        Some(at) => Authority {
            host: &value[..after_bracket + at],
            port: Some(&value[after_bracket + at + 1..]),
        },
        None => Authority { host: value, port: None },
    }
}

/// Whether a value may stand in `Host`. The empty value may not here: RFC 9112 section 3.2 allows
/// it to a request without authority, and the caller knows whether it has one.
pub fn host_is_valid(value: &[u8]) -> bool {
    let Authority { host, port } = split_authority(value);
    port.is_none_or(port_is_valid)
        && match host {
            [b'[', inner @ .., b']'] => is_ipv6(inner),
            [] => false,
            name => is_reg_name(name),
        }
}

/// `port = *DIGIT` (RFC 3986 section 3.2.3), and no more than a port can be.
fn port_is_valid(port: &[u8]) -> bool {
    let mut number = 0_u32;
    for &byte in port {
        if !byte.is_ascii_digit() {
            return false;
        }
        number = (number * 10 + u32::from(byte - b'0')).min(u32::from(u16::MAX) + 1);
    }
    number <= u32::from(u16::MAX)
}

fn is_ipv6(inner: &[u8]) -> bool {
    std::str::from_utf8(inner).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// RFC 3986 section 3.2.2, without the comma.
fn is_reg_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        let fits = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => true,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' => true,
            b'%' => {
                let digits = bytes.next().zip(bytes.next());
                digits.is_some_and(|(a, b)| a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
            }
            _ => false,
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_may_stand() {
        let good = [
            "a",
            "example.com",
            "example.com:8080",
            "example.com.",
            "a_b.c",
            "1.2.3.4:80",
            "h:",
            "[::1]",
            "[2001:db8::1]:443",
            "[::ffff:1.2.3.4]",
            "a%2Fb",
            "h:65535",
            "h:00080",
        ];
        for host in good {
            assert!(host_is_valid(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn hosts_that_may_not() {
        let bad = [
            "",
            ":80",
            "a b",
            "a/b",
            "user@h",
            "a,b",
            "h:65536",
            "h:99999999999",
            "h:8a",
            "h:-1",
            "[::1",
            "::1",
            "[::1]x",
            "[gg::]",
            "[]",
            "a:b:c",
            "a%2",
            "a%zz",
            "h?x",
            "h#x",
            "h\\x",
            "[::1%25eth0]",
            "\u{e9}.com",
            "a\tb",
            "<h>",
        ];
        for host in bad {
            assert!(!host_is_valid(host.as_bytes()), "{host}");
        }
    }
}
