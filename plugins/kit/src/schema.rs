//! The JSON Schema of an SMTP server's settings, shared by the plugins that speak SMTP.
//!
//! Invariant: names exactly the keys that `settings` reads; a test compares them.

/// A JSON Schema (2020-12) of the `settings` table. A plugin with a preset host does not require one.
pub const SETTINGS_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "host": { "type": "string", "description": "The server's name or address." },
    "port": { "type": "integer", "minimum": 1, "maximum": 65535, "description": "By default that of tls: 465, 587 or 25." },
    "tls": { "enum": ["implicit", "starttls", "none"], "default": "starttls", "description": "How the connection is encrypted; never opportunistic." },
    "auth": { "enum": ["auto", "plain", "login", "xoauth2", "none"], "default": "auto", "description": "auto: PLAIN where offered, else LOGIN; without credentials none." },
    "username": { "type": "string" },
    "password": { "type": "string", "writeOnly": true, "description": "With xoauth2 the access token." },
    "helo_name": { "type": "string", "description": "The name in EHLO; by default the address of this end of the connection." },
    "allow_insecure_auth": { "type": "boolean", "default": false, "description": "Lets credentials go without TLS, over loopback only." },
    "tls_ca_file": { "type": "string", "description": "A PEM file of root certificates to believe besides those of the system." },
    "tls_server_name": { "type": "string", "description": "The name in the server's certificate, where it is not host." },
    "messages_per_connection_max": { "type": "integer", "minimum": 1, "default": 1000, "description": "Messages after which a connection is replaced." },
    "idle_max": { "type": "string", "default": "30s", "description": "How long a connection waits for a message before it says QUIT." },
    "pipelining": { "type": "boolean", "default": true, "description": "Uses PIPELINING (RFC 2920) where the server announces it." },
    "deadlines": {
      "type": "object",
      "additionalProperties": false,
      "description": "How long each phase may take; the defaults are those of RFC 5321 4.5.3.2.",
      "properties": {
        "connect": { "type": "string", "default": "30s" },
        "greeting": { "type": "string", "default": "5m" },
        "mail": { "type": "string", "default": "5m" },
        "rcpt": { "type": "string", "default": "5m" },
        "data": { "type": "string", "default": "2m" },
        "content": { "type": "string", "default": "3m" },
        "end_of_data": { "type": "string", "default": "10m" }
      }
    }
  }
}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Defaults, ServerSettings};
    use postwarm_plugin_testkit::instance::instance;

    #[test]
    fn the_schema_names_exactly_the_settings_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(SETTINGS_SCHEMA).unwrap();
        let instance = instance(serde_json::json!({ "no such setting at all": null }), &[]);
        let problems = ServerSettings::parse(&instance, Defaults { host: Some("h"), ..Defaults::default() }).unwrap_err();
        let (_, names) = problems[0].message.split_once("the settings are ").unwrap();
        let mut read: Vec<&str> = names.split(", ").collect();
        let mut written: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        read.sort_unstable();
        written.sort_unstable();
        assert_eq!(read, written);
    }
}
