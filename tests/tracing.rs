//! Tracing as clients, origins and operators see it: what goes on of a trace's context, which
//! requests are recorded, and where they are found again.

mod common;

use std::collections::HashSet;

use common::{Answer, Metrics, Origin, Proxy, Request, Wire, both, config, eventually, ok};
use serde_json::Value;

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";
/// All fields of a trace's context, and of the request's id.
const FIELDS: [&str; 11] = [
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "traceparent",
    "tracestate",
    "l5d-ctx-trace",
    "l5d-sample",
    "l5d-reqid",
];

/// With telemetry of these keys (YAML, comma-separated) besides a short flush.
fn start(origin: &Origin, telemetry: &str, service: &str, cores: &str) -> Proxy {
    let yaml = config(&[origin.address], "", service);
    Proxy::start(&format!("telemetry: {{flush_interval_ms: 20, {telemetry}}}\n{yaml}"), cores)
}

fn recorded_at(rate: &str) -> String {
    format!("exporters: [{{kind: trace_log, sample_rate: {rate}}}, {{kind: recent_requests}}]")
}

fn send(client: &mut Wire, path: &str, fields: &[&str]) -> Answer {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
    client.answer()
}

/// What the origin was told of the trace, as `name: value`, in lower case and sorted by name.
fn told(request: &Request) -> Vec<String> {
    let mut told = Vec::new();
    for name in FIELDS {
        told.extend(request.head.all(name).iter().map(|value| format!("{name}: {value}")));
    }
    told
}

fn told_of(proxy: &Proxy, origin: &Origin, fields: &[&str]) -> Vec<String> {
    assert_eq!(send(&mut proxy.connect(), "/", fields).status(), 200);
    told(&origin.last_request())
}

/// The value of a field among those that were told.
#[track_caller]
fn value<'a>(told: &'a [String], name: &str) -> &'a str {
    let mut values = told.iter().filter_map(|field| field.strip_prefix(name)?.strip_prefix(": "));
    values.next_back().unwrap_or_else(|| panic!("{name} in {told:?}"))
}

fn json(proxy: &Proxy, path: &str) -> Value {
    let answer = Wire::connect(proxy.admin).get(path);
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// The recent requests, once there are so many of them; the latest first.
fn requests(proxy: &Proxy, query: &str, count: usize) -> Vec<Value> {
    let path = format!("/admin/requests.json{query}");
    let list = || json(proxy, &path).as_array().expect("a list").clone();
    eventually("they are listed", || list().len() >= count);
    let list = list();
    assert_eq!(list.len(), count, "{list:#?}");
    list
}

fn put(proxy: &Proxy, path: &str, kind: &str, body: &str) -> Answer {
    let mut admin = Wire::connect(proxy.admin);
    admin.send(format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    admin.answer()
}

fn set_tracing(proxy: &Proxy, body: &str) -> Value {
    let answer = put(proxy, "/admin/tracing", "application/json", body);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[test]
fn a_trace_begins_here_and_each_hop_has_a_span_of_its_own() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let proxy = start(&origin, &recorded_at("1.0"), "", cores);
        let told = told_of(&proxy, &origin, &[]);
        let (trace, span) = (value(&told, "x-b3-traceid"), value(&told, "x-b3-spanid"));
        assert_eq!((trace.len(), span.len(), told.len()), (32, 16, 6), "{told:?}");
        assert_eq!(value(&told, "x-b3-sampled"), "1");
        assert_eq!(value(&told, "traceparent"), format!("00-{trace}-{span}-01"));
        assert_eq!(value(&told, "l5d-reqid"), trace);
        let listed = requests(&proxy, "", 1);
        assert_eq!(
            (listed[0]["trace_id"].as_str(), &listed[0]["recorded"]),
            (Some(trace), &true.into())
        );
        // The next trace is another.
        assert_ne!(value(&told_of(&proxy, &origin, &[]), "x-b3-traceid"), trace);
    });
}

