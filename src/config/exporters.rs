//! `telemetry.exporters`: a list of mappings, each with a `kind` and the keys of that kind.
//!
//! Which kinds there are, and which keys they take, is handed in as tables, so that an exporter is
//! one file elsewhere and needs none here. What is said about a value that does not fit is the same
//! as for every other key.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::errors::Path;
use super::leaves::Check;
use super::near;

/// A kind of exporter, as far as configuration is concerned. One that takes spans has a key
/// `sample_rate`, one that shows the latest requests a `capacity`.
#[derive(Debug, PartialEq)]
pub struct ExporterSpec {
    pub kind: &'static str,
    pub keys: &'static [ExporterKey],
    /// There without being listed: it costs nothing before it is asked.
    pub by_default: bool,
}

#[derive(Debug, PartialEq)]
pub struct ExporterKey {
    pub name: &'static str,
    pub shape: Shape,
}

/// What a key takes.
#[derive(Debug, PartialEq)]
pub enum Shape {
    /// A whole number.
    Number { default: u64, least: u64, most: u64 },
    /// A part of all, from 0 to 1.
    Share { default: f64 },
    /// One of these; the first is the default.
    Word(&'static [&'static str]),
    /// Any text, with what is said of it in errors. Without a default it must be there.
    Text { default: Option<&'static str>, allowed: &'static str },
}

/// An exporter's settings: every key of its spec has a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ExporterSettings {
    pub spec: &'static ExporterSpec,
    /// Line, column and path, for errors that only the exporter can find.
    pub at: String,
    values: BTreeMap<&'static str, Setting>,
}

#[derive(Debug, Clone, PartialEq)]
enum Setting {
    Number(u64),
    Share(f64),
    Text(String),
}

impl ExporterSettings {
    /// A kind with all its defaults. Keys that must be written are empty.
    pub fn defaults(spec: &'static ExporterSpec) -> ExporterSettings {
        let value = |key: &ExporterKey| match key.shape {
            Shape::Number { default, .. } => Setting::Number(default),
            Shape::Share { default } => Setting::Share(default),
            Shape::Word(words) => Setting::Text(words[0].to_owned()),
            Shape::Text { default, .. } => Setting::Text(default.unwrap_or_default().to_owned()),
        };
        let values = spec.keys.iter().map(|key| (key.name, value(key))).collect();
        ExporterSettings { spec, at: String::new(), values }
    }

    /// Replaces a value; for tests and for programs that bring exporters of their own.
    pub fn with_text(mut self, name: &'static str, text: &str) -> ExporterSettings {
        self.values.insert(name, Setting::Text(text.to_owned()));
        self
    }

    pub fn with_number(mut self, name: &'static str, number: u64) -> ExporterSettings {
        self.values.insert(name, Setting::Number(number));
        self
    }

    pub fn with_share(mut self, name: &'static str, share: f64) -> ExporterSettings {
        self.values.insert(name, Setting::Share(share));
        self
    }

    /// A key of shape `Number`.
    pub fn number(&self, name: &str) -> u64 {
        match self.values.get(name) {
            Some(Setting::Number(number)) => *number,
            _ => unreachable!("{name} is no number of {}", self.spec.kind),
        }
    }

    /// A key of shape `Share`, if the kind has it.
    pub fn share(&self, name: &str) -> Option<f64> {
        match self.values.get(name) {
            Some(Setting::Share(share)) => Some(*share),
            _ => None,
        }
    }

    /// How many of the latest requests it shows, if it is of a kind that does.
    pub fn recents(&self) -> Option<usize> {
        match self.values.get("capacity") {
            Some(Setting::Number(capacity)) => Some(*capacity as usize),
            _ => None,
        }
    }

    /// A key of shape `Word` or `Text`.
    pub fn text(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some(Setting::Text(text)) => text,
            _ => unreachable!("{name} is no text of {}", self.spec.kind),
        }
    }

    /// Every key and its value, as YAML and JSON would have it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Value)> {
        self.values.iter().map(|(name, setting)| match setting {
            Setting::Number(number) => (*name, Value::from(*number)),
            Setting::Share(share) => (*name, Value::from(*share)),
            Setting::Text(text) => (*name, Value::from(text.as_str())),
        })
    }
}

