//! The `settings` table of the Mailpit loop.
//!
//! Invariant: all problems are reported at once; a password goes over a network only by TLS.

use postwarm_plugin_api::{Instance, Secret, SettingsProblem};
use postwarm_plugin_kit::fields::Fields;

/// The JSON Schema of the loop's settings.
pub const LOOP_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "url": { "type": "string", "default": "http://127.0.0.1:8025", "description": "where Mailpit's HTTP API listens, webroot included" },
    "username": { "type": "string", "description": "a user of Mailpit's ui-auth-file" },
    "password": { "type": "string", "writeOnly": true, "description": "that user's password" }
  }
}"#;

/// Where the loop reads, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopSettings {
    /// Without a slash at its end.
    pub url: String,
    pub credentials: Option<(String, Secret)>,
}

/// Reads the loop's settings.
///
/// # Errors
/// Everything that is wrong with them.
pub fn feedback(instance: &Instance) -> Result<LoopSettings, Vec<SettingsProblem>> {
    let mut fields = Fields::new(&instance.settings, &instance.secrets);
    let url = fields.text("url").unwrap_or("http://127.0.0.1:8025");
    let credentials = match fields.credentials() {
        (Some(username), Some(password)) => Some((username.to_owned(), password)),
        _ => None,
    };
    if let Some(problem) = url_problem(url, fields.has("password")) {
        fields.problem("/url", format!("url must {problem}"));
    }
    fields.finish(LoopSettings { url: url.trim_end_matches('/').to_owned(), credentials })
}

/// What the address must be or have and is or has not.
fn url_problem(url: &str, with_password: bool) -> Option<&'static str> {
    let parsed = reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match &parsed {
        None => Some("be an http:// or https:// address, such as http://127.0.0.1:8025"),
        Some(url) if !url.username().is_empty() || url.password().is_some() => Some("hold no credentials; use `username` and `password`"),
        Some(url) if url.query().is_some() || url.fragment().is_some() => Some("end with the path, without `?` and `#`"),
        Some(url) if with_password && url.scheme() == "http" && !is_loopback(url) => {
            Some("be https:// where a password is sent beyond this machine")
        }
        Some(_) => None,
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_testkit::instance::instance;
    use serde_json::{Value, json};

    fn read(settings: Value, password: Option<&str>) -> Result<LoopSettings, Vec<SettingsProblem>> {
        let secrets: Vec<(&str, &str)> = password.map(|password| ("password", password)).into_iter().collect();
        feedback(&instance(settings, &secrets))
    }

    #[test]
    fn good_settings_are_taken() {
        let plain = read(json!({}), None).expect("defaults");
        assert_eq!((plain.url.as_str(), plain.credentials), ("http://127.0.0.1:8025", None));
        let secret = read(json!({ "url": "https://mail.example/pit/", "username": "u" }), Some("canary")).expect("right");
        assert_eq!(secret.url, "https://mail.example/pit");
        assert!(!format!("{secret:?}").contains("canary"));
        assert!(read(json!({ "url": "http://[::1]:8025", "username": "u" }), Some("p")).is_ok());
    }

    #[test]
    fn each_wrong_setting_is_named() {
        let rows = [
            (json!({ "url": 7 }), None, "/url"),
            (json!({ "url": "ftp://x" }), None, "/url"),
            (json!({ "url": "http://u:p@127.0.0.1" }), None, "/url"),
            (json!({ "url": "http://127.0.0.1/?q" }), None, "/url"),
            (json!({ "url": "http://mail.example", "username": "u" }), Some("p"), "/url"),
            (json!({ "username": "u" }), None, "/password"),
            (json!({ "username": "u", "password": "in clear" }), None, "/password"),
            (json!({}), Some("p"), "/username"),
            (json!({ "a/b": 1 }), None, "/a~1b"),
        ];
        for (settings, password, pointer) in rows {
            let problems = read(settings.clone(), password).map_err(|problems| problems[0].pointer.clone());
            assert_eq!(problems.expect_err("a problem"), pointer, "{settings}");
        }
    }
}