#[test]
fn what_came_goes_on_as_it_came_with_a_span_of_ours() {
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = start(&origin, &recorded_at("0.0"), "", "0");
    let single = told_of(&proxy, &origin, &[&format!("b3: {TRACE}-{SPAN}-1"), "l5d-reqid: mine"]);
    let parts: Vec<&str> = value(&single, "b3").split('-').collect();
    assert_eq!((parts[0], parts[2], single.len()), (TRACE, "1", 2), "{single:?}");
    assert_ne!(parts[1], SPAN);
    assert_eq!(value(&single, "l5d-reqid"), "mine");
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01");
    let w3c = told_of(&proxy, &origin, &[&parent, "tracestate: a=1, b=2"]);
    assert!(value(&w3c, "traceparent").starts_with(&format!("00-{TRACE}-")), "{w3c:?}");
    assert_eq!((value(&w3c, "tracestate"), value(&w3c, "l5d-reqid")), ("a=1, b=2", TRACE));
    assert!(!value(&w3c, "traceparent").contains(SPAN), "{w3c:?}");
    // An open decision stays open, and one against goes on, with the caller for the parent.
    let open = told_of(&proxy, &origin, &[&format!("b3: {TRACE}-{SPAN}")]);
    assert_eq!(value(&open, "b3"), format!("{TRACE}-{SPAN}"));
    set_tracing(&proxy, r#"{"keep_failed": false, "keep_retried": false}"#);
    let no = told_of(&proxy, &origin, &[&format!("b3: {TRACE}-{SPAN}-0")]);
    assert_eq!(value(&no, "b3"), format!("{TRACE}-{SPAN}-0"));
}

#[test]
fn without_an_exporter_for_spans_no_trace_begins_and_none_is_broken() {
    let origin = Origin::answering(|_| ok("fine"));
    for telemetry in ["telemetry: off", "telemetry: {flush_interval_ms: 20}"] {
        let yaml = config(&[origin.address], "", "");
        let proxy = Proxy::start(&format!("{telemetry}\n{yaml}"), "0");
        assert_eq!(told_of(&proxy, &origin, &[]), Vec::<String>::new());
        let fields = [&format!("b3: {TRACE}-{SPAN}-1")[..], "l5d-sample: 0.5"];
        let told = told_of(&proxy, &origin, &fields);
        assert_eq!(value(&told, "b3"), format!("{TRACE}-{SPAN}-1"), "no span of ours is anywhere");
        assert_eq!(value(&told, "l5d-sample"), "0.5", "for who records");
    }
}

#[test]
fn what_cannot_be_read_is_counted_and_stays_behind() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let yaml = config(&[origin.address], "", "");
        let proxy = Proxy::start(&format!("telemetry: {{flush_interval_ms: 20}}\n{yaml}"), cores);
        let told = told_of(&proxy, &origin, &["b3: nonsense", "traceparent: 00-1-2-3"]);
        assert_eq!(told, Vec::<String>::new());
        let (one, two) = (format!("x-b3-traceid: {TRACE}"), format!("x-b3-spanid: {SPAN}"));
        let told = told_of(&proxy, &origin, &[&one, &two, "l5d-ctx-trace: AAAA", "l5d-sample: x"]);
        assert_eq!(value(&told, "x-b3-traceid"), TRACE);
        let key = format!("{}/malformed_contexts", proxy.server(0));
        proxy.metrics_when("all four are counted", |metrics| metrics.get(&key) == 4);
    });
}

/// An origin whose first answer to each path is a failure.
fn failing_once() -> Origin {
    let failed = std::sync::Mutex::new(HashSet::new());
    Origin::answering(move |request| {
        match failed.lock().unwrap().insert(request.head.target().to_owned()) {
            true => common::failing(),
            false => ok("fine"),
        }
    })
}

const RETRIES: &str = "retries: {classifier: retryable_all_5xx}";