pub(super) fn exporters(
    raw: Option<&[Value]>,
    at: &Path,
    specs: &[&'static ExporterSpec],
    check: &mut Check,
) -> Vec<ExporterSettings> {
    let mut found: Vec<ExporterSettings> = Vec::new();
    for (i, raw) in raw.unwrap_or_default().iter().enumerate() {
        let at = at.index(i);
        let Some(settings) = exporter(raw, &at, specs, check) else { continue };
        // Those that are asked answer at paths of their own, which can be there once.
        if settings.spec.by_default && found.iter().any(|other| other.spec == settings.spec) {
            let wrong = format!("a second exporter of kind {}", settings.spec.kind);
            check.report.value(&at, wrong, "one of each kind that is asked; several that push");
            continue;
        }
        found.push(settings);
    }
    for spec in specs.iter().filter(|spec| spec.by_default) {
        if !found.iter().any(|settings| settings.spec == *spec) {
            found.push(ExporterSettings::defaults(spec));
        }
    }
    found
}

fn exporter(
    raw: &Value,
    at: &Path,
    specs: &[&'static ExporterSpec],
    check: &mut Check,
) -> Option<ExporterSettings> {
    let kinds: Vec<&str> = specs.iter().map(|spec| spec.kind).collect();
    let allowed = format!("a mapping with kind: {}", kinds.join(", "));
    let Some(map) = raw.as_mapping() else {
        check.refuse(at, "wrong type", raw, allowed);
        return None;
    };
    let kind_at = at.key("kind");
    let kind = map.get("kind").filter(|kind| !kind.is_null()).cloned();
    if kind.is_none() {
        check.missing(&kind_at, kinds.join(", "));
    }
    let known: Vec<(&str, &'static ExporterSpec)> =
        specs.iter().map(|spec| (spec.kind, *spec)).collect();
    let first = *specs.first()?;
    let is_known = kind.as_ref().and_then(Value::as_str).is_some_and(|kind| kinds.contains(&kind));
    let spec = check.word(&kind_at, &kind, first, &known);
    if !is_known {
        return None;
    }
    for (key, _) in map {
        let name = key.as_str().unwrap_or_default();
        if name != "kind" && !spec.keys.iter().any(|key| key.name == name) {
            unknown_key(name, at, spec, check);
        }
    }
    let mut settings = ExporterSettings::defaults(spec);
    settings.at = check.report.place(at);
    for key in spec.keys {
        let leaf = map.get(key.name).filter(|value| !value.is_null()).cloned();
        let setting = setting(key, &leaf, &at.key(key.name), check);
        settings.values.insert(key.name, setting);
    }
    Some(settings)
}

fn setting(key: &ExporterKey, leaf: &Option<Value>, at: &Path, check: &mut Check) -> Setting {
    match key.shape {
        Shape::Number { default, least, most } => {
            Setting::Number(check.number(at, leaf, default, least..=most))
        }
        Shape::Share { default } => Setting::Share(check.share(at, leaf, default)),
        Shape::Word(words) => {
            let words: Vec<(&str, &str)> = words.iter().map(|word| (*word, *word)).collect();
            Setting::Text(check.word(at, leaf, words[0].1, &words).to_owned())
        }
        Shape::Text { default, allowed } => {
            if leaf.is_none() && default.is_none() {
                check.missing(at, allowed);
            }
            let text = check.text(at, leaf, allowed).or(default).unwrap_or_default();
            Setting::Text(text.to_owned())
        }
    }
}

fn unknown_key(name: &str, at: &Path, spec: &ExporterSpec, check: &mut Check) {
    let mut known: Vec<&str> = spec.keys.iter().map(|key| key.name).collect();
    known.push("kind");
    let hint = near::hint(name, &known);
    check.report.key(&at.key(name), format!("unknown key{hint}"), known.join(", "));
}
