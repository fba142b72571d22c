//! `failure_accrual` and `retries` of a service: when an endpoint is left alone, and when a request
//! is tried again. Defaults are Linkerd's, but for the cap on retries, which it did not have.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::errors::Path;
use super::leaves::{Check, MAX_MS};
use super::of_kind::OfKind;
use super::raw::{self, Leaf};
use super::{Accrual, Backoff, Classifier, FailureAccrual, Methods, Retries, RetryBudget};

const FAILURES: u64 = 5;
const SUCCESS_RATE_PERCENT: u64 = 80;
const REQUESTS: u64 = 100;
const WINDOW_SECS: u64 = 30;
const MIN_EJECTION_MS: u64 = 5_000;
const MAX_EJECTION_MS: u64 = 300_000;
const MAX_EJECTED_PERCENT: u64 = 50;

const MAX_RETRIES: u64 = 2;
/// More would only make a bad hour worse.
const MAX_RETRIES_MAX: u64 = 10;
const BUDGET_PERCENT: u64 = 20;
const BUDGET_MIN_PER_SEC: u64 = 10;
const BUDGET_WINDOW_SECS: u64 = 10;
const BACKOFF_MIN_MS: u64 = 10;
const BACKOFF_MAX_MS: u64 = 1_000;
const REPLAY_BUFFER_BYTES: u64 = 64 << 10;
const REPLAY_BUFFER_BYTES_MAX: u64 = 16 << 20;

pub(super) fn failure_accrual(
    raw: &raw::FailureAccrual,
    at: &Path,
    check: &mut Check,
) -> FailureAccrual {
    const CONSECUTIVE: &str = "consecutive_failures";
    const RATE: &str = "success_rate";
    const WINDOWED: &str = "success_rate_windowed";
    let kinds = [CONSECUTIVE, RATE, WINDOWED, "none"].map(|kind| (kind, kind));
    let kind = check.word(&at.key("kind"), &raw.kind, CONSECUTIVE, &kinds);
    let of = OfKind { at, key: "kind", kind };
    let failures =
        of.number(check, &[CONSECUTIVE], ("failures", &raw.failures), FAILURES, 1..=1_000_000);
    let percent = of.number(
        check,
        &[RATE, WINDOWED],
        ("success_rate_percent", &raw.success_rate_percent),
        SUCCESS_RATE_PERCENT,
        1..=100,
    );
    let requests = of.number(check, &[RATE], ("requests", &raw.requests), REQUESTS, 1..=1_000_000);
    let window_secs =
        of.number(check, &[WINDOWED], ("window_secs", &raw.window_secs), WINDOW_SECS, 1..=3_600);
    let accrual = match kind {
        RATE => Accrual::SuccessRate { percent: percent as u32, requests: requests as u32 },
        WINDOWED => Accrual::SuccessRateWindowed {
            percent: percent as u32,
            window: Duration::from_secs(window_secs),
        },
        CONSECUTIVE => Accrual::ConsecutiveFailures { failures: failures as u32 },
        _ => Accrual::None,
    };
    let (min_ejection, max_ejection) = span(
        check,
        at,
        ("min_ejection_ms", &raw.min_ejection_ms, MIN_EJECTION_MS),
        ("max_ejection_ms", &raw.max_ejection_ms, MAX_EJECTION_MS),
    );
    let cap_at = at.key("max_ejected_percent");
    let cap = check.number(&cap_at, &raw.max_ejected_percent, MAX_EJECTED_PERCENT, 1..=100);
    FailureAccrual { accrual, min_ejection, max_ejection, max_ejected_percent: cap as u32 }
}

pub(super) fn retries(raw: &raw::Retries, at: &Path, check: &mut Check) -> Retries {
    let max_retries =
        check.number(&at.key("max_retries"), &raw.max_retries, MAX_RETRIES, 0..=MAX_RETRIES_MAX);
    let replay = check.number(
        &at.key("replay_buffer_bytes"),
        &raw.replay_buffer_bytes,
        REPLAY_BUFFER_BYTES,
        0..=REPLAY_BUFFER_BYTES_MAX,
    );
    Retries {
        classifier: classifier(raw, at, check),
        max_retries: max_retries as u32,
        budget: budget(&raw.budget.0, &at.key("budget"), check),
        backoff: backoff(&raw.backoff.0, &at.key("backoff"), check),
        replay_buffer_bytes: replay as usize,
    }
}

