//! Kills: the engine is gone between two turns, and the next one goes by what was marked.

use super::ahead::{CALLS, fast, two_calls};
use super::fixture::*;
use crate::config::settings::{OnUnknown, Window};
use crate::model::delivery::{Counts, State};
use crate::model::name::{EmailNumber, UserNumber};
use crate::warmup::store::{DeliveryPage, DeliveryRow, Store};
use postwarm_plugin_api::{Cause, Outcome};
use std::sync::atomic::Ordering;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn unable() -> Outcome {
    Outcome::NotAttempted { cause: Cause::Unsupported, detail: "it needs SMTPUTF8".into() }
}

/// Nine messages are with a client that marks; the ends of these have left.
async fn killed(world: &World, left: &[&str]) -> EmailNumber {
    world.script.marks();
    let email = world.broadcast("acme", 9, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    left.iter().for_each(|user| world.script.ends_data_of(&format!("{user}@mail.example")));
    drop(engine);
    world.script.forget();
    email
}

async fn rows(world: &World, email: EmailNumber, state: State) -> Vec<DeliveryRow> {
    let page = DeliveryPage { state: Some(state), after: UserNumber(0), limit: 100 };
    world.queue.store.deliveries(world.org("acme").await, email, page).await.unwrap().rows
}

#[tokio::test]
async fn only_what_may_have_left_is_unknown_and_the_rest_goes_out_once() {
    let world = World::new(settings(1, |_| {}));
    let email = killed(&world, &["u0", "u4"]).await;
    let mut engine = world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 7, unknown: 2, ..Counts::default() });
    let unknown: Vec<String> = rows(&world, email, State::Unknown).await.iter().map(|row| row.recipient.to_string()).collect();
    assert_eq!(unknown, ["u0@mail.example", "u4@mail.example"]);
    engine.once().await;
    assert_eq!(world.script.release(accepted), 7);
    engine.answers(7).await;
    engine.once().await;
    assert_eq!(world.script.release(accepted), 0);
    assert_eq!(world.counts("acme", email).await, Counts { sent: 7, unknown: 2, ..Counts::default() });
    assert!(rows(&world, email, State::Sent).await.iter().all(|row| row.attempts == 1), "the first attempt was none");
}

#[tokio::test]
async fn what_a_client_that_does_not_mark_has_given_back_is_in_no_doubt() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 2, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.script.release_of("u0@mail.example", failing);
    tokio::time::timeout(PATIENCE, engine.returns.any()).await.expect("it comes back");
    drop(engine);
    world.script.forget();
    let _ = world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_second_kill_before_the_first_turn_changes_nothing() {
    let world = World::new(settings(1, |_| {}));
    let email = killed(&world, &["u0"]).await;
    drop(world.engine().await);
    let mut engine = world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 8, unknown: 1, ..Counts::default() });
    engine.once().await;
    drop(engine);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 8, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_start_that_cannot_settle_leaves_the_marks_to_the_next() {
    let world = World::new(settings(1, |_| {}));
    let email = killed(&world, &["u0"]).await;
    world.queue.turns_fail.store(true, Ordering::SeqCst);
    assert!(world.try_engine().await.is_err());
    world.queue.turns_fail.store(false, Ordering::SeqCst);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 8, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn without_marks_all_that_was_in_hand_is_unknown() {
    let world = World::new(settings(1, |_| {}));
    let email = killed(&world, &["u0"]).await;
    std::fs::remove_file(world.marks()).unwrap();
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { unknown: 9, ..Counts::default() });
}

#[tokio::test]
async fn marks_of_another_turn_of_the_database_are_not_believed() {
    let world = World::new(settings(1, |_| {}));
    world.script.marks();
    let email = world.broadcast("acme", 20, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([accepted()]);
    engine.once().await;
    let old = std::fs::read(world.marks()).unwrap();
    engine.answers(1).await;
    engine.once().await;
    drop(engine);
    std::fs::write(world.marks(), old).unwrap();
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 9, sent: 1, unknown: 10, ..Counts::default() });
}

