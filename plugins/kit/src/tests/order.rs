//! Pipelining: what goes out together, and that refusals keep the connection.

use super::*;
use crate::connection::QUIT_MAX;
use crate::idle::{IDLERS, Idlers, KEPT_MAX, SPARED};
use crate::job::Job;
use crate::pool::Pool;
use postwarm_plugin_testkit::sink::journal::{Entry, Fact};
use postwarm_plugin_testkit::sink::script::{Action, Gate, Rule, Script, Step};

/// Starts `names.len()` messages so that the first is held at MAIL until the others are queued.
async fn send_queued(sink: &Sink, client: &Arc<Client>, gate: &Gate, names: &[&str]) -> Vec<String> {
    let first = send(client, names[0]);
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    let mut rest = Vec::new();
    for (nth, name) in names[1..].iter().enumerate() {
        rest.push(send(client, name));
        while client.queued() < nth + 1 {
            tokio::task::yield_now().await;
        }
    }
    gate.open();
    let mut outcomes = vec![words(&first.await.unwrap())];
    for one in rest {
        outcomes.push(words(&one.await.unwrap()));
    }
    outcomes
}

fn held() -> (Gate, Rule) {
    let gate = Gate::closed();
    let rule = Rule::new(Step::Mail, Action::Hold(gate.clone())).times(1);
    (gate, rule)
}

fn read_of(entries: &[Entry], nth: usize, is_wanted: impl Fn(&Fact) -> bool) -> usize {
    entries.iter().filter(|entry| is_wanted(&entry.fact)).nth(nth).unwrap().read
}

#[tokio::test]
async fn the_content_and_the_next_envelope_arrive_in_one_read() {
    let (gate, rule) = held();
    let sink = Sink::start(Script::default().rule(rule)).await;
    let client = client(&sink, 1);
    let outcomes = send_queued(&sink, &client, &gate, &["a@y.example", "b@y.example", "c@y.example"]).await;
    assert_eq!(outcomes, ["Accepted"; 3]);
    let entries = sink.journal().entries();
    for nth in 0..2 {
        let content = read_of(&entries, nth, |fact| matches!(fact, Fact::Content { .. }));
        assert_eq!(read_of(&entries, nth + 1, |fact| matches!(fact, Fact::Mail(_))), content);
        assert_eq!(read_of(&entries, nth + 1, |fact| *fact == Fact::Data), content);
    }
    // EHLO, the first envelope, then one read a message.
    assert_eq!(entries.iter().map(|entry| entry.read).max(), Some(5));
    assert_eq!(sink.journal().connections(), 1);
}

