//! Heads of requests and of responses: pieces change nothing, and what is sent on is a head that is
//! read in the same way again.
//!
//! Input: one message's head. What begins with `HTTP/` is a response's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlane::http::{ForwardRules, Method, Mode, Peer, PeerText, Version};
use ringlane::http1::{
    FieldStorage, RequestParser, ResponseContext, ResponseParser, encode, outgoing_framing,
};

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"HTTP/") {
        for method in [Method::Get, Method::Head] {
            response(data, method);
        }
    } else {
        request(data);
    }
});

fn rules() -> ForwardRules {
    ForwardRules { via: Some("r".into()), x_forwarded: Mode::Append, forwarded: Mode::Append }
}

/// Where a head ends that comes in pieces, whose lengths its own bytes say; `Err`: it is refused.
fn in_pieces(
    data: &[u8],
    mut parse: impl FnMut(&[u8]) -> Result<Option<usize>, ()>,
) -> Result<Option<usize>, ()> {
    let mut end = 0;
    while end < data.len() {
        end = (end + 1 + usize::from(data[end] % 5)).min(data.len());
        if let Some(len) = parse(&data[..end])? {
            return Ok(Some(len));
        }
    }
    Ok(None)
}

fn request(data: &[u8]) {
    let mut storage = FieldStorage::new();
    let whole = RequestParser::default().parse(data, &mut storage);
    let mut parser = RequestParser::default();
    let pieces = in_pieces(data, |bytes| {
        let mut storage = FieldStorage::new();
        let found = parser.parse(bytes, &mut storage).map_err(drop)?;
        Ok(found.map(|(_, len)| len))
    });
    let (request, len) = match whole {
        Err(_) => return assert_eq!(pieces, Err(())),
        Ok(None) => return assert_eq!(pieces, Ok(None)),
        Ok(Some(found)) => found,
    };
    assert_eq!(pieces, Ok(Some(len)));
    let peer = PeerText::new(Peer { ip: None, port: 0 });
    let mut out = Vec::new();
    encode::request(&mut out, &request, &rules(), &peer, true);
    encode::end(&mut out);
    let mut storage = FieldStorage::new();
    let again = RequestParser::default().parse(&out, &mut storage);
    // What the proxy adds may take a head that is almost too large over a limit.
    let roomy = request.fields.len() < 100 && out.len() < 60_000 && data.len() < 8000;
    let (again, end) = match again {
        Ok(Some(found)) => found,
        other if roomy => panic!("{other:?} of {}", out.escape_ascii()),
        _ => return,
    };
    assert_eq!(end, out.len());
    assert_eq!(again.facts.framing, request.facts.framing);
    assert_eq!((again.method, again.host), (request.method, request.host));
    assert_eq!(again.upgrade_token(), request.upgrade_token());
    let mut local = Vec::new();
    assert_eq!(encode::local_answer(&mut local, &request, true, None), request.is_for_us());
}

fn response(data: &[u8], method: Method) {
    let mut storage = FieldStorage::new();
    let whole = ResponseParser::default().parse(data, &mut storage, method);
    let mut parser = ResponseParser::default();
    let pieces = in_pieces(data, |bytes| {
        let mut storage = FieldStorage::new();
        let found = parser.parse(bytes, &mut storage, method).map_err(drop)?;
        Ok(found.map(|(_, len)| len))
    });
    let (response, len) = match whole {
        Err(_) => return assert_eq!(pieces, Err(())),
        Ok(None) => return assert_eq!(pieces, Ok(None)),
        Ok(Some(found)) => found,
    };
    assert_eq!(pieces, Ok(Some(len)));
    for client_version in [Version::Http10, Version::Http11] {
        let mut out = Vec::new();
        let (framing, close) = outgoing_framing(response.facts.framing, client_version);
        let rules = rules();
        let context = ResponseContext { client_version, close, rules: &rules, date: None };
        if response.facts.is_interim {
            encode::interim(&mut out, &response);
        } else {
            encode::response(&mut out, &response, framing, &context);
            encode::end(&mut out);
        }
        let mut storage = FieldStorage::new();
        let again = ResponseParser::default().parse(&out, &mut storage, method);
        let (again, end) = match again {
            Ok(Some(found)) => found,
            other if response.fields.len() < 100 && data.len() < 8000 => {
                panic!("{other:?} of {}", out.escape_ascii())
            }
            _ => return,
        };
        assert_eq!((end, again.status), (out.len(), response.status));
        assert_eq!(again.phrase, response.phrase);
        assert_eq!(again.facts.framing, framing);
        if !response.facts.is_interim && response.status != 101 {
            assert_eq!(again.facts.persistent, !close);
        }
    }
}
