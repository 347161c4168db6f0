//! The plugin as the host sees it.

use super::*;
use postwarm_plugin_api::{Message, Outcome, SettingsProblem, SmtpClient, SmtpFactory};
use postwarm_plugin_testkit::instance::instance;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn create(settings: serde_json::Value) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
    SMTP.create(instance(settings, &[("password", "secret")]))
}

#[test]
fn settings_without_a_host_are_refused_with_a_pointer() {
    let problems = create(json!({ "username": "u" })).err().unwrap();
    assert_eq!(problems[0].pointer, "/host");
}

#[test]
fn the_schema_is_json_and_hides_the_password() {
    let schema: serde_json::Value = serde_json::from_str(&SMTP.descriptor().settings_schema).unwrap();
    assert_eq!(schema["properties"]["password"]["writeOnly"], true);
}

#[tokio::test]
async fn a_message_goes_through_the_configured_server() {
    let script = Script { credentials: Some(("user".into(), "secret".into())), ..Script::default() };
    let sink = Sink::start(script).await;
    let settings = json!({
        "host": "127.0.0.1", "port": sink.addr.port(), "tls": "none", "username": "user", "allow_insecure_auth": true,
    });
    let client = create(settings).unwrap();
    let message = Message {
        delivery: "d1".into(),
        envelope_from: "news@acme.example".into(),
        envelope_to: "a@y.example".into(),
        header: "Subject: x\r\n\r\n".into(),
        body: "hi\r\n".into(),
        eight_bit: false,
        smtputf8: false,
        mark: None,
    };
    let outcome = client.send(message, Instant::now() + Duration::from_secs(30)).await;
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    client.close(Duration::from_secs(5)).await;
    assert_eq!(sink.journal().count(|entry| matches!(entry.fact, Fact::Auth { accepted: true, .. })), 1);
}
