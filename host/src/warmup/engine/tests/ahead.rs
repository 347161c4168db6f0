//! Rows that are claimed ahead of a fast client's calls.

use super::fixture::*;
use crate::model::delivery::Counts;
use crate::model::name::EmailNumber;
use crate::warmup::engine::Engine;
use std::time::Duration;

pub const CALLS: usize = 2;
/// All of the 16 rows that may be in hand, but the reserve.
const SHARE: usize = 14;

/// An engine whose first client has answered two messages a millisecond for a while, and has two more in its calls.
pub async fn fast(world: &World) -> (Engine, EmailNumber) {
    let email = world.broadcast("acme", 200, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    for _ in 0..30 {
        assert_eq!(world.script.release(accepted), CALLS, "no more calls run than the client wants");
        engine.answers(CALLS).await;
        world.clock.advance(Duration::from_millis(1));
        engine.once().await;
    }
    (engine, email)
}

pub fn two_calls(clients: usize) -> World {
    World::new(settings(clients, |o| o.smtp[0].connections = CALLS as u32))
}

#[tokio::test]
async fn a_fast_client_has_rows_ahead_of_its_calls_within_its_organizations_share() {
    let world = two_calls(1);
    let (mut engine, email) = fast(&world).await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 126, sending: SHARE as i64, sent: 60, ..Counts::default() });
    for _ in 0..SHARE / CALLS {
        assert_eq!(world.script.release(accepted), CALLS, "each call takes the next row itself");
        engine.answers(CALLS).await;
    }
    assert_eq!(world.script.release(accepted), 0);
}

#[tokio::test]
async fn a_client_that_was_silent_for_a_while_has_nothing_ahead() {
    let world = two_calls(1);
    let (mut engine, email) = fast(&world).await;
    world.clock.advance(Duration::from_secs(3));
    for _ in 0..SHARE / CALLS {
        world.script.release(accepted);
        engine.answers(CALLS).await;
    }
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, CALLS as i64);
}

#[tokio::test]
async fn what_waits_for_a_client_that_fails_goes_to_the_next() {
    let world = two_calls(2);
    let (mut engine, email) = fast(&world).await;
    // The calls that fail take two more rows before the engine knows.
    for _ in 0..2 {
        assert_eq!(world.script.release(failing), CALLS);
        engine.answers(CALLS).await;
    }
    engine.answers(SHARE - 2 * CALLS).await;
    world.clock.advance(Duration::from_millis(500));
    engine.once().await;
    engine.once().await;
    let counts = world.counts("acme", email).await;
    assert_eq!((counts.sent, counts.unknown, counts.sending), (60, 0, 10), "all that the second client can have");
}

#[tokio::test]
async fn a_stop_gives_back_what_waits_for_a_call() {
    let world = two_calls(1);
    let (engine, email) = fast(&world).await;
    world.stop_slowly(engine).await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 138, unknown: CALLS as i64, sent: 60, ..Counts::default() });
}
