//! What a push says, line by line, and what was said before.
//!
//! Etsy: the name is the path in the tree, `/` as `.`; in a segment whatever is no letter, digit,
//! `_` or `-` is `_`, dots included, so that a path stays a path. A scope with several paths is
//! sent under each. Datadog: the name is `<kind>.<key>` (`Scope::kind`) and the scope's labels are
//! tags; what would end a tag is `_` there.
//!
//! `cadence` formats a line: name, value, type and tags. It cannot set a gauge to what is below
//! zero in Etsy's dialect, where a sign makes it a difference: a line that sets 0 goes before it,
//! in one piece with it. Nor does it make a name safe, count in fractions, or know which line is in
//! which datagram, since its buffered sinks keep that to themselves; all of that is here.
//!
//! Invariant: a counter's total counts as sent only by `Ledger::mark`.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cadence::{Counted, Gauged, MetricSink, StatsdClient};

use crate::telemetry::state::{Scope, State};
use crate::telemetry::tree::{self, Leaf, Window};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Etsy,
    DogStatsd,
}

/// One line, or two that belong together; without a newline at its end.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) text: String,
    /// What is sent with it, for counters.
    pub(super) mark: Option<Mark>,
}

/// The total of a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: String,
    pub(super) total: u64,
}

/// The totals that have been sent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    counters: HashMap<String, Sent>,
    /// Counts the pushes.
    push: u64,
}

#[derive(Debug, Default)]
struct Sent {
    total: u64,
    /// The last push that had it.
    seen_in: u64,
}

impl Ledger {
    fn begin(&mut self) {
        self.push += 1;
    }

    /// What is to be sent of a counter; `None` for nothing.
    fn delta(&mut self, id: &str, total: u64) -> Option<u64> {
        if !self.counters.contains_key(id) {
            self.counters.insert(id.to_owned(), Sent::default());
        }
        let sent = self.counters.get_mut(id).expect("it is there");
        if std::mem::replace(&mut sent.seen_in, self.push) == self.push {
            debug_assert!(false, "{id} is there twice");
            return None;
        }
        if total < sent.total {
            // It went away and began anew.
            sent.total = 0;
        }
        Some(total - sent.total).filter(|delta| *delta > 0)
    }

    /// Forgets what this push did not have.
    fn end(&mut self) {
        self.counters.retain(|_, sent| sent.seen_in == self.push);
    }

    pub(super) fn mark(&mut self, mark: &Mark) {
        if let Some(sent) = self.counters.get_mut(&mark.id) {
            sent.total = mark.total;
        }
    }

    /// Counters that something was sent of.
    #[cfg(test)]
    pub(super) fn sent(&self) -> impl Iterator<Item = &str> {
        self.counters.iter().filter(|(_, sent)| sent.total > 0).map(|(id, _)| id.as_str())
    }

    /// Makes the counters of lines known, as if the state had them.
    #[cfg(test)]
    pub(super) fn expect(&mut self, lines: &[Line]) {
        let marks = lines.iter().filter_map(|line| line.mark.as_ref());
        self.counters.extend(marks.map(|mark| (mark.id.clone(), Sent::default())));
    }
}

/// Formats lines.
pub(super) struct Format {
    dialect: Dialect,
    client: StatsdClient,
    captured: Captured,
}

/// The last line that was formatted.
#[derive(Clone, Debug, Default)]
struct Captured(Arc<Mutex<String>>);

impl MetricSink for Captured {
    fn emit(&self, metric: &str) -> io::Result<usize> {
        metric.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(metric.len())
    }
}

/// What a line is about.
struct Name<'a> {
    text: String,
    /// As it was before it was made safe, which may make two names the same.
    id: String,
    tags: &'a [(&'static str, String)],
}

impl Name<'_> {
    fn figure(&self, figure: &str) -> Self {
        let Name { text, id, tags } = self;
        Name { text: format!("{text}.{figure}"), id: format!("{id}.{figure}"), tags }
    }
}

impl Format {
    pub(super) fn new(dialect: Dialect, prefix: &str) -> Format {
        let captured = Captured::default();
        let prefix = match dialect {
            Dialect::Etsy => prefix.to_owned(),
            // Datadog's names have no dashes.
            Dialect::DogStatsd => prefix.replace('-', "_"),
        };
        let client = StatsdClient::from_sink(&prefix, captured.clone());
        Format { dialect, client, captured }
    }

