//! What an origin does and when: `9s size=1k..64k latency=exp:2ms; 1s stall`.
//!
//! Phases with `;` between, each `[DURATION] WORDS`. Phases that last repeat from the first; one
//! without a duration lasts for ever, and so may only be the last. An empty script is 128 bytes at
//! once. Pure: time since the origin began to listen and randomness are arguments.

use std::fmt;
use std::time::Duration;

use ringlane::policy::Rng;

/// As messages have it.
pub const WORDS: &str = "size=128 or size=1k..64k, latency=2ms, latency=1ms..5ms, \
    latency=exp:2ms or latency=lognormal:2ms:0.5, errors=1% or errors=1%:503, reset=1%, cut=1%, \
    rate=64k/s, chunked, close_after=100, stall";
const SIZES: &str =
    "bytes up to 64m with k or m (1024, 1024 * 1024) or without, or a range, 1k..4k";
const LATENCIES: &str = "2ms, 1ms..5ms, exp:MEAN, lognormal:MEDIAN:SIGMA (sigma up to 10); \
    a number with ns, us, ms or s, up to 3600s";
const SHARES: &str = "0% to 100%, of errors, reset and cut together";
const DURATIONS: &str = "a duration of 1ms or more, a number with ms or s";

/// Of a body. One of a constant size is prepared as a whole and kept.
pub const MAX_SIZE_BYTES: u64 = 64 << 20;
/// Of a drawn latency too, whose distribution may have no end.
pub const MAX_LATENCY: Duration = Duration::from_secs(3_600);
const DEFAULT_SIZE_BYTES: u64 = 128;
const DEFAULT_ERROR_STATUS: u16 = 500;
const MAX_SIGMA: f64 = 10.0;

/// All phases of an origin; at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    phases: Vec<Phase>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// `None`: for ever.
    pub lasts: Option<Duration>,
    pub size: Size,
    pub latency: Latency,
    /// Shares are of 1, and 1 at most together.
    pub error_share: f64,
    pub error_status: u16,
    pub reset_share: f64,
    pub cut_share: f64,
    /// Of a body, with its chunks' framing.
    pub bytes_per_second: Option<u64>,
    pub chunked: bool,
    /// Answers of one connection, of which the last says so.
    pub close_after: Option<u64>,
    /// Nothing is answered until the phase ends.
    pub stall: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Constant(u64),
    /// Each from the first to the last as likely as the others.
    Uniform(u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Latency {
    None,
    Constant(Duration),
    Uniform(Duration, Duration),
    Exponential { mean: Duration },
    LogNormal { median: Duration, sigma: f64 },
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answer,
    Error(u16),
    Reset,
    Cut,
}

/// Where a script is wrong, how, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    /// In characters, from 1.
    pub column: usize,
    pub what: String,
    pub allowed: &'static str,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "column {}: {}; allowed: {}", self.column, self.what, self.allowed)
    }
}

impl std::error::Error for ScriptError {}

impl Default for Phase {
    fn default() -> Phase {
        Phase {
            lasts: None,
            size: Size::Constant(DEFAULT_SIZE_BYTES),
            latency: Latency::None,
            error_share: 0.0,
            error_status: DEFAULT_ERROR_STATUS,
            reset_share: 0.0,
            cut_share: 0.0,
            bytes_per_second: None,
            chunked: false,
            close_after: None,
            stall: false,
        }
    }
}

impl Default for Script {
    fn default() -> Script {
        Script { phases: vec![Phase::default()] }
    }
}

impl Script {
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Which phase it is, and when it ends, both since the origin began to listen.
    pub fn at(&self, since: Duration) -> (usize, Option<Duration>) {
        let last = self.phases.len() - 1;
        let lasting = self.phases.iter().map_while(|phase| phase.lasts);
        let round: Duration = lasting.clone().sum();
        let repeats = self.phases[last].lasts.is_some();
        let rounds = if repeats { since.as_nanos() / round.as_nanos() } else { 0 };
        let mut ends_ns = rounds * round.as_nanos();
        for (number, lasts) in lasting.enumerate() {
            ends_ns += lasts.as_nanos();
            if since.as_nanos() < ends_ns {
                return (number, Some(Duration::from_nanos(ends_ns as u64)));
            }
        }
        (last, None)
    }
}

