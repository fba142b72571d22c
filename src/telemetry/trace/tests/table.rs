//! The propagation table: each form that may come in, with each decision, and what goes on.

use super::{BEGUN, SERVER, hop, lines, passed_on, read, written};
use crate::http::Sampling;

const WIDE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const NARROW: &str = "463ac35c9f6413ad";
const PADDED: &str = "0000000000000000463ac35c9f6413ad";
const SPAN: &str = "e457b5a2e4d86bd1";
const PARENT: &str = "05e3ac9a4f6e3b90";

/// What of Linkerd's value names span, parent, trace and flags; the bytes are what Finagle's
/// `TraceId.serialize` writes.
fn linkerd(span: &str, parent: &str, trace: &str, flags: u64) -> String {
    let (high, low) = trace.split_at(trace.len() - 16);
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut bytes = Vec::new();
    for number in [number(span), number(parent), number(low), flags] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    if !high.is_empty() {
        bytes.extend_from_slice(&number(high).to_be_bytes());
    }
    format!("l5d-ctx-trace: {}", base64(&bytes))
}

/// The plainest there is, so that the code under test is not tested by itself.
fn base64(bytes: &[u8]) -> String {
    let alphabet: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let bits: Vec<u8> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let six =
        |bits: &[u8]| (0..6).fold(0, |sum, at| sum * 2 + usize::from(*bits.get(at).unwrap_or(&0)));
    let mut text: String = bits.chunks(6).map(|bits| alphabet[six(bits)]).collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// The CLIENT span of the first attempt.
fn first() -> String {
    let server = super::super::SpanId::parse(SERVER.as_bytes()).unwrap();
    format!("{:016x}", server.child(0).get())
}

/// What goes on of a trace that begins here, not sampled.
fn begun() -> Vec<String> {
    let first = first();
    vec![
        format!("x-b3-traceid: {BEGUN}"),
        format!("x-b3-spanid: {first}"),
        format!("x-b3-parentspanid: {SERVER}"),
        "x-b3-sampled: 0".to_owned(),
        format!("traceparent: 00-{BEGUN}-{first}-00"),
    ]
}

#[test]
fn what_brings_nothing_begins_a_trace() {
    assert_eq!(passed_on(&["accept: */*"]), begun());
    assert_eq!(passed_on(&[]), begun());
}

#[test]
fn b3_in_one_field() {
    let first = first();
    for trace in [WIDE, NARROW, PADDED] {
        for (came, on) in [
            (format!("-1-{PARENT}"), format!("-1-{SERVER}")),
            ("-1".into(), format!("-1-{SERVER}")),
            ("-0".into(), format!("-0-{SERVER}")),
            (format!("-0-{PARENT}"), format!("-0-{SERVER}")),
            (String::new(), String::new()),
            (format!("-{PARENT}"), String::new()),
            ("-d".into(), format!("-d-{SERVER}")),
        ] {
            let came = format!("b3: {trace}-{SPAN}{came}");
            assert_eq!(passed_on(&[&came]), [format!("b3: {trace}-{first}{on}")], "{came}");
        }
    }
    // A decision alone: the trace begins here, the decision stands.
    for letter in ['0', '1', 'd'] {
        let on = passed_on(&[&format!("B3: {letter}")]);
        assert_eq!(on, [format!("b3: {BEGUN}-{first}-{letter}-{SERVER}")]);
    }
}

#[test]
fn b3_in_several_fields() {
    let first = first();
    for trace in [WIDE, NARROW, PADDED] {
        for (came, on) in [
            (&["X-B3-Sampled: 1"][..], &["x-b3-sampled: 1"][..]),
            (&["x-b3-sampled: true"], &["x-b3-sampled: 1"]),
            (&["x-b3-sampled: 1", "x-b3-flags: 0"], &["x-b3-sampled: 1"]),
            (&["x-b3-sampled: 0"], &["x-b3-sampled: 0"]),
            (&["x-b3-sampled: False"], &["x-b3-sampled: 0"]),
            (&[], &[]),
            (&["x-b3-flags: 0"], &[]),
            (&["x-b3-flags: 1"], &["x-b3-flags: 1"]),
            (&["x-b3-flags: 1", "x-b3-sampled: 1"], &["x-b3-flags: 1"]),
        ] {
            let ids = [format!("X-B3-TraceId: {trace}"), format!("x-b3-spanid: {SPAN}")];
            let parent = [format!("x-b3-parentspanid: {PARENT}")];
            for parents in [&parent[..], &[]] {
                let all: Vec<&str> = came
                    .iter()
                    .copied()
                    .chain(ids.iter().chain(parents).map(String::as_str))
                    .collect();
                let mut expected = vec![
                    format!("x-b3-traceid: {trace}"),
                    format!("x-b3-spanid: {first}"),
                    format!("x-b3-parentspanid: {SERVER}"),
                ];
                expected.extend(on.iter().map(|it| (*it).to_owned()));
                assert_eq!(passed_on(&all), expected, "{all:?}");
            }
        }
    }
    let on = passed_on(&["x-b3-sampled: 0"]);
    assert_eq!(on, begun()[..4], "a decision alone");
}

#[test]
fn trace_parent() {
    let first = first();
    for trace in [WIDE, PADDED] {
        for (came, on) in [
            (format!("00-{trace}-{SPAN}-01"), "01"),
            (format!("00-{trace}-{SPAN}-ff"), "01"),
            (format!("00-{trace}-{SPAN}-00"), "00"),
            (format!("00-{trace}-{SPAN}-02"), "00"),
            // Of a version to come: as much of it as is known.
            (format!("01-{trace}-{SPAN}-01"), "01"),
            (format!("cc-{trace}-{SPAN}-01-what-else"), "01"),
        ] {
            let came = format!("traceparent: {came}");
            assert_eq!(passed_on(&[&came]), [format!("traceparent: 00-{trace}-{first}-{on}")]);
        }
    }
}

/// It cannot say that a decision is open, or that somebody debugs: those come with another form.
#[test]
fn trace_parent_beside_what_says_more() {
    let first = first();
    let parent = format!("traceparent: 00-{WIDE}-{SPAN}-00");
    let undecided = passed_on(&[&parent, &format!("b3: {WIDE}-{SPAN}")]);
    assert_eq!(
        undecided,
        [format!("b3: {WIDE}-{first}"), format!("traceparent: 00-{WIDE}-{first}-00")]
    );
    let debug = passed_on(&[&parent, &format!("b3: {WIDE}-{SPAN}-d")]);
    assert_eq!(
        debug,
        [format!("b3: {WIDE}-{first}-d-{SERVER}"), format!("traceparent: 00-{WIDE}-{first}-01")]
    );
}

#[test]
fn linkerds_own() {
    let first = first();
    for trace in [WIDE, NARROW, PADDED] {
        for (came, on) in [(6, 6), (4 | 2, 6), (2, 2), (0, 0), (4, 0), (1, 7), (7, 7), (5, 7)] {
            let came = linkerd(SPAN, PARENT, trace, came);
            let expected = linkerd(&first, SERVER, trace, on);
            assert_eq!(passed_on(&[&came]), [expected], "{came}");
            let unpadded = came.trim_end_matches('=');
            assert_eq!(passed_on(&[unpadded]), passed_on(&[&came]));
        }
        // What Finagle's tracers keep beside that: a rate, and bits of their own.
        let others = 0x7FFF_F000_1234_5678_u64 & !7;
        let came = linkerd(SPAN, PARENT, trace, others | 2);
        assert_eq!(passed_on(&[&came]), [linkerd(&first, SERVER, trace, others | 2)]);
    }
}

fn malformed_single() -> Vec<Vec<String>> {
    let zeros = "0".repeat(16);
    let wrong = [
        String::new(),
        "2".into(),
        "true".into(),
        WIDE.into(),
        format!("{WIDE}-"),
        format!("{WIDE}-{SPAN}-"),
        format!("{WIDE}-{SPAN}-x"),
        format!("{WIDE}-{SPAN}-1-"),
        format!("{WIDE}-{SPAN}-1-{PARENT}-"),
        format!("{WIDE}-{SPAN}-{PARENT}-1"),
        format!("{WIDE}-{SPAN}-1-{PARENT}0"),
        format!("{WIDE}-{zeros}-1"),
        format!("{zeros}-{SPAN}-1"),
        format!("{zeros}{zeros}-{SPAN}-1"),
        format!("{WIDE}0-{SPAN}-1"),
        format!("{NARROW} -{SPAN}-1"),
        format!("{WIDE}-{SPAN}-1,{WIDE}-{SPAN}-1"),
    ];
    let mut all: Vec<Vec<String>> = wrong.iter().map(|it| vec![format!("b3: {it}")]).collect();
    all.push(vec![format!("b3: {WIDE}-{SPAN}-1"); 2]);
    all
}

fn malformed_multi() -> Vec<Vec<String>> {
    let zeros = "0".repeat(16);
    let cases = [
        vec![("traceid", WIDE)],
        vec![("spanid", SPAN)],
        vec![("parentspanid", PARENT)],
        vec![("sampled", "d")],
        vec![("sampled", "")],
        vec![("traceid", WIDE), ("spanid", SPAN), ("parentspanid", "1")],
        vec![("traceid", WIDE), ("spanid", SPAN), ("sampled", "2")],
        vec![("traceid", WIDE), ("sampled", "1")],
        vec![("traceid", &zeros), ("spanid", SPAN)],
        vec![("traceid", WIDE), ("spanid", &zeros)],
        vec![("traceid", ""), ("spanid", "")],
        vec![("traceid", &WIDE[1..]), ("spanid", SPAN), ("sampled", "1")],
        vec![("traceid", WIDE), ("spanid", SPAN), ("traceid", WIDE)],
    ];
    let field = |(name, value): &(&str, &str)| format!("x-b3-{name}: {value}");
    cases.iter().map(|fields| fields.iter().map(field).collect()).collect()
}

fn malformed_parent() -> Vec<Vec<String>> {
    let zeros = "0".repeat(16);
    let wrong = [
        String::new(),
        "00".into(),
        format!("ff-{WIDE}-{SPAN}-01"),
        format!("0g-{WIDE}-{SPAN}-01"),
        format!("00-{WIDE}-{SPAN}"),
        format!("00-{WIDE}-{SPAN}-0"),
        format!("00-{WIDE}-{SPAN}-0g"),
        format!("00-{WIDE}-{SPAN}-011"),
        format!("00-{WIDE}-{SPAN}-01-"),
        format!("01-{WIDE}-{SPAN}-01x"),
        format!("00_{WIDE}_{SPAN}_01"),
        format!("00-{}-{SPAN}-01", WIDE.to_uppercase()),
        format!("00-{NARROW}-{SPAN}-01"),
        format!("00-{zeros}{zeros}-{SPAN}-01"),
        format!("00-{WIDE}-{zeros}-01"),
    ];
    let mut all: Vec<Vec<String>> =
        wrong.iter().map(|it| vec![format!("traceparent: {it}")]).collect();
    all.push(vec![format!("traceparent: 00-{WIDE}-{SPAN}-01"); 2]);
    all
}

fn malformed_linkerd() -> Vec<Vec<String>> {
    let zeros = "0".repeat(16);
    vec![
        vec![linkerd(&zeros, PARENT, WIDE, 6)],
        vec![linkerd(SPAN, PARENT, &zeros, 6)],
        vec![linkerd(SPAN, PARENT, WIDE, 6) + "AAAA"],
        vec![format!("l5d-ctx-trace: {}", base64(&[1; 24]))],
        vec![format!("l5d-ctx-trace: {}", base64(&[1; 33]))],
        vec!["l5d-ctx-trace: ".to_owned()],
        vec![linkerd(SPAN, PARENT, WIDE, 6); 2],
    ]
}

/// Every one of them is ignored, counted once, and as good as not there: never sent on.
#[test]
fn malformed() {
    let all = [malformed_single(), malformed_multi(), malformed_parent(), malformed_linkerd()];
    for fields in all.into_iter().flatten() {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let incoming = read(&fields);
        assert_eq!((incoming.malformed, incoming.sampling), (1, None), "{fields:?}");
        assert_eq!(passed_on(&fields), begun(), "{fields:?}");
        if !fields[0].starts_with("b3:") {
            let b3 = format!("b3: {NARROW}-{SPAN}-1");
            let with_another: Vec<&str> = fields.iter().copied().chain([b3.as_str()]).collect();
            let expected = [format!("b3: {NARROW}-{}-1-{SERVER}", first())];
            assert_eq!(passed_on(&with_another), expected, "{fields:?}");
        }
    }
}

/// Each fact from the first form that states it; all forms that came go on, in agreement.
#[test]
fn precedence() {
    let traces: Vec<String> = (1..=4).map(|it| format!("{it:032x}")).collect();
    let single = format!("b3: {}-{SPAN}-1", traces[0]);
    let multi = [
        format!("x-b3-traceid: {}", traces[1]),
        format!("x-b3-spanid: {SPAN}"),
        "x-b3-sampled: 0".to_owned(),
    ];
    let parent = format!("traceparent: 00-{}-{SPAN}-01", traces[2]);
    let linkerd = linkerd(SPAN, PARENT, &traces[3], 2);
    let forms: [Vec<&str>; 4] =
        [vec![&single], multi.iter().map(String::as_str).collect(), vec![&parent], vec![&linkerd]];
    let decisions = [Sampling::Yes, Sampling::No, Sampling::Yes, Sampling::No];
    for bits in 1..16 {
        let came: Vec<usize> = (0..4).filter(|at| bits >> at & 1 == 1).collect();
        // In whatever order the fields stand.
        let mut fields: Vec<&str> = came.iter().rev().flat_map(|&at| forms[at].clone()).collect();
        for _ in 0..2 {
            let incoming = read(&fields);
            let hop = hop(&incoming);
            assert_eq!(hop.trace().all_digits(), traces[came[0]].as_bytes(), "{fields:?}");
            assert_eq!(incoming.sampling, Some(decisions[came[0]]), "{fields:?}");
            assert_eq!(incoming.malformed, 0);
            let again =
                read(&lines(&written(&hop).0).iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(again.forms, incoming.forms);
            fields.reverse();
        }
    }
    // A decision alone does not hide the ids of the next form, nor do ids hide it.
    let incoming = read(&["b3: 0", &parent]);
    assert_eq!(incoming.sampling, Some(Sampling::No));
    assert_eq!(hop(&incoming).trace().all_digits(), traces[2].as_bytes());
    let incoming = read(&["x-b3-flags: 1", &linkerd]);
    assert_eq!(incoming.sampling, Some(Sampling::Debug));
    assert_eq!(hop(&incoming).trace().all_digits(), traces[3].as_bytes());
}
