//! Cases as they are written: markdown to steps, with the file and line of whatever is wrong.

use std::path::Path;

use super::super::common::Rng;
use super::super::corpora::{files, unescape};
use super::super::strict::{self, Kind, Message, Read};

/// The router that a case is sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Router {
    /// Adds nothing to a message.
    #[default]
    Plain,
    /// Adds `Via`, and to `Forwarded` and its like what it knows.
    Append,
    /// Adds `Via`, and replaces `Forwarded` and its like.
    Overwrite,
    /// Adds nothing, and waits for nobody for long.
    Impatient,
}

/// One thing that happens, or is to happen, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The client sends.
    Request(Vec<u8>),
    /// The client half-closes.
    Cut,
    /// The origin has been sent one whole message.
    Forwarded(Message),
    /// The origin has been sent so much of a message, and no more yet.
    ForwardedPart(Vec<u8>),
    /// The origin sends, and then closes or not.
    Origin { bytes: Vec<u8>, closes: bool },
    /// The client gets these messages: of the origin, or of the proxy's own making.
    Client { bytes: Vec<u8>, of_its_own: bool },
    /// The proxy gives up, and says why.
    Refused { status: u16, label: String },
    /// The client has a part of an answer and gets no more.
    Broken { label: String },
}

#[derive(Clone, Debug)]
pub struct Case {
    /// File, line and heading.
    pub place: String,
    pub file: String,
    pub title: String,
    pub router: Router,
    /// Left out of the run over the codec alone: it is about what connections do.
    pub only_sockets: bool,
    pub steps: Vec<Step>,
    /// Whether the client's connection is there for another request.
    pub client_open: bool,
    /// Whether the origin's is; none: it is not looked at.
    pub upstream_open: Option<bool>,
}

/// All cases of a folder.
///
/// # Errors
/// Everything that is wrong with them, a line for each.
pub fn read(folder: &Path) -> Result<Vec<Case>, String> {
    let (mut cases, mut wrong) = (Vec::new(), Vec::new());
    for path in files(folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "README.md" {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        for written in sections(&name, &text, &mut wrong) {
            match written.case(&name) {
                Ok(case) => cases.push(case),
                Err(problem) => wrong.push(problem),
            }
        }
    }
    if wrong.is_empty() { Ok(cases) } else { Err(wrong.join("\n")) }
}

/// A heading with the blocks below it.
struct Written<'t> {
    title: &'t str,
    line: usize,
    blocks: Vec<Block<'t>>,
}

struct Block<'t> {
    info: &'t str,
    line: usize,
    text: Vec<&'t str>,
}

/// The headings of a file that have blocks.
fn sections<'t>(file: &str, text: &'t str, wrong: &mut Vec<String>) -> Vec<Written<'t>> {
    let mut found: Vec<Written<'_>> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let number = at + 1;
        if let Some(info) = line.strip_prefix("```") {
            let mut block = Block { info, line: number, text: Vec::new() };
            let mut is_closed = false;
            for (_, line) in lines.by_ref() {
                if line == "```" {
                    is_closed = true;
                    break;
                }
                block.text.push(line);
            }
            if !is_closed {
                wrong.push(format!("{file}:{number}: a block that does not end"));
            }
            match found.last_mut() {
                Some(section) => section.blocks.push(block),
                None => wrong.push(format!("{file}:{number}: a block without a heading")),
            }
        } else if line.starts_with('#') {
            let title = line.trim_start_matches('#').trim();
            found.push(Written { title, line: number, blocks: Vec::new() });
        }
    }
    found.retain(|section| !section.blocks.is_empty());
    found
}

impl Written<'_> {
    fn case(&self, file: &str) -> Result<Case, String> {
        let place = format!("{file}:{}: {}", self.line, self.title);
        let known = ["RFC 9110", "RFC 9112", "RFC 3986", "RFC 7239", "DESIGN 5"];
        let said = self.title.rsplit_once('(').filter(|(_, rest)| rest.ends_with(')'));
        let Some((title, _)) = said.filter(|(_, it)| known.iter().any(|rfc| it.contains(rfc)))
        else {
            return Err(format!("{place}: the heading ends without (RFC 9112 x.y) or (DESIGN 5)"));
        };
        let mut case = Case {
            place: place.clone(),
            file: file.to_owned(),
            title: title.trim().to_owned(),
            router: Router::Plain,
            only_sockets: false,
            steps: Vec::new(),
            client_open: true,
            upstream_open: None,
        };
        let mut ends = Vec::new();
        for block in &self.blocks {
            let at = format!("{file}:{}", block.line);
            let result = match block.info {
                "setup" => block.text.iter().try_for_each(|line| case.set(line)),
                "end" => {
                    ends.extend(block.text.iter().copied());
                    Ok(())
                }
                _ => block.step().map(|step| case.steps.push(step)),
            };
            result.map_err(|problem| format!("{at}: {problem}"))?;
        }
        case.assume_ends();
        for line in ends {
            case.end(line).map_err(|problem| format!("{place}: {problem}"))?;
        }
        case.check().map_err(|problem| format!("{place}: {problem}"))?;
        Ok(case)
    }
}

