//! What one core records of its requests, and what several add up to.
//!
//! A `Record` is filled by one core without locks, handed over each second in exchange for an empty
//! one (`take`), and merged by whoever shows progress; merging is adding. Latency is counted from
//! the intended start, so that a server that stalls cannot hide behind requests that were sent
//! late; from the actual send beside it, for comparison. Only answers have a latency: failures are
//! counted by kind. Always: sent = answered + failed + in flight; in one interval the last may be
//! negative, where more ended than began. Knows no clock.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Three significant digits: a value is off by less than 0.1 %.
const DIGITS: u8 = 3;
/// What a histogram holds before it must grow; growing allocates.
const EXPECTED_MAX_NS: u64 = 60_000_000_000;
/// Ten days. What takes longer is recorded as this.
const MAX_NS: u64 = 10 * 24 * 3_600 * 1_000_000_000;
const STATUSES: usize = 500;
const FIRST_STATUS: u16 = 100;

/// Why a request had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about: the request was never sent. The only kind of which that is so.
    Connect,
    /// The connection was reset, or could not be written to.
    Reset,
    /// No whole answer within the request's time.
    Timeout,
    /// What came was no right response.
    BadResponse,
    /// The server closed before the answer was whole.
    ClosedEarly,
}

impl Failure {
    pub const ALL: [Failure; 5] = [
        Failure::Connect,
        Failure::Reset,
        Failure::Timeout,
        Failure::BadResponse,
        Failure::ClosedEarly,
    ];

    /// As thresholds and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Reset => "reset",
            Failure::Timeout => "timeout",
            Failure::BadResponse => "bad_response",
            Failure::ClosedEarly => "closed_early",
        }
    }
}

/// An answer, as a core knows it.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub status: u16,
    /// From the intended start to the answer's last byte.
    pub latency: Duration,
    /// From the actual send to the same.
    pub service: Duration,
}

/// What came of a number of requests.
#[derive(Debug, Clone)]
pub struct Record {
    sent: u64,
    answered: u64,
    in_flight: i64,
    /// Due, but never sent, because no connection was free to the end.
    never_sent: u64,
    bytes_in: u64,
    bytes_out: u64,
    failures: [u64; Failure::ALL.len()],
    statuses: Box<[u64; STATUSES]>,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    lateness: Histogram<u64>,
}

impl Default for Record {
    fn default() -> Self {
        Record::new()
    }
}

impl Record {
    pub fn new() -> Record {
        Record {
            sent: 0,
            answered: 0,
            in_flight: 0,
            never_sent: 0,
            bytes_in: 0,
            bytes_out: 0,
            failures: [0; Failure::ALL.len()],
            statuses: Box::new([0; STATUSES]),
            latency: histogram(),
            service: histogram(),
            lateness: histogram(),
        }
    }

    /// A request went out, `late` after its intended start.
    pub fn sent(&mut self, late: Duration) {
        self.sent += 1;
        self.in_flight += 1;
        put(&mut self.lateness, late);
    }

    pub fn answered(&mut self, answer: Answer) {
        self.answered += 1;
        self.in_flight -= 1;
        let status = usize::from(answer.status.saturating_sub(FIRST_STATUS)).min(STATUSES - 1);
        self.statuses[status] += 1;
        put(&mut self.latency, answer.latency);
        put(&mut self.service, answer.service);
    }

    /// A request that was sent has no answer; after `Connect`, one that was not.
    pub fn failed(&mut self, failure: Failure) {
        self.failures[failure as usize] += 1;
        if failure != Failure::Connect {
            self.in_flight -= 1;
        }
    }

    /// Requests that were due were given up before they were sent.
    pub fn never_sent(&mut self, requests: u64) {
        self.never_sent += requests;
    }

