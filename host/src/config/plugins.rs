//! What a file says to plugins: ids, settings and secrets.
//!
//! Invariant: a secret leaves a settings table before anybody else sees the table.

use crate::config::catalogue::Catalogue;
use crate::config::document::{Document, Item, Node};
use crate::config::form::secret_reference;
use crate::config::problem::{Report, choice};
use crate::config::secrets::{Env, Fingerprint, resolve};
use crate::config::settings::SecretRef;
use crate::config::watch::{Print, print};
use postwarm_plugin_api::{Instance, Kind, Secret, SettingsProblem};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The plugins and the environment that a file is checked against.
pub struct Plugins<'a> {
    pub catalogue: &'a dyn Catalogue,
    pub env: &'a Env<'a>,
    /// The files that secrets were read from, or should have been, as they were just before.
    pub secret_files: RefCell<BTreeMap<PathBuf, Print>>,
}

/// A settings table, taken apart.
#[derive(Debug, Default, Clone)]
pub struct Settings {
    pub plain: Map<String, Value>,
    pub secrets: BTreeMap<String, SecretRef>,
}

/// Where a settings table stands.
pub struct Table<'a> {
    pub document: &'a Document,
    pub node: Option<&'a Node>,
    /// The folder that `{ file = "..." }` starts from.
    pub base: &'a Path,
    /// Whether others than the owner may read the file.
    pub shared: bool,
}

impl Plugins<'_> {
    /// Tells whether a plugin exists, and reports where it does not.
    pub fn known(&self, document: &Document, kind: Kind, id: &str, at: &Range<usize>, report: &mut Report) -> bool {
        let known = self.catalogue.has(kind, id);
        if !known {
            let ids = self.catalogue.ids(kind);
            let what = match kind {
                Kind::SmtpClient => "SMTP client",
                Kind::FeedbackLoop => "feedback loop",
            };
            let remedy = choice(id, ids.iter().map(String::as_str), "drop its file into the plugins directory");
            document.error(report, at, format!("there is no {what} plugin `{id}`"), remedy);
        }
        known
    }

    /// Takes a settings table apart into what is plain and what is secret.
    pub fn settings(&self, kind: Kind, id: &str, table: &Table<'_>, report: &mut Report) -> Settings {
        let secret_keys = self.catalogue.secrets(kind, id);
        let mut settings = Settings { plain: plain_settings(table.document, table.node, report), secrets: BTreeMap::new() };
        for (key, entry) in table.node.into_iter().flat_map(Node::entries).filter(|(key, _)| secret_keys.iter().any(|s| s == key)) {
            settings.plain.remove(key);
            if let Some(reference) = self.secret(key, &entry.node, table, report) {
                settings.secrets.insert(key.to_owned(), reference);
            }
        }
        settings
    }

    /// Reads a secret's reference and makes sure that the secret can be had.
    pub fn secret(&self, key: &str, node: &Node, table: &Table<'_>, report: &mut Report) -> Option<SecretRef> {
        let document = table.document;
        if let Item::Text(text) = &node.item {
            let remedy = format!("write {key} = {{ env = \"VARIABLE\" }} or {{ file = \"PATH\" }}");
            if table.shared {
                document.error(report, &node.span, format!("the secret `{key}` stands in a file that others can read"), remedy);
            } else {
                document.warning(report, &node.span, format!("the secret `{key}` stands in the file itself"), remedy);
            }
            return Some(SecretRef::Literal(Secret::new(text.as_str())));
        }
        if let Err(remedy) = secret_reference(node) {
            document.error(report, &node.span, format!("`{key}` is no reference to a secret"), remedy);
            return None;
        }
        let mut reference = match node.text("env") {
            Some(variable) => SecretRef::Env(variable.to_owned()),
            None => SecretRef::File { path: table.base.join(node.text("file").unwrap_or_default()), fingerprint: None },
        };
        if let SecretRef::File { path, .. } = &reference {
            self.secret_files.borrow_mut().entry(path.clone()).or_insert_with(|| print(path));
        }
        match (resolve(&reference, self.env), &mut reference) {
            (Ok(secret), SecretRef::File { fingerprint, .. }) => *fingerprint = Some(Fingerprint::of(&secret)),
            (Ok(_), _) => {}
            (Err(error), _) => {
                let text = error.to_string();
                let (message, remedy) = text.split_once("; ").unwrap_or((&text, ""));
                document.error(report, &node.span, format!("`{key}`: {message}"), remedy);
            }
        }
        Some(reference)
    }

    /// Asks the plugin what is wrong with an instance's settings.
    pub fn problems(&self, kind: Kind, id: &str, mut instance: Instance, secrets: &BTreeMap<String, SecretRef>) -> Vec<SettingsProblem> {
        let mut unresolved = Vec::new();
        for (key, reference) in secrets {
            let secret = resolve(reference, self.env).unwrap_or_else(|_| {
                unresolved.push(format!("/{key}"));
                Secret::new("unresolved")
            });
            instance.secrets.insert(key.clone(), secret);
        }
        let mut problems = self.catalogue.check(kind, id, &instance);
        // That it cannot be had is reported already; what the plugin thinks of its stand-in means nothing.
        problems.retain(|problem| !unresolved.contains(&problem.pointer));
        problems
    }
}

/// Reads a settings table as JSON, which has no infinity.
pub fn plain_settings(document: &Document, node: Option<&Node>, report: &mut Report) -> Map<String, Value> {
    let Some(node) = node else { return Map::new() };
    refuse_infinite(document, node, report);
    match node.to_json() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn refuse_infinite(document: &Document, node: &Node, report: &mut Report) {
    match &node.item {
        Item::Real(n) if !n.is_finite() => document.error(report, &node.span, "settings have no infinite number", "write a finite one"),
        Item::List(items) => items.iter().for_each(|item| refuse_infinite(document, item, report)),
        Item::Table(_) => node.entries().for_each(|(_, entry)| refuse_infinite(document, &entry.node, report)),
        _ => {}
    }
}
