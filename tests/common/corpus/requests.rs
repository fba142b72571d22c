//! A client's connection without sockets: bytes in the pieces in which they come, parsed, decoded,
//! encoded for the next hop and answered as `shard::connection` does it.

use super::super::strict::{self, Kind, Read};
use super::{MAX_BODY_BYTES, Router, UPGRADE, reframe, shown};
use ringlane::http::{ForwardRules, Framing, Method, Peer, PeerText, Reason, Request, Version};
use ringlane::http1::{BodyDecoder, BodyEncoder, BodyError, FieldStorage, RequestParser, encode};
use ringlane::policy::route::{Route, RouteTable};

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// In the one form that `strict` knows.
    Forwarded(Vec<u8>),
    Answered(Vec<u8>),
    Refused(Reason),
}

/// What an answer depends on besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    pub version: Version,
    pub persistent: bool,
    pub upgrade: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub events: Vec<Event>,
    pub asked: Vec<Asked>,
    pub is_open: bool,
    /// A message has begun and not ended.
    pub is_within: bool,
}

struct Client {
    rules: ForwardRules,
    routes: RouteTable,
    peer: PeerText,
    parser: RequestParser,
    bytes: Vec<u8>,
    body: Option<(BodyDecoder, BodyEncoder)>,
    /// The message that is under way, as the next hop gets it.
    sent: Vec<u8>,
    persistent: bool,
    outcome: Outcome,
}

/// What the bytes come to, in these pieces; with `cut` the client half-closes behind them.
///
/// # Errors
/// What the next hop was sent is no message to a strict recipient.
pub fn run(pieces: &[&[u8]], cut: bool, router: Router) -> Result<Outcome, String> {
    let any = Route { host: None, path_prefix: None, service: 0 };
    let mut client = Client {
        rules: router.rules(),
        routes: RouteTable::new(vec![any]),
        peer: PeerText::new(Peer { ip: Some([127, 0, 0, 1].into()), port: 1 }),
        parser: RequestParser::default(),
        bytes: Vec::new(),
        body: None,
        sent: Vec::new(),
        persistent: true,
        outcome: Outcome { is_open: true, ..Outcome::default() },
    };
    for piece in pieces {
        client.bytes.extend_from_slice(piece);
        while client.outcome.is_open && client.step()? {}
    }
    if cut && client.outcome.is_open {
        if client.body.is_some() {
            client.refuse(Reason::BadRequest);
        }
        client.outcome.is_open = false;
    }
    client.outcome.is_within = client.body.is_some() || client.parser.begun();
    client.check_unfinished()?;
    Ok(client.outcome)
}

impl Client {
    /// Whether there may be more to do.
    fn step(&mut self) -> Result<bool, String> {
        if self.body.is_some() {
            return match self.take_body() {
                Ok(()) => self.look_for_end(),
                Err(reason) => Ok(self.refuse(reason)),
            };
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut storage = FieldStorage::new();
        let (request, len) = match self.parser.parse(&bytes, &mut storage) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.bytes = bytes;
                return Ok(false);
            }
            Err(reason) => return Ok(self.refuse(reason)),
        };
        self.bytes = bytes[len..].to_vec();
        self.accept(&request)
    }

    fn accept(&mut self, request: &Request<'_, '_>) -> Result<bool, String> {
        let framing = request.facts.framing;
        let mut answer = Vec::new();
        let persistent = request.facts.persistent && request.version == Version::Http11;
        let close = !persistent || !matches!(framing, Framing::Empty | Framing::Length(0));
        if encode::local_answer(&mut answer, request, close, None) {
            self.outcome.events.push(Event::Answered(answer));
            self.outcome.is_open = !close;
            return Ok(!close);
        }
        if matches!(framing, Framing::Length(bytes) if bytes > MAX_BODY_BYTES) {
            return Ok(self.refuse(Reason::BodyTooLarge));
        }
        if self.routes.find(request.host, request.target.path).is_err() {
            return Ok(self.refuse(Reason::BadRequest));
        }
        let upgrade = request
            .upgrade_token()
            .is_some_and(|token| token.eq_ignore_ascii_case(UPGRADE.as_bytes()));
        let mut head = Vec::new();
        encode::request(&mut head, request, &self.rules, &self.peer, upgrade);
        encode::end(&mut head);
        let decoder = BodyDecoder::new(framing, Some(MAX_BODY_BYTES))
            .dropping_trailers(request.facts.nominates);
        self.body = Some((decoder, BodyEncoder::new(framing)));
        self.persistent = request.facts.persistent;
        // What of the body came with the head leaves with it, or neither does.
        if let Err(reason) = self.take_body() {
            return Ok(self.refuse(reason));
        }
        self.sent.splice(0..0, head);
        let Request { method, version, .. } = *request;
        let persistent = request.facts.persistent;
        self.outcome.asked.push(Asked { method, version, persistent, upgrade });
        self.look_for_end()
    }

    fn take_body(&mut self) -> Result<(), Reason> {
        let Some((decoder, encoder)) = &mut self.body else { return Ok(()) };
        let moved = reframe(decoder, encoder, &mut self.bytes, &mut self.sent);
        moved.map_err(|error| match error {
            BodyError::TooLarge => Reason::BodyTooLarge,
            _ => Reason::BadRequest,
        })
    }

    fn look_for_end(&mut self) -> Result<bool, String> {
        if self.body.as_ref().is_some_and(|(decoder, _)| !decoder.is_ended()) {
            return Ok(false);
        }
        self.body = None;
        let sent = std::mem::take(&mut self.sent);
        match strict::read(&sent, Kind::Request, false) {
            Ok(Read::Whole(message)) if message.len == sent.len() => {
                self.outcome.events.push(Event::Forwarded(message.bytes));
            }
            read => return Err(format!("forwarded {}: {read:?}", shown(&sent))),
        }
        self.outcome.is_open = self.persistent;
        Ok(self.persistent)
    }

    fn refuse(&mut self, reason: Reason) -> bool {
        self.outcome.events.push(Event::Refused(reason));
        self.outcome.is_open = false;
        false
    }

    /// What was sent on of a message that was then refused is never a whole one.
    fn check_unfinished(&self) -> Result<(), String> {
        match strict::read(&self.sent, Kind::Request, false)? {
            Read::Part => Ok(()),
            Read::Whole(_) => Err(format!("a whole message: {}", shown(&self.sent))),
        }
    }
}
