//! How two configurations differ, key by key.

use serde_yaml::Value;

use super::Config;

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
        compare("", &self.to_value(), &other.to_value(), &mut found);
        // Secrets are shown alike.
        if let (Some(admin), Some(others)) = (&self.admin, &other.admin)
            && admin.token.is_some()
            && others.token.is_some()
            && admin.token != others.token
        {
            let hidden = || "hidden".to_owned();
            let path = "admin.token".to_owned();
            found.push(Difference { path, before: hidden(), after: hidden() });
        }
        found
    }
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    if let (Value::Mapping(before), Value::Mapping(after)) = (before, after) {
        let null = Value::Null;
        let added = after.keys().filter(|key| !before.contains_key(*key));
        for key in before.keys().chain(added) {
            let name = key.as_str().unwrap_or_default();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let value = |of: &serde_yaml::Mapping| of.get(key).cloned().unwrap_or(null.clone());
            compare(&path, &value(before), &value(after), found);
        }
        return;
    }
    let (before, after) = (line(before), line(after));
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
