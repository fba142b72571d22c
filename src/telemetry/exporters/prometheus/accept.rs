//! Which format a scraper prefers, by its `Accept` (RFC 9110, section 12.5.1).
//!
//! The greatest weight wins, and among equals what the scraper names first. One that asks for
//! nothing that there is gets text, as from the other Prometheus clients, and not 406: whoever
//! opens the page in a browser wants to read it.

use axum::http::{HeaderMap, header};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    OpenMetrics1,
    /// As 1.0.0; nothing that is written here changed between them but the version that is told.
    OpenMetrics0,
    Protobuf,
}

/// What a protobuf scrape is a sequence of.
const MESSAGE: &str = "io.prometheus.client.MetricFamily";

impl Format {
    pub(super) fn preferred(headers: &HeaderMap) -> Format {
        let mut best = (0.0, Format::Text);
        for line in headers.get_all(header::ACCEPT) {
            for range in line.to_str().unwrap_or_default().split(',') {
                let Some((format, weight)) = read(range) else { continue };
                if weight > best.0 {
                    best = (weight, format);
                }
            }
        }
        best.1
    }

    /// The same for formats with the same bytes.
    pub(super) fn key(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::OpenMetrics1 | Format::OpenMetrics0 => "openmetrics",
            Format::Protobuf => "protobuf",
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics1 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::OpenMetrics0 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }
}

/// The format that a media range asks for, and its weight. Parameters of no meaning here, such as
/// `escaping` and `charset`, are passed over. None that has one holds a comma or a semicolon.
fn read(range: &str) -> Option<(Format, f64)> {
    let mut parts = range.split(';');
    let media = parts.next()?.trim().to_ascii_lowercase();
    let (mut weight, mut version, mut message, mut encoding) = (1.0, None, None, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => weight = value.parse().ok()?,
            "version" => version = Some(value),
            "proto" => message = Some(value),
            "encoding" => encoding = Some(value),
            _ => {}
        }
    }
    let format = match (media.as_str(), version) {
        ("*/*" | "text/*", _) | ("text/plain", None | Some("0.0.4")) => Format::Text,
        ("application/openmetrics-text", None | Some("1.0.0")) => Format::OpenMetrics1,
        ("application/openmetrics-text", Some("0.0.1")) => Format::OpenMetrics0,
        ("application/vnd.google.protobuf", _)
            if message == Some(MESSAGE) && encoding == Some("delimited") =>
        {
            Format::Protobuf
        }
        _ => return None,
    };
    Some((format, weight))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn preferred(lines: &[&str]) -> Format {
        let line = |text: &&str| (header::ACCEPT, HeaderValue::from_str(text).unwrap());
        Format::preferred(&lines.iter().map(line).collect())
    }

    #[test]
    fn scrapers_get_what_they_prefer() {
        // Prometheus 2.42 with and without native histograms, and Prometheus 3.
        let with_native = "application/vnd.google.protobuf;\
            proto=io.prometheus.client.MetricFamily;encoding=delimited,\
            application/openmetrics-text;version=1.0.0;q=0.8,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
            */*;q=0.1";
        assert_eq!(preferred(&[with_native]), Format::Protobuf);
        let without = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
            */*;q=0.1";
        assert_eq!(preferred(&[without]), Format::OpenMetrics1);
        let third = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,\
            */*;q=0.1";
        assert_eq!(preferred(&[third]), Format::OpenMetrics1);
        // A browser, curl, and something that sends none.
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(preferred(&[browser]), Format::Text);
        assert_eq!(preferred(&["*/*"]), Format::Text);
        assert_eq!(preferred(&[]), Format::Text);
    }

    #[test]
    fn weights_decide_and_then_the_order() {
        let old = "application/openmetrics-text; version=0.0.1";
        assert_eq!(preferred(&[old]), Format::OpenMetrics0);
        assert_eq!(preferred(&[&format!("{old};q=0.3, text/plain;q=0.4")]), Format::Text);
        assert_eq!(preferred(&[&format!("text/plain;q=0.3, {old};q=0.4")]), Format::OpenMetrics0);
        assert_eq!(preferred(&[&format!("text/plain;q=0.4, {old};q=0.4")]), Format::Text);
        assert_eq!(preferred(&["text/plain;q=0.2", old]), Format::OpenMetrics0);
        assert_eq!(preferred(&[&format!("{old};q=0")]), Format::Text);
        assert_eq!(preferred(&[&format!("{old};q=x")]), Format::Text);
    }

    #[test]
    fn what_there_is_not_is_passed_over() {
        let nothing = [
            "application/openmetrics-text;version=9.0.0",
            "application/vnd.google.protobuf",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
            "application/vnd.google.protobuf;proto=a.B;encoding=delimited",
            "application/json",
            ";;=,",
        ];
        for range in nothing {
            assert_eq!(preferred(&[range]), Format::Text, "{range}");
            let then = format!("{range}, application/openmetrics-text;q=0.1");
            assert_eq!(preferred(&[&then]), Format::OpenMetrics1, "{range}");
        }
        let quoted = "Application/Vnd.Google.Protobuf; \
            Proto=\"io.prometheus.client.MetricFamily\"; encoding=\"delimited\"";
        assert_eq!(preferred(&[quoted]), Format::Protobuf);
    }
}
