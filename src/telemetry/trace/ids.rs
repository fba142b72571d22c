//! Ids of traces and spans, and their hexadecimal text, without allocation.
//!
//! A trace's id has 128 or 64 bits, and is kept as wide as it came: nothing is cut, and what came
//! with 16 digits goes on with 16 where the form allows. No id is zero. Where ids come from when a
//! trace begins here is the caller's to say: randomness is handed in.

use std::num::NonZeroU64;

/// Digits of 64 bits.
pub(super) const DIGITS: usize = 16;

/// Of what the next hop is told, since several forms have them.
pub(super) struct Digits {
    pub(super) trace: [u8; 32],
    pub(super) span: [u8; DIGITS],
}

/// A trace's id; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId {
    high: u64,
    low: u64,
    /// It came with 32 digits, whatever they were.
    is_wide: bool,
}

/// A span's id; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// Of 128 bits; `None`: all of them are zero.
    pub fn wide(high: u64, low: u64) -> Option<TraceId> {
        (high | low != 0).then_some(TraceId { high, low, is_wide: true })
    }

    /// Of 64 bits; `None`: zero.
    pub fn narrow(low: u64) -> Option<TraceId> {
        (low != 0).then_some(TraceId { high: 0, low, is_wide: false })
    }

    /// Of a trace that begins here, from random numbers.
    pub fn begin(high: u64, low: u64) -> TraceId {
        TraceId { high: high.max(1), low, is_wide: true }
    }

    /// 16 or 32 digits.
    pub fn parse(text: &[u8]) -> Option<TraceId> {
        match text.len() {
            DIGITS => TraceId::narrow(number(text)?),
            32 => TraceId::wide(number(&text[..DIGITS])?, number(&text[DIGITS..])?),
            _ => None,
        }
    }

    pub fn high(self) -> u64 {
        self.high
    }

    /// What sampling goes by: every hop has it, however many digits it kept.
    pub fn low(self) -> u64 {
        self.low
    }

    pub fn is_wide(self) -> bool {
        self.is_wide
    }

    /// 32 digits, and how many of them at the end are the id as it came: 32 or 16.
    pub fn digits(self) -> ([u8; 32], usize) {
        (self.all_digits(), if self.is_wide { 32 } else { DIGITS })
    }

    /// 32 digits, whatever came.
    pub fn all_digits(self) -> [u8; 32] {
        let mut text = [0; 32];
        text[..DIGITS].copy_from_slice(&digits(self.high));
        text[DIGITS..].copy_from_slice(&digits(self.low));
        text
    }
}

impl std::fmt::Display for TraceId {
    /// As it came.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_wide {
            true => write!(out, "{:016x}{:016x}", self.high, self.low),
            false => write!(out, "{:016x}", self.low),
        }
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:016x}", self.get())
    }
}

impl SpanId {
    /// `None`: zero.
    pub fn new(id: u64) -> Option<SpanId> {
        NonZeroU64::new(id).map(SpanId)
    }

    /// From a random number.
    pub fn begin(random: u64) -> SpanId {
        SpanId(NonZeroU64::new(random).unwrap_or(NonZeroU64::MIN))
    }

    /// 16 digits.
    pub fn parse(text: &[u8]) -> Option<SpanId> {
        if text.len() == DIGITS { SpanId::new(number(text)?) } else { None }
    }

    /// Of the `nth` span under this one. It follows from this one's, so nobody has to keep it, and
    /// is spread as well as a random one (SplitMix64's output function, a bijection).
    #[must_use]
    pub fn child(self, nth: u32) -> SpanId {
        let step = (u64::from(nth) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut z = self.get().wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        SpanId::begin(z ^ (z >> 31))
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }

    pub fn digits(self) -> [u8; DIGITS] {
        digits(self.get())
    }
}

/// 16 digits in lower case.
pub(super) fn digits(number: u64) -> [u8; DIGITS] {
    let mut text = [0; DIGITS];
    text[..8].copy_from_slice(&eight_digits((number >> 32) as u32));
    text[8..].copy_from_slice(&eight_digits(number as u32));
    text
}

/// All eight at once: one byte for each four bits, made a digit or a letter by adding.
fn eight_digits(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut spread = u64::from(number);
    spread = (spread | (spread << 16)) & 0x0000_FFFF_0000_FFFF;
    spread = (spread | (spread << 8)) & 0x00FF_00FF_00FF_00FF;
    spread = (spread | (spread << 4)) & 0x0F0F_0F0F_0F0F_0F0F;
    // 1 where it is over 9.
    let letters = ((spread + 6 * EACH) >> 4) & EACH;
    let digits = spread + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'0' - 10);
    digits.to_be_bytes()
}