impl Block<'_> {
    fn step(&self) -> Result<Step, String> {
        Ok(match self.info {
            "request" => Step::Request(self.bytes()?),
            "cut" => Step::Cut,
            "forwarded" => Step::Forwarded(one_request(&self.bytes()?)?),
            "forwarded part" => Step::ForwardedPart(self.bytes()?),
            "origin" => Step::Origin { bytes: self.bytes()?, closes: false },
            "origin closes" => Step::Origin { bytes: self.bytes()?, closes: true },
            "client" => Step::Client { bytes: self.bytes()?, of_its_own: false },
            "answered" => Step::Client { bytes: self.bytes()?, of_its_own: true },
            "refused" => {
                let words = self.words();
                let (status, label) = words.split_once(' ').ok_or("no status and label")?;
                let status = status.parse().map_err(|_| format!("no status: {status}"))?;
                Step::Refused { status, label: label.to_owned() }
            }
            "broken" => Step::Broken { label: self.words() },
            other => return Err(format!("no such block: {other:?}")),
        })
    }

    fn words(&self) -> String {
        self.text.join(" ").trim().to_owned()
    }

    /// Lines end in CRLF, but for one that ends in a backslash.
    fn bytes(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for line in &self.text {
            let joined = line.ends_with('\\');
            let text = if joined { &line[..line.len() - 1] } else { line };
            out.extend(unescape(&repeated(text)?));
            if !joined {
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(out)
    }
}

/// `{'ab' * 3}` is `ababab`.
fn repeated(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{'") {
        let inner = &rest[start + 2..];
        let parts =
            inner.split_once('}').and_then(|(it, rest)| Some((it.split_once("' * ")?, rest)));
        let ((what, count), after) = parts.ok_or(format!("no repetition: {rest}"))?;
        let count: usize = count.parse().map_err(|_| format!("no count: {count}"))?;
        out.push_str(&rest[..start]);
        out.push_str(&what.repeat(count));
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn one_request(bytes: &[u8]) -> Result<Message, String> {
    match strict::read(bytes, Kind::Request, false)? {
        Read::Whole(message) if message.len == bytes.len() => Ok(message),
        Read::Whole(message) => Err(format!("{} bytes too many", bytes.len() - message.len)),
        Read::Part => Err("a part of a message".into()),
    }
}

impl Case {
    fn set(&mut self, line: &str) -> Result<(), String> {
        match line {
            "router append" => self.router = Router::Append,
            "router overwrite" => self.router = Router::Overwrite,
            "router impatient" => {
                self.router = Router::Impatient;
                self.only_sockets = true;
            }
            "only sockets" => self.only_sockets = true,
            _ => return Err(format!("no such setup: {line:?}")),
        }
        Ok(())
    }

    /// What becomes of the connections where the case does not say it.
    fn assume_ends(&mut self) {
        let is_closing = |step: &Step| match step {
            Step::Refused { status, .. } => *status != 502,
            Step::Broken { .. } | Step::Cut => true,
            _ => false,
        };
        let is_failure = |step: &Step| matches!(step, Step::Refused { .. } | Step::Broken { .. });
        self.client_open = !self.steps.iter().any(is_closing);
        self.upstream_open = self.is_scripted().then(|| !self.steps.iter().any(is_failure));
    }

    fn end(&mut self, line: &str) -> Result<(), String> {
        match line {
            "client open" => self.client_open = true,
            "client closed" => self.client_open = false,
            "upstream open" => self.upstream_open = Some(true),
            "upstream closed" => self.upstream_open = Some(false),
            _ => return Err(format!("no such end: {line:?}")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let expects = self.steps.iter().any(|step| {
            !matches!(step, Step::Request(_) | Step::Origin { .. } | Step::ForwardedPart(_))
        });
        match (self.steps.first(), expects || !self.client_open) {
            (Some(Step::Request(_)), true) => Ok(()),
            (Some(Step::Request(_)), false) => Err("nothing is expected".into()),
            _ => Err("it does not begin with a request".into()),
        }
    }

    /// The case says what the origin answers; else it answers everything.
    pub fn is_scripted(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Origin { .. }))
    }

    /// All that the client sends.
    pub fn request_bytes(&self) -> Vec<u8> {
        self.steps.iter().fold(Vec::new(), |mut all, step| {
            if let Step::Request(bytes) = step {
                all.extend_from_slice(bytes);
            }
            all
        })
    }

    /// All that the origin sends, and whether it then closes.
    pub fn origin_bytes(&self) -> (Vec<u8>, bool) {
        self.steps.iter().fold((Vec::new(), false), |(mut all, closed), step| match step {
            Step::Origin { bytes, closes } => {
                all.extend_from_slice(bytes);
                (all, closed || *closes)
            }
            _ => (all, closed),
        })
    }

    /// What is drawn for a case is the same in every run.
    pub fn rng(&self) -> Rng {
        let seed = self.title.bytes().fold(14_695_981_039_346_656_037_u64, |seed, byte| {
            (seed ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
        });
        Rng::from(seed)
    }
}