#[test]
fn each_attempt_tells_its_own_span_in_every_form() {
    both(|cores| {
        let origin = failing_once();
        let proxy = start(&origin, &recorded_at("1.0"), RETRIES, cores);
        let linkerd = "l5d-ctx-trace: 5Fe1ouTYa9EF46yaT247kGT+iypX0+/3AAAAAAAAAAaA8ZjuVjQ7qA==";
        let single = format!("b3: {TRACE}-{SPAN}-1");
        let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01");
        // With a body, which stands behind the head in what is sent again.
        let body = "x".repeat(100);
        let forms = [
            ("", "x-b3-spanid"),
            (&single, "b3"),
            (&parent, "traceparent"),
            (linkerd, "l5d-ctx-trace"),
        ];
        for (number, (form, name)) in forms.into_iter().enumerate() {
            let before = origin.requests().len();
            let field = if form.is_empty() { String::new() } else { format!("{form}\r\n") };
            let mut client = proxy.connect();
            client.send(format!(
                "POST /{number} HTTP/1.1\r\nHost: h\r\n{field}Content-Length: 100\r\n\r\n{body}"
            ));
            assert_eq!(client.answer().status(), 200);
            let all = origin.requests();
            let two = &all[before..];
            assert_eq!(two.len(), 2, "{name}");
            let heads: Vec<Vec<String>> = two.iter().map(told).collect();
            assert!(two.iter().all(|it| it.body == body.as_bytes()), "the body is whole");
            let (one, other) = (value(&heads[0], name), value(&heads[1], name));
            assert!(one != other && one.len() == other.len(), "{one} {other}");
            assert_eq!(value(&heads[0], "l5d-reqid"), value(&heads[1], "l5d-reqid"));
            // But for the span they are the same, and neither names the caller's for its own.
            let differ = one.bytes().zip(other.bytes()).filter(|(one, other)| one != other);
            assert!((1..=16).contains(&differ.count()), "{one} {other}");
            assert!(!one.contains(SPAN) && !other.contains(SPAN) && !one.starts_with("5Fe1o"));
            if form.is_empty() {
                for head in &heads {
                    let (trace, span) = (value(head, "x-b3-traceid"), value(head, "x-b3-spanid"));
                    assert_eq!(value(head, "traceparent"), format!("00-{trace}-{span}-01"));
                }
            }
        }
    });
}

#[test]
fn the_log_has_a_line_for_each_span() {
    both(|cores| {
        let origin = failing_once();
        let proxy = start(&origin, &recorded_at("1.0"), RETRIES, cores);
        assert_eq!(send(&mut proxy.connect(), "/a?b=c", &[]).status(), 200);
        let trace = value(&told(&origin.last_request()), "x-b3-traceid").to_owned();
        let lines = |kind: &str| -> Vec<String> {
            let log = proxy.log();
            let is_it = |line: &&String| line.contains(&trace) && line.contains(kind);
            log.iter().filter(is_it).cloned().collect()
        };
        eventually("the spans are in the log", || lines("kind=\"").len() == 3);
        let (server, clients) = (lines("kind=\"server\""), lines("kind=\"client\""));
        assert_eq!(clients.len(), 2, "{clients:?}");
        let (_, rest) = server[0].split_once("span_id=").expect("an id");
        let id = rest.split(' ').next().expect("an id");
        assert!(clients.iter().all(|it| it.contains(&format!("parent_id={id}"))), "{clients:?}");
        assert!(clients[0].contains("error=\"upstream_status\""), "{}", clients[0]);
        assert!(clients[1].contains("attempt=\"retry\"") && !clients[1].contains("error="));
        let server = &server[0];
        assert!(server.contains("path=\"/a\"") && !server.contains("parent_id"), "{server}");
        proxy.metrics_when("all are counted", |it| it.get("telemetry/spans_sent/trace_log") == 3);
    });
}

#[test]
fn recent_requests_are_listed_and_found_by_what_is_asked_for() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/bad?secret=1" => common::failing(),
            _ => ok("fine"),
        });
        let telemetry = "exporters: [{kind: recent_requests, capacity: 3}]";
        let proxy = start(&origin, telemetry, "", cores);
        let mut client = proxy.connect();
        send(&mut client, "/one", &["l5d-reqid: first"]);
        assert_eq!(send(&mut client, "/bad?secret=1", &[]).status(), 503);
        let bad = &requests(&proxy, "?status=503", 1)[0];
        assert_eq!((bad["path"].as_str(), bad["method"].as_str()), (Some("/bad"), Some("GET")));
        assert_eq!((bad["service"].as_str(), bad["router"].as_str()), (Some("web"), Some("http")));
        assert_eq!(bad["endpoint"].as_str(), Some(&*origin.address.to_string()));
        assert_eq!(
            (&bad["attempts"], bad["failure"].as_str()),
            (&1.into(), Some("upstream_status"))
        );
        assert!(bad["latency_ms"].as_f64().is_some_and(|it| it > 0.0), "{bad}");
        assert_eq!(
            (bad["recorded"].as_bool(), &bad["request_id"]),
            (Some(false), &bad["trace_id"])
        );
        assert_eq!(requests(&proxy, "", 2)[1]["request_id"].as_str(), Some("first"));
        assert_eq!(
            requests(&proxy, "?status=2xx&service=web&slower_than_ms=0", 1)[0]["path"],
            "/one"
        );
        assert!(requests(&proxy, "?service=other", 0).is_empty());
        assert!(requests(&proxy, "?slower_than_ms=60000", 0).is_empty());
        // No more than are kept; those that come last.
        (0..5).for_each(|n| drop(send(&mut client, &format!("/{n}"), &[])));
        let paths = || -> Vec<String> {
            let list = requests(&proxy, "", 3);
            list.iter().map(|it| it["path"].as_str().expect("text").to_owned()).collect()
        };
        eventually("the latest are listed", || paths() == ["/4", "/3", "/2"]);
        assert_eq!(requests(&proxy, "?limit=1", 1)[0]["path"], "/4");
        let refused = Wire::connect(proxy.admin).get("/admin/requests.json?status=soon");
        assert_eq!(refused.status(), 400);
        assert!(refused.text().contains("allowed: service=NAME"), "{}", refused.text());
    });
}

