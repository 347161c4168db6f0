//! The contract of warmup's store: every adapter passes it. It reads like the promises of `store`.
//!
//! Invariant: names no adapter; an adapter's tests call `store_contract!` with what opens it.

use crate::bus::{contract, wire};
use crate::model::address::Address;
use crate::model::delivery::{Counts, Said, Source, State};
use crate::model::email::{Mailbox, NewEmail};
use crate::model::event::Event;
use crate::model::name::{EmailNumber, OrgId, OrgName, UserNumber};
use crate::model::user::{BackfillState, NewUser};
use crate::warmup::store::*;
use postwarm_plugin_api::{BoxFuture, Reply};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub mod histories;
pub mod lanes;
pub mod order;
pub mod suite;

const NOW: i64 = 1_764_000_000_000;
const ROWS: usize = 1_000;
const BELIEVED: Believed = Believed { checked_after: NOW - 1, settings: 7 };

/// All that an adapter is.
pub trait WholeStore: Store + Queue {}

impl<T: Store + Queue> WholeStore for T {}

/// Opens an adapter's database that belongs to a folder: a new one in an empty folder, and the same one after a restart. An
/// adapter without files goes by the folder's name, which no other test has.
pub type Open = for<'a> fn(&'a Path) -> BoxFuture<'a, Arc<dyn WholeStore>>;

struct Fixture {
    folder: tempfile::TempDir,
    open: Open,
    store: Arc<dyn WholeStore>,
    org: OrgId,
}

impl Fixture {
    async fn new(open: Open) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        let org = store.organization(&OrgName::parse("acme").unwrap()).await.unwrap();
        Fixture { folder, open, store, org }
    }

    /// The process dies and another one opens the database.
    async fn restart(self) -> Fixture {
        let Fixture { folder, open, store, org } = self;
        drop(store);
        let store = open(folder.path()).await;
        Fixture { folder, open, store, org }
    }

    async fn register(&self, address: &str, now: i64) {
        self.store.register(self.org, user(address), now).await.unwrap();
    }

    async fn accept(&self, now: i64) -> EmailNumber {
        match self.store.accept(self.org, email(), None, now).await.unwrap() {
            Accepted::New { email, .. } => email,
            other => panic!("{other:?}"),
        }
    }

    async fn fan_out(&self) {
        while let Some(next) = self.store.fan_out_next(OrgId(0), ROWS, BELIEVED).await.unwrap() {
            let found = next.unknown_domains.into_iter().map(|d| (d, "other".to_owned())).collect();
            self.store.set_providers(found, BELIEVED.settings, NOW).await.unwrap();
            self.store.fan_out(next.org, next.email, ROWS, NOW).await.unwrap();
        }
    }

    async fn claim(&self, rows_max: usize, now: i64) -> Vec<Arc<Claimed>> {
        let lane = |source| LaneKey { org: self.org, provider: "other".into(), source };
        let claim = |source| Claim { lane: lane(source), client: "relay".into(), rows_max };
        let turn = Turn { claims: vec![claim(Source::Live), claim(Source::Backfill)], now, ..Turn::default() };
        self.store.turn(turn).await.unwrap().into_iter().map(Arc::new).collect()
    }

    async fn record(&self, claimed: &[Arc<Claimed>], result: Settled, now: i64) {
        let recorded = |c: &Arc<Claimed>| Recorded { claimed: c.clone(), result: result.clone(), at: now };
        let pace = BackfillPace { messages: 1, per: Duration::from_secs(10), hold_max: Duration::from_secs(3600) };
        let turn = Turn {
            outcomes: Arc::new(claimed.iter().map(recorded).collect()),
            paces: Arc::new(HashMap::from([(self.org, pace)])),
            now,
            ..Turn::default()
        };
        self.store.turn(turn).await.unwrap();
    }

    async fn counts(&self, email: EmailNumber) -> Counts {
        self.store.email(self.org, email).await.unwrap().unwrap().counts
    }

    async fn states(&self, email: EmailNumber) -> Vec<&'static str> {
        let page = DeliveryPage { state: None, after: UserNumber(0), limit: 100 };
        self.store.deliveries(self.org, email, page).await.unwrap().rows.iter().map(|d| d.state.as_str()).collect()
    }

    /// `provider queued+deferred of ahead`, by provider.
    async fn waiting(&self, email: EmailNumber) -> String {
        let lanes = self.store.waiting(self.org, email).await.unwrap();
        let text = |l: &WaitingLane| format!("{} {}+{} of {}", l.provider, l.queued, l.deferred, l.ahead);
        lanes.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    async fn events(&self) -> Vec<String> {
        let pending = contract::opened(&self.store.pending(1_000).await.unwrap());
        let text = |record: crate::bus::Record<'_>| match wire::decode(record.topic, record.payload).unwrap() {
            Event::Email(e) => format!("email {} {:?}", e.email.0, e.progress).to_lowercase(),
            Event::Recipient(r) => format!("{}.{} {} #{}", r.email.0, r.user.0, r.state.as_str(), r.attempt),
            Event::Facts(_) => "facts".to_owned(),
        };
        pending.records().map(text).collect()
    }
}

