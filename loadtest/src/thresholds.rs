//! What a run must keep to: `--fail-if "p99>5ms,errors>0,rate<0.99"`, and `--slo p99=5ms`.
//!
//! A list of conditions with commas between; each is a metric, a comparison and a limit, and a run
//! of which one holds has failed. A metric that the run cannot tell (a percentile of no answers, a
//! rate of a closed loop) has failed too: nothing was shown. Latency is from the intended start.

use std::fmt;
use std::time::Duration;

use crate::record::Failure;
use crate::report::units;
use crate::run::Run;

/// As messages have it.
pub const METRICS: &str = "p50, p99.9 and so on, mean, max, errors, error_percent, \
    errors_<connect|reset|timeout|bad_response|closed_early>, never_sent, \
    rate (sent of asked, 1 is all), status_<code>, status_<1xx to 5xx>";
pub const COMPARISONS: &str = ">, >=, <, <=";

/// What a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// In percent.
    Percentile(f64),
    Mean,
    Max,
    Errors,
    ErrorsOf(Failure),
    ErrorPercent,
    NeverSent,
    Rate,
    Status(u16),
    /// 5 for 5xx.
    StatusClass(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// One condition of which a run must be free.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// As it was written, without white space around it.
    pub text: String,
    pub metric: Metric,
    pub comparison: Comparison,
    /// Nanoseconds for a latency; a count, per cent or share for the rest.
    pub limit: f64,
}

/// All conditions of a command line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Thresholds {
    conditions: Vec<Condition>,
}

/// What a finished run makes of one condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub text: String,
    /// With its unit; what is missing where the run cannot tell.
    pub actual: String,
    pub failed: bool,
}

/// Where a list of conditions is wrong, how, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThresholdError {
    /// In characters, from 1.
    pub column: usize,
    pub what: String,
    pub allowed: &'static str,
}

impl fmt::Display for ThresholdError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "column {}: {}; allowed: {}", self.column, self.what, self.allowed)
    }
}

impl std::error::Error for ThresholdError {}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.failed { "FAILED" } else { "passed" };
        write!(out, "{word}  {}: {}", self.text, self.actual)
    }
}

impl std::str::FromStr for Thresholds {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Thresholds, ThresholdError> {
        let conditions = pieces(text).map(|piece| condition(piece, &SIGNS, COMPARISONS));
        Ok(Thresholds { conditions: conditions.collect::<Result<_, _>>()? })
    }
}

impl Thresholds {
    /// An objective, `p99=5ms,errors=0`: what must hold, at the limit or on its better side.
    pub fn objective(text: &str) -> Result<Thresholds, ThresholdError> {
        // Of all metrics, the rate alone is better when it is greater.
        let read = |piece| {
            let mut condition = condition(piece, &[("=", Comparison::Above)], "=")?;
            if condition.metric == Metric::Rate {
                condition.comparison = Comparison::Below;
            }
            Ok(condition)
        };
        let conditions = pieces(text).map(read);
        Ok(Thresholds { conditions: conditions.collect::<Result<_, _>>()? })
    }

    /// The highest of the percentiles that it names.
    pub fn strictest_percentile(&self) -> Option<f64> {
        let percentiles = self.conditions.iter().filter_map(|condition| match condition.metric {
            Metric::Percentile(percent) => Some(percent),
            _ => None,
        });
        percentiles.max_by(f64::total_cmp)
    }

    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// One verdict for each condition, in the order in which they were written.
    pub fn judge(&self, run: &Run) -> Vec<Verdict> {
        self.conditions.iter().map(|condition| condition.judge(run)).collect()
    }

    /// Whether the run is free of all of them.
    pub fn hold(&self, run: &Run) -> bool {
        self.judge(run).iter().all(|verdict| !verdict.failed)
    }
}

impl Condition {
    fn judge(&self, run: &Run) -> Verdict {
        let value = self.metric.value(run);
        let actual = match value {
            Some(value) => self.metric.show(value),
            None if self.metric == Metric::Rate => "no rate was asked for".into(),
            None => "there was no answer".into(),
        };
        let failed = value.is_none_or(|value| match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        });
        Verdict { text: self.text.clone(), actual, failed }
    }
}

