//! Sends through any SMTP server: the kit's client with the kit's general reply table.
//!
//! Invariant: knows no provider.

use postwarm_plugin_api::{Builtin, register_builtin};
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::settings::Defaults;

register_builtin!(Builtin::Smtp(&SMTP));

/// Makes clients of any SMTP server.
pub const SMTP: Preset = Preset {
    id: "smtp",
    version: env!("CARGO_PKG_VERSION"),
    summary: "Sends through any SMTP server.",
    defaults: Defaults { host: None, port: None, tls: None, messages_per_connection_max: None },
    rules: &[],
};

#[cfg(test)]
mod tests;
