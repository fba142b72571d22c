//! A run: what was asked for and what came of it, for report, thresholds and plots alike.

use std::time::Duration;

use crate::record::{Record, Row};

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// As the operator wrote it: a URL, or several.
    pub target: String,
    /// In a few words: `open loop, constant`.
    pub kind: String,
    /// The mean over the run. `None`: a closed loop, as fast as answers come.
    pub per_second: Option<f64>,
    pub cores: u32,
    pub connections: u32,
}

/// What came of it, added up second by second.
#[derive(Debug, Clone)]
pub struct Run {
    pub asked: Asked,
    /// From the beginning to the end of the schedule or the last send, whichever is later: a
    /// generator that lags behind its schedule has less of a rate, not more of a count.
    pub elapsed: Duration,
    pub total: Record,
    pub rows: Vec<Row>,
}

impl Run {
    pub fn new(asked: Asked) -> Run {
        Run { asked, elapsed: Duration::ZERO, total: Record::new(), rows: Vec::new() }
    }

    /// Adds the next second: what all cores recorded in it, merged.
    pub fn add_second(&mut self, second: &Record) -> Row {
        let row = Row::new(self.rows.len() as u64, second, self.total.in_flight());
        self.total.merge(second);
        self.rows.push(row);
        row
    }

    pub fn sent_per_second(&self) -> f64 {
        self.per_second(self.total.sent_total())
    }

    pub fn answered_per_second(&self) -> f64 {
        self.per_second(self.total.answered_total())
    }

    /// Of what was asked for, the share that was sent. `None`: no rate was asked for.
    pub fn rate_achieved(&self) -> Option<f64> {
        let asked = self.asked.per_second?;
        Some(if asked > 0.0 { self.sent_per_second() / asked } else { 1.0 })
    }

    /// Of the requests that have ended or never began, those that were not answered.
    pub fn error_percent(&self) -> f64 {
        let errors = self.total.errors() + self.total.never_sent_total();
        let ended = errors + self.total.answered_total();
        if ended == 0 { 0.0 } else { errors as f64 * 100.0 / ended as f64 }
    }

    fn per_second(&self, count: u64) -> f64 {
        let elapsed_s = self.elapsed.as_secs_f64();
        if elapsed_s > 0.0 { count as f64 / elapsed_s } else { 0.0 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::{Answer, Failure};

    /// Two seconds at 1,000/s: latencies of 1 ms to 1 s in the shape of a tail, some errors.
    pub(crate) fn sample() -> Run {
        let mut run = Run::new(Asked {
            target: "http://127.0.0.1:8080/".into(),
            kind: "open loop, constant".into(),
            per_second: Some(1_000.0),
            cores: 2,
            connections: 64,
        });
        for second in 0..2_u64 {
            let mut record = Record::new();
            for number in 0..999_u64 {
                record.sent(Duration::from_micros(number / 10));
                if number == 998 {
                    continue;
                }
                if number % 250 == 249 {
                    record.failed(if second == 0 { Failure::Timeout } else { Failure::Reset });
                    continue;
                }
                let latency = Duration::from_micros(1_000_000 / (number + 1));
                let status = if number % 100 == 50 { 503 } else { 200 };
                record.answered(Answer { status, latency, service: latency / 2 });
            }
            record.failed(Failure::Connect);
            record.never_sent(2);
            record.bytes(1_500_000, 64_000);
            run.add_second(&record);
        }
        run.elapsed = Duration::from_secs(2);
        run
    }

    #[test]
    fn rates_and_shares() {
        let run = sample();
        assert_eq!(run.total.sent_total(), 1_998);
        assert_eq!(run.total.in_flight(), 2);
        assert_eq!(run.rows.iter().map(|row| row.in_flight).collect::<Vec<_>>(), [1, 2]);
        assert!((run.sent_per_second() - 999.0).abs() < 1e-9);
        assert!((run.rate_achieved().expect("asked") - 0.999).abs() < 1e-9);
        // 3 of 250 per 999 and one that found no connection, in each second; two were given up.
        assert_eq!((run.total.errors(), run.total.answered_total()), (8, 1_990));
        assert!((run.error_percent() - 1_200.0 / 2_002.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_of_nothing_divides_by_nothing() {
        let mut run = sample();
        run.total.clear();
        run.elapsed = Duration::ZERO;
        assert_eq!((run.sent_per_second(), run.error_percent()), (0.0, 0.0));
        run.asked.per_second = None;
        assert_eq!(run.rate_achieved(), None);
    }
}
