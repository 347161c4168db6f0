//! How long outcomes wait for others to be committed with.

use super::fixture::*;
use crate::warmup::engine::{Engine, LINGER};
use futures_util::poll;
use std::pin::pin;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// An engine with these rows in hand, of which the first has come back.
async fn first_of(world: &World, rows: usize) -> Engine {
    world.broadcast("acme", rows, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.script.waiting().len(), rows);
    assert_eq!(world.script.release_of("u0@mail.example", accepted), 1);
    engine.answers(1).await;
    engine
}

fn twelve_calls() -> World {
    World::new(settings(1, |o| o.smtp[0].connections = 12))
}

#[tokio::test]
async fn outcomes_are_committed_together_when_half_of_what_is_in_hand_has_come() {
    let world = twelve_calls();
    let mut engine = first_of(&world, 12).await;
    let (returns, stop) = (engine.returns.clone(), CancellationToken::new());
    {
        let mut lingering = pin!(engine.linger(&stop));
        for came in 1..=5 {
            assert!(poll!(&mut lingering).is_pending(), "{came} of 12");
            assert_eq!(world.script.release_of(&format!("u{came}@mail.example"), accepted), 1);
            while returns.count() < came {
                tokio::task::yield_now().await;
            }
        }
        assert!(poll!(&mut lingering).is_ready());
    }
    assert_eq!(engine.recorded.len(), 6);
}

#[tokio::test]
async fn outcomes_wait_for_others_for_sixteen_milliseconds_at_most() {
    let world = twelve_calls();
    let mut engine = first_of(&world, 12).await;
    let stop = CancellationToken::new();
    {
        let mut lingering = pin!(engine.linger(&stop));
        assert!(poll!(&mut lingering).is_pending());
        world.clock.advance(LINGER - Duration::from_millis(1));
        assert!(poll!(&mut lingering).is_pending());
        world.clock.advance(Duration::from_millis(1));
        assert!(poll!(&mut lingering).is_ready());
    }
    assert_eq!((LINGER.as_millis(), engine.recorded.len()), (16, 1));
}

#[tokio::test]
async fn an_outcome_does_not_wait_where_hardly_any_other_can_come() {
    let world = twelve_calls();
    let mut engine = first_of(&world, 3).await;
    assert!(poll!(pin!(engine.linger(&CancellationToken::new()))).is_ready());
}
