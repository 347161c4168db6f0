//! What the loader needs to know of plugins.

use postwarm_plugin_api::{Instance, Kind, SettingsProblem};

/// The plugins that a configuration may name.
pub trait Catalogue: Send + Sync {
    fn has(&self, kind: Kind, id: &str) -> bool;

    /// All ids of a kind, for the nearest name.
    fn ids(&self, kind: Kind) -> Vec<String>;

    /// Says what is wrong with the settings of an instance. The plugin is one that `has` knows.
    fn check(&self, kind: Kind, id: &str, instance: &Instance) -> Vec<SettingsProblem>;

    /// The settings keys that are secrets: the properties that the plugin's schema marks `"writeOnly": true`.
    fn secrets(&self, kind: Kind, id: &str) -> Vec<String>;
}
