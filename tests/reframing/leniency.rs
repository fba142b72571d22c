//! In what ways readers of messages differ: one that keeps to the letter of RFC 9112, and others
//! with leniencies that are known of real programs. What each does is `readers`' to know.

/// What ends a line of a head, a chunk's size or a trailer section.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Line {
    Crlf,
    /// LF, with or without CR.
    Lf,
    /// CR or LF, or both.
    Cr,
}

/// What becomes of a line that is none of a field's.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Odd {
    Refused,
    /// One that begins with white space goes on with the value before it; others are left out.
    Joined,
    /// All are left out.
    Skipped,
}

/// Which `Transfer-Encoding` means chunked.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Coding {
    /// `chunked`, in any case, as the last of all.
    Last,
    /// The same, but of the first or the last line alone.
    OfFirstLine,
    OfLastLine,
    /// Only as RFC 9112 spells it.
    AsSpelt,
    /// Wherever these letters stand.
    Substring,
}

/// Which `Content-Length` counts where there are several, and how it is read.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Length {
    /// One, of digits.
    Strict,
    First,
    Last,
    /// As C's strtol: white space, a sign, digits up to whatever is none.
    Strtol,
}

/// What wins where both are there.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wins {
    Nothing,
    Coding,
    Length,
}

/// How a chunk's size is read.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Size {
    Strict,
    /// As C's strtol: white space, a sign, `0x`, digits up to whatever is none.
    Strtol,
    /// The same, kept in 32 bits.
    Narrow,
}

/// One way to read.
#[derive(Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    pub(crate) line: Line,
    /// Of a chunk's size alone: LF ends an extension.
    pub(crate) extension_ends_at_lf: bool,
    pub(crate) odd: Odd,
    /// White space before the colon is dropped with the rest.
    pub(crate) space_before_colon: bool,
    /// `_` is `-`, as behind CGI.
    pub(crate) underscores: bool,
    /// Names end at the first byte that no token has.
    pub(crate) cut_names: bool,
    /// NUL ends a value, as a string of C.
    pub(crate) nul_ends: bool,
    /// VT, FF, 0x85 and 0xA0 are white space.
    pub(crate) wide_space: bool,
    /// What `Connection` names is removed before anything is read from it.
    pub(crate) nominates: bool,
    pub(crate) coding: Coding,
    pub(crate) length: Length,
    pub(crate) wins: Wins,
    pub(crate) size: Size,
}

pub(crate) const STRICT: Reader = Reader {
    name: "strict",
    line: Line::Crlf,
    extension_ends_at_lf: false,
    odd: Odd::Refused,
    space_before_colon: false,
    underscores: false,
    cut_names: false,
    nul_ends: false,
    wide_space: false,
    nominates: false,
    coding: Coding::Last,
    length: Length::Strict,
    wins: Wins::Nothing,
    size: Size::Strict,
};

/// Takes whatever comes; what the lenient ones start from.
const LOOSE: Reader = Reader {
    name: "loose",
    line: Line::Lf,
    odd: Odd::Joined,
    space_before_colon: true,
    length: Length::Strtol,
    wins: Wins::Coding,
    size: Size::Strtol,
    ..STRICT
};

pub(crate) const READERS: [Reader; 18] = [
    STRICT,
    LOOSE,
    Reader { name: "bare LF", line: Line::Lf, ..STRICT },
    Reader { name: "bare CR", line: Line::Cr, odd: Odd::Skipped, ..LOOSE },
    Reader { name: "odd lines skipped", odd: Odd::Skipped, ..LOOSE },
    Reader { name: "space before the colon", space_before_colon: true, ..STRICT },
    Reader { name: "names cut short", cut_names: true, ..LOOSE },
    Reader { name: "underscores", underscores: true, ..LOOSE },
    Reader { name: "NUL ends", nul_ends: true, ..LOOSE },
    Reader { name: "wide space", wide_space: true, coding: Coding::Substring, ..LOOSE },
    Reader { name: "Connection first", nominates: true, ..LOOSE },
    Reader { name: "length wins", wins: Wins::Length, length: Length::First, ..LOOSE },
    Reader { name: "last length wins", wins: Wins::Length, length: Length::Last, ..LOOSE },
    Reader { name: "first coding", coding: Coding::OfFirstLine, wins: Wins::Length, ..LOOSE },
    Reader { name: "last coding", coding: Coding::OfLastLine, ..LOOSE },
    Reader { name: "chunked as spelt", coding: Coding::AsSpelt, wins: Wins::Length, ..LOOSE },
    Reader { name: "sizes of 32 bits", coding: Coding::Substring, size: Size::Narrow, ..LOOSE },
    Reader { name: "extension up to LF", extension_ends_at_lf: true, ..STRICT },
];
