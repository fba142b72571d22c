//! Which service a request goes to: by host and path, the first rule that matches.
//!
//! - Hosts are compared without regard to case, port and trailing dot, and with percent-encoded
//!   unreserved characters decoded, so that no spelling of a name escapes its rule. `*.example.com`
//!   matches every name below `example.com`, not `example.com` itself.
//! - Paths are compared with percent-encoded unreserved characters and dot segments resolved
//!   (RFC 3986 section 6.2.2), so that no spelling of a path escapes its rule; a `%2F` is matched
//!   as it stands. The request itself goes on as it came.
//! - A prefix matches whole segments: `/v1` and `/v1/` match `/v1` and `/v1/x`, not `/v10`.
//! - A path that climbs above the root is an error, whatever the rules say.
//! - `*` (OPTIONS) is matched by host alone.

use crate::http::split_authority;

/// One rule, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// None matches every host.
    pub host: Option<String>,
    /// None matches every path.
    pub path_prefix: Option<String>,
    pub service: usize,
}

/// The path has more `..` than segments before it: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClimbsAboveRoot;

/// The rules of one router, in order.
#[derive(Debug, Clone)]
pub struct RouteTable {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    host: HostPattern,
    /// Resolved, without a slash at its end; empty matches every path.
    prefix: Vec<u8>,
    service: usize,
}

#[derive(Debug, Clone)]
enum HostPattern {
    Any,
    Exact(Vec<u8>),
    /// What follows the `*`, with its dot.
    Below(Vec<u8>),
}

/// A longer path that needs resolving is resolved on the heap.
const STACK_PATH_BYTES: usize = 512;

impl RouteTable {
    /// Takes valid rules: a prefix that climbs above the root matches nothing.
    pub fn new(routes: Vec<Route>) -> RouteTable {
        RouteTable { rules: routes.iter().filter_map(Rule::new).collect() }
    }

    /// The service that `host` (as in `Host`) and `path` (with its query, as in the target) go to.
    ///
    /// # Errors
    /// The path climbs above the root.
    pub fn find(&self, host: &[u8], path: &[u8]) -> Result<Option<usize>, ClimbsAboveRoot> {
        let host = Host::new(host);
        if path == b"*" {
            return Ok(self.first(|rule| rule.host.matches(&host)));
        }
        let path = match memchr::memchr(b'?', path) {
            Some(query) => &path[..query],
            None => path,
        };
        if is_plain(path) {
            return Ok(self.first(|rule| rule.matches(&host, path)));
        }
        let (mut stack, mut heap) = ([0; STACK_PATH_BYTES], Vec::new());
        let room = match stack.get_mut(..path.len()) {
            Some(room) => room,
            None => {
                heap.resize(path.len(), 0);
                &mut heap[..]
            }
        };
        let len = resolve(path, room)?;
        Ok(self.first(|rule| rule.matches(&host, &room[..len])))
    }

    fn first(&self, matches: impl Fn(&Rule) -> bool) -> Option<usize> {
        self.rules.iter().find(|rule| matches(rule)).map(|rule| rule.service)
    }
}

impl Rule {
    fn new(route: &Route) -> Option<Rule> {
        let host = match &route.host {
            None => HostPattern::Any,
            Some(host) => HostPattern::new(host),
        };
        let mut written = route.path_prefix.clone().unwrap_or_default().into_bytes();
        if !written.starts_with(b"/") {
            written.insert(0, b'/');
        }
        let mut prefix = vec![0; written.len()];
        let len = resolve(&written, &mut prefix).ok()?;
        prefix.truncate(len);
        while prefix.last() == Some(&b'/') {
            prefix.pop();
        }
        Some(Rule { host, prefix, service: route.service })
    }

    fn matches(&self, host: &Host<'_>, path: &[u8]) -> bool {
        self.host.matches(host)
            && path
                .strip_prefix(self.prefix.as_slice())
                .is_some_and(|rest| self.prefix.is_empty() || matches!(rest, [] | [b'/', ..]))
    }
}

impl HostPattern {
    fn new(host: &str) -> HostPattern {
        match host.strip_prefix('*') {
            Some("") => HostPattern::Any,
            Some(suffix) => HostPattern::Below(Host::new(suffix.as_bytes()).to_vec()),
            None => HostPattern::Exact(Host::new(host.as_bytes()).to_vec()),
        }
    }

    fn matches(&self, host: &Host<'_>) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => host.len == name.len() && host.ends_with(name),
            HostPattern::Below(suffix) => host.len > suffix.len() && host.ends_with(suffix),
        }
    }
}