impl Metric {
    /// In the unit of a condition's limit. `None`: the run cannot tell.
    pub fn value(self, run: &Run) -> Option<f64> {
        let total = &run.total;
        let latency = total.latency();
        let answered = |value: f64| (!latency.is_empty()).then_some(value);
        match self {
            Metric::Percentile(percent) => {
                answered(latency.value_at_quantile(percent / 100.0) as f64)
            }
            Metric::Mean => answered(latency.mean()),
            Metric::Max => answered(latency.max() as f64),
            Metric::Errors => Some(total.errors() as f64),
            Metric::ErrorsOf(failure) => Some(total.failures(failure) as f64),
            Metric::ErrorPercent => Some(run.error_percent()),
            Metric::NeverSent => Some(total.never_sent_total() as f64),
            Metric::Rate => run.rate_achieved(),
            Metric::Status(status) => Some(total.status(status) as f64),
            Metric::StatusClass(class) => Some(total.status_class(class) as f64),
        }
    }

    fn is_latency(self) -> bool {
        matches!(self, Metric::Percentile(_) | Metric::Mean | Metric::Max)
    }

    fn show(self, value: f64) -> String {
        match self {
            _ if self.is_latency() => units::time(Duration::from_nanos(value as u64)),
            Metric::ErrorPercent => format!("{value:.3} %"),
            Metric::Rate => format!("{value:.5}"),
            _ => units::count(value as u64),
        }
    }

    /// `None`: there is no metric of this name.
    fn parse(name: &str) -> Option<Metric> {
        if let Some(digits) = name.strip_prefix('p') {
            let percent = plain_number(digits)?;
            return (percent > 0.0 && percent <= 100.0).then_some(Metric::Percentile(percent));
        }
        if let Some(kind) = name.strip_prefix("errors_") {
            let failure = Failure::ALL.into_iter().find(|failure| failure.name() == kind)?;
            return Some(Metric::ErrorsOf(failure));
        }
        if let Some(status) = name.strip_prefix("status_") {
            let digit = status.strip_suffix("xx").unwrap_or(status);
            let number: u16 = plain_digits(digit).then(|| digit.parse().ok())??;
            return match (digit.len() == status.len(), number) {
                (true, 100..=599) => Some(Metric::Status(number)),
                (false, 1..=5) => Some(Metric::StatusClass(number)),
                _ => None,
            };
        }
        Some(match name {
            "mean" => Metric::Mean,
            "max" => Metric::Max,
            "errors" => Metric::Errors,
            "error_percent" => Metric::ErrorPercent,
            "never_sent" => Metric::NeverSent,
            "rate" => Metric::Rate,
            _ => return None,
        })
    }
}

/// Longer signs before those that they begin with.
const SIGNS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

/// A piece of a list, and the column it begins at.
type Piece<'a> = (usize, &'a str);

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut column = 1;
    text.split(',').map(move |piece| {
        let from = column;
        column += piece.chars().count() + 1;
        trimmed((from, piece))
    })
}

