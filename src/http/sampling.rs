//! What a request says about whether its trace is recorded.
//!
//! Whoever begins a trace decides for all hops behind it, or leaves it to them. The words are B3's;
//! the other forms say the same or less. Who decides what is `policy::sampler`'s, how it is spelt
//! `telemetry::trace`'s.

/// A decision about a trace, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sampling {
    /// Left to whoever gets the request.
    #[default]
    Undecided,
    No,
    Yes,
    /// Recorded whatever anybody's rules say.
    Debug,
}

impl Sampling {
    /// Whether the trace is recorded, where that is decided.
    pub fn decided(self) -> Option<bool> {
        match self {
            Sampling::Undecided => None,
            Sampling::No => Some(false),
            Sampling::Yes | Sampling::Debug => Some(true),
        }
    }
}
