//! Lines of text: what the text format and OpenMetrics have in common.
//!
//! A name and a label are written as they come; only values of labels may hold anything.

use std::io::Write;

use super::series::{self, Buckets, Labels};
use crate::telemetry::distribution::{Distribution, Exemplar};
use crate::telemetry::names::{Info, Kind};

#[derive(Debug, Default)]
pub(super) struct Lines {
    out: Vec<u8>,
    /// The bounds of the family that is being written, as `le` has them; +Inf is the last.
    bounds: Vec<String>,
    /// Kept for its memory: a line up to where series of one scope differ.
    start: Vec<u8>,
}

impl Lines {
    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    /// `# TYPE` and the like; `text` is escaped already.
    pub(super) fn metadata(&mut self, what: &str, name: &str, text: &str) {
        for part in ["# ", what, " ", name, " ", text, "\n"] {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    /// Before the histograms of a family.
    pub(super) fn set_bounds(&mut self, info: &Info) {
        self.bounds.clear();
        if let Kind::Histogram(bounds) = info.kind {
            let scaled = bounds.iter().map(|bound| series::scaled(*bound as f64, info.unit));
            self.bounds.extend(scaled.map(bound));
            self.bounds.push("+Inf".to_owned());
        }
    }

    pub(super) fn integer(&mut self, name: &str, suffix: &str, labels: &Labels<'_>, value: u64) {
        self.name(name, suffix, labels);
        integer(&mut self.out, value);
        self.out.push(b'\n');
    }

    pub(super) fn float(&mut self, name: &str, suffix: &str, labels: &Labels<'_>, value: f64) {
        self.name(name, suffix, labels);
        float(&mut self.out, value);
        self.out.push(b'\n');
    }

    /// Exemplars are for OpenMetrics alone.
    pub(super) fn histogram(
        &mut self,
        info: &Info,
        labels: &Labels<'_>,
        distribution: &Distribution,
        buckets: &Buckets,
        with_exemplars: bool,
    ) {
        let Lines { out, bounds, start } = self;
        start.clear();
        start.extend_from_slice(info.family.as_bytes());
        start.extend_from_slice(b"_bucket{");
        each_label(start, labels);
        start.extend_from_slice(if labels.iter().next().is_some() { b",le=\"" } else { b"le=\"" });
        for (at, (bound, count)) in bounds.iter().zip(&buckets.cumulative).enumerate() {
            out.extend_from_slice(start);
            out.extend_from_slice(bound.as_bytes());
            out.extend_from_slice(b"\"} ");
            integer(out, *count);
            if let Some(it) = buckets.exemplars[at].as_ref().filter(|_| with_exemplars) {
                exemplar(out, info, it);
            }
            out.push(b'\n');
        }
        let sum = series::scaled(distribution.sum() as f64, info.unit);
        self.float(info.family, "_sum", labels, sum);
        self.integer(info.family, "_count", labels, distribution.count());
    }

    /// A line up to its value.
    fn name(&mut self, name: &str, suffix: &str, labels: &Labels<'_>) {
        let out = &mut self.out;
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(suffix.as_bytes());
        if labels.iter().next().is_some() {
            out.push(b'{');
            each_label(out, labels);
            out.push(b'}');
        }
        out.push(b' ');
    }
}

fn each_label(out: &mut Vec<u8>, labels: &Labels<'_>) {
    for (at, (name, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"=\"");
        escape(out, value);
        out.push(b'"');
    }
}

/// A label's value: the three characters that cannot stand for themselves.
fn escape(out: &mut Vec<u8>, value: &str) {
    let special = |byte: u8| matches!(byte, b'\\' | b'"' | b'\n');
    if !value.bytes().any(special) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    for byte in value.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            byte if special(byte) => out.extend_from_slice(&[b'\\', byte]),
            byte => out.push(byte),
        }
    }
}

/// OpenMetrics 1.0, "Exemplars".
fn exemplar(out: &mut Vec<u8>, info: &Info, exemplar: &Exemplar) {
    let value = series::scaled(exemplar.value as f64, info.unit);
    let at_ms = exemplar.at_ms();
    let (secs, ms) = (at_ms.div_euclid(1000), at_ms.rem_euclid(1000));
    let id = exemplar.trace_id;
    write(out, format_args!(" # {{trace_id=\"{id:032x}\"}} {value} {secs}.{ms:03}"));
}

/// A bound as Go prints it, with `.0` after what would look like an integer: OpenMetrics has it so
/// ("Canonical Numbers"), and it is what Prometheus makes of a bound in protobuf. The text format
/// takes any spelling. One for all means that a histogram's series stay the same ones when a
/// server begins to ask for another format.
fn bound(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn float(out: &mut Vec<u8>, value: f64) {
    write(out, format_args!("{value}"));
}

/// Without the formatter: a large state has a hundred thousand of them.
fn integer(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec grows");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_spelled_as_go_spells_them() {
        let spelled = [
            (0.0, "0.0"),
            (0.0001, "0.0001"),
            (0.00025, "0.00025"),
            (0.00001, "1e-05"),
            (0.5, "0.5"),
            (1.0, "1.0"),
            (10.0, "10.0"),
            (86_400.0, "86400.0"),
            (262_144.0, "262144.0"),
            (1_048_576.0, "1.048576e+06"),
            (1e6, "1e+06"),
            (1e10, "1e+10"),
            (1_073_741_824.0, "1.073741824e+09"),
        ];
        for (value, text) in spelled {
            assert_eq!(bound(value), text);
        }
    }

    #[test]
    fn integers_are_written_whole() {
        for value in [0, 7, 10, 99, 1_000, u64::MAX] {
            let mut out = Vec::new();
            integer(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }

    #[test]
    fn a_label_may_hold_anything() {
        let mut out = Vec::new();
        escape(&mut out, "a\\b\"c\nd\\n é");
        assert_eq!(String::from_utf8(out).unwrap(), r#"a\\b\"c\nd\\n é"#);
    }
}