fn user(address: &str) -> NewUser {
    NewUser { name: "Somebody".into(), address: Address::parse(address).unwrap() }
}

fn email() -> NewEmail {
    let from = Mailbox { name: Some("Acme".into()), address: Address::parse("news@acme.example").unwrap() };
    NewEmail {
        from,
        reply_to: None,
        subject: "Hello".into(),
        body: "Text".into(),
        html: None,
        headers: vec![("X-A".into(), "b: c".into())],
    }
}

fn sent() -> Settled {
    Settled::Sent(said(250, "ok"))
}

fn said(code: u16, text: &str) -> Said {
    Said { reply: Some(Reply { code, enhanced: None, text: text.into() }), ..Said::default() }
}

pub async fn an_address_registers_once_whatever_its_case(open: Open) {
    let f = Fixture::new(open).await;
    let first = f.store.register(f.org, user("Alice@Example.com"), NOW).await.unwrap();
    let again = f.store.register(f.org, user("alice@example.COM"), NOW + 5).await.unwrap();
    let (Registered::New(first), Registered::Existing(again)) = (first, again) else { panic!("new, then existing") };
    assert_eq!(first, again);
    assert_eq!(again.address.as_str(), "Alice@Example.com");
    let imported = f.store.import(f.org, vec![user("bob@example.com"), user("ALICE@example.com"), user("bob@example.com")], false, NOW);
    assert_eq!(imported.await.unwrap(), Imported { created: 1, existing: 2 });
    assert_eq!(f.store.users(f.org, UserNumber(1), 10).await.unwrap().len(), 1);
}

pub async fn an_address_registers_once_however_its_domain_is_written_and_is_shown_as_given(open: Open) {
    let f = Fixture::new(open).await;
    f.store.register(f.org, user("U@münchen.example"), NOW).await.unwrap();
    let again = f.store.register(f.org, user("u@xn--mnchen-3ya.example"), NOW + 5).await.unwrap();
    let Registered::Existing(again) = again else { panic!("it is one mailbox") };
    assert_eq!((again.address.given(), again.address.as_str()), ("U@münchen.example", "U@xn--mnchen-3ya.example"));
    let imported = f.store.import(f.org, vec![user("u@MÜNCHEN.example"), user("u@other.example")], false, NOW).await.unwrap();
    assert_eq!(imported, Imported { created: 1, existing: 1 });
    assert!(f.store.user(f.org, &Address::parse("u@mu\u{308}nchen.example").unwrap()).await.unwrap().is_some());
}

