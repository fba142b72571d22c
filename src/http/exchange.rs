//! One request and its answer: what is open, and what follows from that.
//!
//! Pure rules, without bytes or sockets. The shard tells how far each message has come; the rules
//! say what a failure means (try again, answer, break off), whether the upstream connection may be
//! used again and whether the client's may.
//!
//! - A failure before the answer began is retried where its reason allows, else answered. After
//!   that the client's connection is broken, so that it cannot take a part for the whole.
//! - An upstream connection is used again only after both messages ended cleanly and nothing more
//!   came.
//! - Nor is one used again that has been told who a client is, which NTLM and Negotiate do once for
//!   a connection: whoever came next would be that client.
//! - The client's connection goes on only when its request ended too: bytes of a request that was
//!   answered early would be taken for the next one.

use super::{Method, Reason, Request, Retry, Version};

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Message {
    Awaited,
    Begun,
    Ended,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request goes to an endpoint once more.
    Again,
    /// The client is answered here; `close` says whether its connection ends with that.
    Answer { close: bool },
    /// The client has a part of an answer: its connection is broken off.
    Break,
}

#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub method: Method,
    pub client_version: Version,
    client_persistent: bool,
    upstream_persistent: bool,
    /// No upstream connection that the request was sent on is used again.
    binds: bool,
    request: Message,
    response: Message,
    /// The whole request is at hand, to be sent again.
    replayable: bool,
    /// Something of this attempt's request has been handed to the upstream connection.
    sent: bool,
    attempts_left: u32,
}

/// Attempts per request where only the connection is to blame: the first, and two more. The
/// operator's retries, which look at answers too, have a budget of their own.
const MAX_ATTEMPTS: u32 = 3;

impl Exchange {
    pub fn of(request: &Request<'_, '_>) -> Exchange {
        let facts = &request.facts;
        let exchange = Exchange::new(request.method, request.version, facts.persistent);
        Exchange { binds: facts.binds, ..exchange }
    }

    pub fn new(method: Method, client_version: Version, client_persistent: bool) -> Exchange {
        Exchange {
            method,
            client_version,
            client_persistent,
            upstream_persistent: true,
            binds: false,
            request: Message::Begun,
            response: Message::Awaited,
            replayable: true,
            sent: false,
            attempts_left: MAX_ATTEMPTS,
        }
    }

    pub fn attempt_begun(&mut self) {
        debug_assert!(self.attempts_left > 0);
        self.attempts_left -= 1;
        self.sent = false;
        self.upstream_persistent = !self.binds;
    }

    pub fn request_sent(&mut self) {
        self.sent = true;
    }

    /// A part of the request was passed on and not kept.
    pub fn body_forwarded(&mut self) {
        self.replayable = false;
    }

    pub fn request_ended(&mut self) {
        self.request = Message::Ended;
    }

    /// The final answer's head has come.
    pub fn response_begun(&mut self, upstream_persistent: bool) {
        self.response = Message::Begun;
        self.upstream_persistent &= upstream_persistent;
    }

    pub fn response_ended(&mut self) {
        self.response = Message::Ended;
    }

    /// The upstream connection cannot be used for another request.
    pub fn upstream_spent(&mut self) {
        self.upstream_persistent = false;
    }

    /// The client's connection cannot be used for another request.
    pub fn client_spent(&mut self) {
        self.client_persistent = false;
    }

    pub fn client_is_persistent(&self) -> bool {
        self.client_persistent
    }

    pub fn request_has_ended(&self) -> bool {
        self.request == Message::Ended
    }

    pub fn response_has_begun(&self) -> bool {
        self.response >= Message::Begun
    }

    pub fn on_failure(&self, reason: Reason) -> Verdict {
        if self.response_has_begun() {
            return Verdict::Break;
        }
        let allowed = match reason.retry() {
            Retry::NothingSent => true,
            Retry::IfIdempotent => self.method.is_idempotent() || !self.sent,
            // The operator's retries, which ask `may_retry`.
            Retry::ByClassifier | Retry::Never => false,
        };
        if allowed && self.replayable && self.attempts_left > 0 {
            return Verdict::Again;
        }
        self.given_up(reason)
    }

    /// What a failure leads to that nothing more is done about.
    pub fn given_up(&self, reason: Reason) -> Verdict {
        match self.response_has_begun() {
            true => Verdict::Break,
            false => Verdict::Answer { close: self.closes(reason) },
        }
    }

    /// Whether the request can be sent once more, whatever became of it: all of it is at hand, and
    /// the client has nothing of an answer yet.
    pub fn may_retry(&self) -> bool {
        !self.response_has_begun() && self.replayable
    }

    /// The operator's rules grant one more attempt, which is none of the connection's.
    pub fn retry_granted(&mut self) {
        debug_assert!(self.may_retry());
        self.attempts_left += 1;
    }

    /// Whether an upstream connection may carry another request once what is left of its answer,
    /// which nobody wants, has come. `upstream_persistent`: as that answer's head said.
    pub fn may_reuse_discarded(&self, upstream_persistent: bool) -> bool {
        self.upstream_persistent && upstream_persistent && self.request == Message::Ended
    }

