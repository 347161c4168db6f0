//! Stops, starts and failing commits with rows really in flight.

use super::fixture::*;
use crate::clock::Clock;
use crate::config::settings::{OnUnknown, Window};
use crate::model::delivery::Counts;
use crate::model::name::EmailNumber;
use crate::warmup::store::Queue;
use std::sync::atomic::Ordering;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn capped(messages: u64) -> impl FnOnce(&mut crate::config::settings::Organization) {
    move |o| o.smtp[0].limits = vec![Window { messages, per: HOUR }]
}

#[tokio::test]
async fn a_drain_that_expires_leaves_what_was_in_flight_unknown_and_counted() {
    let world = World::new(settings(1, capped(4)));
    let email = world.broadcast("acme", 9, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 5, sending: 4, ..Counts::default() });
    world.stop_slowly(engine).await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 5, unknown: 4, ..Counts::default() });
    assert_eq!(world.queue.in_hand().await.unwrap(), []);
    let mut next = world.engine().await;
    next.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 0, "four of four in this hour went out already");
}

#[tokio::test]
async fn a_drain_that_expires_resends_where_the_organization_wants_that() {
    let world = World::new(settings(1, |o| o.on_unknown = OnUnknown::Resend));
    let email = world.broadcast("acme", 2, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.stop_slowly(engine).await;
    assert_eq!(world.counts("acme", email).await, Counts { unknown: 2, ..Counts::default() });
    world.clock.advance(Duration::from_secs(1));
    let mut next = world.engine().await;
    next.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 2);
}

#[tokio::test]
async fn a_stop_closes_a_client_too_that_a_reload_took_away_so_that_nothing_of_it_is_in_doubt() {
    let before = settings(1, |_| {});
    let world = World::new(before.clone());
    let email = world.broadcast("acme", 4, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.settings.send_replace(edit(&before, |_, o| o.smtp[0].name = "another".into()));
    engine.take_settings().await.unwrap();
    world.stop_until_closed(engine, "client0").await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 4, ..Counts::default() });
}

#[tokio::test]
async fn a_stop_closes_the_clients_of_an_organization_that_is_gone() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 4, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.settings.send_modify(|s| std::sync::Arc::make_mut(s).organizations.clear());
    engine.take_settings().await.unwrap();
    world.stop_until_closed(engine, "client0").await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 4, ..Counts::default() });
}

#[tokio::test]
async fn a_stop_closes_the_clients_while_nothing_can_be_committed() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 4, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([accepted()]);
    engine.once().await;
    engine.answers(1).await;
    world.queue.turns_fail.store(true, Ordering::SeqCst);
    world.stop_until_closed(engine, "client0").await;
    assert_eq!(world.counts("acme", email).await, Counts { sent: 1, queued: 3, ..Counts::default() });
}

#[tokio::test]
async fn a_kill_leaves_what_was_in_flight_unknown_and_counted_in_one_commit() {
    let world = World::new(settings(1, capped(4)));
    let email = world.broadcast("acme", 9, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    drop(engine);
    drop(world.engine().await);
    // Killed again before its first turn.
    let mut third = world.engine().await;
    third.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 5, unknown: 4, ..Counts::default() });
}

#[tokio::test]
async fn rows_of_an_organization_that_is_gone_are_settled_at_the_start_too() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    drop(engine);
    world.settings.send_modify(|s| std::sync::Arc::make_mut(s).organizations.clear());
    drop(world.engine().await);
    assert_eq!(world.counts("acme", email).await, Counts { unknown: 3, ..Counts::default() });
}

#[tokio::test]
async fn a_backfill_in_doubt_at_a_start_does_not_keep_the_rest_of_the_archive_back() {
    let world = World::new(settings(1, |_| {}));
    world.send("acme").await;
    world.send("acme").await;
    world.register("acme", 1, "mail.example").await;
    world.feed().await;
    let mut engine = world.engine().await;
    engine.once().await;
    drop(engine);
    let mut engine = world.engine().await;
    world.clock.advance(HOUR);
    world.feed().await;
    engine.once().await;
    assert_eq!(world.counts("acme", EmailNumber(1)).await.unknown, 1);
    assert_eq!(world.counts("acme", EmailNumber(2)).await.sending, 1);
}

#[tokio::test]
async fn outcomes_and_their_counts_wait_together_for_a_commit_that_succeeds() {
    let world = World::new(settings(1, capped(4)));
    let email = world.broadcast("acme", 9, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers((0..4).map(|_| accepted()));
    engine.once().await;
    engine.answers(4).await;
    world.queue.turns_fail.store(true, Ordering::SeqCst);
    world.failing_turn(&mut engine).await;
    assert_eq!(world.counts("acme", email).await.sending, 4, "nothing was recorded");
    world.queue.turns_fail.store(false, Ordering::SeqCst);
    engine.turn(Vec::new()).await;
    drop(engine);
    assert_eq!(world.counts("acme", email).await, Counts { queued: 5, sent: 4, ..Counts::default() });
    let mut next = world.engine().await;
    next.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 0, "the counts came with the outcomes");
    assert!(world.waits_for("acme").await.is_some_and(|w| w.contains("hourly cap 4")), "{:?}", world.clock.now());
}

#[tokio::test]
async fn marks_that_are_not_believed_and_cannot_be_taken_away_let_nothing_start() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 4, "mail.example").await;
    for sending in [0, 4] {
        if sending > 0 {
            world.engine().await.once().await;
            std::fs::remove_file(world.marks()).unwrap();
        }
        // Nobody can remove it as a file.
        std::fs::create_dir(world.marks()).unwrap();
        let error = world.try_engine().await.err().expect("it does not start").to_string();
        assert!(error.contains(&world.marks().display().to_string()) && error.contains("or remove them"), "{error}");
        assert_eq!(world.counts("acme", email).await.sending, sending, "nothing was settled");
        std::fs::remove_dir(world.marks()).unwrap();
    }
}
