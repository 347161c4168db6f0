//! Messages that a client cannot carry: the organization's next client gets them.

use super::fixture::{START, World, accepted, edit, failing, settings};
use super::*;
use crate::warmup::route::STALL_MS;
use crate::warmup::store::{DeliveryRow, Queue as _};
use std::sync::atomic::Ordering;

const NEEDS: &str = "it needs SMTPUTF8";

fn unable() -> Outcome {
    Outcome::NotAttempted { cause: Cause::Unsupported, detail: NEEDS.into() }
}

/// Accepts all but what u0 gets.
fn without_smtputf8(to: &str) -> Outcome {
    if to == "u0@x.example" { unable() } else { accepted() }
}

fn times(client: &FakeClient, to: &str) -> usize {
    client.got.lock().unwrap().iter().filter(|got| *got == to).count()
}

async fn only_row(running: &Running, state: State) -> DeliveryRow {
    let page = DeliveryPage { state: Some(state), after: UserNumber(0), limit: 10 };
    running.store.deliveries(running.org, running.email, page).await.unwrap().rows.remove(0)
}

#[tokio::test]
async fn what_the_first_client_cannot_carry_goes_through_the_second_and_all_else_through_the_first() {
    let (first, second) = (client(without_smtputf8), client(|_| accepted()));
    let running = Running::start(3, vec![first.clone(), second.clone()], settings(2, |_| {})).await;
    assert_eq!(running.until(|c| c.sent == 3).await, Counts { sent: 3, ..Counts::default() });
    assert_eq!((times(&first, "u0@x.example"), times(&second, "u0@x.example")), (1, 1));
    assert_eq!((first.got.lock().unwrap().len(), second.got.lock().unwrap().len()), (3, 1));
    let row = only_row(&running, State::Sent).await;
    assert_eq!((row.client.as_deref(), row.attempts), (Some("client1"), 1));
}

#[tokio::test]
async fn what_no_client_can_carry_fails_after_each_was_asked_once_and_no_reply_is_made_up() {
    let (first, second) = (client(without_smtputf8), client(without_smtputf8));
    let running = Running::start(3, vec![first.clone(), second.clone()], settings(2, |_| {})).await;
    assert_eq!(running.until(|c| c.sent == 2 && c.failed == 1).await, Counts { sent: 2, failed: 1, ..Counts::default() });
    assert_eq!((times(&first, "u0@x.example"), times(&second, "u0@x.example")), (1, 1));
    assert_eq!((first.got.lock().unwrap().len(), second.got.lock().unwrap().len()), (3, 1));
    let said = only_row(&running, State::Failed).await.said;
    assert_eq!(said.reply, None);
    let words = "no client can carry it: `client0`: it needs SMTPUTF8; `client1`: it needs SMTPUTF8";
    assert_eq!(said.detail.as_deref(), Some(words));
}

#[tokio::test]
async fn a_client_that_cannot_be_made_yet_may_carry_it_later_so_that_the_message_waits() {
    let first = client(without_smtputf8);
    let running = Running::start(3, vec![first.clone()], settings(2, |_| {})).await;
    let counts = running.until(|c| times(&first, "u0@x.example") > 0 && (c.sent, c.sending) == (2, 0)).await;
    assert_eq!(counts, Counts { sent: 2, queued: 1, ..Counts::default() });
}

/// The first client cannot carry what it has in hand.
async fn declined(engine: &mut Engine, rows: usize) {
    engine.once().await;
    engine.answers(rows).await;
}

#[tokio::test]
async fn a_client_at_its_limit_keeps_what_it_alone_can_carry_waiting_and_is_offered_it_later() {
    let minute = Window { messages: 1, per: Duration::from_secs(60) };
    let world = World::new(settings(2, |o| o.smtp[1].limits = vec![minute]));
    let email = world.broadcast("acme", 2, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([unable(), unable(), accepted()]);
    declined(&mut engine, 2).await;
    engine.once().await;
    engine.answers(1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sent: 1, queued: 1, ..Counts::default() });
    world.clock.advance(Duration::from_secs(62));
    world.script.answers([unable(), accepted()]);
    declined(&mut engine, 1).await;
    engine.once().await;
    engine.answers(1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sent: 2, ..Counts::default() });
}

