//! The text of a report, as people see it.

use super::*;
use crate::run::tests::sample;
use crate::thresholds::Thresholds;

#[test]
fn a_report_as_people_see_it() {
    let run = sample();
    let thresholds: Thresholds = "p99>5ms,rate<0.9".parse().expect("two conditions");
    let text = text(&run, &thresholds.judge(&run));
    assert_eq!(text, include_str!("golden.txt"), "it is now:\n{text}");
}

#[test]
fn a_run_of_nothing_has_a_report() {
    let mut run = sample();
    run.total.clear();
    run.rows.clear();
    run.elapsed = std::time::Duration::ZERO;
    run.asked.per_second = None;
    let text = text(&run, &[]);
    assert!(text.contains("asked as fast as it goes, sent 0.0/s, answered 0.0/s\n"), "{text}");
    assert!(text.contains("99.999 %                     -"), "{text}");
    for word in ["NaN", "inf", "thresholds"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn a_second_is_a_line() {
    let run = sample();
    let line = progress(&run.rows[1]);
    let counts = "     2 s  sent       999  answered       995  errors      4";
    assert!(line.starts_with(counts), "{line}");
    assert!(line.contains("in flight      2  p50 "), "{line}");
    assert_eq!(line.lines().count(), 1);
}
