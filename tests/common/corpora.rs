//! What tests over a corpus have in common: where it lies, how text says bytes, and in which
//! pieces bytes come.

#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};

use super::common::Rng;

/// What is longer than this is not split everywhere, but at places that are drawn.
pub const SPLIT_EVERYWHERE_BYTES: usize = 4 << 10;
pub const DRAWN_SPLITS: usize = 64;

/// A corpus that this project does not contain: `../shared/corpora` or `$RINGLANE_CORPORA`. Where
/// it is missing a line says so.
pub fn folder(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("RINGLANE_CORPORA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora"),
        PathBuf::from,
    );
    let folder = folder.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("left out: {} is not here", folder.display());
    None
}

/// What lies in a folder, in order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// `\r`, `\n`, `\t`, `\f`, `\xHH` and `\ooo` are the bytes that they say.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (made, used) = match (byte, tail) {
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'f', ..]) => (0x0C, 2),
            (b'\\', [b'x', a, b, ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                (number(&[*a, *b], 16), 4)
            }
            (b'\\', [b'0'..=b'7', ..]) => {
                let digits = tail.iter().take(3).take_while(|it| (b'0'..=b'7').contains(it));
                let len = digits.count();
                (number(&tail[..len], 8), 1 + len)
            }
            _ => (*byte, 1),
        };
        out.push(made);
        rest = &rest[used..];
    }
    out
}

fn number(digits: &[u8], radix: u32) -> u8 {
    let digits = std::str::from_utf8(digits).expect("digits");
    u8::from_str_radix(digits, radix).expect("a byte")
}

/// The bytes byte by byte, and split in two everywhere or, where they are many, at drawn places.
/// Shows each way to `judge` with words for it; how many there were.
pub fn splits(
    bytes: &[u8],
    rng: &mut Rng,
    mut judge: impl FnMut(&[&[u8]], &str) -> Result<(), String>,
) -> Result<usize, String> {
    let singles: Vec<&[u8]> = bytes.chunks(1).collect();
    judge(&singles, "byte by byte")?;
    let all = bytes.len() <= SPLIT_EVERYWHERE_BYTES;
    let count = if all { bytes.len().saturating_sub(1) } else { DRAWN_SPLITS };
    for drawn in 1..=count {
        let at = if all { drawn } else { rng.up_to(bytes.len() as u64 - 1) as usize };
        judge(&[&bytes[..at], &bytes[at..]], &format!("split at {at}"))?;
    }
    Ok(1 + count)
}
