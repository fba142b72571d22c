//! What one request costs in the codec: heads parsed and rewritten both ways, chunks taken off. And
//! what bounds each of them.
//!
//! Pure code on bytes in memory: `cargo bench --bench codec`. What the kernel adds is measured by
//! `proxybench` alone, side by side with the peers.

mod common;

use std::hint::black_box;
use std::mem::MaybeUninit;

use common::bounds::{Timed, report, timed, timed_on_copies};
use common::heads::{
    BROWSER_REQUEST, CHUNKED_BYTES, RESPONSE, SMALL_REQUEST, chunked, parse_request,
    parse_response, peer, request, response, rules,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringlane::http::{Framing, Version};
use ringlane::http1::{BodyDecoder, MAX_FIELDS, ResponseContext, encode, outgoing_framing};

const REQUESTS: [(&str, &[u8]); 2] =
    [("request, small", SMALL_REQUEST), ("request, browser", BROWSER_REQUEST)];

/// The nearest bound is httparse, which judges every byte. What lies beyond it: a scan for the end
/// that holds the limits, each field looked up by name, and what it says checked. Nothing can be
/// quicker than a look at every byte.
fn heads(criterion: &mut Criterion) {
    const GROUP: &str = "head parse";
    let mut group = criterion.benchmark_group(GROUP);
    for (name, bytes) in REQUESTS {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| parse_request(bytes)));
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response", |bencher| bencher.iter(|| parse_response(RESPONSE)));
    group.finish();
    for (name, bytes) in REQUESTS {
        let httparse = timed("httparse alone", move || {
            let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            let mut request = httparse::Request::new(&mut []);
            let parsed = request.parse_with_uninit_headers(black_box(bytes), &mut fields);
            (parsed.expect("valid"), black_box(&request).headers.len())
        });
        let work = timed("", || parse_request(bytes));
        report(GROUP, name, work, vec![httparse, line_ends(bytes)]);
    }
    let httparse = timed("httparse alone", || {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let bytes = black_box(RESPONSE);
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
        (parsed.expect("valid"), black_box(&response).headers.len())
    });
    let work = timed("", || parse_response(RESPONSE));
    report(GROUP, "response", work, vec![httparse, line_ends(RESPONSE)]);
}

fn line_ends(bytes: &[u8]) -> Timed<'_> {
    timed("its line ends by memchr", || memchr::memchr_iter(b'\n', black_box(bytes)).count())
}

/// The nearest bound is copying each line, since lines that stay behind and lines that are added
/// lie between. Beyond it each field is looked at, and copied in four pieces.
fn rewrites(criterion: &mut Criterion) {
    const GROUP: &str = "rewrite";
    let (rules, peer) = (rules(), peer());
    let mut out = Vec::with_capacity(4096);
    let mut group = criterion.benchmark_group(GROUP);
    let rewrite_request = |request, out: &mut Vec<u8>| {
        out.clear();
        encode::request(out, black_box(request), &rules, &peer, false);
        encode::end(out);
        black_box(out.len())
    };
    let requests = REQUESTS.map(|(name, bytes)| (name, request(bytes)));
    for (name, request) in &requests {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| rewrite_request(request, &mut out));
        });
    }
    let response = response(RESPONSE);
    let (framing, close) = outgoing_framing(response.facts.framing, Version::Http11);
    let context =
        ResponseContext { client_version: Version::Http11, close, rules: &rules, date: None };
    let rewrite_response = |out: &mut Vec<u8>| {
        out.clear();
        encode::response(out, black_box(&response), framing, &context);
        encode::end(out);
        black_box(out.len())
    };
    group.bench_function("response", |bencher| bencher.iter(|| rewrite_response(&mut out)));
    group.finish();
    for (name, request) in &requests {
        rewrite_request(request, &mut out);
        let written = out.clone();
        let work = timed("", || rewrite_request(request, &mut out));
        report(GROUP, name, work, copies(&written));
    }
    rewrite_response(&mut out);
    let written = out.clone();
    report(GROUP, "response", timed("", || rewrite_response(&mut out)), copies(&written));
}

/// Of what was written.
fn copies(written: &[u8]) -> Vec<Timed<'_>> {
    let lines: Vec<&[u8]> = written.split_inclusive(|&byte| byte == b'\n').collect();
    let (mut by_lines, mut whole) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
    let by_lines = timed(format!("copying its {} lines", lines.len()), move || {
        by_lines.clear();
        black_box(&lines).iter().for_each(|line| by_lines.extend_from_slice(line));
        black_box(&by_lines).len()
    });
    let whole = timed(format!("one copy of its {} bytes", written.len()), move || {
        whole.clear();
        whole.extend_from_slice(black_box(written));
        black_box(&whole).len()
    });
    vec![by_lines, whole]
}

/// Large chunks are bound by moving payload, and one that is whole stays where it is. Small ones
/// are bound by their framing, six bytes to 64, each of which is a step of the decoder that a body
/// may be cut off behind.
fn chunks(criterion: &mut Criterion) {
    const GROUP: &str = "chunk decode, 64 KiB";
    // No throughput: a chunk that is whole is not touched, and its bytes would be counted.
    let mut group = criterion.benchmark_group(GROUP);
    let bodies = [64, 4 << 10, CHUNKED_BYTES].map(|chunk_bytes| {
        (format!("in chunks of {chunk_bytes}"), chunk_bytes, chunked(chunk_bytes))
    });
    for (name, _, bytes) in &bodies {
        group.bench_function(name, |bencher| {
            let decode = |mut bytes: Vec<u8>| {
                decode(&mut bytes);
                // Given back, so that freeing it is not measured.
                bytes
            };
            bencher.iter_batched(|| bytes.clone(), decode, BatchSize::SmallInput);
        });
    }
    group.finish();
    for (name, chunk_bytes, bytes) in &bodies {
        let mut bounds = vec![timed_on_copies("believing its framing", bytes, decode_believing)];
        let framing = format!("{chunk_bytes:x}\r\n\r\n").len();
        let moved = 1..CHUNKED_BYTES / chunk_bytes;
        if !moved.is_empty() {
            bounds.push(timed_on_copies("moving its payload", bytes, move |bytes| {
                for at in moved.clone() {
                    let from = at * (chunk_bytes + framing);
                    bytes.copy_within(from..from + chunk_bytes, at * chunk_bytes);
                }
            }));
        }
        report(GROUP, name, timed_on_copies("", bytes, decode), bounds);
    }
}

fn decode(bytes: &mut [u8]) {
    let mut decoder = BodyDecoder::new(Framing::Chunked, None);
    let decoded = decoder.decode_in_place(bytes).expect("valid");
    assert!(decoded.ended);
}

/// The least that finds chunks: digits up to the end of a line, with nothing checked.
fn decode_believing(bytes: &mut [u8]) -> std::ops::Range<usize> {
    let (mut from, mut data) = (0, 0..0);
    loop {
        let mut size = 0;
        while bytes[from] != b'\r' {
            let digit = bytes[from];
            let value = if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
            size = size << 4 | usize::from(value);
            from += 1;
        }
        from += 2;
        match size {
            0 => return data,
            _ if data.is_empty() => data = from..from + size,
            _ => {
                bytes.copy_within(from..from + size, data.end);
                data.end += size;
            }
        }
        from += size + 2;
    }
}

criterion_group!(codec, heads, rewrites, chunks);
criterion_main!(codec);