#[tokio::test]
async fn without_pipelining_no_command_is_sent_before_its_turn() {
    let (gate, rule) = held();
    let sink = Sink::start(Script::default().without("PIPELINING").rule(rule)).await;
    let client = client(&sink, 1);
    assert_eq!(send_queued(&sink, &client, &gate, &["a@y.example", "b@y.example"]).await, ["Accepted"; 2]);
    let entries = sink.journal().entries();
    let commands: Vec<usize> = entries
        .iter()
        .filter(|entry| matches!(entry.fact, Fact::Mail(_) | Fact::Rcpt(_) | Fact::Data | Fact::Content { .. }))
        .map(|entry| entry.read)
        .collect();
    assert_eq!(commands, [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn a_thousand_rejected_recipients_need_two_connections_at_most() {
    let script = Script { keep_content: false, ..Script::default() };
    let sink = Sink::start(script.on(Step::Rcpt, Action::reply("550 5.1.1 no such user"))).await;
    let client = client(&sink, 2);
    let sends: Vec<_> = (0..1000).map(|nth| send(&client, &format!("u{nth}@y.example"))).collect();
    for one in sends {
        assert_eq!(words(&one.await.unwrap()), "Rejected Recipient");
    }
    assert!(sink.journal().connections() <= 2, "{}", sink.journal().connections());
}

#[tokio::test]
async fn refused_and_accepted_messages_keep_their_own_replies() {
    let script = Script::default()
        .rule(Rule::new(Step::Rcpt, Action::reply("550 5.1.1 no such user")).recipient("bad"))
        .rule(Rule::new(Step::EndOfData, Action::reply("451 4.3.0 later")).recipient("late"));
    for script in [script.clone(), script.without("PIPELINING")] {
        let sink = Sink::start(script).await;
        let client = client(&sink, 1);
        let kinds = ["bad", "good", "late", "good", "bad", "bad", "late"];
        let sends: Vec<_> =
            kinds.iter().cycle().take(70).enumerate().map(|(nth, kind)| send(&client, &format!("{kind}{nth}@y.example"))).collect();
        for (one, kind) in sends.into_iter().zip(kinds.iter().cycle()) {
            let expected = match *kind {
                "bad" => "Rejected Recipient",
                "late" => "Deferred Network",
                _ => "Accepted",
            };
            assert_eq!(words(&one.await.unwrap()), expected);
        }
        assert_eq!(sink.journal().connections(), 1);
    }
}

#[tokio::test]
async fn a_server_that_waits_for_content_without_recipients_gets_a_lone_dot() {
    let (gate, rule) = held();
    let script = Script::default()
        .rule(rule)
        .rule(Rule::new(Step::Rcpt, Action::reply("550 5.1.1 no such user")).times(1))
        .rule(Rule::new(Step::Data, Action::reply("354 go on")).times(1))
        .rule(Rule::new(Step::EndOfData, Action::reply("554 5.5.1 no recipients")).times(1));
    let sink = Sink::start(script).await;
    let client = client(&sink, 1);
    let outcomes = send_queued(&sink, &client, &gate, &["a@y.example", "b@y.example"]).await;
    assert_eq!(outcomes, ["Rejected Recipient", "Accepted"]);
    assert_eq!(sink.journal().connections(), 1);
    assert_eq!(sink.journal().accepted(), ["b@y.example"]);
}

#[tokio::test]
async fn a_surplus_reply_ends_the_connection_before_it_is_credited() {
    let (gate, rule) = held();
    let script = Script::default().rule(rule).rule(Rule::new(Step::Rcpt, Action::Raw(b"250 ok\r\n250 ok\r\n".to_vec())).times(1));
    let sink = Sink::start(script).await;
    let client = client(&sink, 1);
    let outcomes = send_queued(&sink, &client, &gate, &["a@y.example", "b@y.example"]).await;
    assert_eq!(outcomes, ["NotAttempted Session", "Accepted"]);
    assert_eq!(sink.journal().accepted(), ["b@y.example"]);
}

#[tokio::test]
async fn a_421_at_the_end_of_data_defers_that_message_and_leaves_the_next_unsent() {
    let (gate, rule) = held();
    let script = Script::default().rule(rule).rule(Rule::new(Step::EndOfData, Action::ReplyThenClose("421 4.3.2 closing".into())).times(1));
    let sink = Sink::start(script).await;
    let client = client(&sink, 1);
    let outcomes = send_queued(&sink, &client, &gate, &["a@y.example", "b@y.example"]).await;
    assert_eq!(outcomes, ["Deferred Network", "NotAttempted Disconnected"]);
}

#[tokio::test]
async fn a_421_to_a_later_envelope_ends_the_connection_and_blames_nobody() {
    let closing = Rule::new(Step::Mail, Action::ReplyThenClose("421 4.5.1 enough messages in this session".into())).skip(1).times(1);
    let sink = Sink::start(Script::default().rule(closing)).await;
    let client = client(&sink, 1);
    let mut outcomes = Vec::new();
    for name in ["a@y.example", "b@y.example", "c@y.example"] {
        outcomes.push(words(&send(&client, name).await.unwrap()));
    }
    assert_eq!(outcomes, ["Accepted", "NotAttempted Disconnected", "Accepted"]);
}

#[tokio::test]
async fn a_421_that_blames_the_domain_is_the_answer_to_its_message() {
    let slow = Action::ReplyThenClose("421 4.7.28 unusual rate, sender reputation".into());
    let sink = Sink::start(Script::default().on(Step::Mail, slow)).await;
    assert_eq!(words(&send(&client(&sink, 1), "a@y.example").await.unwrap()), "Deferred Domain");
}

#[tokio::test]
async fn a_connection_is_replaced_after_its_share_of_messages() {
    let sink = Sink::start(Script::default()).await;
    let client = client_with(&sink, 1, json!({ "messages_per_connection_max": 3 }));
    let sends: Vec<_> = (0..9).map(|nth| send(&client, &format!("u{nth}@y.example"))).collect();
    for one in sends {
        assert_eq!(words(&one.await.unwrap()), "Accepted");
    }
    sink.journal().wait_for(|entries| entries.iter().filter(|entry| entry.fact == Fact::Command("QUIT".into())).count() == 3).await;
    assert_eq!(sink.journal().connections(), 3);
}

#[tokio::test]
async fn a_message_does_not_wait_for_a_server_that_does_not_say_goodbye() {
    let sink = Sink::start(Script::default().on(Step::Quit, Action::Stall)).await;
    let client = client_with(&sink, 1, json!({ "messages_per_connection_max": 1 }));
    let began = Instant::now();
    for name in ["a@y.example", "b@y.example"] {
        assert_eq!(words(&send(&client, name).await.unwrap()), "Accepted");
    }
    // Somebody without mail would be waited for that long.
    assert!(began.elapsed() < QUIT_MAX, "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_connection_says_quit() {
    let sink = Sink::start(Script::default()).await;
    let client = client_with(&sink, 1, json!({ "idle_max": "20ms" }));
    assert_eq!(words(&send(&client, "a@y.example").await.unwrap()), "Accepted");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| entry.fact == Fact::Command("QUIT".into()))).await;
}

#[tokio::test]
async fn an_idle_connection_that_is_sent_away_says_quit_and_the_next_message_goes_over_a_new_one() {
    let sink = Sink::start(Script::default()).await;
    let idlers: &Idlers = Box::leak(Box::new(Idlers::new()));
    let client = Arc::new(Client::among(idlers, settings_with(&sink, json!({}), &[]), 1, &[]));
    assert_eq!(words(&send(&client, "a@y.example").await.unwrap()), "Accepted");
    while idlers.count() == 0 {
        tokio::task::yield_now().await;
    }
    let later = tokio::time::Instant::now() + SPARED;
    let others: Vec<_> = (0..KEPT_MAX).map(|_| idlers.enter(later)).collect();
    sink.journal().wait_for(|entries| entries.iter().any(|entry| entry.fact == Fact::Command("QUIT".into()))).await;
    drop(others);
    // Its only place in the pool may still be taken by the one that leaves.
    assert_eq!(words(&send(&client, "b@y.example").await.unwrap()), "Accepted");
    assert_eq!((sink.journal().connections(), sink.journal().accepted()), (2, vec!["a@y.example".to_owned(), "b@y.example".to_owned()]));
}

#[tokio::test]
async fn connections_are_opened_only_as_the_queue_is_deep() {
    let sink = Sink::start(Script::default()).await;
    let client = client(&sink, 10);
    for _ in 0..5 {
        assert_eq!(words(&send(&client, "a@y.example").await.unwrap()), "Accepted");
    }
    assert_eq!(sink.journal().connections(), 1);
    assert_eq!(client.in_flight_max(), 30);
}

#[tokio::test]
async fn a_few_messages_wait_for_a_task_before_another_is_started() {
    let sink = Sink::start(Script::default()).await;
    let pool = Pool::new(settings_with(&sink, json!({}), &[]), 20, &[], &IDLERS);
    let push = || pool.push(Job::new(message("a@y.example"), far().into()).0);
    // Nothing runs before the test waits for something.
    let tasks = [1, 3, 1, 4].map(|jobs| {
        (0..jobs).for_each(|_| assert_ne!(push(), 0));
        pool.tasks()
    });
    assert_eq!(tasks, [1, 1, 2, 3]);
}

#[tokio::test]
async fn a_message_behind_a_silent_one_gets_a_connection_of_its_own() {
    let (gate, rule) = held();
    let sink = Sink::start(Script::default().rule(rule)).await;
    let client = client(&sink, 2);
    let first = send(&client, "a@y.example");
    sink.journal().wait_for(|entries| entries.iter().any(|entry| matches!(entry.fact, Fact::Mail(_)))).await;
    assert_eq!(words(&send(&client, "b@y.example").await.unwrap()), "Accepted");
    gate.open();
    assert_eq!(words(&first.await.unwrap()), "Accepted");
    // Both are idle now, and either takes the next.
    assert_eq!(words(&send(&client, "c@y.example").await.unwrap()), "Accepted");
    assert_eq!(sink.journal().connections(), 2);
}
