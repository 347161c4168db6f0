//! Who gets how much in hand, through the engine. The rule itself is tested where it stands.

use super::fixture::*;
use crate::config::settings::{Settings, Window};
use crate::model::name::{EmailNumber, OrgName};
use crate::warmup::engine::Engine;
use crate::warmup::route::STALL_MS;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

fn with_another(settings: &Arc<Settings>) -> Arc<Settings> {
    edit(settings, |_, o| o.name = OrgName::parse("other").unwrap())
}

#[tokio::test]
async fn an_organization_whose_server_is_silent_does_not_keep_the_others_out() {
    let world = World::new(with_another(&settings(1, |o| o.smtp[0].connections = 1_000)));
    let email = world.broadcast("acme", 50, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 14, "all of 16 but the reserve");
    let others = world.broadcast("other", 5, "mail.other").await;
    for sent in 1..=5 {
        engine.once().await;
        assert_eq!(world.script.release_of("@mail.other", accepted), 1);
        engine.answers(1).await;
        engine.once().await;
        assert_eq!(world.counts("other", others).await.sent, sent);
    }
}

#[tokio::test]
async fn organizations_get_equal_parts_whatever_the_number_of_their_providers() {
    let world = World::new(with_another(&settings(1, |o| o.smtp[0].connections = 1_000)));
    world.register("acme", 50, "a.example").await;
    world.register("acme", 50, "b.example").await;
    world.register("acme", 50, "c.example").await;
    let email = world.send("acme").await;
    let others = world.broadcast("other", 50, "mail.other").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!((world.counts("acme", email).await.sending, world.counts("other", others).await.sending), (7, 7));
}

#[tokio::test]
async fn more_lanes_than_may_be_in_hand_are_served_in_turn() {
    const LANES: usize = 20;
    const USERS: usize = 8;
    /// What a lane gets in its turn, of the 16 rows.
    const TURN: usize = 2;
    let world = World::new(settings(1, |o| o.smtp[0].connections = 1_000));
    for lane in 0..LANES {
        world.register("acme", USERS, &format!("lane{lane}.example")).await;
    }
    let email = world.send("acme").await;
    world.feed().await;
    let mut engine = world.engine().await;
    let mut served = [0; LANES];
    while served.iter().sum::<usize>() < USERS * LANES {
        engine.once().await;
        let before = served;
        for (lane, served) in served.iter_mut().enumerate() {
            *served += world.script.release_of(&format!("@lane{lane}.example"), accepted);
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(most - least <= 3 * TURN, "{before:?}, then {served:?}");
        engine.answers(served.iter().sum::<usize>() - before.iter().sum::<usize>()).await;
    }
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sent, (USERS * LANES) as i64);
}

#[tokio::test]
async fn of_many_lanes_some_get_several_rows_at_a_time_and_all_have_their_turn() {
    const LANES: usize = 50;
    const USERS: usize = 150;
    let world = World::new(edit(&settings(1, |o| o.smtp[0].connections = 1_000), |process, _| process.sending_rows_max = 128));
    for lane in 0..LANES {
        world.register("acme", USERS, &format!("lane{lane}.example")).await;
    }
    let email = world.send("acme").await;
    world.feed().await;
    let mut engine = world.engine().await;
    let (mut served, mut turns) = (vec![0; LANES], 0);
    while served.iter().sum::<usize>() < USERS * LANES {
        engine.once().await;
        let before = served.clone();
        for (lane, served) in served.iter_mut().enumerate() {
            *served += world.script.release_of(&format!("@lane{lane}.example"), accepted);
        }
        let got: Vec<usize> = served.iter().zip(&before).map(|(now, before)| now - before).filter(|got| *got > 0).collect();
        if turns == 0 {
            assert!(got.len() <= 22 && got[0] >= 5, "{got:?}");
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(most - least <= TURN, "{before:?}, then {served:?}");
        engine.answers(got.iter().sum()).await;
        turns += 1;
    }
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sent, (USERS * LANES) as i64);
}

/// Rows of a lane in hand where others wait behind it and its client is fast: a twentieth of the 128.
const TOGETHER: usize = 6;
/// How many it gets before others come.
const TURN: usize = 60;

fn domain(lane: usize) -> String {
    format!("@lane{lane}.example")
}

