//! Whether an attempt succeeded, and whether a failed one may be made again.
//!
//! - A status of 500 or more is a failure, and so is one outside 100 to 599 (RFC 9110 section 15:
//!   it is to be treated as a 5xx). Everything else is a success: a 4xx is the client's doing.
//! - Which failures may be tried again depends on the method: a proxy must not repeat a request
//!   that is not idempotent on its own account (RFC 9110 section 9.2.2), so more than that is the
//!   operator's to allow. Kinds and names are those of Linkerd 1.x.
//! - `Statuses` is a list: what stands in it is a failure, whatever its class, and is tried again
//!   for the methods that it names. A 5xx that is not in it is a failure and is not tried again.
//! - `AllSuccessful` takes every answer for a success; no answer is a failure still.
//! - An answer with `l5d-retryable: true` says that a proxy behind us never delivered the request:
//!   if it is a failure it may be tried again, whatever the method and the kind.
//! - Where the proxy itself gave an attempt up, `http::Reason` has the verdict; what it leaves to
//!   the classifier is treated as an answer with the status that the client would be sent.
//!
//! Budget, number of attempts and whether the body is still at hand are not known here, nor whose
//! fault a failure is: failure accrual asks `Reason::is_upstream_fault`.

use std::ops::RangeInclusive;

use crate::http::{Method, Reason, Retry};

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The head of an answer came; `retryable_hint` where it has `l5d-retryable: true`.
    Answered { status: u16, retryable_hint: bool },
    /// No answer; `nothing_sent` where not a byte of the request reached the upstream.
    Failed { reason: Reason, nothing_sent: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Success,
    Failure { retryable: bool },
}

/// Which failures a service's requests are tried again after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Classifier {
    #[default]
    NonRetryable5xx,
    /// GET, HEAD, OPTIONS and TRACE.
    RetryableRead5xx,
    /// And PUT and DELETE.
    RetryableIdempotent5xx,
    RetryableAll5xx,
    Statuses(Statuses),
    AllSuccessful,
}

/// Statuses that are failures and are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses {
    methods: Methods,
    /// One bit for each status from 100 to 599, at `status - FIRST_STATUS`.
    listed: [u64; WORDS],
}

/// The methods that may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// Safe ones (RFC 9110 section 9.2.1).
    Read,
    /// Idempotent ones (section 9.2.2).
    Idempotent,
    All,
}

const FIRST_STATUS: u16 = 100;
const LAST_STATUS: u16 = 599;
const WORDS: usize = 8;
const _: () = assert!(WORDS * 64 > (LAST_STATUS - FIRST_STATUS) as usize);