pub async fn a_broadcast_reaches_who_was_registered_before_it_and_its_counts_add_up(open: Open) {
    let f = Fixture::new(open).await;
    for name in ["a", "b", "c"] {
        f.register(&format!("{name}@x.example"), NOW).await;
    }
    let email = f.accept(NOW).await;
    f.register("late@x.example", NOW + 1).await;
    assert_eq!(f.states(email).await, ["queued", "queued", "queued"], "before the fan-out");
    f.fan_out().await;
    let claimed = f.claim(2, NOW).await;
    assert_eq!(f.counts(email).await, Counts { queued: 1, sending: 2, ..Counts::default() });
    f.record(&claimed, sent(), NOW + 10).await;
    assert_eq!(f.counts(email).await, Counts { queued: 1, sent: 2, ..Counts::default() });
    let last = f.claim(10, NOW).await;
    assert_eq!(last.len(), 1, "nobody twice");
    f.record(&last, Settled::Failed(said(550, "no such user")), NOW + 20).await;
    assert_eq!(f.states(email).await, ["sent", "sent", "failed"]);
    let expected = ["email 1 accepted", "email 1 started", "1.1 sent #1", "1.2 sent #1", "1.3 failed #1", "email 1 completed"];
    assert_eq!(f.events().await, expected);
}

pub async fn what_waits_is_known_by_lane_with_what_stands_before_it(open: Open) {
    let f = Fixture::new(open).await;
    for name in ["a@x.example", "b@x.example", "c@y.example"] {
        f.register(name, NOW).await;
    }
    let (first, second) = (f.accept(NOW).await, f.accept(NOW + 1).await);
    assert_eq!(f.waiting(first).await, "", "nothing is fanned out");
    let y = vec![("y.example".to_owned(), "yahoo".to_owned())];
    f.store.set_providers(y, BELIEVED.settings, NOW).await.unwrap();
    f.fan_out().await;
    assert_eq!(f.waiting(first).await, "other 2+0 of 2, yahoo 1+0 of 1");
    assert_eq!(f.waiting(second).await, "other 2+0 of 4, yahoo 1+0 of 2");
    let claimed = f.claim(2, NOW + 2).await;
    assert_eq!(f.waiting(first).await, "yahoo 1+0 of 1", "what a client has in hand does not wait");
    f.record(&claimed[..1], Settled::Deferred { said: said(451, "later"), next_at: NOW + 100 }, NOW + 2).await;
    f.record(&claimed[1..], sent(), NOW + 2).await;
    assert_eq!(f.waiting(first).await, "other 0+1 of 0, yahoo 1+0 of 1");
    let retry = f.claim(1, NOW + 100).await;
    assert_eq!(f.waiting(first).await, "yahoo 1+0 of 1");
    f.record(&retry, Settled::Unknown { said: Said::default(), resend_at: None }, NOW + 100).await;
    f.store.resolve(f.org, first, Which::All, Action::Resend, NOW + 101).await.unwrap();
    assert_eq!(f.waiting(first).await, "other 1+0 of 1, yahoo 1+0 of 1");
    f.store.unsubscribe(retry[0].delivery, NOW + 102).await.unwrap();
    f.claim(1, NOW + 102).await;
    assert_eq!(f.waiting(first).await, "yahoo 1+0 of 1", "who wants no mail waits for none");
    f.register("new@x.example", NOW + 103).await;
    f.store.backfill_step(10, NOW + 103).await.unwrap();
    assert_eq!(f.waiting(first).await, "other 1+0 of 1, yahoo 1+0 of 1", "back-fill waits too");
}

pub async fn what_a_dead_process_had_in_hand_is_found_as_it_was_claimed_and_nothing_else(open: Open) {
    let f = Fixture::new(open).await;
    for name in ["A", "b", "c"] {
        f.register(&format!("{name}@x.example"), NOW).await;
    }
    f.accept(NOW).await;
    f.fan_out().await;
    assert_eq!(f.store.in_hand().await.unwrap(), []);
    let first = f.claim(1, NOW).await;
    f.record(&first, Settled::Deferred { said: said(451, "later"), next_at: NOW + 1 }, NOW).await;
    let claimed: Vec<Claimed> = f.claim(2, NOW + 1).await.iter().map(|c| (**c).clone()).collect();
    let f = f.restart().await;
    assert_eq!(f.store.in_hand().await.unwrap(), claimed);
    assert_eq!(f.store.in_hand().await.unwrap().len(), 2, "a look changes nothing");
    assert_eq!(f.claim(10, NOW + 5).await.len(), 1, "what is in hand is not handed out");
}

