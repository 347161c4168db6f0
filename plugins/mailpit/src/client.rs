//! The client that sends to Mailpit: the kit's, with Mailpit's defaults.
//!
//! Invariant: knows nothing of SMTP but where Mailpit listens.

use postwarm_plugin_api::{Builtin, register_builtin};
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::settings::{Defaults, Tls};

register_builtin!(Builtin::Smtp(&MAILPIT));

/// Makes clients of the plugin `mailpit`.
pub const MAILPIT: Preset = Preset {
    id: "mailpit",
    version: env!("CARGO_PKG_VERSION"),
    summary: "Sends to Mailpit, which keeps mail for a person to look at.",
    defaults: Defaults { host: Some("127.0.0.1"), port: Some(1025), tls: Some(Tls::None), messages_per_connection_max: None },
    rules: &[],
};
