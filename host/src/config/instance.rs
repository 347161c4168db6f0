//! From a configured entry to what a plugin's instance is made from.

use crate::config::secrets::{Env, SecretError, resolve_secrets};
use crate::config::settings::{FeedbackEntry, SmtpEntry};
use crate::model::name::OrgName;
use postwarm_plugin_api::Instance;
use std::collections::BTreeMap;
use std::path::Path;

/// Makes an SMTP client's instance, secrets included. A plugin's state lies under `data_dir` and its id. Errors by
/// settings key.
pub fn smtp_instance(org: &OrgName, entry: &SmtpEntry, data_dir: &Path, env: &Env<'_>) -> Result<Instance, Vec<(String, SecretError)>> {
    Ok(Instance { secrets: resolve_secrets(&entry.secrets, env)?, ..smtp_parts(org, entry, data_dir) })
}

/// An SMTP client's instance without its secrets.
pub fn smtp_parts(org: &OrgName, entry: &SmtpEntry, data_dir: &Path) -> Instance {
    Instance {
        organization: org.as_str().to_owned(),
        name: entry.name.clone(),
        settings: entry.settings.clone(),
        secrets: BTreeMap::new(),
        connections_max: entry.connections,
        data_dir: data_dir.join(&entry.plugin),
    }
}

/// A feedback loop's instance without its secrets. A loop holds one connection.
pub fn feedback_parts(org: &OrgName, entry: &FeedbackEntry, data_dir: &Path) -> Instance {
    Instance {
        organization: org.as_str().to_owned(),
        name: entry.name.clone(),
        settings: entry.settings.clone(),
        secrets: BTreeMap::new(),
        connections_max: 1,
        data_dir: data_dir.join(&entry.plugin),
    }
}
