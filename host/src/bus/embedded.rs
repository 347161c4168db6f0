//! The event log of one process: SQLite in the data folder (`events.db`), one partition a topic.
//!
//! Invariant: one process at a time, held by the lock file `events.lock`. The newest row of a topic is always kept, so
//! that offsets never start again. Where a consumer has read further than the log goes, because another file or an older one took its place, the
//! positions in between are another log's for good: the consumer is told so, also when this log has grown past them.

use crate::bus::batch::{self, BatchError};
use crate::bus::sealed::{self, Sealed};
use crate::bus::{Consumed, Consumer, EventLog, LogError, POLL_OCTETS_MAX, Position, Record, Topic};
use crate::clock::Clock;
use crate::db::DbError;
use crate::db::sqlite::{Durability, Readers, migrate, open_writer};
use crate::db::writer::{Writable, Writer};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A row is a batch: the positions of its first and last record, the instant of the newest.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE emails (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, at INTEGER NOT NULL, batch BLOB NOT NULL);
CREATE TABLE recipients (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, at INTEGER NOT NULL, batch BLOB NOT NULL);
CREATE TABLE facts (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, at INTEGER NOT NULL, batch BLOB NOT NULL);
",
    "
-- Positions behind `last` up to `until` were another log's: a consumer had read them before this one had them.
CREATE TABLE lost (topic INTEGER PRIMARY KEY, last INTEGER NOT NULL, until INTEGER NOT NULL);
",
];

/// Reads that run at a time; consumers are few.
const READERS_MAX: usize = 2;
/// Old rows that each append removes of a topic, at most, for the one that it adds.
const RETENTION_STEP: i64 = 4;

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
        let mut db = open_writer(&path, Durability::PowerLoss)?;
        migrate(&mut db, MIGRATIONS)?;
        let writer = Writer::start("events-writer", db, ())?;
        let readers = Readers::new(&path, READERS_MAX);
        Ok(EmbeddedLog { writer, readers, retention, clock, appended: watch::Sender::new(()), _lock: lock })
    }
}

