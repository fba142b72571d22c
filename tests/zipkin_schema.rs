//! Every span passes Zipkin's own schema (openzipkin/zipkin-api): spans of random requests, with
//! everything that may be missing missing at times, and labels of letters from all over the world.
//!
//! Reads `../shared/corpora/zipkin` or `$RINGLANE_CORPORA/zipkin`; where that is missing, nothing
//! is checked, and it says so. The judge knows the keywords that this schema uses, and refuses to
//! judge by one that it does not know. It is stricter in one thing: what the schema does not name
//! is not there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringlane::http::{Field, Method, Peer, Reason, Sampling, Seen, Target};
use ringlane::policy::Rng;
use ringlane::telemetry::exporters::zipkin::{Naming, Told, batch};
use ringlane::telemetry::layout::{
    Layout, NO_ENDPOINT, Occupied, Registry, ServerName, ServiceFacts, Topology,
};
use ringlane::telemetry::record::{Attempt, AttemptEnd, Cause, RequestEnd};
use ringlane::telemetry::trace::{Forms, Hop, Incoming, Said, Span, Spans, Trail};
use serde_json::Value;

const SEED: u64 = 9_411;
const REQUESTS: usize = 2_000;

#[test]
fn every_span_passes_the_schema() {
    let Some(schema) = Schema::read() else { return };
    println!("seed {SEED}");
    let mut rng = Rng::new(SEED);
    let spans = requests(&mut rng);
    let mut wrong = Vec::new();
    let names = [
        Naming::default(),
        Naming { local: "{service}".to_owned(), remote: String::new() },
        Naming { local: "Ring \"{router}\"\n".to_owned(), remote: "\u{0}".to_owned() },
    ];
    let layout = layout();
    for naming in &names {
        let told = Told { layout: &layout, epoch: Duration::from_secs(1_700_000_000), naming };
        let mut out = Vec::new();
        batch(&mut out, &spans, &told);
        let list: Value = serde_json::from_slice(&out).expect("JSON");
        schema.judge("ListOfSpans", &list, &mut wrong);
        assert_eq!(list.as_array().map(Vec::len), Some(spans.len()));
        for span in list.as_array().into_iter().flatten() {
            let name = &span["localEndpoint"]["serviceName"];
            assert!(name.as_str().is_some_and(|name| name == name.to_lowercase()), "{name}");
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
    let clients = spans.iter().filter(|span| span.parent.is_some()).count();
    assert!(spans.len() > REQUESTS && clients > REQUESTS / 2, "there were spans of all kinds");
}

#[test]
fn the_judge_refuses_what_is_wrong() {
    let Some(schema) = Schema::read() else { return };
    let good = r#"{"traceId": "463ac35c9f6413ad", "id": "e457b5a2e4d86bd1", "kind": "SERVER",
        "timestamp": 1, "duration": 1, "localEndpoint": {"serviceName": "a", "ipv4": "1.2.3.4"},
        "annotations": [{"timestamp": 1, "value": "ws"}], "tags": {"a": "b"}}"#;
    let wrong_after = |change: &dyn Fn(&mut Value)| {
        let mut span: Value = serde_json::from_str(good).expect("JSON");
        change(&mut span);
        let mut wrong = Vec::new();
        schema.judge("Span", &span, &mut wrong);
        wrong.len()
    };
    assert_eq!(wrong_after(&|_| {}), 0);
    let set = |key: &'static str, text: &'static str| {
        let value: Value = serde_json::from_str(text).expect("JSON");
        wrong_after(&move |span| span[key] = value.clone())
    };
    assert_eq!(wrong_after(&|span| drop(span.as_object_mut().map(|it| it.remove("id")))), 1);
    for (key, value) in [
        ("traceId", "\"463ac35c9f6413a\""),
        ("traceId", "\"463AC35C9F6413AD\""),
        ("id", "\"e457b5a2e4d86bd1e457b5a2e4d86bd1\""),
        ("parentId", "\"\""),
        ("kind", "\"server\""),
        ("timestamp", "1.5"),
        ("timestamp", "\"1\""),
        ("duration", "0"),
        ("debug", "1"),
        ("localEndpoint", r#"{"ipv4": "::1"}"#),
        ("localEndpoint", r#"{"ipv6": "1.2.3.4"}"#),
        ("localEndpoint", r#"{"port": "80"}"#),
        ("remoteEndpoint", "[]"),
        ("annotations", r#"[{"timestamp": 1}]"#),
        ("annotations", r#"[{"timestamp": 1, "value": "a"}, {"timestamp": 1, "value": "a"}]"#),
        ("tags", r#"{"a": 1}"#),
        ("surplus", "1"),
    ] {
        assert!(set(key, value) > 0, "{key}: {value}");
    }
}

fn layout() -> std::sync::Arc<Layout> {
    let servers = ["0.0.0.0:4140", "[::]:4141", "127.0.0.1:0", "[2001:db8::1]:80"];
    let routers = ["http", "Edge \u{e9}\u{4e16}", "\"quoted\\\"", "\t"];
    let names = ["web", "API v2", "\u{130}stanbul", "a\u{7f}"];
    let servers = routers.iter().zip(servers).map(|(router, address)| ServerName {
        router: (*router).to_owned(),
        address: address.parse().expect("an address"),
    });
    let services = names.iter().map(|name| ServiceFacts {
        name: (*name).to_owned(),
        algorithm: "ewma",
        endpoints: vec!["10.0.0.1:80".to_owned(), "unix:/run/\"x\".sock".to_owned()],
        routers: routers.iter().map(|router| (*router).to_owned()).collect(),
    });
    let topology = Topology { servers: servers.collect(), services: services.collect() };
    let mut registry = Registry::new(1, Duration::from_secs(600));
    registry.apply(&topology, Instant::now(), &Occupied::default())
}

fn requests(rng: &mut Rng) -> Vec<Span> {
    let mut spans = Spans::new(REQUESTS * 6);
    for _ in 0..REQUESTS {
        one_request(rng, &mut spans);
    }
    let (list, dropped) = spans.take(Vec::new());
    assert_eq!(dropped, 0);
    list
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.below(all.len())]
}

fn hop(rng: &mut Rng) -> Hop {
    let (high, low, span) = (rng.next_u64(), rng.next_u64(), rng.next_u64());
    let value = match rng.below(5) {
        0 => String::new(),
        1 => format!("{low:016x}-{span:016x}-1"),
        2 => format!("{high:016x}{low:016x}-{span:016x}"),
        3 => format!("{:032x}-{span:016x}-d", low >> rng.below(64)),
        _ => "d".to_owned(),
    };
    let fields = [Field::new(b"b3", value.as_bytes())];
    let mut seen = Seen::default();
    seen.add(fields[0].kind);
    let incoming = Incoming::read(&fields, seen);
    let mut hop = Hop::begin(&incoming, Forms::DEFAULT, || rng.next_u64());
    hop.decided(incoming.sampling.unwrap_or(Sampling::Yes), true);
    hop
}

fn one_request(rng: &mut Rng, spans: &mut Spans) {
    let hop = hop(rng);
    let mut now = Duration::from_nanos(rng.next_u64() >> 20);
    let method = one_of(rng, &["GET", "POST", "M-SEARCH", "G\"T", "UPDATEREDIRECTREFERENCES"]);
    let path: String =
        (0..rng.below(300)).map(|_| char::from(b'!' + rng.below(93) as u8)).collect();
    let text = one_of(rng, &["/", "/a?b", "http://h/x", "http://h", "/..%00/{}|"]).to_owned();
    let text = if text.starts_with("/.") { text + &path.replace('#', "") } else { text };
    let target = Target::parse(text.as_bytes(), Method::Get).expect("a target");
    let ip = one_of(rng, &[None, Some("10.1.2.3"), Some("::1"), Some("::ffff:1.2.3.4")]);
    let port = one_of(rng, &[0, 1, 65_535]);
    let peer = Peer { ip: ip.map(|ip| ip.parse().expect("an address")), port };
    let server = one_of(rng, &[0, 1, 2, 3, 99]);
    let method = method.as_bytes();
    let request_id = if rng.below(2) == 0 { &b""[..] } else { b"a-1 \xff" };
    let said = Said { server, peer, method, target: &target, request_id };
    let mut trail = Trail::begin(hop, now, &said);
    if rng.below(10) > 0 {
        trail.routed(rng.below(18) as u32);
    }
    let attempts = rng.below(5) as u32;
    for nth in 0..attempts {
        let kind = if nth == 0 {
            Attempt::First
        } else {
            one_of(rng, &[Attempt::Requeue, Attempt::Retry])
        };
        let endpoint = one_of(rng, &[0, 1, 2, 3, 30, NO_ENDPOINT]);
        let address = one_of(rng, &[None, Some("10.0.0.1:80"), Some("[2001:db8::2]:8080")]);
        let address = address.map(|address| address.parse().expect("an address"));
        trail.attempt_begun(endpoint, address, kind, now);
        now += Duration::from_nanos(rng.below(3_000_000) as u64);
        match rng.below(3) {
            0 => trail.pooled(),
            1 => trail.connected(now),
            _ => {}
        }
        if rng.below(3) > 0 {
            trail.answered(now);
        }
        if rng.below(8) > 0 {
            trail.attempt_ended(now, &attempt_end(rng));
        }
    }
    let end = RequestEnd {
        status: one_of(rng, &[200, 404, 499, 502, 999]),
        failure: failure(rng),
        latency: Duration::ZERO,
        proxy_latency: Duration::ZERO,
        request_bytes: rng.next_u64() >> rng.below(64),
        response_bytes: rng.next_u64(),
        retries: attempts,
        attempts,
    };
    trail.ended(now, &end, spans);
}

fn attempt_end(rng: &mut Rng) -> AttemptEnd {
    AttemptEnd {
        status: one_of(rng, &[None, Some(100), Some(200), Some(503)]),
        failure: failure(rng),
        latency: Duration::ZERO,
        request_bytes: rng.next_u64() >> rng.below(64),
        response_bytes: rng.below(1_000) as u64,
    }
}

fn failure(rng: &mut Rng) -> Option<Cause> {
    match rng.below(3) {
        0 => None,
        1 => Some(Cause::UpstreamStatus),
        _ => Some(Cause::Reason(one_of(rng, &Reason::ALL))),
    }
}

/// The definitions of an OpenAPI 2 description, which are JSON schemas.
struct Schema {
    definitions: Value,
}

impl Schema {
    fn read() -> Option<Schema> {
        let folder = std::env::var_os("RINGLANE_CORPORA").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora"),
            PathBuf::from,
        );
        let file = folder.join("zipkin/zipkin2-api.yaml");
        let Ok(text) = std::fs::read_to_string(&file) else {
            println!("left out: {} is not here", file.display());
            return None;
        };
        let mut api: Value = serde_yaml::from_str(&text).expect("YAML");
        Some(Schema { definitions: api["definitions"].take() })
    }

    fn judge(&self, definition: &str, value: &Value, wrong: &mut Vec<String>) {
        let schema = &self.definitions[definition];
        assert!(schema.is_object(), "{definition} is not defined");
        self.check(schema, value, definition, wrong);
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        for (keyword, rule) in schema.as_object().expect("a schema") {
            let passes = match keyword.as_str() {
                "title" | "description" | "example" => true,
                "$ref" => {
                    let name = text(rule).strip_prefix("#/definitions/").expect("a definition");
                    self.judge(name, value, wrong);
                    true
                }
                "properties" => {
                    self.check_properties(rule, value, at, wrong);
                    true
                }
                "additionalProperties" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        self.check(rule, value, &format!("{at}.{key}"), wrong);
                    }
                    true
                }
                "items" => {
                    for value in value.as_array().into_iter().flatten() {
                        self.check(rule, value, at, wrong);
                    }
                    true
                }
                "required" => {
                    let names = rule.as_array().expect("names");
                    names.iter().all(|name| value.get(text(name)).is_some())
                }
                _ => passes(keyword, rule, value),
            };
            if !passes {
                wrong.push(format!("{at}: {value} is not of {keyword}: {rule}"));
            }
        }
    }

    fn check_properties(&self, rules: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            match rules.get(key) {
                Some(rule) => self.check(rule, value, &format!("{at}.{key}"), wrong),
                None => wrong.push(format!("{at}.{key}: the schema does not know it")),
            }
        }
    }
}

/// Of keywords that look at one value. Those of text pass what is no text, as in JSON Schema.
fn passes(keyword: &str, rule: &Value, value: &Value) -> bool {
    let of_text = |judge: &dyn Fn(&str) -> bool| value.as_str().is_none_or(judge);
    let bound = || rule.as_u64().expect("a number") as usize;
    match keyword {
        "type" => match text(rule) {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            other => panic!("no such type: {other}"),
        },
        "enum" => rule.as_array().expect("values").contains(value),
        "minLength" => of_text(&|text| text.chars().count() >= bound()),
        "maxLength" => of_text(&|text| text.chars().count() <= bound()),
        "minimum" => value.as_u64().is_none_or(|number| number >= bound() as u64),
        "pattern" => of_text(&|it| is_of_pattern(text(rule), it)),
        "uniqueItems" => {
            let all = value.as_array().into_iter().flatten();
            let items: Vec<String> = all.map(Value::to_string).collect();
            items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))
        }
        "format" => match text(rule) {
            "ipv4" => of_text(&|text| text.parse::<std::net::Ipv4Addr>().is_ok()),
            "ipv6" => of_text(&|text| text.parse::<std::net::Ipv6Addr>().is_ok()),
            // OpenAPI's: it fits into 64 bits with a sign.
            "int64" => value.is_i64(),
            other => panic!("no such format: {other}"),
        },
        other => panic!("no such keyword: {other}"),
    }
}

/// `[a-f0-9]{least,most}`, which is all that the schema has; of the whole text, as is meant.
fn is_of_pattern(pattern: &str, text: &str) -> bool {
    let counts = pattern.strip_prefix("[a-f0-9]{").and_then(|rest| rest.strip_suffix('}'));
    let counts = counts.unwrap_or_else(|| panic!("no such pattern: {pattern}"));
    let (least, most) = counts.split_once(',').unwrap_or((counts, counts));
    let number = |count: &str| count.parse::<usize>().expect("a number");
    (number(least)..=number(most)).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'f' | b'0'..=b'9'))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}
