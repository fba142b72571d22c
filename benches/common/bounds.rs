//! What a piece of work costs beside the least that it could, in a line that says what that is.
//!
//! Work and bounds run in turn, a batch of each per round, so that whoever else is on the machine
//! slows all of them down; told are the medians, and that of the ratios within each round. Nothing
//! is asserted: a ratio is a figure to think about, and counts of instructions (`instructions`) are
//! what fails. A bound does less than is needed, on purpose: what lies between is what the work
//! does beyond it.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Long beside reading the clock (25 ns), short beside a slice of the scheduler.
const BATCH: Duration = Duration::from_micros(500);
const MOST_ROUNDS: usize = 200;
/// Of work that takes long: a median of fewer says nothing.
const LEAST_ROUNDS: usize = 7;
const ENOUGH: Duration = Duration::from_millis(400);

/// What takes longer than so many times its bound is bound by something else: what it does itself.
const NEAR: f64 = 2.0;

/// Something that can be done any number of times, and what that took.
pub struct Timed<'a> {
    what: String,
    batch: Box<dyn FnMut(u32) -> Duration + 'a>,
}

pub fn timed<'a, R>(what: impl Into<String>, mut run: impl FnMut() -> R + 'a) -> Timed<'a> {
    let batch = move |times| {
        let begun = Instant::now();
        for _ in 0..times {
            black_box(run());
        }
        begun.elapsed()
    };
    Timed { what: what.into(), batch: Box::new(batch) }
}

/// Work that overwrites the bytes it is given. Few copies, so that they stay in the second level
/// of a cache; making them anew is not timed.
pub fn timed_on_copies<'a, R>(
    what: impl Into<String>,
    bytes: &'a [u8],
    mut run: impl FnMut(&mut [u8]) -> R + 'a,
) -> Timed<'a> {
    const COPIES: usize = 4;
    let mut copies: [Vec<u8>; COPIES] = std::array::from_fn(|_| bytes.to_vec());
    let batch = move |times| {
        let mut took = Duration::ZERO;
        let mut left = times as usize;
        while left > 0 {
            let these = &mut copies[..left.min(COPIES)];
            these.iter_mut().for_each(|copy| copy.copy_from_slice(bytes));
            left -= these.len();
            let begun = Instant::now();
            for copy in these {
                black_box(run(black_box(copy)));
            }
            took += begun.elapsed();
        }
        took
    };
    Timed { what: what.into(), batch: Box::new(batch) }
}

/// Prints what the work costs and how many times its bounds that is; the nearest bound is first.
/// `group` and `item` are those of criterion's benchmark of the same.
pub fn report(group: &str, item: &str, work: Timed<'_>, bounds: Vec<Timed<'_>>) {
    if !is_asked_for(&format!("{group}/{item}")) {
        return;
    }
    let mut all: Vec<Timed<'_>> = std::iter::once(work).chain(bounds).collect();
    let times: Vec<u32> = all.iter_mut().map(times_in_a_batch).collect();
    let mut rounds: Vec<Vec<f64>> = Vec::new();
    let begun = Instant::now();
    while rounds.len() < LEAST_ROUNDS || rounds.len() < MOST_ROUNDS && begun.elapsed() < ENOUGH {
        let run = |(it, times): (&mut Timed<'_>, &u32)| {
            (it.batch)(*times).as_nanos() as f64 / f64::from(*times)
        };
        rounds.push(all.iter_mut().zip(&times).map(run).collect());
    }
    let nanos = |of: usize| median(rounds.iter().map(|round| round[of]));
    let ratio = |of: usize| median(rounds.iter().map(|round| round[0] / round[of]));
    let bound = match ratio(1) {
        ..1.0 => "nothing that was measured".to_owned(),
        ..=NEAR => format!("bound by {}", all[1].what),
        _ => "bound by what it does itself".to_owned(),
    };
    let mut line = format!("{group}, {item}: {}, {bound}", shown(nanos(0)));
    for (of, bound) in all.iter().enumerate().skip(1) {
        line += if of == 1 { ": " } else { ", " };
        line += &format!("{:.2} times {} ({})", ratio(of), bound.what, shown(nanos(of)));
    }
    println!("{line}");
}

/// As criterion has it, but that a filter stands first and is plain text, as in
/// `cargo bench --bench codec "head parse"`. Without `--bench`, benchmarks are only tried, by
/// `cargo test --benches`.
fn is_asked_for(id: &str) -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.first().filter(|first| !first.starts_with('-'));
    let is_only_tried = arguments.iter().any(|it| it == "--test" || it == "--list");
    let is_measured = arguments.iter().any(|it| it == "--bench") && !is_only_tried;
    is_measured && filter.is_none_or(|filter| id.contains(filter.as_str()))
}

/// Doubles them until they take long enough, which also warms caches and predictors. Twice, since
/// one of few may have been interrupted.
fn times_in_a_batch(it: &mut Timed<'_>) -> u32 {
    let mut times = 1;
    while times < 1 << 20 && (0..2).any(|_| (it.batch)(times) < BATCH) {
        times *= 2;
    }
    times
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn shown(nanos: f64) -> String {
    match nanos {
        ..100.0 => format!("{nanos:.1} ns"),
        ..10_000.0 => format!("{nanos:.0} ns"),
        ..10_000_000.0 => format!("{:.1} us", nanos / 1e3),
        _ => format!("{:.1} ms", nanos / 1e6),
    }
}
