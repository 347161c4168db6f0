//! The outbox: events that wait for the relay.

use crate::bus::{Outgoing, Record, Topic, wire};
use crate::db::DbError;
use crate::warmup::metrics::Depth;
use crate::warmup::sqlite::rows::Context;
use rusqlite::{Connection, params};

const TOPICS: [Topic; 3] = [Topic::Emails, Topic::Recipients, Topic::Facts];

/// Adds a record; the relay is woken once the job that runs is committed.
pub fn add(connection: &Connection, context: &mut Context, record: Record) -> Result<(), DbError> {
    connection
        .prepare_cached("INSERT INTO outbox (topic, key, id, kind, org, at, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![record.topic as i64, record.key, record.id, record.kind, record.org, record.at, record.payload])?;
    context.outgoing();
    if let Some(state) = wire::state_of(&record) {
        context.changes.add(&record.org, state);
    }
    Ok(())
}

pub fn pending(connection: &Connection, max: usize) -> Result<Vec<Outgoing>, DbError> {
    let mut statement =
        connection.prepare_cached("SELECT number, topic, key, id, kind, org, at, payload FROM outbox ORDER BY number LIMIT ?1")?;
    let found = statement
        .query_map([max as i64], |row| {
            let topic = row.get::<_, i64>(1)? as usize;
            Ok(Outgoing {
                number: row.get(0)?,
                record: Record {
                    topic: TOPICS.get(topic).copied().unwrap_or(Topic::Recipients),
                    key: row.get(2)?,
                    id: row.get(3)?,
                    kind: row.get::<_, String>(4)?.into(),
                    org: row.get(5)?,
                    at: row.get(6)?,
                    payload: row.get(7)?,
                },
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

/// How much is under way. Reads one short row an email, and what is in `sending`.
pub fn depth(connection: &Connection) -> Result<Depth, DbError> {
    // Numbers are given one by one and go from the lowest, so the ends tell how many there are.
    let sql = "SELECT (SELECT count(*) FROM sending),
        (SELECT coalesce(sum(recipients + backfilled - sent - failed - suppressed - unknown), 0) FROM progress),
        coalesce((SELECT max(number) FROM outbox) - (SELECT min(number) FROM outbox) + 1, 0)";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (sending, open, outbox) = connection.prepare_cached(sql)?.query_row([], read)?;
    Ok(Depth { queued: (open - sending).max(0), sending, outbox })
}

pub fn published(connection: &Connection, number: i64) -> Result<(), DbError> {
    connection.prepare_cached("DELETE FROM outbox WHERE number <= ?1")?.execute([number])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Outbox, contract};
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
            let job = move |connection: &Connection, context: &mut Context| {
                add(connection, context, contract::record(Topic::Recipients, "a", 1))?;
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
