//! From the files of a folder to settings. `postwarm check`, the start and the running reload all come through here.
//!
//! Invariant: all problems of all files are found at once, and one file's problems never hide another's.

use crate::config::catalogue::Catalogue;
use crate::config::clients::Place;
use crate::config::document::Document;
use crate::config::files::{File, Files};
use crate::config::form;
use crate::config::format;
use crate::config::keys::{self, KeyLine, KeyRing};
use crate::config::organization::{self, Around, Draft};
use crate::config::overrides;
use crate::config::plugins::Plugins;
use crate::config::problem::{Problem, Report, Severity};
use crate::config::process;
use crate::config::providers::{self, Found};
use crate::config::secrets::Env;
use crate::config::serving::Serving;
use crate::config::settings::{Events, Organization, Process, Providers, Settings};
use crate::config::watch::Print;
use crate::model::name::OrgName;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a folder says.
#[derive(Debug)]
pub struct Loaded {
    /// Nothing where the problems do not allow it.
    pub settings: Option<Settings>,
    pub keys: KeyRing,
    /// What keeps a file from being taken up.
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

/// What each file says on its own; `None` for a broken one.
#[derive(Debug)]
pub struct Parts {
    pub process: Option<Process>,
    pub providers: Option<Providers>,
    pub organizations: BTreeMap<OrgName, Option<Organization>>,
    pub keys: BTreeMap<OrgName, Vec<KeyLine>>,
    /// Sorted by place.
    pub problems: Vec<Problem>,
    /// The files that secrets come from, as they were when they were read.
    pub secret_files: BTreeMap<PathBuf, Print>,
}

/// Loads a folder.
pub fn load(dir: &Path, serving: Serving, env: &Env<'_>, catalogue: &dyn Catalogue) -> Loaded {
    parts(&Files::read(dir), serving, env, catalogue).whole()
}

/// Loads what was read of a folder.
pub fn parts(files: &Files, serving: Serving, env: &Env<'_>, catalogue: &dyn Catalogue) -> Parts {
    let mut report = Report::default();
    if !files.dir.is_dir() {
        let remedy = "make it, or name another with --config";
        report.push(Problem::of(files.dir.display().to_string(), Severity::Error, "there is no such folder", remedy));
    }
    let plugins = Plugins { catalogue, env, secret_files: RefCell::default() };
    let process = process_of(files, serving, env, &mut report);
    let found = providers_of(files, &plugins, &mut report);
    let around = Around { plugins, process: process.as_ref(), providers: found.as_ref(), serving };
    let organizations = organizations(files, &around, &mut report);
    let keys = keys_of(files, &organizations, &mut report);
    let secret_files = around.plugins.secret_files.take();
    Parts { process, providers: found.map(|found| found.providers), organizations, keys, problems: report.sorted(), secret_files }
}

impl Parts {
    /// Puts the parts together, if none is broken.
    pub fn whole(self) -> Loaded {
        self.together(|_, problems| problems.is_empty())
    }

    /// Puts together what is not broken. A start takes it if each problem is of one organization, and one without any is
    /// left. `organizations` is the folder of their files.
    pub fn usable(self, organizations: &Path) -> Loaded {
        self.together(|found, problems| {
            let apart = problems.iter().all(|problem| Path::new(&problem.file).starts_with(organizations));
            problems.is_empty() || (apart && found.values().any(Option::is_some))
        })
    }