pub async fn what_was_in_hand_is_settled_like_any_outcome(open: Open) {
    let f = Fixture::new(open).await;
    for name in ["a", "b"] {
        f.register(&format!("{name}@x.example"), NOW).await;
    }
    let email = f.accept(NOW).await;
    f.fan_out().await;
    f.claim(2, NOW).await;
    let f = f.restart().await;
    let left: Vec<Arc<Claimed>> = f.store.in_hand().await.unwrap().into_iter().map(Arc::new).collect();
    f.record(&left[..1], Settled::Unknown { said: Said::default(), resend_at: None }, NOW + 5).await;
    f.record(&left[1..], Settled::Unknown { said: Said::default(), resend_at: Some(NOW + 9) }, NOW + 5).await;
    assert_eq!(f.states(email).await, ["unknown", "unknown"]);
    assert_eq!(f.counts(email).await, Counts { unknown: 2, ..Counts::default() });
    assert!(f.events().await.contains(&"1.1 unknown #1".to_owned()));
    assert!(f.claim(10, NOW + 8).await.is_empty());
    let again = f.claim(10, NOW + 9).await;
    assert_eq!(again.iter().map(|c| (c.delivery.user.0, c.attempt)).collect::<Vec<_>>(), [(2, 2)], "only where it is wanted again");
}

pub async fn a_backfill_in_doubt_holds_the_rest_of_the_archive_up_for_hold_max_at_most(open: Open) {
    let f = Fixture::new(open).await;
    f.accept(NOW).await;
    f.accept(NOW).await;
    f.register("new@x.example", NOW).await;
    f.store.backfill_step(10, NOW).await.unwrap();
    f.claim(1, NOW).await;
    let f = f.restart().await;
    let left: Vec<Arc<Claimed>> = f.store.in_hand().await.unwrap().into_iter().map(Arc::new).collect();
    f.record(&left, Settled::Unknown { said: Said::default(), resend_at: None }, NOW).await;
    assert_eq!(f.store.backfill_step(10, NOW + 3_599_999).await.unwrap().started, 0);
    assert_eq!(f.store.backfill_step(10, NOW + 3_600_000).await.unwrap().started, 1);
    assert_eq!(f.claim(1, NOW + 3_600_000).await[0].delivery.email, EmailNumber(2));
}

pub async fn a_person_resends_or_drops_what_is_unknown(open: Open) {
    let f = Fixture::new(open).await;
    for name in ["a", "b"] {
        f.register(&format!("{name}@x.example"), NOW).await;
    }
    let email = f.accept(NOW).await;
    f.fan_out().await;
    let claimed = f.claim(2, NOW).await;
    f.record(&claimed, Settled::Unknown { said: Said::default(), resend_at: None }, NOW).await;
    let one = Which::Recipients(vec![Address::parse("A@x.example").unwrap()]);
    assert_eq!(f.store.resolve(f.org, email, one, Action::Resend, NOW + 1).await.unwrap(), 1);
    assert_eq!(f.store.resolve(f.org, email, Which::All, Action::Drop, NOW + 1).await.unwrap(), 1);
    assert_eq!(f.states(email).await, ["queued", "failed"]);
    assert_eq!(f.counts(email).await, Counts { queued: 1, failed: 1, ..Counts::default() });
    assert_eq!(f.store.resolve(f.org, email, Which::All, Action::Drop, NOW + 2).await.unwrap(), 0);
    let pending = contract::opened(&f.store.pending(10).await.unwrap());
    let events = pending.records().map(|r| wire::decode(r.topic, r.payload).unwrap());
    let said: Vec<_> = events.filter_map(|e| if let Event::Recipient(r) = e { Some((r.state, r.dropped)) } else { None }).collect();
    assert_eq!(said, [(State::Unknown, false), (State::Unknown, false), (State::Failed, true)]);
}

