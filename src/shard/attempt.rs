//! One attempt of an exchange: a connection to an endpoint, and the head of its answer.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::context::Target;
use super::exchange::{Exchange, Link};
use super::ledger::{Answer, Bytes};
use super::leftovers;
use super::listener::is_shortage;
use super::load::Load;
use super::pump::Pump;
use super::report::Meter;
use super::transport::Transport;
use super::upstream::{Endpoint, Pick, Upstream, Upward};
use crate::http::{Framing, Reason, Response, Version};
use crate::http1::{
    BodyError, FieldStorage, ResponseContext, ResponseParser, encode, outgoing_framing,
};
use crate::policy::classifier::{Class, Outcome};
use crate::ring::{Chunk, End};

pub(super) struct Attempt {
    pub(super) endpoint: Rc<Endpoint>,
    pub(super) transport: Transport,
    pub(super) meter: Option<Meter>,
    pub(super) connecting: bool,
    /// The connection came from the pool.
    reused: bool,
    /// Something of an answer has come.
    heard: bool,
    parser: ResponseParser,
    pub(super) load: Load,
}

/// What a look for the answer's head found.
pub(super) enum Answered {
    NotYet,
    /// An interim answer was relayed, or withheld from a client that would not understand it.
    Interim,
    /// The final head has been sent on; `whole` with its whole body.
    Head {
        whole: bool,
    },
    /// A 101 that was asked for has been relayed.
    Switched,
    /// An answer that is a failure was not sent on: the request is retried.
    Discarded,
    Failed(Reason),
}

impl Attempt {
    pub(super) fn begin(
        upstream: &Rc<Upstream>,
        pick: Pick,
        fresh: bool,
        now: Duration,
        target: Option<&Rc<Target>>,
        link: &Link<'_>,
    ) -> io::Result<Attempt> {
        // First of all: a probe whose attempt does not even begin gives its place back.
        let endpoint = pick.endpoint.clone();
        let load = Load::new(upstream, pick, now);
        let pooled = match fresh {
            true => None,
            false => upstream.checkout(&endpoint, link.waker),
        };
        let reused = pooled.is_some();
        let counted = target.zip(link.context.reporter.as_ref());
        let Upward { transport, mut meter } = match pooled {
            Some(pooled) => pooled,
            None => Upward {
                transport: endpoint.connect(&link.context.ring, link.waker)?,
                meter: counted.map(|(target, reporter)| Meter::new(reporter, target.id)),
            },
        };
        if let (Some((target, reporter)), Some(meter)) = (counted, &mut meter) {
            transport.socket().count_for(reporter.target_account(target.id));
            meter.used();
        }
        Ok(Attempt {
            endpoint,
            transport,
            meter,
            connecting: !reused,
            reused,
            heard: false,
            parser: ResponseParser::default(),
            load,
        })
    }

    /// Whether the connection is there: `None` while it is not known.
    pub(super) fn connected(&mut self) -> Option<Result<(), Reason>> {
        let progress = self.transport.progress();
        if progress.connecting {
            return None;
        }
        self.connecting = false;
        Some(match progress.end {
            End::Open | End::Closed => Ok(()),
            End::Failed(libc::ECONNREFUSED | libc::ENOENT) => Err(Reason::ConnectRefused),
            End::Failed(libc::ETIMEDOUT) => Err(Reason::ConnectTimeout),
            End::Failed(_) => Err(Reason::ConnectFailed),
        })
    }

    /// What it means that the connection ended before an answer's head.
    pub(super) fn lost(&self) -> Reason {
        match self.reused && !self.heard {
            true => Reason::ReusedClosed,
            false => Reason::UpstreamReset,
        }
    }
}

/// Why a connection could not even begin: what this process lacks is no fault of the endpoint's,
/// and trying another would not help.
pub(super) fn unmade(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(errno) if is_shortage(errno) => Reason::Overloaded,
        _ => Reason::ConnectFailed,
    }
}

