use super::*;
use crate::health::testing::{accepted, answers, changed, fact, facts, message_id, org};
use crate::model::delivery::State;
use crate::model::event::RecipientChanged;
use postwarm_plugin_api::FactKind;
use proptest::prelude::*;
use std::sync::Arc;

fn open(folder: &Path) -> SqliteLedger {
    SqliteLedger::open(&folder.join("health.db")).unwrap()
}

async fn applied(events: Vec<Event>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    for batch in events.chunks(3) {
        ledger.apply(batch.to_vec(), Vec::new()).await.unwrap();
    }
    answers(&ledger).await
}

/// A story that could happen: per delivery, attempts that end deferred or unknown before the last; facts, some forged.
fn stories() -> impl Strategy<Value = Vec<Event>> {
    let last = prop::sample::select(vec![State::Sent, State::Failed, State::Suppressed, State::Unknown, State::Deferred]);
    let attempts = (1..=3_i64, 1..=12_i64, prop::collection::vec(any::<bool>(), 0..3), last).prop_map(|(email, user, doubts, last)| {
        let mut events: Vec<Event> =
            (1..).zip(&doubts).map(|(n, doubt)| changed(email, user, n, if *doubt { State::Unknown } else { State::Deferred })).collect();
        events.push(changed(email, user, doubts.len() as i64 + 1, last));
        events
    });
    let kind = prop::sample::select(vec![FactKind::Delivered, FactKind::Spam, FactKind::Opened, FactKind::Read, FactKind::Bounced]);
    let told = (1..=3_i64, 1..=12_i64, kind, prop::bool::weighted(0.2)).prop_map(|(email, user, kind, forged)| {
        let id = message_id(email, user);
        fact(if forged { format!("{email}.{user}.AAAAAAAA@acme.example") } else { id }, kind)
    });
    (prop::collection::vec(attempts, 1..20), prop::collection::vec(prop::collection::vec(told, 0..5), 0..5)).prop_map(|(changes, polls)| {
        let mut events = vec![accepted(1, 9), accepted(2, 9)];
        events.extend(changes.into_iter().flatten());
        events.extend((1..).zip(polls).map(|(n, reports)| facts(n, &format!("cursor {n}"), reports)));
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_applied_twice_and_in_any_order_end_in_the_same_answers(
        (story, mixed) in stories().prop_flat_map(|s| (Just(s.clone()), Just([s.clone(), s].concat()).prop_shuffle()))
    ) {
        let run = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (once, mixed) = run.block_on(async { (applied(story).await, applied(mixed).await) });
        let differ: Vec<_> = once.lines().zip(mixed.lines()).filter(|(a, b)| a != b).collect();
        prop_assert!(differ.is_empty() && once.len() == mixed.len(), "{differ:#?}");
    }
}

#[tokio::test]
async fn a_fact_that_comes_before_its_delivery_counts_when_the_delivery_comes() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let early = vec![fact(message_id(1, 1), FactKind::Read), fact("1.2.AAAAAAAA@acme.example".into(), FactKind::Read)];
    ledger.apply(vec![facts(1, "c", early)], Vec::new()).await.unwrap();
    ledger.apply(vec![changed(1, 1, 1, State::Unknown), changed(1, 2, 1, State::Sent)], Vec::new()).await.unwrap();
    let counts = ledger.email(&org(), 1).await.unwrap().unwrap();
    let tally = counts.parts.iter().fold(crate::health::tally::Tally::default(), |mut sum, p| {
        sum += p.tally;
        sum
    });
    assert_eq!((tally.live, tally.delivered, tally.read, tally.waiting, tally.doubt), (2, 1, 1, 1, 0), "the second was forged");
}

#[tokio::test]
async fn the_watch_list_is_read_page_by_page_whatever_a_page_holds_and_a_loop_takes() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let events = (1..=200).map(|user| changed(1 + user % 2, user, 1, if user % 7 == 0 { State::Failed } else { State::Sent }));
    ledger.apply(events.collect(), Vec::new()).await.unwrap();
    let chosen: DomainFilter = Arc::new(|domain| domain != "d1.example");
    for max in [1, 3, 64, 500] {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = ledger.watched(&org(), chosen.clone(), after, max).await.unwrap();
            assert!(page.len() <= max && page.iter().all(|w| w.position > after && chosen(&w.domain)));
            let Some(last) = page.last() else { break };
            after = last.position;
            all.extend(page.into_iter().map(|w| w.message_id));
        }
        let wanted = [1, 2].into_iter().flat_map(|email| (1..=200).map(move |user| (email, user)));
        let wanted = wanted.filter(|(email, user)| 1 + user % 2 == *email && user % 7 != 0 && user % 3 != 1);
        let mut wanted: Vec<String> = wanted.map(|(email, user)| message_id(email, user)).collect();
        wanted.sort();
        all.sort();
        assert_eq!(all, wanted, "pages of {max}");
    }
}