fn classifier(raw: &raw::Retries, at: &Path, check: &mut Check) -> Classifier {
    let kinds = [
        Classifier::NonRetryable5xx,
        Classifier::RetryableRead5xx,
        Classifier::RetryableIdempotent5xx,
        Classifier::RetryableAll5xx,
        Classifier::AllSuccessful,
        Classifier::Statuses { statuses: Vec::new(), methods: Methods::Idempotent },
    ];
    let words: Vec<(&str, &Classifier)> = kinds.iter().map(|kind| (kind.name(), kind)).collect();
    let kind = check.word(&at.key("classifier"), &raw.classifier, &kinds[0], &words);
    let methods_at = at.key("methods");
    let methods = [Methods::Read, Methods::Idempotent, Methods::All].map(|it| (it.name(), it));
    let methods = check.word(&methods_at, &raw.methods, Methods::Idempotent, &methods);
    if let Classifier::Statuses { .. } = kind {
        return Classifier::Statuses { statuses: statuses(raw, at, check), methods };
    }
    let of = OfKind { at, key: "classifier", kind: kind.name() };
    of.is_missing(check, &["statuses"], ("statuses", raw.statuses.is_some()));
    of.is_missing(check, &["statuses"], ("methods", raw.methods.is_some()));
    kind.clone()
}

/// Each at most once.
fn statuses(raw: &raw::Retries, at: &Path, check: &mut Check) -> Vec<u16> {
    const NONE: u64 = 0;
    let at = at.key("statuses");
    let raw = raw.statuses.as_deref().unwrap_or_default();
    if raw.is_empty() {
        check.missing(&at, "a list of at least one status from 400 to 599");
    }
    let read = raw.iter().enumerate();
    let read = read.map(|(i, leaf)| check.number(&at.index(i), leaf, NONE, 400..=599));
    let mut statuses: Vec<u16> = read.filter(|&it| it != NONE).map(|it| it as u16).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn budget(raw: &raw::RetryBudget, at: &Path, check: &mut Check) -> RetryBudget {
    let mut number = |name: &str, leaf: &Leaf, default, range: RangeInclusive<u64>| {
        check.number(&at.key(name), leaf, default, range)
    };
    RetryBudget {
        percent: number("percent", &raw.percent, BUDGET_PERCENT, 0..=1_000) as u32,
        min_per_sec: number("min_per_sec", &raw.min_per_sec, BUDGET_MIN_PER_SEC, 0..=1_000_000)
            as u32,
        window: Duration::from_secs(number(
            "window_secs",
            &raw.window_secs,
            BUDGET_WINDOW_SECS,
            1..=60,
        )),
    }
}

fn backoff(raw: &raw::Backoff, at: &Path, check: &mut Check) -> Backoff {
    const CONSTANT: &str = "constant";
    const JITTERED: &str = "jittered";
    let kinds = ["none", CONSTANT, JITTERED].map(|kind| (kind, kind));
    let kind = check.word(&at.key("kind"), &raw.kind, "none", &kinds);
    let of = OfKind { at, key: "kind", kind };
    let fixed = of.number(check, &[CONSTANT], ("ms", &raw.ms), BACKOFF_MIN_MS, 1..=MAX_MS);
    for key in [("min_ms", &raw.min_ms), ("max_ms", &raw.max_ms)] {
        of.has(check, &[JITTERED], key);
    }
    match kind {
        CONSTANT => Backoff::Constant(Duration::from_millis(fixed)),
        JITTERED => {
            let least = ("min_ms", &raw.min_ms, BACKOFF_MIN_MS);
            let (min, max) = span(check, at, least, ("max_ms", &raw.max_ms, BACKOFF_MAX_MS));
            Backoff::Jittered { min, max }
        }
        _ => Backoff::None,
    }
}

/// Two times of which the first is not the longer one.
pub(super) fn span(
    check: &mut Check,
    at: &Path,
    (least, least_leaf, least_default): (&str, &Leaf, u64),
    (most, most_leaf, most_default): (&str, &Leaf, u64),
) -> (Duration, Duration) {
    let min = check.millis(&at.key(least), least_leaf, least_default);
    let max = check.millis(&at.key(most), most_leaf, most_default);
    if min > max {
        let wrong =
            format!("{} is more than {most}, which is {}", min.as_millis(), max.as_millis());
        check.report.value(&at.key(least), wrong, format!("at most {most}"));
        return (max, max);
    }
    (min, max)
}