/// A head that was parsed, and what became of it.
enum Head {
    Partial,
    Interim { is_continue: bool },
    Final { status: u16, persistent: bool, close: bool, hint: bool, download: Pump },
    Switched,
    Refused(Reason),
}

impl Exchange {
    /// Looks for the answer's head, and sends on what it finds.
    pub(super) fn read_answer(&mut self, client: &mut Transport, link: &Link<'_>) -> Answered {
        while let Some(attempt) = &mut self.attempt
            && attempt.transport.has_input()
        {
            if !client.progress().can_send {
                // An upstream that says 1xx after 1xx waits for the client to take them.
                attempt.transport.hold_back();
                client.socket().wake_when_sent(true);
                return Answered::NotYet;
            }
            let mut out = link.context.ring.buffer();
            let mut head = self.parse_answer(&mut out, link);
            if let Head::Final { status, persistent, hint, download, .. } = &mut head {
                let outcome = Outcome::Answered { status: *status, retryable_hint: *hint };
                if self.discard(outcome, *status, *persistent, download, link) {
                    link.context.ring.recycle(out);
                    return Answered::Discarded;
                }
            }
            client.send(Chunk::heap(out));
            let Some(attempt) = &mut self.attempt else {
                return Answered::NotYet;
            };
            match head {
                Head::Refused(reason) => return Answered::Failed(reason),
                Head::Switched => {
                    // Now, and not when the tunnel ends: a probe may be one.
                    attempt.load.answered(link.context.clock());
                    attempt.load.judge(true, link.context);
                    return Answered::Switched;
                }
                Head::Interim { is_continue } => {
                    self.expects &= !is_continue;
                    return Answered::Interim;
                }
                Head::Final { status, persistent, close, hint, download } => {
                    let now = link.context.clock();
                    let whole = download.is_ended();
                    let outcome = Outcome::Answered { status, retryable_hint: hint };
                    let class = self.policy.retries.classify(self.rules.method, outcome);
                    let is_failure = class != Class::Success;
                    attempt.load.answered(now);
                    attempt.load.head_came(!is_failure, link.context);
                    self.ledger.answered(now, Answer { status, whole, is_failure });
                    attempt.endpoint.answered(whole);
                    self.rules.response_begun(persistent);
                    self.forget_copy(&link.context.ring);
                    if close {
                        self.rules.client_spent();
                    }
                    self.download = download;
                    return Answered::Head { whole: self.download.is_ended() };
                }
                Head::Partial if attempt.transport.progress().has_piece => {}
                Head::Partial => break,
            }
        }
        let Some(attempt) = &self.attempt else {
            return Answered::NotYet;
        };
        let progress = attempt.transport.progress();
        if progress.end != End::Open {
            return Answered::Failed(attempt.lost());
        }
        attempt.transport.socket().receive(false);
        Answered::NotYet
    }

    /// Ends the attempt whose answer is not to be sent on, where the request is to be retried. The
    /// connection is used again where all of the answer is here already, or little is to come: to
    /// read on through much of it costs more than a new one.
    fn discard(
        &mut self,
        outcome: Outcome,
        status: u16,
        upstream_persistent: bool,
        download: &mut Pump,
        link: &Link<'_>,
    ) -> bool {
        let Some(endpoint) = self.attempt.as_ref().map(|attempt| attempt.endpoint.clone()) else {
            return false;
        };
        if !self.retry(outcome, Some(&endpoint), link) {
            return false;
        }
        let (now, whole) = (link.context.clock(), download.is_ended());
        let bytes = Bytes { request: self.sent_bytes(), response: download.moved_bytes };
        self.ledger.answered(now, Answer { status, whole, is_failure: true });
        self.ledger.attempt_ended(link.context, None, bytes);
        self.ledger.discarded();
        endpoint.answered(whole);
        let Some(mut attempt) = self.attempt.take() else { return true };
        attempt.load.answered(now);
        attempt.load.judge(false, link.context);
        let may_reuse = self.rules.may_reuse_discarded(upstream_persistent);
        if may_reuse
            && !self.is_half_closed()
            && let Some(rest) = download.rest()
        {
            let Attempt { transport, meter, .. } = attempt;
            let upward = Upward { transport, meter };
            leftovers::keep(&self.upstream, endpoint, upward, rest, link.context);
        }
        true
    }