/// A message to a user at a domain, sent through to its provider at an instant.
fn sent(user: i64, domain: &str, provider: &str, at: i64) -> Event {
    let Event::Recipient(change) = changed(1, user, 1, State::Sent) else { unreachable!() };
    Event::Recipient(RecipientChanged { domain: domain.into(), provider: provider.into(), at, ..change })
}

#[tokio::test]
async fn figures_are_told_by_domain_and_provider_however_many_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let events: Vec<Event> =
        (1..=400).map(|user| sent(user, &format!("d{:03}.example", user % 130), &format!("p{}", user % 7), 1)).collect();
    for batch in events.chunks(90) {
        ledger.apply(batch.to_vec(), Vec::new()).await.unwrap();
    }
    let parts = ledger.email(&org(), 1).await.unwrap().unwrap().parts;
    let told: Vec<_> = parts.iter().map(|part| (part.domain.clone(), part.provider.clone(), part.tally.waiting)).collect();
    let mut wanted = std::collections::BTreeMap::new();
    for user in 1..=400 {
        *wanted.entry((format!("d{:03}.example", user % 130), format!("p{}", user % 7))).or_default() += 1;
    }
    assert_eq!(told, wanted.into_iter().map(|((domain, provider), waiting)| (domain, provider, waiting)).collect::<Vec<_>>());
    let (mut names, mut after) = (Vec::new(), String::new());
    while let Some((last, _)) = ledger.domains(&org(), &after, 37).await.unwrap().last() {
        names.extend(ledger.domains(&org(), &after, 37).await.unwrap().into_iter().map(|(domain, _)| domain));
        after = last.clone();
    }
    assert_eq!(names, (0..130).map(|n| format!("d{n:03}.example")).collect::<Vec<_>>(), "page by page");
}

#[tokio::test]
async fn a_domain_is_told_with_the_provider_that_it_had_last_whatever_came_first() {
    let moves = [sent(1, "moved.example", "z-old", 10), sent(2, "moved.example", "new", 30), sent(3, "moved.example", "between", 20)];
    let tie = [sent(4, "tie.example", "a", 5), sent(5, "tie.example", "b", 5)];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(folder.path());
        for at in order {
            ledger.apply(vec![moves[at].clone(), tie[(at + order[0]) % 2].clone()], Vec::new()).await.unwrap();
        }
        let told = ledger.domains(&org(), "", 10).await.unwrap();
        let pair = |domain: &str, provider: &str| (domain.to_owned(), provider.to_owned());
        assert_eq!(told, [pair("moved.example", "new"), pair("tie.example", "b")], "{order:?}");
    }
}

