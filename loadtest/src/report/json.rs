//! A run as JSON, for programs. Keys are stable, sorted, and end in their unit; times are
//! nanoseconds, whole. What there is none of (a percentile of no answers, a rate nobody asked for)
//! is null.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::PERCENTILES;
use crate::record::{Failure, Row};
use crate::run::Run;
use crate::thresholds::Verdict;

/// Changes when a key goes or means something else; keys that come leave it.
pub const FORMAT: u32 = 1;

pub fn value(run: &Run, verdicts: &[Verdict]) -> Value {
    let (asked, total) = (&run.asked, &run.total);
    let errors = Failure::ALL
        .map(|failure| (failure.name().to_owned(), Value::from(total.failures(failure))));
    let statuses = total.statuses().map(|(status, count)| (status.to_string(), count.into()));
    json!({
        "format": FORMAT,
        "asked": {
            "target": asked.target,
            "kind": asked.kind,
            "per_second": asked.per_second,
            "cores": asked.cores,
            "connections": asked.connections,
        },
        "elapsed_s": run.elapsed.as_secs_f64(),
        "sent_total": total.sent_total(),
        "answered_total": total.answered_total(),
        "failed_total": total.sent_and_failed(),
        "in_flight": total.in_flight(),
        "never_sent_total": total.never_sent_total(),
        "sent_per_second": run.sent_per_second(),
        "answered_per_second": run.answered_per_second(),
        "rate_achieved": run.rate_achieved(),
        "bytes_in_total": total.bytes_in(),
        "bytes_out_total": total.bytes_out(),
        "errors_total": total.errors(),
        "error_percent": run.error_percent(),
        "errors": errors.into_iter().collect::<Map<_, _>>(),
        "statuses": statuses.collect::<Map<_, _>>(),
        "latency_from_intended_start": distribution(total.latency()),
        "latency_from_actual_send": distribution(total.service()),
        "lateness_of_sends": distribution(total.lateness()),
        "seconds": run.rows.iter().map(row).collect::<Vec<_>>(),
        "thresholds": verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "passed": verdicts.iter().all(|verdict| !verdict.failed),
    })
}

/// Indented, with a line's end.
pub fn text(run: &Run, verdicts: &[Verdict]) -> String {
    format!("{:#}\n", value(run, verdicts))
}

fn distribution(histogram: &Histogram<u64>) -> Value {
    let some = |value: Value| if histogram.is_empty() { Value::Null } else { value };
    let percentiles = PERCENTILES.map(|percent| {
        (format!("p{percent}_ns"), some(histogram.value_at_quantile(percent / 100.0).into()))
    });
    let mut keys: Map<String, Value> = percentiles.into_iter().collect();
    keys.insert("count".into(), histogram.len().into());
    keys.insert("min_ns".into(), some(histogram.min().into()));
    keys.insert("max_ns".into(), some(histogram.max().into()));
    keys.insert("mean_ns".into(), some((histogram.mean().round() as u64).into()));
    keys.insert("stdev_ns".into(), some((histogram.stdev().round() as u64).into()));
    Value::Object(keys)
}

fn row(row: &Row) -> Value {
    json!({
        "second": row.second,
        "sent": row.sent,
        "answered": row.answered,
        "errors": row.errors,
        "in_flight": row.in_flight,
        "p50_ns": row.p50_ns,
        "p99_ns": row.p99_ns,
        "max_ns": row.max_ns,
    })
}

fn verdict(verdict: &Verdict) -> Value {
    json!({ "text": verdict.text, "actual": verdict.actual, "failed": verdict.failed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::sample;
    use crate::thresholds::Thresholds;

    #[test]
    fn a_run_as_programs_read_it() {
        let run = sample();
        let thresholds: Thresholds = "errors>0,rate<0.9".parse().expect("two conditions");
        let text = text(&run, &thresholds.judge(&run));
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["format"], 1);
        assert_eq!(read["asked"]["per_second"], 1_000.0);
        assert_eq!(read["sent_total"], 1_998);
        assert_eq!(read["failed_total"], 6);
        assert_eq!(read["errors"]["connect"], 2);
        assert_eq!(read["errors"]["bad_response"], 0);
        assert_eq!(read["statuses"]["503"], 20);
        let latency = &read["latency_from_intended_start"];
        assert_eq!(latency["count"], 1_990);
        let near = |key: &str, nanos: u64| {
            let found = latency[key].as_u64().unwrap_or_else(|| panic!("{key}: {latency}"));
            assert!(found.abs_diff(nanos) <= nanos / 100, "{key}: {found}");
        };
        near("p50_ns", 2_000_000);
        near("p99.9_ns", 1_000_000_000);
        near("max_ns", 1_000_000_000);
        assert_eq!(read["seconds"][1]["sent"], 999);
        assert_eq!(read["thresholds"][0]["failed"], true);
        assert_eq!(read["thresholds"][1]["failed"], false);
        assert_eq!(read["passed"], false);
    }

    #[test]
    fn the_keys_are_those_that_were_promised() {
        let value = value(&sample(), &[]);
        let keys = |value: &Value| {
            let object = value.as_object().expect("an object");
            object.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            keys(&value),
            "answered_per_second answered_total asked bytes_in_total bytes_out_total elapsed_s \
             error_percent errors errors_total failed_total format in_flight \
             latency_from_actual_send latency_from_intended_start lateness_of_sends \
             never_sent_total passed rate_achieved seconds sent_per_second sent_total statuses \
             thresholds"
        );
        assert_eq!(
            keys(&value["lateness_of_sends"]),
            "count max_ns mean_ns min_ns p50_ns p75_ns p90_ns p95_ns p99.999_ns p99.99_ns p99.9_ns \
             p99_ns stdev_ns"
        );
        let asked = "connections cores kind per_second target";
        assert_eq!(keys(&value["asked"]), asked);
        let second = "answered errors in_flight max_ns p50_ns p99_ns second sent";
        assert_eq!(keys(&value["seconds"][0]), second);
    }

    #[test]
    fn what_there_is_none_of_is_null() {
        let mut run = sample();
        run.total.clear();
        run.asked.per_second = None;
        let value = value(&run, &[]);
        assert!(value["rate_achieved"].is_null());
        assert!(value["latency_from_intended_start"]["p99_ns"].is_null());
        assert_eq!(value["latency_from_intended_start"]["count"], 0);
        assert_eq!(value["passed"], true);
    }
}
