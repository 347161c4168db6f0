//! What the client says became of a message, when connections break and callers leave.

use super::*;
use crate::job::Job;
use postwarm_plugin_testkit::marks::Watched;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::{Action, Gate, Rule, Script, Step};

/// A sink that holds its first replies to MAIL and to an end of data until their gates open.
async fn holding_sink() -> (Sink, Gate, Gate) {
    let (mail, dot) = (Gate::closed(), Gate::closed());
    let script = Script::default()
        .rule(Rule::new(Step::Mail, Action::Hold(mail.clone())).times(1))
        .rule(Rule::new(Step::EndOfData, Action::Hold(dot.clone())).times(1));
    (Sink::start(script).await, mail, dot)
}

#[tokio::test]
async fn a_message_arrives_as_it_was_given() {
    let sink = Sink::start(Script::default()).await;
    let client = client(&sink, 1);
    let outcome = send(&client, "a@y.example").await.unwrap();
    assert_eq!(words(&outcome), "Accepted");
    let given = message("a@y.example");
    let content = sink.journal().entries().into_iter().find_map(|entry| match entry.fact {
        Fact::Content { bytes, .. } => Some(bytes),
        _ => None,
    });
    assert_eq!(content.unwrap(), [&given.header[..], &given.body[..]].concat());
}

#[tokio::test]
async fn a_break_after_the_dot_leaves_one_message_unknown_and_the_next_unsent() {
    let gate = Gate::closed();
    let script =
        Script::default().rule(Rule::new(Step::Mail, Action::Hold(gate.clone())).times(1)).on(Step::EndOfData, Action::Close.accept_then());
    let sink = Sink::start(script).await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    let second = send(&client, "b@y.example");
    while client.queued() < 1 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(words(&first.await.unwrap()), "Unknown EndOfData");
    assert_eq!(words(&second.await.unwrap()), "NotAttempted Disconnected");
    assert_eq!(sink.journal().accepted(), ["a@y.example"]);
}

#[tokio::test]
async fn a_refused_message_after_a_cancelled_one_is_not_called_accepted() {
    let gate = Gate::closed();
    let script = Script::default()
        .rule(Rule::new(Step::EndOfData, Action::Hold(gate.clone())).recipient("first"))
        .rule(Rule::new(Step::EndOfData, Action::reply("554 5.6.0 no")).recipient("second"));
    let sink = Sink::start(script).await;
    let client = client(&sink, 1);
    let first = send(&client, "first@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. }))).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = send(&client, "second@y.example");
    gate.open();
    assert_eq!(words(&second.await.unwrap()), "Rejected Content");
    assert_eq!(sink.journal().connections(), 2, "the connection died with its cancelled message");
}

#[tokio::test]
async fn a_message_cancelled_in_the_queue_is_never_sent() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().rule(Rule::new(Step::Mail, Action::Hold(gate.clone())).times(1))).await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    let second = send(&client, "b@y.example");
    while client.queued() < 1 {
        tokio::task::yield_now().await;
    }
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(words(&first.await.unwrap()), "Accepted");
    assert_eq!(words(&send(&client, "c@y.example").await.unwrap()), "Accepted");
    assert_eq!(sink.journal().accepted(), ["a@y.example", "c@y.example"]);
}

#[tokio::test]
async fn what_no_connection_has_begun_is_given_back_unsent_and_the_rest_goes_on() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().rule(Rule::new(Step::Mail, Action::Hold(gate.clone())).times(1))).await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    let (watched, mark) = Watched::new();
    let second = send_marked(&client, "b@y.example", mark);
    while client.queued() < 1 {
        tokio::task::yield_now().await;
    }
    client.withdraw();
    assert_eq!((words(&second.await.unwrap()).as_str(), watched.times_set()), ("NotAttempted Stopping", 0));
    gate.open();
    assert_eq!(words(&first.await.unwrap()), "Accepted");
    assert_eq!(words(&send(&client, "c@y.example").await.unwrap()), "Accepted");
    assert_eq!(sink.journal().accepted(), ["a@y.example", "c@y.example"]);
}

#[tokio::test]
async fn a_message_cancelled_behind_another_does_not_make_that_one_unknown() {
    let (sink, mail, dot) = holding_sink().await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    let second = send(&client, "b@y.example");
    while client.queued() < 1 {
        tokio::task::yield_now().await;
    }
    mail.open();
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. }))).await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    dot.open();
    assert_eq!(words(&first.await.unwrap()), "Accepted");
    assert_eq!(words(&send(&client, "c@y.example").await.unwrap()), "Accepted");
    assert_eq!(sink.journal().accepted(), ["a@y.example", "c@y.example"]);
}