pub async fn deferred_mail_waits_for_its_time_and_goes_before_fresh_mail(open: Open) {
    let f = Fixture::new(open).await;
    for name in ["a", "b"] {
        f.register(&format!("{name}@x.example"), NOW).await;
    }
    let email = f.accept(NOW).await;
    f.fan_out().await;
    let first = f.claim(1, NOW).await;
    f.record(&first, Settled::Deferred { said: said(451, "later"), next_at: NOW + 100 }, NOW).await;
    assert_eq!(f.counts(email).await, Counts { queued: 1, deferred: 1, ..Counts::default() });
    let second = f.claim(1, NOW + 99).await;
    assert_eq!(second[0].delivery.user, UserNumber(2));
    f.record(&second, Settled::Returned { next_at: NOW }, NOW + 99).await;
    assert_eq!(f.claim(1, NOW + 99).await[0].delivery.user, UserNumber(2), "as it was");
    let retry = f.claim(1, NOW + 100).await;
    assert_eq!((retry[0].delivery.user, retry[0].attempt, retry[0].was), (UserNumber(1), 2, State::Deferred));
    f.record(&retry, Settled::Returned { next_at: NOW }, NOW + 100).await;
    let lanes = f.store.lanes(NOW + 100).await.unwrap();
    assert_eq!(lanes.due, [LaneKey { org: f.org, provider: "other".into(), source: Source::Live }]);
}

pub async fn a_message_that_was_not_attempted_is_as_it_was_and_tells_nobody(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    let email = f.accept(NOW).await;
    f.fan_out().await;
    let claimed = f.claim(1, NOW).await;
    f.record(&claimed, Settled::Returned { next_at: NOW + 50 }, NOW).await;
    assert_eq!(f.states(email).await, ["queued"]);
    assert_eq!(f.events().await, ["email 1 accepted", "email 1 started"]);
    assert!(f.claim(1, NOW + 49).await.is_empty());
    assert_eq!(f.claim(1, NOW + 50).await[0].attempt, 1);
}

pub async fn who_unsubscribes_gets_nothing_more_and_registering_again_does_not_lift_it(open: Open) {
    let f = Fixture::new(open).await;
    f.register("a@x.example", NOW).await;
    let email = f.accept(NOW).await;
    f.fan_out().await;
    let claimed = f.claim(1, NOW).await;
    f.record(&claimed, sent(), NOW).await;
    let second = f.accept(NOW).await;
    f.fan_out().await;
    assert!(f.store.unsubscribe(claimed[0].delivery, NOW + 1).await.unwrap());
    assert!(f.store.unsubscribe(claimed[0].delivery, NOW + 2).await.unwrap(), "twice is once");
    assert!(f.claim(1, NOW + 3).await.is_empty());
    f.register("a@x.example", NOW + 4).await;
    let third = f.accept(NOW + 5).await;
    f.fan_out().await;
    assert_eq!(
        (f.states(email).await, f.states(second).await, f.states(third).await),
        (vec!["sent"], vec!["suppressed"], vec!["suppressed"])
    );
    assert!(f.events().await.contains(&"3.1 suppressed #0".to_owned()));
}

pub async fn a_newcomer_gets_the_earlier_emails_in_order_each_once_at_the_pace(open: Open) {
    let f = Fixture::new(open).await;
    for _ in 0..3 {
        f.accept(NOW).await;
    }
    f.register("new@x.example", NOW).await;
    f.accept(NOW + 1).await;
    f.fan_out().await;
    let mut got = Vec::new();
    let mut now = NOW + 2;
    for _ in 0..8 {
        f.store.backfill_step(10, now).await.unwrap();
        for claimed in f.claim(10, now).await {
            got.push((claimed.delivery.email.0, (now - NOW) / 1000));
            f.record(&[claimed], sent(), now).await;
        }
        now += 5_000;
    }
    assert_eq!(got, [(4, 0), (1, 0), (2, 10), (3, 20)], "live mail first, then one every ten seconds");
    let (_, backfill) = f.store.user(f.org, &Address::parse("new@x.example").unwrap()).await.unwrap().unwrap();
    assert_eq!((backfill.emails, backfill.done, backfill.state), (3, 3, BackfillState::Done));
    assert_eq!(f.store.email(f.org, EmailNumber(1)).await.unwrap().unwrap().recipients, 1, "back-fill counts as a recipient");
}

