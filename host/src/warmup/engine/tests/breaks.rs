//! Sessions that end before a message is sent, again and again.

use super::fixture::*;
use crate::model::delivery::Counts;
use crate::warmup::engine::Engine;
use crate::warmup::route::BREAKS_MAX;
use crate::warmup::store::Queue;
use postwarm_plugin_api::{Cause, Outcome};
use std::time::Duration;

fn ended(cause: Cause) -> Outcome {
    Outcome::NotAttempted { cause, detail: "the server closed the connection".into() }
}

/// One turn in which the first user's message meets a session that ends and the others are accepted; then a second passes.
async fn turn(world: &World, engine: &mut Engine, cause: Cause) {
    engine.once().await;
    let broken = world.script.release_of("u0@mail.example", || ended(cause));
    let sent = world.script.release(accepted);
    engine.answers(broken + sent).await;
    world.clock.advance(Duration::from_secs(1));
}

#[tokio::test]
async fn one_message_that_ends_every_session_does_not_keep_the_others_back() {
    for cause in [Cause::Session, Cause::Disconnected] {
        let world = World::new(settings(1, |o| {
            o.smtp[0].connections = 1;
            o.retry.schedule = vec![Duration::from_secs(3_600)];
        }));
        let email = world.broadcast("acme", 6, "mail.example").await;
        let mut engine = world.engine().await;
        for _ in 0..90 {
            turn(&world, &mut engine, cause).await;
        }
        engine.once().await;
        assert_eq!(world.counts("acme", email).await, Counts { sent: 5, deferred: 1, ..Counts::default() }, "{cause:?}");
    }
}

#[tokio::test]
async fn a_server_that_breaks_every_connection_costs_attempts_and_is_given_up() {
    let world = World::new(settings(1, |o| o.retry.give_up_after = Duration::from_secs(60)));
    let email = world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    for _ in 0..600 {
        engine.once().await;
        let broken = world.script.release(|| ended(Cause::Disconnected));
        engine.answers(broken).await;
        world.clock.advance(Duration::from_secs(1));
    }
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { failed: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_server_that_breaks_every_connection_hands_over_to_the_next_client() {
    let world = World::new(settings(2, |_| {}));
    world.broadcast("acme", 40, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    let broken = world.script.release(|| ended(Cause::Disconnected));
    assert!(broken >= BREAKS_MAX as usize, "{broken}");
    engine.answers(broken).await;
    engine.once().await;
    let clients: Vec<_> = world.queue.in_hand().await.unwrap().into_iter().map(|row| row.client).collect();
    assert!(!clients.is_empty() && clients.iter().all(|client| **client == *"client1"), "{clients:?}");
}

#[tokio::test]
async fn a_session_that_fails_hands_its_message_to_the_next_client_at_once() {
    let world = World::new(settings(2, |_| {}));
    world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.script.release(|| ended(Cause::Session));
    engine.answers(1).await;
    engine.once().await;
    engine.once().await;
    let in_hand = world.queue.in_hand().await.unwrap();
    assert_eq!(in_hand.iter().map(|row| &*row.client).collect::<Vec<_>>(), ["client1"]);
}
