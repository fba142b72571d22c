//! What of a configuration is not to be told: it ends up in logs, on `/admin/config.json`, and in
//! what is said of a reload.

/// What stands for a secret.
pub(super) const HIDDEN: &str = "***************(hidden)";

/// Whether secrets are shown; only for telling apart what differs in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    Hidden,
    Shown,
}

/// A text in which a URL's user and password, and its query, are hidden: collectors that are paid
/// for take their keys there. A scheme may be missing: what is refused for that is told as well.
pub fn without_secrets(text: &str) -> String {
    let (shown, query) = split_query(text);
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let scheme = shown.split_once("://").map_or("", |(scheme, _)| scheme);
    let (scheme, rest) = match !scheme.is_empty() && is_scheme(scheme) {
        true => shown.split_at(scheme.len() + "://".len()),
        false => ("", shown),
    };
    // A password may have a slash in it, though it should not, so that the last @ counts; or what
    // begins a query, so that one behind that may end a password too.
    match rest.rsplit_once('@') {
        _ if query.contains('@') => format!("{scheme}{HIDDEN}"),
        Some((_, place)) => format!("{scheme}{HIDDEN}@{}", hide_query(place, query)),
        None => format!("{scheme}{}", hide_query(rest, query)),
    }
}

/// A path in which the query is hidden: checks of health may need a key there.
pub(super) fn without_query(path: &str) -> String {
    let (path, query) = split_query(path);
    hide_query(path, query)
}

/// What stands before a query or fragment, and those with what begins them.
fn split_query(text: &str) -> (&str, &str) {
    text.split_at(text.find(['?', '#']).unwrap_or(text.len()))
}

fn hide_query(before: &str, query: &str) -> String {
    if query.is_empty() { before.to_owned() } else { format!("{before}?{HIDDEN}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_passwords_and_queries_are_hidden() {
        for plain in ["http://a.example:9411/api", "unix:/run/a.sock", "a.example:9411/api", ""] {
            assert_eq!(without_secrets(plain), plain);
        }
        // Without a scheme it is refused, and told in the refusal.
        for (text, shown) in [
            ("http://me:secret@a.example/b", format!("http://{HIDDEN}@a.example/b")),
            ("https://a.example/b?key=secret", format!("https://a.example/b?{HIDDEN}")),
            ("http://me:sec/ret@a.example", format!("http://{HIDDEN}@a.example")),
            ("http://me:s@cret@a.example#x", format!("http://{HIDDEN}@a.example?{HIDDEN}")),
            ("http://me:s?cret@a.example/b", format!("http://{HIDDEN}")),
            ("me:s#cret@a.example", HIDDEN.to_owned()),
            ("user:password@nowhere", format!("{HIDDEN}@nowhere")),
            ("me:secret@a.example/b?key=secret", format!("{HIDDEN}@a.example/b?{HIDDEN}")),
            ("a.example/b?key=secret", format!("a.example/b?{HIDDEN}")),
            ("a.example/b?key=secret&to=http://c", format!("a.example/b?{HIDDEN}")),
            ("a.example#secret", format!("a.example?{HIDDEN}")),
            ("me:sec://ret@a.example", format!("{HIDDEN}@a.example")),
            ("://me:secret@a.example", format!("{HIDDEN}@a.example")),
        ] {
            assert_eq!(without_secrets(text), shown, "{text}");
        }
    }

    #[test]
    fn of_a_path_the_query_is_hidden_alone() {
        assert_eq!(without_query("/a@b/c"), "/a@b/c");
        assert_eq!(without_query("/a?key=secret"), format!("/a?{HIDDEN}"));
        assert_eq!(without_query("/a?"), format!("/a?{HIDDEN}"));
    }
}
