//! Which lane a recipient is in, and the pace at which a newcomer's archive reaches him, whatever is tried again.

use super::*;

/// As long as the fixture's pace lets a held-up email hold up the next one.
const HOLD_MAX: i64 = 3_600_000;
/// The fixture's pace: one message in this time.
const PER: i64 = 10_000;
const NOTHING: [i64; 0] = [];

/// A newcomer with an archive, whose first email was refused until `retry_at`, and the next one is let go at `HOLD_MAX`.
async fn held_up(open: Open, emails: usize, retry_at: i64) -> Fixture {
    let f = Fixture::new(open).await;
    for _ in 0..emails {
        f.accept(NOW).await;
    }
    f.register("new@x.example", NOW).await;
    f.store.backfill_step(10, NOW).await.unwrap();
    let first = f.claim(10, NOW).await;
    f.record(&first, Settled::Deferred { said: said(451, "later"), next_at: retry_at }, NOW).await;
    f.store.backfill_step(10, NOW + HOLD_MAX).await.unwrap();
    f
}

async fn claimed_emails(f: &Fixture, now: i64) -> Vec<i64> {
    f.claim(10, now).await.iter().map(|c| c.delivery.email.0).collect()
}

pub async fn a_lookup_that_fails_leaves_the_provider_that_is_known(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    f.register("b@new.example", NOW).await;
    f.store.set_providers(vec![("x.example".into(), "mail".into())], BELIEVED.settings, NOW).await.unwrap();
    let email = f.accept(NOW).await;
    let later = Believed { checked_after: NOW + 5, settings: 8 };
    let asked = f.store.fan_out_next(OrgId(0), ROWS, later).await.unwrap().unwrap().unknown_domains;
    f.store.set_undecided(asked, later.settings, NOW + 6).await.unwrap();
    let next = f.store.fan_out_next(OrgId(0), ROWS, later).await.unwrap().unwrap();
    assert_eq!(next.unknown_domains, Vec::<String>::new(), "not asked again at once");
    f.store.fan_out(next.org, next.email, ROWS, NOW).await.unwrap();
    assert_eq!(f.waiting(email).await, "mail 1+0 of 1, other 1+0 of 1");
    let mut again = f.store.fan_out_next(OrgId(0), ROWS, later).await.unwrap();
    assert_eq!(again, None);
    f.accept(NOW + 7).await;
    again = f.store.fan_out_next(OrgId(0), ROWS, Believed { checked_after: NOW + 6, ..later }).await.unwrap();
    let mut asked = again.unwrap().unknown_domains;
    asked.sort();
    assert_eq!(asked, ["new.example", "x.example"], "but soon");
}

pub async fn a_retry_of_the_archive_waits_for_the_pace(open: Open) {
    let sent_at = NOW + HOLD_MAX;
    let f = held_up(open, 3, sent_at + 1_000).await;
    let second = f.claim(10, sent_at).await;
    assert_eq!(second[0].delivery.email, EmailNumber(2));
    f.record(&second, sent(), sent_at).await;
    assert_eq!(claimed_emails(&f, sent_at + 1_000).await, NOTHING);
    assert_eq!(f.store.lanes(sent_at + 1_000).await.unwrap().next_at, Some(sent_at + PER));
    let retry = f.claim(10, sent_at + PER).await;
    assert_eq!(retry[0].delivery.email, EmailNumber(1));
    f.record(&retry, sent(), sent_at + PER).await;
    f.store.backfill_step(10, sent_at + PER).await.unwrap();
    assert_eq!(claimed_emails(&f, sent_at + PER).await, NOTHING, "the third is as far from the retry");
    f.store.backfill_step(10, sent_at + 2 * PER).await.unwrap();
    assert_eq!(claimed_emails(&f, sent_at + 2 * PER).await, [3]);
}

pub async fn no_two_of_an_archive_are_on_their_way_to_a_recipient_at_a_time(open: Open) {
    let due = NOW + HOLD_MAX;
    let f = held_up(open, 2, due).await;
    let retry = f.claim(10, due).await;
    assert_eq!(retry.iter().map(|c| c.delivery.email.0).collect::<Vec<_>>(), [1]);
    f.record(&retry, sent(), due + 500).await;
    assert_eq!(claimed_emails(&f, due + PER).await, NOTHING, "the pace counts from when the other one had arrived");
    assert_eq!(claimed_emails(&f, due + PER + 500).await, [2]);
}

pub async fn what_may_have_arrived_counts_for_the_pace_and_what_was_dropped_does_not(open: Open) {
    let f = Fixture::new(open).await;
    f.accept(NOW).await;
    f.accept(NOW).await;
    f.register("new@x.example", NOW).await;
    f.store.backfill_step(10, NOW).await.unwrap();
    let first = f.claim(10, NOW).await;
    f.record(&first, Settled::Unknown { said: Said::default(), resend_at: None }, NOW).await;
    f.store.resolve(f.org, EmailNumber(1), Which::All, Action::Drop, NOW + 1_000).await.unwrap();
    f.store.backfill_step(10, NOW + 1_000).await.unwrap();
    assert_eq!(claimed_emails(&f, NOW + 1_000).await, NOTHING);
    assert_eq!(claimed_emails(&f, NOW + PER).await, [2]);
}

pub async fn the_pace_ends_in_time_after_the_clock_was_set_back(open: Open) {
    let sent_at = NOW + HOLD_MAX;
    let f = held_up(open, 2, sent_at + 1_000).await;
    let second = f.claim(10, sent_at).await;
    f.record(&second, sent(), sent_at).await;
    let now = NOW;
    f.store.lanes(now).await.unwrap();
    assert_eq!(claimed_emails(&f, now + 1_000).await, NOTHING);
    assert_eq!(claimed_emails(&f, now + 1_000 + PER).await, [1]);
}
