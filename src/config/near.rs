//! "Did you mean": the known name that a mistyped one is nearest to.

/// The name that was probably meant: about a third of it mistyped, or a part of it left out.
pub(super) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &&'a str| (*name, edit_distance(written, name));
    let (name, far) = known.iter().map(distance).min_by_key(|(_, far)| *far)?;
    let longer = written.len().max(name.len());
    if far < longer && far <= longer / 3 + 1 {
        return Some(name);
    }
    // One or two letters are a part of too many names.
    let part = |name: &&&str| name.contains(written) || written.contains(**name);
    if written.len() > 2 { known.iter().find(part).copied() } else { None }
}

/// The suggestion as the end of a remark; empty where there is none.
pub(super) fn hint(written: &str, known: &[&str]) -> String {
    nearest(written, known).map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// Levenshtein distance, in bytes: names are mostly ASCII.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
        let known = ["label", "servers", "routes", "max_body_bytes", "connect_ms", "ip"];
        for (written, meant) in [
            ("lable", Some("label")),
            ("server", Some("servers")),
            ("max_body", Some("max_body_bytes")),
            ("connect_ms_timeout", Some("connect_ms")),
            ("ips", Some("ip")),
            ("telemetry", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &known), meant, "{written}");
        }
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }
}
