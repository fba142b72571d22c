//! What one request costs in the codec: heads parsed and rewritten both ways, chunks taken off.
//!
//! Pure code on bytes in memory: `cargo bench --bench codec`. What the kernel adds is measured by
//! `proxybench` alone, side by side with the peers.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringlane::http::{ForwardRules, Framing, Method, Mode, Peer, PeerText, Version};
use ringlane::http1::{
    BodyDecoder, FieldStorage, RequestParser, ResponseContext, ResponseParser, encode,
    outgoing_framing,
};

/// As load generators send it.
const SMALL_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:4140\r\n\r\n";

/// As a browser sends it.
const BROWSER_REQUEST: &[u8] = b"GET /articles/2024/05/index.html?page=3&sort=date HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Referer: https://www.example.com/articles/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
    Cache-Control: max-age=0\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: origin/1.0\r\n\
    Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 128\r\n\
    Connection: keep-alive\r\n\
    ETag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\n\
    Cache-Control: public, max-age=3600\r\n\
    Vary: Accept-Encoding\r\n\r\n";

/// One read of a body that streams.
const CHUNKED_BYTES: usize = 64 << 10;

fn rules() -> ForwardRules {
    ForwardRules { via: Some("ringlane".into()), x_forwarded: Mode::Append, forwarded: Mode::Off }
}

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head parse");
    for (name, bytes) in [("request, small", SMALL_REQUEST), ("request, browser", BROWSER_REQUEST)]
    {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut storage = FieldStorage::new();
                let parsed = RequestParser::default().parse(black_box(bytes), &mut storage);
                black_box(parsed.expect("valid").expect("whole").1)
            });
        });
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response", |bencher| {
        bencher.iter(|| {
            let mut storage = FieldStorage::new();
            let mut parser = ResponseParser::default();
            let parsed = parser.parse(black_box(RESPONSE), &mut storage, Method::Get);
            black_box(parsed.expect("valid").expect("whole").1)
        });
    });
    group.finish();
}

fn rewrites(criterion: &mut Criterion) {
    let (rules, mut out) = (rules(), Vec::with_capacity(4096));
    let peer = PeerText::new(Peer { ip: "192.0.2.7".parse().ok(), port: 50_123 });
    let mut group = criterion.benchmark_group("rewrite");
    for (name, bytes) in [("request, small", SMALL_REQUEST), ("request, browser", BROWSER_REQUEST)]
    {
        let mut storage = FieldStorage::new();
        let parsed = RequestParser::default().parse(bytes, &mut storage);
        let (request, _) = parsed.expect("valid").expect("whole");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encode::request(&mut out, black_box(&request), &rules, &peer, false);
                encode::end(&mut out);
                black_box(out.len())
            });
        });
    }
    let mut storage = FieldStorage::new();
    let parsed = ResponseParser::default().parse(RESPONSE, &mut storage, Method::Get);
    let (response, _) = parsed.expect("valid").expect("whole");
    let (framing, close) = outgoing_framing(response.facts.framing, Version::Http11);
    let context = ResponseContext { client_version: Version::Http11, close, rules: &rules };
    group.bench_function("response", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode::response(&mut out, black_box(&response), framing, &context);
            encode::end(&mut out);
            black_box(out.len())
        });
    });
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    // No throughput: a chunk that is whole is not touched, and its bytes would be counted.
    let mut group = criterion.benchmark_group("chunk decode, 64 KiB");
    for chunk_bytes in [64, 4 << 10, CHUNKED_BYTES] {
        let bytes = chunked(chunk_bytes);
        group.bench_function(format!("in chunks of {chunk_bytes}"), |bencher| {
            let decode = |mut bytes: Vec<u8>| {
                let mut decoder = BodyDecoder::new(Framing::Chunked, None);
                let decoded = decoder.decode_in_place(&mut bytes).expect("valid");
                assert!(decoded.ended);
                // Given back, so that freeing it is not measured.
                bytes
            };
            bencher.iter_batched(|| bytes.clone(), decode, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn chunked(chunk_bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..CHUNKED_BYTES / chunk_bytes {
        body.extend_from_slice(format!("{chunk_bytes:x}\r\n").as_bytes());
        body.resize(body.len() + chunk_bytes, b'a');
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

criterion_group!(codec, heads, rewrites, chunks);
criterion_main!(codec);