    fn together(self, allowed: impl Fn(&BTreeMap<OrgName, Option<Organization>>, &[Problem]) -> bool) -> Loaded {
        let ring = ring(&self.keys, |org| self.organizations.contains_key(org));
        let (problems, warnings): (Vec<_>, Vec<_>) = self.problems.into_iter().partition(|p| p.severity == Severity::Error);
        let settings = match (self.process, self.providers) {
            (Some(process), Some(providers)) if allowed(&self.organizations, &problems) => Some(Settings {
                process: Arc::new(process),
                providers: Arc::new(providers),
                unusable: self.organizations.iter().filter(|(_, org)| org.is_none()).map(|(name, _)| name.clone()).collect(),
                organizations: self.organizations.into_iter().filter_map(|(name, org)| Some((name, Arc::new(org?)))).collect(),
            }),
            _ => None,
        };
        Loaded { settings, keys: ring, problems, warnings }
    }
}

/// The keys of the organizations that there are.
pub fn ring(keys: &BTreeMap<OrgName, Vec<KeyLine>>, exists: impl Fn(&OrgName) -> bool) -> KeyRing {
    let of = keys.iter().filter(|(org, _)| exists(org));
    KeyRing::new(of.flat_map(|(org, lines)| lines.iter().map(|line| (line.hash, org.clone()))))
}

/// Parses one file and checks its form. An absent file is an empty one.
fn document(files: &Files, path: &str, table: &form::Table, report: &mut Report) -> Document {
    let shown = files.shown(path);
    let text = match files.texts.get(path).map(|file| &file.text) {
        Some(Ok(text)) => text.as_str(),
        Some(Err(problem)) => {
            report.push(problem.clone());
            ""
        }
        None => "",
    };
    let unread = report.has_errors();
    let mut document = Document::parse(&shown, text, report);
    document.broken |= unread;
    if !document.broken {
        form::check(&document, table, report);
    }
    document
}

fn process_of(files: &Files, serving: Serving, env: &Env<'_>, report: &mut Report) -> Option<Process> {
    let mut own = Report::default();
    let document = document(files, "postwarm.toml", &format::PROCESS, &mut own);
    let brokers = overrides::brokers(env, &mut own);
    if document.broken {
        report.append(own);
        return None;
    }
    let mut process = process::decode(&document, brokers, &mut own);
    overrides::apply(&mut process, serving, env, &mut own);
    let at = |section: &str, key: &str| document.root.get(section).map_or(0..0, |section| section.at(key).clone());
    if let Some(name) = &process.default_organization
        && !files.organizations(".toml").any(|(stem, _, _)| stem == name.as_str())
    {
        let remedy = format!("add organizations/{name}.toml, or name another");
        document.error(&mut own, &at("organizations", "default"), format!("there is no organization `{name}`"), remedy);
    }
    if serving == Serving::Both && process.warmup == process.health && process.warmup.listen.port() != 0 {
        let message = format!("health listens on {}, and so does warmup", process.health.listen);
        document.error(&mut own, &at("health", "listen"), message, "give it another port");
    }
    if serving == Serving::Health && matches!(process.events, Events::Embedded { .. }) {
        let message = "the embedded event log serves one process, and health alone would see no event";
        let remedy = "serve both in one process, or set kind = \"kafka\" in [events] or KAFKA_BROKERS";
        document.error(&mut own, &at("events", "kind"), message, remedy);
    }
    let process = (!own.has_errors()).then_some(process);
    report.append(own);
    process
}

fn providers_of(files: &Files, plugins: &Plugins<'_>, report: &mut Report) -> Option<Found> {
    let mut own = Report::default();
    let document = document(files, "providers.toml", &format::PROVIDERS, &mut own);
    let found = providers::decode(&document, plugins, &mut own);
    let found = (!own.has_errors()).then_some(found);
    report.append(own);
    found
}

fn organizations(files: &Files, around: &Around<'_>, report: &mut Report) -> BTreeMap<OrgName, Option<Organization>> {
    let mut drafts: BTreeMap<OrgName, (Draft, Report)> = BTreeMap::new();
    for (stem, path, file) in files.organizations(".toml") {
        match OrgName::parse(stem) {
            Ok(name) => drop(drafts.insert(name.clone(), draft(files, path, file, &name, around))),
            Err(message) => {
                let (message, remedy) = message.split_once(": ").unwrap_or((&message, ""));
                report.push(Problem::of(files.shown(path), Severity::Error, message, format!("rename the file: {remedy}")).at_start());
            }
        }
    }
    let only = (drafts.len() == 1).then(|| drafts.keys().next().cloned()).flatten();
    if let Some(process) = around.process {
        let name = process.default_organization.clone().or(only);
        match name.and_then(|name| drafts.get_mut(&name)) {
            // What a broken file lacks is no fault of the environment.
            Some((_, own)) if own.has_errors() => {}
            Some((draft, own)) => overrides::choose(around, Some(draft), own),
            None => overrides::choose(around, None, report),
        }
    }
    if let Some(problem) = &files.unlisted {
        report.push(problem.clone());
    } else if drafts.is_empty() {
        let folder = files.shown("organizations");
        report.push(Problem::of(folder, Severity::Warning, "there is no organization", "add organizations/NAME.toml"));
    }
    let mut organizations = BTreeMap::new();
    for (name, (draft, mut own)) in drafts {
        // Broken shared files are reported there, and leave an organization that cannot be trusted.
        let usable = !own.has_errors() && around.process.is_some() && around.providers.is_some();
        if usable && draft.organization.smtp.is_empty() {
            let shown = files.shown(&format!("organizations/{name}.toml"));
            own.push(Problem::of(shown, Severity::Warning, "there is no [[smtp]], so that mail waits", "add one").at_start());
        }
        report.append(own);
        organizations.insert(name, usable.then_some(draft.organization));
    }
    organizations
}

fn draft(files: &Files, path: &str, file: &File, org: &OrgName, around: &Around<'_>) -> (Draft, Report) {
    let mut own = Report::default();
    let document = document(files, path, &format::ORGANIZATION, &mut own);
    let base = files.dir.join("organizations");
    let place = Place { org, document: &document, around, base: &base, shared: file.shared };
    // A file that is no TOML at all says nothing else that is worth reporting.
    let mut found = Report::default();
    let draft = organization::decode(&place, &mut found);
    if !document.broken {
        own.append(found);
    }
    (draft, own)
}

fn keys_of(files: &Files, organizations: &BTreeMap<OrgName, Option<Organization>>, report: &mut Report) -> BTreeMap<OrgName, Vec<KeyLine>> {
    let mut keys: BTreeMap<OrgName, Vec<KeyLine>> = BTreeMap::new();
    let mut unread = Vec::new();
    for (stem, path, file) in files.organizations(".keys") {
        let shown = files.shown(path);
        let Some(org) = OrgName::parse(stem).ok().filter(|org| organizations.contains_key(org)) else {
            let message = "belongs to no organization, and lets nobody in";
            report.push(Problem::of(shown, Severity::Warning, message, format!("add organizations/{stem}.toml, or remove it")).at_start());
            continue;
        };
        match &file.text {
            Ok(text) => {
                let (lines, problems) = keys::parse(&shown, text);
                problems.into_iter().for_each(|problem| report.push(problem));
                keys.insert(org, lines);
            }
            Err(problem) => {
                report.push(problem.clone());
                unread.push(org);
            }
        }
    }
    // Whether a file holds a key that cannot be read is not known.
    for (org, organization) in organizations.iter().filter(|(org, _)| !unread.contains(org)) {
        let needs_key = organization.as_ref().is_some_and(|organization| !organization.development);
        if needs_key && keys.get(org).is_none_or(Vec::is_empty) {
            let shown = files.shown(&format!("organizations/{org}.toml"));
            let remedy = format!("make one with `postwarm key new {org}`");
            report.push(Problem::of(shown, Severity::Warning, "there is no API key, so that nobody can use it", remedy).at_start());
        }
    }
    keys
}
