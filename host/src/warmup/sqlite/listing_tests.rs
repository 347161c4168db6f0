use super::*;
use crate::warmup::sqlite::testing::{database, plan};

fn page(connection: &Connection, state: Option<State>, after: i64, limit: usize) -> (Vec<i64>, Option<i64>) {
    let wanted = DeliveryPage { state, after: UserNumber(after), limit };
    let found = deliveries(connection, OrgId(1), EmailNumber(1), &wanted).unwrap();
    assert!(state.is_none_or(|s| found.rows.iter().all(|row| row.state == s)));
    (found.rows.iter().map(|row| row.user.0).collect(), found.searched_to.map(|user| user.0))
}

#[test]
fn no_list_sorts_or_scans() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, _) = database(&folder, 1_000);
    for sql in [WITH_A_ROW, FIRST_WITH_A_ROW, IN_STATE, RECIPIENT] {
        let plan = plan(&connection, sql);
        assert!(!plan.iter().any(|step| step.starts_with("SCAN") || step.contains("TEMP B-TREE")), "{plan:#?}");
    }
    assert!(plan(&connection, IN_STATE)[0].contains("deliveries_state (org=? AND email=? AND state=? AND user>?)"));
}

#[test]
fn a_list_of_a_state_has_those_in_it_and_a_row_in_hand_is_sending() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, _) = database(&folder, 6_000);
    connection
        .execute_batch(
            "UPDATE deliveries SET state = 1 WHERE user IN (10, 20, 30); UPDATE deliveries SET state = 4 WHERE user = 40;
             UPDATE deliveries SET state = 0 WHERE user = 50; UPDATE deliveries SET state = 5 WHERE user = 60;
             INSERT INTO sending (org, email, block, client, users) VALUES (1, 1, 0, 1, 1 << 20), (1, 1, 46, 1, 1 << 56);",
        )
        .unwrap();
    let all = |state| page(&connection, Some(state), 0, 100);
    assert_eq!(all(State::Deferred), (vec![10, 30], None));
    assert_eq!(all(State::Sending), (vec![20, 3000], None));
    assert_eq!(all(State::Failed), (vec![40], None));
    assert_eq!(all(State::Suppressed), (vec![60], None));
    assert_eq!(all(State::Queued), (vec![50], None));
    assert_eq!(page(&connection, Some(State::Unknown), 1_000, 3), (vec![2_000, 4_000, 5_000], None));
    assert_eq!(page(&connection, Some(State::Sent), 0, 3), (vec![1, 2, 3], None));
    assert_eq!(page(&connection, None, 5_998, 3), (vec![5_999, 6_000], None));
}

#[test]
fn who_is_not_fanned_out_yet_stands_between_the_live_rows_and_the_back_fill() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, _) = database(&folder, 10);
    connection
        .execute_batch(
            "DELETE FROM deliveries WHERE user BETWEEN 5 AND 9; UPDATE progress SET fanned_out = 4, audience = 8, recipients = 8;",
        )
        .unwrap();
    assert_eq!(page(&connection, None, 0, 100), (vec![1, 2, 3, 4, 5, 6, 7, 8, 10], None));
    assert_eq!(page(&connection, None, 5, 2), (vec![6, 7], None));
    assert_eq!(page(&connection, Some(State::Queued), 5, 100), (vec![6, 7, 8], None));
}

#[test]
fn a_search_ends_after_a_bounded_number_of_rows_and_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let users = LOOKED_AT_MAX as i64 + 100;
    let (connection, _) = database(&folder, users);
    connection.execute("UPDATE deliveries SET state = 0 WHERE user IN (7, ?1)", [users]).unwrap();
    assert_eq!(page(&connection, Some(State::Queued), 0, 10), (vec![7], Some(LOOKED_AT_MAX as i64)));
    assert_eq!(page(&connection, Some(State::Queued), LOOKED_AT_MAX as i64, 10), (vec![users], None));
}
