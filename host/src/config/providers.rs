//! `providers.toml` to [`Providers`].

use crate::config::document::{Document, Node};
use crate::config::limits;
use crate::config::plugins::{Plugins, plain_settings};
use crate::config::problem::Report;
use crate::config::settings::{MailboxProvider, Preset, Providers};
use crate::model::domain;
use postwarm_plugin_api::Kind;
use std::collections::BTreeMap;

/// The file's settings, and what only the loader needs.
#[derive(Debug, Default)]
pub struct Found {
    pub providers: Providers,
    /// Lower case name or alias to mailbox provider.
    pub mailbox_names: BTreeMap<String, String>,
    /// Lower case name or alias to preset.
    pub preset_names: BTreeMap<String, String>,
}

/// Everybody whose provider nobody knows.
const OTHER: &str = "other";

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
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let entries = || document.root.get(section).into_iter().flat_map(Node::entries);
    for (name, _) in entries() {
        names.insert(name.to_lowercase(), name.to_owned());
    }
    for (name, entry) in entries() {
        for alias in entry.node.list("aliases") {
            let Some(text) = alias.as_text() else { continue };
            if let Some(before) = names.insert(text.to_lowercase(), name.to_owned())
                && before != name
            {
                let message = format!("`{text}` already names [{section}.{before}]");
                document.error(report, &alias.span, message, "use another alias");
            }
        }
    }
    names
}

/// A recipient has one provider.
fn unique(document: &Document, key: &str, report: &mut Report) {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for (name, entry) in document.root.get("provider").into_iter().flat_map(Node::entries) {
        for item in entry.node.list(key) {
            let Some(text) = item.as_text().map(domain::pattern) else { continue };
            if let Some(before) = owners.insert(text.clone(), name) {
                let message = format!("`{text}` already belongs to [provider.{before}]");
                document.error(report, &item.span, message, "name it once");
            }
        }
    }
}
