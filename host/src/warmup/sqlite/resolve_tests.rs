use super::*;
use crate::db::sqlite::{migrate, open_writer};
use crate::model::message_id::{SECRET_BYTES, Tokens};
use crate::warmup::sqlite::MIGRATIONS;
use rusqlite::StatementStatus;

/// An email to so many users, of whom every thousandth is in doubt.
fn database(folder: &tempfile::TempDir, users: i64) -> (Connection, Context) {
    let mut connection = open_writer(&folder.path().join("warmup.db")).unwrap();
    migrate(&mut connection, MIGRATIONS).unwrap();
    let rows = format!(
        "INSERT INTO organizations (id, name, users, emails) VALUES (1, 'acme', {users}, 1);
         INSERT INTO names VALUES (1, 'other');
         INSERT INTO domains (id, name, provider) VALUES (1, 'x.example', 1);
         INSERT INTO emails (org, number, created_at, from_address, subject, body, headers) VALUES (1, 1, 0, 'a@b.example', '', '', '');
         INSERT INTO progress (org, number, from_domain, audience, fanned_out, recipients, sent, unknown)
             VALUES (1, 1, 'b.example', {users}, {users}, {users}, {users} - {users} / 1000, {users} / 1000);
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {users})
             INSERT INTO users (org, number, address_key, name, domain, created_at) SELECT 1, n, 'u' || n || '@x.example', '', 1, 0 FROM n;
         INSERT INTO deliveries (org, email, user, provider, state, source, queued_at)
             SELECT 1, 1, number, 1, iif(number % 1000 = 0, 6, 3), 0, 0 FROM users;"
    );
    connection.execute_batch(&rows).unwrap();
    (connection, Context::new(Arc::new(Tokens::new(&[7; SECRET_BYTES]))))
}

fn steps(connection: &Connection, sql: &str) -> i32 {
    connection.prepare_cached(sql).unwrap().get_status(StatementStatus::VmStep)
}

fn settle_part(connection: &Connection, context: &mut Context, part: Part) -> (usize, UserNumber) {
    resolve(connection, context, (OrgId(1), EmailNumber(1)), &part, Action::Drop, 5).unwrap()
}

#[test]
fn a_named_recipient_is_found_without_a_walk_over_the_emails_deliveries() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, mut context) = database(&folder, 20_000);
    let named = ["U3000@x.example", "u3000@x.example", "u4000@x.example", "u1@x.example", "nobody@x.example"];
    let named = named.iter().map(|a| Address::parse(a).unwrap()).collect();
    assert_eq!(settle_part(&connection, &mut context, Part::Named(named)), (2, UserNumber(4000)));
    assert!(steps(&connection, UNKNOWN_BY_NAME) < 500, "{} steps", steps(&connection, UNKNOWN_BY_NAME));
}

#[test]
fn all_are_settled_in_parts_that_look_only_at_rows_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, mut context) = database(&folder, 20_000);
    assert_eq!(settle_part(&connection, &mut context, Part::Behind(UserNumber(0), 12)), (12, UserNumber(12_000)));
    assert_eq!(settle_part(&connection, &mut context, Part::Behind(UserNumber(12_000), 12)), (8, UserNumber(20_000)));
    assert_eq!(settle_part(&connection, &mut context, Part::Behind(UserNumber(0), 12)), (0, UserNumber(0)));
    assert!(steps(&connection, UNKNOWN) < 2_500, "{} steps", steps(&connection, UNKNOWN));
    let (failed, unknown): (i64, i64) =
        connection.query_row("SELECT failed, unknown FROM progress", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((failed, unknown), (20, 0));
}
