//! The outbox: events that wait for the relay, a row for what one job told of a topic.

use crate::bus::sealed::Sealed;
use crate::bus::{Outgoing, wire};
use crate::db::DbError;
use crate::model::event::Event;
use crate::warmup::metrics::Depth;
use crate::warmup::sqlite::rows::Context;
use crate::warmup::sqlite::sending;
use rusqlite::Connection;

/// Adds an event to those of the job that runs.
pub fn add(context: &mut Context, event: &Event) {
    if let Event::Recipient(changed) = event {
        context.changes.add(changed.org.as_str(), changed.state);
    }
    wire::push(context.outgoing.of(wire::topic_of(event)), event);
}

/// Writes the records of the job that has run, a row a topic; answers whether there were any.
pub fn write(connection: &Connection, context: &mut Context) -> Result<bool, DbError> {
    let batches = context.outgoing.seal();
    context.outgoing.clear();
    for batch in &batches {
        connection.prepare_cached("INSERT INTO outbox (records) VALUES (?1)")?.execute([batch.stored()])?;
    }
    Ok(!batches.is_empty())
}

pub fn pending(connection: &Connection, max: usize) -> Result<Vec<Outgoing>, DbError> {
    let mut statement = connection.prepare_cached("SELECT number, records FROM outbox ORDER BY number")?;
    let mut rows = statement.query([])?;
    let (mut found, mut records) = (Vec::new(), 0);
    while records < max {
        let Some(row) = rows.next()? else { break };
        let batches = Sealed::read(row.get(1)?).map_err(|e| DbError::Damaged(e.to_string()))?;
        records += batches.iter().map(|batch| batch.count).sum::<usize>();
        found.push(Outgoing { number: row.get(0)?, batches });
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
                context.outgoing.of(Topic::Recipients).append(&contract::record(Topic::Recipients, "a", 1));
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
