//! The deadline that a request may bring: `l5d-ctx-deadline` of Linkerd 1.x.
//!
//! Its value is two moments in nanoseconds since 1970, as decimal numbers with one space between:
//! when the deadline was set, and when it is over. Where several come, the strictest combination
//! holds, as in Finagle: the latest moment of setting, the earliest end. Each hop passes on what it
//! was given, and less where its own timeout ends sooner, so that the next one does not work for
//! nothing. What cannot be read is ignored, as Linkerd ignores it, and goes on as it came. Linkerd
//! itself only advised; here a deadline acts. The wall clock is an argument.

use std::io::Write as _;
use std::time::Duration;

/// Nanoseconds since 1970, as Finagle counts them: they last from 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    pub set_ns: i64,
    pub over_ns: i64,
}

/// What a deadline comes to at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLeft {
    /// Until it is over; zero where it already is.
    pub left: Duration,
    /// For the next hop.
    pub forwarded: Deadline,
}

impl Deadline {
    /// `None`: not two numbers with one space between.
    pub fn parse(value: &[u8]) -> Option<Deadline> {
        let (set, over) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Deadline { set_ns: set.parse().ok()?, over_ns: over.parse().ok()? })
    }

    /// Both of them, which is stricter than either.
    #[must_use]
    pub fn and(self, other: Deadline) -> Deadline {
        Deadline { set_ns: self.set_ns.max(other.set_ns), over_ns: self.over_ns.min(other.over_ns) }
    }

    /// At `now_ns`, where a request may take no longer than `timeout` from then on.
    pub fn at(self, now_ns: i64, timeout: Option<Duration>) -> TimeLeft {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let ours_ns = timeout.map_or(i64::MAX, |timeout| now_ns.saturating_add(nanos(timeout)));
        let over_ns = self.over_ns.min(ours_ns);
        let left_ns = over_ns.saturating_sub(now_ns).max(0);
        TimeLeft {
            left: Duration::from_nanos(left_ns.unsigned_abs()),
            forwarded: Deadline { over_ns, ..self },
        }
    }

    /// Appends the value of the field.
    pub fn write_to(self, out: &mut Vec<u8>) {
        // Writing to memory cannot fail.
        let written = write!(out, "{} {}", self.set_ns, self.over_ns);
        debug_assert!(written.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn deadline(set_ns: i64, over_ns: i64) -> Deadline {
        Deadline { set_ns, over_ns }
    }

    #[test]
    fn two_numbers_and_one_space() {
        let parsed = |text: &str| Deadline::parse(text.as_bytes());
        assert_eq!(parsed("1 2"), Some(deadline(1, 2)));
        let longest = "-9223372036854775808 9223372036854775807";
        assert_eq!(parsed(longest), Some(deadline(i64::MIN, i64::MAX)));
        for wrong in [
            "",
            " ",
            "1",
            "1 ",
            " 1",
            "1  2",
            "1 2 3",
            "1\t2",
            "1,2",
            "a 2",
            "1 b",
            "1.0 2",
            "0x1 2",
            "- 2",
            "1 9223372036854775808",
            "1 -9223372036854775809",
            "1 \u{661}",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
        assert_eq!(Deadline::parse(b"1 \xff"), None);
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for case in [deadline(0, 0), deadline(-1, 1), deadline(i64::MIN, i64::MAX)] {
            let mut out = Vec::new();
            case.write_to(&mut out);
            assert_eq!(Deadline::parse(&out), Some(case));
        }
    }

    #[test]
    fn of_several_the_strictest_combination_holds() {
        let (a, b) = (deadline(10, 50), deadline(20, 40));
        assert_eq!((a.and(b), b.and(a)), (deadline(20, 40), deadline(20, 40)));
        assert_eq!(deadline(20, 50).and(deadline(10, 40)), deadline(20, 40));
    }

    #[test]
    fn the_time_left_is_never_more_than_either_allows() {
        let now = 100 * SECOND_NS;
        let in_2_s = deadline(0, now + 2 * SECOND_NS);
        let at = |timeout| in_2_s.at(now, timeout);
        let second = Duration::from_secs(1);
        assert_eq!(at(None), TimeLeft { left: 2 * second, forwarded: in_2_s });
        assert_eq!(at(Some(3 * second)), TimeLeft { left: 2 * second, forwarded: in_2_s });
        let ours = deadline(0, now + SECOND_NS);
        assert_eq!(at(Some(second)), TimeLeft { left: second, forwarded: ours });
        assert_eq!(in_2_s.at(now + 2 * SECOND_NS, None).left, Duration::ZERO);
        assert_eq!(in_2_s.at(now + 3 * SECOND_NS, Some(second)).left, Duration::ZERO);
    }

    #[test]
    fn the_ends_of_time_overflow_nothing() {
        for now in [i64::MIN, -1, 0, i64::MAX] {
            for over in [i64::MIN, 0, i64::MAX] {
                for timeout in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
                    let left = deadline(0, over).at(now, timeout).left;
                    assert!(left <= Duration::from_nanos(i64::MAX as u64));
                    assert!(over > now || left.is_zero());
                }
            }
        }
    }
}