#[tokio::test]
async fn a_ledger_of_an_earlier_form_is_emptied_so_that_the_log_is_replayed_into_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("health.db");
    let mut db = open_writer(&path, Durability::Crash).unwrap();
    migrate(&mut db, &MIGRATIONS[..2]).unwrap();
    db.execute_batch(
        "INSERT INTO positions VALUES (0, 0, 7); INSERT INTO orgs VALUES (1, 'acme'); INSERT INTO domains VALUES (1, 'd.example');
         INSERT INTO providers VALUES (1, 'p'); INSERT INTO recipient_domains VALUES (1, 1, 1, 1);
         INSERT INTO emails VALUES (1, 1, 1, 'acme.example', 9); INSERT INTO loops VALUES (1, 'loop', 1, 'c', 1);",
    )
    .unwrap();
    drop(db);
    let ledger = open(folder.path());
    assert_eq!(ledger.positions().await.unwrap(), []);
    assert_eq!(ledger.emails(&org(), 0, 10).await.unwrap(), []);
    assert_eq!(ledger.domains(&org(), "", 10).await.unwrap(), []);
    assert_eq!(ledger.loop_state(&org(), "loop").await.unwrap(), LoopState::default());
    ledger.apply(vec![sent(1, "d.example", "p", 1)], Vec::new()).await.unwrap();
    assert_eq!(ledger.email(&org(), 1).await.unwrap().unwrap().parts.len(), 1);
}

#[tokio::test]
async fn the_watch_ends_for_the_oldest_and_for_no_more_than_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    // `changed` makes a later attempt later.
    ledger.apply((1..=100).map(|user| changed(1, user, 1 + user % 2, State::Sent)).collect(), Vec::new()).await.unwrap();
    let first = changed(1, 1, 1, State::Sent).at();
    let left = async || ledger.watched(&org(), Arc::new(|_| true), 0, 500).await.unwrap().len();
    assert_eq!((ledger.expire(first, 500).await.unwrap(), left().await), (0, 100));
    assert_eq!((ledger.expire(first + 1, 20).await.unwrap(), left().await), (20, 80));
    assert_eq!((ledger.expire(first + 1, 500).await.unwrap(), left().await), (30, 50));
    assert_eq!((ledger.expire(first + 1, 500).await.unwrap(), left().await), (0, 50));
    assert_eq!((ledger.expire(i64::MAX, 500).await.unwrap(), left().await), (50, 0));
}

#[tokio::test]
async fn only_what_the_ledger_lacks_is_news() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let seen = fact(message_id(1, 1), FactKind::Delivered);
    ledger.apply(vec![changed(1, 1, 1, State::Sent), facts(1, "c", vec![seen.clone()])], Vec::new()).await.unwrap();
    let (read, unmet) = (fact(message_id(1, 1), FactKind::Read), fact(message_id(9, 9), FactKind::Read));
    let forged = fact("1.1.AAAAAAAA@acme.example".into(), FactKind::Read);
    let foreign = fact("somebody@else.example".into(), FactKind::Read);
    let none = Report::NoData { domain: "acme.example".into(), date: "2026-11-25".into() };
    let all = vec![seen, read.clone(), unmet.clone(), forged, foreign, none.clone()];
    let org = org();
    let news = |takes: bool| ledger.news(&org, "loop", Arc::new(move |_| takes), all.clone());
    assert_eq!(news(true).await.unwrap(), [read, unmet.clone(), none.clone()]);
    assert_eq!(news(false).await.unwrap(), [unmet, none], "another loop is in charge of the first one's domain");
}

#[tokio::test]
async fn a_failed_batch_leaves_nothing_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let failed = ledger.writer.write(|db, names| {
        apply::Batch::new(db, names).apply(&changed(1, 1, 1, State::Sent))?;
        Err::<(), _>(DbError::Full)
    });
    assert_eq!(failed.await, Err(DbError::Full));
    assert_eq!(ledger.emails(&org(), 0, 10).await.unwrap(), []);
    ledger.apply(vec![changed(1, 1, 1, State::Sent)], Vec::new()).await.unwrap();
    assert_eq!(ledger.domains(&org(), "", 10).await.unwrap(), [("d1.example".to_owned(), "p1".to_owned())]);
}

#[test]
fn a_ledger_of_another_version_is_refused_with_what_helps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("health.db");
    drop(SqliteLedger::open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let refused = SqliteLedger::open(&path).err().expect("it is newer").to_string();
    assert!(refused.contains("version 9") && refused.contains("delete health.db"), "{refused}");
    assert!(refused.contains("replayed"), "{refused}");
}