    pub fn bytes(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    /// What was recorded, for `empty`, which is cleared first and filled from here on.
    #[must_use]
    pub fn take(&mut self, mut empty: Record) -> Record {
        empty.clear();
        std::mem::replace(self, empty)
    }

    pub fn merge(&mut self, other: &Record) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.in_flight += other.in_flight;
        self.never_sent += other.never_sent;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        for (ours, theirs) in self.failures.iter_mut().zip(&other.failures) {
            *ours += theirs;
        }
        for (ours, theirs) in self.statuses.iter_mut().zip(other.statuses.iter()) {
            *ours += theirs;
        }
        add(&mut self.latency, &other.latency);
        add(&mut self.service, &other.service);
        add(&mut self.lateness, &other.lateness);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    pub fn clear(&mut self) {
        (self.sent, self.answered, self.in_flight, self.never_sent) = (0, 0, 0, 0);
        (self.bytes_in, self.bytes_out) = (0, 0);
        self.failures.fill(0);
        self.statuses.fill(0);
        for histogram in [&mut self.latency, &mut self.service, &mut self.lateness] {
            histogram.reset();
        }
    }

    /// Panics where the books do not balance: a bug, whatever the server did.
    pub fn check_invariants(&self) {
        let ended = self.answered + self.sent_and_failed();
        assert_eq!(i128::from(self.sent), i128::from(ended) + i128::from(self.in_flight));
        assert_eq!(self.answered, self.statuses.iter().sum::<u64>());
        assert_eq!(self.answered, self.latency.len());
        assert_eq!(self.answered, self.service.len());
        assert_eq!(self.sent, self.lateness.len());
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.sent + self.answered + self.errors() + self.never_sent == 0
    }

    pub fn sent_total(&self) -> u64 {
        self.sent
    }

    pub fn answered_total(&self) -> u64 {
        self.answered
    }

    /// At the end of what is recorded, less what was at its beginning.
    pub fn in_flight(&self) -> i64 {
        self.in_flight
    }

    pub fn never_sent_total(&self) -> u64 {
        self.never_sent
    }

    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    pub fn failures(&self, failure: Failure) -> u64 {
        self.failures[failure as usize]
    }

    /// Of all kinds, those that were never sent for want of a connection among them.
    pub fn errors(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Failures of requests that were sent.
    pub fn sent_and_failed(&self) -> u64 {
        self.errors() - self.failures(Failure::Connect)
    }

    pub fn status(&self, status: u16) -> u64 {
        let at = status.checked_sub(FIRST_STATUS).map(usize::from);
        at.and_then(|at| self.statuses.get(at)).copied().unwrap_or(0)
    }

    /// Of a class: 2 for 2xx.
    pub fn status_class(&self, class: u16) -> u64 {
        (class * 100..class * 100 + 100).map(|status| self.status(status)).sum()
    }

    /// Each status that came, with how often.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, u64)> {
        let all = (FIRST_STATUS..).zip(self.statuses.iter().copied());
        all.filter(|(_, count)| *count > 0)
    }

    /// Of answers, in nanoseconds from the intended start.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Of answers, in nanoseconds from the actual send.
    pub fn service(&self) -> &Histogram<u64> {
        &self.service
    }

    /// How far sends were behind their intended start, in nanoseconds.
    pub fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }
}

/// One second of a run, for progress and for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// From 0: the run's first.
    pub second: u64,
    pub sent: u64,
    pub answered: u64,
    pub errors: u64,
    /// At its end.
    pub in_flight: i64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
}

impl Row {
    /// `in_flight_before`: at the end of the second before.
    pub fn new(second: u64, record: &Record, in_flight_before: i64) -> Row {
        Row {
            second,
            sent: record.sent,
            answered: record.answered,
            errors: record.errors(),
            in_flight: in_flight_before + record.in_flight,
            p50_ns: record.latency.value_at_quantile(0.5),
            p99_ns: record.latency.value_at_quantile(0.99),
            max_ns: record.latency.max(),
        }
    }
}

fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, EXPECTED_MAX_NS, DIGITS)
        .expect("bounds that are constants and right");
    histogram.auto(true);
    histogram
}

fn add(ours: &mut Histogram<u64>, theirs: &Histogram<u64>) {
    // It grows where it must, so there is no value it could refuse.
    let added = ours.add(theirs);
    debug_assert!(added.is_ok(), "{added:?}");
}

