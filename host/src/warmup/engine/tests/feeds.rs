//! Fan-out of several organizations, through the feeder.

use super::fixture::*;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::engine::Feeder;
use crate::warmup::store::Store;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const FIRST: EmailNumber = EmailNumber(1);

fn feeder(world: &World) -> Feeder {
    let (queue, clock) = (world.queue.clone(), world.clock.clone());
    Feeder { queue, clock, lookup: Arc::new(Other), wake: Arc::default(), engine: Arc::default() }
}

/// Accepts an email of each, for so many users.
async fn accept(world: &World, audiences: &[(&str, usize)]) {
    for (name, users) in audiences {
        world.register(name, *users, &format!("{name}.example")).await;
        world.send(name).await;
    }
}

/// How many rows of an email of each are in the queue.
async fn queued(world: &World, names: &[&str], email: EmailNumber) -> Vec<i64> {
    let mut found = Vec::new();
    for name in names {
        let lanes = world.queue.store.waiting(world.org(name).await, email).await.unwrap();
        found.push(lanes.iter().map(|lane| lane.queued).sum());
    }
    found
}

#[tokio::test]
async fn small_audiences_of_several_organizations_are_fanned_out_together_round_after_round() {
    let world = World::new(settings(1, |_| {}));
    let names = ["acme", "beta", "core"];
    accept(&world, &names.map(|name| (name, 5))).await;
    for name in names {
        world.send(name).await;
    }
    let (feeder, mut last) = (feeder(&world), OrgId(0));
    for round in 1..=2 {
        world.queue.fan_outs_together.store(0, Ordering::SeqCst);
        assert_eq!(feeder.step(&mut last).await.unwrap(), None);
        assert_eq!(world.queue.fan_outs_together.load(Ordering::SeqCst), 3, "round {round}");
        assert_eq!(queued(&world, &names, EmailNumber(round)).await, [5, 5, 5]);
    }
    assert!(feeder.step(&mut last).await.unwrap().is_some(), "there is no more");
}

#[tokio::test]
async fn a_large_audience_keeps_nobody_out_and_backfill_has_its_turn_when_each_has_had_its_own() {
    let world = World::new(settings(1, |_| {}));
    accept(&world, &[("large", 2_500), ("beta", 5), ("core", 5)]).await;
    // A newcomer to whom an earlier email is due.
    world.send("archive").await;
    world.register("archive", 1, "archive.example").await;
    let names = ["large", "beta", "core", "archive"];
    let (feeder, mut last) = (feeder(&world), OrgId(0));
    let mut steps = Vec::new();
    for _ in 0..4 {
        assert_eq!(feeder.step(&mut last).await.unwrap(), None);
        steps.push(queued(&world, &names, FIRST).await);
    }
    assert_eq!(steps, [[1_000, 0, 0, 0], [1_000, 5, 5, 1], [2_000, 5, 5, 1], [2_500, 5, 5, 1]]);
}

#[tokio::test]
async fn a_fan_out_that_fails_is_done_by_a_later_step_and_the_others_are_not_done_twice() {
    let world = World::new(settings(1, |_| {}));
    let names = ["acme", "beta", "core"];
    accept(&world, &names.map(|name| (name, 5))).await;
    *world.queue.fan_out_fails.lock().unwrap() = Some(world.org("beta").await);
    let (feeder, mut last) = (feeder(&world), OrgId(0));
    feeder.step(&mut last).await.unwrap_err();
    assert_eq!(queued(&world, &["beta"], FIRST).await, [0]);
    *world.queue.fan_out_fails.lock().unwrap() = None;
    while feeder.step(&mut last).await.unwrap().is_none() {}
    assert_eq!(queued(&world, &names, FIRST).await, [5, 5, 5]);
}
