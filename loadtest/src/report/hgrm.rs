//! HdrHistogram's percentile text (`.hgrm`), as its plotters read it: the columns and the footer of
//! `outputPercentileDistribution` in the Java original. Values are microseconds.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

/// Per halving of the distance to 100 %, the original's default.
const TICKS_PER_HALF: u32 = 5;
const NANOS_PER_UNIT: f64 = 1_000.0;

/// A histogram of nanoseconds.
pub fn text(histogram: &Histogram<u64>) -> String {
    let mut out = String::new();
    // Writing to memory cannot fail.
    let written = write(&mut out, histogram);
    debug_assert!(written.is_ok());
    out
}

fn write(out: &mut String, histogram: &Histogram<u64>) -> fmt::Result {
    let scaled = |nanos: f64| nanos / NANOS_PER_UNIT;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    // Of nothing, there are no percentiles.
    let ticks = (!histogram.is_empty()).then(|| histogram.iter_quantiles(TICKS_PER_HALF));
    for tick in ticks.into_iter().flatten() {
        count += tick.count_since_last_iteration();
        let quantile = tick.quantile_iterated_to();
        let value = scaled(tick.value_iterated_to() as f64);
        write!(out, "{value:>12.3} {quantile:.12} {count:>10}")?;
        if quantile < 1.0 {
            write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    // The digits' power of ten, doubled, and rounded up to one of two: what the original calls so.
    let sub_buckets = (2 * 10_u64.pow(histogram.sigfig().into())).next_power_of_two();
    writeln!(
        out,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        scaled(histogram.mean()),
        scaled(histogram.stdev())
    )?;
    writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        scaled(histogram.max() as f64),
        histogram.len()
    )?;
    writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", histogram.buckets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_footer_of_the_original() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
        // Nine, of which no tick is a whole number: figures made by hand need no rounding.
        for number in 1..=9 {
            histogram.record(number * 100_000).expect("in range");
        }
        let expected = "       Value     Percentile TotalCount 1/(1-Percentile)

     100.031 0.000000000000          1           1.00
     100.031 0.100000000000          1           1.11
     200.063 0.200000000000          2           1.25
     300.031 0.300000000000          3           1.43
     400.127 0.400000000000          4           1.67
     500.223 0.500000000000          5           2.00
     500.223 0.550000000000          5           2.22
     600.063 0.600000000000          6           2.50
     600.063 0.650000000000          6           2.86
     700.415 0.700000000000          7           3.33
     700.415 0.750000000000          7           4.00
     700.415 0.775000000000          7           4.44
     800.255 0.800000000000          8           5.00
     800.255 0.825000000000          8           5.71
     800.255 0.850000000000          8           6.67
     800.255 0.875000000000          8           8.00
     800.255 0.887500000000          8           8.89
     900.095 0.900000000000          9          10.00
     900.095 1.000000000000          9
#[Mean    =      499.979, StdDeviation   =      258.185]
#[Max     =      900.095, Total count    =            9]
#[Buckets =           26, SubBuckets     =         2048]
";
        assert_eq!(text(&histogram), expected);
    }

    #[test]
    fn of_nothing_there_is_a_header_and_a_footer() {
        let histogram = Histogram::<u64>::new(3).expect("three digits");
        let text = text(&histogram);
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("Total count    =            0]"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }
}
