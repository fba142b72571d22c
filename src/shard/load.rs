//! An attempt as its endpoint and the policies see it: load while it lasts, then a verdict.

use std::rc::Rc;
use std::time::Duration;

use super::context::Context;
use super::upstream::{Endpoint, Pick, Upstream};
use crate::policy::accrual::Report;

/// An attempt's place in its endpoint's load; taken back when the attempt is over, however it ends.
pub(super) struct Load {
    upstream: Rc<Upstream>,
    endpoint: Rc<Endpoint>,
    /// It owes the accrual a report.
    is_probe: bool,
    /// It counts against its endpoint's limit.
    has_entered: bool,
    /// It has been called a failure.
    has_failed: bool,
    /// It is a success once the rest of the answer has come.
    may_succeed: bool,
    started: Duration,
    /// When the attempt was decided, and the latency that the balancer is told.
    outcome: Option<(Duration, Duration)>,
}

impl Load {
    pub(super) fn new(upstream: &Rc<Upstream>, pick: Pick, now: Duration) -> Load {
        let Pick { endpoint, is_probe, has_entered } = pick;
        upstream.balancer.borrow_mut().started(endpoint.slot);
        Load {
            upstream: upstream.clone(),
            endpoint,
            is_probe,
            has_entered,
            has_failed: false,
            may_succeed: false,
            started: now,
            outcome: None,
        }
    }

    /// The attempt is a success or the endpoint's failure, as far as is known. Said when the
    /// answer's head comes, and once more where it breaks off after that; not at all where the
    /// client is to blame.
    pub(super) fn judge(&mut self, success: bool, context: &Context) {
        if std::mem::replace(&mut self.has_failed, !success) {
            // One failure, however many things go wrong with it.
            return;
        }
        match std::mem::replace(&mut self.is_probe, false) {
            true => self.upstream.probed(&self.endpoint, success, context),
            false => self.upstream.judge(&self.endpoint, success, context),
        }
    }

    /// The answer's head says so. A success is one only when the rest has come: else an endpoint
    /// that breaks off each answer would never fail twice in a row. A probe does not wait for that,
    /// which for a long download could take hours.
    pub(super) fn head_came(&mut self, success: bool, context: &Context) {
        match success && !self.is_probe {
            true => self.may_succeed = true,
            false => self.judge(success, context),
        }
    }

    /// The answer has come whole.
    pub(super) fn ended(&mut self, context: &Context) {
        if std::mem::take(&mut self.may_succeed) {
            self.judge(true, context);
        }
    }

    /// The answer's head has come.
    pub(super) fn answered(&mut self, now: Duration) {
        self.outcome = Some((now, now.saturating_sub(self.started)));
    }

    /// There was no connection to be had. Counts as if it had taken all the time that it may: an
    /// endpoint that answers nothing must not look like the fastest.
    pub(super) fn unreachable(&mut self, now: Duration) {
        self.outcome = Some((now, self.upstream.rules().timeouts.connect));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.is_probe {
            self.upstream.shared.accrual.report(&self.endpoint.state, Report::Lost);
        }
        if self.has_entered {
            self.endpoint.state.running.leave();
        }
        let now = self.outcome.map_or(self.started, |(now, _)| now);
        let latency = self.outcome.map(|(_, latency)| latency);
        self.upstream.balancer.borrow_mut().finished(self.endpoint.slot, now, latency);
    }
}
