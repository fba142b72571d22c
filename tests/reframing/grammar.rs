//! Messages that are broken on purpose: a grammar of all that decides where one ends, whose every
//! choice is mostly the sound one and sometimes another. What stands in a body is often a request
//! of its own, so that who takes its bytes for one counts more requests than were sent.

use crate::common::Rng;
use crate::forward::Asked;
use ringlane::http::Version;

/// A source of choices, as odd as it was made.
pub(crate) struct Grammar {
    rng: Rng,
    /// Of a thousand choices, so many are odd.
    oddness: u64,
}

const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n";

const BODIES: [&[u8]; 9] = [
    b"hello",
    b"",
    SMUGGLED,
    b"0\r\n\r\n",
    b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"X",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
];

/// `#` stands for the length.
const LENGTHS: [&str; 36] = [
    "#",
    "+#",
    "-#",
    "0#",
    "00000000000000000000#",
    "#,#",
    "#, #",
    "#,0",
    "0,#",
    "#, ",
    ",#",
    "0x#",
    "#.0",
    "#;a",
    "\"#\"",
    "#\0",
    "#\u{b}",
    "\u{b}#",
    "#\r\n #",
    "\r\n #",
    "# #",
    "#_0",
    "1844674407370955161#",
    "18446744073709551616",
    "4294967296",
    "",
    "-1",
    "#e0",
    "#\t",
    "\t#",
    "#\u{c}",
    "#\r",
    "#\n",
    "#a",
    "0",
    "999",
];

const CODINGS: [&str; 44] = [
    "chunked",
    "Chunked",
    "CHUNKED",
    "chunKed",
    "chunked ",
    " chunked",
    "\tchunked\t",
    "chunked,",
    ",chunked",
    "chunked, identity",
    "identity, chunked",
    "gzip, chunked",
    "gzip,\tchunked",
    "chunked, chunked",
    "chunked, gzip",
    "x-chunked",
    "xchunked",
    "chunkedx",
    "\"chunked\"",
    "'chunked'",
    "chunked;q=1",
    "chunked\0",
    "chunked\u{b}",
    "\u{b}chunked",
    "\u{c}chunked",
    "identity",
    "gzip",
    "trailers",
    "chun\r\n ked",
    "\r\n chunked",
    "chunked\r\n ",
    "cow",
    "ch\u{212a}unked",
    "chunke",
    "identity\r\nX: chunked",
    "chunked\n",
    "\nchunked",
    "chunked\r",
    "\rchunked",
    "deflate,chunked",
    "identity\n chunked",
    "",
    "chunked chunked",
    "chunked=1",
];

/// What the name of a framing field turns into; `#` stands for the name.
const NAMES: [&str; 22] = [
    "#", "# ", "#\t", " #", "\t#", "\u{b}#", "#\u{b}", "#\u{c}", "#\0", "\0#", "X-#", "#-X", "#\r",
    "#\n", "\n#", "\r#", "X: y\n#", "X: y\r#", "X:\r\n #", "#:", "#\u{ad}", "(#)",
];

const COLONS: [&str; 12] =
    [": ", ":", ":\t", " : ", ":\u{b}", ":\u{c}", ":\r\n ", ": \r ", ":\n ", ":\0", "\t: ", ""];

const LINE_ENDS: [&str; 12] = [
    "\r\n",
    "\n",
    "\r",
    "\r\r\n",
    "\n\r",
    "\r\n\r\n",
    "\0\r\n",
    "\u{b}\r\n",
    " \r\n",
    "\r\n ",
    "\u{85}",
    "\r\n\t",
];