pub async fn live_mail_and_backfill_to_one_provider_are_lanes_of_their_own(open: Open) {
    let f = Fixture::new(open).await;
    f.accept(NOW).await;
    f.register("new@x.example", NOW).await;
    f.accept(NOW + 1).await;
    f.fan_out().await;
    f.store.backfill_step(10, NOW).await.unwrap();
    let lane = |source| LaneKey { org: f.org, provider: "other".into(), source };
    assert_eq!(f.store.lanes(NOW + 1).await.unwrap().due, [lane(Source::Live), lane(Source::Backfill)]);
    for (source, email) in [(Source::Backfill, 1), (Source::Live, 2)] {
        let claim = Claim { lane: lane(source), client: "relay".into(), rows_max: 9 };
        let claimed = f.store.turn(Turn { claims: vec![claim], now: NOW + 1, ..Turn::default() }).await.unwrap();
        assert_eq!(claimed.iter().map(|c| c.delivery.email.0).collect::<Vec<_>>(), [email]);
    }
}

pub async fn a_deferred_email_holds_the_next_one_up_for_hold_max_at_most(open: Open) {
    let f = Fixture::new(open).await;
    f.accept(NOW).await;
    f.accept(NOW).await;
    f.register("new@x.example", NOW).await;
    f.store.backfill_step(10, NOW).await.unwrap();
    let first = f.claim(1, NOW).await;
    f.record(&first, Settled::Deferred { said: said(451, "later"), next_at: NOW + 8_000_000 }, NOW).await;
    f.store.backfill_step(10, NOW + 3_599_999).await.unwrap();
    assert!(f.claim(1, NOW + 3_599_999).await.is_empty());
    f.store.backfill_step(10, NOW + 3_600_000).await.unwrap();
    let second = f.claim(1, NOW + 3_600_000).await;
    assert_eq!(second[0].delivery.email, EmailNumber(2));
}

pub async fn an_idempotency_key_gives_the_same_answer_for_a_day(open: Open) {
    let f = Fixture::new(open).await;
    let key = |body: u8| Some(Idempotency { key: "k".into(), body_hash: [body; 32] });
    let first = f.store.accept(f.org, email(), key(1), NOW).await.unwrap();
    assert_eq!(first, Accepted::New { email: EmailNumber(1), recipients: 0 });
    assert_eq!(f.store.accept(f.org, email(), key(1), NOW + 1).await.unwrap(), Accepted::Again { email: EmailNumber(1), recipients: 0 });
    assert_eq!(f.store.accept(f.org, email(), key(2), NOW + 1).await.unwrap(), Accepted::OtherBody);
    let next_day = f.store.accept(f.org, email(), key(2), NOW + 86_400_001).await.unwrap();
    assert_eq!(next_day, Accepted::New { email: EmailNumber(2), recipients: 0 });
}

pub async fn an_email_comes_back_as_it_was_accepted(open: Open) {
    let f = Fixture::new(open).await;
    let number = f.accept(NOW).await;
    assert_eq!(f.store.content(f.org, number).await.unwrap().unwrap().content, email());
}

pub async fn what_the_limits_counted_survives(open: Open) {
    let f = Fixture::new(open).await;
    let part = |bucket_ms: i64, count: i64| Usage {
        scope: "client/acme/relay".into(),
        per_ms: 3_600_000,
        bucket_ms,
        bucket_wall_ms: NOW,
        boot_id: "b".into(),
        count,
    };
    f.store.turn(Turn { usage: Arc::new(vec![part(1, 5), part(2, 7)]), now: NOW, ..Turn::default() }).await.unwrap();
    f.store.turn(Turn { usage: Arc::new(vec![part(1, 0), part(2, 9)]), now: NOW, ..Turn::default() }).await.unwrap();
    let f = f.restart().await;
    assert_eq!(f.store.usage().await.unwrap(), [part(2, 9)]);
}

pub async fn published_records_leave_the_outbox_in_order(open: Open) {
    let f = Fixture::new(open).await;
    f.accept(NOW).await;
    f.accept(NOW).await;
    let pending = f.store.pending(2).await.unwrap();
    f.store.published(pending[0].number).await.unwrap();
    assert_eq!(f.events().await, ["email 2 accepted", "email 2 completed"]);
}