#[async_trait::async_trait]
impl EventLog for EmbeddedLog {
    async fn publish(&self, batches: Vec<Sealed>) -> Result<(), LogError> {
        let keep_from = self.clock.now().wall_ms - self.retention.as_millis() as i64;
        self.writer.write(move |db, ()| append(db, &batches, keep_from)).await.map_err(unavailable)?;
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
            let stands = self.readers.read(move |db| Ok((bounds(db, topic)?, lost(db, topic)?)));
            let ((oldest, newest), lost) = stands.await.map_err(unavailable)?;
            match wanted {
                Some(wanted) if wanted > newest + 1 => {
                    self.writer.write(move |db, ()| note_lost(db, topic, (newest, wanted))).await.map_err(unavailable)?;
                    return Err(gone(topic, wanted, oldest));
                }
                Some(wanted) if wanted < oldest || lost.is_some_and(|(last, until)| (last + 2..=until).contains(&wanted)) => {
                    return Err(gone(topic, wanted, oldest));
                }
                // It begins anew, and so knows no position of another log.
                None if lost.is_some() => self.writer.write(move |db, ()| forget_lost(db, topic)).await.map_err(unavailable)?,
                _ => {}
            }
            next.push((topic, wanted.unwrap_or(oldest)));
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
            // Whoever was first is last the next time, so that a busy topic holds up no other.
            self.next.rotate_left(1);
            let mut next = self.next.clone();
            let read = self.readers.read(move |db| pages(db, &mut next, max).map(|found| (found, next)));
            let (found, next) = read.await.map_err(unavailable)?;
            self.next = next;
            let found = found?;
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

fn append(db: &Connection, batches: &[Sealed], keep_from: i64) -> Result<(), DbError> {
    for batch in batches {
        let (_, last) = bounds(db, batch.topic)?;
        let insert = format!("INSERT INTO {} (first, last, at, batch) VALUES (?1, ?2, ?3, ?4)", table(batch.topic));
        db.prepare_cached(&insert)?.execute((last + 1, last + batch.count as i64, batch.newest, batch.packed()))?;
        retain(db, batch.topic, keep_from)?;
    }
    Ok(())
}

/// Removes a few rows from the old end while they are older than `keep_from`, never the newest.
fn retain(db: &Connection, topic: Topic, keep_from: i64) -> Result<(), DbError> {
    let mut ages = db.prepare_cached(&format!("SELECT first, at FROM {} ORDER BY first LIMIT ?1", table(topic)))?;
    let mut rows = ages.query([RETENTION_STEP + 1])?;
    let (mut oldest, mut keep) = (None, 0);
    while let Some(row) = rows.next()? {
        keep = row.get(0)?;
        oldest = oldest.or(Some(keep));
        if row.get::<_, i64>(1)? >= keep_from {
            break;
        }
    }
    if oldest.is_some_and(|oldest| keep > oldest) {
        db.prepare_cached(&format!("DELETE FROM {} WHERE first < ?1", table(topic)))?.execute([keep])?;
    }
    Ok(())
}

/// Reads on in every topic and moves `next` on.
fn pages(db: &Connection, next: &mut [(Topic, i64)], max: usize) -> Result<Result<Vec<Consumed>, LogError>, DbError> {
    let mut found = Vec::new();
    for (topic, next) in next {
        let (oldest, _) = bounds(db, *topic)?;
        if *next < oldest {
            return Ok(Err(gone(*topic, *next, oldest)));
        }
        let before = found.len();
        page(db, *topic, *next, max, &mut found)?;
        *next = found[before..].last().map_or(*next, |r| r.offset + 1);
    }
    Ok(Ok(found))
}

/// Adds the records from position `from` until there are `max`.
fn page(db: &Connection, topic: Topic, from: i64, max: usize, found: &mut Vec<Consumed>) -> Result<(), DbError> {
    let table = table(topic);
    let sql =
        format!("SELECT first, last, batch FROM {table} WHERE first >= (SELECT max(first) FROM {table} WHERE first <= ?1) ORDER BY first");
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([from])?;
    let mut octets = 0;
    while octets < POLL_OCTETS_MAX && found.len() < max {
        let Some(row) = rows.next()? else { break };
        let damaged = |e: BatchError| DbError::Damaged(e.to_string());
        let stored = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let blob = Bytes::from(sealed::unpack(stored).map_err(damaged)?.into_owned());
        let records: Vec<Record<'_>> = batch::records(&blob).and_then(Iterator::collect).map_err(damaged)?;
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        if first + records.len() as i64 != last + 1 {
            return Err(damaged(BatchError));
        }
        for (offset, record) in (first..).zip(records).filter(|(offset, _)| *offset >= from) {
            if found.len() == max || octets >= POLL_OCTETS_MAX {
                break;
            }
            let payload = blob.slice_ref(record.payload);
            octets += payload.len();
            found.push(Consumed { topic, partition: 0, offset, payload });
        }
    }
    Ok(())
}

/// The oldest and the newest position; 1 and 0 where there is none.
fn bounds(db: &Connection, topic: Topic) -> rusqlite::Result<(i64, i64)> {
    let end = |column: &str, order: &str| -> rusqlite::Result<Option<i64>> {
        let sql = format!("SELECT {column} FROM {} ORDER BY first {order} LIMIT 1", table(topic));
        db.prepare_cached(&sql)?.query_row([], |r| r.get(0)).optional()
    };
    Ok((end("first", "ASC")?.unwrap_or(1), end("last", "DESC")?.unwrap_or(0)))
}

/// The last position that this log had when a consumer had read more of another one, and what that wanted next.
fn lost(db: &Connection, topic: Topic) -> rusqlite::Result<Option<(i64, i64)>> {
    let sql = "SELECT last, until FROM lost WHERE topic = ?1";
    db.prepare_cached(sql)?.query_row([topic as i64], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn note_lost(db: &Connection, topic: Topic, (last, until): (i64, i64)) -> Result<(), DbError> {
    let sql = "INSERT INTO lost (topic, last, until) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET last = min(last, excluded.last), until = max(until, excluded.until)";
    db.prepare_cached(sql)?.execute((topic as i64, last, until))?;
    Ok(())
}

fn forget_lost(db: &Connection, topic: Topic) -> Result<(), DbError> {
    db.prepare_cached("DELETE FROM lost WHERE topic = ?1")?.execute([topic as i64])?;
    Ok(())
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
        log.publish(contract::record(Topic::Facts, "a", 1).seal()).await.unwrap();
        let second = EmbeddedLog::open(folder.path(), Duration::ZERO, clock.clone());
        assert!(matches!(second, Err(OpenError::Locked)));
        drop(log);
        let mut consumer = open(folder.path(), clock).consume(&[Topic::Facts], &[]).await.unwrap();
        assert_eq!(consumer.poll(10, Duration::from_secs(1)).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_busy_topic_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Arc::new(ManualClock::at(0)));
        let busy = (0..30).map(|n| contract::record(Topic::Recipients, "a", n));
        log.publish(contract::sealed(busy.chain([contract::record(Topic::Facts, "a", 1)]))).await.unwrap();
        let mut consumer = log.consume(&[Topic::Recipients, Topic::Facts], &[]).await.unwrap();
        let mut first = consumer.poll(10, Duration::ZERO).await.unwrap();
        first.extend(consumer.poll(10, Duration::ZERO).await.unwrap());
        assert!(first.iter().any(|r| r.topic == Topic::Facts), "{first:?}");
    }

    #[tokio::test]
    async fn a_consumer_goes_on_within_what_one_publish_appended() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Arc::new(ManualClock::at(0)));
        for from in [0, 5] {
            log.publish(contract::sealed((from..from + 5).map(|n| contract::record(Topic::Facts, "a", n)))).await.unwrap();
        }
        let position = Position { topic: Topic::Facts, partition: 0, next_offset: 4 };
        let mut consumer = log.consume(&[Topic::Facts], &[position]).await.unwrap();
        let mut offsets = Vec::new();
        for _ in 0..4 {
            offsets.extend(consumer.poll(2, Duration::ZERO).await.unwrap().iter().map(|r| r.offset));
        }
        assert_eq!(offsets, [4, 5, 6, 7, 8, 9, 10]);
    }

    #[tokio::test]
    async fn a_batch_that_has_another_number_of_records_than_it_was_appended_with_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Arc::new(ManualClock::at(0)));
        log.publish(contract::record(Topic::Facts, "a", 1).seal()).await.unwrap();
        log.publish(contract::record(Topic::Facts, "a", 2).seal()).await.unwrap();
        let file = Connection::open(folder.path().join("events.db")).unwrap();
        file.execute("UPDATE facts SET batch = ?1 WHERE first = 1", [[1_u8].as_slice()]).unwrap();
        let mut consumer = log.consume(&[Topic::Facts], &[]).await.unwrap();
        let error = consumer.poll(10, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[tokio::test]
    async fn who_has_read_more_than_the_log_has_is_told_so_also_when_it_has_grown_past_that() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Arc::new(ManualClock::at(0)));
        let publish =
            async |from, to| log.publish(contract::sealed((from..to).map(|n| contract::record(Topic::Facts, "a", n)))).await.unwrap();
        let at = |next_offset| [Position { topic: Topic::Facts, partition: 0, next_offset }];
        // An older log took the place of one of five records.
        publish(0, 2).await;
        for _ in 0..3 {
            let refused = log.consume(&[Topic::Facts], &at(6)).await.err();
            assert!(matches!(refused, Some(LogError::Gone { wanted: 6, .. })), "{refused:?}");
            publish(2, 5).await;
        }
        assert!(log.consume(&[Topic::Facts], &at(3)).await.is_ok(), "it had read what both logs have");
        let mut anew = log.consume(&[Topic::Facts], &[]).await.unwrap();
        let offsets: Vec<i64> = anew.poll(100, Duration::ZERO).await.unwrap().iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (1..=11).collect::<Vec<_>>());
        assert!(log.consume(&[Topic::Facts], &at(6)).await.is_ok(), "who began anew goes on anywhere");
    }

    #[tokio::test]
    async fn old_records_go_and_who_wanted_them_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(0));
        let log = open(folder.path(), clock.clone());
        log.publish(contract::sealed((0..10).map(|n| contract::record(Topic::Facts, "a", n)))).await.unwrap();
        let mut slow = log.consume(&[Topic::Facts], &[]).await.unwrap();
        clock.advance(Duration::from_secs(1000));
        log.publish(contract::record(Topic::Facts, "a", 1_000_000).seal()).await.unwrap();
        assert!(matches!(slow.poll(10, Duration::ZERO).await, Err(LogError::Gone { wanted: 1, oldest: 11, .. })));
        for next_offset in [3, 13] {
            let position = Position { topic: Topic::Facts, partition: 0, next_offset };
            assert!(matches!(log.consume(&[Topic::Facts], &[position]).await, Err(LogError::Gone { .. })), "{next_offset}");
        }
        clock.advance(Duration::from_secs(1_000_000));
        log.publish(contract::record(Topic::Facts, "a", 0).seal()).await.unwrap();
        let mut consumer = log.consume(&[Topic::Facts], &[]).await.unwrap();
        let kept: Vec<i64> = consumer.poll(10, Duration::ZERO).await.unwrap().iter().map(|r| r.offset).collect();
        assert_eq!(kept, [12], "the newest record stays, so that offsets go on");
    }
}
