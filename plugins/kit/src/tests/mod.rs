//! Black-box tests of the client against the scripted sink.

mod marks;
mod matrix;
mod order;
mod session;
mod truth;

use crate::client::Client;
use crate::settings::{Defaults, ServerSettings};
use postwarm_plugin_api::{Mark, Message, Outcome, SmtpClient as _};
use postwarm_plugin_testkit::instance::instance;
use postwarm_plugin_testkit::sink::Sink;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Long enough to never be what ends a test that passes.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn settings_with(sink: &Sink, more: Value, secrets: &[(&str, &str)]) -> ServerSettings {
    let mut settings = json!({ "host": sink.addr.ip().to_string(), "port": sink.addr.port(), "tls": "none" });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ServerSettings::parse(&instance(settings, secrets), Defaults::default()).unwrap()
}

fn client(sink: &Sink, connections_max: u32) -> Arc<Client> {
    client_with(sink, connections_max, json!({}))
}

fn client_with(sink: &Sink, connections_max: u32, more: Value) -> Arc<Client> {
    Arc::new(Client::new(settings_with(sink, more, &[]), connections_max, &[]))
}

fn message(to: &str) -> Message {
    Message {
        delivery: to.into(),
        envelope_from: "news@acme.example".into(),
        envelope_to: to.into(),
        header: format!("From: news@acme.example\r\nTo: {to}\r\nSubject: Hello\r\n\r\n").into(),
        body: "One\r\n.\r\n.two\r\n".into(),
        eight_bit: false,
        smtputf8: false,
        mark: None,
    }
}

/// Starts a send that the test can wait for or cancel.
fn send(client: &Arc<Client>, to: &str) -> tokio::task::JoinHandle<Outcome> {
    let client = Arc::clone(client);
    let message = message(to);
    tokio::spawn(async move { client.send(message, far()).await })
}

/// The same, with a mark.
fn send_marked(client: &Arc<Client>, to: &str, mark: Mark) -> tokio::task::JoinHandle<Outcome> {
    let client = Arc::clone(client);
    let message = Message { mark: Some(mark), ..message(to) };
    tokio::spawn(async move { client.send(message, far()).await })
}

/// An outcome in a few words.
fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted(_) => "Accepted".to_owned(),
        Outcome::Deferred { fault, .. } => format!("Deferred {fault:?}"),
        Outcome::Rejected { fault, .. } => format!("Rejected {fault:?}"),
        Outcome::NotAttempted { cause, .. } => format!("NotAttempted {cause:?}"),
        Outcome::Unknown { phase, .. } => format!("Unknown {phase:?}"),
    }
}