    /// Parses what has come, and writes what the client is to get of it.
    fn parse_answer(&mut self, out: &mut Vec<u8>, link: &Link<'_>) -> Head {
        let rules = self.rules;
        let switch = self.asks_upgrade.and_then(|it| link.router.upgrades.get(it));
        let switch = switch.map(String::as_str);
        let Some(attempt) = &mut self.attempt else {
            return Head::Partial;
        };
        attempt.heard = true;
        let parser = &mut attempt.parser;
        attempt.transport.with_input(|bytes| {
            let mut storage = FieldStorage::new();
            let (head, framing, consumed) = match parser.parse(bytes, &mut storage, rules.method) {
                Err(reason) => return (bytes.len(), Head::Refused(reason)),
                Ok(None) => return (0, Head::Partial),
                Ok(Some((response, consumed))) => {
                    let framing = response.facts.framing;
                    let at_hand = bytes.len() - consumed;
                    let early = !rules.request_has_ended() && ends_upload(&response, at_hand);
                    let close = early || !rules.client_is_persistent();
                    let head = write_head(out, &response, &rules, switch, close, link);
                    (head, framing, consumed)
                }
            };
            let Head::Final { status, persistent, close, hint, mut download } = head else {
                return (consumed, head);
            };
            let persistent = persistent && framing != Framing::UntilClose;
            match download.take(&mut bytes[consumed..], out) {
                Ok(taken) => {
                    let head = Head::Final { status, persistent, close, hint, download };
                    (consumed + taken, head)
                }
                Err(error) => {
                    // Nothing of this answer has been sent yet, so it can still be refused whole.
                    out.clear();
                    let reason = match error {
                        BodyError::TooLarge => Reason::ResponseTooLarge,
                        _ => Reason::BadResponse,
                    };
                    (bytes.len(), Head::Refused(reason))
                }
            }
        })
    }
}

/// Whether an answer that comes before the request's end is sure to end the upload: it is here
/// whole, or it refuses. The client's connection cannot go on then, and is told so.
fn ends_upload(response: &Response<'_, '_>, at_hand: usize) -> bool {
    let whole = match response.facts.framing {
        Framing::Empty => true,
        Framing::Length(bytes) => bytes <= at_hand as u64,
        Framing::Chunked | Framing::UntilClose => false,
    };
    whole || response.status >= 400
}

fn write_head(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    rules: &crate::http::Exchange,
    switch: Option<&str>,
    close: bool,
    link: &Link<'_>,
) -> Head {
    if response.facts.is_interim {
        // RFC 9110 section 15.2: a client that speaks 1.0 does not know interim answers.
        if rules.client_version == Version::Http11 {
            encode::interim(out, response);
        }
        return Head::Interim { is_continue: response.status == 100 };
    }
    if response.status == 101 {
        let asked_for = switch.is_some_and(|protocol| response.switches_to(protocol));
        if !asked_for || !rules.request_has_ended() {
            return Head::Refused(Reason::BadResponse);
        }
    }
    let (framing, must_close) = outgoing_framing(response.facts.framing, rules.client_version);
    let close = must_close || close || link.is_closing();
    let date = link.context.date();
    let context = ResponseContext {
        client_version: rules.client_version,
        close: close && response.status != 101,
        rules: &link.router.rules,
        date: Some(&date),
    };
    encode::response(out, response, framing, &context);
    encode::end(out);
    if response.status == 101 {
        return Head::Switched;
    }
    Head::Final {
        status: response.status,
        persistent: response.facts.persistent,
        close,
        hint: response.status >= 400 && response.is_retryable(),
        download: Pump::new(response.facts.framing, framing, None)
            .dropping_trailers(response.facts.nominates),
    }
}
