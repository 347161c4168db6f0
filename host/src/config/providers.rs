//! `providers.toml` to [`Providers`].

use crate::config::document::{Document, Entry, Node};
use crate::config::limits;
use crate::config::plugins::{Plugins, plain_settings};
use crate::config::problem::Report;
use crate::config::settings::{MailboxProvider, Preset, Providers};
use crate::model::domain;
use crate::model::name::OTHER;
use postwarm_plugin_api::Kind;
use std::collections::BTreeMap;
use std::ops::Range;

/// The file's settings, and what only the loader needs.
#[derive(Debug, Default)]
pub struct Found {
    pub providers: Providers,
    /// Lower case name or alias to mailbox provider.
    pub mailbox_names: BTreeMap<String, String>,
    /// Lower case name or alias to preset.
    pub preset_names: BTreeMap<String, String>,
}

/// Decodes a document that `form::check` has seen.
pub fn decode(document: &Document, plugins: &Plugins<'_>, report: &mut Report) -> Found {
    let mut found = Found::default();
    for (name, entry) in document.root.get("provider").into_iter().flat_map(Node::entries) {
        let node = &entry.node;
        let provider = MailboxProvider {
            domains: node.domains("domains"),
            mx_suffixes: node.domains("mx_suffixes"),
            limits: limits::windows(document, node.get("limits"), report),
        };
        found.providers.mailbox.insert(name.to_owned(), provider);
    }
    found.mailbox_names = names(document, "provider", report);
    found.mailbox_names.entry(OTHER.to_owned()).or_insert_with(|| OTHER.to_owned());
    unique(document, "domains", report);
    unique(document, "mx_suffixes", report);

    for (name, entry) in document.root.get("preset").into_iter().flat_map(Node::entries) {
        let node = &entry.node;
        if let Some(id) = node.text("plugin") {
            plugins.known(document, Kind::SmtpClient, id, node.at("plugin"), report);
            no_secrets(document, node, &plugins.catalogue.secrets(Kind::SmtpClient, id), report);
        }
        let preset = Preset {
            aliases: node.list("aliases").iter().filter_map(Node::as_text).map(str::to_owned).collect(),
            plugin: node.text("plugin").unwrap_or_default().to_owned(),
            settings: plain_settings(document, node.get("settings"), report),
            credentials: node
                .get("credentials")
                .into_iter()
                .flat_map(Node::entries)
                .filter_map(|(key, variable)| Some((key.to_owned(), variable.node.as_text()?.to_owned())))
                .collect(),
            limits: limits::windows(document, node.get("limits"), report),
            connections: node.get("limits").and_then(|limits| limits.count("connections")).map(|n| n as u32),
        };
        found.providers.presets.insert(name.to_owned(), preset);
    }
    found.preset_names = names(document, "preset", report);
    found
}

/// A preset is for everybody; whoever uses it has the secrets.
fn no_secrets(document: &Document, preset: &Node, secrets: &[String], report: &mut Report) {
    for (key, entry) in preset.get("settings").into_iter().flat_map(Node::entries) {
        if secrets.iter().any(|secret| secret == key) {
            let remedy = format!("name its variable under credentials: {{ {key} = \"VARIABLE\" }}");
            document.error(report, &entry.key, format!("`{key}` is a secret, which a preset cannot hold"), remedy);
        }
    }
}

/// Lower case names and aliases of a section; each may be used once.
fn names(document: &Document, section: &str, report: &mut Report) -> BTreeMap<String, String> {
    let mut owners: BTreeMap<String, (&str, Range<usize>)> = BTreeMap::new();
    // An alias gives way to a name, wherever the two stand: it is the one that can be another.
    for (name, entry) in in_order(document, section) {
        owners.insert(name.to_lowercase(), (name, entry.key.clone()));
    }
    for (name, entry) in in_order(document, section) {
        for alias in entry.node.list("aliases") {
            let Some(text) = alias.as_text() else { continue };
            let (before, at) = owners.entry(text.to_lowercase()).or_insert_with(|| (name, alias.span.clone()));
            if *before != name {
                let message = format!("`{text}` already names [{section}.{before}] at {}", document.place(at));
                document.error(report, &alias.span, message, "use another alias");
            }
        }
    }
    owners.into_iter().map(|(text, (name, _))| (text, name.to_owned())).collect()
}

/// A recipient has one provider.
fn unique(document: &Document, key: &str, report: &mut Report) {
    let mut owners: BTreeMap<String, (&str, &Range<usize>)> = BTreeMap::new();
    for (name, entry) in in_order(document, "provider") {
        for item in entry.node.list(key) {
            let Some(text) = item.as_text().map(domain::pattern) else { continue };
            if let Some((before, at)) = owners.get(&text) {
                let message = format!("`{text}` already belongs to [provider.{before}] at {}", document.place(at));
                document.error(report, &item.span, message, "name it once");
            } else {
                owners.insert(text, (name, &item.span));
            }
        }
    }
}

/// A section's tables in the order of the file, so that of two definitions the later one is the second.
fn in_order<'a>(document: &'a Document, section: &str) -> Vec<(&'a str, &'a Entry)> {
    let mut entries: Vec<_> = document.root.get(section).into_iter().flat_map(Node::entries).collect();
    entries.sort_by_key(|(_, entry)| entry.key.start);
    entries
}
