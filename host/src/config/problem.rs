//! What is wrong with a configuration, and where.
//!
//! Invariant: a problem says what is wrong and what would be right, and never shows a secret.

use serde::Serialize;
use std::fmt;

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is not taken up.
    Error,
    /// The file is taken up, and somebody should look at it.
    Warning,
}

/// One problem, at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file's path, or the environment variable's name.
    pub file: String,
    /// From 1; 0 where the problem has no place in a file.
    pub line: usize,
    /// From 1, in characters; 0 where the problem has no place in a file.
    pub column: usize,
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub remedy: String,
}

impl Problem {
    /// Makes a problem that has no place in a file: of a variable, a folder or a file as a whole.
    pub fn of(file: impl Into<String>, severity: Severity, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { file: file.into(), line: 0, column: 0, severity, message: message.into(), remedy: remedy.into() }
    }

    /// Puts a problem of a file as a whole at the file's start, where an editor can go.
    pub fn at_start(self) -> Problem {
        Problem { line: 1, column: 1, ..self }
    }
}

/// `file:line:column: what is wrong; what would be right`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Collects problems.
#[derive(Debug, Default)]
pub struct Report {
    pub problems: Vec<Problem>,
}

impl Report {
    /// Tells whether anything but warnings was found.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }

    pub fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub fn append(&mut self, mut other: Report) {
        self.problems.append(&mut other.problems);
    }

    /// Returns the problems by file, line and column.
    pub fn sorted(mut self) -> Vec<Problem> {
        self.problems.sort_by(|a, b| (&a.file, a.line, a.column, a.severity).cmp(&(&b.file, b.line, b.column, b.severity)));
        self.problems.dedup();
        self.problems
    }
}

/// Returns the nearest of `known` to a misspelt `word`, where one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let near = |name: &&str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    let best = known.into_iter().min_by_key(near)?;
    (near(&best) <= (best.chars().count() / 3).max(1)).then_some(best)
}

/// Says what may stand in place of `word`: the nearest name, else all of them.
pub fn choice<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone, none: &str) -> String {
    if let Some(name) = nearest(word, known.clone()) {
        return format!("did you mean `{name}`?");
    }
    let all: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    if all.is_empty() { none.to_owned() } else { format!("use {}", either(&all)) }
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [many @ .., last] => format!("{} or {last}", many.join(", ")),
    }
}
