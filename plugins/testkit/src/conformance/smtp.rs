//! The suite for SMTP clients.
//!
//! Invariant: what the client says is compared with what the server saw, never with itself.

use super::basics::{self, Create};
use super::{Finding, Report, ensure, smtp_content, smtp_end, smtp_faults, smtp_marks};
use crate::sink::Sink;
use crate::sink::script::Script;
use bytes::Bytes;
use postwarm_plugin_api::{Instance, Kind, Message, Outcome, Secret, SmtpClient, SmtpFactory};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Gives the settings with which the plugin sends to this address, without TLS and without credentials.
pub type At<'a> = &'a (dyn Fn(SocketAddr) -> Instance + Sync);

/// Gives the settings with which it also shows this secret to the server, in clear over loopback.
pub type WithSecret<'a> = &'a (dyn Fn(SocketAddr, Secret) -> Instance + Sync);

/// What the suite needs of a client that can send to any server.
#[derive(Clone, Copy)]
pub struct Pointed<'a> {
    pub factory: &'a dyn SmtpFactory,
    pub at: At<'a>,
    /// Absent where the plugin takes no credentials.
    pub with_secret: Option<WithSecret<'a>>,
}

/// Runs every check over a client that can send to any server, against servers that are scripted.
pub async fn smtp_client(suite: Pointed<'_>) -> Report {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut report = common(suite.factory, (suite.at)(nowhere)).await;
    smtp_content::checks(&mut report, suite).await;
    smtp_faults::checks(&mut report, suite).await;
    smtp_end::checks(&mut report, suite).await;
    smtp_marks::checks(&mut report, suite).await;
    report
}

/// Runs the checks that need no server of the suite's, over a client that brings its own. `recipient` names the nth of
/// recipients that the server accepts.
pub async fn smtp_client_with_own_server(factory: &dyn SmtpFactory, instance: Instance, recipient: &dyn Fn(usize) -> String) -> Report {
    let mut report = common(factory, instance.clone()).await;
    report
        .check("every concurrent send is answered once", async {
            let client = make(factory, instance.clone())?;
            let messages = (0..500).map(|n| message(n, &recipient(n), b"Hello\r\n")).collect();
            let outcomes = send_all(&client, messages).await;
            ensure(outcomes.len() == 500, || format!("{} answers for 500 messages", outcomes.len()))?;
            outcomes.iter().try_for_each(|(to, outcome)| accepted(outcome).map_err(|found| format!("{to}: {found}")))
        })
        .await;
    let last = recipient(0);
    report.check("verify succeeds against a sound server", async { make(factory, instance.clone())?.verify(soon()).await }).await;
    report.check("closing twice is harmless, and later sends are not attempted", smtp_end::closed(factory, instance.clone(), &last)).await;
    report
}

async fn common(factory: &dyn SmtpFactory, instance: Instance) -> Report {
    let descriptor = factory.descriptor();
    let create: Create<'_> = &|instance| factory.create(instance).map(drop);
    let mut report = Report::new(format!("the SMTP client {}", descriptor.id));
    report.check("the descriptor is valid", async { basics::descriptor(&descriptor, Kind::SmtpClient) }).await;
    report.check("making an instance does nothing yet", async { basics::create_does_nothing_yet(create, instance.clone()) }).await;
    report
        .check("an unknown setting is reported with its pointer", async { basics::unknown_setting_is_reported(create, instance.clone()) })
        .await;
    report.check("no problem shows a secret", async { basics::secrets_are_not_shown(create, &descriptor, instance.clone()) }).await;
    report
        .check("it wants at least one call in flight", async {
            let client = make(factory, instance.clone())?;
            ensure(client.in_flight_max() >= 1, || "in_flight_max is 0".into())
        })
        .await;
    report
}

/// Makes a client, where the suite's settings are right.
pub(super) fn make(factory: &dyn SmtpFactory, instance: Instance) -> Result<Arc<dyn SmtpClient>, String> {
    factory.create(instance).map_err(|problems| format!("the suite's settings are refused: {problems:?}"))
}

/// Starts a sink and a client that sends to it.
pub(super) async fn pair(suite: Pointed<'_>, script: Script) -> Result<(Sink, Arc<dyn SmtpClient>), String> {
    let sink = Sink::start(script).await;
    let client = make(suite.factory, (suite.at)(sink.addr))?;
    Ok((sink, client))
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A message whose id tells it from all others.
pub(super) fn message(n: usize, to: &str, body: &[u8]) -> Message {
    Message {
        delivery: format!("delivery-{n}").into(),
        envelope_from: "news@sender.example".into(),
        envelope_to: to.into(),
        header: Bytes::from(format!("From: news@sender.example\r\nMessage-ID: <c{n}@sender.example>\r\nSubject: {n}\r\n\r\n")),
        body: Bytes::copy_from_slice(body),
        eight_bit: !body.is_ascii(),
        smtputf8: false,
        mark: None,
    }
}

/// Sends all messages with as many calls in flight as the client wants, and returns each recipient's outcome.
pub(super) async fn send_all(client: &Arc<dyn SmtpClient>, messages: Vec<Message>) -> Vec<(String, Outcome)> {
    let (mut running, mut outcomes) = (tokio::task::JoinSet::new(), Vec::new());
    for message in messages {
        if running.len() >= client.in_flight_max() {
            outcomes.extend(running.join_next().await.and_then(Result::ok));
        }
        let client = Arc::clone(client);
        running.spawn(async move {
            let to = message.envelope_to.to_string();
            let outcome = client.send(message, soon()).await;
            (to, outcome)
        });
    }
    while let Some(done) = running.join_next().await {
        outcomes.extend(done);
    }
    outcomes
}

pub(super) fn accepted(outcome: &Outcome) -> Finding {
    ensure(matches!(outcome, Outcome::Accepted(reply) if (200..300).contains(&reply.code)), || {
        format!("expected accepted, got {outcome:?}")
    })
}
