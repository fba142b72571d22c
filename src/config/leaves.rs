//! Leaves: from a value of any type to a typed field, with what is allowed in the message.
//!
//! A leaf in error reads as its default (or as nothing), so that the rest can be looked at.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml::Value;

use super::cores::Host;
use super::errors::{Path, Report};
use super::near;
use super::raw::Leaf;

/// The longest time that a key takes: a week. Timer wheels and sums of deadlines stay far from
/// their limits.
pub(super) const MAX_MS: u64 = 7 * 24 * 3_600_000;

pub(super) struct Check<'a> {
    pub(super) host: &'a Host,
    pub(super) report: &'a mut Report,
}

impl Check<'_> {
    pub(super) fn number(
        &mut self,
        at: &Path,
        leaf: &Leaf,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = leaf else { return default };
        match value.as_u64() {
            Some(number) if range.contains(&number) => number,
            number => {
                let integer = number.is_some() || value.as_i64().is_some();
                let wrong = if integer { "out of range" } else { "wrong type" };
                let (least, most) = range.into_inner();
                let allowed = format!("a whole number from {least} to {most}");
                self.refuse(at, wrong, value, allowed);
                default
            }
        }
    }

    /// A number that the kernel wants as a power of two; so are the ends of `range`.
    pub(super) fn power_of_two(
        &mut self,
        at: &Path,
        leaf: &Leaf,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        debug_assert!(range.start().is_power_of_two() && range.end().is_power_of_two());
        let number = self.number(at, leaf, default, range.clone());
        if number.is_power_of_two() {
            return number;
        }
        let (least, most) = range.into_inner();
        let allowed = format!("a power of two from {least} to {most}");
        self.report.value(at, format!("not a power of two ({number})"), allowed);
        default
    }

    /// A part of all.
    pub(super) fn share(&mut self, at: &Path, leaf: &Leaf, default: f64) -> f64 {
        let Some(value) = leaf else { return default };
        match value.as_f64() {
            Some(share) if (0.0..=1.0).contains(&share) => share,
            number => {
                let wrong = if number.is_some() { "out of range" } else { "wrong type" };
                self.refuse(at, wrong, value, "a number from 0 to 1, such as 0.001");
                default
            }
        }
    }

    pub(super) fn millis(&mut self, at: &Path, leaf: &Leaf, default: u64) -> Duration {
        Duration::from_millis(self.number(at, leaf, default, 1..=MAX_MS))
    }

    /// Where 0 is a time as good as others.
    pub(super) fn millis_or_zero(&mut self, at: &Path, leaf: &Leaf, default: u64) -> Duration {
        Duration::from_millis(self.number(at, leaf, default, 0..=MAX_MS))
    }

    /// Where 0 is written for "no limit".
    pub(super) fn millis_or_none(
        &mut self,
        at: &Path,
        leaf: &Leaf,
        default: u64,
    ) -> Option<Duration> {
        let time = self.millis_or_zero(at, leaf, default);
        (!time.is_zero()).then_some(time)
    }

    /// `None`: nothing was written, or it was no text and that is reported.
    pub(super) fn text<'v>(
        &mut self,
        at: &Path,
        leaf: &'v Leaf,
        allowed: impl Display,
    ) -> Option<&'v str> {
        let value = leaf.as_ref()?;
        let text = value.as_str();
        if text.is_none() {
            self.refuse(at, "wrong type", value, allowed);
        }
        text
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        at: &Path,
        leaf: &Leaf,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let allowed = known.join(", ");
        let Some(text) = self.text(at, leaf, &allowed) else {
            return default;
        };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => *meaning,
            None => {
                let hint = near::hint(text, &known);
                self.report.value(at, format!("unknown word ({text:?}{hint})"), allowed);
                default
            }
        }
    }

    pub(super) fn flag(&mut self, at: &Path, leaf: &Leaf, default: bool) -> bool {
        let Some(value) = leaf else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.refuse(at, "wrong type", value, "true or false");
            default
        })
    }

    /// Whether a section was switched off by a word in its place.
    pub(super) fn is_off(&mut self, word: Option<&str>, at: &Path) -> bool {
        let Some(word) = word else { return false };
        if word != "off" {
            let wrong = format!("unknown word ({word:?})");
            self.report.value(at, wrong, "off, or a mapping");
        }
        true
    }

    /// A name that ends up in logs and as a metric label.
    pub(super) fn name(&mut self, at: &Path, text: &str) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if !(1..=64).contains(&text.len()) || !text.bytes().all(plain) {
            let allowed = "1 to 64 letters, digits, and any of - _ .";
            self.report.value(at, format!("not a name ({text:?})"), allowed);
        }
    }

    pub(super) fn ip(&mut self, at: &Path, leaf: &Leaf, default: IpAddr) -> IpAddr {
        const ALLOWED: &str = "an IPv4 or IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::1";
        let Some(text) = self.text(at, leaf, ALLOWED) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.report.value(at, format!("not an IP address ({text:?})"), ALLOWED);
            default
        })
    }

    /// Cores as text, or one core as a number. `None`: nothing written, or reported.
    pub(super) fn cores(&mut self, at: &Path, leaf: &Leaf, also: &str) -> Option<Vec<usize>> {
        let value = leaf.as_ref()?;
        let there = super::cores::as_text(self.host.cores());
        let allowed = format!("{also}cores of this machine ({there}) as a list such as \"0,2-5\"");
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(core) if core.is_u64() => core.to_string(),
            _ => {
                self.refuse(at, "wrong type", value, allowed);
                return None;
            }
        };
        match self.host.list(&text) {
            Ok(cores) => Some(cores),
            Err(why) => {
                self.refuse(at, &why, value, allowed);
                None
            }
        }
    }

    /// Reports what must be there and is not.
    pub(super) fn missing(&mut self, at: &Path, allowed: impl Display) {
        self.report.value(at, "needed, and not there".to_owned(), allowed);
    }

    pub(super) fn refuse(&mut self, at: &Path, wrong: &str, value: &Value, allowed: impl Display) {
        self.report.value(at, format!("{wrong} ({})", written(value)), allowed);
    }
}

/// A value in one short line.
fn written(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(value) => value.tag.to_string(),
    }
}
