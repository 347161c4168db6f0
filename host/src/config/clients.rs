//! `[[smtp]]` and `[[feedback]]`, with presets applied.

use crate::config::credentials::{Unset, Used};
use crate::config::document::{Document, Node};
use crate::config::instance::{feedback_parts, smtp_parts};
use crate::config::limits;
use crate::config::organization::Around;
use crate::config::plugins::{Settings, Table};
use crate::config::problem::{Report, choice};
use crate::config::settings::{FeedbackEntry, Preset, SecretRef, SmtpEntry};
use crate::model::domain;
use crate::model::name::OrgName;
use postwarm_plugin_api::{Kind, SettingsProblem};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Connections of a client that says nothing.
const CONNECTIONS: u32 = 10;

/// An SMTP client and the preset that it came from.
#[derive(Debug)]
pub struct Client {
    pub entry: SmtpEntry,
    pub preset: Option<String>,
}

/// One organization's file, while it is decoded.
pub struct Place<'a> {
    pub org: &'a OrgName,
    pub document: &'a Document,
    pub around: &'a Around<'a>,
    pub base: &'a Path,
    pub shared: bool,
}

/// An entry, and where it names its plugin.
struct Named<'a> {
    node: &'a Node,
    at: &'a Range<usize>,
}

impl Place<'_> {
    /// Reads `[[smtp]]`. An entry whose preset or plugin is not known is reported and left out.
    pub fn smtp(&self, report: &mut Report) -> Vec<Client> {
        let mut names = BTreeSet::new();
        let mut clients = Vec::new();
        for node in self.document.root.list("smtp") {
            let Some(client) = self.client(node, report) else { continue };
            if !names.insert(client.entry.name.clone()) {
                self.twice("SMTP client", &client.entry.name, node, report);
            }
            clients.push(client);
        }
        clients
    }

    fn client(&self, node: &Node, report: &mut Report) -> Option<Client> {
        let (preset_name, preset) = match (node.text("plugin"), node.text("preset")) {
            (Some(_), None) => (None, None),
            (None, Some(name)) => {
                let name = self.preset(name, node.at("preset"), report)?;
                (Some(name.to_owned()), self.around.providers?.providers.presets.get(name))
            }
            (plugin, _) => {
                let message = if plugin.is_some() { "[[smtp]] has a plugin and a preset" } else { "[[smtp]] has no plugin and no preset" };
                self.document.error(report, &node.span, message, "name one: plugin = \"...\" or preset = \"...\"");
                return None;
            }
        };
        let plugin = preset.map_or_else(|| node.text("plugin").unwrap_or_default(), |preset| preset.plugin.as_str());
        let mut at = node.at("plugin");
        if preset.is_some() {
            at = node.at("preset");
        }
        if !self.around.plugins.known(self.document, Kind::SmtpClient, plugin, at, report) {
            return None;
        }
        let settings = self.settings(Kind::SmtpClient, plugin, node, preset, report);
        let own_keys: Vec<&str> = node.get("settings").into_iter().flat_map(Node::entries).map(|(key, _)| key).collect();
        let limits_node = node.get("limits");
        let own_limits = limits::windows(self.document, limits_node, report);
        let connections = limits_node.and_then(|limits| limits.count("connections")).map(|n| n as u32);
        let entry = SmtpEntry {
            name: node.text("name").or(preset_name.as_deref()).unwrap_or(plugin).to_owned(),
            plugin: plugin.to_owned(),
            settings: settings.plain,
            secrets: settings.secrets,
            limits: preset.map_or(own_limits.clone(), |preset| limits::merge(&preset.limits, &own_limits)),
            connections: connections.or(preset.and_then(|preset| preset.connections)).unwrap_or(CONNECTIONS),
            share: node.text("share").map(str::to_owned),
        };
        self.share(node, report);
        let problems = match preset_name.as_deref().zip(preset) {
            None => self.around.plugins.problems(Kind::SmtpClient, plugin, smtp_parts(self.org, &entry, Path::new("data")), &entry.secrets),
            Some((name, preset)) => {
                let asked = self.around.ask_preset(self.org, &Used { name, preset, own: &own_keys }, &entry);
                if let Some(Unset { severity, message }) = asked.unset {
                    let remedy = "set what is missing, or write it into settings";
                    self.document.push(report, at, severity, message, remedy);
                }
                asked.problems
            }
        };
        self.show(&Named { node, at }, &problems, report);
        Some(Client { entry, preset: preset_name })
    }

    fn preset<'p>(&'p self, name: &str, at: &Range<usize>, report: &mut Report) -> Option<&'p str> {
        // Where providers.toml is broken, that is the problem to report.
        let names = &self.around.providers?.preset_names;
        let found = names.get(&name.to_lowercase()).map(String::as_str);
        if found.is_none() {
            let remedy = choice(name, names.keys().map(String::as_str), "add [preset.NAME] to providers.toml");
            self.document.error(report, at, format!("there is no preset `{name}` in providers.toml"), remedy);
        }
        found
    }

    fn share(&self, node: &Node, report: &mut Report) {
        let (Some(share), Some(process)) = (node.text("share"), self.around.process) else { return };
        if !process.shares.contains_key(share) {
            let remedy = choice(share, process.shares.keys().map(String::as_str), "add [shares.NAME] to postwarm.toml");
            self.document.error(report, node.at("share"), format!("there is no share `{share}` in postwarm.toml"), remedy);
        }
    }

    fn settings(&self, kind: Kind, plugin: &str, node: &Node, preset: Option<&Preset>, report: &mut Report) -> Settings {
        let table = Table { document: self.document, node: node.get("settings"), base: self.base, shared: self.shared };
        let own = self.around.plugins.settings(kind, plugin, &table, report);
        match preset {
            Some(preset) => self.around.with_preset(preset, own),
            None => own,
        }
    }

    /// Shows what the plugin found wrong where the setting stands.
    fn show(&self, named: &Named<'_>, problems: &[SettingsProblem], report: &mut Report) {
        for problem in problems {
            let settings = named.node.get("settings");
            let first = problem.pointer.split('/').nth(1);
            let at = match (settings, first) {
                (Some(settings), None) => &settings.span,
                (Some(settings), Some(key)) if settings.get(key).is_some() => &settings.follow(&problem.pointer).span,
                // A setting that is absent, or the preset's.
                (Some(settings), Some(_)) if named.node.get("preset").is_none() => &settings.span,
                _ => named.at,
            };
            let (message, remedy) = said(problem);
            self.document.error(report, at, message, remedy);
        }
    }

    fn twice(&self, what: &str, name: &str, node: &Node, report: &mut Report) {
        let message = format!("a second {what} is named `{name}`");
        self.document.error(report, node.at("name"), message, "give each its own name = \"...\"");
    }

    /// Reads `[[feedback]]`.
    pub fn feedback(&self, report: &mut Report) -> Vec<FeedbackEntry> {
        let mut entries: Vec<FeedbackEntry> = Vec::new();
        let mut patterns: BTreeMap<String, String> = BTreeMap::new();
        for node in self.document.root.list("feedback") {
            let Some(plugin) = node.text("plugin") else { continue };
            if !self.around.plugins.known(self.document, Kind::FeedbackLoop, plugin, node.at("plugin"), report) {
                continue;
            }
            let taken = |name: &str| entries.iter().any(|entry| entry.name == name);
            let name = node.text("name").map_or_else(|| numbered(plugin, taken), str::to_owned);
            if taken(&name) {
                self.twice("feedback loop", &name, node, report);
            }
            let settings = self.settings(Kind::FeedbackLoop, plugin, node, None, report);
            let entry = FeedbackEntry {
                name: name.clone(),
                plugin: plugin.to_owned(),
                domains: node.domains("domains"),
                interval: node.duration("interval").unwrap_or(Duration::from_secs(30)),
                settings: settings.plain,
                secrets: settings.secrets,
            };
            let instance = feedback_parts(self.org, &entry, Path::new("data"));
            let problems = self.around.plugins.problems(Kind::FeedbackLoop, plugin, instance, &entry.secrets);
            self.show(&Named { node, at: node.at("plugin") }, &problems, report);
            for item in node.list("domains") {
                let Some(pattern) = item.as_text().map(domain::pattern) else { continue };
                if let Some(first) = patterns.get(&pattern) {
                    let message = format!("`{pattern}` is answered for by `{first}` already, so this has no effect");
                    self.document.warning(report, &item.span, message, "name it in one [[feedback]]");
                } else {
                    patterns.insert(pattern, name.clone());
                }
            }
            entries.push(entry);
        }
        entries
    }
}

