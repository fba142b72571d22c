//! From text to a value and the positions of its parts.
//!
//! The value is serde_yaml's, and so are syntax errors. The positions come from a pass over
//! `saphyr-parser`'s events. Where that pass ends early the positions after it are those of the
//! nearest part that it did see.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, Span};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

use super::errors::{Issue, Marks, Path, Position};

#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) marks: Marks,
    /// Keys that stand twice in one mapping. Their first value is the one in `value`.
    pub(super) duplicates: Vec<Issue>,
}

pub(super) fn parse(text: &str) -> Result<Document, Issue> {
    // A byte order mark, which some editors write, is a document of its own to serde_yaml.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (marks, duplicates) = Walk::over(text);
    let value = match serde_yaml::from_str::<Value>(text) {
        Ok(value) => value,
        // serde_yaml stops at the first key given twice; what else is wrong is worth knowing too.
        Err(_) if !duplicates.is_empty() => {
            serde_yaml::from_str::<FirstWins>(text).map_err(|error| syntax(&error))?.0
        }
        Err(error) => return Err(syntax(&error)),
    };
    Ok(Document { value, marks, duplicates })
}

fn syntax(error: &serde_yaml::Error) -> Issue {
    let message = error.to_string();
    let wrong = message.split(" at line ").next().unwrap_or_default();
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    Issue {
        line,
        column,
        path: String::new(),
        wrong: format!("not valid YAML: {wrong}"),
        allowed: String::new(),
    }
}

/// Far deeper than any key. A path is as long as it is deep, so text made of brackets alone would
/// otherwise cost memory by the square of its length.
const DEPTH_MAX: usize = 64;

/// One mapping or sequence that the walk is inside of.
enum Frame {
    Mapping {
        path: Path,
        seen: HashMap<String, usize>,
        key: Option<String>,
    },
    Sequence {
        path: Path,
        next: usize,
    },
    /// A key that is itself a mapping or a sequence: nothing in it has a path.
    Nameless,
}

#[derive(Default)]
struct Walk {
    frames: Vec<Frame>,
    marks: Marks,
    duplicates: Vec<Issue>,
}

impl Walk {
    fn over(text: &str) -> (Marks, Vec<Issue>) {
        let mut walk = Walk::default();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            if walk.frames.len() > DEPTH_MAX {
                break;
            }
            walk.step(&event, position(&span));
        }
        (walk.marks, walk.duplicates)
    }

    fn step(&mut self, event: &Event<'_>, at: Position) {
        match event {
            Event::Scalar(text, ..) => self.scalar(text, at),
            Event::Alias(_) => {
                self.value(at);
            }
            Event::MappingStart(..) => {
                let frame = self.value(at).map_or(Frame::Nameless, |path| Frame::Mapping {
                    path,
                    seen: HashMap::new(),
                    key: None,
                });
                self.frames.push(frame);
            }
            Event::SequenceStart(..) => {
                let frame = self
                    .value(at)
                    .map_or(Frame::Nameless, |path| Frame::Sequence { path, next: 0 });
                self.frames.push(frame);
            }
            Event::MappingEnd | Event::SequenceEnd => {
                self.frames.pop();
            }
            _ => {}
        }
    }

    fn scalar(&mut self, text: &str, at: Position) {
        let Some(Frame::Mapping { path, seen, key: key @ None }) = self.frames.last_mut() else {
            self.value(at);
            return;
        };
        let path = path.key(text);
        if let Some(&first) = seen.get(text) {
            self.duplicates.push(Issue {
                line: at.line,
                column: at.column,
                path: path.to_string(),
                wrong: format!("this key stands here twice, first on line {first}"),
                allowed: "each key once".to_owned(),
            });
        } else {
            seen.insert(text.to_owned(), at.line);
            self.marks.set_key(path, at);
        }
        *key = Some(text.to_owned());
    }

    /// Notes that a value begins at `at`, and answers its path if it has one.
    fn value(&mut self, at: Position) -> Option<Path> {
        let path = match self.frames.last_mut() {
            None => Path::default(),
            Some(Frame::Mapping { path, key, .. }) => path.key(&key.take()?),
            Some(Frame::Sequence { path, next }) => {
                *next += 1;
                path.index(*next - 1)
            }
            Some(Frame::Nameless) => return None,
        };
        self.marks.set_value(path.clone(), at);
        Some(path)
    }
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// A value in which the first of two equal keys holds, instead of being an error.
struct FirstWins(Value);

impl<'de> Deserialize<'de> for FirstWins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FirstWinsVisitor).map(FirstWins)
    }
}

struct FirstWinsVisitor;

impl<'de> Visitor<'de> for FirstWinsVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value without tags")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(FirstWins(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Sequence(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut mapping = Mapping::new();
        while let Some((FirstWins(key), FirstWins(value))) = map.next_entry()? {
            mapping.entry(key).or_insert(value);
        }
        Ok(Value::Mapping(mapping))
    }
}
