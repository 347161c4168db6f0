//! The event log of one process: SQLite in the data folder (`events.db`), one partition a topic.
//!
//! Invariant: one process at a time, held by the lock file `events.lock`. The newest record of a topic is always kept,
//! so that offsets never start again.

use crate::bus::{Consumed, Consumer, EventLog, LogError, POLL_OCTETS_MAX, Position, Record, Topic};
use crate::clock::Clock;
use crate::db::DbError;
use crate::db::sqlite::{Readers, migrate, open_writer};
use crate::db::writer::Writer;
use rusqlite::{Connection, OptionalExtension};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const MIGRATIONS: &[&str] = &["
CREATE TABLE emails (position INTEGER PRIMARY KEY, key TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE recipients (position INTEGER PRIMARY KEY, key TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE facts (position INTEGER PRIMARY KEY, key TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, payload BLOB NOT NULL);
"];

/// Reads that run at a time; consumers are few.
const READERS_MAX: usize = 2;
/// Old records that each append removes of a topic, at most, besides as many as it appends.
const RETENTION_STEP_MIN: usize = 100;

/// The embedded log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data folder's event log belongs to a running process; stop it, or use `kind = \"kafka\"` for two processes")]
    Locked,
    #[error("the event log in the data folder cannot be opened: {0}")]
    Io(#[from] std::io::Error),
    #[error("the event log in the data folder cannot be opened: {0}")]
    Db(#[from] DbError),
}

/// The log in the data folder.
pub struct EmbeddedLog {
    writer: Writer,
    readers: Readers,
    retention: Duration,
    clock: Arc<dyn Clock>,
    appended: watch::Sender<()>,
    /// Held as long as the log is open.
    _lock: File,
}

impl EmbeddedLog {
    /// Opens `events.db` in `folder`. Records older than `retention` go, little by little, as others are appended.
    pub fn open(folder: &Path, retention: Duration, clock: Arc<dyn Clock>) -> Result<EmbeddedLog, OpenError> {
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("events.lock"))?;
        lock.try_lock().map_err(|e| match e {
            std::fs::TryLockError::WouldBlock => OpenError::Locked,
            std::fs::TryLockError::Error(e) => OpenError::Io(e),
        })?;
        let path = folder.join("events.db");
        let mut db = open_writer(&path)?;
        migrate(&mut db, MIGRATIONS)?;
        let writer = Writer::start("events-writer", db)?;
        let readers = Readers::new(&path, READERS_MAX);
        Ok(EmbeddedLog { writer, readers, retention, clock, appended: watch::Sender::new(()), _lock: lock })
    }
}

#[async_trait::async_trait]
impl EventLog for EmbeddedLog {
    async fn publish(&self, records: Vec<Record>) -> Result<(), LogError> {
        let keep_from = self.clock.now().wall_ms - self.retention.as_millis() as i64;
        self.writer.write(move |db| append(db, &records, keep_from)).await.map_err(unavailable)?;
        self.appended.send_replace(());
        Ok(())
    }

    fn trouble(&self) -> Option<String> {
        self.writer.last_error().map(|error| format!("the last write to events.db failed: {error}"))
    }

    async fn consume(&self, topics: &[Topic], positions: &[Position]) -> Result<Box<dyn Consumer>, LogError> {
        let mut next = Vec::with_capacity(topics.len());
        for &topic in topics {
            let wanted = positions.iter().find(|p| p.topic == topic && p.partition == 0).map(|p| p.next_offset);
            let (oldest, newest) = self.readers.read(move |db| Ok(bounds(db, topic)?)).await.map_err(unavailable)?;
            match wanted {
                Some(wanted) if wanted < oldest || wanted > newest + 1 => return Err(gone(topic, wanted, oldest)),
                _ => next.push((topic, wanted.unwrap_or(oldest))),
            }
        }
        Ok(Box::new(EmbeddedConsumer { readers: self.readers.clone(), appended: self.appended.subscribe(), next }))
    }
}

struct EmbeddedConsumer {
    readers: Readers,
    appended: watch::Receiver<()>,
    next: Vec<(Topic, i64)>,
}

#[async_trait::async_trait]
impl Consumer for EmbeddedConsumer {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Vec<Consumed>, LogError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            self.appended.mark_unchanged();
            let mut found = Vec::new();
            for (topic, next) in &mut self.next {
                let (topic, from, rest) = (*topic, *next, max - found.len());
                let read = self.readers.read(move |db| Ok((bounds(db, topic)?.0, page(db, topic, from, rest)?)));
                let (oldest, records) = read.await.map_err(unavailable)?;
                if from < oldest {
                    return Err(gone(topic, from, oldest));
                }
                *next = records.last().map_or(from, |r| r.offset + 1);
                found.extend(records);
            }
            // Without an append there is nothing new; after the log is closed nothing comes any more.
            if !found.is_empty() || !matches!(tokio::time::timeout_at(deadline, self.appended.changed()).await, Ok(Ok(()))) {
                if found.is_empty() {
                    tokio::time::sleep_until(deadline).await;
                }
                return Ok(found);
            }
        }
    }
}

fn append(db: &Connection, records: &[Record], keep_from: i64) -> Result<(), DbError> {
    for topic in [Topic::Emails, Topic::Recipients, Topic::Facts] {
        let of_topic = || records.iter().filter(|r| r.topic == topic);
        if of_topic().next().is_none() {
            continue;
        }
        let (oldest, newest) = bounds(db, topic)?;
        let sql = format!("INSERT INTO {} (position, key, id, at, payload) VALUES (?1, ?2, ?3, ?4, ?5)", table(topic));
        let mut insert = db.prepare_cached(&sql)?;
        for (position, r) in (newest + 1..).zip(of_topic()) {
            insert.execute((position, &r.key, &r.id, r.at, &r.payload))?;
        }
        retain(db, topic, oldest, RETENTION_STEP_MIN + 2 * records.len(), keep_from)?;
    }
    Ok(())
}

/// Removes up to `step` records from the old end while they are older than `keep_from`, never the newest.
fn retain(db: &Connection, topic: Topic, oldest: i64, step: usize, keep_from: i64) -> Result<(), DbError> {
    let mut ages = db.prepare_cached(&format!("SELECT position, at FROM {} ORDER BY position LIMIT ?1", table(topic)))?;
    let mut rows = ages.query([step as i64 + 1])?;
    let mut keep = oldest;
    while let Some(row) = rows.next()? {
        keep = row.get(0)?;
        if row.get::<_, i64>(1)? >= keep_from {
            break;
        }
    }
    if keep > oldest {
        db.prepare_cached(&format!("DELETE FROM {} WHERE position < ?1", table(topic)))?.execute([keep])?;
    }
    Ok(())
}

fn page(db: &Connection, topic: Topic, from: i64, max: usize) -> rusqlite::Result<Vec<Consumed>> {
    let sql = format!("SELECT position, payload FROM {} WHERE position >= ?1 ORDER BY position LIMIT ?2", table(topic));
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query((from, max as i64))?;
    let (mut found, mut octets) = (Vec::new(), 0);
    while octets < POLL_OCTETS_MAX {
        let Some(row) = rows.next()? else { break };
        let record = Consumed { topic, partition: 0, offset: row.get(0)?, payload: row.get(1)? };
        octets += record.payload.len();
        found.push(record);
    }
    Ok(found)
}

/// The oldest and the newest position; 1 and 0 where there is none.
fn bounds(db: &Connection, topic: Topic) -> rusqlite::Result<(i64, i64)> {
    let end = |order: &str| -> rusqlite::Result<Option<i64>> {
        let sql = format!("SELECT position FROM {} ORDER BY position {order} LIMIT 1", table(topic));
        db.prepare_cached(&sql)?.query_row([], |r| r.get(0)).optional()
    };
    Ok((end("ASC")?.unwrap_or(1), end("DESC")?.unwrap_or(0)))
}

fn table(topic: Topic) -> &'static str {
    match topic {
        Topic::Emails => "emails",
        Topic::Recipients => "recipients",
        Topic::Facts => "facts",
    }
}

