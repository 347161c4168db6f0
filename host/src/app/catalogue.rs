//! The registry as the configuration and the engine see it: what may be named, and what is made of a name.

use crate::config::catalogue::Catalogue;
use crate::config::instance::{feedback_parts, smtp_instance};
use crate::config::live::SharedEnv;
use crate::config::secrets::{SecretError, resolve_secrets};
use crate::config::settings::{FeedbackEntry, Organization, SmtpEntry};
use crate::health::charge::Origin;
use crate::model::name::OrgName;
use crate::registry::Registry;
use crate::warmup::engine::MakeClient;
use postwarm_plugin_api::{FeedbackLoop, Instance, Kind, SettingsProblem, SmtpClient};
use std::path::PathBuf;
use std::sync::Arc;

/// The plugins of this process, with what their instances are made from.
pub struct Plugins {
    pub registry: Arc<Registry>,
    pub data: PathBuf,
    pub env: SharedEnv,
}

impl Plugins {
    /// What a feedback loop would be made from now. Loads its plugin, for only then it is known which content is used, and
    /// reads files of secrets.
    pub fn origin(&self, entry: &FeedbackEntry) -> Result<Origin, String> {
        self.registry.resolve_feedback(&entry.plugin)?;
        let plugin =
            self.registry.list().into_iter().find(|p| p.kind == Some(Kind::FeedbackLoop) && p.id.as_deref() == Some(&*entry.plugin));
        Ok(Origin { secrets: resolve_secrets(&entry.secrets, &*self.env).map_err(secrets)?, sha256: plugin.and_then(|p| p.sha256) })
    }

    /// Makes a feedback loop. `Err` says in words why there is none.
    pub fn make_loop(&self, org: &OrgName, entry: &FeedbackEntry, origin: &Origin) -> Result<Arc<dyn FeedbackLoop>, String> {
        let factory = self.registry.resolve_feedback(&entry.plugin)?;
        let instance = Instance { secrets: origin.secrets.clone(), ..feedback_parts(org, entry, &self.data) };
        factory.create(instance).map_err(problems)
    }
}

impl MakeClient for Plugins {
    fn make(&self, organization: &Organization, entry: &SmtpEntry) -> Result<Arc<dyn SmtpClient>, String> {
        let factory = self.registry.resolve_smtp(&entry.plugin)?;
        let instance = smtp_instance(&organization.name, entry, &self.data, &*self.env).map_err(secrets)?;
        factory.create(instance).map_err(problems)
    }
}

fn secrets(errors: Vec<(String, SecretError)>) -> String {
    errors.into_iter().map(|(key, error)| format!("{key}: {error}")).collect::<Vec<_>>().join("; ")
}

fn problems(problems: Vec<SettingsProblem>) -> String {
    problems.into_iter().map(|p| format!("{}: {}", p.pointer, p.message)).collect::<Vec<_>>().join("; ")
}

/// What the configuration may name.
pub struct RegistryCatalogue {
    pub registry: Arc<Registry>,
    /// The data folder of the instances that are made to see whether they can be.
    pub data: PathBuf,
}

impl Catalogue for RegistryCatalogue {
    fn has(&self, kind: Kind, id: &str) -> bool {
        self.registry.ids(kind).iter().any(|known| known == id)
    }

    fn ids(&self, kind: Kind) -> Vec<String> {
        self.registry.ids(kind)
    }

    fn check(&self, kind: Kind, id: &str, instance: &Instance) -> Vec<SettingsProblem> {
        let instance = Instance { data_dir: self.data.join(id), ..instance.clone() };
        let whole = |words: String| vec![SettingsProblem::new("", words)];
        let made = match kind {
            Kind::SmtpClient => match self.registry.resolve_smtp(id) {
                Ok(factory) => factory.create(instance).map(|_| ()),
                Err(words) => Err(whole(words)),
            },
            Kind::FeedbackLoop => match self.registry.resolve_feedback(id) {
                Ok(factory) => factory.create(instance).map(|_| ()),
                Err(words) => Err(whole(words)),
            },
        };
        made.err().unwrap_or_default()
    }

    fn secrets(&self, kind: Kind, id: &str) -> Vec<String> {
        let schema = self.registry.describe(kind, id).map(|d| d.settings_schema).unwrap_or_default();
        let schema: serde_json::Value = serde_json::from_str(&schema).unwrap_or_default();
        let properties = schema.get("properties").and_then(|p| p.as_object());
        let secret = |value: &serde_json::Value| value.get("writeOnly") == Some(&serde_json::Value::Bool(true));
        properties.into_iter().flatten().filter(|(_, value)| secret(value)).map(|(key, _)| key.clone()).collect()
    }
}
