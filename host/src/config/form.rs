//! What form a file has: its keys, their values and ranges, as data. The check and the JSON Schema both read it.
//!
//! Invariant: a key stands in one table of `format.rs` and nowhere else; nothing here knows one by name.

use crate::config::document::{Document, Item, Node};
use crate::config::problem::{Report, choice};
use crate::config::texts::Text;
use std::ops::Range;
use std::time::Duration;

/// A table of known keys.
pub struct Table {
    /// How a person calls it: `[warmup]`.
    pub name: &'static str,
    pub keys: &'static [Key],
}

pub struct Key {
    pub name: &'static str,
    /// One sentence, with the unit and the default.
    pub about: &'static str,
    pub value: Value,
    pub required: bool,
}

pub enum Value {
    Flag,
    /// A whole number.
    Count {
        min: u64,
        max: u64,
    },
    Real {
        min: f64,
        max: f64,
    },
    /// `"30s"`.
    Duration {
        min: Duration,
        max: Duration,
    },
    Text(&'static Text),
    /// One of these words.
    Word(&'static [&'static str]),
    List {
        of: &'static Value,
        min: usize,
    },
    Table(&'static Table),
    /// A table whose keys are names that the user chooses.
    Named {
        names: &'static Text,
        of: &'static Value,
    },
    /// A table that a plugin knows.
    Settings,
    /// `{ env = "X" }` or `{ file = "..." }`.
    Secret,
}

/// Checks a whole file.
pub fn check(document: &Document, table: &Table, report: &mut Report) {
    Checker { document }.table(&document.root, table, report);
}

/// Says why a value is no reference to a secret, where it is none.
pub fn secret_reference(node: &Node) -> Result<(), &'static str> {
    let mut entries = node.entries();
    match (entries.next(), entries.next()) {
        (Some(("env" | "file", entry)), None) if entry.node.as_text().is_some_and(|text| !text.is_empty()) => Ok(()),
        _ => Err("write it as { env = \"VARIABLE\" } or { file = \"PATH\" }"),
    }
}

struct Checker<'a> {
    document: &'a Document,
}

impl Checker<'_> {
    fn table(&self, node: &Node, table: &Table, report: &mut Report) {
        for (name, entry) in node.entries() {
            match table.keys.iter().find(|key| key.name == name) {
                Some(key) => self.value(name, &entry.node, &key.value, report),
                None => {
                    let message = format!("`{}` is no key of {}", name.escape_debug(), table.name);
                    self.error(report, &entry.key, message, choice(name, table.keys.iter().map(|key| key.name), "remove it"));
                }
            }
        }
        for key in table.keys.iter().filter(|key| key.required && node.get(key.name).is_none()) {
            let message = format!("{} has no `{}`", table.name, key.name);
            self.error(report, &node.span, message, format!("add {} = {}", key.name, key.value.example()));
        }
    }

    fn value(&self, name: &str, node: &Node, value: &Value, report: &mut Report) {
        match (value, &node.item) {
            (Value::Flag, Item::Flag(_)) | (Value::Settings, Item::Table(_)) => {}
            (Value::Count { min, max }, Item::Integer(n)) => {
                if *n < i128::from(*min) || *n > i128::from(*max) {
                    self.error(report, &node.span, format!("`{name}` is out of range"), format!("use {min} to {max}"));
                }
            }
            (Value::Real { min, max }, Item::Integer(_) | Item::Real(_)) => {
                let n = if let Item::Integer(n) = node.item { n as f64 } else { node_real(node) };
                if !(*min..=*max).contains(&n) {
                    self.error(report, &node.span, format!("`{name}` is out of range"), format!("use {min} to {max}"));
                }
            }
            (Value::Duration { min, max }, Item::Text(text)) => self.duration(name, node, text, (*min, *max), report),
            (Value::Text(kind), Item::Text(text)) => {
                if !(kind.accepts)(text) {
                    self.error(report, &node.span, format!("`{}` is no {}", text.escape_debug(), kind.what), kind.remedy);
                }
            }
            (Value::Word(words), Item::Text(text)) => {
                if !words.contains(&text.as_str()) {
                    let message = format!("`{name}` cannot be `{}`", text.escape_debug());
                    self.error(report, &node.span, message, choice(text, words.iter().copied(), ""));
                }
            }
            (Value::List { of, min }, Item::List(items)) => {
                if items.len() < *min {
                    self.error(report, &node.span, format!("`{name}` is empty"), format!("write it as {}", value.example()));
                }
                items.iter().for_each(|item| self.value(name, item, of, report));
            }
            (Value::Table(table), Item::Table(_)) => self.table(node, table, report),
            (Value::Named { names, of }, Item::Table(_)) => self.named(node, names, of, report),
            (Value::Secret, _) => {
                if let Err(remedy) = secret_reference(node) {
                    self.error(report, &node.span, format!("`{name}` is no reference to a secret"), remedy);
                }
            }
            _ => self.error(report, &node.span, format!("`{name}` is {}", node.kind()), format!("write it as {}", value.example())),
        }
    }

    fn named(&self, node: &Node, names: &Text, of: &Value, report: &mut Report) {
        for (name, entry) in node.entries() {
            if !(names.accepts)(name) {
                self.error(report, &entry.key, format!("`{}` is no {}", name.escape_debug(), names.what), names.remedy);
            }
            self.value(name, &entry.node, of, report);
        }
    }

    fn duration(&self, name: &str, node: &Node, text: &str, (min, max): (Duration, Duration), report: &mut Report) {
        match humantime::parse_duration(text) {
            Ok(duration) if (min..=max).contains(&duration) => {}
            Ok(_) => {
                let range = format!("use {} to {}", humantime::format_duration(min), humantime::format_duration(max));
                self.error(report, &node.span, format!("`{name}` is out of range"), range);
            }
            Err(_) => {
                let message = format!("`{}` is no duration", text.escape_debug());
                self.error(report, &node.span, message, "write it as \"30s\", \"1h\" or \"7d\"");
            }
        }
    }

    fn error(&self, report: &mut Report, at: &Range<usize>, message: String, remedy: impl Into<String>) {
        self.document.error(report, at, message, remedy);
    }
}

fn node_real(node: &Node) -> f64 {
    if let Item::Real(n) = node.item { n } else { f64::NAN }
}

impl Value {
    /// A value as it may stand in a file.
    fn example(&self) -> String {
        match self {
            Value::Flag => "true or false".to_owned(),
            Value::Count { min, .. } => format!("a whole number from {min}"),
            Value::Real { min, max } => format!("a number from {min} to {max}"),
            Value::Duration { .. } => "\"30s\", \"1h\" or \"7d\"".to_owned(),
            Value::Text(kind) => kind.remedy.rsplit('"').nth(1).map_or("\"...\"".to_owned(), |example| format!("\"{example}\"")),
            Value::Word(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Value::List { of: Value::Table(table), .. } if table.name.starts_with("[[") => format!("a {} for each", table.name),
            Value::List { of, .. } => format!("[{}]", of.example()),
            Value::Table(table) => {
                let keys: Vec<&str> = table.keys.iter().map(|key| key.name).collect();
                format!("a table of {}", keys.join(", "))
            }
            Value::Named { .. } => "a table of names".to_owned(),
            Value::Settings => "a table, such as { host = \"127.0.0.1\" }".to_owned(),
            Value::Secret => "{ env = \"VARIABLE\" }".to_owned(),
        }
    }
}
