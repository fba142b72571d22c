//! Reads a value into `raw::Root`, whatever is wrong with its shape.
//!
//! serde stops at its first error. So each part that it refuses is reported and taken out (an
//! unknown key is removed, anything else becomes `null`, so that no index shifts), and the rest is
//! read again. Each round takes one part out, hence it ends.

use serde_path_to_error::Segment;
use serde_yaml::Value;

use super::errors::{Path, Report, Step};
use super::near;
use super::raw::{Root, Section};

/// Reading again costs as much as reading, so a text that is wrong in every line is not read to its
/// end.
const ROUNDS_MAX: usize = 200;

pub(super) fn read(mut value: Value, report: &mut Report) -> Root {
    for _ in 0..ROUNDS_MAX {
        let error = match serde_path_to_error::deserialize::<_, Section<Root>>(&value) {
            Ok(root) => return root.0,
            Err(error) => error,
        };
        let path: Path = error.path().iter().map_while(step).collect();
        let refusal = Refusal::new(&error.inner().to_string());
        if refusal.is_key {
            report.key(&path, refusal.wrong, refusal.allowed);
        } else {
            report.value(&path, refusal.wrong, refusal.allowed);
        }
        if !take_out(&mut value, &path, refusal.is_key) {
            break;
        }
    }
    report.give_up();
    Root::default()
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        // A key that is no text: the mapping that holds it is in error.
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Whether there was anything to take out.
fn take_out(root: &mut Value, path: &Path, whole_entry: bool) -> bool {
    let Some((last, above)) = path.steps().split_last() else {
        return !std::mem::take(root).is_null();
    };
    let mut value = root;
    for step in above {
        let inner = match step {
            Step::Key(name) => value.get_mut(name.as_str()),
            Step::Index(at) => value.get_mut(*at),
        };
        let Some(inner) = inner else { return false };
        value = inner;
    }
    match last {
        Step::Key(name) if whole_entry => {
            value.as_mapping_mut().is_some_and(|map| map.shift_remove(name.as_str()).is_some())
        }
        Step::Key(name) => {
            value.get_mut(name.as_str()).is_some_and(|value| !std::mem::take(value).is_null())
        }
        Step::Index(at) => value.get_mut(*at).is_some_and(|value| !std::mem::take(value).is_null()),
    }
}

/// serde's message in our words.
struct Refusal {
    wrong: String,
    allowed: String,
    is_key: bool,
}

impl Refusal {
    /// serde writes "unknown field `x`, expected one of `a`, `b`" and "invalid type: integer `5`,
    /// expected a mapping". Messages of another form are passed on as they are.
    fn new(message: &str) -> Self {
        let (wrong, allowed) = message.rsplit_once(", expected ").unwrap_or((message, ""));
        let Some(unknown) = wrong.strip_prefix("unknown field ") else {
            let wrong = wrong.strip_prefix("invalid type: ").unwrap_or(wrong);
            let (wrong, allowed) = match allowed {
                // serde's words for the name of a field, and for one of the operator's own names.
                "field identifier" | "a string" => {
                    (format!("a key that is no text ({wrong})"), "text as keys")
                }
                allowed => (format!("wrong type ({wrong})"), allowed),
            };
            return Refusal { wrong, allowed: allowed.to_owned(), is_key: false };
        };
        let known: Vec<&str> = allowed.split('`').skip(1).step_by(2).collect();
        let meant = near::nearest(unknown.trim_matches('`'), &known);
        let hint = meant.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        Refusal { wrong: format!("unknown key{hint}"), allowed: known.join(", "), is_key: true }
    }
}
