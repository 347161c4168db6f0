//! Kills after a server has answered and before that is committed: the next start settles it as the server said.

use super::fixture::*;
use crate::bus::{Outbox, Topic, contract, wire};
use crate::config::settings::Window;
use crate::model::delivery::{Counts, State};
use crate::model::event::{Event, RecipientChanged};
use crate::model::name::{EmailNumber, UserNumber};
use crate::warmup::store::{DeliveryPage, DeliveryRow, Store};
use postwarm_plugin_api::{Fault, Outcome, Reply};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// When the answer comes; the next process starts a minute later.
const ANSWERED: i64 = START + 3_000;

fn deferred() -> Outcome {
    Outcome::Deferred { reply: reply(451), fault: Fault::Recipient, retry_after: Some(Duration::from_secs(600)) }
}

/// Two messages are with a client that marks, and one of them got this answer, which was not committed when the process was killed.
async fn killed_after(world: &World, outcome: impl Fn() -> Outcome) -> EmailNumber {
    world.script.marks();
    let email = world.broadcast("acme", 2, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.clock.advance(Duration::from_millis((ANSWERED - START) as u64));
    world.script.ends_data_of("u0@mail.example");
    world.script.release_of("u0@mail.example", outcome);
    engine.answers(1).await;
    world.queue.turns_fail.store(true, Ordering::SeqCst);
    world.failing_turn(&mut engine).await;
    world.queue.turns_fail.store(false, Ordering::SeqCst);
    drop(engine);
    world.script.forget();
    world.clock.advance(Duration::from_secs(60));
    email
}

async fn row(world: &World, email: EmailNumber, state: State) -> DeliveryRow {
    let page = DeliveryPage { state: Some(state), after: UserNumber(0), limit: 100 };
    let mut rows = world.queue.store.deliveries(world.org("acme").await, email, page).await.unwrap().rows;
    assert_eq!((rows.len(), rows[0].recipient.as_str()), (1, "u0@mail.example"));
    rows.remove(0)
}

/// What is told of the deliveries, in order.
async fn events(world: &World) -> Vec<RecipientChanged> {
    let pending = contract::opened(&world.queue.store.pending(1_000).await.unwrap());
    let mut told = Vec::new();
    for record in pending.records().filter(|record| record.topic == Topic::Recipients) {
        match wire::decode(Topic::Recipients, record.payload).unwrap() {
            Event::Recipient(changed) => told.push(changed),
            other => panic!("{other:?}"),
        }
    }
    told
}

#[tokio::test]
async fn what_was_accepted_before_a_kill_is_sent_with_its_servers_words_and_time_and_does_not_go_out_again() {
    let world = World::new(settings(1, |_| {}));
    let email = killed_after(&world, accepted).await;
    let mut engine = world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, sent: 1, ..Counts::default() });
    let sent = row(&world, email, State::Sent).await;
    assert_eq!((sent.attempts, sent.finished_at, sent.said.reply), (1, Some(ANSWERED), Some(reply(250))));
    let told = events(&world).await;
    assert_eq!(told.iter().map(|event| (event.state, event.attempt, event.at)).collect::<Vec<_>>(), [(State::Sent, 1, ANSWERED)]);
    assert_eq!(told[0].said.reply, Some(reply(250)));
    engine.once().await;
    assert_eq!(world.script.waiting(), ["u1@mail.example"]);
}

#[tokio::test]
async fn what_was_deferred_before_a_kill_waits_as_its_server_asked_from_when_it_did_and_the_attempt_counts() {
    let world = World::new(settings(1, |_| {}));
    let email = killed_after(&world, deferred).await;
    let mut engine = world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, deferred: 1, ..Counts::default() });
    let waits = row(&world, email, State::Deferred).await;
    assert_eq!((waits.attempts, waits.next_at, waits.said.reply), (1, Some(ANSWERED + 600_000), Some(reply(451))));
    assert_eq!(events(&world).await.iter().map(|event| (event.state, event.at)).collect::<Vec<_>>(), [(State::Deferred, ANSWERED)]);
    world.clock.advance(Duration::from_secs(600));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 2);
    drop(engine);
    world.engine().await;
    let counts = world.counts("acme", email).await;
    assert_eq!((counts.deferred, counts.queued, counts.unknown), (1, 1, 0), "the second attempt was not answered");
    assert_eq!(events(&world).await.len(), 1);
}

#[tokio::test]
async fn what_was_rejected_before_a_kill_is_failed() {
    let world = World::new(settings(1, |_| {}));
    let email = killed_after(&world, || Outcome::Rejected { reply: reply(550), fault: Fault::Recipient }).await;
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, failed: 1, ..Counts::default() });
    let failed = row(&world, email, State::Failed).await;
    assert_eq!((failed.finished_at, failed.said.reply, failed.said.fault), (Some(ANSWERED), Some(reply(550)), Some(Fault::Recipient)));
    assert_eq!(events(&world).await.iter().map(|event| (event.state, event.at)).collect::<Vec<_>>(), [(State::Failed, ANSWERED)]);
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_keep_leaves_its_message_in_doubt() {
    let world = World::new(settings(1, |_| {}));
    let long = || Outcome::Accepted(Reply { text: "x".repeat(512), ..reply(250) });
    let email = killed_after(&world, long).await;
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn an_answer_is_settled_once_however_often_the_start_is_killed() {
    let world = World::new(settings(1, |_| {}));
    let email = killed_after(&world, accepted).await;
    world.queue.turns_fail.store(true, Ordering::SeqCst);
    assert!(world.try_engine().await.is_err());
    world.queue.turns_fail.store(false, Ordering::SeqCst);
    drop(world.engine().await);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, sent: 1, ..Counts::default() });
    assert_eq!(events(&world).await.len(), 1);
}

#[tokio::test]
async fn an_answer_to_a_client_that_marks_nothing_is_kept_too() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([accepted(), failing()]);
    engine.once().await;
    engine.answers(2).await;
    drop(engine);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, sent: 1, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn an_answer_that_the_engine_had_not_taken_in_is_kept_too() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers((0..3).map(|_| accepted()));
    engine.once().await;
    tokio::time::timeout(Duration::from_secs(20), engine.returns.any()).await.unwrap();
    drop(engine);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await.sent, 3);
}

#[tokio::test]
async fn without_its_organization_an_answer_that_is_final_holds_and_a_deferral_waits_for_it() {
    for (outcome, counts) in
        [(accepted(), Counts { queued: 1, sent: 1, ..Counts::default() }), (deferred(), Counts { queued: 2, ..Counts::default() })]
    {
        let world = World::new(settings(1, |_| {}));
        let email = killed_after(&world, || outcome.clone()).await;
        world.settings.send_modify(|settings| {
            let mut gone = (**settings).clone();
            gone.organizations.clear();
            *settings = gone.into();
        });
        world.engine().await;
        assert_eq!(world.counts("acme", email).await, counts);
    }
}

#[tokio::test]
async fn what_was_answered_counts_for_the_limits() {
    let limits = vec![Window { messages: 2, per: Duration::from_secs(3_600) }];
    let world = World::new(settings(1, |o| o.limits = limits.clone()));
    world.script.marks();
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([accepted(), deferred()]);
    engine.once().await;
    engine.answers(2).await;
    drop(engine);
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, sent: 1, deferred: 1, ..Counts::default() });
}