impl Classifier {
    /// The kinds that have a name alone, as configuration spells them.
    pub const NAMED: [(&'static str, Classifier); 5] = [
        ("non_retryable_5xx", Classifier::NonRetryable5xx),
        ("retryable_read_5xx", Classifier::RetryableRead5xx),
        ("retryable_idempotent_5xx", Classifier::RetryableIdempotent5xx),
        ("retryable_all_5xx", Classifier::RetryableAll5xx),
        ("all_successful", Classifier::AllSuccessful),
    ];

    pub fn from_name(name: &str) -> Option<Classifier> {
        Classifier::NAMED.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    pub fn classify(&self, method: Method, outcome: Outcome) -> Class {
        match outcome {
            Outcome::Answered { status, retryable_hint } => {
                if self.is_success(status) {
                    return Class::Success;
                }
                Class::Failure { retryable: retryable_hint || self.repeats(method, status) }
            }
            Outcome::Failed { reason, nothing_sent } => {
                let retryable = match reason.retry() {
                    Retry::Never => false,
                    Retry::NothingSent => true,
                    Retry::IfIdempotent => method.is_idempotent() || nothing_sent,
                    Retry::ByClassifier => self.repeats(method, reason.status()),
                };
                Class::Failure { retryable }
            }
        }
    }

    fn is_success(&self, status: u16) -> bool {
        let is_5xx = is_5xx(status);
        match self {
            Classifier::NonRetryable5xx
            | Classifier::RetryableRead5xx
            | Classifier::RetryableIdempotent5xx
            | Classifier::RetryableAll5xx => !is_5xx,
            Classifier::Statuses(statuses) => !is_5xx && !statuses.contains(status),
            Classifier::AllSuccessful => true,
        }
    }

    /// For a status that is a failure.
    fn repeats(&self, method: Method, status: u16) -> bool {
        match self {
            Classifier::NonRetryable5xx | Classifier::AllSuccessful => false,
            Classifier::RetryableRead5xx => Methods::Read.contains(method),
            Classifier::RetryableIdempotent5xx => Methods::Idempotent.contains(method),
            Classifier::RetryableAll5xx => true,
            Classifier::Statuses(list) => list.contains(status) && list.methods.contains(method),
        }
    }
}

impl Statuses {
    pub fn new(methods: Methods) -> Statuses {
        Statuses { methods, listed: [0; WORDS] }
    }

    /// Adds every status of a range; what is outside 100 to 599 is left out.
    pub fn with(mut self, statuses: RangeInclusive<u16>) -> Statuses {
        let first = FIRST_STATUS.max(*statuses.start());
        for status in first..=LAST_STATUS.min(*statuses.end()) {
            let bit = usize::from(status - FIRST_STATUS);
            self.listed[bit / 64] |= 1 << (bit % 64);
        }
        self
    }

    /// Adds what a word of configuration says: `503`, `5xx` or `500-504`. None where it says
    /// nothing, or a status outside 100 to 599.
    pub fn with_word(self, word: &str) -> Option<Statuses> {
        let (first, last) = match word.strip_suffix("xx") {
            Some(class) => (status(&format!("{class}00"))?, status(&format!("{class}99"))?),
            None => match word.split_once('-') {
                Some((first, last)) => (status(first)?, status(last)?),
                None => (status(word)?, status(word)?),
            },
        };
        (first <= last).then(|| self.with(first..=last))
    }

    fn contains(&self, status: u16) -> bool {
        if !(FIRST_STATUS..=LAST_STATUS).contains(&status) {
            return false;
        }
        let bit = usize::from(status - FIRST_STATUS);
        self.listed[bit / 64] >> (bit % 64) & 1 == 1
    }
}

impl Methods {
    /// The names that configuration gives them.
    pub const NAMED: [(&'static str, Methods); 3] =
        [("read", Methods::Read), ("idempotent", Methods::Idempotent), ("all", Methods::All)];

    pub fn from_name(name: &str) -> Option<Methods> {
        Methods::NAMED.iter().find(|(known, _)| *known == name).map(|(_, methods)| *methods)
    }

    pub fn contains(self, method: Method) -> bool {
        match self {
            Methods::Read => method.is_safe(),
            Methods::Idempotent => method.is_idempotent(),
            Methods::All => true,
        }
    }
}

fn is_5xx(status: u16) -> bool {
    !(FIRST_STATUS..500).contains(&status)
}

/// Three digits, from 100 to 599.
fn status(digits: &str) -> Option<u16> {
    let number = (digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()))
        .then(|| digits.parse().ok())??;
    (FIRST_STATUS..=LAST_STATUS).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [(Method, &str); 10] = [
        (Method::Get, "GET"),
        (Method::Head, "HEAD"),
        (Method::Options, "OPTIONS"),
        (Method::Trace, "TRACE"),
        (Method::Put, "PUT"),
        (Method::Delete, "DELETE"),
        (Method::Post, "POST"),
        (Method::Patch, "PATCH"),
        (Method::Connect, "CONNECT"),
        (Method::Other, "other"),
    ];
    const SUCCESS: Class = Class::Success;

    fn failure(retryable: bool) -> Class {
        Class::Failure { retryable }
    }

    fn listed() -> Statuses {
        let list = Statuses::new(Methods::Idempotent);
        ["503", "429", "510-512"].iter().fold(list, |list, word| list.with_word(word).unwrap())
    }

    /// Each classifier with the methods it repeats, written out by hand.
    fn table() -> [(Classifier, &'static [&'static str]); 6] {
        const READ: &[&str] = &["GET", "HEAD", "OPTIONS", "TRACE"];
        const IDEMPOTENT: &[&str] = &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        const ALL: &[&str] = &[
            "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT", "other",
        ];
        [
            (Classifier::NonRetryable5xx, &[]),
            (Classifier::RetryableRead5xx, READ),
            (Classifier::RetryableIdempotent5xx, IDEMPOTENT),
            (Classifier::RetryableAll5xx, ALL),
            (Classifier::Statuses(listed()), IDEMPOTENT),
            (Classifier::AllSuccessful, &[]),
        ]
    }

    #[test]
    fn every_answer_of_every_method() {
        for (classifier, repeated) in table() {
            for (method, name) in METHODS {
                for status in 0..=1_000 {
                    let is_5xx = !(100..=499).contains(&status);
                    let in_list = [429, 503, 510, 511, 512].contains(&status);
                    let may_repeat = repeated.contains(&name);
                    let (expected, hinted) = match classifier {
                        Classifier::AllSuccessful => (SUCCESS, SUCCESS),
                        Classifier::Statuses(_) if in_list => (failure(may_repeat), failure(true)),
                        Classifier::Statuses(_) if is_5xx => (failure(false), failure(true)),
                        _ if is_5xx => (failure(may_repeat), failure(true)),
                        _ => (SUCCESS, SUCCESS),
                    };
                    let found = [false, true].map(|retryable_hint| {
                        classifier.classify(method, Outcome::Answered { status, retryable_hint })
                    });
                    assert_eq!(found, [expected, hinted], "{classifier:?} {name} {status}");
                }
            }
        }
    }

    #[test]
    fn every_reason_of_every_method() {
        const NOTHING_SENT: [Reason; 3] =
            [Reason::ConnectRefused, Reason::ConnectTimeout, Reason::ConnectFailed];
        const BY_CLASSIFIER: [Reason; 4] = [
            Reason::UpstreamReset,
            Reason::BadResponse,
            Reason::ResponseTooLarge,
            Reason::AttemptTimeout,
        ];
        const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        for (classifier, repeated) in table() {
            for (method, name) in METHODS {
                for reason in Reason::ALL {
                    for nothing_sent in [false, true] {
                        let retryable = if NOTHING_SENT.contains(&reason) {
                            true
                        } else if reason == Reason::ReusedClosed {
                            nothing_sent || IDEMPOTENT.contains(&name)
                        } else if BY_CLASSIFIER.contains(&reason) {
                            // Neither 502 nor 504 is in the list.
                            let is_list = matches!(classifier, Classifier::Statuses(_));
                            !is_list && repeated.contains(&name)
                        } else {
                            false
                        };
                        let outcome = Outcome::Failed { reason, nothing_sent };
                        let found = classifier.classify(method, outcome);
                        assert_eq!(found, failure(retryable), "{classifier:?} {name} {outcome:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_decides_about_our_own_502_and_504_too() {
        let list = Statuses::new(Methods::Read).with_word("502").unwrap();
        let found = [Reason::UpstreamReset, Reason::AttemptTimeout].map(|reason| {
            let outcome = Outcome::Failed { reason, nothing_sent: false };
            [Method::Get, Method::Put].map(|it| Classifier::Statuses(list).classify(it, outcome))
        });
        assert_eq!(found, [[failure(true), failure(false)], [failure(false); 2]]);
    }

    #[test]
    fn words_of_configuration() {
        for (name, classifier) in Classifier::NAMED {
            assert_eq!(Classifier::from_name(name), Some(classifier));
        }
        assert_eq!(Classifier::from_name("retryable_all_5XX"), None);
        assert_eq!(Classifier::default(), Classifier::NonRetryable5xx);
        assert_eq!(Methods::from_name("idempotent"), Some(Methods::Idempotent));
        assert_eq!(Methods::from_name("GET"), None);
        let none = Statuses::new(Methods::All);
        assert_eq!(none.with_word("5xx"), Some(none.with(500..=599)));
        assert_eq!(none.with_word("500-504"), Some(none.with(500..=504)));
        assert_eq!(none.with_word("599"), Some(none.with(599..=u16::MAX)));
        assert_eq!(none.with(0..=100), none.with(100..=100));
        for word in ["", "xx", "0xx", "6xx", "55xx", "5x", "99", "600", "504-500", "500-", "-1-2"] {
            assert_eq!(none.with_word(word), None, "{word}");
        }
    }
}
