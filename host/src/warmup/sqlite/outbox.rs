//! The outbox: events that wait for the relay, a row for what one job told.

use crate::bus::batch::Batch;
use crate::bus::{Outgoing, wire};
use crate::db::DbError;
use crate::warmup::metrics::Depth;
use crate::warmup::sqlite::rows::Context;
use crate::warmup::sqlite::sending;
use rusqlite::Connection;

/// Adds records to those of the job that runs.
pub fn add(context: &mut Context, batch: Batch) {
    for record in batch.records() {
        if let Some(state) = wire::state_of(&record) {
            context.changes.add(&String::from_utf8_lossy(record.org), state);
        }
    }
    context.outgoing.append(&batch);
}

/// Writes the records of the job that has run; answers whether there were any.
pub fn write(connection: &Connection, context: &mut Context) -> Result<bool, DbError> {
    if context.outgoing.is_empty() {
        return Ok(false);
    }
    connection.prepare_cached("INSERT INTO outbox (records) VALUES (?1)")?.execute([context.outgoing.stored()])?;
    context.outgoing.clear();
    Ok(true)
}

pub fn pending(connection: &Connection, max: usize) -> Result<Vec<Outgoing>, DbError> {
    let mut statement = connection.prepare_cached("SELECT number, records FROM outbox ORDER BY number")?;
    let mut rows = statement.query([])?;
    let (mut found, mut records) = (Vec::new(), 0);
    while records < max {
        let Some(row) = rows.next()? else { break };
        let batch = Batch::read(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?).map_err(|e| DbError::Damaged(e.to_string()))?;
        records += batch.len();
        found.push(Outgoing { number: row.get(0)?, batch });
    }
    Ok(found)
}

/// How much is under way. Reads one short row an email, and what is in `sending`.
pub fn depth(connection: &Connection) -> Result<Depth, DbError> {
    // Numbers are given one by one and go from the lowest, so the ends tell how many there are.
    let sql = "SELECT (SELECT coalesce(sum(recipients + backfilled - sent - failed - suppressed - unknown), 0) FROM progress),
        coalesce((SELECT max(number) FROM outbox) - (SELECT min(number) FROM outbox) + 1, 0)";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (open, outbox) = connection.prepare_cached(sql)?.query_row([], read)?;
    let sending: i64 = sending::all(connection)?.iter().map(|held| held.users.len() as i64).sum();
    Ok(Depth { queued: (open - sending).max(0), sending, outbox })
}

pub fn published(connection: &Connection, number: i64) -> Result<(), DbError> {
    connection.prepare_cached("DELETE FROM outbox WHERE number <= ?1")?.execute([number])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Outbox, Topic, contract};
    use crate::warmup::sqlite::SqliteStore;
    use futures_util::FutureExt;
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_relay_is_woken_after_the_commit_though_the_caller_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("warmup.db")).unwrap());
        let (added, is_added) = tokio::sync::oneshot::channel();
        let (commit, may_commit) = std::sync::mpsc::channel();
        let writing = store.clone();
        let writing = tokio::spawn(async move {
            let job = move |_: &Connection, context: &mut Context| {
                add(context, contract::record(Topic::Recipients, "a", 1));
                added.send(()).unwrap();
                may_commit.recv().unwrap();
                Ok(())
            };
            writing.write(job).await
        });
        is_added.await.unwrap();
        writing.abort();
        assert!(writing.await.unwrap_err().is_cancelled());
        assert!(store.wait().now_or_never().is_none(), "the relay would find nothing and sleep on");
        commit.send(()).unwrap();
        store.wait().await;
        assert_eq!(store.pending(10).await.unwrap().len(), 1);
    }
}
