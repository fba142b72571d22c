//! What lies beside the table: `tracestate`, `l5d-sample`, the heads of further attempts, hops that
//! record nothing, bytes of no meaning.

use super::super::{Form, Forms, Hop, SpanId};
use super::{hop, lines, numbered, read, written};
use crate::http::{FieldName, Sampling, Seen};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";

fn parent(trace: &str) -> String {
    format!("traceparent: 00-{trace}-{SPAN}-01")
}

#[test]
fn trace_state_goes_on_with_its_trace_alone() {
    let goes_on = |fields: &[&str]| !read(fields).dropped.has(FieldName::TraceState);
    let ours = parent(TRACE);
    assert!(goes_on(&[&ours, "tracestate: congo=t61rcWkgMzE"]));
    assert!(goes_on(&[&ours, "tracestate: a=1", "tracestate: b=2,, \tc=3"]));
    assert!(goes_on(&[&ours, "tracestate: fw529a3039@dt=FfAAAAAAAAA, 0@x=!~ :"]));
    let b3 = format!("b3: {TRACE}-{SPAN}-1");
    assert!(goes_on(&[&ours, &b3, "tracestate: a=1"]));
    for without in [&["tracestate: a=1"][..], &[&b3, "tracestate: a=1"]] {
        assert!(!goes_on(without));
        assert_eq!(read(without).malformed, 0, "it is only of no use");
    }
    let other = parent("00000000000000000000000000000001");
    assert!(!goes_on(&[&other, &b3, "tracestate: a=1"]), "of another trace");
    assert!(!goes_on(&["traceparent: 00-0", "tracestate: a=1"]));
}

#[test]
fn a_malformed_trace_state_stays_behind_alone() {
    let ours = parent(TRACE);
    let many = (0..33).map(|at| format!("k{at}=1")).collect::<Vec<_>>().join(",");
    let long = format!("{}=1", "k".repeat(257));
    for wrong in ["a", "=1", "a=", "A=1", "a=1=2", "a@b@c=1", "a=\u{e4}", "a b=1", &many, &long] {
        let incoming = read(&[&ours, &format!("tracestate: {wrong}")]);
        assert!(incoming.dropped.has(FieldName::TraceState), "{wrong}");
        assert_eq!((incoming.malformed, incoming.sampling), (1, Some(Sampling::Yes)), "{wrong}");
    }
    let (half, rest) = many.split_at(many.len() / 2);
    let halves = [format!("tracestate: {half}"), format!("tracestate: {rest}")];
    assert_eq!(read(&[&ours, &halves[0], &halves[1]]).malformed, 1, "over all fields");
    // 32 members may be there.
    let most = many.rsplit_once(',').unwrap().0;
    assert_eq!(read(&[&ours, &format!("tracestate: {most}")]).malformed, 0);
}

#[test]
fn a_rate_is_read_and_goes_no_further() {
    for (text, rate) in [
        ("0.5", 0.5),
        ("1", 1.0),
        ("0", 0.0),
        ("1e-3", 0.001),
        ("7", 1.0),
        ("-1", 0.0),
        ("inf", 1.0),
    ] {
        let incoming = read(&[&format!("l5d-sample: {text}")]);
        assert_eq!((incoming.rate, incoming.malformed), (Some(rate), 0), "{text}");
        assert_eq!(incoming.sampling, None, "it is no context");
        assert!(incoming.dropped.has(FieldName::Sample));
    }
    for wrong in ["", "x", "NaN", "0,5", "1 1", "50%"] {
        let incoming = read(&[&format!("l5d-sample: {wrong}")]);
        assert_eq!((incoming.rate, incoming.malformed), (None, 1), "{wrong}");
    }
    assert_eq!(read(&["l5d-sample: 1", "l5d-sample: 1"]).malformed, 1);
}

#[test]
fn what_brings_nothing_drops_nothing_that_it_has_not() {
    let incoming = read(&["host: h", "x-b3: 1", "trace-parent: 1"]);
    assert_eq!((incoming.malformed, incoming.sampling, incoming.rate), (0, None, None));
    assert_eq!(incoming.dropped, Seen::TRACING);
}

/// In every combination of forms: the head of the nth attempt is that of the first but for the
/// attempt's own span, and is read as such.
#[test]
fn each_attempt_has_a_span_of_its_own() {
    for bits in 1..16_u32 {
        let mut forms = Forms::default();
        Form::ALL
            .iter()
            .filter(|&&form| bits >> form as u32 & 1 == 1)
            .for_each(|&form| forms.add(form));
        for (sampling, trace) in [
            (Sampling::Yes, "463ac35c9f6413ad"),
            (Sampling::Undecided, TRACE),
            (Sampling::Debug, TRACE),
        ] {
            let mut incoming = read(&[&format!("b3: {trace}-{SPAN}")]);
            incoming.forms = forms;
            let mut hop = hop(&incoming);
            hop.decided(sampling, true);
            let (first, places) = written(&hop);
            for nth in 0..5 {
                let mut head = first.clone();
                hop.write_attempt(&places, &mut head, nth);
                let text = lines(&head);
                let read_again = read(&text.iter().map(String::as_str).collect::<Vec<_>>());
                assert_eq!(read_again.malformed, 0, "{text:?}");
                let ids = read_again.ids.unwrap();
                assert_eq!((ids.span, ids.trace.low()), (hop.attempt(nth), hop.trace().low()));
                for line in &text {
                    let one = read(&[line]);
                    if let Some(ids) = one.ids {
                        assert_eq!(ids.span, hop.attempt(nth), "{line}");
                        assert!(ids.parent.is_none_or(|parent| parent == hop.server()), "{line}");
                    }
                }
                assert_eq!(head.len(), first.len());
                assert_eq!(head == first, nth == 0);
            }
        }
    }
}

