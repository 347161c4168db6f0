//! What the tests of this adapter share.
//!
//! Invariant: what every adapter must do is tested by the contract suite; here is what one costs.

use crate::db::sqlite::{Durability, migrate, open_writer};
use crate::model::message_id::{SECRET_BYTES, Tokens};
use crate::warmup::sqlite::MIGRATIONS;
use crate::warmup::sqlite::rows::Context;
use rusqlite::{Connection, StatementStatus};
use std::sync::Arc;

/// A database with an email of organization 1 to so many users: every thousandth is in doubt, the others got it.
pub fn database(folder: &tempfile::TempDir, users: i64) -> (Connection, Context) {
    let mut connection = open_writer(&folder.path().join("warmup.db"), Durability::PowerLoss).unwrap();
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

/// The steps that a statement has taken so far.
pub fn steps(connection: &Connection, sql: &str) -> i32 {
    connection.prepare_cached(sql).unwrap().get_status(StatementStatus::VmStep)
}

/// How SQLite goes about a statement, a step a line.
pub fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let unbound = vec![rusqlite::types::Null; statement.parameter_count()];
    let lines = statement.query_map(rusqlite::params_from_iter(unbound), |row| row.get("detail")).unwrap();
    lines.collect::<Result<_, _>>().unwrap()
}
