//! Checks of servers that fail: what certainly did not leave is not attempted, what may have arrived is unknown.
//!
//! Invariant: each fault is scripted, so that a check never waits for chance.

use super::basics::CANARY;
use super::smtp::{Pointed, make, message, pair, soon};
use super::{Finding, Report, ensure};
use crate::sink::Sink;
use crate::sink::script::{Action, Rule, Script, Step};
use postwarm_plugin_api::{Cause, Outcome, Secret};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How much later than the deadline an answer may come: "soon after" on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

pub async fn checks(report: &mut Report, suite: Pointed<'_>) {
    report.check("a refused connection is not attempted and blames the client", refused_connection(suite)).await;
    let away = Script::default().on(Step::Greeting, Action::ReplyThenClose("554 5.3.2 go away".into()));
    report.check("a session that is turned away is not attempted and blames the client", turned_away(suite, away)).await;
    let garbage = Script::default().on(Step::Greeting, Action::RawThenClose(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    report.check("a server that speaks no SMTP is not attempted and blames the client", turned_away(suite, garbage)).await;
    let lost = Script::default().on(Step::EndOfData, Action::Close);
    report.check("a connection lost after the end of data leaves the message unknown", unknown(suite, lost)).await;
    let taken = Script::default().on(Step::EndOfData, Action::Close.accept_then());
    report.check("an acceptance whose reply is lost leaves the message unknown", unknown(suite, taken)).await;
    report.check("a connection lost before the content leaves the message not attempted", lost_before_content(suite)).await;
    report.check("one lost connection leaves at most one message unknown", one_unknown(suite)).await;
    report.check("a server that never greets is given up at the deadline", deadline(suite, Step::Greeting)).await;
    report.check("a server that never answers the end of data is given up at the deadline", deadline(suite, Step::EndOfData)).await;
    report.check("refused credentials blame the client and are never shown", secret(suite)).await;
}

fn is_clients_fault(outcome: &Outcome) -> Finding {
    ensure(matches!(outcome, Outcome::NotAttempted { cause, .. } if cause.blames_client()), || {
        format!("expected not attempted with a cause that blames the client, got {outcome:?}")
    })
}

async fn refused_connection(suite: Pointed<'_>) -> Finding {
    let client = make(suite.factory, (suite.at)(closed_port()?))?;
    is_clients_fault(&client.send(message(1, "a@example.com", b"x\r\n"), soon()).await)?;
    ensure(client.verify(soon()).await.is_err(), || "verify succeeds without a server".into())
}

/// An address of this machine where nothing listens.
fn closed_port() -> Result<SocketAddr, String> {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(|error| format!("no free port: {error}"))
}

async fn turned_away(suite: Pointed<'_>, script: Script) -> Finding {
    let (_sink, client) = pair(suite, script).await?;
    is_clients_fault(&client.send(message(1, "a@example.com", b"x\r\n"), soon()).await)
}

async fn unknown(suite: Pointed<'_>, script: Script) -> Finding {
    let (_sink, client) = pair(suite, script).await?;
    let outcome = client.send(message(1, "a@example.com", b"x\r\n"), soon()).await;
    ensure(matches!(outcome, Outcome::Unknown { .. }), || format!("expected unknown, got {outcome:?}"))
}

async fn lost_before_content(suite: Pointed<'_>) -> Finding {
    for step in [Step::Mail, Step::Rcpt, Step::Data] {
        let (sink, client) = pair(suite, Script::default().on(step, Action::Close)).await?;
        let outcome = client.send(message(1, "a@example.com", b"x\r\n"), soon()).await;
        ensure(matches!(outcome, Outcome::NotAttempted { .. }), || format!("expected not attempted at {step:?}, got {outcome:?}"))?;
        ensure(sink.journal().accepted().is_empty(), || "the message arrived".into())?;
    }
    Ok(())
}

async fn one_unknown(suite: Pointed<'_>) -> Finding {
    // The first connection dies at its third message; what waited behind it must not be in doubt.
    let (sink, client) =
        pair(suite, Script::default().rule(Rule::new(Step::EndOfData, Action::Close).connection(1).skip(2).times(1))).await?;
    let messages = (0..60).map(|n| message(n, &format!("r{n}@example.com"), b"x\r\n")).collect();
    let outcomes = super::smtp::send_all(&client, messages).await;
    let unknown = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Unknown { .. })).count();
    ensure(unknown <= 1, || format!("{unknown} messages are unknown"))?;
    let journal = sink.journal().accepted();
    for (to, outcome) in outcomes {
        let arrived = journal.iter().any(|accepted| accepted.contains(&to));
        let fits = match outcome {
            Outcome::Accepted(_) => arrived,
            Outcome::NotAttempted { .. } => !arrived,
            Outcome::Unknown { .. } => true,
            Outcome::Deferred { .. } | Outcome::Rejected { .. } => false,
        };
        ensure(fits, || format!("{to}, arrived: {arrived}, is {outcome:?}"))?;
    }
    Ok(())
}

async fn deadline(suite: Pointed<'_>, step: Step) -> Finding {
    let (_sink, client) = pair(suite, Script::default().on(step, Action::Stall)).await?;
    let deadline = Instant::now() + Duration::from_millis(300);
    let outcome = client.send(message(1, "a@example.com", b"x\r\n"), deadline).await;
    let late = Instant::now().saturating_duration_since(deadline);
    ensure(late < GRACE, || format!("the answer came {late:?} after the deadline"))?;
    if step == Step::Greeting {
        return ensure(matches!(outcome, Outcome::NotAttempted { .. }), || format!("expected not attempted, got {outcome:?}"));
    }
    ensure(matches!(outcome, Outcome::Unknown { .. }), || format!("expected unknown, got {outcome:?}"))
}

async fn secret(suite: Pointed<'_>) -> Finding {
    let Some(with_secret) = suite.with_secret else { return Ok(()) };
    let script = Script { credentials: Some(("user".into(), "another".into())), ..Script::default() };
    let sink = Sink::start(script).await;
    let instance = with_secret(sink.addr, Secret::new(CANARY));
    ensure(!format!("{instance:?}").contains(CANARY), || "the instance's Debug shows the secret".into())?;
    let client = make(suite.factory, instance)?;
    let outcome = client.send(message(1, "a@example.com", b"x\r\n"), soon()).await;
    ensure(matches!(outcome, Outcome::NotAttempted { cause: Cause::Authenticate, .. }), || {
        format!("expected not attempted with the cause authenticate, got {outcome:?}").replace(CANARY, "(the secret)")
    })?;
    let said = format!("{outcome:?} {:?}", client.verify(soon()).await);
    ensure(!said.contains(CANARY), || "an outcome shows the secret".into())
}
