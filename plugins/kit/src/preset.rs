//! A provider's SMTP client as data: what its TOML need not say, and how its replies read.
//!
//! Invariant: adds nothing to the kit's client but its tables.

use crate::classify::Rules;
use crate::client::Client;
use crate::schema::SETTINGS_SCHEMA;
use crate::settings::{Defaults, ServerSettings};
use postwarm_plugin_api::{Descriptor, Instance, Kind, SettingsProblem, SmtpClient, SmtpFactory};
use std::sync::Arc;

/// Makes clients of one provider.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// The plugin's id.
    pub id: &'static str,
    /// The plugin's version, `env!("CARGO_PKG_VERSION")` of its crate.
    pub version: &'static str,
    /// One sentence for lists.
    pub summary: &'static str,
    /// What the TOML need not say.
    pub defaults: Defaults,
    /// What the provider's replies mean where the general rules would be wrong.
    pub rules: Rules,
}

impl SmtpFactory for Preset {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: self.id.into(),
            kind: Kind::SmtpClient,
            version: self.version.into(),
            summary: self.summary.into(),
            settings_schema: SETTINGS_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let settings = ServerSettings::parse(&instance, self.defaults)?;
        Ok(Arc::new(Client::new(settings, instance.connections_max, self.rules)))
    }
}