#[tokio::test]
async fn a_reply_before_the_end_of_a_large_content_leaves_it_certainly_unsent() {
    let sink = Sink::start(Script::default().on(Step::Content, Action::ReplyThenClose("250 2.0.0 accepted".into()))).await;
    let client = client(&sink, 1);
    let mut large = message("a@y.example");
    large.body = "x".repeat(76).into_bytes().into_iter().chain(*b"\r\n").collect::<Vec<u8>>().repeat(400_000).into();
    let (watched, mark) = Watched::new();
    large.mark = Some(mark);
    let outcome = client.send(large, far()).await;
    assert_eq!(words(&outcome), "NotAttempted Disconnected");
    assert_eq!(watched.times_set(), 0, "its content went out in part, and the dot was not near");
}

#[tokio::test]
async fn a_message_is_marked_when_its_dot_has_left_and_the_envelope_behind_it_is_not() {
    let (sink, mail, dot) = holding_sink().await;
    let client = client(&sink, 1);
    let (first, first_mark) = Watched::new();
    let (second, second_mark) = Watched::new();
    let a = send_marked(&client, "a@y.example", first_mark);
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    assert!(!first.is_set(), "no content was asked for");
    let b = send_marked(&client, "b@y.example", second_mark);
    while client.queued() < 1 {
        tokio::task::yield_now().await;
    }
    mail.open();
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. }))).await;
    assert!(first.is_set());
    assert_eq!((client.queued(), second.times_set()), (0, 0), "its envelope went out with the dot of the first");
    dot.open();
    assert_eq!((words(&a.await.unwrap()), words(&b.await.unwrap())), ("Accepted".to_owned(), "Accepted".to_owned()));
    assert!(first.is_set() && second.is_set(), "the host takes them back once what became of them is committed");
}

#[tokio::test]
async fn a_refused_envelope_leaves_no_mark() {
    let sink = Sink::start(Script::default().on(Step::Rcpt, Action::reply("550 5.1.1 no such user"))).await;
    let (watched, mark) = Watched::new();
    assert_eq!(words(&send_marked(&client(&sink, 1), "a@y.example", mark).await.unwrap()), "Rejected Recipient");
    assert_eq!(watched.times_set(), 0);
}

#[tokio::test]
async fn a_dot_that_the_system_did_not_take_is_not_marked_any_more() {
    let (watched, mark) = Watched::new();
    let (mut job, answer) = Job::new(Message { mark: Some(mark), ..message("a@y.example") }, far().into());
    job.dot_leaves();
    assert!(watched.is_set());
    job.dot_stayed();
    assert!(!watched.is_set());
    drop(job);
    assert_eq!(words(&answer.await.unwrap()), "NotAttempted Stopping");
}

#[tokio::test]
async fn closing_lets_a_message_on_the_wire_end_and_gives_queued_ones_back() {
    let gate = Gate::closed();
    let sink = Sink::start(Script::default().on(Step::EndOfData, Action::Hold(gate.clone()))).await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. }))).await;
    let second = send(&client, "b@y.example");
    while client.queued() < 1 {
        tokio::task::yield_now().await;
    }
    let closing = {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.close(Duration::from_secs(30)).await })
    };
    assert_eq!(words(&second.await.unwrap()), "NotAttempted Stopping");
    gate.open();
    assert_eq!(words(&first.await.unwrap()), "Accepted");
    closing.await.unwrap();
    assert_eq!(words(&send(&client, "c@y.example").await.unwrap()), "NotAttempted Stopping");
    assert_eq!(sink.journal().count(|entry| entry.fact == Fact::Command("QUIT".into())), 1);
}

#[tokio::test]
async fn what_still_waits_for_its_reply_when_the_grace_ends_is_unknown() {
    let sink = Sink::start(Script::default().on(Step::EndOfData, Action::Stall)).await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Content { .. }))).await;
    client.close(Duration::ZERO).await;
    assert_eq!(words(&first.await.unwrap()), "Unknown EndOfData");
}

#[tokio::test]
async fn a_message_whose_deadline_passes_in_the_queue_is_unsent() {
    let sink = Sink::start(Script::default().on(Step::Mail, Action::Stall)).await;
    let client = client(&sink, 1);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    let outcome = client.send(message("b@y.example"), Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(words(&outcome), "NotAttempted Disconnected");
    first.abort();
}

#[tokio::test]
async fn a_deadline_on_the_wire_is_unknown_only_after_the_dot() {
    for (step, expected) in [(Step::Mail, "NotAttempted Session"), (Step::EndOfData, "Unknown EndOfData")] {
        let sink = Sink::start(Script::default().on(step, Action::Stall)).await;
        let client = client(&sink, 1);
        client.verify(far()).await.unwrap();
        let outcome = client.send(message("a@y.example"), Instant::now() + Duration::from_secs(1)).await;
        assert_eq!(words(&outcome), expected);
    }
}

#[tokio::test]
async fn the_journal_file_holds_what_was_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.ndjson");
    let sink = Sink::start(Script { journal_file: Some(path.clone()), ..Script::default() }).await;
    assert_eq!(words(&send(&client(&sink, 1), "a@y.example").await.unwrap()), "Accepted");
    assert!(std::fs::read_to_string(path).unwrap().contains(r#"{"accepted":{"to":["a@y.example"],"message_id":"#));
}
