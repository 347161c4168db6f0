//! Checks of clients that mark the end of data themselves: for any other, the host does.
//!
//! Invariant: a mark is compared with what the server saw.

use super::smtp::{Pointed, accepted, message, pair, soon};
use super::{Finding, Report, ensure};
use crate::marks::Watched;
use crate::sink::journal::Fact;
use crate::sink::script::{Action, Gate, Rule, Script, Step};
use postwarm_plugin_api::{Message, Outcome};
use std::sync::Arc;

pub async fn checks(report: &mut Report, suite: Pointed<'_>) {
    report.check("a message that is on its way is marked, and the one behind it is not", on_its_way(suite)).await;
    for (step, action) in [
        (Step::Mail, Action::reply("550 5.7.1 no")),
        (Step::Rcpt, Action::reply("550 5.1.1 no such user")),
        (Step::Data, Action::reply("451 4.3.0 later")),
        (Step::Data, Action::Close),
    ] {
        report.check("a message whose content was not asked for is not marked", unasked(suite, step, action)).await;
    }
}

fn watched(n: usize, to: &str) -> (Arc<Watched>, Message) {
    let (watched, mark) = Watched::new();
    (watched, Message { mark: Some(mark), ..message(n, to, b"x\r\n") })
}

async fn on_its_way(suite: Pointed<'_>) -> Finding {
    let gate = Gate::closed();
    let (sink, client) = pair(suite, Script::default().on(Step::EndOfData, Action::Hold(gate.clone()))).await?;
    if !client.marks_end_of_data() {
        return Ok(());
    }
    // More than its connections take: some have no connection yet when the first contents have arrived.
    let messages: Vec<_> = (0..client.in_flight_max() + 2).map(|n| watched(n, &format!("to{n}@example.com"))).collect();
    let marks: Vec<Arc<Watched>> = messages.iter().map(|(watched, _)| watched.clone()).collect();
    let sending: Vec<_> = messages
        .into_iter()
        .map(|(_, message)| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.send(message, soon()).await })
        })
        .collect();
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. }))).await;
    let entries = sink.journal().entries();
    let arrived: Vec<&str> = entries
        .iter()
        .filter_map(|entry| match &entry.fact {
            Fact::Content { to, .. } => to.first().map(String::as_str),
            _ => None,
        })
        .collect();
    let is_marked = |n: usize| marks[n].is_set();
    for (n, _) in marks.iter().enumerate().filter(|(n, _)| arrived.contains(&format!("to{n}@example.com").as_str())) {
        ensure(is_marked(n), || format!("the content of message {n} arrived, and it is not marked"))?;
    }
    let (count, connections) = ((0..marks.len()).filter(|n| is_marked(*n)).count(), sink.journal().connections());
    ensure(count <= connections, || format!("{count} messages are marked on {connections} connections"))?;
    gate.open();
    for sent in sending {
        accepted(&sent.await.map_err(|error| format!("a send panicked: {error}"))?)?;
    }
    ensure(marks.iter().all(|mark| mark.is_set()), || "a message was accepted and is not marked".into())
}

async fn unasked(suite: Pointed<'_>, step: Step, action: Action) -> Finding {
    let (_sink, client) = pair(suite, Script::default().rule(Rule::new(step, action))).await?;
    if !client.marks_end_of_data() {
        return Ok(());
    }
    let (watched, message) = watched(1, "a@example.com");
    let outcome = client.send(message, soon()).await;
    ensure(!matches!(outcome, Outcome::Accepted(_) | Outcome::Unknown { .. }), || format!("the outcome is {outcome:?}"))?;
    ensure(watched.times_set() == 0, || format!("it was marked; its outcome is {outcome:?}"))
}
