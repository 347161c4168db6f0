//! Sends through Gmail and reads its replies.
//!
//! The password is an app password, or with `auth = "xoauth2"` an access token.
//!
//! Invariant: presets and a table; the client is the kit's.

use postwarm_plugin_api::{Builtin, Fault, register_builtin};
use postwarm_plugin_kit::classify::Rule;
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::settings::{Defaults, Tls};

register_builtin!(Builtin::Smtp(&GMAIL));

/// Makes clients of Gmail.
pub const GMAIL: Preset = Preset {
    id: "gmail",
    version: env!("CARGO_PKG_VERSION"),
    summary: "Sends through Gmail and reads its replies.",
    defaults: Defaults { host: Some("smtp.gmail.com"), port: Some(587), tls: Some(Tls::StartTls), messages_per_connection_max: Some(1000) },
    rules: RULES,
};

/// Google's replies (its support page on SMTP errors), the most telling first.
const RULES: &[Rule] = &[
    // Our account is at its limit; the recipient has nothing to do with it.
    Rule::text("daily user sending limit exceeded", Fault::Account).after_secs(24 * 3600),
    Rule::text("daily user sending quota exceeded", Fault::Account).after_secs(24 * 3600),
    Rule::text("daily sending quota exceeded", Fault::Account).after_secs(24 * 3600),
    Rule::text("daily smtp relay", Fault::Account).after_secs(24 * 3600),
    Rule::text("peak smtp relay limit exceeded", Fault::Account).after_secs(3600),
    Rule::text("too many recipients for this sender", Fault::Account),
    Rule::text("too many login attempts", Fault::Account).after_secs(3600),
    Rule::text("cannot authenticate due to temporary system problem", Fault::Network),
    Rule::enhanced(4, 5, Fault::Account),
    // A Message-ID that was used before is a mistake of the sending program.
    Rule::text("same message-id", Fault::Content),
    Rule::text("unusual rate of", Fault::Domain).after_secs(3600),
    Rule::text("rate limited", Fault::Domain).after_secs(3600),
    Rule::text("reputation", Fault::Domain).after_secs(3600),
    Rule::text("senders to authenticate", Fault::Domain),
    Rule::text("authentication checks", Fault::Domain),
    Rule::text("spf record", Fault::Domain),
    Rule::text("dmarc policy", Fault::Domain),
    Rule::text("aligned with either", Fault::Domain),
    Rule::text("use tls/ssl for smtp", Fault::Domain),
    Rule::text("ptr record", Fault::Domain),
    Rule::text("nature of the content or the links", Fault::Content),
    Rule::text("likely unsolicited mail", Fault::Content),
    Rule::text("likely suspicious", Fault::Domain),
    // The recipient is alive and gets too much; never a reason to give the address up.
    Rule::text("receiving mail too quickly", Fault::Network).after_secs(1800),
    Rule::text("rate that prevents additional messages", Fault::Network).after_secs(1800),
    Rule::text("out of storage space", Fault::Recipient),
    Rule::text("domain policy size per transaction exceeded", Fault::Network),
    Rule::text("email account that you tried to reach", Fault::Recipient),
];

#[cfg(test)]
mod tests;
