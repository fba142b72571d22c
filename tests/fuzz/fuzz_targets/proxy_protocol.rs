//! Headers of the PROXY protocol: what is decided holds whatever follows, no more is taken than may
//! be, and nothing is waited for that could not come.
//!
//! Input: the first bytes of a connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlane::http::proxy_protocol::{MAX_BYTES, announced};

fuzz_target!(|data: &[u8]| {
    let mut decided = None;
    for end in 0..=data.len() {
        let found = announced(&data[..end]);
        match &decided {
            Some(before) => assert_eq!(found, *before),
            None if found == Ok(None) => assert!(end < MAX_BYTES),
            None => decided = Some(found),
        }
        if let Ok(Some((_, consumed))) = found {
            assert!(consumed <= end.min(MAX_BYTES));
        }
    }
});
