//! Sends through Outlook and reads its replies.
//!
//! Microsoft is ending passwords for submission; `auth = "xoauth2"` with an access token as the password stays.
//!
//! Invariant: presets and a table; the client is the kit's.

use postwarm_plugin_api::{Builtin, Fault, register_builtin};
use postwarm_plugin_kit::classify::Rule;
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::settings::{Defaults, Tls};

register_builtin!(Builtin::Smtp(&OUTLOOK));

/// Makes clients of Outlook.
pub const OUTLOOK: Preset = Preset {
    id: "outlook",
    version: env!("CARGO_PKG_VERSION"),
    summary: "Sends through Outlook and reads its replies.",
    defaults: Defaults {
        host: Some("smtp.office365.com"),
        port: Some(587),
        tls: Some(Tls::StartTls),
        messages_per_connection_max: Some(1000),
    },
    rules: RULES,
};

/// Microsoft's replies, of its consumer mailboxes and of Exchange Online, the most telling first.
const RULES: &[Rule] = &[
    // Our account.
    Rule::enhanced(1, 90, Fault::Account).after_secs(24 * 3600),
    Rule::text("daily limit for message recipients", Fault::Account).after_secs(24 * 3600),
    Rule::text("bad outbound sender", Fault::Account),
    Rule::text("sender thread limit exceeded", Fault::Account).after_secs(60),
    Rule::text("messagesubmissionexceeded", Fault::Account).after_secs(3600),
    Rule::text("submissionquotaexceeded", Fault::Account).after_secs(24 * 3600),
    Rule::text("sendasdenied", Fault::Account),
    Rule::text("basic authentication is not supported", Fault::Account),
    Rule::text("client was not authenticated", Fault::Account),
    Rule::enhanced(7, 57, Fault::Account),
    Rule::enhanced(7, 708, Fault::Account),
    Rule::enhanced(7, 750, Fault::Account),
    // Our domain and addresses.
    Rule::text("required authentication level", Fault::Domain),
    Rule::text("rate limited due to ip reputation", Fault::Domain).after_secs(3600),
    Rule::text("block list", Fault::Domain),
    Rule::text("banned send", Fault::Domain),
    Rule::text("exceeded permitted limits", Fault::Domain).after_secs(3600),
    Rule::enhanced(7, 515, Fault::Domain),
    // Directory based edge blocking calls an unknown user a denied access.
    Rule { text: "recipient address rejected", ..Rule::enhanced(4, 1, Fault::Recipient) },
    Rule::text("access denied, please try again later", Fault::Domain).after_secs(3600),
    // The recipient.
    Rule::text("resolver.adr.", Fault::Recipient),
    Rule::text("recipsizelimit", Fault::Content),
    Rule::enhanced(2, 121, Fault::Network).after_secs(3600),
    Rule::enhanced(2, 122, Fault::Network).after_secs(3600),
    Rule::enhanced(4, 312, Fault::Recipient),
    Rule::text("mailbox unavailable", Fault::Recipient),
];

#[cfg(test)]
mod tests;
