//! Why the proxy answered by itself: one closed enum, mapped here to status, verdict and label.
//!
//! No match in this file has a wildcard arm, so a new reason does not compile before each of its
//! columns is decided. What a retry verdict leads to (budget, classifier, another endpoint) is
//! `policy/`'s to know.

/// Why an exchange was answered, or given up, by the proxy itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request is not HTTP, or its framing is ambiguous.
    BadRequest,
    /// The request line is over its limit.
    UriTooLong,
    /// The head is over its limit in bytes or fields.
    HeaderTooLarge,
    /// The body is over `max_body_bytes`.
    BodyTooLarge,
    /// The client began a head or a body and did not go on in time.
    ClientTimeout,
    /// CONNECT, which a reverse proxy does not serve.
    MethodNotAllowed,
    /// A version other than 1.0 and 1.1.
    VersionNotSupported,
    /// No route matches.
    NoRoute,
    /// The service has no endpoint.
    NoEndpoint,
    /// A limit on concurrency or on waiting requests is reached.
    Overloaded,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection failed in another way (no route to host, no descriptor).
    ConnectFailed,
    /// A pooled connection turned out closed before a byte of the answer.
    ReusedClosed,
    /// The upstream broke off before its answer was complete.
    UpstreamReset,
    /// The answer is not HTTP, or its framing is ambiguous.
    BadResponse,
    /// The head of the answer is over its limit.
    ResponseTooLarge,
    /// One attempt took too long.
    AttemptTimeout,
    /// The whole exchange took too long.
    RequestTimeout,
    /// The client went away; nothing is sent, the status is for metrics only.
    ClientClosed,
}

/// Whether the same request may be sent once more after a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not: the request itself or the proxy's state is the cause.
    Never,
    /// Always safe: no byte of the request reached the upstream.
    NothingSent,
    /// Safe for idempotent methods, or when no byte was sent (RFC 9110 section 9.2.2).
    IfIdempotent,
    /// The service's classifier decides.
    ByClassifier,
}

impl Reason {
    /// Every reason, in the order of declaration; metrics index by it.
    pub const ALL: [Reason; 20] = [
        Reason::BadRequest,
        Reason::UriTooLong,
        Reason::HeaderTooLarge,
        Reason::BodyTooLarge,
        Reason::ClientTimeout,
        Reason::MethodNotAllowed,
        Reason::VersionNotSupported,
        Reason::NoRoute,
        Reason::NoEndpoint,
        Reason::Overloaded,
        Reason::ConnectRefused,
        Reason::ConnectTimeout,
        Reason::ConnectFailed,
        Reason::ReusedClosed,
        Reason::UpstreamReset,
        Reason::BadResponse,
        Reason::ResponseTooLarge,
        Reason::AttemptTimeout,
        Reason::RequestTimeout,
        Reason::ClientClosed,
    ];