/// An engine whose client has answered fast and has nothing in hand, while an email to `users` users in each of so many lanes waits.
async fn fast_with_lanes(lanes: usize, users: usize) -> (World, Engine) {
    let world = World::new(edit(&settings(1, |o| o.smtp[0].connections = 1_000), |process, _| process.sending_rows_max = 128));
    world.broadcast("acme", users, &domain(0)[1..]).await;
    let mut engine = world.engine().await;
    for left in (0..users).rev() {
        turn(&world, &mut engine).await;
        let first = world.script.waiting().remove(0);
        engine.answers(world.script.release_of(&first, accepted)).await;
        world.clock.advance(Duration::from_millis(u64::from(left % 2 == 0)));
    }
    engine.once().await;
    for lane in 1..lanes {
        world.register("acme", users, &domain(lane)[1..]).await;
    }
    world.send("acme").await;
    world.feed().await;
    (world, engine)
}

/// A turn, and what it claimed is with the client.
async fn turn(world: &World, engine: &mut Engine) {
    engine.once().await;
    while world.script.waiting().len() < engine.hands.len() {
        tokio::task::yield_now().await;
    }
}

/// How many rows of each lane wait for their replies.
fn in_hand(world: &World, lanes: usize) -> Vec<usize> {
    let waiting = world.script.waiting();
    (0..lanes).map(|lane| waiting.iter().filter(|to| to.ends_with(&domain(lane))).count()).collect()
}

#[tokio::test]
async fn a_lane_at_its_turn_goes_on_before_others_come_and_goes_behind_them_after_it() {
    const LANES: usize = 60;
    let (world, mut engine) = fast_with_lanes(LANES, 2 * TURN).await;
    let (mut turns, mut served) = (Vec::new(), Vec::new());
    while turns.len() < 2 * TURN / TOGETHER {
        turn(&world, &mut engine).await;
        let rows = in_hand(&world, LANES);
        // One row may go to a lane that has none, beside the turns.
        turns.push((0..LANES).filter(|lane| rows[*lane] > 1).collect::<BTreeSet<_>>());
        served.push(rows);
        engine.answers(world.script.release(accepted)).await;
    }
    let first = &turns[0];
    assert_eq!(first.len(), 128_usize.div_ceil(TOGETHER), "{turns:?}");
    for lane in first {
        let had: usize = served.iter().map(|rows| rows[*lane]).take_while(|rows| *rows > 0).sum();
        assert_eq!(had, TURN, "lane {lane} goes behind when it has had its turn: {served:?}");
    }
    let until = turns.iter().position(|turn| !turn.is_superset(first)).unwrap();
    let behind = turns[until..].iter().position(|turn| turn.is_disjoint(first)).unwrap();
    assert!(behind <= 2, "others go on in their places: {turns:?}");
}

#[tokio::test]
async fn a_lane_that_has_half_of_its_rows_is_not_topped_up_while_others_wait() {
    const LANES: usize = 20;
    const HALF: usize = TOGETHER / 2;
    let (world, mut engine) = fast_with_lanes(LANES, 60).await;
    turn(&world, &mut engine).await;
    let rows = in_hand(&world, LANES);
    let front: Vec<usize> = (0..LANES).filter(|lane| rows[*lane] > HALF).collect();
    // The first two lanes keep these rows, and the others none.
    let mut kept = [(domain(front[0]), HALF), (domain(front[1]), HALF - 1)];
    let mut answered = 0;
    for to in world.script.waiting() {
        match kept.iter_mut().find(|(domain, left)| to.ends_with(domain.as_str()) && *left > 0) {
            Some((_, left)) => *left -= 1,
            None => answered += world.script.release_of(&to, accepted),
        }
    }
    engine.answers(answered).await;
    turn(&world, &mut engine).await;
    let rows = in_hand(&world, LANES);
    assert!(rows[front[0]] == HALF && rows[front[1]] > HALF, "{front:?}: {rows:?}");
}