#[test]
fn what_is_recorded_can_be_changed_at_run_time() {
    both(|cores| {
        let origin = Origin::answering(|request| match request.head.target() {
            "/bad" => common::failing(),
            _ => ok("fine"),
        });
        let proxy = start(&origin, &recorded_at("0.0"), "", cores);
        let is_recorded = |path: &str, fields: &[&str]| {
            send(&mut proxy.connect(), path, fields);
            let trace = value(&told(&origin.last_request()), "l5d-reqid").to_owned();
            let find = || {
                let list = json(&proxy, "/admin/requests.json");
                let is_it = |it: &&Value| it["trace_id"] == *trace;
                list.as_array().expect("a list").iter().find(is_it).cloned()
            };
            eventually("it is listed", || find().is_some());
            find().expect("it was there")["recorded"].as_bool().expect("a flag")
        };
        assert!(!is_recorded("/", &[]));
        assert!(is_recorded("/bad", &[]), "failures are kept");
        assert!(is_recorded("/", &["l5d-sample: 1.0"]), "who asks is recorded");
        assert!(is_recorded("/", &["x-b3-flags: 1"]), "so is who debugs");
        let now = set_tracing(&proxy, r#"{"sample_rate": 1, "keep_failed": false}"#);
        assert_eq!((&now["sample_rate"], &now["keep_failed"]), (&1.0.into(), &false.into()));
        assert!(is_recorded("/", &[]));
        assert!(!is_recorded("/", &["l5d-sample: 0"]));
        assert!(!is_recorded("/bad", &["l5d-sample: 0"]), "failures are not kept any more");
        let now = set_tracing(&proxy, r#"{"enabled": false}"#);
        assert_eq!((&now["enabled"], &now["sample_rate"]), (&false.into(), &1.0.into()));
        assert_eq!(told_of(&proxy, &origin, &[]), Vec::<String>::new(), "nothing begins here");
        set_tracing(&proxy, r#"{"enabled": true, "sample_rate": 0, "keep_slower_than_ms": 1}"#);
        assert_eq!(json(&proxy, "/admin/tracing")["keep_slower_than_ms"], 1);
        for wrong in [r#"{}"#, r#"{"sample_rate": 2}"#, r#"{"rate": 1}"#, "on"] {
            let refused = put(&proxy, "/admin/tracing", "application/json", wrong);
            assert!((400..500).contains(&refused.status()), "{wrong}");
            assert!(refused.text().contains("max_spans_per_sec"), "{}", refused.text());
        }
    });
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = start(&origin, "exporters: [{kind: recent_requests}]", "", "0");
    let refused = put(&proxy, "/admin/tracing", "application/json", r#"{"sample_rate": 1}"#);
    assert_eq!(refused.status(), 409);
    assert!(refused.text().contains("no exporter takes spans"), "{}", refused.text());
}

#[test]
fn slow_requests_are_kept() {
    let origin = Origin::answering(|_| {
        // What it takes to answer, not what the test waits for.
        std::thread::sleep(std::time::Duration::from_millis(60));
        ok("late")
    });
    let telemetry = format!("tracing: {{keep_slower_than_ms: 40}}, {}", recorded_at("0.0"));
    let proxy = start(&origin, &telemetry, "", "0");
    send(&mut proxy.connect(), "/", &[]);
    assert_eq!(requests(&proxy, "?slower_than_ms=40", 1)[0]["recorded"], true);
}

#[test]
fn the_cap_holds_over_all_shards_and_says_what_it_left_out() {
    both(|cores| {
        let origin = Origin::answering(|_| ok("fine"));
        let telemetry = format!("tracing: {{max_spans_per_sec: 40}}, {}", recorded_at("1.0"));
        let proxy = start(&origin, &telemetry, "", cores);
        let began = std::time::Instant::now();
        const REQUESTS: u64 = 400;
        let mut clients: Vec<Wire> = (0..8).map(|_| proxy.connect()).collect();
        for n in 0..REQUESTS as usize {
            send(&mut clients[n % 8], "/", &[]);
        }
        let key = format!("{}/requests", proxy.server(0));
        let metrics = proxy.metrics_when("all are counted", |it| it.get(&key) == REQUESTS);
        let secs = began.elapsed().as_secs_f64();
        let recorded = metrics.get("telemetry/spans_recorded");
        // What a second had saved up, what came in since, and two spans on each shard. At least one
        // shard has had requests.
        let most = 40.0 * (1.0 + secs) + 8.0;
        assert!(recorded >= 10 && (recorded as f64) < most, "{recorded} in {secs} s");
        // As often as a request was not recorded for want of room, and as it was: all of them.
        let capped = metrics.get("telemetry/traces_capped");
        assert_eq!(recorded / 2 + capped, REQUESTS, "{recorded} spans, {capped} traces without");
    });
}

#[test]
fn an_answer_of_ours_is_found_in_the_log_by_the_request_s_id() {
    let origin = Origin::answering(|_| ok("fine"));
    let yaml = config(&[origin.address], "", "")
        .replace("{service: web}", "{path_prefix: /a, service: web}");
    let proxy = Proxy::start(&format!("telemetry: {{{}}}\n{yaml}", recorded_at("1.0")), "0");
    assert_eq!(put(&proxy, "/admin/logging", "text/plain", "ringlane=debug").status(), 200);
    let b3 = format!("b3: {TRACE}-{SPAN}-1");
    let answer = send(&mut proxy.connect(), "/nowhere", &["l5d-reqid: r-17", &b3]);
    assert_eq!((answer.status(), answer.head.reason()), (404, Some("no_route")));
    let found = |ids: &str| {
        let ids = ids.to_owned();
        move |line: &String| line.contains("answered here") && line.contains(&ids)
    };
    let ids = format!("reason=\"no_route\" request_id=r-17 trace_id={TRACE}");
    eventually("it is in the log", || proxy.log().iter().any(found(&ids)));
    send(&mut proxy.connect(), "/nowhere", &[&b3]);
    let ids = format!("request_id={TRACE} trace_id={TRACE}");
    eventually("so is one without an id", || proxy.log().iter().any(found(&ids)));
}

#[test]
fn exemplars_are_of_recorded_requests_alone() {
    let origin = Origin::answering(|_| ok("fine"));
    let proxy = start(&origin, &recorded_at("0.0"), "", "0");
    let mut client = proxy.connect();
    (0..20).for_each(|_| drop(send(&mut client, "/", &[])));
    let traces: HashSet<String> = (0..5)
        .map(|_| {
            send(&mut client, "/", &["l5d-sample: 1"]);
            value(&told(&origin.last_request()), "x-b3-traceid").to_owned()
        })
        .collect();
    let scrape = || {
        let mut admin = Wire::connect(proxy.admin);
        admin.send(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\
             Accept: application/openmetrics-text; version=1.0.0\r\n\r\n",
        );
        admin.answer().text()
    };
    let exemplars = || -> HashSet<String> {
        let text = scrape();
        let ids = text.split("trace_id=\"").skip(1).filter_map(|it| it.split('"').next());
        ids.map(str::to_owned).collect()
    };
    eventually("there are some", || !exemplars().is_empty());
    proxy.metrics_when("all are counted", |it| {
        it.get(&format!("{}/requests", proxy.server(0))) == 25
    });
    let found = exemplars();
    assert!(!found.is_empty() && found.is_subset(&traces), "{found:?} of {traces:?}");
    let text = scrape();
    for family in ["ringlane_server_request_duration", "ringlane_service_request_duration"] {
        let has = |line: &str| line.starts_with(family) && line.contains("# {trace_id=");
        assert!(text.lines().any(has), "{family}");
    }
    let _: Metrics = proxy.metrics();
}
