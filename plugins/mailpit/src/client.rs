//! The client that sends to Mailpit: the kit's, with Mailpit's defaults.
//!
//! Invariant: knows nothing of SMTP but where Mailpit listens.

use postwarm_plugin_api::{Builtin, Descriptor, Instance, Kind, SettingsProblem, SmtpClient, SmtpFactory, register_builtin};
use postwarm_plugin_kit::classify::classify;
use postwarm_plugin_kit::client::Client;
use postwarm_plugin_kit::schema::SETTINGS_SCHEMA;
use postwarm_plugin_kit::settings::{Defaults, ServerSettings, Tls};
use std::sync::Arc;

const DEFAULTS: Defaults = Defaults { host: Some("127.0.0.1"), port: Some(1025), tls: Some(Tls::None), messages_per_connection_max: None };

/// Makes clients of the plugin `mailpit`.
pub struct MailpitSmtp;

register_builtin!(Builtin::Smtp(&MailpitSmtp));

impl SmtpFactory for MailpitSmtp {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "mailpit".into(),
            kind: Kind::SmtpClient,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends to Mailpit, which keeps mail for a person to look at.".into(),
            settings_schema: SETTINGS_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let settings = ServerSettings::parse(&instance, DEFAULTS)?;
        Ok(Arc::new(Client::new(settings, instance.connections_max, classify)))
    }
}
