//! A TOML file as a tree whose every node knows its place.
//!
//! Invariant: nothing here knows a key by name. The getters assume a tree that `form::check` found right; of a wrong
//! one they return nothing, since its problem is already reported.

use crate::config::problem::{Problem, Report, Severity};
use crate::model::domain;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// What the parser says of a key or table that stands twice.
const DUPLICATE: &str = "duplicate key";

/// One file, parsed.
#[derive(Debug)]
pub struct Document {
    /// As it is shown.
    pub file: String,
    text: String,
    pub root: Node,
    /// Whether it is no TOML.
    pub broken: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Node {
    pub span: Range<usize>,
    pub item: Item,
}

#[derive(Debug, Clone)]
pub enum Item {
    Text(String),
    Integer(i128),
    Real(f64),
    Flag(bool),
    Date(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Entry>),
}

impl Default for Item {
    fn default() -> Item {
        Item::Table(BTreeMap::new())
    }
}

/// One key of a table with its value.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Range<usize>,
    pub node: Node,
}

impl Document {
    /// Parses a file. On a syntax error the root is empty and the problems say where.
    pub fn parse(file: &str, text: &str, report: &mut Report) -> Document {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Document { file: file.to_owned(), text: text.to_owned(), root: Node::default(), broken: !errors.is_empty() };
        if errors.is_empty() {
            document.root = Node { span: 0..0, item: Item::Table(table(root.get_ref())) };
            return document;
        }
        let (mut line_before, mut echoes_until) = (0, 0);
        for error in errors {
            let problem = document.syntax(&error);
            let is_echo = error.message() == DUPLICATE && problem.line < echoes_until;
            // What follows on the same line is mostly an echo of the first.
            if problem.line != line_before && !is_echo {
                line_before = problem.line;
                echoes_until = document.next_header(problem.line);
                report.push(problem);
            }
        }
        document
    }

