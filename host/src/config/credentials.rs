//! Credentials of presets that the environment should hold and does not.
//!
//! Invariant: whether a plugin can do without them is asked of the plugin; no setting's name is known here.

use crate::config::instance::smtp_parts;
use crate::config::organization::Around;
use crate::config::problem::Severity;
use crate::config::settings::{Preset, SecretRef, SmtpEntry};
use crate::model::name::OrgName;
use postwarm_plugin_api::{Kind, Secret, SettingsProblem};
use std::collections::BTreeSet;
use std::path::Path;

/// Stands for a credential that is not there.
const STAND_IN: &str = "stand-in";

/// A preset, as an organization uses it.
pub struct Used<'a> {
    pub name: &'a str,
    pub preset: &'a Preset,
    /// The settings that need no variable, because the organization gives them.
    pub own: &'a [&'a str],
}

/// What a plugin says of a preset's client.
pub struct Asked {
    /// Without those that only a missing credential is to blame for.
    pub problems: Vec<SettingsProblem>,
    pub unset: Option<Unset>,
}

/// That variables are not set: an error where the plugin cannot do without.
pub struct Unset {
    pub severity: Severity,
    pub message: String,
}

impl Around<'_> {
    /// Asks the plugin about a preset's client, and where variables of its credentials are not set, whether that is why it
    /// refuses.
    pub fn ask_preset(&self, org: &OrgName, used: &Used<'_>, entry: &SmtpEntry) -> Asked {
        let (kind, plugin) = (Kind::SmtpClient, entry.plugin.as_str());
        let ask = |entry: &SmtpEntry| self.plugins.problems(kind, plugin, smtp_parts(org, entry, Path::new("data")), &entry.secrets);
        let mut problems = ask(entry);
        let is_set = |variable: &str| (self.plugins.env)(variable).is_some_and(|value| !value.is_empty());
        let credentials = used.preset.credentials.iter().filter(|(key, _)| !used.own.contains(&key.as_str()));
        let (set, unset): (Vec<_>, Vec<_>) = credentials.partition(|(_, variable)| is_set(variable));
        if unset.is_empty() {
            return Asked { problems, unset: None };
        }
        let secret_keys = self.plugins.catalogue.secrets(kind, plugin);
        let mut complete = entry.clone();
        for (key, _) in &unset {
            if secret_keys.contains(key) {
                complete.secrets.insert((*key).clone(), SecretRef::Literal(Secret::new(STAND_IN)));
            } else {
                complete.settings.insert((*key).clone(), STAND_IN.into());
            }
        }
        let remaining = ask(&complete);
        let before = problems.len();
        problems.retain(|problem| remaining.contains(problem));
        let severity = if problems.len() < before { Severity::Error } else { Severity::Warning };
        let names = |credentials: &[(&String, &String)]| {
            let variables: BTreeSet<String> = credentials.iter().map(|(_, variable)| format!("`{variable}`")).collect();
            let verb = if variables.len() == 1 { "is" } else { "are" };
            format!("{} {verb}", variables.into_iter().collect::<Vec<_>>().join(" and "))
        };
        let what = match (set.is_empty(), severity) {
            (false, _) => format!("{} set and {} not", names(&set), names(&unset)),
            (true, Severity::Error) => format!("{} not set, and it needs credentials", names(&unset)),
            (true, Severity::Warning) => format!("{} not set, so that it is used without credentials", names(&unset)),
        };
        Asked { problems, unset: Some(Unset { severity, message: format!("preset `{}`: {what}", used.name) }) }
    }
}
