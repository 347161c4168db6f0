//! The ledger in SQLite (`health.db`).
//!
//! Invariant: one writer; readers see whole commits.

mod apply;
mod blocks;
mod chunks;
mod names;
mod places;
mod read;

use crate::bus::{Position, Topic};
use crate::db::DbError;
use crate::db::sqlite::{Durability, Readers, migrate, open_writer};
use crate::db::writer::{Writable, Writer};
use crate::health::store::{DomainFilter, EmailCounts, FoundDelivery, Ledger, LoopState, Result, WatchedDelivery};
use crate::model::event::Event;
use crate::model::name::OrgName;
use postwarm_plugin_api::Report;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/health/0001_ledger.sql"),
    include_str!("../../migrations/health/0002_blocks.sql"),
    include_str!("../../migrations/health/0003_places.sql"),
];
/// Reads that run at a time.
const READERS_MAX: usize = 3;

/// The ledger in one file.
pub struct SqliteLedger {
    writer: Writer<names::Names>,
    readers: Readers,
}

impl SqliteLedger {
    /// Opens the file and makes it where it is missing. One of a later schema is refused.
    pub fn open(path: &Path) -> Result<SqliteLedger> {
        // The log has what a power loss takes, and the positions go back with it.
        let mut db = open_writer(path, Durability::Crash)?;
        migrate(&mut db, MIGRATIONS).map_err(remedy)?;
        let writer = Writer::start("health-writer", db, names::Names::default()).map_err(|e| DbError::Unavailable(e.to_string()))?;
        Ok(SqliteLedger { writer, readers: Readers::new(path, READERS_MAX) })
    }

    /// What writes to it, for `/readyz`.
    pub fn writer(&self) -> Arc<dyn Writable> {
        Arc::new(self.writer.clone())
    }
}

/// What else helps with a ledger of another program than running that one.
fn remedy(error: DbError) -> DbError {
    match error {
        DbError::Newer { found, known } => DbError::Unavailable(format!(
            "health.db has schema version {found}, and this program knows version {known}: run the program that made it, or \
             delete health.db and start again; it holds nothing of its own and is replayed from the event log"
        )),
        other => other,
    }
}

#[async_trait::async_trait]
impl Ledger for SqliteLedger {
    async fn positions(&self) -> Result<Vec<Position>> {
        self.readers.read(|db| Ok(read::positions(db)?)).await
    }

    async fn apply(&self, events: Vec<Event>, positions: Vec<Position>) -> Result<()> {
        let work = move |db: &Connection, names: &mut names::Names| {
            let mut batch = apply::Batch::new(db, names);
            events.iter().try_for_each(|event| batch.apply(event))?;
            batch.finish(&positions)
        };
        self.writer.write(work).await
    }

    async fn expire(&self, sent_before: i64, max: usize) -> Result<usize> {
        if self.readers.read(move |db| Ok(read::blocks_before(db, sent_before, 1)?)).await?.is_empty() {
            return Ok(0);
        }
        let work = move |db: &Connection, names: &mut names::Names| {
            let mut batch = apply::Batch::new(db, names);
            let mut ended = 0;
            // Each has at least one.
            for (block, org) in read::blocks_before(db, sent_before, max)? {
                if ended == max {
                    break;
                }
                ended += batch.expire(block, org, sent_before, max - ended)?;
            }
            batch.finish(&[])?;
            Ok(ended)
        };
        self.writer.write(work).await
    }

    async fn loop_state(&self, org: &OrgName, name: &str) -> Result<LoopState> {
        let (org, name) = (org.clone(), name.to_owned());
        self.readers.read(move |db| Ok(read::loop_state(db, &org, &name)?)).await
    }

    async fn news(&self, org: &OrgName, name: &str, chosen: DomainFilter, reports: Vec<Report>) -> Result<Vec<Report>> {
        let (org, name) = (org.clone(), name.to_owned());
        self.readers.read(move |db| Ok(read::news(db, (&org, &name), &*chosen, reports)?)).await
    }

    async fn watched(&self, org: &OrgName, chosen: DomainFilter, after: u64, max: usize) -> Result<Vec<WatchedDelivery>> {
        let org = org.clone();
        self.readers.read(move |db| Ok(read::watched(db, &org, &*chosen, after, max)?)).await
    }

    async fn email(&self, org: &OrgName, email: i64) -> Result<Option<EmailCounts>> {
        let org = org.clone();
        let found = self.readers.read(move |db| read::emails(db, &org, email - 1, 1)).await?;
        Ok(found.into_iter().find(|e| e.email == email))
    }

    async fn emails(&self, org: &OrgName, after: i64, limit: usize) -> Result<Vec<EmailCounts>> {
        let org = org.clone();
        self.readers.read(move |db| read::emails(db, &org, after, limit)).await
    }

    async fn delivery(&self, org: &OrgName, email: i64, user: i64, token: i64) -> Result<Option<FoundDelivery>> {
        let org = org.clone();
        self.readers.read(move |db| Ok(read::delivery(db, &org, (email, user), token)?)).await
    }

    async fn domains(&self, org: &OrgName, after: &str, limit: usize) -> Result<Vec<(String, String)>> {
        let (org, after) = (org.clone(), after.to_owned());
        self.readers.read(move |db| read::domains(db, &org, &after, limit)).await
    }
}

fn topic_number(topic: Topic) -> i64 {
    match topic {
        Topic::Emails => 0,
        Topic::Recipients => 1,
        Topic::Facts => 2,
    }
}

#[cfg(test)]
mod tests;