#[tokio::test]
async fn a_lane_that_is_alone_gets_all_there_is_though_it_has_half_of_its_rows() {
    let (world, mut engine) = fast_with_lanes(1, 300).await;
    turn(&world, &mut engine).await;
    // All but the reserve.
    assert_eq!(in_hand(&world, 1), [112]);
    let some = world.script.waiting()[..10].iter().map(|to| world.script.release_of(to, accepted)).sum();
    engine.answers(some).await;
    turn(&world, &mut engine).await;
    assert_eq!((some, in_hand(&world, 1)), (10, vec![112]));
}

#[tokio::test]
async fn a_lane_whose_client_becomes_slow_in_its_turn_has_another_turn_though_others_can_use_all_there_is() {
    const ORGANIZATIONS: usize = 20;
    let name = |n: usize| format!("org{n:02}");
    let one = edit(&settings(1, |o| o.smtp[0].connections = 1_000), |process, _| process.sending_rows_max = 256);
    let world = World::new((0..ORGANIZATIONS).fold(one, |all, n| edit(&all, |_, o| o.name = OrgName::parse(&name(n)).unwrap())));
    for n in 0..ORGANIZATIONS {
        world.register(&name(n), 200, &domain(n)[1..]).await;
        world.send(&name(n)).await;
    }
    world.feed().await;
    let mut engine = world.engine().await;
    // Until one has had more in its turn than a whole turn of one whose client nobody knows.
    let mut before = vec![0; ORGANIZATIONS];
    let slow = loop {
        turn(&world, &mut engine).await;
        let rows = in_hand(&world, ORGANIZATIONS);
        if let Some(slow) = (0..ORGANIZATIONS).find(|n| before[*n] > 8 && rows[*n] > 8) {
            break slow;
        }
        before = rows;
        engine.answers(world.script.release(accepted)).await;
    };
    // Its answers take a fifth of a second, in which the others go on.
    for _ in 0..4 {
        world.clock.advance(Duration::from_millis(50));
        let others: Vec<String> = world.script.waiting().into_iter().filter(|to| !to.ends_with(&domain(slow))).collect();
        let answered = others.iter().map(|to| world.script.release_of(to, accepted)).sum();
        engine.answers(answered).await;
        turn(&world, &mut engine).await;
    }
    let answered = world.script.release_of(&domain(slow), accepted);
    engine.answers(answered).await;
    let mut had = Vec::new();
    for _ in 0..6 {
        turn(&world, &mut engine).await;
        had.push(in_hand(&world, ORGANIZATIONS));
        engine.answers(world.script.release(accepted)).await;
    }
    assert!(answered > 8 && had.iter().all(|rows| rows.iter().sum::<usize>() > 200), "{answered}, the others use all there is: {had:?}");
    assert!(had.iter().any(|rows| rows[slow] > 0), "{slow}: {had:?}");
}

#[tokio::test]
async fn every_organization_has_something_in_hand_however_many_lanes_are_silent_and_a_newcomer_is_served_at_once() {
    const ORGANIZATIONS: usize = 12;
    let name = |n: usize| format!("org{n:02}");
    let one = edit(&settings(1, |o| o.smtp[0].connections = 1_000), |process, _| process.sending_rows_max = 128);
    let all = (0..=ORGANIZATIONS).fold(one, |all, n| edit(&all, |_, o| o.name = OrgName::parse(&name(n)).unwrap()));
    let world = World::new(all);
    let mut emails = Vec::new();
    for n in 0..ORGANIZATIONS {
        for lane in 0..5 {
            world.register(&name(n), 120, &format!("lane{lane}.org{n}")).await;
        }
        emails.push(world.send(&name(n)).await);
        world.feed().await;
    }
    let mut engine = world.engine().await;
    for _ in 0..5 {
        engine.once().await;
    }
    for (n, email) in emails.into_iter().enumerate() {
        let sending = world.counts(&name(n), email).await.sending;
        assert!(sending >= 4, "{sending} rows of {}", name(n));
    }
    let newcomer = world.broadcast(&name(ORGANIZATIONS), 5, "mail.newcomer").await;
    engine.once().await;
    assert!(world.counts(&name(ORGANIZATIONS), newcomer).await.sending >= 1);
}

