//! How two configurations differ, key by key.

use serde_yaml::Value;

use super::Config;
use super::secrets::Secrets;

/// A key with different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As errors write it: `runtime.shard.spin_us`.
    pub path: String,
    /// As they would be written, in one line; a secret is hidden in both.
    pub before: String,
    pub after: String,
}

impl Config {
    /// All keys that are not the same, in the order in which they are shown. A list or section that
    /// one of both does not have is named as a whole.
    pub fn differences(&self, other: &Config) -> Vec<Difference> {
        let mut found = Vec::new();
        // Two secrets are shown alike and are not the same.
        let both = |config: &Config| Both {
            is: config.shown(Secrets::Shown),
            shown: config.shown(Secrets::Hidden),
        };
        compare("", &both(self), &both(other), &mut found);
        found
    }
}

/// A value, and the same with its secrets hidden.
struct Both {
    is: Value,
    shown: Value,
}

fn compare(path: &str, before: &Both, after: &Both, found: &mut Vec<Difference>) {
    if before.is == after.is {
        return;
    }
    if let (Value::Mapping(is), Value::Mapping(becomes)) = (&before.is, &after.is) {
        let added = becomes.keys().filter(|key| !is.contains_key(*key));
        for key in is.keys().chain(added) {
            let name = key.as_str().unwrap_or_default();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let below = |of: &Value| of.get(key).cloned().unwrap_or(Value::Null);
            let value = |of: &Both| Both { is: below(&of.is), shown: below(&of.shown) };
            compare(&path, &value(before), &value(after), found);
        }
        return;
    }
    let (before, after) = (line(&before.shown), line(&after.shown));
    found.push(Difference { path: path.to_owned(), before, after });
}

fn line(value: &Value) -> String {
    match value {
        Value::Null => "not there".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Sequence(list) => {
            let parts: Vec<String> = list.iter().map(line).collect();
            format!("[{}]", parts.join(", "))
        }
        Value::Mapping(map) => {
            let pair = |(key, value): (&Value, &Value)| format!("{}: {}", line(key), line(value));
            let parts: Vec<String> = map.iter().map(pair).collect();
            format!("{{{}}}", parts.join(", "))
        }
        Value::Tagged(tagged) => line(&tagged.value),
    }
}
