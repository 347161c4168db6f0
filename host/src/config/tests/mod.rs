//! A configuration folder to try things on, and plugins that check little.

mod broken;
mod load;
mod overrides;
mod reload;
mod start;

use crate::config::catalogue::Catalogue;
use crate::config::loader::{Loaded, load};
use crate::config::problem::Problem;
use crate::config::serving::Serving;
use crate::model::name::OrgName;
use postwarm_plugin_api::{Instance, Kind, SettingsProblem};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The SMTP client `relay` (host, port, user, password) and the feedback loop `mailbox` (url, token).
pub struct Plugins;

impl Catalogue for Plugins {
    fn has(&self, kind: Kind, id: &str) -> bool {
        self.ids(kind).iter().any(|known| known == id)
    }

    fn ids(&self, kind: Kind) -> Vec<String> {
        match kind {
            Kind::SmtpClient => vec!["relay".into(), "sandbox".into()],
            Kind::FeedbackLoop => vec!["mailbox".into()],
        }
    }

    fn check(&self, _: Kind, id: &str, instance: &Instance) -> Vec<SettingsProblem> {
        let settings = &instance.settings;
        let mut problems = Vec::new();
        if id == "relay" && !settings.get("host").is_some_and(|host| host.is_string()) {
            problems.push(SettingsProblem::new("/host", "is missing; write host = \"mail.example.com\""));
        }
        if settings.get("port").is_some_and(|port| port.as_u64().is_none_or(|port| port >= 65536)) {
            problems.push(SettingsProblem::new("/port", "port is no port; use 1 to 65535"));
        }
        if settings.contains_key("auth") && !settings.contains_key("user") {
            problems.push(SettingsProblem::new("/auth", "auth is on without a user; add one, or remove auth"));
        }
        if settings.contains_key("user") && !instance.secrets.contains_key("password") {
            problems.push(SettingsProblem::new("/password", "is missing, although there is a user; add it"));
        }
        problems
    }

    fn secrets(&self, kind: Kind, _: &str) -> Vec<String> {
        match kind {
            Kind::SmtpClient => vec!["password".into()],
            Kind::FeedbackLoop => vec!["token".into()],
        }
    }
}

pub const PROVIDERS: &str = r#"
[provider.bigmail]
aliases = ["BIG"]
domains = ["bigmail.example"]
mx_suffixes = ["mx.bigmail.example"]

[preset.bigmail]
aliases = ["BIG"]
plugin = "relay"
settings = { host = "smtp.bigmail.example", port = 587 }
credentials = { user = "BIG_USER", password = "BIG_PASSWORD" }
limits = { per_day = 500, connections = 3 }
"#;

pub const DEMO: &str = r#"
from_domains = ["demo.example"]
development = true
[[smtp]]
plugin = "sandbox"
"#;

/// A folder, with an environment of its own.
pub struct Folder {
    pub dir: tempfile::TempDir,
    pub env: BTreeMap<String, String>,
    pub serving: Serving,
}

impl Folder {
    pub fn new(files: &[(&str, &str)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("organizations")).unwrap();
        let folder = Folder { dir, env: BTreeMap::new(), serving: Serving::Both };
        files.iter().for_each(|(path, text)| folder.write(path, text));
        folder
    }

    /// A folder in which all is well, but for these files.
    pub fn demo(files: &[(&str, &str)]) -> Folder {
        let folder = Folder::new(&[("providers.toml", PROVIDERS), ("organizations/demo.toml", DEMO)]);
        files.iter().for_each(|(path, text)| folder.write(path, text));
        folder
    }

    pub fn set(mut self, variable: &str, value: &str) -> Folder {
        self.env.insert(variable.to_owned(), value.to_owned());
        self
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).unwrap();
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn load(&self) -> Loaded {
        load(self.dir.path(), self.serving, &|name| self.env.get(name).cloned(), &Plugins)
    }

    /// The problems as they are shown, without the folder's own path.
    pub fn shown(&self, problems: &[Problem]) -> String {
        let dir = format!("{}/", self.dir.path().display());
        problems.iter().map(|problem| format!("{problem}\n").replace(&dir, "")).collect()
    }
}

pub fn org(name: &str) -> OrgName {
    OrgName::parse(name).unwrap()
}