/// Of up to 16 digits in either case; `None`: something else is among them.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    debug_assert!(text.len() <= DIGITS);
    let (mut number, mut wrong) = (0_u64, 0_u8);
    for &byte in text {
        let digit = VALUES[usize::from(byte)];
        wrong |= digit;
        number = (number << 4) | u64::from(digit & 0xF);
    }
    (wrong < 16).then_some(number)
}

/// What a byte is worth as a digit; over 15: nothing.
static VALUES: [u8; 256] = {
    let mut values = [0xFF; 256];
    let mut digit = 0;
    while digit < 16 {
        let lower = b"0123456789abcdef"[digit];
        values[lower as usize] = digit as u8;
        values[lower.to_ascii_uppercase() as usize] = digit as u8;
        digit += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers with every digit in every place, and others that are spread by `child`.
    fn numbers() -> impl Iterator<Item = u64> {
        let repeated = (0..16).map(|digit| 0x1111_1111_1111_1111 * digit);
        let shifted = (0..64).map(|bits| 0xFEDC_BA98_7654_3210_u64.rotate_left(bits));
        let spread = (0..1000).map(|nth| SpanId::begin(7).child(nth).get());
        repeated.chain(shifted).chain(spread)
    }

    #[test]
    fn digits_are_what_the_standard_library_writes() {
        for it in numbers() {
            let text = digits(it);
            assert_eq!(std::str::from_utf8(&text).unwrap(), format!("{it:016x}"));
            assert_eq!(number(&text), Some(it));
            assert_eq!(number(&text.to_ascii_uppercase()), Some(it));
        }
    }

    #[test]
    fn only_digits_are_digits() {
        for byte in 0..=u8::MAX {
            let value = char::from(byte).to_digit(16).map(u64::from);
            assert_eq!(number(&[byte]), value, "{byte:#x}");
            assert_eq!(number(&[b'0', byte, b'1']), value.map(|it| it << 4 | 1), "{byte:#x}");
            for at in 0..DIGITS {
                let mut text = *b"0123456789abcdef";
                text[at] = byte;
                let rest = text.iter().enumerate().fold(0, |number, (place, digit)| {
                    let digit =
                        if place == at { 0 } else { char::from(*digit).to_digit(16).unwrap() };
                    number << 4 | u64::from(digit)
                });
                let expected = value.map(|it| rest | it << (4 * (DIGITS - 1 - at)));
                assert_eq!(number(&text), expected, "{byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn ids_are_16_or_32_digits_and_not_zero() {
        let parsed = |text: &str| TraceId::parse(text.as_bytes());
        let narrow = parsed("463ac35c9f6413ad").unwrap();
        assert_eq!(Some(narrow), TraceId::narrow(0x463a_c35c_9f64_13ad));
        let wide = parsed("80f198ee56343ba8640000000000e457").unwrap();
        assert_eq!((wide.high(), wide.low()), (0x80f1_98ee_5634_3ba8, 0x6400_0000_0000_e457));
        assert_eq!(parsed("80f198ee56343ba80000000000000000").unwrap().low(), 0);
        let padded = parsed("0000000000000000463ac35c9f6413ad").unwrap();
        assert_ne!(padded, narrow, "as it came");
        for wrong in [
            "",
            "0",
            "463ac35c9f6413a",
            "463ac35c9f6413ad0",
            "0000000000000000",
            "00000000000000000000000000000000",
            "463ac35c9f6413ag",
            "80f198ee56343ba864fe8b2a57d3eff",
            "80f198ee56343ba864fe8b2a57d3eff7a",
            "+463ac35c9f6413a",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
            assert_eq!(SpanId::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(SpanId::parse(b"00000000000000ff"), SpanId::new(255));
    }

    #[test]
    fn ids_go_out_as_wide_as_they_came() {
        for text in [
            "463ac35c9f6413ad",
            "80f198ee56343ba8640000000000e457",
            "0000000000000000463ac35c9f6413ad",
        ] {
            let (digits, count) = TraceId::parse(text.as_bytes()).unwrap().digits();
            assert_eq!(std::str::from_utf8(&digits[32 - count..]).unwrap(), text);
        }
        let narrow = TraceId::narrow(0xAB).unwrap();
        assert_eq!(narrow.all_digits(), *b"000000000000000000000000000000ab");
    }

    #[test]
    fn ids_that_begin_here_are_never_zero() {
        assert_eq!(TraceId::begin(0, 0).all_digits(), *b"00000000000000010000000000000000");
        assert_eq!(SpanId::begin(0).get(), 1);
    }

    #[test]
    fn children_differ() {
        let mut seen = std::collections::HashSet::new();
        for parent in 1..=500 {
            seen.extend((0..20).map(|nth| SpanId::begin(parent).child(nth)));
        }
        assert_eq!(seen.len(), 500 * 20);
    }
}
