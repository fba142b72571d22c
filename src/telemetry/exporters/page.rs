//! What a pull exporter answers: rendered once per version of the state, however often it is asked.
//!
//! Scrapes may come every 100 ms from several places, and rendering holds up the thread that
//! merges. So the bytes are kept under (version, key), where the key is whatever of a request
//! changes the document; gzip is made once somebody asks for it, and kept beside them.
//!
//! Invariant: everything kept is of one version. Knows no format, no query, and no negotiation but
//! that of the encoding.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::telemetry::feed::Feed;
use crate::telemetry::state::State;

/// A key may hold what a client wrote, so there is an end to them; scrapers use one or two.
const MAX_KEYS: usize = 8;

#[derive(Debug, Default)]
pub struct Page {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    version: u64,
    /// The one that was asked for last comes last.
    documents: Vec<Document>,
}

#[derive(Debug)]
struct Document {
    key: String,
    plain: Bytes,
    gzip: Option<Bytes>,
}

impl Page {
    /// The document `key` of the state as it is now, by `render` unless it is kept.
    pub fn answer(
        &self,
        feed: &Feed,
        key: &str,
        headers: &HeaderMap,
        content_type: &'static str,
        render: impl FnOnce(&State) -> Vec<u8>,
    ) -> Response {
        self.try_answer(feed, key, headers, content_type, |state| Some(render(state)))
            .expect("it was rendered")
    }

    /// As `answer`, for a document that may not exist; that it does not is not kept.
    pub fn try_answer(
        &self,
        feed: &Feed,
        key: &str,
        headers: &HeaderMap,
        content_type: &'static str,
        render: impl FnOnce(&State) -> Option<Vec<u8>>,
    ) -> Option<Response> {
        let zipped = wants_gzip(headers);
        let bytes = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            feed.read(|state| kept.bring(key, state, render))?;
            let document = kept.documents.last_mut()?;
            match zipped {
                true => document.gzip.get_or_insert_with(|| gzip(&document.plain)).clone(),
                false => document.plain.clone(),
            }
        };
        let mut response = Response::new(Body::from(bytes));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Some(response)
    }
}

impl Kept {
    /// Makes the document `key` the last one; `None`, and nothing changed, where there is none.
    fn bring(
        &mut self,
        key: &str,
        state: &State,
        render: impl FnOnce(&State) -> Option<Vec<u8>>,
    ) -> Option<()> {
        if self.version != state.version {
            self.version = state.version;
            self.documents.clear();
        }
        let document = match self.documents.iter().position(|it| it.key == key) {
            Some(at) => self.documents.remove(at),
            None => {
                Document { key: key.to_owned(), plain: Bytes::from(render(state)?), gzip: None }
            }
        };
        if self.documents.len() == MAX_KEYS {
            self.documents.remove(0);
        }
        self.documents.push(document);
        Some(())
    }
}

/// Fast, since a page of metrics shrinks to a tenth at any level.
fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Into memory, which takes everything.
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("a Vec grows").into()
}

/// RFC 9110, section 12.5.3: gzip is named with a weight above 0, and identity is not preferred.
/// `*` allows gzip without asking for it.
fn wants_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity) = (None, None);
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        for item in line.to_str().unwrap_or_default().split(',') {
            let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight(parameters);
            match coding.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "identity" => identity = Some(weight),
                _ => {}
            }
        }
    }
    gzip.is_some_and(|gzip| gzip > 0.0 && gzip >= identity.unwrap_or(0.0))
}

/// The `q` among an item's parameters; 1 where it does not say, 0 where it cannot be read.
fn weight(parameters: &str) -> f64 {
    let named = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut weights = named.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    weights.next().map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::telemetry::sample;

    fn accepting(encodings: &[&str]) -> HeaderMap {
        let line = |text: &&str| (header::ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap());
        encodings.iter().map(line).collect()
    }

    fn body(response: Response) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(axum::body::to_bytes(response.into_body(), usize::MAX));
        bytes.unwrap().to_vec()
    }

    #[test]
    fn a_document_is_rendered_once_per_version_and_key() {
        let (hub, page) = (sample::hub(), Page::default());
        let feed = hub.feed("test");
        let mut rendered = 0;
        let mut ask = |key: &str, encodings: &[&str]| {
            let response = page.answer(&feed, key, &accepting(encodings), "text/plain", |state| {
                rendered += 1;
                format!("{key} {} {rendered}", state.version).into_bytes()
            });
            body(response)
        };
        let first = ask("a", &[]);
        assert_eq!(ask("a", &[]), first);
        assert_ne!(ask("b", &[]), first);
        let mut unzipped = Vec::new();
        GzDecoder::new(&ask("a", &["gzip"])[..]).read_to_end(&mut unzipped).unwrap();
        assert_eq!(unzipped, first, "zipped from what was kept");
        hub.update(|merger| merger.settle(Instant::now()));
        assert_ne!(ask("a", &[]), first);
    }

    #[test]
    fn the_key_that_was_not_asked_for_longest_is_forgotten() {
        let (hub, page) = (sample::hub(), Page::default());
        let feed = hub.feed("test");
        let mut rendered = Vec::new();
        let mut ask = |key: usize| {
            let headers = HeaderMap::new();
            page.answer(&feed, &key.to_string(), &headers, "text/plain", |_| {
                rendered.push(key);
                Vec::new()
            });
        };
        (0..MAX_KEYS).for_each(&mut ask);
        [0, MAX_KEYS, 0, 1].into_iter().for_each(&mut ask);
        assert_eq!(rendered, (0..=MAX_KEYS).chain([1]).collect::<Vec<_>>());
        assert_eq!(page.kept.lock().unwrap().documents.len(), MAX_KEYS);
    }

    #[test]
    fn what_does_not_exist_is_no_answer_and_is_asked_again() {
        let (hub, page) = (sample::hub(), Page::default());
        let (feed, headers) = (hub.feed("test"), HeaderMap::new());
        assert!(page.try_answer(&feed, "a", &headers, "text/plain", |_| None).is_none());
        let found = page.try_answer(&feed, "a", &headers, "text/plain", |_| Some(b"x".to_vec()));
        assert_eq!(body(found.unwrap()), b"x");
    }

    #[test]
    fn headers_say_what_came() {
        let (hub, page) = (sample::hub(), Page::default());
        let feed = hub.feed("test");
        for (encodings, zipped) in [(&["gzip"][..], true), (&[], false)] {
            let headers = accepting(encodings);
            let response = page.answer(&feed, "", &headers, "text/x", |_| b"abc".to_vec());
            let headers = response.headers();
            assert_eq!(headers[header::CONTENT_TYPE], "text/x");
            assert_eq!(headers[header::VARY], "Accept-Encoding");
            assert_eq!(headers.contains_key(header::CONTENT_ENCODING), zipped);
        }
    }

    #[test]
    fn gzip_is_for_whoever_asks_for_it() {
        for yes in
            [&["gzip"][..], &["deflate, GZIP;q=0.5"], &["br", "x-gzip"], &["identity;q=0.5, gzip"]]
        {
            assert!(wants_gzip(&accepting(yes)), "{yes:?}");
        }
        for no in [
            &[][..],
            &["identity"],
            &["gzip;q=0"],
            &["gzip; q=0.000"],
            &["*"],
            &["gzip;q=0.5, identity"],
            &["gzip;q=x"],
        ] {
            assert!(!wants_gzip(&accepting(no)), "{no:?}");
        }
    }
}
