//! A database that an older program wrote goes on where it stood.

use super::*;
use crate::db::sqlite::{Durability, migrate, open_writer};
use crate::model::delivery::State;
use crate::model::delivery::{Said, Source};
use crate::model::name::UserNumber;
use crate::warmup::store::{Claim, DeliveryPage, LaneKey, Recorded, Settled};
use postwarm_plugin_api::Reply;

/// Users 1 to 130 of an email: the first 60 got it, one waits for a retry, three are in hand (one of them retried), the rest is untried.
const OLD: &str = "
    INSERT INTO organizations (id, name, users, emails) VALUES (1, 'acme', 130, 1);
    INSERT INTO names VALUES (1, 'other'), (2, 'relay');
    INSERT INTO domains (id, name, provider) VALUES (1, 'x.example', 1);
    INSERT INTO emails (org, number, created_at, from_address, subject, body, headers) VALUES (1, 1, 5, 'a@b.example', '', '', '');
    INSERT INTO progress (org, number, from_domain, audience, fanned_out, recipients, sent, deferred)
        VALUES (1, 1, 'b.example', 130, 130, 130, 60, 2);
    INSERT INTO waiting VALUES (1, 1, 1, 68, 2);
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 130)
        INSERT INTO users (org, number, address_key, name, domain, created_at) SELECT 1, n, 'u' || n || '@x.example', '', 1, 0 FROM n;
    INSERT INTO deliveries (org, email, user, provider, queue, next_at, state, source, queued_at)
        SELECT 1, 1, number, 1, iif(number > 60, 1, NULL), iif(number > 60, 0, NULL), iif(number > 60, 0, 3), 0, 5 FROM users;
    UPDATE deliveries SET queue = 0, next_at = 100, state = 1, attempts = 1 WHERE user IN (61, 62);
    INSERT INTO sending (org, email, user, client, since) VALUES (1, 1, 62, 2, 0), (1, 1, 63, 2, 0), (1, 1, 64, 2, 0);";

fn old(folder: &tempfile::TempDir) -> SqliteStore {
    let path = folder.path().join("warmup.db");
    let mut connection = open_writer(&path, Durability::PowerLoss).unwrap();
    migrate(&mut connection, &MIGRATIONS[..2]).unwrap();
    connection.execute_batch(OLD).unwrap();
    drop(connection);
    SqliteStore::open(&path).unwrap()
}

#[tokio::test]
async fn what_was_in_hand_and_what_waited_before_blocks_still_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = old(&folder);
    let in_hand = store.in_hand().await.unwrap();
    let held: Vec<(i64, State, i64)> = in_hand.iter().map(|c| (c.delivery.user.0, c.was, c.attempt)).collect();
    assert_eq!(held, [(62, State::Deferred, 2), (63, State::Queued, 1), (64, State::Queued, 1)]);

    let said = Said { reply: Some(Reply { code: 250, enhanced: None, text: "ok".into() }), ..Said::default() };
    let sent = |claimed: Claimed| Recorded { claimed: claimed.into(), result: Settled::Sent(said.clone()), at: 200 };
    let lane = LaneKey { org: OrgId(1), provider: "other".into(), source: Source::Live };
    let turn = Turn {
        outcomes: Arc::new(in_hand.into_iter().map(sent).collect()),
        claims: vec![Claim { lane, client: "relay".into(), rows_max: 100 }],
        now: 200,
        ..Turn::default()
    };
    let claimed: Vec<i64> = store.turn(turn).await.unwrap().iter().map(|c| c.delivery.user.0).collect();
    assert_eq!(claimed, std::iter::once(61).chain(65..=130).collect::<Vec<_>>(), "a retry before what is untried, each once");

    let page = DeliveryPage { state: Some(State::Sent), after: UserNumber(0), limit: 200 };
    let found = store.deliveries(OrgId(1), EmailNumber(1), page).await.unwrap().rows;
    assert_eq!(found.iter().map(|row| row.user.0).collect::<Vec<_>>(), (1..=60).chain(62..=64).collect::<Vec<_>>());
    let counts = store.email(OrgId(1), EmailNumber(1)).await.unwrap().unwrap().counts;
    assert_eq!((counts.sent, counts.sending, counts.queued, counts.deferred), (63, 67, 0, 0));
}