    /// The line of the next table's header, if this line is a header: the keys of a second table of a name are second too.
    fn next_header(&self, line: usize) -> usize {
        let is_header = |text: &str| text.trim_start().starts_with('[');
        let mut lines = self.text.lines().enumerate().skip(line.saturating_sub(1));
        match lines.next() {
            Some((_, text)) if is_header(text) => lines.find(|(_, text)| is_header(text)).map_or(usize::MAX, |(at, _)| at + 1),
            _ => 0,
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> Problem {
        let key = error.span().and_then(|span| self.text.get(span)).unwrap_or_default().trim();
        if error.message() == DUPLICATE && !key.is_empty() {
            let at = error.span().map_or(0, |span| span.start);
            let remedy = match self.text.get(..at).is_some_and(|before| before.trim_end().ends_with('[')) {
                true => format!("put all of it under one [{key}], or write [[{key}]] if it is a list of them"),
                false => "keep one of them".to_owned(),
            };
            return self.problem(at, Severity::Error, format!("no valid TOML: `{key}` is here a second time"), remedy);
        }
        let (message, remedy) = match error.message().split_once(", expected ") {
            // What looks like the start of a number and is none is mostly a text without its quotes.
            Some((message, "nothing")) => (message, "write a text in quotes".to_owned()),
            Some((message, expected)) => (message, format!("expected {expected}")),
            None => (error.message(), String::new()),
        };
        let at = error.span().map_or(self.text.len(), |span| span.start);
        self.problem(at, Severity::Error, format!("no valid TOML: {}", message.trim()), remedy)
    }

    fn problem(&self, at: usize, severity: Severity, message: String, remedy: String) -> Problem {
        let (line, column) = position(&self.text, at);
        Problem { file: self.file.clone(), line, column, severity, message, remedy }
    }

    /// A place as a problem shows it: `file:line:column`.
    pub fn place(&self, at: &Range<usize>) -> String {
        let (line, column) = position(&self.text, at.start);
        format!("{}:{line}:{column}", self.file)
    }

    /// Records a problem at a place.
    pub fn push(&self, report: &mut Report, at: &Range<usize>, severity: Severity, message: String, remedy: &str) {
        report.push(self.problem(at.start, severity, message, remedy.to_owned()));
    }

    /// Records an error at a place.
    pub fn error(&self, report: &mut Report, at: &Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        report.push(self.problem(at.start, Severity::Error, message.into(), remedy.into()));
    }

    /// Records a warning at a place.
    pub fn warning(&self, report: &mut Report, at: &Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        report.push(self.problem(at.start, Severity::Warning, message.into(), remedy.into()));
    }
}

/// Line and column of a byte offset, from 1, the column in characters.
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    // Continuation bytes of UTF-8 begin no character.
    let column = before[line_start..].iter().filter(|b| **b & 0xC0 != 0x80).count() + 1;
    (line, column)
}

fn table(from: &DeTable<'_>) -> BTreeMap<String, Entry> {
    let entry = |value: &toml::Spanned<DeValue<'_>>, key| Entry { key, node: node(value) };
    from.iter().map(|(key, value)| (key.get_ref().to_string(), entry(value, key.span()))).collect()
}

fn node(from: &toml::Spanned<DeValue<'_>>) -> Node {
    let item = match from.get_ref() {
        DeValue::String(text) => Item::Text(text.to_string()),
        // The parser has checked the digits; what i128 cannot hold is out of every range.
        DeValue::Integer(n) => Item::Integer(i128::from_str_radix(n.as_str(), n.radix()).unwrap_or(i128::MAX)),
        DeValue::Float(n) => Item::Real(n.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Item::Flag(*flag),
        DeValue::Datetime(date) => Item::Date(date.to_string()),
        DeValue::Array(items) => Item::List(items.iter().map(node).collect()),
        DeValue::Table(inner) => Item::Table(table(inner)),
    };
    Node { span: from.span(), item }
}

impl Node {
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let entries = match &self.item {
            Item::Table(entries) => Some(entries.iter().map(|(name, entry)| (name.as_str(), entry))),
            _ => None,
        };
        entries.into_iter().flatten()
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.item {
            Item::Table(entries) => entries.get(key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The place of a key's value, else of the table.
    pub fn at(&self, key: &str) -> &Range<usize> {
        self.get(key).map_or(&self.span, |node| &node.span)
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.item {
            Item::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_duration(&self) -> Option<Duration> {
        humantime::parse_duration(self.as_text()?).ok()
    }

    pub fn as_list(&self) -> &[Node] {
        match &self.item {
            Item::List(items) => items,
            _ => &[],
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    pub fn count(&self, key: &str) -> Option<u64> {
        match self.get(key)?.item {
            Item::Integer(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    pub fn real(&self, key: &str) -> Option<f64> {
        match self.get(key)?.item {
            Item::Integer(n) => Some(n as f64),
            Item::Real(n) => Some(n),
            _ => None,
        }
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)?.item {
            Item::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.get(key)?.as_duration()
    }

    pub fn list(&self, key: &str) -> &[Node] {
        self.get(key).map_or(&[], Node::as_list)
    }

    /// The domains of a list, or patterns of them, in the form that compares.
    pub fn domains(&self, key: &str) -> Vec<String> {
        self.list(key).iter().filter_map(Node::as_text).map(domain::pattern).collect()
    }

    /// What a person calls the kind of value.
    pub fn kind(&self) -> &'static str {
        match self.item {
            Item::Text(_) => "a text",
            Item::Integer(_) => "a number",
            Item::Real(_) => "a number with a fraction",
            Item::Flag(_) => "true or false",
            Item::Date(_) => "a date",
            Item::List(_) => "a list",
            Item::Table(_) => "a table",
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match &self.item {
            Item::Text(text) | Item::Date(text) => text.clone().into(),
            Item::Integer(n) => i64::try_from(*n).map_or_else(|_| serde_json::Value::from(*n as f64), Into::into),
            Item::Real(n) => (*n).into(),
            Item::Flag(flag) => (*flag).into(),
            Item::List(items) => items.iter().map(Node::to_json).collect(),
            Item::Table(entries) => entries.iter().map(|(name, entry)| (name.clone(), entry.node.to_json())).collect(),
        }
    }

    /// Follows a JSON pointer as far as it leads.
    pub fn follow(&self, pointer: &str) -> &Node {
        let mut node = self;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match &node.item {
                Item::List(items) => part.parse().ok().and_then(|i: usize| items.get(i)),
                _ => node.get(&part),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }
}