/// What a plugin says of a setting, as message and remedy. The setting's name is said once.
pub fn said(problem: &SettingsProblem) -> (String, &str) {
    let name = problem.pointer.trim_start_matches('/').replace('/', ".");
    let (message, remedy) = problem.message.split_once("; ").unwrap_or((&problem.message, ""));
    if name.is_empty() {
        return (format!("`settings` {message}"), remedy);
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let message = [name.as_str(), last].iter().find_map(|name| message.strip_prefix(name)?.strip_prefix(' ')).unwrap_or(message);
    (format!("`settings.{name}` {message}"), remedy)
}

/// `csv`, `csv-2`, `csv-3`.
fn numbered(plugin: &str, taken: impl Fn(&str) -> bool) -> String {
    let candidates = std::iter::once(plugin.to_owned()).chain((2..).map(|n| format!("{plugin}-{n}")));
    candidates.into_iter().find(|name| !taken(name)).expect("the numbers do not end before the entries do")
}

impl Around<'_> {
    /// Lays an entry's own settings over a preset's, with the credentials that the environment holds.
    fn with_preset(&self, preset: &Preset, own: Settings) -> Settings {
        let secret_keys = self.plugins.catalogue.secrets(Kind::SmtpClient, &preset.plugin);
        let mut settings = Settings { plain: preset.settings.clone(), secrets: BTreeMap::new() };
        for (key, variable) in &preset.credentials {
            let Some(value) = (self.plugins.env)(variable).filter(|value| !value.is_empty()) else { continue };
            if secret_keys.contains(key) {
                settings.secrets.insert(key.clone(), SecretRef::Env(variable.clone()));
            } else {
                settings.plain.insert(key.clone(), value.into());
            }
        }
        settings.plain.extend(own.plain);
        settings.secrets.extend(own.secrets);
        settings
    }

    /// Makes the client of a preset that no TOML names.
    pub fn preset_client(&self, name: &str, preset: &Preset) -> SmtpEntry {
        let settings = self.with_preset(preset, Settings::default());
        SmtpEntry {
            name: name.to_owned(),
            plugin: preset.plugin.clone(),
            settings: settings.plain,
            secrets: settings.secrets,
            limits: preset.limits.clone(),
            connections: preset.connections.unwrap_or(CONNECTIONS),
            share: None,
        }
    }
}