/// A hop that records nothing and would keep nothing makes no hole in what others record.
#[test]
fn a_hop_that_records_nothing_passes_on_its_caller() {
    let came = format!("b3: {TRACE}-{SPAN}-1-05e3ac9a4f6e3b90");
    let mut hop = hop(&read(&[&came]));
    hop.decided(Sampling::Yes, false);
    let (mut head, places) = written(&hop);
    assert_eq!(lines(&head), [came.as_str()]);
    hop.write_attempt(&places, &mut head, 3);
    assert_eq!(lines(&head), [came.as_str()]);
    assert_eq!(hop.caller(), SpanId::parse(SPAN.as_bytes()));
}

#[test]
fn a_trace_that_nobody_records_has_one_span_for_all_to_name() {
    let mut hop = hop(&read(&[]));
    hop.decided(Sampling::No, false);
    let (trace, span) = (super::BEGUN, super::SERVER);
    let expected = [
        format!("x-b3-traceid: {trace}"),
        format!("x-b3-spanid: {span}"),
        "x-b3-sampled: 0".to_owned(),
        format!("traceparent: 00-{trace}-{span}-00"),
    ];
    assert_eq!(lines(&written(&hop).0), expected);
    assert_eq!(hop.caller(), None);
}

#[test]
fn where_nothing_is_configured_nothing_is_added() {
    let begun = Hop::begin(&read(&[]), Forms::default(), numbered());
    assert!(lines(&written(&begun).0).is_empty());
    let came = Hop::begin(&read(&["b3: 1"]), Forms::default(), numbered());
    assert_eq!(lines(&written(&came).0).len(), 1, "what came goes on all the same");
}

/// Bytes of no meaning, and good values with a byte changed, cut or added: nothing panics, and what
/// is read is written so that it reads the same.
#[test]
fn no_value_breaks_the_readers() {
    let seed = 20_240;
    println!("seed {seed}");
    let mut random = {
        let mut last = SpanId::begin(seed);
        move |below: usize| {
            last = last.child(0);
            (last.get() % below as u64) as usize
        }
    };
    let linkerd = {
        let mut incoming = read(&[&format!("b3: {TRACE}-{SPAN}-1")]);
        incoming.forms = Forms::of(&[Form::Linkerd]);
        lines(&written(&hop(&incoming)).0)[0].strip_prefix("l5d-ctx-trace: ").unwrap().to_owned()
    };
    let good = [
        ("b3", format!("{TRACE}-{SPAN}-1-{SPAN}")),
        ("x-b3-traceid", TRACE.to_owned()),
        ("x-b3-spanid", SPAN.to_owned()),
        ("x-b3-parentspanid", SPAN.to_owned()),
        ("x-b3-sampled", "1".to_owned()),
        ("traceparent", format!("00-{TRACE}-{SPAN}-01")),
        ("tracestate", "a=1,b@c=2".to_owned()),
        ("l5d-ctx-trace", linkerd),
        ("l5d-sample", "0.25".to_owned()),
    ];
    let mut read_well = 0;
    for _ in 0..20_000 {
        let mut fields = Vec::new();
        for (name, value) in &good {
            let mut value = value.clone().into_bytes();
            match random(12) {
                0 => value.truncate(random(value.len() + 1)),
                1 => value.insert(random(value.len() + 1), random(95) as u8 + b' '),
                2 => {
                    let at = random(value.len());
                    value[at] = random(256) as u8;
                }
                3 => value = (0..random(70)).map(|_| random(256) as u8).collect(),
                4 | 5 => continue,
                _ => {}
            }
            fields.push((*name, value));
        }
        let mut seen = Seen::default();
        let fields: Vec<crate::http::Field<'_>> = fields
            .iter()
            .map(|(name, value)| crate::http::Field::new(name.as_bytes(), crate::http::trim(value)))
            .collect();
        fields.iter().for_each(|field| seen.add(field.kind));
        let incoming = super::super::Incoming::read(&fields, seen);
        let mut hop = hop(&incoming);
        hop.decided(incoming.sampling.unwrap_or(Sampling::No), true);
        let text = lines(&written(&hop).0);
        let again = read(&text.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(again.malformed, 0, "{fields:?} gave {text:?}");
        let ids = again.ids.expect("there is always a trace");
        assert_eq!((ids.trace.low(), ids.span), (hop.trace().low(), hop.attempt(0)));
        read_well += u32::from(incoming.ids.is_some());
    }
    assert!((1_000..20_000).contains(&read_well), "{read_well} of them had ids");
}
