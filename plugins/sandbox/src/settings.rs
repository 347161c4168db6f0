//! The `settings` tables of the sandbox's client and loop.
//!
//! Invariant: all problems are reported at once, and the schemas name exactly the keys that are read here.

use crate::behaviour::{Provider, Rates, Share};
use postwarm_plugin_api::{Instance, SettingsProblem};
use serde_json::{Map, Value};
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
    let mut reader = Reader::new(instance);
    let defaults = Rates::default();
    let behaviour = ServerBehaviour {
        seed: reader.integer("seed", u64::MAX).unwrap_or(1),
        rates: Rates {
            reject: reader.share("reject_percent", defaults.reject),
            bounce: reader.share("bounce_percent", defaults.bounce),
            spam: reader.share("spam_percent", defaults.spam),
            open: reader.share("open_percent", defaults.open),
            read: reader.share("read_percent", defaults.read),
        },
        delay: Duration::from_millis(reader.integer("delay_ms", 60_000).unwrap_or(0)),
    };
    reader.finish()?;
    Ok(behaviour)
}

/// Reads the loop's settings.
///
/// # Errors
/// Everything that is wrong with them.
pub fn mailboxes(instance: &Instance) -> Result<Provider, Vec<SettingsProblem>> {
    let mut reader = Reader::new(instance);
    let provider = match reader.take("mailboxes") {
        None => Provider::Open,
        Some(value) => value.as_str().and_then(Provider::by_name).unwrap_or_else(|| {
            reader.problem("mailboxes", "must be one of \"gmail\", \"yahoo\", \"outlook\", \"apple\", \"open\"");
            Provider::Open
        }),
    };
    reader.finish()?;
    Ok(provider)
}

/// Takes known keys out of a table; what is left over at the end is unknown.
struct Reader {
    rest: Map<String, Value>,
    secrets: Vec<String>,
    known: Vec<&'static str>,
    problems: Vec<SettingsProblem>,
}

impl Reader {
    fn new(instance: &Instance) -> Reader {
        let secrets = instance.secrets.keys().cloned().collect();
        Reader { rest: instance.settings.clone(), secrets, known: Vec::new(), problems: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.rest.remove(key)
    }

    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(SettingsProblem::new(format!("/{}", key.replace('~', "~0").replace('/', "~1")), message));
    }

    fn integer(&mut self, key: &'static str, max: u64) -> Option<u64> {
        let value = self.take(key)?;
        let number = value.as_u64().filter(|number| *number <= max);
        if number.is_none() {
            self.problem(key, format!("must be a whole number from 0 to {max}"));
        }
        number
    }

    fn share(&mut self, key: &'static str, default: Share) -> Share {
        let Some(value) = self.take(key) else { return default };
        value.as_f64().and_then(Share::from_percent).unwrap_or_else(|| {
            self.problem(key, "must be a number from 0 to 100");
            default
        })
    }

    fn finish(mut self) -> Result<(), Vec<SettingsProblem>> {
        let known = self.known.join(", ");
        let unknown: Vec<String> = self.rest.keys().chain(&self.secrets).cloned().collect();
        for key in unknown {
            self.problem(&key, format!("is not a setting of this plugin; it knows {known}"));
        }
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn instance(settings: Value) -> Instance {
        Instance {
            organization: "demo".into(),
            name: "sandbox".into(),
            settings: settings.as_object().expect("a table").clone(),
            secrets: Default::default(),
            connections_max: 1,
            data_dir: "unused".into(),
        }
    }

    #[test]
    fn an_empty_table_gives_the_defaults() {
        let behaviour = client(&instance(json!({}))).expect("defaults");
        assert_eq!(behaviour, ServerBehaviour { seed: 1, rates: Rates::default(), delay: Duration::ZERO });
        assert_eq!(mailboxes(&instance(json!({}))), Ok(Provider::Open));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let problems =
            client(&instance(json!({ "seed": -1, "spam_percent": 101, "delay_ms": "1s", "sed": 2 }))).expect_err("four problems");
        let pointers: Vec<&str> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, ["/seed", "/spam_percent", "/delay_ms", "/sed"]);
        assert_eq!(mailboxes(&instance(json!({ "mailboxes": "gmx" }))).expect_err("unknown")[0].pointer, "/mailboxes");
    }

    #[test]
    fn the_schemas_name_the_keys_that_are_read() {
        let keys = |schema: &str| -> Vec<String> {
            let schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
            schema["properties"].as_object().expect("properties").keys().cloned().collect()
        };
        for key in keys(CLIENT_SCHEMA) {
            let problems = client(&instance(json!({ key.as_str(): "wrong" }))).expect_err("a text is never right");
            assert!(problems[0].message.starts_with("must"), "{key}: {}", problems[0].message);
        }
        assert_eq!(keys(LOOP_SCHEMA), ["mailboxes"]);
    }
}
