//! A service's retries on one shard: classifier, budgets and backoff of `policy`, as configured.
//! The reserves of both budgets are the process's, and touched only where a shard's own share is
//! used up.
//!
//! Two budgets, as in Finagle, each with the operator's percentage, so that one kind of trouble
//! does not use up what the other needs. Retries are those that the classifier grants. Requeues
//! follow connections that could not be made: each goes to an endpoint that has seen nothing of the
//! request, but with every endpoint refusing they too would treble the load. A pooled connection
//! that had closed asks neither: it says nothing about its endpoint, and the next one is new.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::context::Context;
use super::shared::Shared;
use crate::config;
use crate::http::{Method, Reason};
use crate::policy::backoff::{Backoff, Delays};
use crate::policy::budget::{Reserve, RetryBudget};
use crate::policy::classifier::{Class, Classifier, Methods, Outcome, Statuses};

pub(super) struct Retries {
    classifier: Classifier,
    max_retries: u32,
    backoff: Backoff,
    retries: RefCell<RetryBudget>,
    requeues: RefCell<RetryBudget>,
    reserve: Reserve,
    shared: Arc<Shared>,
    /// Of a request's body, what is kept to be sent again.
    pub(super) replay_buffer_bytes: usize,
}

/// Whether a request may be retried once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    Granted,
    /// It has had as many as it may.
    NoMore,
    /// It might, but others have used up the service's budget.
    Exhausted,
}

impl Retries {
    pub(super) fn new(rules: &config::Retries, shared: Arc<Shared>) -> Retries {
        let config::RetryBudget { percent, min_per_sec, window } = rules.budget;
        let budget = || RefCell::new(RetryBudget::new(percent, window));
        Retries {
            classifier: classifier(&rules.classifier),
            max_retries: rules.max_retries,
            backoff: match rules.backoff {
                config::Backoff::None => Backoff::None,
                config::Backoff::Constant(time) => Backoff::Constant(time),
                config::Backoff::Jittered { min, max } => Backoff::Jittered { min, max },
            },
            retries: budget(),
            requeues: budget(),
            reserve: Reserve::new(min_per_sec),
            shared,
            replay_buffer_bytes: rules.replay_buffer_bytes,
        }
    }

    /// A request has come.
    pub(super) fn deposit(&self, now: Duration) {
        self.retries.borrow_mut().deposit(now);
        self.requeues.borrow_mut().deposit(now);
    }

    pub(super) fn classify(&self, method: Method, outcome: Outcome) -> Class {
        self.classifier.classify(method, outcome)
    }

    /// Whether a request with this method might be sent again after some of it was: what its body
    /// is kept for.
    pub(super) fn may_repeat(&self, method: Method) -> bool {
        let reset = Outcome::Failed { reason: Reason::UpstreamReset, nothing_sent: false };
        let retryable = Class::Failure { retryable: true };
        method.is_idempotent() || self.classify(method, reset) == retryable
    }

    /// Asks for a retry, and counts it if it is granted; `made`: those that the request has had.
    pub(super) fn ask(&self, made: u32, context: &Context) -> Grant {
        if made >= self.max_retries {
            return Grant::NoMore;
        }
        match self.withdraw(&self.retries, &self.shared.reserves.retries, context) {
            true => Grant::Granted,
            false => Grant::Exhausted,
        }
    }

    pub(super) fn may_requeue(&self, context: &Context) -> bool {
        self.withdraw(&self.requeues, &self.shared.reserves.requeues, context)
    }

    fn withdraw(
        &self,
        share: &RefCell<RetryBudget>,
        reserve: &AtomicU64,
        context: &Context,
    ) -> bool {
        // All shards' clocks begin together; the ring's does when its shard does.
        let take = |state| self.reserve.take(state, context.clock());
        share.borrow_mut().try_withdraw(context.ring.now())
            || reserve.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// The waits of a request.
    pub(super) fn delays(&self) -> Delays {
        self.backoff.delays()
    }

    /// Retries that could be made now by this shard's share; on the first shard, which tells it for
    /// all, by the reserve too.
    pub(super) fn balance(&self, context: &Context) -> u64 {
        let share = self.retries.borrow_mut().left(context.ring.now());
        let state = self.shared.reserves.retries.load(Ordering::Relaxed);
        match context.number {
            0 => share + self.reserve.left(state, context.clock()),
            _ => share,
        }
    }
}

fn classifier(rules: &config::Classifier) -> Classifier {
    match rules {
        config::Classifier::NonRetryable5xx => Classifier::NonRetryable5xx,
        config::Classifier::RetryableRead5xx => Classifier::RetryableRead5xx,
        config::Classifier::RetryableIdempotent5xx => Classifier::RetryableIdempotent5xx,
        config::Classifier::RetryableAll5xx => Classifier::RetryableAll5xx,
        config::Classifier::AllSuccessful => Classifier::AllSuccessful,
        config::Classifier::Statuses { statuses, methods } => {
            let methods = match methods {
                config::Methods::Read => Methods::Read,
                config::Methods::Idempotent => Methods::Idempotent,
                config::Methods::All => Methods::All,
            };
            let none = Statuses::new(methods);
            let all = statuses.iter().fold(none, |all, status| all.with(*status..=*status));
            Classifier::Statuses(all)
        }
    }
}
