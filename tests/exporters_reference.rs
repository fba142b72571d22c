//! `config/ringlane.yaml` is the reference: its exporters are those that there are, with every key
//! at its default.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use ringlane::config::{Config, ExporterSettings, Host, Shape};
use ringlane::telemetry::exporters::{self, KINDS};
use serde_yaml::Value;

const REFERENCE: &str = include_str!("../config/ringlane.yaml");

/// Whether a line belongs to an exporter that is there as a comment.
fn is_switched_off(line: &str) -> bool {
    line.starts_with("  #- ") || line.starts_with("  #  ")
}

/// The reference with what is commented out of its exporters.
fn uncommented() -> String {
    let line = |line: &str| match is_switched_off(line) {
        true => line.replacen('#', "", 1),
        false => line.to_owned(),
    };
    REFERENCE.lines().map(|it| line(it) + "\n").collect()
}

fn kind_of(entry: &Value) -> &str {
    entry.get("kind").and_then(Value::as_str).expect("each has a kind")
}

fn entries(text: &str) -> Vec<Value> {
    let root: Value = serde_yaml::from_str(text).expect("YAML");
    root["telemetry"]["exporters"].as_sequence().expect("a list").clone()
}

#[test]
fn it_shows_every_key_of_every_exporter_at_its_default() {
    let entries = entries(&uncommented());
    let shown: Vec<&str> = entries.iter().map(kind_of).collect();
    let known: Vec<&str> = KINDS.iter().map(|kind| kind.spec.kind).collect();
    assert_eq!(shown, known, "each kind once, in their order");
    for (entry, kind) in entries.iter().zip(KINDS) {
        let spec = kind.spec;
        let mapping = entry.as_mapping().expect("a mapping");
        let shown: BTreeSet<&str> = mapping.keys().filter_map(Value::as_str).collect();
        let known = spec.keys.iter().map(|key| key.name).chain(["kind"]).collect();
        assert_eq!(shown, known, "{}", spec.kind);
        for key in spec.keys {
            let value = &entry[key.name];
            let name = format!("{}: {}", spec.kind, key.name);
            match key.shape {
                Shape::Number { default, .. } => {
                    assert_eq!(value.as_u64(), Some(default), "{name}")
                }
                Shape::Share { default } => assert_eq!(value.as_f64(), Some(default), "{name}"),
                Shape::Word(words) => assert_eq!(value.as_str(), Some(words[0]), "{name}"),
                Shape::Text { default: Some(default), .. } => {
                    assert_eq!(value.as_str(), Some(default), "{name}");
                }
                // It must be written, so that the reference can have but an example.
                Shape::Text { default: None, .. } => {
                    assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{name}");
                }
            }
        }
    }
}

#[test]
fn what_its_comments_say_of_ranges_and_words_is_so() {
    let text = uncommented();
    let lines: Vec<&str> = text.lines().collect();
    for kind in KINDS {
        let begins = lines.iter().position(|line| *line == format!("  - kind: {}", kind.spec.kind));
        let begins = begins.expect("it is shown");
        for key in kind.spec.keys {
            let at = lines[begins..].iter().position(|line| {
                line.trim_start().split_once(':').is_some_and(|(name, _)| name == key.name)
            });
            let at = begins + at.expect("it is shown");
            let comments = lines[..at].iter().rev().take_while(|it| it.trim().starts_with('#'));
            let comment: Vec<&str> = comments.copied().collect();
            let comment = comment.join(" ");
            assert!(!comment.is_empty(), "{} has no comment", key.name);
            match key.shape {
                Shape::Number { least, most, .. } => {
                    let range = format!("({least} to {most})");
                    assert!(comment.contains(&range), "{}: {comment}", key.name);
                }
                Shape::Share { .. } => {
                    assert!(comment.contains("(0 to 1)"), "{}: {comment}", key.name);
                }
                Shape::Word(words) => {
                    for word in words {
                        assert!(comment.contains(word), "{} has {word}: {comment}", key.name);
                    }
                }
                Shape::Text { .. } => {}
            }
        }
    }
}

#[test]
fn what_is_commented_out_is_what_is_not_there_by_itself() {
    let shown = entries(REFERENCE);
    let shown: Vec<&str> = shown.iter().map(kind_of).collect();
    let by_default = KINDS.iter().map(|kind| kind.spec).filter(|spec| spec.by_default);
    assert_eq!(shown, by_default.map(|spec| spec.kind).collect::<Vec<_>>());
}

#[test]
fn it_is_understood_as_it_stands_and_with_everything_switched_on() {
    // Two shards' cores are no matter here, and the machine that tests may have one core.
    for text in [REFERENCE.to_owned(), uncommented()] {
        let specs = exporters::specs(KINDS);
        let config = Config::from_yaml(&text, "ringlane.yaml", &Host::detect(), &specs);
        let telemetry = config.expect("it is valid").telemetry.expect("it is on");
        for settings in &telemetry.exporters {
            let mut defaults = ExporterSettings::defaults(settings.spec);
            for key in settings.spec.keys {
                if let Shape::Text { default: None, .. } = key.shape {
                    defaults = defaults.with_text(key.name, settings.text(key.name));
                }
            }
            assert!(settings.iter().eq(defaults.iter()), "{settings:?}");
        }
        let made = exporters::make(&telemetry.exporters, KINDS).expect("all can be made");
        let all = text.lines().filter(|line| line.starts_with("  - kind: ")).count();
        assert_eq!(made.len(), all);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ringlane.yaml");
    let check = Command::new(env!("CARGO_BIN_EXE_ringlane")).arg("--check").arg(path).output();
    let check = check.expect("it runs");
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    assert!(check.stderr.is_empty(), "{check:?}");
}