    /// The status that the client is sent (499 is never sent).
    pub fn status(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::UriTooLong => 414,
            Reason::HeaderTooLarge => 431,
            Reason::BodyTooLarge => 413,
            Reason::ClientTimeout => 408,
            Reason::MethodNotAllowed => 405,
            Reason::VersionNotSupported => 505,
            Reason::NoRoute => 404,
            Reason::NoEndpoint | Reason::Overloaded => 503,
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::ReusedClosed
            | Reason::UpstreamReset
            | Reason::BadResponse
            | Reason::ResponseTooLarge => 502,
            Reason::AttemptTimeout | Reason::RequestTimeout => 504,
            Reason::ClientClosed => 499,
        }
    }

    /// The value of `ringlane-error` and of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad_request",
            Reason::UriTooLong => "uri_too_long",
            Reason::HeaderTooLarge => "header_too_large",
            Reason::BodyTooLarge => "body_too_large",
            Reason::ClientTimeout => "client_timeout",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::VersionNotSupported => "version_not_supported",
            Reason::NoRoute => "no_route",
            Reason::NoEndpoint => "no_endpoint",
            Reason::Overloaded => "overloaded",
            Reason::ConnectRefused => "connect_refused",
            Reason::ConnectTimeout => "connect_timeout",
            Reason::ConnectFailed => "connect_failed",
            Reason::ReusedClosed => "reused_closed",
            Reason::UpstreamReset => "upstream_reset",
            Reason::BadResponse => "bad_response",
            Reason::ResponseTooLarge => "response_too_large",
            Reason::AttemptTimeout => "attempt_timeout",
            Reason::RequestTimeout => "request_timeout",
            Reason::ClientClosed => "client_closed",
        }
    }

    /// What the client reads in the body, one line without its end.
    pub fn text(self) -> &'static str {
        match self {
            Reason::BadRequest => "the request is malformed or its framing is ambiguous",
            Reason::UriTooLong => "the request line is too long",
            Reason::HeaderTooLarge => "the head of the request is too large",
            Reason::BodyTooLarge => "the body of the request is too large",
            Reason::ClientTimeout => "the request was not complete in time",
            Reason::MethodNotAllowed => "this method is not served here",
            Reason::VersionNotSupported => "only HTTP/1.0 and HTTP/1.1 are served here",
            Reason::NoRoute => "no route matches the request",
            Reason::NoEndpoint => "the service has no endpoint",
            Reason::Overloaded => "too many requests at once",
            Reason::ConnectRefused => "the upstream refused the connection",
            Reason::ConnectTimeout => "connecting to the upstream took too long",
            Reason::ConnectFailed => "connecting to the upstream failed",
            Reason::ReusedClosed => "the upstream closed the connection",
            Reason::UpstreamReset => "the upstream broke off",
            Reason::BadResponse => "the upstream's answer is malformed",
            Reason::ResponseTooLarge => "the head of the upstream's answer is too large",
            Reason::AttemptTimeout => "the upstream took too long",
            Reason::RequestTimeout => "the exchange took too long",
            Reason::ClientClosed => "the client closed the connection",
        }
    }

    /// Whether another attempt may follow.
    pub fn retry(self) -> Retry {
        match self {
            Reason::BadRequest
            | Reason::UriTooLong
            | Reason::HeaderTooLarge
            | Reason::BodyTooLarge
            | Reason::ClientTimeout
            | Reason::MethodNotAllowed
            | Reason::VersionNotSupported
            | Reason::NoRoute
            | Reason::NoEndpoint
            | Reason::Overloaded
            | Reason::RequestTimeout
            | Reason::ClientClosed => Retry::Never,
            Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectFailed => {
                Retry::NothingSent
            }
            Reason::ReusedClosed => Retry::IfIdempotent,
            Reason::UpstreamReset
            | Reason::BadResponse
            | Reason::ResponseTooLarge
            | Reason::AttemptTimeout => Retry::ByClassifier,
        }
    }

    /// Whether failure accrual counts it against the endpoint.
    ///
    /// `ReusedClosed` does not count: an origin may close an idle connection at any time (RFC 9112
    /// section 9.5). `RequestTimeout` does not either: the deadline may be the client's own.
    pub fn is_upstream_fault(self) -> bool {
        match self {
            Reason::BadRequest
            | Reason::UriTooLong
            | Reason::HeaderTooLarge
            | Reason::BodyTooLarge
            | Reason::ClientTimeout
            | Reason::MethodNotAllowed
            | Reason::VersionNotSupported
            | Reason::NoRoute
            | Reason::NoEndpoint
            | Reason::Overloaded
            | Reason::ReusedClosed
            | Reason::RequestTimeout
            | Reason::ClientClosed => false,
            Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectFailed
            | Reason::UpstreamReset
            | Reason::BadResponse
            | Reason::ResponseTooLarge
            | Reason::AttemptTimeout => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_columns_of_the_design() {
        use Retry::{ByClassifier, IfIdempotent, Never, NothingSent};
        let table = [
            ("bad_request", 400, Never, false),
            ("uri_too_long", 414, Never, false),
            ("header_too_large", 431, Never, false),
            ("body_too_large", 413, Never, false),
            ("client_timeout", 408, Never, false),
            ("method_not_allowed", 405, Never, false),
            ("version_not_supported", 505, Never, false),
            ("no_route", 404, Never, false),
            ("no_endpoint", 503, Never, false),
            ("overloaded", 503, Never, false),
            ("connect_refused", 502, NothingSent, true),
            ("connect_timeout", 502, NothingSent, true),
            ("connect_failed", 502, NothingSent, true),
            ("reused_closed", 502, IfIdempotent, false),
            ("upstream_reset", 502, ByClassifier, true),
            ("bad_response", 502, ByClassifier, true),
            ("response_too_large", 502, ByClassifier, true),
            ("attempt_timeout", 504, ByClassifier, true),
            ("request_timeout", 504, Never, false),
            ("client_closed", 499, Never, false),
        ];
        assert_eq!(table.len(), Reason::ALL.len());
        for (at, (reason, row)) in Reason::ALL.into_iter().zip(table).enumerate() {
            let found = (reason.label(), reason.status(), reason.retry());
            assert_eq!((found, reason.is_upstream_fault()), ((row.0, row.1, row.2), row.3));
            assert_eq!(reason as usize, at, "ALL is in the order of declaration");
            assert!(!reason.text().is_empty());
        }
    }
}
