//! Sends through Yahoo and reads its replies.
//!
//! Yahoo takes 20 messages a connection. The bracketed tag of a reply decides, not its three digits.
//!
//! Invariant: presets and a table; the session is the kit's.

use postwarm_plugin_api::{
    Builtin, Descriptor, Fault, Instance, Kind, Phase, Reply, SettingsProblem, SmtpClient, SmtpFactory, register_builtin,
};
use postwarm_plugin_kit::classify::{Rule, classify_by};
use postwarm_plugin_kit::client::Client;
use postwarm_plugin_kit::schema::SETTINGS_SCHEMA;
use postwarm_plugin_kit::settings::{Defaults, ServerSettings, Tls};
use std::sync::Arc;
use std::time::Duration;

/// What the TOML need not say.
const DEFAULTS: Defaults =
    Defaults { host: Some("smtp.mail.yahoo.com"), port: Some(465), tls: Some(Tls::Implicit), messages_per_connection_max: Some(20) };

/// Yahoo's replies, the most telling first.
const RULES: &[Rule] = &[
    Rule::text("[tss04]", Fault::Domain).after_secs(2 * 3600),
    Rule::text("[ipts04]", Fault::Domain).after_secs(2 * 3600),
    Rule::text("[tss05]", Fault::Domain).after_secs(4 * 3600),
    Rule::text("[ipts05]", Fault::Domain).after_secs(4 * 3600),
    // A 421 that no retry clears; the longest wait keeps the server in peace until somebody looks.
    Rule::text("[ts03]", Fault::Domain).after_secs(24 * 3600),
    Rule::text("[ts0", Fault::Domain).after_secs(2 * 3600),
    Rule::text("[tss", Fault::Domain),
    Rule::text("permanently deferred", Fault::Domain),
    Rule::text("[bl", Fault::Domain),
    Rule::text("[ph01]", Fault::Content),
    Rule::text("not accepted for policy reasons", Fault::Content),
    Rule::text("senders to authenticate", Fault::Domain),
    Rule::text("unresolvable rfc.5321 from domain", Fault::Domain),
    Rule::text("receiving mail too quickly", Fault::Network).after_secs(1800),
    Rule::text("max message per connection reached", Fault::Network).after_secs(1),
    // A hard bounce, though it comes as a 552 after the data.
    Rule::text("mailbox not found", Fault::Recipient),
    Rule::text("doesn't have a", Fault::Recipient),
    Rule::text("this mailbox is disabled", Fault::Recipient),
];

/// Says whose fault a reply of Yahoo is.
pub fn classify(reply: &Reply, phase: Phase) -> (Fault, Option<Duration>) {
    classify_by(RULES, reply, phase)
}

/// Makes clients of Yahoo.
pub struct Factory;

impl SmtpFactory for Factory {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "yahoo".into(),
            kind: Kind::SmtpClient,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Sends through Yahoo and reads its replies.".into(),
            settings_schema: SETTINGS_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        let settings = ServerSettings::parse(&instance, DEFAULTS)?;
        Ok(Arc::new(Client::new(settings, instance.connections_max, classify)))
    }
}

register_builtin!(Builtin::Smtp(&Factory));

#[cfg(test)]
mod tests;
