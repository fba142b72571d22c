//! A trace's context in all its forms: whatever comes, what goes on can be read, by us as by
//! whoever is next, and says what it should.
//!
//! Input: lines of fields, LF between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlane::http::{Field, FieldName, Sampling, Seen, trim};
use ringlane::http1::{FieldStorage, RequestParser};
use ringlane::telemetry::trace::{Forms, Hop, Incoming};

fuzz_target!(|data: &[u8]| {
    let fields: Vec<Field<'_>> = data.split(|&byte| byte == b'\n').filter_map(field).collect();
    let mut seen = Seen::default();
    fields.iter().for_each(|field| seen.add(field.kind));
    let incoming = Incoming::read(&fields, seen);
    assert!(incoming.rate.is_none_or(|rate| (0.0..=1.0).contains(&rate)));
    for is_seen in [true, false] {
        let mut random = 7_u64;
        let mut hop = Hop::begin(&incoming, Forms::DEFAULT, || {
            random = random.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
            random
        });
        hop.decided(hop.sampling(), is_seen);
        for attempt in 0..2 {
            read_again(&hop, is_seen, attempt);
        }
    }
});

fn field(line: &[u8]) -> Option<Field<'_>> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some(Field::new(&line[..colon], trim(&line[colon + 1..])))
}

/// What the next hop makes of what it is told.
fn read_again(hop: &Hop, is_seen: bool, attempt: u32) {
    let mut head = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
    let places = hop.write(&mut head);
    hop.write_attempt(&places, &mut head, attempt);
    hop.write_request_id(&mut head);
    head.extend_from_slice(b"\r\n");
    let mut storage = FieldStorage::new();
    let parsed = RequestParser::default().parse(&head, &mut storage);
    let Ok(Some((request, len))) = parsed else {
        panic!("{parsed:?} of {}", head.escape_ascii());
    };
    assert_eq!(len, head.len());
    assert!(request.facts.seen.has(FieldName::RequestId));
    let again = Incoming::read(request.fields, request.facts.seen);
    assert_eq!(again.malformed, 0, "{}", head.escape_ascii());
    assert!(hop.goes_on(), "a trace that begins here goes on in the default forms");
    let next = Hop::begin(&again, Forms::default(), || 1);
    let (high, low) = (hop.trace().high(), hop.trace().low());
    assert_eq!((next.trace().high(), next.trace().low()), (high, low));
    let parent = next.caller().expect("a span of ours, or the caller's");
    match hop.caller() {
        Some(caller) if !is_seen => assert_eq!(parent, caller),
        None if !is_seen => assert_eq!(parent, hop.server()),
        _ => assert_eq!(parent, hop.attempt(attempt)),
    }
    // W3C alone can say neither that it is open nor that it is debugged.
    match (hop.sampling(), next.sampling()) {
        (Sampling::Undecided, came) => assert_ne!(came.decided(), Some(true)),
        (told, came) => assert_eq!(told.decided(), came.decided()),
    }
}
