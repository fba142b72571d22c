//! Keys of a section that belong to some of its kinds: written with another they are reported.

use std::ops::RangeInclusive;

use super::errors::Path;
use super::leaves::Check;
use super::raw::Leaf;

pub(super) struct OfKind<'a> {
    /// The section.
    pub(super) at: &'a Path,
    /// The key that says which kind it is, and what it says.
    pub(super) key: &'static str,
    pub(super) kind: &'static str,
}

impl OfKind<'_> {
    /// A number of some kinds; the default where this is none of them.
    pub(super) fn number(
        &self,
        check: &mut Check,
        kinds: &[&str],
        (name, leaf): (&str, &Leaf),
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        match self.has(check, kinds, (name, leaf)) {
            true => check.number(&self.at.key(name), leaf, default, range),
            false => default,
        }
    }

    /// Whether the key is one of this kind's.
    pub(super) fn has(
        &self,
        check: &mut Check,
        kinds: &[&str],
        (name, leaf): (&str, &Leaf),
    ) -> bool {
        !self.is_missing(check, kinds, (name, leaf.is_some()))
    }

    /// Whether it is not; then it is reported where it is written.
    pub(super) fn is_missing(
        &self,
        check: &mut Check,
        kinds: &[&str],
        (name, is_written): (&str, bool),
    ) -> bool {
        let OfKind { at, key, kind } = self;
        let has = kinds.contains(kind);
        if !has && is_written {
            let wrong = format!("{key} {kind} has no {name}");
            let allowed = format!("{name} with {key}: {} alone", kinds.join(" or "));
            check.report.value(&at.key(name), wrong, allowed);
        }
        !has
    }
}
