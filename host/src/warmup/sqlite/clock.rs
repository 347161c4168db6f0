//! The wall clock: what waits for a time must not wait longer because somebody set the clock back.
//!
//! Live mail is due at once and waits for no time. Retries and back-fill wait for an instant of the wall clock; the store
//! keeps the latest instant at which it wrote one, and moves them all when the clock shows much less than that.
//!
//! Invariant: a row waits at most as long as it was told to, whatever the clock shows.

use crate::db::DbError;
use crate::warmup::sqlite::backfill;
use crate::warmup::sqlite::claims::QUEUES;
use rusqlite::{Connection, OptionalExtension, params};

/// A clock that is slewed, or read a moment earlier, goes back by less.
pub const SET_BACK_MS: i64 = 1_000;

/// The latest instant that was seen.
pub fn latest(connection: &Connection) -> Result<i64, DbError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE key = 'clock'", [], |row| row.get(0))?)
}

/// Notes an instant from which something waits.
pub fn see(connection: &Connection, now: i64) -> Result<(), DbError> {
    connection.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'clock' AND value < ?1")?.execute([now])?;
    Ok(())
}

/// The clock was set back by so much and shows `now`: moves what waits. Costs a step a row that waits for a time, and
/// one a newcomer whose archive is under way.
pub fn set_back(connection: &Connection, by: i64, now: i64) -> Result<(), DbError> {
    let mut lane = connection.prepare_cached(
        "SELECT org, provider FROM deliveries INDEXED BY deliveries_due WHERE queue IS NOT NULL AND (org, provider) > (?1, ?2)
         ORDER BY org, provider LIMIT 1",
    )?;
    let mut rows = connection.prepare_cached(
        "UPDATE deliveries INDEXED BY deliveries_due SET next_at = next_at - ?5
         WHERE org = ?1 AND provider = ?2 AND queue = ?3 AND next_at > ?4",
    )?;
    let mut at = (i64::MIN, i64::MIN);
    while let Some(next) = lane.query_row([at.0, at.1], |row| Ok((row.get(0)?, row.get(1)?))).optional()? {
        at = next;
        for queue in QUEUES {
            rows.execute([at.0, at.1, queue, now, by])?;
        }
    }
    connection.execute("UPDATE backfills SET next_at = next_at - ?1 WHERE next_at > ?2", [by, now])?;
    backfill::set_back(connection, by, now)?;
    connection.execute("UPDATE idempotency SET created_at = ?1 WHERE created_at > ?1", [now])?;
    connection.execute("UPDATE meta SET value = ?1 WHERE key = 'clock'", params![now])?;
    Ok(())
}
