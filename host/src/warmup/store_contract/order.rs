//! Whose turn it is, and that a clock that is set back changes nothing of it.

use super::*;

const TWO_HOURS: i64 = 7_200_000;

pub async fn organizations_take_turns_in_fan_out_and_their_emails_go_in_order(open: Open) {
    let f = Fixture::new(open).await;
    let second = f.store.organization(&OrgName::parse("second").unwrap()).await.unwrap();
    for org in [f.org, second] {
        let users = (0..2).map(|n| user(&format!("u{n}@x.example"))).collect();
        f.store.import(org, users, false, NOW).await.unwrap();
    }
    for org in [f.org, f.org, second] {
        f.store.accept(org, email(), None, NOW).await.unwrap();
    }
    let (mut last, mut turns) = (OrgId(0), Vec::new());
    while let Some(next) = f.store.fan_out_next(last, 1, BELIEVED).await.unwrap() {
        f.store.fan_out(next.org, next.email, 1, NOW).await.unwrap();
        last = next.org;
        turns.push((next.org.0, next.email.0));
    }
    assert_eq!(turns, [(1, 1), (2, 1), (1, 1), (2, 1), (1, 2), (1, 2)]);
}

pub async fn the_number_of_a_turn_is_committed_with_it(open: Open) {
    let f = Fixture::new(open).await;
    assert_eq!(f.store.last_turn().await.unwrap(), 0, "there was none");
    for number in [1, 2, 3] {
        f.store.turn(Turn { number, ..Turn::default() }).await.unwrap();
    }
    let f = f.restart().await;
    assert_eq!(f.store.last_turn().await.unwrap(), 3);
}

pub async fn live_mail_is_due_whatever_the_clock_shows(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    f.register("b@x.example", NOW).await;
    f.accept(NOW).await;
    f.fan_out().await;
    assert_eq!(f.claim(1, NOW - TWO_HOURS).await.len(), 1);
    assert_eq!(f.store.lanes(NOW - TWO_HOURS).await.unwrap().due.len(), 1);
    let page = DeliveryPage { state: Some(State::Queued), after: UserNumber(0), limit: 10 };
    assert_eq!(f.store.deliveries(f.org, EmailNumber(1), page).await.unwrap().rows[0].next_at, None, "it waits for no time");
}

pub async fn what_came_back_unsent_goes_before_newer_mail(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    f.accept(NOW).await;
    f.fan_out().await;
    let first = f.claim(1, NOW).await;
    f.record(&first, Settled::Returned { next_at: NOW + 500 }, NOW).await;
    f.accept(NOW + 1).await;
    f.fan_out().await;
    assert_eq!(f.claim(1, NOW + 500).await[0].delivery.email, EmailNumber(1));
}

pub async fn what_is_handed_to_another_client_is_in_its_hand(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    f.register("b@x.example", NOW).await;
    let email = f.accept(NOW).await;
    f.fan_out().await;
    let claimed = f.claim(2, NOW).await;
    let other = Arc::new(Claimed { client: "other".into(), ..(*claimed[0]).clone() });
    let turn = Turn { handed: vec![other.clone()], now: NOW + 1, ..Turn::default() };
    assert_eq!(f.store.turn(turn).await.unwrap(), [], "nothing new is in hand");
    let mut in_hand = f.store.in_hand().await.unwrap();
    in_hand.sort_by_key(|row| row.delivery.user);
    assert_eq!(in_hand, [(*other).clone(), (*claimed[1]).clone()]);
    f.record(&[other], sent(), NOW + 2).await;
    let page = DeliveryPage { state: Some(State::Sent), after: UserNumber(0), limit: 10 };
    assert_eq!(f.store.deliveries(f.org, email, page).await.unwrap().rows[0].client.as_deref(), Some("other"));
}

async fn waits_at_most_its_back_off(open: Open, restart: bool) {
    let mut f = Fixture::new(open).await;
    f.accept(NOW).await;
    f.accept(NOW).await;
    f.register("a@x.example", NOW).await;
    let live = f.accept(NOW).await;
    f.fan_out().await;
    let first = f.claim(1, NOW).await;
    assert_eq!(first[0].delivery.email, live);
    f.record(&first, Settled::Deferred { said: said(451, "later"), next_at: NOW + 60_000 }, NOW).await;
    f.store.backfill_step(10, NOW).await.unwrap();
    let archive = f.claim(10, NOW).await;
    f.record(&archive, sent(), NOW).await;
    if restart {
        f = f.restart().await;
    }
    let now = NOW - TWO_HOURS;
    assert_eq!(f.store.lanes(now).await.unwrap().next_at, Some(now + 60_000));
    f.store.backfill_step(10, now + 9_999).await.unwrap();
    assert!(f.claim(10, now + 9_999).await.is_empty(), "the pace holds");
    f.store.backfill_step(10, now + 10_000).await.unwrap();
    assert_eq!(f.claim(10, now + 10_000).await.len(), 1, "the next of the archive");
    assert!(f.claim(10, now + 59_999).await.is_empty());
    assert_eq!(f.claim(10, now + 60_000).await[0].delivery.email, live);
}

pub async fn a_clock_set_back_lets_no_retry_wait_longer_than_its_back_off(open: Open) {
    waits_at_most_its_back_off(open, false).await;
}

pub async fn nor_does_one_that_was_set_back_between_two_starts(open: Open) {
    waits_at_most_its_back_off(open, true).await;
}

pub async fn what_is_recorded_after_the_clock_was_set_back_waits_no_longer_either(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    f.register("b@x.example", NOW).await;
    f.accept(NOW).await;
    f.fan_out().await;
    let claimed = f.claim(2, NOW).await;
    let back = NOW - TWO_HOURS;
    let (deferred, returned) =
        (Settled::Deferred { said: said(451, "later"), next_at: NOW + 60_000 }, Settled::Returned { next_at: NOW + 500 });
    let came_at = |claimed: &Arc<Claimed>, result| Recorded { claimed: claimed.clone(), result, at: NOW };
    let outcomes = Arc::new(vec![came_at(&claimed[0], deferred), came_at(&claimed[1], returned)]);
    f.store.turn(Turn { outcomes, now: back, ..Turn::default() }).await.unwrap();
    assert_eq!(f.claim(10, back + 499).await.len(), 0);
    assert_eq!(f.claim(10, back + 500).await.len(), 1);
    assert_eq!(f.claim(10, back + 59_999).await.len(), 0);
    assert_eq!(f.claim(10, back + 60_000).await.len(), 1);
}

pub async fn an_idempotency_key_is_kept_a_day_from_when_the_clock_was_set_back(open: Open) {
    let f = Fixture::new(open).await;
    let key = || Some(Idempotency { key: "k".into(), body_hash: [1; 32] });
    f.register("a@x.example", NOW).await;
    f.store.accept(f.org, email(), key(), NOW).await.unwrap();
    f.fan_out().await;
    let claimed = f.claim(1, NOW).await;
    f.record(&claimed, sent(), NOW).await;
    let now = NOW - TWO_HOURS;
    f.store.lanes(now).await.unwrap();
    let next_day = f.store.accept(f.org, email(), key(), now + 86_400_001).await.unwrap();
    assert_eq!(next_day, Accepted::New { email: EmailNumber(2), recipients: 1 });
}
