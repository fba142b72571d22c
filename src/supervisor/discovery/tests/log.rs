//! What a test's thread writes to the log.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use super::DEADLINE;

/// Warnings and information of this crate, while it lives.
pub(super) struct Log {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(super) fn new() -> Log {
        // While there is but one subscriber, tracing (tracing-core 0.1.36, `Rebuilder::JustOne`)
        // asks that of the calling thread alone whether a line is wanted, and remembers the answer
        // for all threads: one that first wrote the line without a log would silence it here.
        static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
        OTHERS.get_or_init(|| [(); 2].map(|()| Dispatch::new(Lines::default())));
        let lines = Lines::default();
        Log { _guard: set_default(lines.clone()), lines }
    }

    /// `WARN text`, or `INFO text`, of those lines that have `part` in them.
    pub(super) fn with(&self, part: &str) -> Vec<String> {
        let lines = self.lines.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(part)).cloned().collect()
    }

    pub(super) async fn until(&self, part: &str) {
        let ends = Instant::now() + DEADLINE;
        while self.with(part).is_empty() {
            let lines = self.lines.0.lock().unwrap().join("\n");
            assert!(Instant::now() < ends, "no line with {part:?} in\n{lines}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("ringlane")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("memory");
    }
}