#[tokio::test]
async fn one_that_was_committed_frees_its_place_for_the_next_row() {
    let world = World::new(settings(1, |_| {}));
    world.script.marks();
    let email = world.broadcast("acme", 60, "mail.example").await;
    let mut engine = world.engine().await;
    // More rows than the file has places, a few at a time.
    for _ in 0..5 {
        engine.once().await;
        let rows = world.script.waiting();
        rows.iter().for_each(|to| world.script.ends_data_of(to));
        world.script.release(accepted);
        engine.answers(rows.len()).await;
    }
    engine.once().await;
    drop(engine);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 10, sent: 50, ..Counts::default() });
}

#[tokio::test]
async fn what_a_client_that_marks_nothing_was_given_is_unknown_and_what_waits_for_it_is_not() {
    let world = two_calls(1);
    let (engine, email) = fast(&world).await;
    drop(engine);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 138, unknown: CALLS as i64, sent: 60, ..Counts::default() });
}

#[tokio::test]
async fn what_such_a_client_gave_back_is_not_unknown() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 2, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([failing()]);
    engine.once().await;
    engine.answers(1).await;
    drop(engine);
    world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_row_on_its_way_to_another_client_keeps_its_place() {
    for (turns, unknown) in [(0, 0), (1, 1)] {
        let world = World::new(settings(2, |_| {}));
        let email = world.broadcast("acme", 1, "mail.example").await;
        let mut engine = world.engine().await;
        world.script.answers([unable()]);
        engine.once().await;
        engine.answers(1).await;
        for _ in 0..turns {
            engine.once().await;
        }
        drop(engine);
        world.engine().await;
        let counts = world.counts("acme", email).await;
        assert_eq!(counts, Counts { queued: 1 - unknown, unknown, ..Counts::default() }, "after {turns} turns");
    }
}

#[tokio::test]
async fn no_more_rows_are_in_hand_than_have_a_place_so_that_none_is_in_doubt_for_want_of_one() {
    let world = World::new(settings(1, |o| o.smtp[0].connections = 30));
    world.script.marks();
    let email = world.broadcast("acme", 20, "mail.example").await;
    let mut engine = world.engine().await;
    world.settings.send_modify(|settings| *settings = edit(settings, |process, _| process.sending_rows_max = 100));
    engine.take_settings().await.unwrap();
    engine.once().await;
    let sending = world.counts("acme", email).await.sending;
    assert!((1..=16).contains(&sending), "{sending} rows of 16 places");
    drop(engine);
    let mut engine = world.engine().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 20, ..Counts::default() });
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 20, "a start makes the places that are wanted by then");
}

#[tokio::test]
async fn what_was_with_a_client_counts_for_the_limits_and_what_waited_does_not() {
    let world = World::new(settings(1, |o| {
        o.smtp[0].connections = CALLS as u32;
        o.limits = vec![Window { messages: 63, per: HOUR }];
    }));
    let (engine, email) = fast(&world).await;
    assert_eq!(world.counts("acme", email).await.sending, 3, "all that the limit allows");
    drop(engine);
    let mut engine = world.engine().await;
    engine.once().await;
    engine.once().await;
    let counts = world.counts("acme", email).await;
    assert_eq!((counts.sent, counts.unknown, counts.sending), (60, 2, 1));
}

#[tokio::test]
async fn what_is_in_doubt_is_sent_again_where_its_organization_wants_that() {
    let world = World::new(settings(1, |o| o.on_unknown = OnUnknown::Resend));
    let email = killed(&world, &["u3"]).await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sending: 8, unknown: 1, ..Counts::default() });
    world.clock.advance(Duration::from_secs(1));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sending: 9, ..Counts::default() });
}

#[tokio::test]
async fn a_backfill_that_had_not_left_goes_out_and_the_rest_of_the_archive_behind_it() {
    let world = World::new(settings(1, |_| {}));
    world.script.marks();
    world.send("acme").await;
    world.send("acme").await;
    world.register("acme", 1, "mail.example").await;
    world.feed().await;
    let mut engine = world.engine().await;
    engine.once().await;
    drop(engine);
    world.script.forget();
    let mut engine = world.engine().await;
    for email in [1, 2] {
        world.feed().await;
        engine.once().await;
        assert_eq!(world.script.release(accepted), 1, "email {email}");
        engine.answers(1).await;
        engine.once().await;
        assert_eq!(world.counts("acme", EmailNumber(email)).await.sent, 1);
        world.clock.advance(Duration::from_secs(11));
    }
}