/// `#` stands for the size in hexadecimal.
const SIZES: [&str; 44] = [
    "#",
    "0#",
    "000000000000#",
    "0000000000000000#",
    "0x#",
    "0X#",
    "+#",
    "-#",
    " #",
    "# ",
    "#\t",
    "#;",
    "#;a",
    "#;a=b",
    "#;a=\"b\\\"c\"",
    "#;a=\"\r\n\"",
    "#;a=\"\n\"",
    "#;a\n",
    "#;a\r",
    "#\n",
    "#\r",
    "# ;a",
    "#; a",
    "#;a =b",
    "#;a= b",
    "#\0",
    "#g",
    "#_0",
    "#.",
    "1000000000000000#",
    "10000000000000000#",
    "10000000#",
    "ffffffffffffffff",
    "fffffffffffffff0",
    "",
    "#,#",
    "#\u{b}",
    "\u{b}#",
    "##",
    "#;a;b=c;d=\"\"",
    "#;\u{e9}=1",
    "#;a=\"\u{e9}\"",
    "#;=b",
    "\r\n#",
];

const TRAILERS: [&str; 16] = [
    "",
    "A: b\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: x\r\n",
    "X : y\r\n",
    " fold\r\n",
    "A: b\r\n c\r\n",
    "A: b\n",
    "A\0: b\r\n",
    "A: \0\r\n",
    ": b\r\n",
    "GET /smuggled HTTP/1.1\r\n",
    "A: b\r",
    "Content_Length: 5\r\n",
    "A:\u{b}b\r\n",
];

const CONNECTIONS: [&str; 14] = [
    "keep-alive",
    "close",
    "Content-Length",
    "Transfer-Encoding",
    "close, content-length",
    "TE",
    "Host",
    "te, transfer-encoding",
    "X-A, Content-Length",
    "Upgrade",
    "connection",
    "\0",
    "",
    "Expect, Trailer",
];

const FIELDS: [&str; 26] = [
    "User-Agent: test",
    "Accept: */*",
    "X-A: Content-Length: 5",
    "X-A: b\u{e9}",
    "TE: trailers",
    "Expect: 100-continue",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABk",
    "Trailer: A",
    "X-Forwarded-For: 1.2.3.4",
    "X_Forwarded_For: 1.2.3.4",
    "Max-Forwards: 3",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: close",
    "Cookie: a=\"b\"",
    "Content-Type: a/b",
    "X-A:",
    ": b",
    "no colon",
    "X-A: \u{b}",
    "Content_Length: 5",
    "Transfer_Encoding: chunked",
    "content_length: 0",
    "Transfer-Encodin\u{67}\u{301}: chunked",
    "Content Length: 5",
];

const METHODS: [&str; 15] = [
    "POST", "PUT", "GET", "HEAD", "OPTIONS", "DELETE", "M-SEARCH", "TRACE", "CONNECT", "get",
    "G ET", "PO\0ST", "", " POST", "PATCH",
];

const TARGETS: [&str; 20] = [
    "/",
    "/a?b=c",
    "/%0d%0aX:%20y",
    "/a b",
    "/\tb",
    "/\u{e9}",
    "/a#b",
    "http://h/p",
    "http://h?q",
    "http://u@h/",
    "*",
    "//",
    "",
    "/|{}^\"<>\\`",
    "/a\x7f",
    "https://h/",
    "h:80",
    "/\0",
    "/\r",
    "/a HTTP/1.1\r\nX: y",
];

const VERSIONS: [&str; 14] = [
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "http/1.1",
    "HTTP/1.1 ",
    "HTTP /1.1",
    "HTTP/01.1",
    "HTTP/1.10",
    "HTTP/1.1\u{b}",
    "",
    "HTTP/1,1",
    "HTTP/1.1\r",
];

const STATUS_LINES: [&str; 19] = [
    "HTTP/1.1 200 OK",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 404",
    "HTTP/1.1 200 ",
    "HTTP/1.1 101 S",
    "HTTP/1.1 500 \u{e9}",
    "HTTP/1.1  200 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 +20 OK",
    "HTTP/1.1 099 OK",
    "ICY 200 OK",
    "HTTP/2.0 200 OK",
    "HTTP/1.1 200 O\0K",
    "HTTP/1.1 200 O\rK",
    "HTTP/1.1 999 X",
    "HTTP/1.1\t200 OK",
    "\r\nHTTP/1.1 200",
];