impl Phase {
    pub fn outcome(&self, rng: &mut Rng) -> Outcome {
        let (errors, resets) = (self.error_share, self.error_share + self.reset_share);
        let all = resets + self.cut_share;
        if all == 0.0 {
            return Outcome::Answer;
        }
        match rng.unit() {
            unit if unit < errors => Outcome::Error(self.error_status),
            unit if unit < resets => Outcome::Reset,
            unit if unit < all => Outcome::Cut,
            _ => Outcome::Answer,
        }
    }
}

impl Size {
    pub fn draw(self, rng: &mut Rng) -> u64 {
        match self {
            Size::Constant(bytes) => bytes,
            Size::Uniform(from, to) => from + rng.below((to - from + 1) as usize) as u64,
        }
    }
}

impl Latency {
    pub fn draw(self, rng: &mut Rng) -> Duration {
        // In (0, 1], whose logarithm is finite.
        let mut unit = || 1.0 - rng.unit();
        match self {
            Latency::None => Duration::ZERO,
            Latency::Constant(latency) => latency,
            Latency::Uniform(from, to) => from + (to - from).mul_f64(unit()),
            Latency::Exponential { mean } => at_most(-unit().ln() * mean.as_secs_f64()),
            Latency::LogNormal { median, sigma } => {
                // Box and Muller, 1958: a normal number from two that are uniform.
                let radius = (-2.0 * unit().ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * unit()).cos();
                at_most(median.as_secs_f64() * (sigma * normal).exp())
            }
        }
    }
}

fn at_most(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.min(MAX_LATENCY.as_secs_f64()))
}

/// A piece of a script, and the column it begins at.
type Piece<'a> = (usize, &'a str);

impl std::str::FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Script, ScriptError> {
        if text.trim().is_empty() {
            return Ok(Script::default());
        }
        let pieces: Vec<Piece<'_>> = split((1, text), |c| c == ';').collect();
        let last = pieces.len() - 1;
        let mut phases = Vec::with_capacity(pieces.len());
        for (number, piece) in pieces.into_iter().enumerate() {
            let (column, read) = phase(piece)?;
            if read.lasts.is_none() && number < last {
                let what = "a phase without a duration is not the last".into();
                return wrong(column, what, "9s or another duration before its words");
            }
            phases.push(read);
        }
        Ok(Script { phases })
    }
}

/// With the column of its first word.
fn phase(piece: Piece<'_>) -> Result<(usize, Phase), ScriptError> {
    let mut words = split(piece, char::is_whitespace).filter(|(_, word)| !word.is_empty());
    let mut read = Phase::default();
    let mut names: Vec<&str> = Vec::new();
    let Some(first) = words.next() else {
        let column = piece.0 + piece.1.chars().count();
        return wrong(column, "a phase is missing".into(), WORDS);
    };
    let rest = if first.1.starts_with(|c: char| c.is_ascii_digit()) {
        let lasts = duration(first.1).filter(|lasts| *lasts >= Duration::from_millis(1));
        let Some(lasts) = lasts else {
            return wrong(first.0, format!("`{}` is no duration of a phase", first.1), DURATIONS);
        };
        read.lasts = Some(lasts);
        None
    } else {
        Some(first)
    };
    for (column, text) in rest.into_iter().chain(words) {
        let name = text.split('=').next().unwrap_or(text);
        if names.contains(&name) {
            return wrong(column, format!("`{name}` for the second time"), "each word once");
        }
        names.push(name);
        word(&mut read, column, text)?;
        if read.stall && names.len() > 1 {
            let what = "`stall` with other words".into();
            return wrong(column, what, "stall alone, with a duration or without");
        }
    }
    Ok((first.0, read))
}

fn word(phase: &mut Phase, column: usize, text: &str) -> Result<(), ScriptError> {
    match text {
        "chunked" => phase.chunked = true,
        "stall" => phase.stall = true,
        _ => {
            let Some((name, value)) = text.split_once('=') else {
                return wrong(column, format!("`{text}` is no word of a script"), WORDS);
            };
            let Some(allowed) = allowed(name) else {
                return wrong(column, format!("`{name}` is no word of a script"), WORDS);
            };
            if set(phase, name, value).is_none() {
                let column = column + name.chars().count() + 1;
                let what = format!("`{value}` is no value of `{name}`");
                return wrong(column, what, allowed);
            }
            // Sums of decimals: 33.3% + 66.7% may be a little over.
            let shares = phase.error_share + phase.reset_share + phase.cut_share;
            if shares > 1.0 + 1e-9 {
                let what = format!("with `{text}`, {:.1}% of answers are spoilt", shares * 100.0);
                return wrong(column, what, SHARES);
            }
        }
    }
    Ok(())
}