    /// Both messages have ended and left the upstream connection where the next may begin.
    pub fn may_reuse_upstream(&self) -> bool {
        self.upstream_persistent
            && self.request == Message::Ended
            && self.response == Message::Ended
    }

    /// Whether the client's connection has carried its last request.
    pub fn closes_client(&self) -> bool {
        !self.client_persistent || self.request != Message::Ended
    }

    fn closes(&self, reason: Reason) -> bool {
        let unclear = match reason {
            Reason::BadRequest
            | Reason::UriTooLong
            | Reason::HeaderTooLarge
            | Reason::BodyTooLarge
            | Reason::ClientTimeout
            | Reason::MethodNotAllowed
            | Reason::VersionNotSupported
            | Reason::ClientClosed => true,
            Reason::NoRoute
            | Reason::NoEndpoint
            | Reason::Overloaded
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::ReusedClosed
            | Reason::UpstreamReset
            | Reason::BadResponse
            | Reason::ResponseTooLarge
            | Reason::AttemptTimeout
            | Reason::RequestTimeout => false,
        };
        // What is made here does not say keep-alive, so a 1.0 client takes it for the last.
        unclear || self.closes_client() || self.client_version == Version::Http10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(method: Method, body_forwarded: bool) -> Exchange {
        let mut exchange = Exchange::new(method, Version::Http11, true);
        exchange.attempt_begun();
        exchange.request_sent();
        if body_forwarded {
            exchange.body_forwarded();
        }
        exchange.request_ended();
        exchange
    }

    #[test]
    fn nothing_sent_is_tried_again_whatever_the_method() {
        for method in [Method::Get, Method::Post] {
            let mut exchange = Exchange::new(method, Version::Http11, true);
            exchange.request_ended();
            for _ in 1..MAX_ATTEMPTS {
                exchange.attempt_begun();
                assert_eq!(exchange.on_failure(Reason::ConnectRefused), Verdict::Again);
            }
            exchange.attempt_begun();
            let answer = Verdict::Answer { close: false };
            assert_eq!(exchange.on_failure(Reason::ConnectRefused), answer);
        }
    }

    #[test]
    fn a_reused_connection_that_closed_is_retried_if_that_is_harmless() {
        let answer = Verdict::Answer { close: false };
        let reused = Reason::ReusedClosed;
        assert_eq!(sent(Method::Get, false).on_failure(reused), Verdict::Again);
        assert_eq!(sent(Method::Put, false).on_failure(reused), Verdict::Again);
        assert_eq!(sent(Method::Put, true).on_failure(reused), answer);
        assert_eq!(sent(Method::Post, false).on_failure(reused), answer);
        let mut unsent = Exchange::new(Method::Post, Version::Http11, true);
        unsent.attempt_begun();
        assert_eq!(unsent.on_failure(reused), Verdict::Again);
    }

    #[test]
    fn a_retry_that_is_granted_is_an_attempt_more() {
        let mut exchange = sent(Method::Post, false);
        let answer = Verdict::Answer { close: false };
        assert_eq!(exchange.on_failure(Reason::UpstreamReset), answer, "not the connection's");
        for _ in 0..5 {
            assert!(exchange.may_retry());
            exchange.retry_granted();
            exchange.attempt_begun();
            exchange.request_sent();
        }
        assert!(exchange.may_reuse_discarded(true) && !exchange.may_reuse_discarded(false));
        exchange.response_begun(true);
        assert!(!exchange.may_retry(), "the client has a part of an answer");
        assert_eq!(exchange.given_up(Reason::UpstreamReset), Verdict::Break);
        assert!(!sent(Method::Put, true).may_retry(), "its body has gone");
    }

    #[test]
    fn a_begun_answer_is_broken_off() {
        let mut exchange = sent(Method::Get, false);
        exchange.response_begun(true);
        assert_eq!(exchange.on_failure(Reason::UpstreamReset), Verdict::Break);
        assert!(!exchange.may_reuse_upstream());
    }

    #[test]
    fn an_early_answer_spends_both_connections() {
        let mut exchange = Exchange::new(Method::Post, Version::Http11, true);
        exchange.attempt_begun();
        exchange.response_begun(true);
        exchange.response_ended();
        assert!(exchange.closes_client());
        assert!(!exchange.may_reuse_upstream());
    }

    #[test]
    fn two_clean_ends_spend_neither() {
        let mut exchange = sent(Method::Get, false);
        exchange.response_begun(true);
        exchange.response_ended();
        assert!(!exchange.closes_client());
        assert!(exchange.may_reuse_upstream());
        exchange.client_spent();
        assert!(exchange.closes_client());
        exchange.upstream_spent();
        assert!(!exchange.may_reuse_upstream());
    }

    #[test]
    fn a_doubtful_request_closes_the_connection() {
        let exchange = sent(Method::Get, false);
        let closing = Verdict::Answer { close: true };
        assert_eq!(exchange.on_failure(Reason::BadRequest), closing);
        assert_eq!(exchange.on_failure(Reason::BodyTooLarge), closing);
        assert_eq!(exchange.on_failure(Reason::NoRoute), Verdict::Answer { close: false });
    }
}