/// A host without its port, as it is compared.
struct Host<'b> {
    bytes: &'b [u8],
    /// It has a percent sign; no client that means well sends one.
    is_coded: bool,
    /// Once decoded, without a dot at its end.
    len: usize,
}

impl<'b> Host<'b> {
    fn new(value: &'b [u8]) -> Host<'b> {
        let bytes = split_authority(value).host;
        let is_coded = memchr::memchr(b'%', bytes).is_some();
        let (len, last) = match is_coded {
            false => (bytes.len(), bytes.last().copied()),
            true => (Decoded(bytes).count(), Decoded(bytes).last()),
        };
        Host { bytes, is_coded, len: if last == Some(b'.') { len - 1 } else { len } }
    }

    /// With what is no longer than it is, in any case.
    fn ends_with(&self, text: &[u8]) -> bool {
        let start = self.len - text.len();
        match self.is_coded {
            false => self.bytes[start..self.len].eq_ignore_ascii_case(text),
            true => {
                let mut pairs = Decoded(self.bytes).skip(start).zip(text);
                pairs.all(|(have, want)| have.eq_ignore_ascii_case(want))
            }
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        Decoded(self.bytes).take(self.len).collect()
    }
}

/// Whether a path needs no resolving: no `%`, and no segment that starts with a dot.
fn is_plain(path: &[u8]) -> bool {
    path.first() != Some(&b'.')
        && !memchr::memchr2_iter(b'%', b'.', path)
            .any(|at| path[at] == b'%' || path[at - 1] == b'/')
}

/// Resolves a path into `room`, which is as long as the path; the length of the result.
///
/// `..` takes the segment before it away, and an empty one (`//`) counts as one, as in RFC 3986
/// section 5.2.4.
fn resolve(path: &[u8], room: &mut [u8]) -> Result<usize, ClimbsAboveRoot> {
    let decoded = decode_unreserved(path, room);
    // Segments move towards the start of the same room, never past what is still to be read.
    let (mut read, mut written) = (0, 0);
    while read < decoded {
        let from = if room[read] == b'/' { read + 1 } else { read };
        let end = memchr::memchr(b'/', &room[from..decoded]).map_or(decoded, |at| from + at);
        let is_last = end == decoded;
        match &room[from..end] {
            b"." => {
                if is_last {
                    room[written] = b'/';
                    written += 1;
                }
            }
            b".." => {
                let slash = memchr::memrchr(b'/', &room[..written]).ok_or(ClimbsAboveRoot)?;
                written = slash;
                if is_last {
                    room[written] = b'/';
                    written += 1;
                }
            }
            _ => {
                room.copy_within(read..end, written);
                written += end - read;
            }
        }
        read = end;
    }
    Ok(written)
}

fn decode_unreserved(path: &[u8], room: &mut [u8]) -> usize {
    let mut written = 0;
    for (byte, place) in Decoded(path).zip(room) {
        *place = byte;
        written += 1;
    }
    written
}

/// Bytes, with percent-encoded unreserved characters decoded (RFC 3986 section 6.2.2.2).
struct Decoded<'b>(&'b [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        let decoded = match rest.get(..2) {
            Some(digits) if byte == b'%' => hex(digits).filter(|&it| is_unreserved(it)),
            _ => None,
        };
        self.0 = if decoded.is_some() { &rest[2..] } else { rest };
        Some(decoded.unwrap_or(byte))
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| (digits[at] as char).to_digit(16);
    Some((digit(0)? << 4 | digit(1)?) as u8)
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(path: &str) -> Option<String> {
        let mut room = vec![0; path.len()];
        let len = resolve(path.as_bytes(), &mut room).ok()?;
        assert!(
            !is_plain(path.as_bytes()) || &room[..len] == path.as_bytes(),
            "a plain path resolves to itself: {path}"
        );
        Some(String::from_utf8_lossy(&room[..len]).into_owned())
    }

    #[test]
    fn paths_are_resolved() {
        let table = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..a/...", "/..a/..."),
            ("/%61/%7e%2D", "/a/~-"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a%2Fb/..", "/"),
            ("/%2f%zz%4", "/%2f%zz%4"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/a/..", "/"),
            ("", ""),
        ];
        for (path, expected) in table {
            assert_eq!(resolved(path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn climbing_above_the_root_is_an_error() {
        let table = RouteTable::new(vec![rule(None, None, 0)]);
        for path in ["/..", "/../a", "/a/../..", "/%2e%2e", "/a/../../b?c", "/./.."] {
            assert_eq!(table.find(b"h", path.as_bytes()), Err(ClimbsAboveRoot), "{path}");
        }
        let long = format!("/{}/../..", "a".repeat(STACK_PATH_BYTES));
        assert_eq!(table.find(b"h", long.as_bytes()), Err(ClimbsAboveRoot));
        assert_eq!(table.find(b"h", b"/a?/../.."), Ok(Some(0)));
    }

    fn rule(host: Option<&str>, prefix: Option<&str>, service: usize) -> Route {
        Route { host: host.map(Into::into), path_prefix: prefix.map(Into::into), service }
    }

    #[test]
    fn the_first_match_wins() {
        let table = RouteTable::new(vec![
            rule(Some("api.example.com"), Some("/v1/"), 0),
            rule(Some("*.Example.com."), None, 1),
            rule(None, Some("/static"), 2),
            rule(Some("[::1]"), Some("/"), 3),
            rule(None, Some("/a%2Fb"), 4),
        ]);
        let cases: [(&str, &str, Option<usize>); 20] = [
            ("api.example.com", "/v1/x", Some(0)),
            ("API.EXAMPLE.COM:8080", "/v1", Some(0)),
            ("api.example.com.", "/v1?q", Some(0)),
            ("api.example.com", "/v10", Some(1)),
            ("api.example.com", "/x/../v1/y", Some(0)),
            ("api.example.com", "/%76%31/y", Some(0)),
            ("api.example.com", "*", Some(0)),
            ("a.b.example.com", "/", Some(1)),
            ("example.com", "/", None),
            ("badexample.com", "/", None),
            ("example.com", "/static/x", Some(2)),
            ("example.com", "/static", Some(2)),
            ("example.com", "/statics", None),
            ("example.com", "/Static", None),
            ("example.com", "/x/../static", Some(2)),
            ("[::1]:80", "/", Some(3)),
            ("", "?q", None),
            ("[::1]", "?q", Some(3)),
            ("h", "/a%2Fb/c", Some(4)),
            ("h", "/a/b/c", None),
        ];
        for (host, path, service) in cases {
            let found = table.find(host.as_bytes(), path.as_bytes());
            assert_eq!(found, Ok(service), "{host} {path}");
        }
    }

    #[test]
    fn no_spelling_of_a_host_escapes_its_rule() {
        let table = RouteTable::new(vec![
            rule(Some("api.example.com"), None, 0),
            rule(Some("*.example.org"), None, 1),
            rule(Some("%63.exampl%65."), None, 2),
            rule(Some("a%2Fb"), None, 3),
            rule(None, None, 9),
        ]);
        for (host, service) in [
            ("%61pi.example.com", 0),
            ("%41PI.EXAMPLE.COM:8080", 0),
            ("api%2Eexample%2ecom", 0),
            ("api.example.com%2E", 0),
            ("%61%70%69%2e%65%78%61%6d%70%6c%65%2e%63%6f%6d%2e:80", 0),
            ("a.%65xample.org", 1),
            ("%61.example.org.", 1),
            ("a%2eb.exampl%65.or%67%2e", 1),
            ("c.example", 2),
            ("%43.example", 2),
            ("a%2fb", 3),
            ("%61%2FB", 3),
            // Others, all the same.
            ("%61pi.example.comx", 9),
            ("x%61pi.example.com", 9),
            ("%2561pi.example.com", 9),
            ("api.example.com%2E.", 9),
            ("api.example.com%3A80", 9),
            ("%65xample.org", 9),
            ("%2e.org", 9),
            ("bad%65xample.org", 9),
            ("a/b", 9),
            ("%61", 9),
            ("%2e", 9),
            ("%", 9),
            ("%6", 9),
            ("api.example.com%", 9),
        ] {
            assert_eq!(table.find(host.as_bytes(), b"/"), Ok(Some(service)), "{host}");
            assert_eq!(table.find(host.as_bytes(), b"*"), Ok(Some(service)), "{host}");
        }
    }

    #[test]
    fn long_paths_are_resolved_too() {
        let table = RouteTable::new(vec![rule(None, Some("/v1"), 7)]);
        let path = format!("/{}/../v1/x", "a".repeat(2 * STACK_PATH_BYTES));
        assert_eq!(table.find(b"h", path.as_bytes()), Ok(Some(7)));
    }
}
