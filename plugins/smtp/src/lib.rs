//! Sends through any SMTP server: the kit's client with the kit's general reply table.
//!
//! Invariant: knows no provider.

use postwarm_plugin_api::{Builtin, Descriptor, Instance, Kind, SettingsProblem, SmtpClient, SmtpFactory, register_builtin};
use postwarm_plugin_kit::classify::classify;
use postwarm_plugin_kit::client::Client;
use postwarm_plugin_kit::schema::SETTINGS_SCHEMA;
use postwarm_plugin_kit::settings::{Defaults, ServerSettings};
use std::sync::Arc;

/// Makes clients of any SMTP server.
pub struct Factory;

impl SmtpFactory for Factory {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "smtp".into(),
            kind: Kind::SmtpClient,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends through any SMTP server.".into(),
            settings_schema: SETTINGS_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let settings = ServerSettings::parse(&instance, Defaults::default())?;
        Ok(Arc::new(Client::new(settings, instance.connections_max, classify)))
    }
}

register_builtin!(Builtin::Smtp(&Factory));

#[cfg(test)]
mod tests;
