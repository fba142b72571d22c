//! What the proxy makes of a client's bytes, and of an origin's: the codec as `shard/` uses it, but
//! without sockets. Every request of a connection goes to the same origin, one behind the other, so
//! that a message which ends elsewhere than meant changes all that follow it.
//!
//! Knows nothing of routes, limits and time, and nothing of how others read.

use ringlane::http::{
    Exchange, ForwardRules, Framing, Method, Mode, Peer, PeerText, Reason, Version,
};
use ringlane::http1::{
    BodyDecoder, BodyEncoder, FieldStorage, RequestParser, ResponseContext, ResponseParser, encode,
    outgoing_framing,
};

/// What went out on one connection, and what was meant by it.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    /// The messages that went out whole.
    pub(crate) messages: Vec<Meant>,
    pub(crate) end: End,
    /// How many of the messages are answers of the proxy's own, in place of what an origin sent.
    pub(crate) answered_here: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meant {
    pub(crate) start: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum End {
    /// All that came is dealt with, and more could come.
    #[default]
    Open,
    /// Within a message: it stays incomplete.
    Within,
    /// What came was refused; where that was a body's matter, its message stays incomplete.
    Refused,
    /// After a message that was to be the last.
    Closed,
}

/// Whether a connection still reads.
type Goes = Result<(), End>;

/// A body on its way: `Pump`, without leases.
struct Body {
    decoder: BodyDecoder,
    encoder: BodyEncoder,
    data: Vec<u8>,
    start: Vec<u8>,
    /// Whether another message may follow on the connection that it came on.
    persistent: bool,
}

impl Body {
    /// With `nominates`, as the head's facts have it, no trailer goes on.
    fn new(
        (from, to): (Framing, Framing),
        nominates: bool,
        start: Vec<u8>,
        persistent: bool,
    ) -> Body {
        let decoder = BodyDecoder::new(from, None).dropping_trailers(nominates);
        Body { decoder, encoder: BodyEncoder::new(to), data: Vec::new(), start, persistent }
    }

    /// Moves what came, and says how much of it that was.
    fn take(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, End> {
        if self.decoder.is_ended() {
            return Ok(0);
        }
        let payload = self.decoder.decode_in_place(bytes).map_err(|_| End::Refused)?;
        let trailers = if payload.ended { self.decoder.take_trailers() } else { None };
        let data = &bytes[payload.data];
        self.data.extend_from_slice(data);
        self.encoder.encode_into(out, data, payload.ended, trailers.as_deref());
        Ok(payload.consumed)
    }

    fn meant(self) -> Meant {
        Meant { start: self.start, body: self.data }
    }
}

fn rules() -> ForwardRules {
    ForwardRules { via: Some("r".into()), x_forwarded: Mode::Append, forwarded: Mode::Append }
}

/// Goes through `bytes` in the pieces that `cut` says: of so many bytes, how many come next.
fn in_pieces(
    bytes: &[u8],
    cut: &mut dyn FnMut(usize) -> usize,
    mut take: impl FnMut(&mut [u8]) -> Result<usize, End>,
) -> Goes {
    let (mut pending, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let count = cut(bytes.len() - at).clamp(1, bytes.len() - at);
        pending.extend_from_slice(&bytes[at..at + count]);
        at += count;
        loop {
            let taken = take(&mut pending)?;
            pending.drain(..taken);
            if taken == 0 || pending.is_empty() {
                break;
            }
        }
    }
    if pending.is_empty() { Ok(()) } else { Err(End::Within) }
}

/// A client's bytes, as they go on to an origin.
pub(crate) fn requests(bytes: &[u8], cut: &mut dyn FnMut(usize) -> usize) -> Sent {
    let mut sent = Sent::default();
    let mut parser = RequestParser::default();
    let mut under_way: Option<Body> = None;
    let goes = in_pieces(bytes, cut, |pending| {
        let (mut body, consumed) = match under_way.take() {
            Some(body) => (body, 0),
            None => {
                let Some(begun) = request_head(&mut parser, pending, &mut sent.bytes)? else {
                    return Ok(0);
                };
                begun
            }
        };
        let taken = body.take(&mut pending[consumed..], &mut sent.bytes)?;
        if !body.decoder.is_ended() {
            under_way = Some(body);
            return Ok(consumed + taken);
        }
        let persistent = body.persistent;
        sent.messages.push(body.meant());
        if persistent { Ok(consumed + taken) } else { Err(End::Closed) }
    });
    sent.end = match (goes, under_way) {
        (Err(end), _) => end,
        (Ok(()), Some(_)) => End::Within,
        (Ok(()), None) => End::Open,
    };
    sent
}

/// The body that follows a head which was sent on, and the length of the head.
fn request_head(
    parser: &mut RequestParser,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<Option<(Body, usize)>, End> {
    let mut storage = FieldStorage::new();
    let found = parser.parse(bytes, &mut storage).map_err(|_| End::Refused)?;
    let Some((request, consumed)) = found else { return Ok(None) };
    if request.is_for_us() {
        // The answer is made here, and the oracle is about what is sent on.
        return Err(End::Closed);
    }
    let peer = PeerText::new(Peer { ip: Some([192, 0, 2, 1].into()), port: 1 });
    let asks = request.upgrade_token().is_some_and(|it| it.eq_ignore_ascii_case(b"websocket"));
    encode::request(out, &request, &rules(), &peer, asks);
    encode::end(out);
    let mut start = [request.method_bytes, b" "].concat();
    request.target.write_to(&mut start);
    start.extend_from_slice(b" HTTP/1.1");
    let facts = &request.facts;
    let framings = (facts.framing, facts.framing);
    Ok(Some((Body::new(framings, facts.nominates, start, facts.persistent), consumed)))
}

/// A request, as far as its answer depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) version: Version,
}

/// What each of several origins answers to one client, whose requests were sent on whole. Every
/// answer comes on a connection of its own, which the origin closes at the end.
pub(crate) fn responses(
    asked: &[Asked],
    answers: &[Vec<u8>],
    cut: &mut dyn FnMut(usize) -> usize,
) -> Sent {
    let mut sent = Sent::default();
    for (asked, answer) in asked.iter().zip(answers) {
        let method = Method::from_bytes(asked.method.as_bytes());
        let mut rules = Exchange::new(method, asked.version, asked.version == Version::Http11);
        rules.attempt_begun();
        rules.request_sent();
        rules.request_ended();
        match one_response(&mut rules, answer, cut, &mut sent) {
            Ok(true) => {}
            Ok(false) => {
                sent.end = End::Closed;
                break;
            }
            Err(end) => {
                sent.end = end;
                break;
            }
        }
    }
    sent
}

/// Sends an answer on. `Ok`: it is whole; whether another may follow on the client's connection.
fn one_response(
    rules: &mut Exchange,
    answer: &[u8],
    cut: &mut dyn FnMut(usize) -> usize,
    sent: &mut Sent,
) -> Result<bool, End> {
    let mut parser = ResponseParser::default();
    let mut under_way: Option<Body> = None;
    let mut failed = None;
    let goes = in_pieces(answer, cut, |pending| {
        let mut consumed = 0;
        if under_way.is_none() {
            let mut head = Vec::new();
            match response_head(&mut parser, rules, pending, &mut head) {
                Ok(Some(Headed::Interim(len))) => {
                    sent.bytes.extend_from_slice(&head);
                    return Ok(len);
                }
                Ok(Some(Headed::Final { mut body, len })) => {
                    // What came with the head is looked at before anything of it is sent.
                    match body.take(&mut pending[len..], &mut head) {
                        Ok(taken) => consumed = len + taken,
                        Err(_) => failed = Some(Reason::BadResponse),
                    }
                    if failed.is_none() {
                        sent.bytes.extend_from_slice(&head);
                        under_way = Some(body);
                    }
                }
                Ok(None) => return Ok(0),
                Err(reason) => failed = Some(reason),
            }
            if failed.is_some() {
                return Err(End::Refused);
            }
        } else if let Some(body) = &mut under_way {
            consumed = body.take(pending, &mut sent.bytes)?;
        }
        let ended = under_way.as_ref().is_some_and(|body| body.decoder.is_ended());
        // What follows an answer is never looked at: the connection is not used again.
        if ended { Err(End::Closed) } else { Ok(consumed) }
    });
    let Some(mut body) = under_way else {
        let reason = failed.unwrap_or(Reason::UpstreamReset);
        return Ok(answered_here(rules, reason, sent));
    };
    if !body.decoder.is_ended() {
        // The origin closed, or sent what is no body.
        if goes == Err(End::Refused) || body.decoder.finish_on_close().is_err() {
            return Err(End::Within);
        }
        body.encoder.encode_into(&mut sent.bytes, &[], true, None);
    }
    if !body.persistent {
        rules.client_spent();
    }
    sent.messages.push(body.meant());
    rules.response_ended();
    Ok(!rules.closes_client())
}

enum Headed {
    Interim(usize),
    Final { body: Body, len: usize },
}

fn response_head(
    parser: &mut ResponseParser,
    rules: &mut Exchange,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<Option<Headed>, Reason> {
    let mut storage = FieldStorage::new();
    let found = parser.parse(bytes, &mut storage, rules.method)?;
    let Some((response, len)) = found else { return Ok(None) };
    if response.facts.is_interim {
        if rules.client_version == Version::Http11 {
            encode::interim(out, &response);
        }
        return Ok(Some(Headed::Interim(len)));
    }
    if response.status == 101 {
        // Nobody asked.
        return Err(Reason::BadResponse);
    }
    let from = response.facts.framing;
    let (to, must_close) = outgoing_framing(from, rules.client_version);
    let close = must_close || !rules.client_is_persistent();
    let forwarding = self::rules();
    let context = ResponseContext {
        client_version: rules.client_version,
        close,
        rules: &forwarding,
        date: None,
    };
    encode::response(out, &response, to, &context);
    encode::end(out);
    rules.response_begun(response.facts.persistent);
    let mut start = format!("HTTP/1.1 {} ", response.status).into_bytes();
    start.extend_from_slice(response.phrase);
    let body = Body::new((from, to), response.facts.nominates, start, !close);
    Ok(Some(Headed::Final { body, len }))
}

/// The proxy's own answer. Whether the client's connection goes on after it.
fn answered_here(rules: &Exchange, reason: Reason, sent: &mut Sent) -> bool {
    let close = rules.client_version == Version::Http10 || rules.closes_client();
    let head_only = rules.method == Method::Head;
    let from = sent.bytes.len();
    encode::error_response(&mut sent.bytes, reason, close, head_only, None);
    let line = sent.bytes[from..].split(|&byte| byte == b'\r').next().unwrap_or_default();
    let start = line.to_vec();
    let body = if head_only { Vec::new() } else { format!("{}\n", reason.text()).into_bytes() };
    sent.messages.push(Meant { start, body });
    sent.answered_here += 1;
    !close
}
