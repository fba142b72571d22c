//! HTTP/1.1 as the strictest of recipients reads it, bit by bit; written from RFC 9112 and apart
//! from `http1`, which it is there to check.

/// A message that is being read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize,
    /// With the CRLF behind it.
    Chunk(u64),
    Trailers,
    UntilEnd,
}

#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) start: String,
    pub(super) fields: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) enum Event {
    Head(Head),
    Data(Vec<u8>),
    /// With the names of trailer fields.
    End(Vec<String>),
}

/// What a head says of the body that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilEnd,
}

impl Head {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice in {self:?}");
        value
    }

    /// What length and codings say; `None`: neither says anything.
    pub(super) fn framing(&self) -> Option<Framing> {
        match (self.field("Content-Length"), self.field("Transfer-Encoding")) {
            (None, None) => None,
            (Some(length), None) => {
                assert!(length.bytes().all(|it| it.is_ascii_digit()), "{self:?}");
                Some(Framing::Length(length.parse().expect("a length")))
            }
            (None, Some(codings)) => {
                assert_eq!(codings, "chunked", "{self:?}");
                Some(Framing::Chunked)
            }
            (Some(_), Some(_)) => panic!("a length and codings: {self:?}"),
        }
    }

    pub(super) fn status(&self) -> u16 {
        let rest = self.start.strip_prefix("HTTP/1.1 ").expect("a status line");
        rest[..3].parse().expect("a status")
    }
}

impl Reader {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing of a further message has come.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Head) && self.bytes.is_empty()
    }

    /// What follows is no message of HTTP's.
    pub(super) fn switch(&mut self) {
        self.state = State::UntilEnd;
    }

    /// The connection has ended cleanly. Whether a body ends with it.
    pub(super) fn ends_here(&mut self) -> bool {
        let ends = matches!(self.state, State::UntilEnd);
        if ends {
            self.state = State::Head;
        }
        ends
    }

    /// What comes next, as far as it has come. `framing` says what body follows a head.
    pub(super) fn next(&mut self, framing: impl FnOnce(&Head) -> Framing) -> Option<Event> {
        loop {
            return match self.state {
                State::Head => {
                    let end = self.bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
                    let head = head(&self.take(end + 4)[..end]);
                    self.state = match framing(&head) {
                        Framing::None => State::Length(0),
                        Framing::Length(length) => State::Length(length),
                        Framing::Chunked => State::ChunkSize,
                        Framing::UntilEnd => State::UntilEnd,
                    };
                    Some(Event::Head(head))
                }
                State::Length(0) => {
                    self.state = State::Head;
                    Some(Event::End(Vec::new()))
                }
                State::Length(left) => {
                    let data = self.data(left)?;
                    self.state = State::Length(left - data.len() as u64);
                    Some(Event::Data(data))
                }
                State::ChunkSize => {
                    let line = self.line()?;
                    assert!(
                        !line.is_empty() && line.bytes().all(|it| it.is_ascii_hexdigit()),
                        "{line}"
                    );
                    let size = u64::from_str_radix(&line, 16).expect("a size");
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                    continue;
                }
                State::Chunk(0) => {
                    assert_eq!(self.line()?, "", "behind a chunk");
                    self.state = State::ChunkSize;
                    continue;
                }
                State::Chunk(left) => {
                    let data = self.data(left)?;
                    self.state = State::Chunk(left - data.len() as u64);
                    Some(Event::Data(data))
                }
                State::Trailers => {
                    let end = match self.bytes.starts_with(b"\r\n") {
                        true => 2,
                        false => self.bytes.windows(4).position(|it| it == b"\r\n\r\n")? + 4,
                    };
                    let section = self.take(end);
                    let text = std::str::from_utf8(&section).expect("text");
                    let lines = text.split("\r\n").filter(|line| !line.is_empty());
                    self.state = State::Head;
                    Some(Event::End(lines.map(|line| field(line).0).collect()))
                }
                State::UntilEnd => self.data(u64::MAX).map(Event::Data),
            };
        }
    }

    fn data(&mut self, most: u64) -> Option<Vec<u8>> {
        let len = self.bytes.len().min(most.min(1 << 30) as usize);
        (len > 0).then(|| self.take(len))
    }

    fn line(&mut self) -> Option<String> {
        let end = self.bytes.windows(2).position(|it| it == b"\r\n")?;
        let line = self.take(end + 2);
        Some(String::from_utf8(line[..end].to_vec()).expect("text"))
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(len);
        std::mem::replace(&mut self.bytes, rest)
    }
}

fn head(bytes: &[u8]) -> Head {
    let text = std::str::from_utf8(bytes).expect("text");
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    Head { start, fields: lines.map(field).collect() }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
    let is_token = |it: u8| it.is_ascii_alphanumeric() || b"-_".contains(&it);
    assert!(!name.is_empty() && name.bytes().all(is_token), "{line:?}");
    assert!(value.bytes().all(|it| (0x20..0x7F).contains(&it)), "{line:?}");
    (name.to_owned(), value.to_owned())
}