#[tokio::test]
async fn organizations_that_fall_silent_one_after_another_keep_no_newcomer_out() {
    const ORGANIZATIONS: usize = 15;
    let name = |n: usize| format!("org{n:02}");
    let one = edit(&settings(1, |o| o.smtp[0].connections = 1_000), |process, _| process.sending_rows_max = 128);
    let world = World::new((0..ORGANIZATIONS).fold(one, |all, n| edit(&all, |_, o| o.name = OrgName::parse(&name(n)).unwrap())));
    let mut engine = world.engine().await;
    let mut got = Vec::new();
    for n in 0..ORGANIZATIONS {
        let email = world.broadcast(&name(n), 20, &domain(n)[1..]).await;
        engine.once().await;
        got.push(world.counts(&name(n), email).await.sending);
    }
    assert!(got.iter().all(|rows| *rows >= 1), "{got:?}");
}

#[tokio::test]
async fn of_many_healthy_organizations_the_last_of_a_turn_make_no_claims_of_a_row_each() {
    const ORGANIZATIONS: usize = 100;
    const TURNS: usize = 30;
    /// Answers between two turns.
    const ANSWERS: usize = 160;
    let name = |n: usize| format!("org{n:02}");
    let one = edit(&settings(1, |o| o.smtp[0].connections = 30), |process, _| process.sending_rows_max = 512);
    let world = World::new((0..ORGANIZATIONS).fold(one, |all, n| edit(&all, |_, o| o.name = OrgName::parse(&name(n)).unwrap())));
    for n in 0..ORGANIZATIONS {
        world.register(&name(n), 100, &domain(n)[1..]).await;
        world.send(&name(n)).await;
    }
    world.feed().await;
    let mut engine = world.engine().await;
    let (mut claims, mut rows) = (0, 0);
    for turn in 0..TURNS {
        world.clock.advance(Duration::from_millis(8));
        engine.refresh_lanes().await;
        let planned = engine.plan();
        // By then the clients are known as fast.
        if turn >= TURNS / 2 {
            claims += planned.len();
            rows += planned.iter().map(|planned| planned.claim.rows_max).sum::<usize>();
        }
        engine.turn(planned).await;
        tokio::task::yield_now().await;
        let answered = world.script.waiting().iter().take(ANSWERS).map(|to| world.script.release_of(to, accepted)).sum();
        engine.answers(answered).await;
    }
    assert!(rows >= 12 * claims, "{rows} rows by {claims} claims");
}

#[tokio::test]
async fn a_client_whose_server_falls_silent_hands_over_to_the_next() {
    let world = World::new(settings(2, |o| o.smtp[0].connections = 4));
    let email = world.broadcast("acme", 12, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.clock.advance(Duration::from_millis(STALL_MS as u64 - 1));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 4);
    world.clock.advance(Duration::from_millis(1));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 12);
}

#[tokio::test]
async fn what_no_connection_of_a_silent_server_has_begun_frees_its_rows_though_nothing_more_is_due() {
    let world = World::new(settings(1, |o| o.smtp[0].connections = 1_000));
    world.script.begins(2);
    let email = world.broadcast("acme", 10, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 10);
    world.clock.advance(Duration::from_millis(STALL_MS as u64));
    engine.once().await;
    engine.answers(8).await;
    engine.once().await;
    let counts = world.counts("acme", email).await;
    assert_eq!((counts.sending, counts.queued), (2, 8));
}

#[tokio::test]
async fn messages_in_a_row_without_a_reply_hand_over_to_the_next_client() {
    let world = World::new(settings(2, |o| o.smtp[0].connections = 3));
    let email = world.broadcast("acme", 12, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.script.release(unknown);
    engine.answers(3).await;
    engine.once().await;
    let counts = world.counts("acme", email).await;
    assert_eq!((counts.unknown, counts.sending), (3, 9));
}

#[tokio::test]
async fn live_mail_to_any_provider_spends_a_shared_limit_before_backfill_does() {
    let world = World::new(settings(1, |o| o.limits = vec![Window { messages: 2, per: Duration::from_secs(3_600) }]));
    world.send("acme").await;
    world.register("acme", 2, "archive.example").await;
    // Live mail for newcomers of another provider alone: those of the archive left.
    world.feed().await;
    world.register("acme", 2, "live.example").await;
    let live = world.send("acme").await;
    world.feed().await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", EmailNumber(1)).await.sending, 0, "back-fill waits");
    assert_eq!(world.counts("acme", live).await.sending, 2);
}
