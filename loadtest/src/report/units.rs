//! Figures as people read them: a unit that fits, thousands apart, digits that matter.

use std::time::Duration;

const KIB: f64 = 1024.0;

/// Three decimals of the largest unit of which there is one; nanoseconds whole.
pub fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.3} \u{b5}s", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.3} ms", nanos as f64 / 1e6),
        _ => format!("{:.3} s", nanos as f64 / 1e9),
    }
}

pub fn nanos(nanos: u64) -> String {
    time(Duration::from_nanos(nanos))
}

/// `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12,345.6/s`.
pub fn rate(per_second: f64) -> String {
    let tenths = (per_second * 10.0).round() as u64;
    format!("{}.{}/s", count(tenths / 10), tenths % 10)
}

/// `1.50 MiB`; bytes whole.
pub fn bytes(bytes: f64) -> String {
    let mut scaled = bytes;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if scaled < KIB {
            break;
        }
        scaled /= KIB;
        unit = next;
    }
    if unit == "B" { format!("{scaled:.0} B") } else { format!("{scaled:.2} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_people_read_them() {
        let times = [0, 999, 1_000, 999_999, 1_000_000, 1_500_000_000].map(nanos);
        let micro = ["1.000 \u{b5}s", "999.999 \u{b5}s"];
        let expected = ["0 ns", "999 ns", micro[0], micro[1], "1.000 ms", "1.500 s"];
        assert_eq!(times, expected);
        let counts = [0, 12, 123, 1_234, 123_456, 1_234_567].map(count);
        assert_eq!(counts, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
        assert_eq!([0.04, 999.96, 12_345.67].map(rate), ["0.0/s", "1,000.0/s", "12,345.7/s"]);
        let sizes = [0.0, 1023.0, 1024.0, 1.5 * 1024.0 * 1024.0, 1e15].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.00 KiB", "1.50 MiB", "909.49 TiB"]);
    }
}
