//! What became of a request with spans, and whether another try can mend it.

use std::time::Duration;

use axum::http::StatusCode;

/// How a try to send spans has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// The collector has them, but for so many that it says it does not want.
    Taken { unwanted: u64 },
    /// It does not want them, and will not want them at another time either.
    Refused(String),
    /// It may want them later, not before `after` if it said so. `may_be_theirs`: it was reached,
    /// so that it may be these very spans that it cannot take.
    Failed { why: String, after: Option<Duration>, may_be_theirs: bool },
}

impl Verdict {
    pub(in super::super) const TAKEN: Verdict = Verdict::Taken { unwanted: 0 };

    /// It was not reached.
    pub(in super::super) fn unreached(why: impl Into<String>) -> Verdict {
        Verdict::Failed { why: why.into(), after: None, may_be_theirs: false }
    }

    /// No answer came in time.
    pub(in super::super) fn late(why: impl Into<String>) -> Verdict {
        Verdict::Failed { why: why.into(), after: None, may_be_theirs: true }
    }

    /// By the status of the answer. 408 and 429 say that it was the moment that was wrong; of the
    /// rest below 500 only a change of the configuration here or there makes another answer.
    /// Redirects are among them: nobody follows where spans are sent to.
    pub(in super::super) fn of_status(status: StatusCode, after: Option<Duration>) -> Verdict {
        let why = format!("it answers {status}");
        match status {
            _ if status.is_success() => Verdict::TAKEN,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Verdict::Failed { why, after, may_be_theirs: false }
            }
            StatusCode::SERVICE_UNAVAILABLE => Verdict::Failed { why, after, may_be_theirs: false },
            _ if status.is_server_error() => Verdict::Failed { why, after, may_be_theirs: true },
            _ => Verdict::Refused(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_try_can_mend() {
        let verdict = |status| Verdict::of_status(StatusCode::from_u16(status).unwrap(), None);
        for status in [200, 202, 204] {
            assert_eq!(verdict(status), Verdict::TAKEN);
        }
        for status in [301, 400, 401, 404, 413, 499] {
            assert!(matches!(verdict(status), Verdict::Refused(_)), "{status}");
        }
        for status in [408, 429, 500, 502, 503, 599] {
            assert!(matches!(verdict(status), Verdict::Failed { .. }), "{status}");
        }
    }
}