fn trimmed((column, text): Piece<'_>) -> Piece<'_> {
    let after = text.trim_start();
    (column + text.chars().count() - after.chars().count(), after.trim_end())
}

fn condition(
    (column, text): Piece<'_>,
    signs: &[(&str, Comparison)],
    allowed: &'static str,
) -> Result<Condition, ThresholdError> {
    let wrong = |column, what: String, allowed| Err(ThresholdError { column, what, allowed });
    let name_bytes = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.');
    let (name, rest) = text.split_at(name_bytes.unwrap_or(text.len()));
    let Some(metric) = Metric::parse(name) else {
        let what = if text.is_empty() {
            "a condition is missing".into()
        } else if name.is_empty() {
            format!("`{text}` begins with no metric")
        } else {
            format!("`{name}` is no metric")
        };
        return wrong(column, what, METRICS);
    };
    let (sign_column, rest) = trimmed((column + name.chars().count(), rest));
    let Some((sign, comparison)) = signs.iter().find(|(sign, _)| rest.starts_with(sign)) else {
        return wrong(sign_column, format!("no comparison after `{name}`"), allowed);
    };
    let (column, limit) = trimmed((sign_column + sign.len(), &rest[sign.len()..]));
    let Some(value) = limit_of(metric, limit) else {
        let allowed = match metric {
            _ if metric.is_latency() => "a number and its unit: ns, us, ms, s",
            Metric::ErrorPercent => "a number, with % or without",
            _ => "a number without a unit",
        };
        return wrong(column, format!("`{limit}` is no limit of `{name}`"), allowed);
    };
    Ok(Condition { text: text.to_owned(), metric, comparison: *comparison, limit: value })
}

fn limit_of(metric: Metric, text: &str) -> Option<f64> {
    if metric.is_latency() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(digits);
        let nanos = match unit.trim_start() {
            "ns" => 1.0,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => return None,
        };
        return Some(plain_number(number)? * nanos);
    }
    match metric {
        Metric::ErrorPercent => plain_number(text.strip_suffix('%').unwrap_or(text).trim_end()),
        _ => plain_number(text),
    }
}

/// Digits, with a point and digits after it or without.
fn plain_number(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if plain_digits(whole) && plain_digits(part) { text.parse().ok() } else { None }
}