/// What a word's value may be. `None`: there is no such word.
fn allowed(name: &str) -> Option<&'static str> {
    Some(match name {
        "size" => SIZES,
        "latency" => LATENCIES,
        "errors" => "a share and a status, or a share: 1%:503, 1% (500 then); statuses 400 to 599",
        "reset" | "cut" => "a share, 0% to 100%",
        "rate" => "bytes per second, with k or m or without: 64k/s",
        "close_after" => "a number of answers, from 1",
        _ => return None,
    })
}

/// `None`: the value is wrong.
fn set(phase: &mut Phase, name: &str, value: &str) -> Option<()> {
    match name {
        "size" => phase.size = size(value)?,
        "latency" => phase.latency = latency(value)?,
        "errors" => {
            let (percent, status) = value.split_once(':').unwrap_or((value, "500"));
            phase.error_share = share(percent)?;
            phase.error_status = whole(status).filter(|status| (400..600).contains(status))? as u16;
        }
        "reset" => phase.reset_share = share(value)?,
        "cut" => phase.cut_share = share(value)?,
        "rate" => {
            let rate = bytes(value.strip_suffix("/s")?)?;
            phase.bytes_per_second = Some(rate).filter(|rate| *rate > 0);
            phase.bytes_per_second?;
        }
        "close_after" => phase.close_after = Some(whole(value).filter(|answers| *answers > 0)?),
        _ => return None,
    }
    Some(())
}

fn size(value: &str) -> Option<Size> {
    let bytes = |text| bytes(text).filter(|bytes| *bytes <= MAX_SIZE_BYTES);
    match value.split_once("..") {
        None => Some(Size::Constant(bytes(value)?)),
        Some((from, to)) => {
            let (from, to) = (bytes(from)?, bytes(to)?);
            (from <= to).then_some(Size::Uniform(from, to))
        }
    }
}

fn latency(value: &str) -> Option<Latency> {
    let time = |text| duration(text).filter(|time| *time <= MAX_LATENCY);
    if let Some(mean) = value.strip_prefix("exp:") {
        return Some(Latency::Exponential { mean: time(mean)? });
    }
    if let Some(rest) = value.strip_prefix("lognormal:") {
        let (median, sigma) = rest.split_once(':')?;
        let sigma = decimal(sigma).filter(|sigma| *sigma <= MAX_SIGMA)?;
        return Some(Latency::LogNormal { median: time(median)?, sigma });
    }
    match value.split_once("..") {
        None => Some(Latency::Constant(time(value)?)),
        Some((from, to)) => {
            let (from, to) = (time(from)?, time(to)?);
            (from <= to).then_some(Latency::Uniform(from, to))
        }
    }
}

fn share(value: &str) -> Option<f64> {
    let percent = decimal(value.strip_suffix('%')?)?;
    (percent <= 100.0).then_some(percent / 100.0)
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    whole(digits)?.checked_mul(unit)
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    // Ten years, which no phase needs and every clock can count.
    let time = decimal(number)? * seconds;
    (time < 315e6).then(|| Duration::from_secs_f64(time))
}

fn whole(text: &str) -> Option<u64> {
    if digits(text) { text.parse().ok() } else { None }
}

/// Digits, with a point and digits after it or without.
fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if digits(whole) && digits(part) { text.parse().ok() } else { None }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn split<'a>((column, text): Piece<'a>, at: fn(char) -> bool) -> impl Iterator<Item = Piece<'a>> {
    let mut next = column;
    text.split(at).map(move |piece| {
        let column = next;
        next += piece.chars().count() + 1;
        (column, piece)
    })
}

fn wrong<T>(column: usize, what: String, allowed: &'static str) -> Result<T, ScriptError> {
    Err(ScriptError { column, what, allowed })
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