#[tokio::test]
async fn what_waits_for_another_client_comes_back_one_by_one() {
    let world = World::new(settings(2, |o| o.smtp[1].connections = 1));
    let email = world.broadcast("acme", 4, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([unable(), unable(), unable(), unable()]);
    declined(&mut engine, 4).await;
    engine.once().await;
    let page = DeliveryPage { state: Some(State::Queued), after: UserNumber(0), limit: 10 };
    let rows = world.queue.store.deliveries(world.org("acme").await, email, page).await.unwrap().rows;
    let waits: Vec<_> = rows.iter().map(|row| row.next_at.unwrap() - START).collect();
    assert_eq!(waits, [500, 505, 510], "the one that is missing has the only connection");
}

#[tokio::test]
async fn what_the_only_other_client_fails_to_take_waits_and_probes_it() {
    let world = World::new(settings(2, |_| {}));
    let email = world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([unable(), failing(), unable()]);
    declined(&mut engine, 1).await;
    engine.once().await;
    engine.answers(1).await;
    engine.once().await;
    // It is due at once; the first cannot carry it, and the second has just failed.
    declined(&mut engine, 1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 1, ..Counts::default() });
    world.clock.advance(Duration::from_secs(5));
    world.script.answers([unable(), accepted()]);
    declined(&mut engine, 1).await;
    engine.once().await;
    engine.answers(1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sent: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_client_that_is_asked_for_a_probe_may_say_that_it_cannot_carry_it_either() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([failing()]);
    declined(&mut engine, 1).await;
    world.clock.advance(Duration::from_secs(2));
    engine.once().await;
    world.script.answers([unable()]);
    declined(&mut engine, 1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { failed: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_message_is_recorded_as_the_next_clients_before_that_client_has_it() {
    let world = World::new(settings(2, |_| {}));
    world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([unable()]);
    declined(&mut engine, 1).await;
    let in_hand = async || world.queue.in_hand().await.unwrap().remove(0).client.to_string();
    assert_eq!(in_hand().await, "client0");
    world.queue.turns_fail.store(true, Ordering::SeqCst);
    world.failing_turn(&mut engine).await;
    assert_eq!(world.script.release(accepted), 0, "nothing was handed over that was not committed");
    world.queue.turns_fail.store(false, Ordering::SeqCst);
    engine.once().await;
    assert_eq!(in_hand().await, "client1");
    assert_eq!(world.script.release(accepted), 1);
}

#[tokio::test]
async fn what_waits_to_be_handed_over_at_a_stop_is_unsent_and_is_offered_again_after_the_start() {
    let world = World::new(settings(2, |_| {}));
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    world.script.answers([unable()]);
    declined(&mut engine, 1).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let ended = engine.run(stop);
    tokio::pin!(ended);
    assert!(futures_util::poll!(&mut ended).is_pending());
    // The second comes back while the engine drains, and the third never does.
    assert_eq!(world.script.release_of("u1@mail.example", unable), 1);
    tokio::task::yield_now().await;
    assert!(futures_util::poll!(&mut ended).is_pending());
    world.clock.advance(Duration::from_secs(8));
    ended.await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 2, unknown: 1, ..Counts::default() });
    world.clock.advance(Duration::from_secs(5));
    let mut next = world.engine().await;
    world.script.answers([unable(), unable(), accepted(), accepted()]);
    declined(&mut next, 2).await;
    next.once().await;
    next.answers(2).await;
    next.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sent: 2, unknown: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_client_that_was_changed_meanwhile_may_carry_what_the_others_cannot() {
    let before = settings(1, |_| {});
    let world = World::new(before.clone());
    let email = world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.settings.send_replace(edit(&before, |_, o| o.smtp[0].connections = 11));
    engine.take_settings().await.unwrap();
    world.script.release(unable);
    engine.answers(1).await;
    world.script.answers([accepted()]);
    engine.once().await;
    engine.answers(1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sent: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_client_whose_server_is_silent_does_not_answer_for_it_by_what_it_cannot_carry() {
    let world = World::new(settings(2, |o| o.smtp[0].connections = 2));
    let email = world.broadcast("acme", 4, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.clock.advance(Duration::from_millis(STALL_MS as u64 - 1));
    assert_eq!(world.script.release_of("u0@mail.example", unable), 1);
    engine.answers(1).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { sending: 3, queued: 1, ..Counts::default() });
    world.clock.advance(Duration::from_millis(1));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 4);
}
