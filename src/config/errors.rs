//! What is wrong with a configuration: every issue with its line, path, value and what is allowed.
//!
//! Knows paths and positions; does not know any key.

use std::collections::HashMap;
use std::fmt;

/// Every issue of one configuration, in the order of the text; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Errors {
    origin: String,
    issues: Vec<Issue>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Issue {
    /// Both from 1; 0 where the text says nothing about it.
    pub line: usize,
    pub column: usize,
    /// Such as `routers[0].servers[1].port`; empty for the whole text.
    pub path: String,
    /// What is wrong, with the value as written.
    pub wrong: String,
    /// What could stand there instead; empty where that is plain from `wrong`.
    pub allowed: String,
}

impl Errors {
    pub(super) fn new(origin: &str, mut issues: Vec<Issue>) -> Self {
        debug_assert!(!issues.is_empty());
        issues.sort_by_key(|issue| (issue.line, issue.column));
        Errors { origin: origin.to_owned(), issues }
    }

    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, issue) in self.issues.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}:{}: ", self.origin, issue.line, issue.column)?;
            if !issue.path.is_empty() {
                write!(f, "{}: ", issue.path)?;
            }
            f.write_str(&issue.wrong)?;
            if !issue.allowed.is_empty() {
                write!(f, "; allowed: {}", issue.allowed)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Where a value stands in the tree of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    pub(super) fn key(&self, name: &str) -> Path {
        self.with(Step::Key(name.to_owned()))
    }

    pub(super) fn index(&self, at: usize) -> Path {
        self.with(Step::Index(at))
    }

    pub(super) fn parent(&self) -> Option<Path> {
        let (_, above) = self.0.split_last()?;
        Some(Path(above.to_vec()))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    fn with(&self, step: Step) -> Path {
        let mut steps = self.0.clone();
        steps.push(step);
        Path(steps)
    }
}

impl FromIterator<Step> for Path {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Path(steps.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if at == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Where each path of a text stands.
#[derive(Debug, Default)]
pub(super) struct Marks {
    keys: HashMap<Path, Position>,
    values: HashMap<Path, Position>,
}

impl Marks {
    pub(super) fn set_key(&mut self, path: Path, at: Position) {
        self.keys.insert(path, at);
    }

    pub(super) fn set_value(&mut self, path: Path, at: Position) {
        self.values.insert(path, at);
    }

    pub(super) fn key(&self, path: &Path) -> Option<Position> {
        self.keys.get(path).copied()
    }

    /// The value at a path; for one that is not there, the key of what should hold it.
    fn nearest(&self, path: &Path) -> Position {
        if let Some(&at) = self.values.get(path) {
            return at;
        }
        let mut path = path.clone();
        while let Some(parent) = path.parent() {
            if let Some(&at) = self.keys.get(&parent).or_else(|| self.values.get(&parent)) {
                return at;
            }
            path = parent;
        }
        Position { line: 1, column: 1 }
    }
}

/// Collects issues while a configuration is read.
///
/// Once a path is in error, nothing below it is reported again: what is missing or odd there
/// follows from the first error.
#[derive(Debug)]
pub(super) struct Report {
    marks: Marks,
    issues: Vec<Issue>,
    broken: Vec<Path>,
}

impl Report {
    pub(super) fn new(marks: Marks) -> Self {
        Report { marks, issues: Vec::new(), broken: Vec::new() }
    }

    pub(super) fn push(&mut self, issue: Issue) {
        self.issues.push(issue);
    }

    /// The value at `path` is wrong.
    pub(super) fn value(&mut self, path: &Path, wrong: String, allowed: impl fmt::Display) {
        if self.is_broken(path) {
            return;
        }
        let at = self.marks.nearest(path);
        self.add(at, path, wrong, allowed.to_string());
        self.broken.push(path.clone());
    }

    /// Where the value at `path` stands, as errors say it.
    pub(super) fn place(&self, path: &Path) -> String {
        let Position { line, column } = self.marks.nearest(path);
        format!("{line}:{column}: {path}")
    }

    /// The key at `path` should not be there; its value is not looked at.
    pub(super) fn key(&mut self, path: &Path, wrong: String, allowed: String) {
        let at = self.marks.key(path).unwrap_or_else(|| self.marks.nearest(path));
        self.add(at, path, wrong, allowed);
    }

    /// Nothing that is reported from now on would be more than a consequence.
    pub(super) fn give_up(&mut self) {
        self.broken.push(Path::default());
    }

    /// Whether `path` or anything above it was reported as wrong.
    pub(super) fn is_broken(&self, path: &Path) -> bool {
        self.broken.iter().any(|broken| path.steps().starts_with(broken.steps()))
    }

    /// Whether anything at, above or below `path` was reported as wrong.
    pub(super) fn is_touched(&self, path: &Path) -> bool {
        let below = |broken: &Path| broken.steps().starts_with(path.steps());
        self.is_broken(path) || self.broken.iter().any(below)
    }

    pub(super) fn into_issues(self) -> Vec<Issue> {
        self.issues
    }

    fn add(&mut self, at: Position, path: &Path, wrong: String, allowed: String) {
        let Position { line, column } = at;
        self.issues.push(Issue { line, column, path: path.to_string(), wrong, allowed });
    }
}
