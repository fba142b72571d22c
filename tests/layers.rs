//! Holds the shape of the house: who may import whom (the diagram in lib.rs, DESIGN section 2), one
//! home for each external crate, `unsafe` in `src/ring/` alone with its reason, and files that a
//! stranger can read (header, length of lines, functions and files, no loose ends).
//!
//! Source is read as tokens, so that words in comments and strings do not count. Knows nothing of
//! macros: a path that only a macro makes is not seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINE_CHARS: usize = 100;
const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 80;

/// What each top module may import of the crate. A row names only rows above it: no cycles.
const LAYERS: [(&str, &[&str]); 12] = [
    ("http", &[]),
    ("ring", &[]),
    ("config", &[]),
    ("control", &["config"]),
    ("demo", &[]),
    ("http1", &["http"]),
    ("policy", &["http"]),
    ("telemetry", &["http", "config", "control"]),
    ("shard", &["ring", "http1", "http", "policy", "telemetry", "config", "control"]),
    ("admin", &["telemetry", "policy", "config", "control"]),
    ("supervisor", &["shard", "admin", "telemetry", "config", "control", "ring"]),
    // Not `shard`: starting one is the supervisor's business.
    ("main", &["supervisor", "admin", "telemetry", "demo", "config", "control", "ring"]),
];