fn unavailable(e: DbError) -> LogError {
    LogError::Unavailable(e.to_string())
}

fn gone(topic: Topic, wanted: i64, oldest: i64) -> LogError {
    LogError::Gone { topic: table(topic).to_owned(), partition: 0, wanted, oldest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract;
    use crate::clock::ManualClock;

    fn open(folder: &Path, clock: Arc<ManualClock>) -> EmbeddedLog {
        EmbeddedLog::open(folder, Duration::from_secs(100), clock).unwrap()
    }

    #[tokio::test]
    async fn the_embedded_log_passes_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        for (number, case) in contract::CASES.iter().enumerate() {
            let own = folder.path().join(number.to_string());
            std::fs::create_dir(&own).unwrap();
            case(Arc::new(open(&own, Arc::new(ManualClock::at(0))))).await;
        }
    }

    #[tokio::test]
    async fn a_second_process_is_refused_and_the_records_outlive_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(0));
        let log = open(folder.path(), clock.clone());
        log.publish(vec![contract::record(Topic::Facts, "a", 1)]).await.unwrap();
        let second = EmbeddedLog::open(folder.path(), Duration::ZERO, clock.clone());
        assert!(matches!(second, Err(OpenError::Locked)));
        drop(log);
        let mut consumer = open(folder.path(), clock).consume(&[Topic::Facts], &[]).await.unwrap();
        assert_eq!(consumer.poll(10, Duration::from_secs(1)).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn old_records_go_and_who_wanted_them_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(0));
        let log = open(folder.path(), clock.clone());
        log.publish((0..10).map(|n| contract::record(Topic::Facts, "a", n)).collect()).await.unwrap();
        let mut slow = log.consume(&[Topic::Facts], &[]).await.unwrap();
        clock.advance(Duration::from_secs(1000));
        log.publish(vec![contract::record(Topic::Facts, "a", 1_000_000)]).await.unwrap();
        assert!(matches!(slow.poll(10, Duration::ZERO).await, Err(LogError::Gone { wanted: 1, oldest: 11, .. })));
        for next_offset in [3, 13] {
            let position = Position { topic: Topic::Facts, partition: 0, next_offset };
            assert!(matches!(log.consume(&[Topic::Facts], &[position]).await, Err(LogError::Gone { .. })), "{next_offset}");
        }
        clock.advance(Duration::from_secs(1_000_000));
        log.publish(vec![contract::record(Topic::Facts, "a", 0)]).await.unwrap();
        let mut consumer = log.consume(&[Topic::Facts], &[]).await.unwrap();
        let kept: Vec<i64> = consumer.poll(10, Duration::ZERO).await.unwrap().iter().map(|r| r.offset).collect();
        assert_eq!(kept, [12], "the newest record stays, so that offsets go on");
    }
}
