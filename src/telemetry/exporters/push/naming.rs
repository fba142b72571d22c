//! What services are called: Zipkin's lists and its dependency graph go by these names.
//!
//! A name is a text in which `{router}` and `{service}` stand for the labels of the request. By
//! default a hop is called by its router and what it calls by its service, so that the graph reads
//! `http -> web`. A proxy beside a service would take `{service}` for its own name, and no name for
//! what is behind it, since that is the same.

/// How both ends of a hop are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// This hop.
    pub local: String,
    /// What an attempt calls; empty: it is known by its address alone.
    pub remote: String,
}

impl Default for Naming {
    fn default() -> Naming {
        Naming { local: "{router}".to_owned(), remote: "{service}".to_owned() }
    }
}

impl Naming {
    /// In lower case, as Zipkin has them. A request without a service is its router's.
    pub(in super::super) fn local(&self, router: &str, service: Option<&str>) -> String {
        let name = filled(&self.local, router, service);
        if name.is_empty() { router.to_lowercase() } else { name }
    }

    pub(in super::super) fn remote(&self, router: &str, service: Option<&str>) -> String {
        filled(&self.remote, router, service)
    }
}

fn filled(name: &str, router: &str, service: Option<&str>) -> String {
    let (mut made, mut rest) = (String::new(), name);
    // In one pass: a label that reads `{service}` is a label.
    while let Some(at) = rest.find('{') {
        made.push_str(&rest[..at]);
        rest = &rest[at..];
        let (known, label) = if rest.starts_with("{router}") {
            ("{router}", router)
        } else if rest.starts_with("{service}") {
            ("{service}", service.unwrap_or_default())
        } else {
            ("{", "{")
        };
        made.push_str(label);
        rest = &rest[known.len()..];
    }
    made.push_str(rest);
    made.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        let named = |text: &str, service| filled(text, "Edge", service);
        assert_eq!(named("{router}", None), "edge");
        assert_eq!(named("Ringlane {router}/{service}", Some("Web")), "ringlane edge/web");
        assert_eq!(named("{service}", None), "");
        assert_eq!(named("{{x} {", Some("web")), "{{x} {");
        assert_eq!(named("{service}", Some("{router}")), "{router}");
        let aside = Naming { local: "{service}".to_owned(), remote: String::new() };
        assert_eq!(aside.local("edge", Some("web")), "web");
        assert_eq!(
            (aside.local("Edge", None), aside.remote("edge", None)),
            ("edge".into(), "".into())
        );
    }
}
