//! Checks of how sends and clients end early: cancelled calls and closing.
//!
//! Invariant: what was cancelled is watched at the server, where the truth is.

use super::smtp::{Pointed, accepted, make, message, pair, soon};
use super::{Finding, Report, ensure};
use crate::sink::Sink;
use crate::sink::journal::Fact;
use crate::sink::script::{Action, Gate, Rule, Script, Step};
use postwarm_plugin_api::{Cause, Instance, Message, Outcome, SmtpClient, SmtpFactory};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

pub async fn checks(report: &mut Report, suite: Pointed<'_>) {
    report.check("a cancelled send gives its reply to no other message", cancelled(suite)).await;
    report.check("closing waits for a running send within its grace", closing_waits(suite)).await;
    report.check("closing ends when its grace does", closing_ends(suite)).await;
    report
        .check("closing twice is harmless, and later sends are not attempted", async {
            let sink = Sink::start(Script::default()).await;
            closed(suite.factory, (suite.at)(sink.addr), "a@example.com").await
        })
        .await;
}

/// Starts to send and returns once the content has arrived at a server that holds its reply.
async fn held(sink: &Sink, client: &Arc<dyn SmtpClient>, message: Message) -> Result<JoinHandle<Outcome>, String> {
    let client = Arc::clone(client);
    let mut sending = tokio::spawn(async move { client.send(message, soon()).await });
    let arrived = sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. })));
    tokio::select! {
        () = arrived => Ok(sending),
        outcome = &mut sending => Err(format!("the server holds its reply, and the outcome is {outcome:?}")),
    }
}

async fn cancelled(suite: Pointed<'_>) -> Finding {
    let gate = Gate::closed();
    let script = Script::default()
        .rule(Rule::new(Step::EndOfData, Action::Hold(gate.clone())).recipient("cancelled@"))
        .rule(Rule::new(Step::EndOfData, Action::reply("554 5.6.0 not this one")).recipient("next@"));
    let (sink, client) = pair(suite, script).await?;
    let sending = held(&sink, &client, message(1, "cancelled@example.com", b"x\r\n")).await?;
    sending.abort();
    let _ = sending.await;
    let next = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.send(message(2, "next@example.com", b"x\r\n"), soon()).await }
    });
    gate.open();
    let outcome = next.await.map_err(|error| format!("the next send panicked: {error}"))?;
    ensure(matches!(&outcome, Outcome::Rejected { reply, .. } if reply.code == 554), || {
        format!("the next message was refused with 554, and its outcome is {outcome:?}")
    })
}

async fn closing_waits(suite: Pointed<'_>) -> Finding {
    let gate = Gate::closed();
    let (sink, client) = pair(suite, Script::default().on(Step::EndOfData, Action::Hold(gate.clone()))).await?;
    let sending = held(&sink, &client, message(1, "a@example.com", b"x\r\n")).await?;
    let open = async {
        // The closing was asked for first.
        tokio::task::yield_now().await;
        gate.open();
    };
    tokio::join!(client.close(Duration::from_secs(20)), open);
    accepted(&sending.await.map_err(|error| format!("the running send panicked: {error}"))?)
}

async fn closing_ends(suite: Pointed<'_>) -> Finding {
    let (sink, client) = pair(suite, Script::default().on(Step::EndOfData, Action::Stall)).await?;
    let sending = held(&sink, &client, message(1, "a@example.com", b"x\r\n")).await?;
    let started = std::time::Instant::now();
    client.close(Duration::from_millis(200)).await;
    let outcome = sending.await.map_err(|error| format!("the running send panicked: {error}"))?;
    ensure(matches!(outcome, Outcome::Unknown { .. }), || format!("what still waited for its reply is {outcome:?}"))?;
    ensure(started.elapsed() < Duration::from_secs(10), || format!("closing took {:?}", started.elapsed()))
}

/// Sends one message, closes twice and sends another.
pub async fn closed(factory: &dyn SmtpFactory, instance: Instance, to: &str) -> Finding {
    let client = make(factory, instance)?;
    accepted(&client.send(message(1, to, b"x\r\n"), soon()).await)?;
    client.close(Duration::from_secs(10)).await;
    client.close(Duration::from_secs(10)).await;
    let outcome = client.send(message(2, to, b"x\r\n"), soon()).await;
    ensure(matches!(outcome, Outcome::NotAttempted { cause: Cause::Stopping, .. }), || {
        format!("expected not attempted with the cause stopping, got {outcome:?}")
    })
}
