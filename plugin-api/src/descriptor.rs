//! What a plugin says of itself, and what an instance of it is made from.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    SmtpClient,
    FeedbackLoop,
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The name that TOML uses: lower case letters, digits and hyphens.
    pub id: Cow<'static, str>,
    pub kind: Kind,
    /// The plugin's own version.
    pub version: Cow<'static, str>,
    /// One sentence for `plugin list`.
    pub summary: Cow<'static, str>,
    /// A JSON Schema (2020-12) of the `settings` table. Properties marked `"writeOnly": true` are secrets, which TOML
    /// may give as references only.
    pub settings_schema: Cow<'static, str>,
}

/// What one configured instance is made from.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The organization's name.
    pub organization: String,
    /// The instance's name within the organization.
    pub name: String,
    /// The `settings` table, without its secrets.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The resolved secrets of `settings`, by key.
    pub secrets: BTreeMap<String, Secret>,
    /// The connections that the instance may hold at a time. At least 1.
    pub connections_max: u32,
    /// A folder that the plugin may keep state in; made on first use, by the plugin.
    pub data_dir: PathBuf,
}

/// What is wrong with the settings of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsProblem {
    /// A JSON pointer into `settings`, such as `/port`; empty for the table as a whole.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SettingsProblem {
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> SettingsProblem {
        SettingsProblem { pointer: pointer.into(), message: message.into() }
    }
}

/// A secret. It has no `Display` and no `Serialize`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// Returns the secret itself. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
