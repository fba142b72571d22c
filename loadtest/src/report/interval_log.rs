//! HdrHistogram's interval log: one histogram per second, as its log processor and plotters read
//! it. Version 1.3, histograms in V2 with deflate. Values are nanoseconds.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

const VERSION: &str = "[Histogram log format version 1.3]";
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Makes a log piece by piece; whoever has the file appends what each call returns.
pub struct IntervalLog {
    serializer: V2DeflateSerializer,
}

impl IntervalLog {
    /// With the log's beginning, for a run that starts at `start`; times in it are offsets from
    /// that.
    pub fn new(start: SystemTime) -> (IntervalLog, Vec<u8>) {
        let mut out = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let begun = IntervalLogWriterBuilder::new()
            .add_comment(VERSION)
            .with_start_time(start)
            .with_base_time(start)
            .begin_log_with(&mut out, &mut serializer)
            .map(|_| ());
        // Writing to memory cannot fail.
        debug_assert!(begun.is_ok(), "{begun:?}");
        out.extend_from_slice(LEGEND.as_bytes());
        (IntervalLog { serializer }, out)
    }

    /// One interval's lines. A tag keeps several histograms of one interval apart; one with a comma
    /// or white space is left out.
    pub fn interval(
        &mut self,
        from: Duration,
        length: Duration,
        tag: Option<&str>,
        histogram: &Histogram<u64>,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        // A beginning without comments and times writes nothing.
        let writer = IntervalLogWriterBuilder::new();
        let written = writer
            .begin_log_with(&mut out, &mut self.serializer)
            .map_err(|error| error.to_string())
            .and_then(|mut writer| {
                let tag = tag.and_then(Tag::new);
                let written = writer.write_histogram(histogram, from, length, tag);
                written.map_err(|error| format!("{error:?}"))
            });
        debug_assert!(written.is_ok(), "{written:?}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn what_is_written_is_read_again() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let (mut log, mut bytes) = IntervalLog::new(start);
        let mut histograms = Vec::new();
        for second in 0..3_u32 {
            let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
            for value in 1..=1_000_u64 {
                histogram.record(value * 1_000 * u64::from(second + 1)).expect("in range");
            }
            let (from, length) = (Duration::from_secs(1) * second, Duration::from_secs(1));
            bytes.extend(log.interval(from, length, Some("latency"), &histogram));
            histograms.push(histogram);
        }
        let text = String::from_utf8(bytes.clone()).expect("text");
        let beginning = "\
#[Histogram log format version 1.3]
#[StartTime: 1700000000.500 (seconds since epoch)]
#[BaseTime: 1700000000.500 (seconds since epoch)]
\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"
Tag=latency,0.000,1.000,";
        assert!(text.starts_with(beginning), "{text}");
        assert_eq!(text.lines().count(), 7, "{text}");

        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&bytes) {
            if let LogEntry::Interval(interval) = entry.expect("a right log") {
                assert_eq!(interval.tag().map(|tag| tag.as_str()), Some("latency"));
                assert_eq!(interval.duration(), Duration::from_secs(1));
                assert_eq!(interval.start_timestamp(), Duration::from_secs(found.len() as u64));
                let packed = STANDARD.decode(interval.encoded_histogram()).expect("base64");
                let read = Deserializer::new().deserialize::<u64, _>(&mut &packed[..]);
                found.push(read.expect("a histogram"));
            }
        }
        assert_eq!(found.len(), 3);
        for (read, written) in found.iter().zip(&histograms) {
            assert_eq!((read.len(), read.max()), (written.len(), written.max()));
            assert_eq!(read.value_at_quantile(0.9), written.value_at_quantile(0.9));
        }
    }
}
