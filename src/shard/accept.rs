//! Who a client is, and a complete head of its: where its request goes, or what it is answered with
//! from here.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::context::Context;
use super::exchange::{Exchange, Link};
use super::ledger::{Bytes, Ledger};
use super::traces::Ids;
use super::transport::Transport;
use super::upstream::Upstream;
use crate::http::proxy_protocol::{Announced, NotAnnounced, announced};
use crate::http::{Deadline, Framing, Method, Peer, PeerText, Reason, Request, TimeLeft, Version};
use crate::http1::encode;

/// What the head of a request came to.
pub(super) enum Head {
    Partial,
    Exchange(Box<Exchange>),
    /// It is no head, or too large for one.
    Malformed {
        reason: Reason,
        head_only: bool,
    },
    /// Answered here, by what is in the buffer.
    Local {
        answer: Vec<u8>,
        close: bool,
    },
    Refused {
        reason: Reason,
        close: bool,
        head_only: bool,
    },
}

/// Whether that begins as a HEAD does, whose answer has no content (RFC 9110 section 9.3.2), even
/// where the rest of it is no head.
pub(super) fn asks_for_head(bytes: &[u8]) -> bool {
    let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
    bytes[line..].starts_with(b"HEAD ")
}

/// Bytes of the body of an answer of our own.
pub(super) fn error_bytes(reason: Reason, head_only: bool) -> u64 {
    if head_only { 0 } else { reason.text().len() as u64 + 1 }
}

/// Bytes of the body of a whole answer.
fn body_bytes(answer: &[u8]) -> u64 {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    head.map_or(0, |head| (answer.len() - head - 4) as u64)
}

/// Who sent it.
#[derive(Clone, Copy)]
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) text: PeerText,
}

impl Client {
    pub(super) fn new(address: Option<SocketAddr>) -> Client {
        let ip = address.map(|address| address.ip());
        let peer = Peer { ip, port: address.map_or(0, |address| address.port()) };
        Client { peer, text: PeerText::new(peer) }
    }
}

/// What a balancer in front has said about its client so far.
pub(super) enum Announcement {
    Partial,
    /// `None`: it is who the socket says it is.
    Read(Option<Client>),
    Refused,
}

/// Reads the header of the PROXY protocol, and nothing behind it.
pub(super) fn announcement(client: &mut Transport) -> Announcement {
    while client.has_input() {
        let found = client.with_input(|bytes| match announced(bytes) {
            Ok(Some((who, consumed))) => (consumed, Ok(Some(who))),
            Ok(None) => (0, Ok(None)),
            Err(wrong) => (bytes.len(), Err(wrong)),
        });
        match found {
            Ok(Some(Announced::Nobody)) => return Announcement::Read(None),
            Ok(Some(Announced::Unix)) => return Announcement::Read(Some(Client::new(None))),
            Ok(Some(Announced::Client(address))) => {
                return Announcement::Read(Some(Client::new(Some(address))));
            }
            Ok(None) if client.progress().has_piece => {}
            Ok(None) => break,
            Err(NotAnnounced) => return Announcement::Refused,
        }
    }
    Announcement::Partial
}

/// A complete head that is answered with a reason of ours.
pub(super) fn refused(
    mut ledger: Ledger,
    reason: Reason,
    close: bool,
    head_only: bool,
    context: &Context,
) -> Head {
    log_answer(None, reason, ledger.ids());
    let bytes = Bytes { request: 0, response: error_bytes(reason, head_only) };
    ledger.ended(context, Some(reason), Some(reason.status()), bytes);
    Head::Refused { reason, close, head_only }
}

/// Says in the log what was answered with a reason of ours, so that who has the client's id of a
/// request, or its trace's, finds out why. Nothing is made of it where nobody reads it.
pub(super) fn log_answer(service: Option<&str>, reason: Reason, ids: Ids) {
    let (reason, trace_id) = (reason.label(), ids.trace.map(tracing::field::display));
    tracing::debug!(service, reason, request_id = %ids, trace_id, "answered here");
}

/// Where a request goes, or why it goes nowhere.
pub(super) fn accept(
    request: &Request<'_, '_>,
    client: &Client,
    server: u32,
    link: &Link<'_>,
) -> Head {
    let (context, router) = (link.context, link.router);
    let (mut ledger, dropped) = Ledger::begin(context, server, request, client.peer);
    let has_body =
        request.facts.framing != Framing::Empty && request.facts.framing != Framing::Length(0);
    // What is made here does not say keep-alive, so a 1.0 client takes it for the last.
    let persistent = request.facts.persistent && request.version == Version::Http11;
    let close = !persistent || has_body || link.is_closing();
    let head_only = request.method == Method::Head;
    let refused = |ledger, reason, close| refused(ledger, reason, close, head_only, context);
    if request.method == Method::Connect {
        return refused(ledger, Reason::MethodNotAllowed, true);
    }
    if request.is_for_us() {
        let mut answer = context.ring.buffer();
        let date = link.context.date();
        encode::local_answer(&mut answer, request, close, Some(&date));
        let bytes = Bytes { request: 0, response: body_bytes(&answer) };
        ledger.ended(context, None, Some(200), bytes);
        return Head::Local { answer, close };
    }
    if let (Framing::Length(bytes), Some(max)) = (request.facts.framing, router.max_body_bytes)
        && bytes > max
    {
        return refused(ledger, Reason::BodyTooLarge, true);
    }
    let service = match router.table.find(request.host, request.target.path) {
        Err(_) => return refused(ledger, Reason::BadRequest, true),
        Ok(None) => return refused(ledger, Reason::NoRoute, close),
        Ok(Some(service)) => service,
    };
    let asks_upgrade = request.upgrade_token().and_then(|token| {
        router.upgrades.iter().position(|allowed| token.eq_ignore_ascii_case(allowed.as_bytes()))
    });
    let upstream = router.upstreams[service].clone();
    ledger.routed(context, router.targets[service].as_ref());
    let time = time_left(request, &upstream);
    if time.is_some_and(|time| time.left.is_zero()) {
        return refused(ledger, Reason::RequestTimeout, close);
    }
    let mut head = context.ring.buffer();
    let shortened = time.map(|time| with_deadline(request, time.forwarded));
    let sent_on = shortened.as_ref().unwrap_or(request);
    let (rules, peer) = (&router.rules, &client.text);
    let upgrades = asks_upgrade.is_some();
    encode::request_without(&mut head, sent_on, rules, peer, upgrades, dropped);
    ledger.trace.write(&mut head);
    encode::end(&mut head);
    upstream.rules().retries.deposit(context.ring.now());
    let mut exchange = Exchange::new(request, upstream, ledger, asks_upgrade, head, peer, link);
    if let Some(time) = time {
        // The configured timeout is in it.
        exchange.request_deadline = context.ring.now() + time.left;
    }
    Head::Exchange(match context.spare.borrow_mut().pop() {
        Some(mut spare) => {
            *spare = exchange;
            spare
        }
        None => Box::new(exchange),
    })
}

/// What a request's own deadline leaves it. The wall clock is read where it brings one, and only
/// there: everything else goes by a clock that nobody sets.
fn time_left(request: &Request<'_, '_>, upstream: &Upstream) -> Option<TimeLeft> {
    let deadline = request.facts.deadline?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    Some(deadline.at(now_ns, upstream.rules().timeouts.request))
}

fn with_deadline<'b, 's>(request: &Request<'b, 's>, deadline: Deadline) -> Request<'b, 's> {
    let mut request = *request;
    request.facts.deadline = Some(deadline);
    request
}