fn plain_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::sample;

    fn parse(text: &str) -> Result<Thresholds, ThresholdError> {
        text.parse()
    }

    fn one(text: &str) -> (Metric, Comparison, f64) {
        let thresholds = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let [condition] = thresholds.conditions() else { panic!("{text}: {thresholds:?}") };
        assert_eq!(condition.text, text.trim());
        (condition.metric, condition.comparison, condition.limit)
    }

    #[test]
    fn conditions_of_each_kind() {
        assert_eq!(one("p99>5ms"), (Metric::Percentile(99.0), Comparison::Above, 5e6));
        assert_eq!(one("p99.99 >= 1.5 s"), (Metric::Percentile(99.99), Comparison::AtLeast, 1.5e9));
        assert_eq!(one(" p100>250us "), (Metric::Percentile(100.0), Comparison::Above, 250e3));
        assert_eq!(one("mean>250\u{b5}s"), (Metric::Mean, Comparison::Above, 250e3));
        assert_eq!(one("max<10ns"), (Metric::Max, Comparison::Below, 10.0));
        assert_eq!(one("errors>0"), (Metric::Errors, Comparison::Above, 0.0));
        let timeouts = (Metric::ErrorsOf(Failure::Timeout), Comparison::Above, 3.0);
        assert_eq!(one("errors_timeout>3"), timeouts);
        assert_eq!(one("error_percent>0.1%"), (Metric::ErrorPercent, Comparison::Above, 0.1));
        assert_eq!(one("error_percent>1"), (Metric::ErrorPercent, Comparison::Above, 1.0));
        assert_eq!(one("never_sent>0"), (Metric::NeverSent, Comparison::Above, 0.0));
        assert_eq!(one("rate<=0.99"), (Metric::Rate, Comparison::AtMost, 0.99));
        assert_eq!(one("status_503>0"), (Metric::Status(503), Comparison::Above, 0.0));
        assert_eq!(one("status_5xx>0"), (Metric::StatusClass(5), Comparison::Above, 0.0));
        let three = parse("p99>5ms, errors>0,rate<0.99").expect("three");
        assert_eq!(three.conditions().len(), 3);
        let objective = Thresholds::objective("p99=5ms,rate=0.99").expect("an objective");
        let signs: Vec<_> = objective.conditions().iter().map(|one| one.comparison).collect();
        assert_eq!(signs, [Comparison::Above, Comparison::Below]);
    }

    #[test]
    fn errors_say_where_what_and_what_is_allowed() {
        let cases = [
            ("", 1, "a condition is missing"),
            ("p99>5ms,", 9, "a condition is missing"),
            ("p99>5ms,  pp9>1ms", 11, "`pp9` is no metric"),
            ("p0>5ms", 1, "`p0` is no metric"),
            ("p101>5ms", 1, "`p101` is no metric"),
            ("p9.9.9>5ms", 1, "`p9.9.9` is no metric"),
            ("status_600>0", 1, "`status_600` is no metric"),
            ("status_9xx>0", 1, "`status_9xx` is no metric"),
            ("status_>0", 1, "`status_` is no metric"),
            ("status_+5xx>0", 1, "`status_` is no metric"),
            ("errors_other>0", 1, "`errors_other` is no metric"),
            (">5ms", 1, "`>5ms` begins with no metric"),
            ("\u{b5}>5ms", 1, "begins with no metric"),
            ("p99=5ms", 4, "no comparison after `p99`"),
            ("p99", 4, "no comparison after `p99`"),
            ("p99  5ms", 6, "no comparison after `p99`"),
            ("p99>5", 5, "`5` is no limit of `p99`"),
            ("p99>", 5, "`` is no limit of `p99`"),
            ("p99> 5m", 6, "`5m` is no limit of `p99`"),
            ("p99>-5ms", 5, "`-5ms` is no limit of `p99`"),
            ("p99>=>5ms", 6, "`>5ms` is no limit of `p99`"),
            ("p99>.5ms", 5, "`.5ms` is no limit of `p99`"),
            ("errors>5ms", 8, "`5ms` is no limit of `errors`"),
            ("rate<99%", 6, "`99%` is no limit of `rate`"),
            ("rate<NaN", 6, "`NaN` is no limit of `rate`"),
            ("errors>1e3", 8, "`1e3` is no limit of `errors`"),
        ];
        for (text, column, what) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.what.contains(what), "{text}: {error}");
            assert!(error.to_string().contains("; allowed: "), "{text}: {error}");
        }
        let error = Thresholds::objective("p99>5ms").expect_err("no objective");
        assert_eq!(error.to_string(), "column 4: no comparison after `p99`; allowed: =");
        let error = parse("p99>5").expect_err("no unit").to_string();
        assert!(error.ends_with("a number and its unit: ns, us, ms, s"), "{error}");
    }

    #[test]
    fn a_run_is_held_to_its_limits() {
        let run = sample();
        let failed = |text: &str| !parse(text).expect(text).hold(&run);
        // 999 latencies of 1 s / n: the median is 2 ms, the slowest is 1 s.
        assert!(failed("p50>1.9ms") && !failed("p50>2.1ms"));
        assert!(failed("max>=1s") && !failed("max>1.001s"));
        assert!(failed("mean>1ms") && !failed("mean<1ms"));
        assert!(failed("errors>0") && failed("errors>=8") && !failed("errors>8"));
        assert!(failed("errors_timeout>2") && !failed("errors_timeout>3"));
        assert!(!failed("errors_closed_early>0") && failed("errors_closed_early<=0"));
        assert!(failed("error_percent>0.59%") && !failed("error_percent>0.6"));
        assert!(failed("rate<0.9991") && !failed("rate<0.9989"));
        assert!(failed("status_5xx>0") && failed("status_503>19") && !failed("status_503>20"));
        assert!(failed("never_sent>3") && !failed("never_sent>4") && !failed("status_4xx>0"));
        // One of several is enough.
        assert!(failed("p50>1s,errors>0") && !failed("p50>1s,errors>100"));
        let verdicts = parse("errors>0, rate<0.5").expect("two").judge(&run);
        let said: Vec<String> = verdicts.iter().map(Verdict::to_string).collect();
        assert_eq!(said, ["FAILED  errors>0: 8", "passed  rate<0.5: 0.99900"]);
    }

    #[test]
    fn what_a_run_cannot_tell_has_failed() {
        let mut run = sample();
        run.total.clear();
        run.asked.per_second = None;
        for text in ["p99>5ms", "max<1s", "rate<0.1"] {
            assert!(!parse(text).expect(text).hold(&run), "{text}");
        }
        let verdicts = parse("p99>5ms,rate<0.1").expect("two").judge(&run);
        assert_eq!(verdicts[0].actual, "there was no answer");
        assert_eq!(verdicts[1].actual, "no rate was asked for");
        assert!(parse("errors>0").expect("one").hold(&run));
    }
}