/// Where each external crate may be named.
const HOMES: [(&str, &[&str]); 48] = [
    ("glommio", &["ring", "shard", "supervisor"]),
    ("io_uring", &["ring"]),
    ("libc", &["ring", "shard"]),
    ("socket2", &["ring", "shard", "supervisor", "demo"]),
    ("httparse", &["http1"]),
    ("httpdate", &["shard"]),
    ("memchr", &["http", "http1", "policy"]),
    ("crossbeam_channel", &["ring", "shard", "supervisor", "telemetry"]),
    ("hdrhistogram", &["telemetry"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("prost", &["telemetry"]),
    ("cadence", &["telemetry"]),
    ("procfs", &["telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_http", &["telemetry"]),
    ("opentelemetry_zipkin", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("async_trait", &["telemetry"]),
    ("hyper", &["admin"]),
    ("hyper_util", &["admin", "telemetry"]),
    ("http_body_util", &["telemetry"]),
    ("hyper_rustls", &["telemetry"]),
    ("rustls", &["telemetry"]),
    ("tikv_jemallocator", &["main"]),
    ("tikv_jemalloc_ctl", &["telemetry"]),
    ("serde", &["config", "admin"]),
    ("serde_yaml", &["config"]),
    ("saphyr_parser", &["config"]),
    ("serde_path_to_error", &["config"]),
    ("clap", &["main"]),
    ("tracing", &["shard", "supervisor", "admin", "telemetry", "demo"]),
    ("tracing_subscriber", &["main"]),
    ("axum", &["admin", "telemetry", "supervisor", "demo"]),
    ("tokio", &["admin", "telemetry", "supervisor", "demo"]),
    ("http_body", &["demo"]),
    ("serde_json", &["admin", "telemetry"]),
    ("itoa", &["telemetry"]),
    ("bytes", &["telemetry"]),
    ("flate2", &["telemetry"]),
    ("tower_http", &["admin"]),
    ("subtle", &["admin"]),
    ("hickory_resolver", &["supervisor"]),
    ("notify", &["supervisor"]),
    ("rustix", &["supervisor"]),
    ("nix", &["config", "supervisor"]),
    ("signal_hook", &["supervisor"]),
];

struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

#[test]
fn modules_import_only_what_is_below_them() {
    for (row, (module, below)) in LAYERS.iter().enumerate() {
        let above = below.iter().find(|name| !LAYERS[..row].iter().any(|(seen, _)| seen == *name));
        assert_eq!(above, None, "{module} may import only what stands above its row");
    }
    let allowed: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in sources(&["src"]) {
        let module = top_module(&source.path);
        if module == "lib" {
            continue;
        }
        let below = allowed.get(module).unwrap_or_else(|| panic!("{module} has no row in LAYERS"));
        for (imported, line) in imports(&source) {
            seen += 1;
            if imported != module && !below.contains(&imported.as_str()) {
                wrong.push(format!("{}:{line}: {module} imports {imported}", source.path));
            }
        }
    }
    assert!(seen > 50, "only {seen} imports were found: the reader of this test is broken");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_external_crate_has_one_home() {
    let homes: BTreeMap<_, _> = HOMES.into_iter().collect();
    let dependencies = dependencies();
    let listed: Vec<String> = homes.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(dependencies, listed, "HOMES and [dependencies] differ");
    let mut wrong = Vec::new();
    for source in sources(&["src"]) {
        let module = top_module(&source.path);
        for (at, token) in source.tokens.iter().enumerate() {
            let Some(home) = homes.get(token.text.as_str()) else {
                continue;
            };
            if is_path_start(&source.tokens, at) && !home.contains(&module) {
                wrong
                    .push(format!("{}:{}: {} is not at home", source.path, token.line, token.text));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_in_the_ring_alone_and_says_why() {
    let mut wrong = Vec::new();
    let mut blocks = 0;
    for source in sources(&["src", "loadtest", "tests", "benches"]) {
        for token in source.tokens.iter().filter(|token| token.text == "unsafe") {
            let place = format!("{}:{}", source.path, token.line);
            if !source.path.starts_with("src/ring/") {
                wrong.push(format!("{place}: unsafe outside src/ring"));
            } else if !has_reason(&source.text, token.line) {
                wrong.push(format!("{place}: no `// SAFETY:` line above"));
            }
            blocks += 1;
        }
    }
    assert!(blocks > 0, "no unsafe was found: the reader of this test is broken");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_are_readable() {
    let loose_ends = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut wrong = Vec::new();
    for source in sources(&["src", "loadtest", "tests", "benches"]) {
        let path = &source.path;
        if !source.text.starts_with("//!") {
            wrong.push(format!("{path}: does not begin with `//!`"));
        }
        let lines = source.text.lines().count();
        if lines > MAX_FILE_LINES {
            wrong.push(format!("{path}: {lines} lines"));
        }
        for (number, line) in (1..).zip(source.text.lines()) {
            let chars = line.chars().count();
            if chars > MAX_LINE_CHARS {
                wrong.push(format!("{path}:{number}: {chars} characters"));
            }
            if loose_ends.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{path}:{number}: a loose end: {}", line.trim()));
            }
        }
        for (name, line, lines) in functions(&source.tokens) {
            if lines > MAX_FUNCTION_LINES {
                wrong.push(format!("{path}:{line}: fn {name} has {lines} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_this_test_reads_with_can_read() {
    let text = r##"
        use crate::http::{Field, target::Target}; // crate::no
        mod inner {
            use super::super::ring; /* crate::no /* nested */ */
            use super::own;
            fn f<'a>(c: char) -> &'a str { if c == '"' { "crate::no" } else { r#"" crate::no"# } }
        }
        use crate::{policy::Rng, shard as other};
        fn g() { let path = crate::config::Host::detect(); path }
    "##;
    let source = Source { path: "src/one.rs".into(), text: text.into(), tokens: tokens(text) };
    let found: Vec<String> = imports(&source).into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["http", "ring", "one", "policy", "shard", "config"]);
    let names: Vec<_> = functions(&source.tokens).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["f", "g"]);
}

#[test]
fn a_reason_stands_right_above_what_it_is_for() {
    for (above, has) in [
        ("// SAFETY: ours.\n", true),
        ("// SAFETY: ours,\n// and nobody else's.\n", true),
        ("// SAFETY: ours.\nlet a =\n", true),
        ("", false),
        ("// It is ours.\n", false),
        ("// SAFETY: ours.\nlet a = 1;\n", false),
        ("// SAFETY: ours.\nunsafe { b() };\n", false),
        ("// SAFETY: ours.\n\n", false),
    ] {
        let text = format!("fn a() {{\n{above}unsafe {{ c() }}\n}}\n");
        let line = text.lines().count() - 1;
        assert_eq!(has_reason(&text, line), has, "{text}");
    }
}

/// The top modules of this crate that a source names, with lines. `one` for itself.
fn imports(source: &Source) -> Vec<(String, usize)> {
    let tokens = &source.tokens;
    let home: Vec<String> = module_path(&source.path);
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|(_, opened)| *opened < depth + 1);
            }
            "mod" if text(tokens, at + 2) == "{" => {
                inline.push((text(tokens, at + 1).to_owned(), depth + 1));
            }
            "crate" | "ringlane" if is_path_start(tokens, at) => {
                found.extend(first_names(tokens, at + 2));
            }
            "super" | "self" if is_path_start(tokens, at) => {
                let mut path = home.clone();
                path.extend(inline.iter().map(|(name, _)| name.clone()));
                let mut next = at;
                while ["super", "self"].contains(&text(tokens, next))
                    && text(tokens, next + 1) == "::"
                {
                    if text(tokens, next) == "super" {
                        path.pop();
                    }
                    next += 2;
                }
                match path.first() {
                    Some(top) => found.push((top.clone(), token.line)),
                    None => found.extend(first_names(tokens, next)),
                }
            }
            _ => {}
        }
    }
    found
}

/// What stands first in a path, or in each path of a group: `a`, or `{a::b, c}`.
fn first_names(tokens: &[Token], at: usize) -> Vec<(String, usize)> {
    if text(tokens, at) != "{" {
        return tokens.get(at).map(|token| (token.text.clone(), token.line)).into_iter().collect();
    }
    let mut names = Vec::new();
    let mut depth = 0;
    for pair in tokens[at..].windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && ["{", ","].contains(&pair[0].text.as_str()) && pair[1].text != "}" {
            names.push((pair[1].text.clone(), pair[1].line));
        }
    }
    names
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

/// A name that begins a path, or is all of it in a `use`; not a field, nor the middle of a path.
fn is_path_start(tokens: &[Token], at: usize) -> bool {
    let before = if at == 0 { "" } else { text(tokens, at - 1) };
    let alone = before == "use" && [";", "as"].contains(&text(tokens, at + 1));
    ![".", "::"].contains(&before) && (alone || text(tokens, at + 1) == "::")
}

/// Name, line and length in lines of every function with a body.
fn functions(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "fn") {
        if text(tokens, at + 1) == "(" {
            continue;
        }
        let mut depth = 0;
        // An array's length in the signature, `[u8; 2]`, is no end of a declaration.
        let mut brackets = 0;
        for end in &tokens[at..] {
            match end.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "[" => brackets += 1,
                "]" => brackets -= 1,
                ";" if depth == 0 && brackets == 0 => break,
                _ => continue,
            }
            if depth == 0 && end.text == "}" {
                let lines = end.line - token.line + 1;
                found.push((text(tokens, at + 1).to_owned(), token.line, lines));
                break;
            }
        }
    }
    found
}

/// Whether the comment right above the statement on a line says `SAFETY:`, or for a function, what
/// its callers have to see to.
fn has_reason(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut above = lines[..line - 1].iter().rev().peekable();
    // The statement may have begun on a line before.
    let goes_on = |line: &str| !line.is_empty() && !line.ends_with([';', '{', '}']);
    while above.next_if(|line| !line.starts_with("//") && goes_on(line)).is_some() {}
    let says = |line: &&str| line.starts_with("// SAFETY:") || *line == "/// # Safety";
    above.take_while(|line| line.starts_with("//")).any(says)
}

/// `src/http/field.rs` is `["http", "field"]`; `field_tests.rs` beside it is a module in that.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod").replace("_tests", "/tests");
    path.split('/').map(str::to_owned).collect()
}

fn top_module(path: &str) -> &str {
    let path = path.trim_start_matches("src/");
    path.split_once('/').map_or(path.trim_end_matches(".rs"), |(top, _)| top)
}

/// The names in `[dependencies]`, as code has them, sorted.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("[dependencies]");
    let section = section.split("\n[").next().unwrap_or(section);
    let entries = section.lines().filter(|line| !line.starts_with('#'));
    let names = entries.filter_map(|line| line.split_once(" = "));
    let mut names: Vec<String> = names.map(|(name, _)| name.replace('-', "_")).collect();
    names.sort();
    names
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut paths);
    }
    assert!(!paths.is_empty(), "no source in {folders:?}");
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let path = path.strip_prefix(root()).expect("under the root").display().to_string();
        Source { tokens: tokens(&text), path, text }
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Words, `::` and single signs; comments and literals are left out.
fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let literal = literal_bytes(rest);
        let taken = if literal > 0 {
            literal
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if literal == 0 && !first.is_whitespace() {
            found.push(Token { text: rest[..taken].to_owned(), line });
        }
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    found
}

/// The length of the comment, string or character that `rest` begins with; 0 for none.
fn literal_bytes(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_bytes(rest);
    }
    let prefix = rest.find(|c| !"bcr".contains(c)).filter(|at| *at <= 2).unwrap_or(0);
    let after = &rest[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if rest[..prefix].contains('r') && after[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        return rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len());
    }
    match after.chars().next() {
        Some('"') => prefix + quoted_bytes(after, '"'),
        // A lifetime has no closing quote after its first character.
        Some('\'') if after.starts_with("'\\") || after.chars().nth(2) == Some('\'') => {
            prefix + quoted_bytes(after, '\'')
        }
        _ => 0,
    }
}

fn quoted_bytes(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn block_comment_bytes(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let step = if text[at..].starts_with("/*") {
            depth += 1;
            2
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            2
        } else {
            text[at..].chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}