    /// Everything that is to be sent of a state.
    pub(super) fn lines(&self, state: &State, ledger: &mut Ledger) -> Vec<Line> {
        let mut lines = Vec::new();
        ledger.begin();
        state.leaves(&mut |scope, key, leaf| match self.dialect {
            Dialect::Etsy => {
                for path in &scope.paths {
                    let id = format!("{path}/{key}");
                    let name = Name { text: dotted(&id), id, tags: &[] };
                    self.leaf(&name, leaf, ledger, &mut lines);
                }
            }
            Dialect::DogStatsd => {
                let text = format!("{}.{}", scope.kind(), dotted(key).replace('-', "_"));
                let mut id = format!("{}.{key}", scope.kind());
                // What no label has separates them.
                scope.labels.iter().for_each(|(_, value)| id.extend(["\0", value]));
                let name = Name { text, id, tags: &tags(scope) };
                self.leaf(&name, leaf, ledger, &mut lines);
            }
        });
        ledger.end();
        lines
    }

    fn leaf(&self, name: &Name<'_>, leaf: Leaf<'_>, ledger: &mut Ledger, lines: &mut Vec<Line>) {
        match leaf {
            Leaf::Counter(total) => lines.extend(self.counter(name, total, ledger)),
            // Whole ones: the sum of differences of fractions would drift.
            Leaf::FloatCounter(total) => lines.extend(self.counter(name, total as u64, ledger)),
            Leaf::Gauge(value) => lines.extend(self.gauge(name, value)),
            Leaf::Stat(distribution, per) => {
                lines.extend(self.counter(&name.figure("count"), distribution.count(), ledger));
                let recent = tree::summary(distribution, Window::Recent);
                tree::figures(&recent, per, &mut |figure, value| {
                    // Of the last minute; beside a count since the start they would mislead.
                    if figure != "count" && figure != "sum" {
                        lines.extend(self.gauge(&name.figure(figure), value));
                    }
                });
            }
        }
    }

    fn counter(&self, name: &Name<'_>, total: u64, ledger: &mut Ledger) -> Option<Line> {
        let delta = ledger.delta(&name.id, total)?;
        let mut builder = self.client.count_with_tags(&name.text, delta);
        for (tag, value) in name.tags {
            builder = builder.with_tag(tag, value);
        }
        builder.send();
        let mark = Mark { id: name.id.clone(), total };
        Some(Line { text: self.take(), mark: Some(mark) })
    }

    fn gauge(&self, name: &Name<'_>, value: f64) -> Option<Line> {
        if !value.is_finite() {
            return None;
        }
        let mut text = String::new();
        // Not -0.0, which is no less than 0 and would be written with its sign.
        let value = if value == 0.0 { 0.0 } else { value };
        if value < 0.0 && self.dialect == Dialect::Etsy {
            self.client.gauge_with_tags(&name.text, 0u64).send();
            text = self.take() + "\n";
        }
        let mut builder = self.client.gauge_with_tags(&name.text, value);
        for (tag, value) in name.tags {
            builder = builder.with_tag(tag, value);
        }
        builder.send();
        text += &self.take();
        Some(Line { text, mark: None })
    }

    fn take(&self) -> String {
        std::mem::take(&mut self.captured.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A path as a name.
fn dotted(path: &str) -> String {
    let mut name = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            name.push('.');
        }
        let safe = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
        name.extend(segment.chars().map(|char| if safe(char) { char } else { '_' }));
        if segment.is_empty() {
            name.push('_');
        }
    }
    name
}

fn tags(scope: &Scope) -> Vec<(&'static str, String)> {
    let ends = |char: char| matches!(char, '|' | ',' | '#') || char.is_whitespace();
    let safe = |char: char| if ends(char) || char.is_control() { '_' } else { char };
    let tag = |(name, value): &(&'static str, String)| (*name, value.chars().map(safe).collect());
    scope.labels.iter().filter(|(_, value)| !value.is_empty()).map(tag).collect()
}
