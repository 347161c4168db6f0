//! Checks that are the same for both kinds of plugin: the descriptor, and how an instance is made.
//!
//! Invariant: nothing here sends or polls.

use super::{Finding, ensure};
use postwarm_plugin_api::{Descriptor, Instance, Kind, Secret, SettingsProblem};
use serde_json::Value;

/// What no error and no `Debug` may show.
pub const CANARY: &str = "canary-5f2b91c7";

/// A key that no plugin has.
const STRANGER: &str = "no_such_setting";

/// Makes an instance and drops it: what both kinds of factory can do.
pub type Create<'a> = &'a (dyn Fn(Instance) -> Result<(), Vec<SettingsProblem>> + Sync);

pub fn descriptor(descriptor: &Descriptor, kind: Kind) -> Finding {
    let id = &descriptor.id;
    let is_id =
        id.starts_with(|c: char| c.is_ascii_lowercase()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    ensure(is_id, || format!("the id {id:?} is not of lower case letters, digits and hyphens"))?;
    ensure(descriptor.kind == kind, || format!("its kind is {:?} and its factory's {kind:?}", descriptor.kind))?;
    ensure(!descriptor.version.is_empty() && !descriptor.summary.is_empty(), || "version or summary is empty".into())?;
    ensure(!descriptor.summary.contains('\n'), || "the summary has more than one line".into())?;
    let schema: Value = serde_json::from_str(&descriptor.settings_schema).map_err(|error| format!("the schema is no JSON: {error}"))?;
    ensure(schema["type"] == "object", || "the schema's type is not object".into())?;
    ensure(schema["additionalProperties"] == Value::Bool(false), || "the schema lets unknown settings pass".into())
}

/// The properties of the schema that are secrets.
pub fn secrets_of(descriptor: &Descriptor) -> Vec<String> {
    let schema: Value = serde_json::from_str(&descriptor.settings_schema).unwrap_or_default();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    properties.into_iter().filter(|(_, property)| property["writeOnly"] == true).map(|(name, _)| name).collect()
}

/// Makes an instance on a thread without a runtime, where whatever starts a task or opens a connection fails.
pub fn create_does_nothing_yet(create: Create<'_>, mut instance: Instance) -> Finding {
    let dir = instance.data_dir.join("not-yet-made");
    instance.data_dir.clone_from(&dir);
    let made = std::thread::scope(|scope| scope.spawn(|| create(instance)).join());
    let made = made.map_err(|_| "it panicked outside of a runtime, so it starts something".to_owned())?;
    made.map_err(|problems| format!("the suite's settings are refused: {problems:?}"))?;
    ensure(!dir.exists(), || "it made its data folder before the first use".into())
}

pub fn unknown_setting_is_reported(create: Create<'_>, mut instance: Instance) -> Finding {
    instance.settings.insert(STRANGER.into(), Value::Bool(true));
    let Err(problems) = create(instance) else { return Err("an unknown setting was taken without a word".into()) };
    ensure(problems.iter().any(|problem| problem.pointer == format!("/{STRANGER}")), || {
        format!("no problem points to /{STRANGER}: {problems:?}")
    })?;
    ensure(problems.iter().all(|problem| !problem.message.is_empty()), || "a problem says nothing".into())
}

/// Gives every secret the canary, beside a setting that is wrong, and looks for it in what is said.
pub fn secrets_are_not_shown(create: Create<'_>, descriptor: &Descriptor, mut instance: Instance) -> Finding {
    for secret in secrets_of(descriptor) {
        instance.secrets.insert(secret, Secret::new(CANARY));
    }
    instance.settings.insert(STRANGER.into(), Value::Bool(true));
    let said = format!("{:?}", create(instance).err());
    ensure(!said.contains(CANARY), || "a problem with the settings shows a secret".into())
}
