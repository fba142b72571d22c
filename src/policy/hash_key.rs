//! What of a request decides which endpoint it goes to under `consistent_hash`.
//!
//! The hash is FNV-1a (Fowler, Noll and Vo; 64 bits): short inputs, no state, and the same on every
//! machine, so that several proxies agree. The balancer mixes it once more. Whoever may choose the
//! key may also choose who gets it; the bound on loads is what keeps that harmless.

use crate::http::{Field, FieldName, Request};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The value of the first field of that name.
    Header(String),
    /// The value of the first cookie of that name.
    Cookie(String),
    /// The client's address.
    Source,
}

impl HashKey {
    /// `None`: the request has no such thing, and goes anywhere. `source`: the client's address in
    /// whatever form, as long as it is always the same.
    pub fn of(&self, request: &Request<'_, '_>, source: &[u8]) -> Option<u64> {
        match self {
            HashKey::Header(name) => request.field(name).map(hash),
            HashKey::Cookie(name) => cookie(request.fields, name.as_bytes()).map(hash),
            HashKey::Source => (!source.is_empty()).then(|| hash(source)),
        }
    }
}

/// RFC 6265 section 4.2.1: pairs between semicolons, of which names are compared as they are.
fn cookie<'b>(fields: &[Field<'b>], name: &[u8]) -> Option<&'b [u8]> {
    let fields = fields.iter().filter(|field| field.kind == FieldName::Cookie);
    let mut pairs = fields.flat_map(|field| field.value.split(|byte| *byte == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

/// FNV-1a.
pub fn hash(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // From the authors' test vectors.
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let fields = [
            Field::new(b"Cookie", b"sid2=x; asid=y;sid=one; sid=two"),
            Field::new(b"cookie", b"other=\"quoted\""),
        ];
        let found = |name: &str| cookie(&fields, name.as_bytes());
        assert_eq!(found("sid"), Some(&b"one"[..]));
        assert_eq!(found("other"), Some(&b"\"quoted\""[..]));
        assert_eq!(found("id"), None);
    }
}