const INTERIMS: [&str; 5] = [
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
    "HTTP/1.1 100 C\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 102 P\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 199 \r\nContent_Length: 5\r\n\r\n",
];

/// Latin-1 where that can say it: odd bytes come as single ones.
fn bytes_of(text: &str) -> Vec<u8> {
    let one = |letter: char| match u8::try_from(letter) {
        Ok(byte) => vec![byte],
        Err(_) => letter.to_string().into_bytes(),
    };
    text.chars().flat_map(one).collect()
}

impl Grammar {
    pub(crate) fn new(rng: Rng) -> Grammar {
        Grammar { rng, oddness: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.rng.up_to(bound as u64) - 1) as usize
    }

    fn chance(&mut self, of_thousand: u64) -> bool {
        self.rng.up_to(1000) <= of_thousand
    }

    fn any<'t, T: ?Sized>(&mut self, all: &[&'t T]) -> &'t T {
        all[self.below(all.len())]
    }

    /// The first, or, as odd as this is, any.
    fn odd<'t>(&mut self, all: &[&'t str]) -> &'t str {
        if self.chance(self.oddness) { self.any(all) } else { all[0] }
    }

    /// How many bytes come next.
    pub(crate) fn cut(&mut self, whole: bool) -> impl FnMut(usize) -> usize {
        let mut rng = Rng::from(self.rng.next());
        move |left| {
            let most = if rng.up_to(4) == 1 { 3 } else { 40 };
            if whole { left } else { rng.up_to(most) as usize }
        }
    }

    pub(crate) fn is(&mut self, one_of: u64) -> bool {
        self.rng.up_to(one_of) == 1
    }

    /// One to three requests, of which one is broken, or all are.
    pub(crate) fn stream(&mut self) -> Vec<u8> {
        let oddness = [8, 20, 60, 150][self.below(4)];
        let count = 1 + self.below(3);
        let broken = self.below(count + 1);
        let mut out = Vec::new();
        for at in 0..count {
            self.oddness = if at == broken || broken == count { oddness } else { 0 };
            self.request(&mut out);
        }
        self.scramble(&mut out);
        out
    }

    fn request(&mut self, out: &mut Vec<u8>) {
        let method = if self.is(2) { "POST" } else { self.odd(&METHODS) };
        let target = self.odd(&TARGETS);
        let version = self.odd(&VERSIONS);
        self.line(out, &format!("{method} {target} {version}"));
        let hosts = ["Host: h", "Host: h:80", "Host:", "Host: a b", "Host: a\r\nHost: b", "X: y"];
        let host = self.odd(&hosts);
        self.line(out, host);
        self.rest(out);
    }

    /// Fields and body, as both kinds of message have them.
    fn rest(&mut self, out: &mut Vec<u8>) {
        let body = self.any(&BODIES);
        let chunked = self.is(2);
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let times = |odd: bool| if odd { 2 } else { 1 };
        if chunked {
            for _ in 0..times(self.chance(self.oddness)) {
                let coding = self.odd(&CODINGS);
                lines.push(self.field("Transfer-Encoding", coding));
            }
        }
        if !chunked || self.chance(self.oddness) {
            for _ in 0..times(self.chance(self.oddness)) {
                let length = self.odd(&LENGTHS).replace('#', &body.len().to_string());
                lines.push(self.field("Content-Length", &length));
            }
        }
        while self.is(2) {
            let known = if self.chance(self.oddness) { FIELDS.len() } else { 2 };
            lines.push(bytes_of(self.any(&FIELDS[..known])));
        }
        if self.is(6) {
            let options = self.odd(&CONNECTIONS);
            lines.push(bytes_of(&format!("Connection: {options}")));
        }
        while !lines.is_empty() {
            let line = lines.swap_remove(self.below(lines.len()));
            out.extend_from_slice(&line);
            let end = self.odd(&LINE_ENDS);
            out.extend_from_slice(&bytes_of(end));
        }
        let end = self.odd(&LINE_ENDS);
        out.extend_from_slice(&bytes_of(end));
        if chunked { self.chunks(out, body) } else { out.extend_from_slice(body) }
    }

    fn line(&mut self, out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(&bytes_of(text));
        out.extend_from_slice(&bytes_of(self.odd(&LINE_ENDS)));
    }

    fn field(&mut self, name: &str, value: &str) -> Vec<u8> {
        let name = match self.below(4) {
            0 => name.to_ascii_lowercase(),
            1 => name.to_ascii_uppercase(),
            _ => name.to_owned(),
        };
        let name = if self.chance(self.oddness / 4) { name.replace('-', "_") } else { name };
        let name = self.odd(&NAMES).replace('#', &name);
        let colon = self.odd(&COLONS);
        bytes_of(&format!("{name}{colon}{value}"))
    }

    fn chunks(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        let mut rest = body;
        while !rest.is_empty() {
            let (data, behind) = rest.split_at(1 + self.below(rest.len()));
            rest = behind;
            let off = if self.chance(self.oddness / 4) { self.below(3) } else { 1 };
            let size = format!("{:x}", (data.len() + off).saturating_sub(1));
            let line = self.odd(&SIZES).replace('#', &size);
            self.line(out, &line);
            out.extend_from_slice(data);
            let end = self.odd(&["\r\n", "\n", "", "\r", "XX", "\r\n\r\n", "\n\r", " \r\n"]);
            out.extend_from_slice(end.as_bytes());
        }
        let line = self.odd(&SIZES).replace('#', "0");
        self.line(out, &line);
        let trailers = if self.is(8) { TRAILERS[1] } else { self.odd(&TRAILERS) };
        out.extend_from_slice(&bytes_of(trailers));
        let end = self.odd(&LINE_ENDS);
        out.extend_from_slice(&bytes_of(end));
    }

    /// Now and then something breaks that no grammar knows of.
    fn scramble(&mut self, out: &mut Vec<u8>) {
        const BYTES: &[u8] = b"\0\t\n\x0b\x0c\r :,;\"0123fX_-\x7f\x85\xa0\xff";
        while self.is(8) && !out.is_empty() {
            let at = self.below(out.len());
            match self.below(4) {
                0 => out[at] = BYTES[self.below(BYTES.len())],
                1 => drop(out.remove(at)),
                2 => out.insert(at, BYTES[self.below(BYTES.len())]),
                _ => {
                    let end = (at + self.below(40)).min(out.len());
                    let copy = out[at..end].to_vec();
                    out.splice(at..at, copy);
                }
            }
        }
    }

    /// What origins answer to the requests of one client.
    pub(crate) fn answers(&mut self) -> (Vec<Asked>, Vec<Vec<u8>>) {
        let version = if self.is(5) { Version::Http10 } else { Version::Http11 };
        let oddness = [8, 20, 60, 150][self.below(4)];
        let mut all = (Vec::new(), Vec::new());
        for _ in 0..1 + self.below(3) {
            self.oddness = oddness;
            let method = if self.is(5) { "HEAD" } else { "GET" };
            all.0.push(Asked { method, version });
            let mut out = Vec::new();
            while self.is(8) {
                out.extend_from_slice(self.any(&INTERIMS).as_bytes());
            }
            let line =
                if self.is(4) { self.any(&STATUS_LINES[..8]) } else { self.odd(&STATUS_LINES) };
            self.line(&mut out, line);
            self.rest(&mut out);
            self.scramble(&mut out);
            all.1.push(out);
        }
        all
    }
}
