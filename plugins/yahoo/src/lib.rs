//! Sends through Yahoo and reads its replies.
//!
//! Yahoo takes 20 messages a connection. The bracketed tag of a reply decides, not its three digits.
//!
//! Invariant: presets and a table; the client is the kit's.

use postwarm_plugin_api::{Builtin, Fault, register_builtin};
use postwarm_plugin_kit::classify::Rule;
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::settings::{Defaults, Tls};

register_builtin!(Builtin::Smtp(&YAHOO));

/// Makes clients of Yahoo.
pub const YAHOO: Preset = Preset {
    id: "yahoo",
    version: env!("CARGO_PKG_VERSION"),
    summary: "Sends through Yahoo and reads its replies.",
    defaults: Defaults {
        host: Some("smtp.mail.yahoo.com"),
        port: Some(465),
        tls: Some(Tls::Implicit),
        messages_per_connection_max: Some(20),
    },
    rules: RULES,
};

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

#[cfg(test)]
mod tests;
