//! The `settings` tables of the sandbox's client and loop.
//!
//! Invariant: all problems are reported at once, and the schemas name exactly the keys that are read here.

use crate::behaviour::{Provider, Rates, Share};
use postwarm_plugin_api::{Instance, SettingsProblem};
use postwarm_plugin_kit::fields::Fields;
use serde_json::Value;
use std::time::Duration;

/// The JSON Schema of the client's settings.
pub const CLIENT_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "seed": { "type": "integer", "minimum": 0, "default": 1, "description": "the same seed gives the same verdicts" },
    "reject_percent": { "type": "number", "minimum": 0, "maximum": 100, "default": 2, "description": "mailboxes that refuse all mail" },
    "bounce_percent": { "type": "number", "minimum": 0, "maximum": 100, "default": 1, "description": "accepted messages that come back" },
    "spam_percent": { "type": "number", "minimum": 0, "maximum": 100, "default": 2, "description": "delivered messages marked as spam" },
    "open_percent": { "type": "number", "minimum": 0, "maximum": 100, "default": 25, "description": "delivered messages opened" },
    "read_percent": { "type": "number", "minimum": 0, "maximum": 100, "default": 40, "description": "delivered messages read" },
    "delay_ms": { "type": "integer", "minimum": 0, "maximum": 60000, "default": 0, "description": "wait before each group of replies" }
  }
}"#;

/// The JSON Schema of the loop's settings.
pub const LOOP_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "mailboxes": {
      "type": "string",
      "enum": ["gmail", "yahoo", "outlook", "apple", "open"],
      "default": "open",
      "description": "whose mailboxes it plays, and so what it can tell of its domains"
    }
  }
}"#;

/// What shapes a server: two clients with the same share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerBehaviour {
    pub seed: u64,
    pub rates: Rates,
    /// The wait before each group of replies.
    pub delay: Duration,
}

/// Reads the client's settings.
///
/// # Errors
/// Everything that is wrong with them.
pub fn client(instance: &Instance) -> Result<ServerBehaviour, Vec<SettingsProblem>> {
    let mut fields = Fields::new(&instance.settings, &instance.secrets);
    let seed = fields.value("seed", "a whole number from 0 on", Value::as_u64).unwrap_or(1);
    let defaults = Rates::default();
    let mut share =
        |key, default| fields.value(key, "a number from 0 to 100", |value| value.as_f64().and_then(Share::from_percent)).unwrap_or(default);
    let rates = Rates {
        reject: share("reject_percent", defaults.reject),
        bounce: share("bounce_percent", defaults.bounce),
        spam: share("spam_percent", defaults.spam),
        open: share("open_percent", defaults.open),
        read: share("read_percent", defaults.read),
    };
    let delay_ms = fields.value("delay_ms", "a whole number from 0 to 60000", |value| value.as_u64().filter(|ms| *ms <= 60_000));
    fields.finish(ServerBehaviour { seed, rates, delay: Duration::from_millis(delay_ms.unwrap_or(0)) })
}

/// Reads the loop's settings.
///
/// # Errors
/// Everything that is wrong with them.
pub fn mailboxes(instance: &Instance) -> Result<Provider, Vec<SettingsProblem>> {
    let mut fields = Fields::new(&instance.settings, &instance.secrets);
    let provider = fields.choice("mailboxes", &PROVIDER_NAMES).unwrap_or(Provider::Open);
    fields.finish(provider)
}

const PROVIDER_NAMES: [(&str, Provider); 5] = [
    ("gmail", Provider::Gmail),
    ("yahoo", Provider::Yahoo),
    ("outlook", Provider::Outlook),
    ("apple", Provider::Apple),
    ("open", Provider::Open),
];

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_testkit::instance::instance;
    use serde_json::json;

    #[test]
    fn an_empty_table_gives_the_defaults() {
        let behaviour = client(&instance(json!({}), &[])).expect("defaults");
        assert_eq!(behaviour, ServerBehaviour { seed: 1, rates: Rates::default(), delay: Duration::ZERO });
        assert_eq!(mailboxes(&instance(json!({}), &[])), Ok(Provider::Open));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let problems =
            client(&instance(json!({ "seed": -1, "spam_percent": 101, "delay_ms": "1s", "sed": 2 }), &[])).expect_err("four problems");
        let pointers: Vec<&str> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/seed", "/spam_percent", "/delay_ms", "/sed"]);
        assert_eq!(mailboxes(&instance(json!({ "mailboxes": "gmx" }), &[])).expect_err("unknown")[0].pointer, "/mailboxes");
    }

    #[test]
    fn the_schemas_name_the_keys_that_are_read() {
        let keys = |schema: &str| -> Vec<String> {
            let schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
            schema["properties"].as_object().expect("properties").keys().cloned().collect()
        };
        for key in keys(CLIENT_SCHEMA) {
            let problems = client(&instance(json!({ key.as_str(): "wrong" }), &[])).expect_err("a text is never right");
            assert!(problems[0].message.starts_with(&format!("{key} must be")), "{key}: {}", problems[0].message);
        }
        assert_eq!(keys(LOOP_SCHEMA), ["mailboxes"]);
    }
}
