//! An origin's connection without sockets: answers in the pieces in which they come, parsed,
//! decoded and encoded for the client as `shard::attempt` does it. The requests have been sent
//! whole before the first byte of their answers comes.

use super::super::strict::{self, Kind, Read};
use super::requests::Asked;
use super::{Router, UPGRADE, reframe, shown};
use ringlane::http::{Framing, Method, Reason, Response, Version};
use ringlane::http1::{
    BodyDecoder, BodyEncoder, BodyError, FieldStorage, ResponseContext, ResponseParser, encode,
    outgoing_framing,
};

/// What the client is to see of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One message, interim ones too, in the one form that `strict` knows.
    Sent(Vec<u8>),
    /// Nothing of the answer was sent on.
    Refused(Reason),
    /// A part of it was.
    Broken(Reason),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub events: Vec<Event>,
    pub client_open: bool,
    pub upstream_open: bool,
}

struct Body {
    decoder: BodyDecoder,
    encoder: BodyEncoder,
    persistent: bool,
}

struct Upstream<'a> {
    router: Router,
    asked: &'a [Asked],
    parser: ResponseParser,
    bytes: Vec<u8>,
    body: Option<Body>,
    sent: Vec<u8>,
    is_switched: bool,
    outcome: Outcome,
}

/// What the origin's bytes come to as answers to these requests.
///
/// # Errors
/// What the client was sent is no message to a strict recipient.
pub fn run(
    asked: &[Asked],
    pieces: &[&[u8]],
    closes: bool,
    router: Router,
) -> Result<Outcome, String> {
    let mut upstream = Upstream {
        router,
        asked,
        parser: ResponseParser::default(),
        bytes: Vec::new(),
        body: None,
        sent: Vec::new(),
        is_switched: false,
        outcome: Outcome { client_open: true, upstream_open: true, ..Outcome::default() },
    };
    for piece in pieces {
        upstream.bytes.extend_from_slice(piece);
        while upstream.outcome.upstream_open && upstream.step()? {}
    }
    if closes {
        upstream.close()?;
    }
    Ok(upstream.outcome)
}

impl Upstream<'_> {
    fn step(&mut self) -> Result<bool, String> {
        if self.body.is_some() {
            return match self.take_body() {
                Ok(()) => self.look_for_end(),
                Err(error) => Ok(self.fail(Event::Broken(reason_of(error)))),
            };
        }
        let Some(&asked) = self.asked.first() else {
            // Any byte on an idle connection ends it.
            self.outcome.upstream_open &= self.bytes.is_empty();
            return Ok(false);
        };
        let bytes = std::mem::take(&mut self.bytes);
        let mut storage = FieldStorage::new();
        let (response, len) = match self.parser.parse(&bytes, &mut storage, asked.method) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.bytes = bytes;
                return Ok(false);
            }
            Err(reason) => return Ok(self.fail(Event::Refused(reason))),
        };
        self.bytes = bytes[len..].to_vec();
        self.send_on(&response, asked)
    }

    fn send_on(&mut self, response: &Response<'_, '_>, asked: Asked) -> Result<bool, String> {
        if response.facts.is_interim {
            if asked.version == Version::Http11 {
                encode::interim(&mut self.sent, response);
                self.push(asked)?;
            }
            return Ok(true);
        }
        if response.status == 101 && !(asked.upgrade && response.switches_to(UPGRADE)) {
            return Ok(self.fail(Event::Refused(Reason::BadResponse)));
        }
        let from = response.facts.framing;
        let (framing, must_close) = outgoing_framing(from, asked.version);
        let close = (must_close || !asked.persistent) && response.status != 101;
        let rules = self.router.rules();
        let context =
            ResponseContext { client_version: asked.version, close, rules: &rules, date: None };
        let mut head = Vec::new();
        encode::response(&mut head, response, framing, &context);
        encode::end(&mut head);
        self.is_switched = response.status == 101;
        self.body = Some(Body {
            decoder: BodyDecoder::new(from, None).dropping_trailers(response.facts.nominates),
            encoder: BodyEncoder::new(framing),
            persistent: response.facts.persistent && from != Framing::UntilClose,
        });
        self.outcome.client_open &= !close;
        if let Err(error) = self.take_body() {
            return Ok(self.fail(Event::Refused(reason_of(error))));
        }
        self.sent.splice(0..0, head);
        self.look_for_end()
    }

    fn take_body(&mut self) -> Result<(), BodyError> {
        let Some(Body { decoder, encoder, .. }) = &mut self.body else { return Ok(()) };
        reframe(decoder, encoder, &mut self.bytes, &mut self.sent)
    }

    fn look_for_end(&mut self) -> Result<bool, String> {
        if self.body.as_ref().is_some_and(|body| !body.decoder.is_ended()) {
            return Ok(false);
        }
        let body = self.body.take();
        let Some((&asked, rest)) = self.asked.split_first() else { return Ok(false) };
        self.push(asked)?;
        self.asked = rest;
        let is_spent = self.is_switched || body.is_none_or(|body| !body.persistent);
        self.outcome.upstream_open &= !is_spent;
        Ok(!is_spent)
    }

    /// What has been sent is one whole message.
    fn push(&mut self, asked: Asked) -> Result<(), String> {
        let sent = std::mem::take(&mut self.sent);
        let kind = Kind::AnswerTo { head: asked.method == Method::Head };
        match strict::read(&sent, kind, true) {
            Ok(Read::Whole(message)) if message.len == sent.len() => {
                let closes = message.until_close || message.field("connection").is_some_and(closes);
                if closes == self.outcome.client_open && !message.is_interim() {
                    return Err(format!("closing is not said: {}", shown(&sent)));
                }
                self.outcome.events.push(Event::Sent(message.bytes));
                Ok(())
            }
            read => Err(format!("sent {}: {read:?}", shown(&sent))),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let was_open = std::mem::replace(&mut self.outcome.upstream_open, false);
        if let Some(body) = &mut self.body {
            if body.decoder.finish_on_close().is_err() {
                self.fail(Event::Broken(Reason::UpstreamReset));
                return Ok(());
            }
            body.encoder.encode_into(&mut self.sent, &[], true, None);
            self.look_for_end()?;
        } else if was_open && !self.asked.is_empty() {
            self.fail(Event::Refused(Reason::UpstreamReset));
        }
        Ok(())
    }

    fn fail(&mut self, event: Event) -> bool {
        // A client of 1.0 takes what is made here for the last answer.
        let goes_on = |asked: &Asked| asked.persistent && asked.version == Version::Http11;
        self.outcome.client_open = match event {
            Event::Broken(_) => false,
            _ => self.asked.first().is_none_or(goes_on),
        };
        self.outcome.upstream_open = false;
        self.outcome.events.push(event);
        false
    }
}

fn reason_of(error: BodyError) -> Reason {
    match error {
        BodyError::TooLarge => Reason::ResponseTooLarge,
        _ => Reason::BadResponse,
    }
}

fn closes(connection: String) -> bool {
    connection.split(", ").any(|it| it == "close")
}
