//! The plugin as the host sees it.

use super::*;
use postwarm_plugin_api::{Instance, Message, Outcome, Secret, SmtpFactory};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::json;
use std::time::{Duration, Instant};

fn instance(settings: serde_json::Value) -> Instance {
    Instance {
        organization: "acme".into(),
        name: "relay".into(),
        settings: settings.as_object().unwrap().clone(),
        secrets: [("password".to_owned(), Secret::new("secret"))].into_iter().collect(),
        connections_max: 2,
        data_dir: "unused".into(),
    }
}

#[test]
fn settings_without_a_host_are_refused_with_a_pointer() {
    let problems = SMTP.create(instance(json!({ "username": "u" }))).err().unwrap();
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
    let client = SMTP.create(instance(settings)).unwrap();
    let message = Message {
        delivery: "d1".into(),
        envelope_from: "news@acme.example".into(),
        envelope_to: "a@y.example".into(),
        header: "Subject: x\r\n\r\n".into(),
        body: "hi\r\n".into(),
        eight_bit: false,
        smtputf8: false,
    };
    let outcome = client.send(message, Instant::now() + Duration::from_secs(30)).await;
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    client.close(Duration::from_secs(5)).await;
    assert_eq!(sink.journal().count(|entry| matches!(entry.fact, Fact::Auth { accepted: true, .. })), 1);
}