/// Grows where it must, which `saturating_record` would not.
fn put(histogram: &mut Histogram<u64>, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(MAX_NS).min(MAX_NS);
    let recorded = histogram.record(nanos);
    debug_assert!(recorded.is_ok(), "{recorded:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane::policy::Rng;

    fn answer(status: u16, latency_ms: u64) -> Answer {
        let latency = Duration::from_millis(latency_ms);
        Answer { status, latency, service: latency / 2 }
    }

    #[test]
    fn requests_are_counted_where_they_end() {
        let mut record = Record::new();
        for late_us in 0..10 {
            record.sent(Duration::from_micros(late_us));
        }
        record.answered(answer(200, 10));
        record.answered(answer(204, 20));
        record.answered(answer(503, 30));
        for failure in Failure::ALL {
            record.failed(failure);
        }
        record.never_sent(4);
        record.bytes(1_000, 300);
        record.check_invariants();
        assert_eq!((record.sent_total(), record.answered_total(), record.in_flight()), (10, 3, 3));
        assert_eq!((record.errors(), record.sent_and_failed()), (5, 4));
        assert_eq!((record.status(200), record.status(201), record.status(700)), (1, 0, 0));
        assert_eq!((record.status_class(2), record.status_class(5)), (2, 1));
        assert_eq!(record.statuses().collect::<Vec<_>>(), [(200, 1), (204, 1), (503, 1)]);
        assert_eq!((record.bytes_in(), record.bytes_out()), (1_000, 300));
        assert_eq!(record.never_sent_total(), 4);
        let row = Row::new(7, &record, 5);
        assert_eq!((row.second, row.sent, row.errors, row.in_flight), (7, 10, 5, 8));
        assert!(row.p50_ns.abs_diff(20_000_000) < 20_000 && row.max_ns >= 30_000_000, "{row:?}");
        assert!(record.service().max().abs_diff(15_000_000) < 15_000);
        assert!(record.lateness().max().abs_diff(9_000) < 9);
    }

    #[test]
    fn seconds_of_cores_add_up_to_the_run() {
        let seed = 0x5EED_0003;
        println!("seed {seed:#x}");
        let mut rng = Rng::new(seed);
        let mut alone = Record::new();
        let mut merged = Record::new();
        let mut cores = [Record::new(), Record::new(), Record::new()];
        let mut spare = Record::new();
        let mut out = [0_u32; 3];
        let mut saw_negative = false;
        for step in 0..30_000 {
            let core = rng.below(3);
            let records = [&mut alone, &mut cores[core]];
            // Ups and downs, so that some intervals end more requests than they begin.
            let percent = if step % 4_000 < 2_000 { 60 } else { 30 };
            let begins = out[core] == 0 || rng.below(100) < percent;
            let late = Duration::from_nanos(rng.next_u64() >> 40);
            let answered = answer(200 + rng.below(5) as u16 * 75, rng.below(100_000) as u64);
            let failure = Failure::ALL[1 + rng.below(4)];
            let fails = rng.below(10) == 0;
            for record in records {
                match (begins, fails) {
                    (true, _) => record.sent(late),
                    (false, false) => record.answered(answered),
                    (false, true) => record.failed(failure),
                }
            }
            out[core] = if begins { out[core] + 1 } else { out[core] - 1 };
            if step % 500 == 499 {
                for core in &mut cores {
                    let second = core.take(spare);
                    second.check_invariants();
                    saw_negative |= second.in_flight() < 0;
                    merged.merge(&second);
                    spare = second;
                }
                assert_eq!(merged.in_flight(), i64::from(out.iter().sum::<u32>()));
            }
        }
        assert!(saw_negative, "no interval ended more than it began");
        assert_eq!(merged.latency(), alone.latency());
        assert_eq!(merged.service(), alone.service());
        assert_eq!(merged.lateness(), alone.lateness());
        assert_eq!(merged.statuses().collect::<Vec<_>>(), alone.statuses().collect::<Vec<_>>());
        assert_eq!(merged.failures, alone.failures);
        merged.clear();
        merged.check_invariants();
        assert_eq!((merged.sent_total(), merged.latency().max()), (0, 0));
    }

    #[test]
    fn whatever_is_recorded_fits() {
        let mut record = Record::new();
        let mut merged = Record::new();
        for latency in [Duration::ZERO, Duration::from_secs(7_200), Duration::MAX] {
            record.sent(latency);
            record.answered(Answer { status: 99, latency, service: latency });
        }
        merged.merge(&record);
        assert!(merged.latency().max() > 7_200_000_000_000);
    }
}
