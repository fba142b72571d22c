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
/// for take their keys there.
pub fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, format!("?{HIDDEN}")),
        None => (rest, String::new()),
    };
    // A password may have a slash in it, though it should not, so that the last @ counts.
    match rest.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}://{HIDDEN}@{place}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_passwords_and_queries_are_hidden() {
        for plain in ["http://a.example:9411/api", "unix:/run/a.sock", "user:password@nowhere", ""]
        {
            assert_eq!(without_secrets(plain), plain);
        }
        for (text, shown) in [
            ("http://me:secret@a.example/b", format!("http://{HIDDEN}@a.example/b")),
            ("https://a.example/b?key=secret", format!("https://a.example/b?{HIDDEN}")),
            ("http://me:sec/ret@a.example", format!("http://{HIDDEN}@a.example")),
            ("http://me:s@cret@a.example#x", format!("http://{HIDDEN}@a.example?{HIDDEN}")),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
