//! Figures as operators write them: `250ms`, `10k`, `64k`, `100..10k`.
//!
//! Times have a unit, always; in counts k and m are thousands and millions, in sizes k, m and g are
//! powers of 1024. Errors say what is allowed.

use std::time::Duration;

const NANOS: [(&str, f64); 6] =
    [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3_600e9)];
/// A century: what is longer was not meant.
const MAX_SECONDS: f64 = 100.0 * 366.0 * 86_400.0;

/// `10s`, `1.5ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let allowed = || format!("`{text}` is no time; allowed: a number and ns, us, ms, s, m or h");
    let (number, unit) = split(text).ok_or_else(allowed)?;
    let (_, nanos) = NANOS.into_iter().find(|(name, _)| *name == unit).ok_or_else(allowed)?;
    let seconds = number * nanos / 1e9;
    if seconds > MAX_SECONDS {
        return Err(format!("`{text}` is too long; allowed: up to a century"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A duration that is more than nothing.
pub fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is no time at all; allowed: more than 0")),
        time => Ok(time),
    }
}

/// `10k`, `2.5m`, `300`: per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let allowed = || format!("`{text}` is no rate; allowed: a number, with k or m or without");
    let (number, unit) = split(text).ok_or_else(allowed)?;
    match unit {
        "" => Ok(number),
        "k" => Ok(number * 1e3),
        "m" => Ok(number * 1e6),
        _ => Err(allowed()),
    }
}

/// A whole number, `10k`.
pub fn count(text: &str) -> Result<u64, String> {
    let number = rate(text).map_err(|_| not_a_count(text))?;
    if number.fract() != 0.0 || !(1.0..=9e15).contains(&number) {
        return Err(not_a_count(text));
    }
    Ok(number as u64)
}

/// `64k`, `1m`: of 1024.
pub fn bytes(text: &str) -> Result<usize, String> {
    let allowed =
        || format!("`{text}` is no size; allowed: whole bytes, with k, m or g or without");
    let (number, unit) = split(text).ok_or_else(allowed)?;
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(allowed()),
    };
    let bytes = number * f64::from(1_u32 << shift);
    if bytes.fract() != 0.0 || bytes > 9e15 {
        return Err(allowed());
    }
    Ok(bytes as usize)
}

/// `0,2,5-7`: numbers of cores.
pub fn cores(text: &str) -> Result<Vec<usize>, String> {
    let allowed = || format!("`{text}` names no cores; allowed: numbers and ranges, as in 0,2,5-7");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| allowed());
        let (from, to) = (number(from)?, number(to)?);
        if from > to || to >= 4_096 {
            return Err(allowed());
        }
        cores.extend(from..=to);
    }
    Ok(cores)
}

fn not_a_count(text: &str) -> String {
    format!("`{text}` is no count; allowed: a whole number from 1, with k or m or without")
}

/// A number that is not negative, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let starts_right = number.starts_with(|c: char| c.is_ascii_digit());
    let number = number.parse().ok().filter(|_| starts_right && !number.ends_with('.'))?;
    Some((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_are_right() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!((rate("2.5k"), rate("7"), rate("1m")), (Ok(2_500.0), Ok(7.0), Ok(1e6)));
        assert_eq!((count("10k"), count("3")), (Ok(10_000), Ok(3)));
        assert_eq!((bytes("64k"), bytes("0.5k"), bytes("0")), (Ok(65_536), Ok(512), Ok(0)));
        assert_eq!(cores("0,2,5-7"), Ok(vec![0, 2, 5, 6, 7]));
    }

    #[test]
    fn figures_that_are_wrong_and_what_is_allowed() {
        for text in ["", "5", "5 s", "s", "-1s", "1.s", ".5s", "1d", "1e3s", "999999999999h"] {
            assert!(duration(text).is_err_and(|why| why.contains("allowed: ")), "{text}");
        }
        for text in ["", "k", "-1", "5g", "1,000", "NaN", "inf"] {
            assert!(rate(text).is_err_and(|why| why.contains("allowed: ")), "{text}");
        }
        for text in ["0", "1.5", "0.5k1"] {
            assert!(count(text).is_err_and(|why| why.contains("allowed: ")), "{text}");
        }
        for text in ["1.5", "1t", "0.3k"] {
            assert!(bytes(text).is_err_and(|why| why.contains("allowed: ")), "{text}");
        }
        for text in ["", "a", "3-1", "1,,2", "99999"] {
            assert!(cores(text).is_err_and(|why| why.contains("allowed: ")), "{text}");
        }
        assert!(some_time("0s").is_err_and(|why| why.contains("allowed: ")));
    }
}
