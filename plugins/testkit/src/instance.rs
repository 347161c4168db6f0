//! An instance for tests, as the host would make it of an organization's TOML.
//!
//! Invariant: touches nothing; a test that needs a folder of its own gives it.

use postwarm_plugin_api::{Instance, Secret};
use serde_json::Value;

/// An instance with these settings and secrets, of one connection.
///
/// # Panics
/// Where the settings are no table.
pub fn instance(settings: Value, secrets: &[(&str, &str)]) -> Instance {
    let Value::Object(settings) = settings else { panic!("settings are a table, not {settings}") };
    Instance {
        organization: "acme".into(),
        name: "under-test".into(),
        settings,
        secrets: secrets.iter().map(|&(name, value)| (name.to_owned(), Secret::new(value))).collect(),
        connections_max: 1,
        data_dir: "unused".into(),
    }
}
